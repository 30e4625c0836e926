"""What waits for the active relays of this process, as metrics show it.

Knows nothing of instruments, nor of how a relay works.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import Any, Protocol


class _RelayStatus(Protocol):
    @property
    def active(self) -> bool: ...
    @property
    def outbox(self) -> int | None: ...
    @property
    def retries(self) -> int | None: ...
    @property
    def oldest(self) -> float | None: ...


class Backlogs:
    """The relays of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._relays: weakref.WeakSet[Any] = weakref.WeakSet()

    def add(self, relay: Any) -> None:
        """Show what waits for a relay while it is active, as long as something else uses it."""
        with self._lock:
            self._relays.add(relay)

    def _active(self) -> Iterator[_RelayStatus]:
        with self._lock:
            relays = list(self._relays)
        for relay in relays:
            status: _RelayStatus = relay.status
            if status.active and status.outbox is not None:
                yield status

    def waiting(self) -> dict[str, int]:
        """How many messages wait, by kind; empty where no relay is active here."""
        found: dict[str, int] = {}
        for status in self._active():
            found["outbox"] = found.get("outbox", 0) + (status.outbox or 0)
            found["retry"] = found.get("retry", 0) + (status.retries or 0)
        return found

    def oldest(self) -> float | None:
        """Seconds since the oldest could have been handed over; None without an active relay."""
        return max((status.oldest or 0.0 for status in self._active()), default=None)


backlogs = Backlogs()
"""Those of this process."""
