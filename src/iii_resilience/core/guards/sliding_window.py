"""Counts calls and failures in a sliding time window.

Knows nothing of circuits or of what a failure is, and has no clock: every method takes the time.
"""

from __future__ import annotations

_BUCKETS = 10


class SlidingWindow:
    """How many calls ended in a sliding window, and how many of them failed.

    A call counts for the length of the window, or up to a tenth of it less; never for longer.
    Ten buckets hold the counts, so that neither memory nor time grows with the calls. Not
    thread-safe: the circuit's lock is held around it.

    Args:
        window: Length of the window in seconds.

    Attributes:
        since: When the time of the newest bucket began: monotonic time in seconds.
        until: When it will be over.
        successes: Calls of that time that were not reported to `add`, because they succeeded as
            all did before them; the circuit counts these here.
        failures: Calls in the window that failed.
    """

    __slots__ = (
        "_calls",
        "_counts",
        "_failures",
        "_newest",
        "_width",
        "failures",
        "since",
        "successes",
        "until",
    )

    def __init__(self, window: float) -> None:
        self.failures = self.successes = 0
        self._calls = 0
        self._width = window / _BUCKETS
        self._counts = [0] * _BUCKETS
        self._failures = [0] * _BUCKETS
        self._newest: int | None = None
        self.since, self.until = 0.0, 0.0  # no time lies between them

    @property
    def calls(self) -> int:
        """Calls in the window."""
        return self._calls + self.successes

    def add(self, now: float, *, failed: bool) -> None:
        """Count one call.

        Args:
            now: When it ended: monotonic time in seconds.
            failed: Whether it counts as a failure.
        """
        tick = int(now / self._width)
        if tick != self._newest:
            self._advance(tick)
        place = tick % _BUCKETS
        self._counts[place] += 1
        self._calls += 1
        if failed:
            self._failures[place] += 1
            self.failures += 1

    def _begin(self, tick: int) -> None:
        self.until = self.since  # no time lies between them until both are those of the tick
        self._newest = tick
        self.since = tick * self._width
        self.until = (tick + 1) * self._width

    def _advance(self, tick: int) -> None:
        """Forget what has left the window."""
        newest = self._newest
        if newest is not None:
            if newest - _BUCKETS < tick < newest:
                # The clock was read before another thread's later reading, and the bucket of that
                # time is still there.
                return
            successes, self.successes = self.successes, 0
            self._counts[newest % _BUCKETS] += successes
        # Further back than the window is another clock: freezegun moves the monotonic one by
        # decades, and back. What was counted by the other says nothing about now.
        fresh = newest is None or tick < newest
        for gone in range(_BUCKETS if fresh else min(tick - (newest or 0), _BUCKETS)):
            self._counts[(tick - gone) % _BUCKETS] = self._failures[(tick - gone) % _BUCKETS] = 0
        self._begin(tick)
        # Counted anew rather than subtracted, so that an interrupt between two lines of `add`
        # cannot make the sums differ from the buckets for ever.
        self._calls = sum(self._counts)
        self.failures = sum(self._failures)
