"""How the benchmarks measure: in turn within one process, so that what the machine does cancels.

Knows nothing of what is measured. A round runs every candidate once, a few milliseconds each, and
the next round begins with another one. What counts is the ratio within a round; the median over all
rounds is reported. Time is the processor's, of this thread: what else runs is not counted.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import repeat

import attrs

Call = Callable[[], object]
AsyncCall = Callable[[], Awaitable[object]]


_WARM = 10  # calls


@attrs.frozen
class Effort:
    """How much is measured.

    Attributes:
        rounds: Rounds of every comparison.
        slice: Seconds that one candidate runs in a round.
        scale: Share of the full size for what is about size (10 000 calls, a million failures).
    """

    rounds: int
    slice: float
    scale: float


FULL = Effort(rounds=61, slice=0.005, scale=1.0)
QUICK = Effort(rounds=15, slice=0.003, scale=0.05)


@attrs.frozen
class Taken:
    """What the candidates of one comparison took.

    Attributes:
        rounds: Microseconds a call by candidate, one figure for each round.
    """

    rounds: dict[str, list[float]]

    def us(self, name: str) -> float:
        """A candidate's median, in microseconds a call."""
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, to: str) -> float:
        """How many times as long one candidate takes as another: the median over the rounds."""
        pairs = zip(self.rounds[name], self.rounds[to], strict=True)
        return statistics.median(one / other for one, other in pairs)

    def fastest(self, names: list[str]) -> str:
        """Which of these candidates takes the shortest time."""
        return min(names, key=self.us)


def alternate(calls: Mapping[str, Call], effort: Effort) -> Taken:
    """Measure plain functions against one another.

    Args:
        calls: What is called, by name.
        effort: How much is measured.
    """
    loops = {}
    for name, call in calls.items():
        _seconds(call, _WARM)  # what the first calls of all make is no part of a call
        loops[name] = _enough(_seconds(call, _WARM) / _WARM, effort)
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(effort.rounds):
        for name in _in_turn(list(calls), turn):
            number = loops[name]
            rounds[name].append(_seconds(calls[name], number) / number * 1e6)
    return Taken(rounds)


def alternate_async(calls: Mapping[str, AsyncCall], effort: Effort) -> Taken:
    """As `alternate`, for coroutine functions, all on one event loop."""

    async def run() -> Taken:
        loops = {}
        for name, call in calls.items():
            await _seconds_async(call, _WARM)
            loops[name] = _enough(await _seconds_async(call, _WARM) / _WARM, effort)
        rounds: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(effort.rounds):
            for name in _in_turn(list(calls), turn):
                number = loops[name]
                rounds[name].append(await _seconds_async(calls[name], number) / number * 1e6)
        return Taken(rounds)

    return asyncio.run(run())


def _in_turn(names: list[str], turn: int) -> list[str]:
    first = turn % len(names)
    return names[first:] + names[:first]


def _enough(seconds: float, effort: Effort) -> int:
    return max(1, int(effort.slice / max(seconds, 1e-8)))


def _seconds(call: Call, number: int) -> float:
    # As timeit does: a collection would be counted against whoever happens to run.
    collecting = gc.isenabled()
    gc.disable()
    try:
        began = time.thread_time()
        for _ in repeat(None, number):
            call()
        return time.thread_time() - began
    finally:
        if collecting:
            gc.enable()


async def _seconds_async(call: AsyncCall, number: int) -> float:
    collecting = gc.isenabled()
    gc.disable()
    try:
        began = time.thread_time()
        for _ in repeat(None, number):
            await call()
        return time.thread_time() - began
    finally:
        if collecting:
            gc.enable()
