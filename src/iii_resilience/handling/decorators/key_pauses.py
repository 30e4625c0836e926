"""The pauses of a call that waits for a key that runs.

Knows nothing of keys' states.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Final

from iii_resilience.core.effects import Sleep
from iii_resilience.stores.protocol import Store

_FIRST_LOOK: Final = 0.02  # seconds between polls of a key that another worker runs
_LAST_LOOK: Final = 0.25


class KeyPauses:
    """The pauses between looks at a key that runs; the news of its end ends one early."""

    def __init__(self, store: Store, slot: str) -> None:
        self._slot = slot
        self._watch: Any = getattr(store, "watch", None)
        self._ended: Future[float] = Future()
        self._ended.cancel()  # nothing is watched before the first pause
        self._length = _FIRST_LOOK

    def next(self, left: float) -> Sleep:
        """The next pause, of the seconds that are left at most."""
        length, self._length = self._length, min(2 * self._length, _LAST_LOOK)
        if self._watch is not None and self._ended.done():
            self._ended = self._watch(self._slot)
        return Sleep(min(length, left), None if self._watch is None else self)

    def add(self) -> Future[float]:
        """As `core.effects.Sleeper`: the news, one for all pauses until it has come."""
        return self._ended

    def leave(self, future: Future[float]) -> None:
        """As `core.effects.Sleeper`: the next pause waits for the same news."""

    def end(self) -> None:
        """Nothing waits any longer."""
        self._ended.cancel()
