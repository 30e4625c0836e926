"""How fast keys run on SQLite, Redis and PostgreSQL, beside a transaction without a store.

Run with ``PYTHONPATH=tests``: it starts servers of its own, each on this machine's disk, Redis with
``appendfsync always``. One thread; the stores take turns in short rounds, so that other work on
the machine hits all of them. Prints operations a second, and the ratio to the bare transaction.
"""

from __future__ import annotations

import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
from support.postgres_fixtures import server_in
from support.redis_fixtures import RedisServer

from iii_resilience.handling import idempotent
from iii_resilience.stores import PostgresStore, RedisStore, SqliteStore, Store

SECONDS = 0.25  # a round
BARE = "insert and commit"


def claim_and_finish(store: Store) -> Callable[[], object]:
    """A key whose handler's effects go elsewhere."""

    def run() -> None:
        slot = uuid.uuid4().hex
        token = store.claim(slot, fingerprint="f", nonce=slot, lease=30.0, keep=60.0).token
        store.finish(slot, token, "1", keep=60.0)

    return run


def in_transaction(store: Store, write: Callable[[Any], object]) -> Callable[[], object]:
    """A handler that writes one row in the store's transaction."""

    @idempotent(store, key="id", function_id="f", ttl=60.0)
    def handler(_: Any, transaction: Any) -> int:
        write(transaction)
        return 1

    call: Any = handler
    return lambda: call({"id": uuid.uuid4().hex})


def rate(run: Callable[[], object]) -> float:
    """Operations a second, in one round."""
    began, done = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < SECONDS:
        run()
        done += 1
    return done / took


def main(rounds: int) -> None:
    """Print the table."""
    folder = Path(tempfile.mkdtemp(prefix="stores-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for name in ("postgres", "redis"):
            (folder / name).mkdir()
        folder.chmod(0o755)
        redis = RedisServer(folder / "redis")
        redis.start()
        stack.callback(redis.stop)
        postgres = stack.enter_context(server_in(folder / "postgres"))
        postgres.execute("CREATE TABLE effects (n int)")
        file = folder / "store.db"
        lite = sqlite3.connect(file, isolation_level=None)
        lite.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE effects (n)"
        )
        bare = psycopg.connect(postgres.url)
        insert = "INSERT INTO effects VALUES (1)"

        def commit() -> None:
            bare.execute(insert)
            bare.commit()

        stores: dict[str, Store] = {
            "SQLite": SqliteStore(file),
            "Redis": RedisStore(redis.url),
            "PostgreSQL": PostgresStore(postgres.url),
        }
        writes: dict[str, Callable[[Any], object]] = {
            "SQLite": lambda transaction: transaction.execute(insert),
            "Redis": lambda transaction: transaction.incr("n"),
            "PostgreSQL": lambda transaction: transaction.execute(insert),
        }
        runs: dict[tuple[str, str], Callable[[], object]] = {}
        for name, store in stores.items():
            stack.callback(store.close)
            runs[name, "claim + finish"] = claim_and_finish(store)
            runs[name, "handler with transaction"] = in_transaction(store, writes[name])
        runs["SQLite, no store", BARE] = lambda: lite.execute(insert)
        runs["PostgreSQL, no store", BARE] = commit
        for run in runs.values():
            run()
        found: dict[tuple[str, str], list[float]] = {what: [] for what in runs}
        for _ in range(rounds):
            for kind, run in runs.items():
                found[kind].append(rate(run))
        lite.close()
        bare.close()
    print("| store | what | a second | of PostgreSQL's own insert and commit |")
    print("| --- | --- | --- | --- |")
    own = found["PostgreSQL, no store", BARE]
    for (name, what), rates in found.items():
        ratio = statistics.median(a / b for a, b in zip(rates, own, strict=True))
        print(f"| {name} | {what} | {statistics.median(rates):.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
