"""A claim's token is above every earlier one of its key, whatever the clock says."""

from __future__ import annotations

import time

import psycopg
from support.postgres_fixtures import needs_postgres
from support.redis_fixtures import needs_redis

from iii_resilience.stores import PostgresStore, RedisStore, State
from iii_resilience.stores.transitions import claim

AHEAD = 9_000_000_000_000_000  # of a clock in the year 2255


def test_python_rules_go_on_from_row() -> None:
    first = claim("f", "n", 1.0, 10.0)(None, 1000.0)
    assert first.answer.token == 1_000_000_000
    assert first.row is not None
    row = {**first.row, "token": AHEAD}
    again = claim("f", "other", 1.0, 10.0)(row, 1002.0)
    assert (again.answer.state, again.answer.token) == (State.CLAIMED, AHEAD + 1)


@needs_redis
def test_redis_script_goes_on_from_row(redis_url: str) -> None:
    store = RedisStore(redis_url)
    first = store.claim("k", fingerprint="f", nonce="n", lease=0.05, keep=60.0)
    (key,) = store._client.keys("*")
    store._client.hset(key, "token", AHEAD)
    time.sleep(0.2)  # the lease is over
    again = store.claim("k", fingerprint="f", nonce="other", lease=60.0, keep=60.0)
    assert first.state is again.state is State.CLAIMED
    assert again.token == AHEAD + 1
    store.close()


@needs_postgres
def test_postgres_statement_goes_on_from_row(postgres_url: str) -> None:
    store = PostgresStore(postgres_url)
    first = store.claim("k", fingerprint="f", nonce="n", lease=0.05, keep=60.0)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("UPDATE iii_resilience.keys SET token = %s", (AHEAD,))
    time.sleep(0.2)  # the lease is over
    again = store.claim("k", fingerprint="f", nonce="other", lease=60.0, keep=60.0)
    assert first.state is again.state is State.CLAIMED
    assert again.token == AHEAD + 1
    store.close()
