"""Counts of what happens in layers that telemetry reads, but that do not know it."""

from __future__ import annotations

import threading


class EventCount:
    """A number that only grows; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self) -> None:
        """Count one event."""
        with self._lock:
            self.value += 1


refused_reloads = EventCount()
"""Changed policies of this process that did not validate."""
