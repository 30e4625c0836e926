"""How fast keys run on SQLite, Redis and PostgreSQL, beside a transaction without a store.

Part of `make bench`; by itself with ``PYTHONPATH=tests``. It starts servers of its own, each on
this machine's disk, Redis with ``appendfsync always``. One thread; the stores take turns in short
rounds, so that other work on the machine hits all of them. Prints operations a second, and the
ratio to the bare transaction.
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
import redis
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
        server_of_redis = RedisServer(folder / "redis")
        server_of_redis.start()
        stack.callback(server_of_redis.stop)
        client: Any = redis.Redis.from_url(server_of_redis.url, decode_responses=True)
        stack.enter_context(client)
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

        def execute(transaction: Any) -> None:
            transaction.execute(insert)

        server = bare.info.server_version
        lite_name = f"SQLite {sqlite3.sqlite_version}"
        redis_name = f"Redis {client.info('server')['redis_version']}"
        bare_name = f"PostgreSQL {server // 10_000}.{server % 10_000}"
        stores: list[tuple[str, Store, Callable[[Any], object]]] = [
            (lite_name, SqliteStore(file), execute),
            (
                redis_name,
                RedisStore(server_of_redis.url),
                lambda transaction: transaction.incr("n"),
            ),
            (bare_name, PostgresStore(postgres.url), execute),
        ]
        runs: dict[tuple[str, str], Callable[[], object]] = {}
        for name, store, write in stores:
            stack.callback(store.close)
            runs[name, "claim + finish"] = claim_and_finish(store)
            runs[name, "handler with transaction"] = in_transaction(store, write)
        runs[f"{lite_name}, no store", BARE] = lambda: lite.execute(insert)
        runs[f"{bare_name}, no store", BARE] = commit
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
    own = found[f"{bare_name}, no store", BARE]
    for (name, what), rates in found.items():
        ratio = statistics.median(a / b for a, b in zip(rates, own, strict=True))
        print(f"| {name} | {what} | {statistics.median(rates):.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
