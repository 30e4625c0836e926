"""What is parked in the stores of this process's consumers, by function and category.

A store is read as a whole, so it is read seldom: a scan is repeated after a minute at the earliest,
and after fifty times as long as it took. Knows nothing of what a store is, but for `records`.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from contextlib import suppress
from typing import Any

from iii_resilience.core.observers import logger

_SECONDS_LEAST = 60.0
_TIMES_AS_LONG = 50


class Parkings:
    """The stores, and what was in each of them when it was read last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stores: weakref.WeakSet[Any] = weakref.WeakSet()
        self._found: weakref.WeakKeyDictionary[Any, tuple[float, Counter[tuple[str, str]]]] = (
            weakref.WeakKeyDictionary()
        )

    def add(self, store: object) -> None:
        """Read a store from now on, as long as something else uses it."""
        with suppress(TypeError):  # one that has no hash or takes no weak reference
            self._stores.add(store)

    def forget(self) -> None:
        """Read none of these stores any longer: for tests."""
        self._stores.clear()
        self._found.clear()

    def counts(self, now: float) -> Counter[tuple[str, str]]:
        """How many messages are parked, by function id and category.

        Args:
            now: Monotonic time in seconds.
        """
        with self._lock:
            total: Counter[tuple[str, str]] = Counter()
            for store in list(self._stores):
                due, found = self._found.get(store, (0.0, Counter()))
                if due <= now:
                    began = time.monotonic()
                    found = _read(store, found)
                    took = time.monotonic() - began
                    self._found[store] = now + max(_SECONDS_LEAST, _TIMES_AS_LONG * took), found
                total.update(found)
            return total


def _read(store: Any, before: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """What is parked in a store now; zero for what was there before, so that alerts end."""
    found: Counter[tuple[str, str]] = Counter(dict.fromkeys(before, 0))
    try:
        for record in store.records():
            if record.parked_at is not None and record.note:
                kind = record.note.get("function_id"), record.note.get("category")
                found[str(kind[0]), str(kind[1])] += 1
    except Exception as error:  # metrics never fail for a store that is away
        logger.debug("parked messages are not counted: %s", type(error).__name__)
        return before
    return found


parkings = Parkings()
"""Those of this process."""
