"""What `resilient(worker)` adds to a successful call: against the bare SDK, alternating in one run.

The LoopbackEngine and the worker run in processes of their own; with ``III_URL`` the engine that
listens there takes the LoopbackEngine's place. Usage:

    python benchmarks/bench_trigger.py [calls]
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from iii_resilience import RetryPolicy, resilient
from iii_resilience.sdk.payload_check import check_payload

SMALL = {"order": "o-1", "note": "x" * 160}  # about 200 bytes on the wire
POLICY = RetryPolicy()


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


def worker(url: str, pipe: Connection) -> None:
    """A worker with an echo until the pipe closes."""
    from iii import register_worker

    client = register_worker(url, options("worker"))

    async def echo(data: Any) -> Any:
        return data

    client.register_function("bench::echo", echo)
    pipe.send(True)
    pipe.recv()
    client.shutdown()


def microseconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e6


async def microseconds_async(call: Callable[[], Awaitable[object]]) -> float:
    """As `microseconds`, for a coroutine."""
    began = time.perf_counter()
    await call()
    return (time.perf_counter() - began) * 1e6


def row(name: str, bare: list[float], ours: list[float]) -> None:
    """Print the medians, and what ours is of the bare one."""
    before, after = statistics.median(bare), statistics.median(ours)
    print(f"| {name} | {before:.0f} | {after:.0f} | {after / before:.3f} |")


def measure(url: str, calls: int) -> None:
    """Call through both, in turn, so that what the machine does meanwhile meets both alike."""
    from iii import register_worker

    client = register_worker(url, options("caller"))
    wrapped = resilient(client, policies=POLICY)
    request = {"function_id": "bench::echo", "payload": SMALL}
    wrapped.trigger(request)  # waits until the function is there

    def bare() -> object:
        return client.trigger(request)

    def ours() -> object:
        return wrapped.trigger(request, idempotent=True)

    print("| | bare SDK, µs | resilient, µs | ratio |\n| --- | --- | --- | --- |")
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    for number in range(calls):
        pair = [("bare", bare), ("ours", ours)]
        for name, call in pair if number % 2 else reversed(pair):
            times[name].append(microseconds(call))
    row("`trigger`, 200 bytes", times["bare"], times["ours"])

    async def on_own_loop() -> None:
        times: dict[str, list[float]] = {"bare": [], "ours": []}
        for number in range(calls):
            pair: list[tuple[str, Callable[[], Awaitable[object]]]] = [
                ("bare", lambda: client.trigger_async(request)),
                ("ours", lambda: wrapped.trigger_async(request, idempotent=True)),
            ]
            for name, call in pair if number % 2 else reversed(pair):
                times[name].append(await microseconds_async(call))
        row("`trigger_async`, 200 bytes", times["bare"], times["ours"])

    asyncio.run(on_own_loop())
    wrapped.shutdown()


PAYLOADS: dict[str, Any] = {
    "5000 records": [
        {"id": i, "name": f"n{i}", "price": i * 1.5, "tags": ["a", "b"]} for i in range(5000)
    ],
    "50 000 integers": list(range(50_000)),
    "50 000 floats": [1 / (i + 3) for i in range(50_000)],
    "2.4 MB of text": {"text": "lorem ipsum " * 200_000},
    "1 MB of text with escapes": {"text": 'a line of "text"\n' * 60_000},
    "1.4 MB of text, not ASCII": {"text": "höhe straße " * 100_000},
}


def measure_checks() -> None:
    """The payload check against one more ``json.dumps`` of the same payload."""
    print("\n| payload | json.dumps, ms | check, ms | ratio |\n| --- | --- | --- | --- |")
    for name, payload in PAYLOADS.items():
        dumps, check = [], []
        for _ in range(15):
            dumps.append(microseconds(partial(json.dumps, payload)) / 1000)
            check.append(microseconds(partial(check_payload, payload)) / 1000)
        before, after = min(dumps), min(check)
        print(f"| {name} | {before:.2f} | {after:.2f} | {after / before:.2f} |")


def main() -> None:
    """Start an engine and a worker, measure, and stop them."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    os.environ["OTEL_ENABLED"] = "false"
    with tempfile.TemporaryDirectory() as home:
        os.environ["HOME"] = home
        context = multiprocessing.get_context("spawn")
        (here, there), (ours, theirs) = context.Pipe(), context.Pipe()
        url, first = os.environ.get("III_URL"), None
        if url is None:
            first = context.Process(target=engine, args=(there,))
            first.start()
            url = here.recv()
        second = context.Process(target=worker, args=(url, theirs))
        second.start()
        ours.recv()
        try:
            measure(url, calls)
        finally:
            ours.send(None)
            second.join()
            if first is not None:
                here.send(None)
                first.join()
    measure_checks()


if __name__ == "__main__":
    main()
