"""A worker that relays a store, as a process that is killed: ``URL STORE [stuck]``.

It says on stdout what it does: ``standby``, ``active``, and ``receipt`` for each receipt. With
``stuck`` it goes no further after the first one: the row is never deleted.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from iii import InitOptions, register_worker

from iii_resilience import resilient
from iii_resilience.stores import PostgresStore, SqliteStore


def main(url: str, where: str, *more: str) -> None:
    store: Any = PostgresStore(where) if "://" in where else SqliteStore(where)
    deletes = store.handed_over

    def handed_over(row: int) -> None:
        print("receipt", flush=True)
        if more:
            time.sleep(3600)
        deletes(row)

    store.handed_over = handed_over
    worker: Any = resilient(register_worker(url, InitOptions(otel={"enabled": False})), relay=store)
    print("standby", flush=True)
    while not worker.health().relay.active:
        time.sleep(0.02)
    print("active", flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
