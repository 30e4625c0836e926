"""A worker whose process ends at a chosen step of a delivery, once.

Run by the tests: ``consumer_worker.py URL FOLDER HOW STEP``.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

from iii import InitOptions, register_worker

from iii_resilience.handling import PermanentError, consumer, idempotent
from iii_resilience.stores import SqliteStore


class Mortal(SqliteStore):
    """A store that ends its process before or after an operation."""

    def __init__(self, folder: Path, step: str) -> None:
        super().__init__(folder / "store.db")
        self.step = step
        self.dead = folder / "dead"

    def die(self, here: str) -> None:
        if here == self.step and not self.dead.exists():
            self.dead.touch()
            os._exit(9)

    def _change(self, kind: str, row_id: str, rule: Any, *, lasting: bool = False) -> Any:
        name = rule.__qualname__.partition(".")[0]
        self.die(f"before {name}")
        answer = super()._change(kind, row_id, rule, lasting=lasting)
        self.die(f"after {name}")
        return answer

    def begin(self, slot: str, token: int) -> Any:
        transaction = super().begin(slot, token)
        commit = transaction.commit

        def dying(outcome: str, *, keep: float) -> bool:
            self.die("before commit")
            mine = commit(outcome, keep=keep)
            self.die("after commit")
            return mine

        transaction.commit = dying  # type: ignore[method-assign]
        return transaction


def main(url: str, folder: Path, how: str, step: str) -> None:
    store = Mortal(folder, step)

    def handler(data: Any, transaction: sqlite3.Connection) -> str:
        transaction.execute("INSERT INTO effects VALUES (?)", (data["n"],))
        with (folder / "elsewhere").open("a", encoding="utf-8") as log:
            log.write(f"{data['n']}\n")
        store.die("handler")
        if how == "permanent":
            raise PermanentError("no", code="CARD_DECLINED")
        return "done"

    decorated: Any = consumer(parking=store, key="n", function_id="jobs::do", max_deliveries=10)(
        idempotent(store, key="n", function_id="jobs::do", lease=0.5, wait=20.0)(handler)
    )
    worker = register_worker(url, InitOptions(worker_name="consumer", otel={"enabled": False}))
    worker.register_function("jobs::do", decorated)
    sys.stdin.read()  # until the test lets go
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4])
