"""The handler's tests run against the loopback engine, and against every store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine_fixtures import caller, connect, engine, target
from support.redis_fixtures import needs_redis, redis_server
from support.telemetry_fixtures import clean_globals, seen

from iii_resilience.stores import MemoryStore, RedisStore, SqliteStore, Store

__all__ = ["caller", "clean_globals", "connect", "engine", "redis_server", "seen", "target"]


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=needs_redis)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore()
    elif request.param == "sqlite":
        made = SqliteStore(tmp_path / "store.db")
    else:
        made = RedisStore(request.getfixturevalue("redis_server").url)
    yield made
    made.close()
