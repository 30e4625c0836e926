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
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from iii_resilience import RetryPolicy, classify, resilient
from iii_resilience.sdk.payload_check import check_payload

# A real engine loses one answer in about 1500 (docs/engine-notes.md, "Lost answers"): such a call
# is dropped from the figures and counted.
TIMEOUT_MS = 2000
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
    try:
        pipe.send(True)
        with suppress(EOFError):
            pipe.recv()
    finally:
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


def lost(error: Exception) -> bool:
    """Whether an answer never came; any other error ends the benchmark.

    Where a thousand calls wait for their turn to leave, the SDK's own timeout may begin so late
    that the library's ends the call first.
    """
    return classify(error).code in {"TIMEOUT", "CONNECTION_LOST"}


class Figures:
    """The times of both ways of calling, and how many answers were lost.

    Args:
        name: What is measured.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.times: dict[str, list[float]] = {"bare": [], "ours": []}
        self.lost = {"bare": 0, "ours": 0}

    def failed(self, way: str, error: Exception) -> None:
        """Count a lost answer, or raise."""
        if not lost(error):
            raise error
        self.lost[way] += 1

    def row(self) -> str:
        """The medians, what ours is of the bare one, and the lost answers of both."""
        before, after = (statistics.median(self.times[way]) for way in ("bare", "ours"))
        counted = f"{self.lost['bare']} / {self.lost['ours']}"
        return f"| {self.name} | {before:.0f} | {after:.0f} | {after / before:.3f} | {counted} |"


def measure(url: str, calls: int) -> None:
    """Call through both, in turn, so that what the machine does meanwhile meets both alike."""
    from iii import register_worker

    client = register_worker(url, options("caller"))
    wrapped = resilient(client, policies=POLICY)
    try:
        _measure(client, wrapped, calls)
    finally:
        wrapped.shutdown()


def _measure(client: Any, wrapped: Any, calls: int) -> None:
    request = {"function_id": "bench::echo", "payload": SMALL, "timeout_ms": TIMEOUT_MS}
    wrapped.trigger(request)  # waits until the function is there

    def bare() -> object:
        return client.trigger(request)

    def ours() -> object:
        # Not repeated: a lost answer is to be counted, not hidden in a longer call.
        return wrapped.trigger(request)

    print("| | bare SDK, µs | resilient, µs | ratio | lost answers |")
    print("| --- | --- | --- | --- | --- |")
    figures = Figures("`trigger`, 200 bytes")
    for number in range(calls):
        pair = [("bare", bare), ("ours", ours)]
        for way, call in pair if number % 2 else reversed(pair):
            try:
                figures.times[way].append(microseconds(call))
            except Exception as error:
                figures.failed(way, error)
    print(figures.row())

    async def on_own_loop() -> None:
        figures = Figures("`trigger_async`, 200 bytes")
        for number in range(calls):
            pair: list[tuple[str, Callable[[], Awaitable[object]]]] = [
                ("bare", lambda: client.trigger_async(request)),
                ("ours", lambda: wrapped.trigger_async(request)),
            ]
            for way, call in pair if number % 2 else reversed(pair):
                try:
                    figures.times[way].append(await microseconds_async(call))
                except Exception as error:
                    figures.failed(way, error)
        print(figures.row())

    asyncio.run(on_own_loop())


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


def served(measured: Callable[[str], object]) -> None:
    """Start an engine and a worker, measure against the engine's URL, and stop them.

    Args:
        measured: Is given the URL of the engine.
    """
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
            measured(url)
        finally:
            ours.send(None)
            second.join()
            if first is not None:
                here.send(None)
                first.join()


def main() -> None:
    """Start an engine and a worker, measure, and stop them."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    served(lambda url: measure(url, calls))
    measure_checks()


if __name__ == "__main__":
    main()
