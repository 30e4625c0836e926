"""A worker that is offered three times what it can do: without a limit, with a fixed one, adaptive.

The worker's handlers share 4 places of 0.2 s each, as a pool of connections does. Everything runs
through `resilient` and the LoopbackEngine in real time. Usage:

    python benchmarks/bench_limit.py [seconds] [sync]
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import attrs

from iii_resilience import Limit, RetryPolicy, classify, resilient

PLACES, SECONDS = 4, 0.2
CAPACITY = PLACES / SECONDS
LIMITS = {
    "none": None,
    "`Limit(concurrency=4)`": Limit(concurrency=4),
    "`Limit(adaptive=True, low=2, high=50)`": Limit(adaptive=True, low=2, high=50),
}
TIMEOUT_MS = 2000


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

    async def work(data: Any) -> None:
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
    """Calls a second that are answered to as many callers as there are places, one after another."""
    count = 0
    until = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < until:
            await client.trigger_async({"function_id": "bench::work", "payload": {}})
            count += 1

    await asyncio.gather(*(caller() for _ in range(PLACES)))
    return count / (seconds + SECONDS)


def quantile(values: list[float], part: float) -> float:
    """The value that a part of all lie below."""
    return sorted(values)[int(part * len(values))]


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
        alone, _ = asyncio.run(offer(client, 0.1 * CAPACITY, 10))
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


def main() -> None:
    """Measure each limit and print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    os.environ["OTEL_ENABLED"] = "false"
    print(
        "| limit | answered, of capacity | p50, ms | p99, ms | p99, of unloaded | limit at the end |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as home:
        os.environ["HOME"] = home
        able = None
        for name, limit in LIMITS.items():
            found = run(limit, seconds, able)
            able = able or found.capacity
            within = [took for at, took in found.done if at <= seconds]
            p99 = quantile(within, 0.99)
            print(
                f"| {name} | {len(within) / seconds / able:.3f} "
                f"| {statistics.median(within) * 1000:.0f} | {p99 * 1000:.0f} "
                f"| {p99 / quantile(found.alone, 0.99):.2f} "
                f"| {found.last[0] if found.last else '-'} |",
                flush=True,
            )
        print(f"\nCapacity: {able:.1f} calls a second ({CAPACITY:.0f} by the sum).")


if __name__ == "__main__":
    main()
