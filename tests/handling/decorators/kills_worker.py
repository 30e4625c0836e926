"""The worker of the kill tests: its handlers write effects inside and outside of the transaction.

Run by the tests: ``kills_worker.py URL FOLDER [PREFIX [STORE_URL]]``; its functions are
PREFIX::inside and so on. Without the URL of a Redis or PostgreSQL its store is a file in the
folder. Every line of the log
is one write, so that a kill leaves whole lines.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iii import InitOptions, register_worker
from iii.iii_constants import ReconnectionConfig

from iii_resilience.handling import PermanentError, TransientError, consumer, idempotent
from iii_resilience.stores import PostgresStore, RedisStore, SqliteStore, Store

LEASE = 3.0  # far longer than a busy machine keeps a thread from running


def main(url: str, folder: Path, prefix: str = "jobs", store_url: str = "") -> None:
    store: Store
    if store_url.startswith("redis"):
        store = RedisStore(store_url, timeout=1.0)  # less than a server is stalled for
    elif store_url:
        store = PostgresStore(store_url, connections=20)
    else:
        store = SqliteStore(folder / "store.db", busy_timeout=60.0)
    log = os.open(folder / "log.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(event: str, n: int, run: str = "") -> None:
        line = json.dumps({"event": event, "n": n, "run": run, "pid": os.getpid()})
        os.write(log, line.encode() + b"\n")

    def outside(data: Any) -> int:
        time.sleep(random.random() * 0.01)
        say("effect", data["n"])
        time.sleep(random.random() * 0.01)
        return int(data["n"])

    def inside(data: Any, transaction: Any) -> int:
        if store_url.startswith("redis"):
            transaction.hincrby("effects", data["n"], 1)
        elif store_url:
            transaction.execute("INSERT INTO effects VALUES (%s)", (data["n"],))
        else:
            transaction.execute("INSERT INTO effects VALUES (?)", (data["n"],))
        return int(data["n"])

    def refused(data: Any) -> None:
        raise PermanentError("no", code="REFUSED")

    def busy(data: Any) -> None:
        raise TransientError("busy", code="BUSY")

    worker: Any = register_worker(
        url,
        InitOptions(
            worker_name=f"kills-{os.getpid()}",
            otel={"enabled": False},
            reconnection_config=ReconnectionConfig(initial_delay_ms=50, max_delay_ms=100),
        ),
    )
    for handler in (outside, inside, refused, busy):
        function_id = f"{prefix}::{handler.__name__}"
        once = idempotent(store, key="n", function_id=function_id, lease=LEASE, wait=60.0)(handler)
        decorated = consumer(parking=store, key="n", function_id=function_id)(once)
        worker.register_function(function_id, told(decorated, say))
    sys.stdin.read()  # until the test lets go
    os._exit(0)


def told(handler: Callable[..., Any], say: Callable[..., None]) -> Callable[..., Any]:
    """Says when a delivery begins, and when its outcome is on record."""

    def delivered(data: Any) -> Any:
        run = uuid.uuid4().hex
        say("begin", data["n"], run)
        try:
            return handler(data)
        finally:
            say("end", data["n"], run)

    return delivered


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
