"""A worker that is offered three times what it can do: without a limit, with a fixed one, adaptive.

Its handlers share a few places, as a pool of connections does; calls arrive with random gaps for 30
seconds. In virtual time, or with ``real`` through `resilient` and the LoopbackEngine. That needs an
idle machine: three processes that share less than two cores measure each other. Usage:

    python benchmarks/bench_limit.py [real]
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import attrs
from served_pool import Fixed, LimitOfCalls, Pool
from table import Bound, Section

from iii_resilience import Limit, RetryPolicy, classify, resilient
from iii_resilience.core.guards.latency_gradient import LatencyGradient

FOR = 30.0
TIMEOUT_MS = 2000
COLUMNS = (
    "limit",
    "answered, of capacity",
    "p50, ms",
    "p99, ms",
    "of unloaded p99",
    "last limit",
)
NONE = "none"

# In virtual time.
MANY, QUICK = 20, 0.1
VIRTUAL: dict[str, Callable[[], LimitOfCalls]] = {
    NONE: lambda: Fixed(1_000_000),
    "`Limit(concurrency=20)`": lambda: Fixed(MANY),
    "`Limit(adaptive=True, low=5, high=200)`": lambda: LatencyGradient(5, 200, 5, 0.0),
}

# In real time: fewer calls, which three processes can make on two cores.
PLACES, SECONDS = 4, 0.2
CAPACITY = PLACES / SECONDS
LIMITS = {
    NONE: None,
    "`Limit(concurrency=4)`": Limit(concurrency=4),
    "`Limit(adaptive=True, low=2, high=50)`": Limit(adaptive=True, low=2, high=50),
}


def options(name: str) -> Any:
    """The SDK's options for a client of that name."""
    from iii import InitOptions

    return InitOptions(worker_name=name, otel={"enabled": False})


def engine(pipe: Connection) -> None:
    """A LoopbackEngine until the pipe closes."""
    from iii_resilience.testing import LoopbackEngine

    with LoopbackEngine(keep=1) as running:
        pipe.send(running.url)
        pipe.recv()


def worker(url: str, limit: Limit | None, pipe: Connection) -> None:
    """A worker with that limit until the pipe closes."""
    import logging

    from iii import register_worker

    logging.disable(logging.CRITICAL)  # the SDK writes a stack trace for each refusal
    client = resilient(register_worker(url, options("worker")), limit=limit)
    places: list[asyncio.Semaphore] = []

    async def work(_: Any) -> None:
        if not places:
            places.append(asyncio.Semaphore(PLACES))
        async with places[0]:
            await asyncio.sleep(SECONDS)

    client.register_function("bench::work", work)
    try:
        pipe.send(True)
        with suppress(EOFError):
            pipe.recv()
        pipe.send([use.limit for use in client.health().limits])
    finally:
        client.shutdown()


async def offer(client: Any, rate: float, seconds: float) -> tuple[list[tuple[float, float]], int]:
    """Call at that rate with random gaps: when calls ended and how long they took, and failures."""
    done: list[tuple[float, float]] = []
    failed: list[str] = []
    since = time.perf_counter()

    async def call() -> None:
        began = time.perf_counter()
        request = {"function_id": "bench::work", "payload": {}, "timeout_ms": TIMEOUT_MS}
        try:
            await client.trigger_async(request)
        except Exception as error:
            failed.append(classify(error).code)
        else:
            now = time.perf_counter()
            done.append((now - since, now - began))

    tasks = []
    at, gaps = 0.0, random.Random(1)
    while at < seconds:
        at += gaps.expovariate(rate)
        await asyncio.sleep(max(0.0, since + at - time.perf_counter()))
        tasks.append(asyncio.create_task(call()))
    await asyncio.gather(*tasks)
    return done, len(failed)


async def capacity(client: Any, seconds: float) -> float:
    """Calls a second that are answered where there are always callers that wait for a place."""
    count = 0
    until = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < until:
            await client.trigger_async({"function_id": "bench::work", "payload": {}})
            count += time.perf_counter() < until

    await asyncio.gather(*(caller() for _ in range(2 * PLACES)))
    return count / seconds


def quantile(values: list[float], part: float) -> float:
    """The value that a part of all lie below."""
    return sorted(values)[int(part * (len(values) - 1))]


@attrs.frozen
class Figures:
    """What one limit did.

    Attributes:
        alone: Latencies of a worker that has little to do, in seconds.
        capacity: Calls a second that it can answer, without a limit.
        done: Under overload: when each answered call ended, and how long it took, in seconds.
        last: The limits at the end.
    """

    alone: list[float]
    capacity: float
    done: list[tuple[float, float]]
    last: list[int]


def run(limit: Limit | None, seconds: float, able: float | None) -> Figures:
    """Measure one limit.

    Args:
        limit: The limit.
        seconds: How long the overload lasts.
        able: The capacity that was measured without a limit; None where there is none.
    """
    from iii import register_worker

    context = multiprocessing.get_context("spawn")
    (here, there), (ours, theirs) = context.Pipe(), context.Pipe()
    first = context.Process(target=engine, args=(there,))
    first.start()
    url = here.recv()
    second = context.Process(target=worker, args=(url, limit, theirs))
    second.start()
    ours.recv()
    client = resilient(register_worker(url, options("caller")), policies=RetryPolicy(attempts=1))
    try:
        client.trigger({"function_id": "bench::work", "payload": {}})
        alone, _ = asyncio.run(offer(client, 0.25 * CAPACITY, 20))
        able = able or asyncio.run(capacity(client, 10))
        done, _ = asyncio.run(offer(client, 3 * CAPACITY, seconds))
    finally:
        ours.send(None)
        last = ours.recv()
        second.join()
        client.shutdown()
        here.send(None)
        first.join()
    return Figures([took for _, took in alone], able, done, last)


@attrs.frozen
class Answered:
    """What became of the calls under one limit.

    Attributes:
        name: The limit.
        part: Calls that were answered in time, of those that the capacity allows.
        took: Their latencies, in seconds.
        alone: Those of a worker that has little to do.
        last: The limit at the end.
    """

    name: str
    part: float
    took: list[float]
    alone: list[float]
    last: object

    @property
    def slower(self) -> float:
        """Their 99th percentile, of that of a worker that has little to do."""
        return quantile(self.took, 0.99) / quantile(self.alone, 0.99)

    @property
    def row(self) -> list[str]:
        """One row of the table."""
        milliseconds = (f"{quantile(self.took, part) * 1000:.0f}" for part in (0.5, 0.99))
        return [
            self.name,
            f"{self.part:.2f}",
            *milliseconds,
            f"{self.slower:.1f}",
            str(self.last),
        ]

    @property
    def bounds(self) -> list[Bound]:
        """What has to hold with a limit."""
        return [
            Bound(f"{self.name}: not answered, of capacity", max(0.0, 1 - self.part), 0.1),
            Bound(f"{self.name}: p99, of the unloaded one", self.slower, 3.0),
        ]


def virtual(seconds: float) -> Iterator[Answered]:
    """The rows in virtual time."""
    able = MANY / QUICK
    alone = Pool(MANY, lambda _: QUICK).run(Fixed(MANY), 0.1 * able, 600)
    for name, make in VIRTUAL.items():
        limit = make()
        served = Pool(MANY, lambda _: QUICK).run(limit, 3 * able, seconds)
        took = [one.latency for one in served if one.latency <= TIMEOUT_MS / 1000]
        last = "-" if name == NONE else limit.limit
        part = len(took) / seconds / able
        yield Answered(name, part, took, [one.latency for one in alone], last)


def real(seconds: float) -> Iterator[Answered]:
    """The rows in real time."""
    able = None
    for name, limit in LIMITS.items():
        found = run(limit, seconds, able)
        able = able or found.capacity
        took = [took for at, took in found.done if at <= seconds]
        last = found.last[0] if found.last else "-"
        yield Answered(name, len(took) / seconds / able, took, found.alone, last)


def limits(*, quick: bool, in_real_time: bool = True) -> Iterator[Section]:
    """A worker that is offered three times what it can do, in virtual and in real time."""
    seconds = 10.0 if quick else FOR
    how = [("in virtual time", virtual, MANY, QUICK)]
    if in_real_time:
        how.append(("in real time", real, PLACES, SECONDS))
    os.environ["OTEL_ENABLED"] = "false"
    for when, measured, places, each in how:
        with tempfile.TemporaryDirectory() as home:
            os.environ["HOME"] = home
            found = list(measured(seconds))
        yield Section(
            f"A worker that is offered three times its capacity, {when}",
            f"Its handlers share {places} places of {each:g} s. Calls arrive at random for "
            f"{seconds:g} s, with a timeout of {TIMEOUT_MS / 1000:g} s and one attempt each.",
            COLUMNS,
            [one.row for one in found],
            [bound for one in found if one.name != NONE for bound in one.bounds],
        )


def main() -> None:
    """Measure each limit and print the tables."""
    for section in limits(quick=False, in_real_time="real" in sys.argv[1:]):
        print(section, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
