"""A worker whose handlers share something that serves few at once, in virtual time.

Knows nothing of how a limit is found.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Protocol

import attrs


class LimitOfCalls(Protocol):
    """What says how many calls may run."""

    @property
    def limit(self) -> int:
        """How many may run at once now."""
        ...

    def started(self, running: int) -> None:
        """A call has started, one of so many."""
        ...

    def finished(self, started: float, now: float) -> bool:
        """A call has ended."""
        ...


@attrs.frozen
class Fixed:
    """A limit that stays.

    Attributes:
        limit: How many may run at once.
    """

    limit: int

    def started(self, running: int) -> None:
        """See `LimitOfCalls`."""

    def finished(self, started: float, now: float) -> bool:  # noqa: ARG002 - nothing to learn
        """See `LimitOfCalls`."""
        return False


@attrs.frozen
class Served:
    """One call that was served.

    Attributes:
        at: When it ended, in seconds.
        latency: Seconds since it arrived.
    """

    at: float
    latency: float


@attrs.define
class Pool:
    """Handlers that each need one of `size` places for `seconds`, first come, first served.

    Attributes:
        seconds: How long a handler needs its place, by the time.
        spread: How far single ones differ from that, as a part of it.
    """

    size: int
    seconds: Callable[[float], float]
    spread: float = 0.2
    wait: float = 0.1
    _random: Random = attrs.field(factory=lambda: Random(1))

    def run(self, limit: LimitOfCalls, rate: float, until: float) -> list[Served]:
        """Offer calls at a rate per second, with random gaps; those that were served."""
        served: list[Served] = []
        line: deque[float] = deque()
        ends: list[tuple[float, float, float]] = []  # end, start, arrival
        places = [0.0] * self.size  # when each comes free
        arrival = 0.0
        while arrival < until:
            arrival += self._random.expovariate(rate)
            while ends and ends[0][0] <= arrival:
                end, start, since = heapq.heappop(ends)
                served.append(Served(end, end - since))
                limit.finished(start, end)
                self._start(limit, line, ends, places, end)
            line.append(arrival)
            self._start(limit, line, ends, places, arrival)
        return served

    def _start(
        self,
        limit: LimitOfCalls,
        line: deque[float],
        ends: list[tuple[float, float, float]],
        places: list[float],
        now: float,
    ) -> None:
        while line and now - line[0] > self.wait:
            line.popleft()
        while line and len(ends) < limit.limit:
            since = line.popleft()
            begins = max(now, heapq.heappop(places))
            factor = self._random.uniform(1 - self.spread, 1 + self.spread)
            end = begins + self.seconds(begins) * factor
            heapq.heappush(places, end)
            heapq.heappush(ends, (end, now, since))
            limit.started(len(ends))
