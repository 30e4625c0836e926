"""What many do: 10 000 calls in backoff at once, 64 threads, 10 000 functions, a million failures.

What needs a process of its own (memory, an event loop that nobody else delays) is run as

    python benchmarks/bench_scale.py memory|lag iii-resilience|tenacity|nopanic CALLS
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.util
import json
import random
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import peers
import tenacity
from measure import FULL, Effort, alternate
from peers import BARE, OURS
from table import Bound, Section, figure

from iii_resilience import Backoff, Breaker, Budget, RetryPolicy, iii_retry

CALLS = 10_000
THREADS = 64
FUNCTIONS = 10_000
FAILURES = 1_000_000
BEAT = 0.005  # seconds


def sections(effort: Effort) -> Iterator[Section]:
    """All tables."""
    peers.logging_off()
    yield waiting(effort)
    yield threads(effort)
    yield growth(effort)


# Calls that wait.


def waiting(effort: Effort) -> Section:
    """Memory of a waiting call, and how late the event loop is meanwhile."""
    calls = max(200, int(CALLS * effort.scale))
    found = {
        (what, who): _in_a_process(what, who, calls)
        for what in ("memory", "lag")
        for who in _waiters()
    }
    rows = []
    for who in _waiters():
        memory, lag = found["memory", who], found["lag", who]
        rows.append(
            [
                who,
                f"{memory['bytes']:.0f}",
                f"{lag['p99'] * 1e3:.1f}",
                f"{lag['most'] * 1e3:.0f}",
                f"{lag['waiting']:.0f}",
                f"{lag['finished']:.0f}",
            ]
        )
    ours = found["lag", OURS]
    bounds = [
        Bound(
            "memory of a waiting call, to tenacity's",
            found["memory", OURS]["bytes"] / found["memory", "tenacity"]["bytes"],
            1.0,
        ),
        Bound("lag of the event loop, 99th percentile", ours["p99"] * 1e3, 50.0, "ms"),
        Bound("calls that did not finish", calls - ours["finished"], 0.0),
    ]
    text = (
        f"{calls} async calls that fail once, wait for a random delay, all of them at once, and "
        "succeed. A hundred start in each turn of the loop. The lag is how late a timer of 5 ms "
        "is, from the first start to the last end. Memory is what Python has allocated for a call "
        "that waits, its task and its exception included."
    )
    columns = ["", "bytes a call", "lag p99, ms", "most, ms", "waiting at once", "finished"]
    return Section(f"{calls} calls in backoff at once", text, columns, rows, bounds)


def _waiters() -> tuple[str, ...]:
    installed = importlib.util.find_spec("nopanic") is not None
    return (OURS, "tenacity", "nopanic") if installed else (OURS, "tenacity")


def _in_a_process(what: str, who: str, calls: int) -> dict[str, float]:
    ran = subprocess.run(
        [sys.executable, __file__, what, who, str(calls)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(ran.stdout)
    return found


class Flaky:
    """A coroutine function whose calls each fail once; how many of them wait, and have waited."""

    def __init__(self) -> None:
        self.failed: set[int] = set()
        self.waiting = 0
        self.most = 0

    async def __call__(self, number: int) -> int:
        """One attempt of the call of this number."""
        if number not in self.failed:
            self.failed.add(number)
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            raise ConnectionResetError("reset")
        self.waiting -= 1
        return number


class _Uniform:
    """nopanic's form of a delay from half the longest up to it."""

    def __init__(self, longest: float) -> None:
        self._longest = longest

    def __iter__(self) -> Iterator[float]:
        while True:
            yield random.uniform(self._longest / 2, self._longest)


def _patient(who: str, flaky: Flaky, longest: float) -> Callable[[int], Awaitable[int]]:
    """Somebody's decorated function, with delays from half the longest up to it."""

    async def function(number: int) -> int:
        return await flaky(number)

    if who == OURS:
        backoff = Backoff(base=longest, throttled_base=longest, cap=longest, jitter="equal")
        policy = RetryPolicy(backoff=backoff, deadline=600.0, budget=Budget(burst=1e6))
        return iii_retry(idempotent=True, policy=policy)(function)
    if who == "nopanic":
        nopanic = importlib.import_module("nopanic")
        made: Callable[[int], Awaitable[int]] = nopanic.retry(
            attempts=4,
            on=ConnectionError,
            backoff=_Uniform(longest),
            max_time=600.0,
            budget=nopanic.RetryBudget(min_retries_per_sec=1e6),
        )(function)
        return made
    decorated: Callable[[int], Awaitable[int]] = tenacity.retry(
        retry=tenacity.retry_if_exception_type(ConnectionError),
        stop=tenacity.stop_after_attempt(4) | tenacity.stop_after_delay(600),
        wait=tenacity.wait_random(longest / 2, longest),
        reraise=True,
    )(function)
    return decorated


async def _memory(who: str, calls: int) -> dict[str, float]:
    flaky = Flaky()
    call = _patient(who, flaky, 3600.0)
    for warm in range(20):  # what is made once is no part of a call
        task = asyncio.ensure_future(call(-1 - warm))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.ensure_future(call(number)) for number in range(calls)]
    while len(flaky.failed) < calls + 20:  # noqa: ASYNC110 - an event would be measured too
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {"bytes": (after - before) / calls}


async def _lag(who: str, calls: int) -> dict[str, float]:
    flaky = Flaky()
    call = _patient(who, flaky, 0.5 + calls * 1e-3)
    late: list[float] = []

    async def beat() -> None:
        while True:
            due = time.perf_counter() + BEAT
            await asyncio.sleep(BEAT)
            late.append(time.perf_counter() - due)

    beating = asyncio.ensure_future(beat())
    tasks = []
    for first in range(0, calls, 100):
        tasks += [
            asyncio.ensure_future(call(number)) for number in range(first, min(first + 100, calls))
        ]
        await asyncio.sleep(0.001)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    beating.cancel()
    return {
        "p99": statistics.quantiles(late, n=100)[98],
        "most": max(late),
        "waiting": flaky.most,
        "finished": sum(isinstance(result, int) for result in results),
    }


# Threads.


def threads(effort: Effort) -> Section:
    """Sixty-four threads through one decorated function."""

    def waits() -> None:
        time.sleep(0.001)

    def nothing() -> None:
        return None

    rows, bounds = [], []
    for what, function in (("a call that waits 1 ms", waits), ("an empty function", nothing)):
        without = peers.ours(budget=None)(function)
        guarded = peers.ours_with_breaker()(function)
        rounds = max(3, effort.rounds // 10)
        seconds = 0.2 + effort.slice * 100
        pairs = []
        for turn in range(rounds):
            order = (without, guarded) if turn % 2 else (guarded, without)
            done = {id(one): _throughput(one, seconds) for one in order}
            pairs.append((done[id(without)], done[id(guarded)]))
        ratio = statistics.median(plain / shared for plain, shared in pairs)
        rows.append(
            [
                what,
                figure(statistics.median(plain for plain, _ in pairs)),
                figure(statistics.median(shared for _, shared in pairs)),
                f"{1 / ratio:.2f}",
            ]
        )
        if function is waits:
            bounds.append(Bound("calls without to calls with, waiting 1 ms", ratio, 1 / 0.8))
    text = (
        "All through one decorated function, with one budget and one breaker, against the same "
        "without either. An empty function is no call: its line shows what the two cost where "
        "nothing else is done."
    )
    columns = ["", "without, calls/s", "with, calls/s", "with to without"]
    return Section(f"{THREADS} threads", text, columns, rows, bounds)


def _throughput(call: Callable[[], object], seconds: float) -> float:
    counts = [0] * THREADS
    ready = threading.Barrier(THREADS + 1)
    over = threading.Event()

    def work(place: int) -> None:
        ready.wait()
        count = 0
        while not over.is_set():
            call()
            count += 1
        counts[place] = count

    workers = [threading.Thread(target=work, args=(place,)) for place in range(THREADS)]
    for worker in workers:
        worker.start()
    ready.wait()
    began = time.perf_counter()
    time.sleep(seconds)
    over.set()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - began)


# What must not grow.


def growth(effort: Effort) -> Section:
    """The cost of a call before and after there was much of something."""

    def function() -> int:
        return 1

    def fails() -> int:
        raise ConnectionResetError("reset")

    policy = RetryPolicy(attempts=1, breaker=Breaker(min_calls=10**9))
    decorate = iii_retry(idempotent=True, policy=policy)
    reference = peers.bare(function)
    one, failing = decorate(function), _caught(decorate(fails))

    def cost(call: Callable[[], object]) -> float:
        return alternate({"call": call, BARE: reference}, effort).ratio("call", BARE)

    first, first_failure = cost(one), cost(failing)
    calls = int(FAILURES * effort.scale)
    for _ in range(calls):
        one()
    after_calls = cost(one)
    functions = max(100, int(FUNCTIONS * effort.scale))
    many = [decorate(_named(number)) for number in range(functions)]
    for each in many:
        each()
    after_functions = cost(many[functions // 2])
    failures = int(FAILURES * effort.scale)
    for _ in range(failures):
        failing()
    after_failures = cost(failing)
    cases = [
        (f"calls made: 0 to {calls}", first, after_calls),
        (f"functions decorated: 1 to {functions}", first, after_functions),
        (f"failures seen: 0 to {failures} (a call that fails)", first_failure, after_failures),
    ]
    rows = [[what, f"{before:.1f}", f"{after:.1f}"] for what, before, after in cases]
    bounds = [Bound(what, after / before, 1.25) for what, before, after in cases]
    text = (
        "Budget and breaker on; in multiples of a bare try/except measured at the same time, so "
        "that what the machine does meanwhile cancels."
    )
    return Section("What must not grow", text, ["", "before", "after"], rows, bounds)


def _named(number: int) -> Callable[[], int]:
    def function() -> int:
        return 1

    function.__qualname__ = f"function_{number}"  # each has a circuit of its own
    return function


def _caught(function: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        try:
            function()
        except ConnectionResetError:
            pass

    return call


def main(what: str, who: str, calls: str) -> None:
    """Measure one thing in this process, and print it as JSON."""
    peers.logging_off()
    measured: Any = {"memory": _memory, "lag": _lag}[what](who, int(calls))
    print(json.dumps(asyncio.run(measured)))


if __name__ == "__main__":
    if sys.argv[1:]:
        main(*sys.argv[1:])
    else:
        for section in sections(FULL):
            print(section, end="\n\n")
