"""Where idempotency keys and parked messages are kept: memory, a SQLite file, or Redis.

Importing it loads no database client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iii_resilience.lazy import lazily

if TYPE_CHECKING:
    from iii_resilience.stores.memory import MemoryStore
    from iii_resilience.stores.model import Claim, Record, State, Store, StoreUnavailableError
    from iii_resilience.stores.redis import RedisStore
    from iii_resilience.stores.sqlite import SqliteStore

__all__ = [
    "Claim",
    "MemoryStore",
    "Record",
    "RedisStore",
    "SqliteStore",
    "State",
    "Store",
    "StoreUnavailableError",
]

lazily(
    __name__,
    {
        "Claim": "model",
        "MemoryStore": "memory",
        "Record": "model",
        "RedisStore": "redis",
        "SqliteStore": "sqlite",
        "State": "model",
        "Store": "model",
        "StoreUnavailableError": "model",
    },
)
