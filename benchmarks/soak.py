"""Many minutes of calls under random faults: does anything pile up in the caller's process?

Eight threads and thirty coroutines call through one client, while the engine restarts, stalls, cuts
connections, loses answers and invents errors, and the worker is killed. Each half minute the
process's threads, tasks, open files and memory are counted. Usage:

    make soak              # 10 minutes
    make soak SECONDS=60
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from iii import InitOptions, register_worker
from iii.iii_constants import ReconnectionConfig
from support.processes import ECHO, Engine, Worker

from iii_resilience import Backoff, RetryPolicy, classify, report_for, resilient
from iii_resilience.client.resilient import Resilient

THREADS, TASKS = 8, 30
POLICY = RetryPolicy(
    deadline=8.0, backoff=Backoff(base=0.05, cap=0.5, throttled_base=0.1), ready_timeout=3.0
)
INJECTED: list[tuple[str, dict[str, Any]]] = [
    ("Drop", {}),
    ("DropAnswer", {}),
    ("Delay", {"seconds": 0.5}),
    ("CutCaller", {}),
    ("CutCaller", {"after_execution": True}),
    ("AnswerError", {"code": "timeout", "message": "too slow"}),
    ("AnswerError", {"code": "FORBIDDEN", "message": "no"}),
    ("AnswerError", {"code": "invocation_stopped", "message": "Invocation stopped"}),
]


@attrs.frozen
class Sample:
    """What there is in the process at one moment.

    Attributes:
        at: Seconds since the start.
        calls: How many calls have ended.
        failed: How many of them failed.
        threads: Threads that live.
        tasks: Tasks on the SDK's event loop.
        files: Open file descriptors.
        mebibytes: Resident memory.
    """

    at: float
    calls: int
    failed: int
    threads: int
    tasks: int
    files: int
    mebibytes: float


class Faults:
    """Does something to the engine or the worker every second or so, on a thread of its own."""

    def __init__(
        self, engine: Engine, start: Callable[[], Worker], *, over: threading.Event
    ) -> None:
        self._engine = engine
        self._start = start
        self._over = over
        self._worker = start().register()
        self._spare = start()
        self.counts: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        kinds = [self._inject] * 6 + [self._restart, self._kill, self._stall, self._close]
        while not self._over.wait(random.uniform(0.3, 1.7)):
            kind = random.choice(kinds)
            self.counts[kind.__name__.strip("_")] += 1
            kind()

    def _inject(self) -> None:
        name, arguments = random.choice(INJECTED)
        self._engine.call("inject", ECHO, name, arguments)

    def _restart(self) -> None:
        self._engine.call("restart", random.uniform(0.0, 1.0))

    def _kill(self) -> None:
        self._worker.kill()
        self._over.wait(random.uniform(0.0, 0.5))
        self._worker, self._spare = self._spare.register(), self._start()

    def _stall(self) -> None:
        self._engine.call("stall")
        self._over.wait(random.uniform(0.1, 1.0))
        self._engine.call("resume")

    def _close(self) -> None:
        self._engine.call("disconnect", None, random.choice([None, 1000, 1001, 1011]))

    def end(self) -> None:
        """No more of them."""
        self._thread.join()
        self._worker.end()
        self._spare.end()


class Calls:
    """The calls, and how they ended."""

    def __init__(self, worker: Resilient, over: threading.Event) -> None:
        self._worker = worker
        self._over = over
        self.codes: Counter[str] = Counter()
        self.late = 0
        self._threads = [threading.Thread(target=self._in_thread) for _ in range(THREADS)]
        self._threads.append(threading.Thread(target=lambda: asyncio.run(self._in_tasks())))
        for thread in self._threads:
            thread.start()

    def _request(self) -> dict[str, Any]:
        payload = {"order": "soak", "work": random.uniform(0.0, 0.02), "text": "x" * 2000}
        return {"function_id": ECHO, "payload": payload, "timeout_ms": 1500}

    def _in_thread(self) -> None:
        while not self._over.wait(random.uniform(0.02, 0.1)):
            began = time.monotonic()
            try:
                self._worker.trigger(self._request(), idempotent=True)
                self._ended("ok", began)
            except Exception as error:
                report_for(error)
                self._ended(classify(error).code, began)

    async def _in_tasks(self) -> None:
        await asyncio.gather(*(self._in_task() for _ in range(TASKS)))

    async def _in_task(self) -> None:
        while not self._over.is_set():
            await asyncio.sleep(random.uniform(0.02, 0.2))
            began = time.monotonic()
            call = self._worker.trigger_async(self._request(), idempotent=True)
            try:
                # Now and then the user has no patience.
                await (asyncio.wait_for(call, 0.05) if random.random() < 0.05 else call)
                self._ended("ok", began)
            except TimeoutError:
                self._ended("cancelled", began)
            except Exception as error:
                self._ended(classify(error).code, began)

    def _ended(self, code: str, began: float) -> None:
        self.codes[code] += 1
        self.late += time.monotonic() - began > (POLICY.deadline or 0) + 1

    def end(self) -> None:
        """No more of them."""
        for thread in self._threads:
            thread.join()


def sample(worker: Any, calls: Calls, began: float) -> Sample:
    """Count everything."""
    codes = calls.codes.copy()
    done = sum(codes.values())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        at=time.monotonic() - began,
        calls=done,
        failed=done - codes["ok"] - codes["cancelled"],
        threads=threading.active_count(),
        tasks=len(asyncio.all_tasks(worker._loop)),  # noqa: SLF001 - nowhere else to look
        files=sum(1 for _ in Path("/proc/self/fd").iterdir()),
        mebibytes=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
    )


def main() -> None:
    """Call, disturb, count, and print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    os.environ["OTEL_ENABLED"] = "false"
    logging.disable(logging.CRITICAL)  # of what goes wrong, which is the point
    over = threading.Event()
    with tempfile.TemporaryDirectory() as name:
        os.environ["HOME"] = name
        home = Path(name)
        with Engine(home) as engine:
            numbers = iter(range(1 << 30))

            def start() -> Worker:
                return Worker(engine.url, f"soak-{next(numbers)}", Path(os.devnull), home=home)

            faults = Faults(engine, start, over=over)
            options = InitOptions(
                worker_name="soak-caller",
                otel={"enabled": False},
                reconnection_config=ReconnectionConfig(initial_delay_ms=50, max_delay_ms=200),
            )
            worker = resilient(register_worker(engine.url, options), policies=POLICY)
            calls = Calls(worker, over)
            began = time.monotonic()
            print("| s | calls | failed | threads | tasks | files | MiB |")
            print("| --- | --- | --- | --- | --- | --- | --- |")
            while time.monotonic() - began < seconds:
                time.sleep(min(30.0, seconds / 4))
                row = sample(worker, calls, began)
                print(
                    f"| {row.at:.0f} | {row.calls} | {row.failed} | {row.threads} | {row.tasks} "
                    f"| {row.files} | {row.mebibytes:.1f} |",
                    flush=True,
                )
            over.set()
            calls.end()
            faults.end()
            worker.shutdown()
            left = len(worker._connection.in_flight)  # noqa: SLF001 - nowhere else to look
    print(f"\nended: {dict(calls.codes.most_common())}; past the deadline: {calls.late}")
    print(f"faults: {dict(faults.counts.most_common())}")
    print(f"after shutdown(): {threading.active_count()} threads, {left} calls in flight")


if __name__ == "__main__":
    main()
