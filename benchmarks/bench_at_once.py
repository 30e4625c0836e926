"""Calls through the engine at once: what `resilient(worker)` adds to many of them.

The LoopbackEngine and the worker run in processes of their own; with ``III_URL`` the engine that
listens there takes the LoopbackEngine's place. A round makes the same calls through the bare SDK
and through ours, a fraction of a second each, in the order A B B A; the next one begins with the
other. Usage:

    python benchmarks/bench_at_once.py [ROUNDS]
"""

from __future__ import annotations

import asyncio
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable

from bench_trigger import POLICY, SMALL, lost, options, served

from iii_resilience import resilient

COROUTINES = (10, 50, 200, 1000)
THREADS = (1, 8, 32)
CALLS = 1000 if "III_URL" in os.environ else 3000
"""Calls of one way in a round, or what `_LEAST` makes of them. Fewer where answers are lost, each
for `_MOST_MS`."""
TURN = 20
"""Calls of one way before it is the other's turn: the less time there is between the two, the more
do both see of the same machine. At least one for each coroutine, and `_EACH` for each of several
threads, which have to start."""
_EACH = 10
_LEAST = 10
"""How often a round takes its four turns at least: where a thousand call, one turn is one batch."""
_MOST_MS = 3000
ROUNDS = 11

Way = Callable[[], object]
AsyncWay = Callable[[], Awaitable[object]]


class Rounds:
    """The times of both ways, a round each, and the answers that were lost.

    The four turns in which one was lost do not count: they last as long as its timeout.

    Args:
        name: What is measured.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.times: dict[str, list[float]] = {"bare": [], "ours": []}
        self.lost = {"bare": 0, "ours": 0}
        self._turns: dict[str, list[float]] = {"bare": [], "ours": []}
        self._lost_before = 0

    def add_turn(self, took: dict[str, float]) -> None:
        """The microseconds a call of four turns, by way."""
        lost = sum(self.lost.values())
        if lost == self._lost_before:
            for way, microseconds in took.items():
                self._turns[way].append(microseconds)
        self._lost_before = lost

    def end_round(self, *, counts: bool) -> None:
        """A round is over; the first one warms up, and does not count."""
        for way, turns in self._turns.items():
            if counts and turns:
                self.times[way].append(statistics.fmean(turns))
            turns.clear()

    def row(self) -> str:
        """Both medians, the median of the ratios within a round, and the lost answers."""
        # Where an answer was lost in all of them there is no figure.
        bare, ours = self.times["bare"] or [math.nan], self.times["ours"] or [math.nan]
        ratio = statistics.median(b / a for a, b in zip(bare, ours, strict=True))
        before, after = statistics.median(bare), statistics.median(ours)
        counted = f"{self.lost['bare']} / {self.lost['ours']}"
        return f"| {self.name} | {before:.0f} | {after:.0f} | {ratio:.3f} | {counted} |"


async def coroutines(ways: dict[str, AsyncWay], at_once: int, rounds: int) -> Rounds:
    """So many coroutines call at once, on one event loop."""
    found = Rounds(f"{at_once} coroutines")
    each, turns = _divided(at_once, 1)

    async def calls(way: str) -> None:
        for _ in range(each):
            answers = await asyncio.gather(
                *(ways[way]() for _ in range(at_once)), return_exceptions=True
            )
            for answer in answers:
                _count(found, way, answer)

    for number in range(-1, rounds):
        for _ in range(turns):
            took = {"bare": 0.0, "ours": 0.0}
            for way in in_turn(number):
                began = time.perf_counter()
                await calls(way)
                took[way] += _each(began, at_once * each) / 2
            found.add_turn(took)
        found.end_round(counts=number >= 0)
    return found


def threads(ways: dict[str, Way], at_once: int, rounds: int) -> Rounds:
    """So many threads call at once."""
    found = Rounds(f"{at_once} thread{'' if at_once == 1 else 's'}")
    each, turns = _divided(at_once, _EACH)

    def calls(way: str) -> None:
        for _ in range(each):
            try:
                ways[way]()
            except Exception as error:
                _count(found, way, error)

    for number in range(-1, rounds):
        for _ in range(turns):
            took = {"bare": 0.0, "ours": 0.0}
            for way in in_turn(number):
                running = [threading.Thread(target=calls, args=(way,)) for _ in range(at_once)]
                began = time.perf_counter()
                for thread in running:
                    thread.start()
                for thread in running:
                    thread.join()
                took[way] += _each(began, at_once * each) / 2
            found.add_turn(took)
        found.end_round(counts=number >= 0)
    return found


def in_turn(number: int) -> tuple[str, ...]:
    """The ways of a round, each twice, so that a machine that becomes slower delays both alike."""
    first, second = ("bare", "ours") if number % 2 else ("ours", "bare")
    return first, second, second, first


def _divided(at_once: int, least: int) -> tuple[int, int]:
    """Calls of each caller in a turn, at least so many, and how often a round takes four turns."""
    each = max(least, TURN // at_once)
    return each, max(_LEAST, CALLS // 2 // (at_once * each))


def _each(began: float, calls: int) -> float:
    return (time.perf_counter() - began) / calls * 1e6


def _count(found: Rounds, way: str, answer: object) -> None:
    if isinstance(answer, Exception):
        if not lost(answer):
            raise answer
        found.lost[way] += 1


def measure(url: str, rounds: int) -> None:
    """Print the table."""
    from iii import register_worker

    client = register_worker(url, options("caller"))
    wrapped = resilient(client, policies=POLICY)
    request = {"function_id": "bench::echo", "payload": SMALL, "timeout_ms": _MOST_MS}

    async def all_coroutines() -> None:
        ways: dict[str, AsyncWay] = {
            "bare": lambda: client.trigger_async(request),
            "ours": lambda: wrapped.trigger_async(request),
        }
        for at_once in COROUTINES:
            print((await coroutines(ways, at_once, rounds)).row(), flush=True)

    try:
        wrapped.trigger(request)  # waits until the function is there
        print("| at once | bare SDK, µs a call | resilient, µs a call | ratio | lost answers |")
        print("| --- | --- | --- | --- | --- |", flush=True)
        asyncio.run(all_coroutines())
        plain: dict[str, Way] = {
            "bare": lambda: client.trigger(request),
            "ours": lambda: wrapped.trigger(request),
        }
        for at_once in THREADS:
            print(threads(plain, at_once, rounds).row(), flush=True)
    finally:
        wrapped.shutdown()


def main() -> None:
    """Start an engine and a worker, measure, and stop them."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    served(lambda url: measure(url, rounds))


if __name__ == "__main__":
    main()
