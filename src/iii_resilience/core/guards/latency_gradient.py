"""The adaptive limit: how many handlers may run at once, found from how long they take.

Where more calls at once only make each of them slower, they wait for each other somewhere. The
limit goes by the gradient between the latency without load (the baseline) and the present one, as
in Netflix's concurrency-limits and failsafe-go (docs/engine-notes.md, 14). Knows nothing of calls
and has no clock: every method takes the time.
"""

from __future__ import annotations

import math

import attrs

_SECONDS = 0.5  # a window's length at least
_LATENCIES = 4  # its length at least in mean latencies: else only the quick calls end in it
_SAMPLES = 10  # calls that a window needs
_STEEPEST = 0.5  # the limit falls at most so far in one window
_LEARNS = 0.2  # how far the baseline moves towards the latency of one window
_PROBE_AFTER = 40  # windows at the limit, without a look at what the latency is below it
_FIRST_PROBE_AFTER = 8  # the baseline that it began with may be that of a queue
_NO_QUEUE = 0.9  # the gradient from which on calls are not slowed down
_FELL = 0.8  # a latency that fell below this part of the former one fell with the limit


@attrs.define
class _Window:
    """What was seen since `since`: only calls that started in it, so that all met its limit."""

    since: float
    samples: int = 0
    total: float = 0.0
    most: int = 0
    """Calls at once, at most."""

    @property
    def mean(self) -> float:
        return self.total / self.samples

    def is_whole(self, now: float) -> bool:
        return self.samples >= _SAMPLES and now - self.since >= max(
            _SECONDS, _LATENCIES * self.mean
        )


class LatencyGradient:
    """A limit between two bounds.

    After each window the limit becomes ``limit * baseline / latency``, plus its square root as
    space for a queue: so it grows while calls are not slowed down, and ends near the point where
    they are. It changes only where it was reached.

    The baseline follows the latency where the limit was not reached. At the limit it follows it
    downwards only, since a queue would be learned otherwise. So from time to time one window runs
    at half the limit. If the latency does not fall there, the cause is not a queue,
    and the baseline follows upwards too.

    Not thread-safe: its owner has a lock.

    Args:
        low: The smallest limit.
        high: The largest limit.
        start: The first one.
        now: Monotonic time in seconds.
    """

    def __init__(self, low: int, high: int, start: int, now: float) -> None:
        self._low = low
        self._high = high
        self._limit = float(start)
        self._window = _Window(now)
        self._baseline: float | None = None
        self._peak = (0.0, 0.0)  # the largest limit since the last look below it, and its latency
        self._at_limit = _PROBE_AFTER - _FIRST_PROBE_AFTER  # windows since then
        self._searching = True  # the limit has never been high enough to slow calls down
        self._probing = False  # this window runs at half the limit

    @property
    def limit(self) -> int:
        """How many may run at once."""
        return int(self._limit / 2 if self._probing else self._limit)

    @property
    def baseline(self) -> float | None:
        """The latency without load, in seconds, as far as it is known."""
        return self._baseline

    def started(self, running: int) -> None:
        """A call has started.

        Args:
            running: Calls that run now, this one included.
        """
        self._window.most = max(self._window.most, running)

    def finished(self, started: float, now: float, *, failed: bool = False) -> bool:
        """A call has ended.

        Args:
            started: Monotonic time of its start, in seconds.
            now: Monotonic time in seconds.
            failed: Whether it failed: a quick failure says nothing about the load.

        Returns:
            Whether the limit may have changed.
        """
        window, seconds = self._window, now - started
        if started < window.since or (failed and seconds < (self._baseline or math.inf)):
            return False
        window.samples += 1
        window.total += seconds
        if not window.is_whole(now):
            return False
        self._window = _Window(now)
        self._learn(window.mean, reached=window.most >= self.limit)
        return True

    def _learn(self, latency: float, *, reached: bool) -> None:
        ran_at = self.limit
        self._probing = False
        if self._baseline is None:
            self._baseline = latency
        peak, then = self._peak
        lowest = ran_at <= self._low  # no limit below it can show less
        looked = lowest or ran_at <= peak / 2 + 1
        queueing = reached and not lowest and not (looked and latency > _FELL * then)
        if latency < self._baseline or not queueing:
            self._baseline += (0.5 if looked else _LEARNS) * (latency - self._baseline)
        if looked or not reached:
            self._peak, self._at_limit = (float(ran_at), latency), 0
        elif ran_at >= peak:
            self._peak = (float(ran_at), latency)
        if not reached:
            return
        self._at_limit += 1
        gradient = max(_STEEPEST, min(1.0, self._baseline / latency))
        self._searching = self._searching and gradient >= _NO_QUEUE
        space = self._limit if self._searching else math.sqrt(self._limit)
        wanted = self._limit * gradient + space
        self._limit = max(float(self._low), min(float(self._high), wanted))
        if self._at_limit > _PROBE_AFTER and self._limit >= 2 * self._low:
            self._probing, self._at_limit = True, 0
