"""A worker process for the scenarios: one function whose effects stand in a SQLite file.

Arguments: the engine's address, the worker's name, the function id, the file, "kept" or "bare".
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from contextlib import closing
from typing import Any

from iii import InitOptions, register_worker
from support.patience import leave_patiently

from iii_resilience import resilient
from iii_resilience.handling import Drained

SCHEMA = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS effects (key TEXT PRIMARY KEY, worker TEXT);
    CREATE TABLE IF NOT EXISTS total (n INTEGER);
"""


def main(url: str, name: str, function_id: str, ledger: str, kept: str) -> None:
    # Otherwise the SDK takes the name of the test's own environment.
    os.environ["III_WORKER_NAME"] = name
    client = register_worker(url, InitOptions(worker_name=name, otel={"enabled": False}))
    worker: Any = resilient(client, keep_registered=kept == "kept")

    def handle(data: Any) -> dict[str, str]:
        time.sleep(data.get("takes", 0))
        with closing(sqlite3.connect(ledger, timeout=30, isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            new = file.execute(
                "INSERT OR IGNORE INTO effects VALUES (?, ?)", (data["key"], name)
            ).rowcount
            file.execute("UPDATE total SET n = n + ?", (new,))
            file.execute("COMMIT")
        return {"worker": name}

    worker.register_function(function_id, handle)
    drain = worker.drain

    def drain_and_say(timeout: float) -> Drained:
        drained: Drained = drain(timeout)
        print(json.dumps(drained.handed_over), flush=True)
        return drained

    worker.drain = drain_and_say
    if not os.environ.get("III_LONG"):
        leave_patiently()
    worker.drain_at_sigterm(10)
    print("ready", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
