"""What is counted during a simulation, in a memory that does not grow with the calls; and a row.

Knows nothing of policies, services or event loops.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import attrs

_RESOLUTION = math.log(1.02)  # of a histogram: 2 %
_SHORTEST = 1e-4  # seconds; anything shorter counts as this
WINDOW = 5
"""Seconds in which 90 % of the calls must be answered for a service to count as recovered."""
_ANSWERED = 0.9


class Histogram:
    """Times, each to 2 % of its value."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._total = 0

    def add(self, seconds: float) -> None:
        """Count one time."""
        self._counts[round(math.log(max(seconds, _SHORTEST)) / _RESOLUTION)] += 1
        self._total += 1

    def percentile(self, part: float) -> float | None:
        """The time that this part of them is not above, in seconds; None without any.

        Args:
            part: From 0 to 1.
        """
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= part * self._total:
                return math.exp(bucket * _RESOLUTION)
        return None

    def pairs(self) -> list[tuple[float, int]]:
        """The times and how often each occurred, the shortest first."""
        return [
            (math.exp(bucket * _RESOLUTION), self._counts[bucket])
            for bucket in sorted(self._counts)
        ]


class Recorder:
    """Counts calls, attempts and answers by second.

    Args:
        duration: Seconds in which calls start.
        trouble: When trouble starts and ends, in seconds.
        in_time: Seconds within which an answer counts as in time.
        clock: Returns the seconds since the beginning.

    Attributes:
        clock: As the argument.
        queued: What became of messages that were handed to queues.
        circuits: When a circuit has opened, in seconds.
    """

    def __init__(
        self,
        duration: float,
        trouble: tuple[float, float],
        in_time: float,
        clock: Callable[[], float],
    ) -> None:
        self.clock = clock
        self.queued: Counter[str] = Counter()
        self.circuits: list[float] = []
        self._duration = duration
        self._trouble = trouble
        self._in_time = in_time
        seconds = self._before + math.ceil(duration + in_time - trouble[1])
        self._series = Series(*([0] * seconds for _ in range(4)))
        self._waits = Histogram()
        self._delays = Histogram()
        self._given_up: Counter[str] = Counter()
        self._calls = 0
        self._attempts: Counter[str] = Counter()

    @property
    def _before(self) -> int:
        """Seconds that begin before the end of the trouble: they are counted from there."""
        return math.ceil(self._trouble[1])

    def called(self) -> float:
        """A call starts; returns when, in seconds."""
        now = self.clock()
        self._series.calls[self._second(now)] += 1
        self._calls += self._watched(now)
        return now

    def attempt(self, function_id: str, before: int, delay: float) -> None:
        """An attempt is sent.

        Args:
            function_id: The function that is called.
            before: How many attempts of the call came before it.
            delay: Seconds since the one before it has ended.
        """
        now = self.clock()
        self._series.attempts[self._second(now)] += 1
        self._attempts[function_id] += self._watched(now)
        if before:
            self._delays.add(delay)

    def answered(self, started: float) -> None:
        """A call has been answered."""
        now = self.clock()
        self._series.answers[self._second(now)] += 1
        if now - started <= self._in_time:
            self._series.in_time[self._second(started)] += 1
        self._waited(started, now)

    def failed(self, started: float, reason: str) -> None:
        """A call has been given up.

        Args:
            started: When it started, in seconds.
            reason: Why.
        """
        self._given_up[reason] += 1
        self._waited(started, self.clock())

    def _waited(self, started: float, now: float) -> None:
        if self._watched(started):
            self._waits.add(now - started)

    def _second(self, at: float) -> int:
        index = math.floor(at - self._trouble[1]) + self._before
        return min(index, len(self._series.calls) - 1)

    def _watched(self, at: float) -> bool:
        return self._trouble[0] <= at < self._duration

    def measured(self, name: str) -> Row:
        """The row that all of it makes.

        Args:
            name: What the row is called.
        """
        start, end = self._trouble
        series, last = self._series, self._second(self._duration)
        during = slice(self._second(start), self._second(end))
        after = slice(self._second(end), last)
        return Row(
            name=name,
            calls=self._calls,
            load=max(self._attempts.values(), default=0) / max(1, self._calls),
            in_time_during=_share(series, during),
            in_time_after=_share(series, after),
            wait_p50=self._waits.percentile(0.5),
            wait_p99=self._waits.percentile(0.99),
            recovery=_recovery(series, self._before, last),
            given_up=dict(sorted(self._given_up.items())),
            circuits=tuple(sorted(self.circuits)),
            queued=dict(sorted(self.queued.items())),
            curves=Curves(end - self._before, series, tuple(self._delays.pairs())),
        )


@attrs.frozen
class Series:
    """Counts by second.

    Attributes:
        calls: Calls that started.
        attempts: Attempts that were sent, to any service.
        answers: Calls that were answered.
        in_time: Calls that started then and were answered in time.
    """

    calls: list[int]
    attempts: list[int]
    answers: list[int]
    in_time: list[int]


@attrs.frozen
class Curves:
    """What a picture of a row shows.

    Attributes:
        first: Where second 0 of the series begins, in seconds from the beginning.
        series: The counts.
        delays: Delays before retries in seconds, and how often each occurred.
    """

    first: float
    series: Series
    delays: tuple[tuple[float, int], ...]


@attrs.frozen
class Row:
    """What a policy did; all times are seconds. It is watched from the start of the trouble.

    Attributes:
        name: What the row is called.
        calls: Calls that started.
        load: Attempts a call, at the service where it is highest.
        in_time_during: The part of the calls that started during the trouble and were answered in
            time; None without any.
        in_time_after: The same of those that started after it.
        wait_p50: The median of what callers waited for an answer or an error.
        wait_p99: The 99th percentile.
        recovery: How long after the trouble 90 % of the calls of 5 s are answered in time again;
            None for never.
        given_up: How many calls were given up, by reason, over the whole run.
        circuits: When a circuit opened, in any process.
        queued: What became of calls that were handed to a queue.
        curves: For pictures.
    """

    name: str
    calls: int
    load: float
    in_time_during: float | None
    in_time_after: float | None
    wait_p50: float | None
    wait_p99: float | None
    recovery: float | None
    given_up: dict[str, int]
    circuits: tuple[float, ...]
    queued: dict[str, int]
    curves: Curves = attrs.field(repr=False)


def _share(series: Series, where: slice) -> float | None:
    calls = sum(series.calls[where])
    return sum(series.in_time[where]) / calls if calls else None


def _recovery(series: Series, end: int, last: int) -> float | None:
    for first in range(end, last - WINDOW + 1):
        share = _share(series, slice(first, first + WINDOW))
        if share is not None and share >= _ANSWERED:
            return float(first - end)
    return None
