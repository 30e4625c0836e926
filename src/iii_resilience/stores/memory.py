"""`MemoryStore`: for tests, and for keys that need not outlive their process.

Nothing survives the process, and no other process sees it. Knows nothing of what it stores.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from typing import NoReturn, TypeVar

from iii_resilience.stores.base import MESSAGE, LocalStore
from iii_resilience.stores.transitions import Row, Rule, waits

T = TypeVar("T")

_SWEEP_EVERY = 256


class MemoryStore(LocalStore):
    """Idempotency keys and parked messages of one process, in its memory."""

    blocking = False
    transactions = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # As text: what is read is a copy, and what JSON cannot carry is refused as elsewhere.
        self._kept: dict[tuple[str, str], tuple[str, float | None]] = {}
        self._writes = 0

    def close(self) -> None:
        """Nothing is open."""

    def begin(self, slot: str, token: int) -> NoReturn:  # noqa: ARG002 - the protocol's
        """Memory has no transactions.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "a MemoryStore has no transaction to give to a handler; use a SqliteStore or RedisStore"
        )

    def __repr__(self) -> str:
        return "MemoryStore()"

    def _change(
        self,
        kind: str,
        row_id: str,
        rule: Rule[T],
        *,
        lasting: bool = False,  # noqa: ARG002 - nothing here lasts
    ) -> T:
        with self._lock:
            now = time.time()
            change = rule(self._get(kind, row_id, now), now)
            if change.written:
                if change.row is None:
                    self._kept.pop((kind, row_id), None)
                else:
                    self._kept[kind, row_id] = json.dumps(change.row), change.keep_until
                self._writes += 1
                if self._writes % _SWEEP_EVERY == 0:
                    self._sweep(now)
            return change.answer

    def _rows(self, kind: str) -> Iterable[tuple[str, Row]]:
        with self._lock:
            now = time.time()
            ids = [row_id for other, row_id in self._kept if other == kind]
            found = [(row_id, self._get(kind, row_id, now)) for row_id in ids]
        return [(row_id, row) for row_id, row in found if row is not None]

    def _waiting(self) -> Iterator[tuple[str, Row]]:
        rows = [(message, row) for message, row in self._rows(MESSAGE) if waits(row)]
        return iter(sorted(rows, key=lambda each: float(each[1]["due_at"])))

    def _get(self, kind: str, row_id: str, now: float) -> Row | None:
        text, until = self._kept.get((kind, row_id), ("null", None))
        if until is not None and until <= now:
            return None
        row: Row | None = json.loads(text)
        return row

    def _sweep(self, now: float) -> None:
        gone = [at for at, (_, until) in self._kept.items() if until is not None and until <= now]
        for at in gone:
            del self._kept[at]
