"""One of several processes that are given the same key, or many; what it does goes to a table.

Run by the tests: ``postgres_runner.py DSN same``, ``… many SECONDS``, or ``… hold STATEMENT``.
"""

from __future__ import annotations

import sys
import time
import uuid
from typing import Any

from iii_resilience.handling import TransientError, idempotent
from iii_resilience.stores import PostgresStore


def same(dsn: str) -> None:
    """Calls a handler with the one key, until there is an answer."""
    store = PostgresStore(dsn)

    @idempotent(store, key="id", function_id="f", wait=60.0)
    def handler(data: Any, transaction: Any) -> int:
        transaction.execute("INSERT INTO effects VALUES ('one')")
        time.sleep(0.3)
        return 1

    call: Any = handler
    while True:
        try:
            assert call({"id": 1}) == 1
        except TransientError:
            continue
        return


def many(dsn: str, seconds: float, keep: float) -> None:
    """Keys that are kept for so many seconds, one after the other."""
    store = PostgresStore(dsn)
    until, done = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        slot = uuid.uuid4().hex
        token = store.claim(slot, fingerprint="f", nonce="n", lease=5.0, keep=keep).token
        assert store.finish(slot, token, "1", keep=keep)
        done += 1
    sys.stdout.write(f"{done}\n")


def hold(dsn: str, statement: str) -> None:
    """Run a statement in the transaction of the key ``s``, and then wait to be killed."""
    store = PostgresStore(dsn)
    token = store.claim("s", fingerprint="f", nonce="n", lease=3600.0, keep=3600.0).token
    handle = store.begin("s", token).handle
    handle.execute("INSERT INTO effects VALUES ('lost')")
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    handle.execute(statement)
    time.sleep(3600)


if __name__ == "__main__":
    if sys.argv[2] == "same":
        same(sys.argv[1])
    elif sys.argv[2] == "hold":
        hold(sys.argv[1], sys.argv[3])
    else:
        many(sys.argv[1], float(sys.argv[3]), float(sys.argv[4]))
