"""The handler's tests run against the loopback engine, and against every store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine_fixtures import caller, connect, engine, target
from support.postgres_fixtures import needs_postgres
from support.redis_fixtures import needs_redis
from support.telemetry_fixtures import clean_globals, seen

from iii_resilience.stores import MemoryStore, PostgresStore, RedisStore, SqliteStore, Store

__all__ = [
    "caller",
    "clean_globals",
    "connect",
    "engine",
    "seen",
    "target",
]

KINDS = [
    "memory",
    "sqlite",
    pytest.param("redis", marks=needs_redis),
    pytest.param("postgres", marks=needs_postgres),
]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore()
    elif request.param == "sqlite":
        made = SqliteStore(tmp_path / "store.db")
    elif request.param == "postgres":
        made = PostgresStore(request.getfixturevalue("postgres_url"))
    else:
        made = RedisStore(request.getfixturevalue("redis_url"))
    yield made
    made.close()
