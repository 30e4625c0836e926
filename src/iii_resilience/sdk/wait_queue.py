"""Callers that wait for one event, released a little apart from each other.

Serves threads and coroutines: each waits for a `concurrent.futures.Future`. Knows nothing of
connections, functions or retries.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future

import attrs

# Calls that waited for one event start one after the other: the first at once, the rest spread.
_SPREAD_EACH = 0.002
_SPREAD_MOST = 0.5


@attrs.define(eq=False, slots=False)
class WaitQueue:
    """Callers that wait for one event; released in order, a little apart from each other.

    Each waits on a future whose result is the number of seconds it should let pass first.
    """

    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    # In the order they came.
    _waiting: dict[Future[float], None] = attrs.field(factory=dict, init=False)
    _refused: Callable[[], Exception] | None = attrs.field(default=None, init=False)

    def add(self) -> Future[float]:
        """A future for one more caller."""
        future: Future[float] = Future()
        with self._lock:
            if self._refused is None:
                self._waiting[future] = None
                return future
        future.set_exception(self._refused())
        return future

    def leave(self, future: Future[float]) -> None:
        """The caller does not wait any longer."""
        future.cancel()
        with self._lock:
            self._waiting.pop(future, None)

    def __len__(self) -> int:
        return len(self._waiting)

    def release(self) -> None:
        """The event has come."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        step = min(_SPREAD_EACH, _SPREAD_MOST / max(1, len(waiting)))
        for place, future in enumerate(waiting):
            if future.set_running_or_notify_cancel():
                future.set_result(step * (place + random.random()) if place else 0.0)

    def refuse(self, error: Callable[[], Exception]) -> None:
        """The event will not come: callers that wait, and those that come later, get an error.

        Args:
            error: Makes the exception of one caller; each gets its own, for its own report.
        """
        with self._lock:
            self._refused = error
            waiting, self._waiting = self._waiting, {}
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error())
