"""Stores for idempotency keys and parked messages: memory, a SQLite file, Redis, or PostgreSQL.

Importing it loads no database client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iii_resilience.stores.memory import MemoryStore as MemoryStore
    from iii_resilience.stores.postgres import PostgresStore as PostgresStore
    from iii_resilience.stores.protocol import Claim as Claim
    from iii_resilience.stores.protocol import Record as Record
    from iii_resilience.stores.protocol import State as State
    from iii_resilience.stores.protocol import Store as Store
    from iii_resilience.stores.protocol import StoreRefusedError as StoreRefusedError
    from iii_resilience.stores.protocol import StoreUnavailableError as StoreUnavailableError
    from iii_resilience.stores.protocol import TransactionEndedError as TransactionEndedError
    from iii_resilience.stores.redis import RedisStore as RedisStore
    from iii_resilience.stores.sqlite import SqliteStore as SqliteStore
else:
    from iii_resilience.core.lazy_imports import lazy_exports

    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "memory": "MemoryStore",
            "postgres": "PostgresStore",
            "protocol": (
                "Claim Record State Store StoreRefusedError StoreUnavailableError "
                "TransactionEndedError"
            ),
            "redis": "RedisStore",
            "sqlite": "SqliteStore",
        },
    )
