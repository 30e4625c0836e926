"""What `bench_fleet` measures in real time: a small fleet, and calls in flight at a kill.

The fleet is clients behind `resilient`, a LoopbackEngine in a process of its own, and a service of
slots behind the SDK; each client stands for a process. It is counted as in the simulation of the
same scenario.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
from iii import InitOptions, register_worker
from support.one_kill import through_decorator, through_trigger
from support.processes import Engine
from table import Bound, Section

from iii_resilience import Limit, RetryPolicy, report_for, resilient
from iii_resilience.cli.simulation.measurement import Recorder, Row
from iii_resilience.cli.simulation.row_run import RowSetting, run_row
from iii_resilience.cli.simulation.scenario import FUNCTION, Calls, Incident, Scenario, Service
from iii_resilience.config.policy_set import PolicySet


def run_live(scenario: Scenario, policy: Callable[[], RetryPolicy], seed: int, home: Path) -> Row:
    """Run a scenario in real time.

    Args:
        scenario: What happens: one service, whose worker has a limit if it is to skip abandoned
            attempts, and incidents that change its speed.
        policy: Makes the policy of one client.
        seed: Of the arrivals.
        home: A directory for what the engine leaves behind.
    """
    with Engine(home) as engine:
        live = _Live(scenario, seed)
        clients = [_client(engine.url, f"client-{n}") for n in range(scenario.calls.processes)]
        for client in clients:
            live.count_attempts(client)
        callers = [resilient(client, policies=policy()) for client in clients]
        served = _client(engine.url, "service")
        worker = resilient(served)
        try:
            function_id, calls = scenario.calls.function, scenario.calls
            service = scenario.services[function_id]
            if service.skip_abandoned:
                # Calls wait in front of the handler; the worker looks at their time as they start.
                limit = Limit(concurrency=service.slots, wait=calls.in_time)
                worker.register_function(function_id, live.serve, limit=limit)
            else:
                served.register_function(function_id, live.serve)
            engine.call("wait_registered", scenario.calls.function)
            return asyncio.run(live.run(callers))
        finally:
            for each in [*callers, worker]:
                each.shutdown()


def _client(url: str, name: str) -> Any:
    return register_worker(url, InitOptions(worker_name=name, otel={"enabled": False}))


class _Live:
    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._scenario = scenario
        self._seed = seed
        self._began = time.monotonic()
        self._slots: asyncio.Semaphore | None = None
        self._recorder = Recorder(
            scenario.duration, scenario.trouble, scenario.calls.in_time, self._clock
        )

    def count_attempts(self, client: Any) -> None:
        """Count what a client of the SDK sends to the service."""
        send, function_id = client.trigger_async, self._scenario.calls.function

        async def counted(request: Any) -> Any:
            if request["function_id"] == function_id:
                self._recorder.attempt(function_id, 0, 0.0)
            return await send(request)

        client.trigger_async = counted

    def _clock(self) -> float:
        return time.monotonic() - self._began

    async def serve(self, _: Any) -> dict[str, bool]:
        """One attempt, on the SDK's event loop: it waits for a slot, and takes its time."""
        settings = self._scenario.services[self._scenario.calls.function]
        if self._slots is None:
            self._slots = asyncio.Semaphore(settings.slots)
        async with self._slots:
            await asyncio.sleep(settings.service_time / self._speed())
        return {"ok": True}

    def _speed(self) -> float:
        now, speed = self._clock(), 1.0
        for incident in self._scenario.timetable:
            if incident.start <= now < incident.end:
                speed *= incident.capacity
        return speed

    async def run(self, callers: list[Any]) -> Row:
        """All calls, and what came of them."""
        for caller in callers:  # connected, and the function known: the first call waits for both
            await caller.trigger_async({"function_id": self._scenario.calls.function})
        self._began = time.monotonic()
        scenario = self._scenario
        self._recorder = Recorder(
            scenario.duration, scenario.trouble, scenario.calls.in_time, self._clock
        )
        await asyncio.gather(
            *(self._process(number, caller) for number, caller in enumerate(callers))
        )
        return self._recorder.measured("live")

    async def _process(self, number: int, caller: Any) -> None:
        calls = self._scenario.calls
        draw = random.Random(f"{self._seed}:{number}")
        at, each, started = 0.0, calls.processes / calls.rate, []
        while (at := at + each * draw.expovariate(1.0)) < self._scenario.duration:
            await asyncio.sleep(max(0.0, at - self._clock()))
            started.append(asyncio.create_task(self._one(caller)))
        await asyncio.gather(*started)

    async def _one(self, caller: Any) -> None:
        calls, recorder = self._scenario.calls, self._recorder
        request = {"function_id": calls.function, "timeout_ms": int(1000 * calls.timeout)}
        started = recorder.called()
        try:
            await caller.trigger_async(request, idempotent=True)
        except Exception as error:
            report = report_for(error)
            recorder.failed(started, "not_retryable" if report is None else report.reason.value)
        else:
            recorder.answered(started)


def kills(*, quick: bool) -> Iterator[Section]:
    """Calls in flight on something that is killed once, in real time."""
    settings = ((50, 0.0),) if quick else ((50, 0.0), (500, 0.0), (50, 0.05), (500, 0.05))
    logging.disable(logging.CRITICAL)
    rows, bounds = [], []
    for size, failing in settings:
        with TemporaryDirectory() as home:
            os.environ["HOME"] = home
            failed = {
                "`worker.trigger`, worker killed": through_trigger(
                    size, Path(home), failing=failing
                ),
                "`@iii_retry`, server restarted": through_decorator(size, failing=failing),
            }
        for name, count in failed.items():
            rows.append([name, str(size), f"{failing:.0%}", str(count)])
            what = f"{name}, {size} calls, {failing:.0%} at random, failed"
            bounds.append(Bound(what, count / size, 0.01))
    yield Section(
        "Calls in flight when a worker or server is killed",
        "All calls are in flight at once, in one process. The worker's process is killed (SIGKILL) "
        "and another one registers the function. The server resets all connections and accepts new "
        "ones at once. In real time, with the default policy. In the rows with failures at random, "
        "retries fail too, and so do 50 other calls a second that come before, meanwhile and "
        "after.",
        ("calls", "in flight", "attempts that fail at random", "failed"),
        rows,
        bounds,
    )


LIVE = Scenario(
    "live",
    60.0,
    Calls(rate=12.0, processes=10, in_time=20.0),
    {FUNCTION: Service(slots=4, service_time=0.2)},
    (Incident(5.0, 10.0, capacity=0.2),),
)


def run_real(seed: int, *, skip: bool) -> Row:
    """One run in real time, in a process of a pool."""
    logging.disable(logging.CRITICAL)
    with TemporaryDirectory() as home:
        os.environ["HOME"] = home
        return run_live(_live(skip=skip), RetryPolicy, seed, Path(home))


def run_virtual(seed: int, *, skip: bool) -> Row:
    """The same in virtual time."""
    policies = PolicySet({"default": RetryPolicy()})
    return run_row(RowSetting("virtual", policies, "default"), _live(skip=skip), seed)


def _live(*, skip: bool) -> Scenario:
    service = attrs.evolve(LIVE.services[FUNCTION], skip_abandoned=skip)
    return attrs.evolve(LIVE, services={FUNCTION: service})


def live(*, quick: bool) -> Iterator[Section]:
    """The simulation against real time."""
    seeds = range(1, 2 if quick else 6)
    rows, bounds = [], []
    for skip in (False, True):
        means = {}
        for name, once in (("real time", run_real), ("virtual time", run_virtual)):
            with ProcessPoolExecutor(len(seeds)) as processes:
                found = list(processes.map(partial(once, skip=skip), seeds))
            load = statistics.mean(row.load for row in found)
            again = statistics.mean(math.inf if r.recovery is None else r.recovery for r in found)
            means[name] = load, again
            does = "skips them" if skip else "serves them too"
            rows.append(
                [does, name, f"{load:.2f}", "never" if again == math.inf else f"{again:.0f} s"]
            )
        (real, real_again), (virtual, virtual_again) = means.values()
        what = f"abandoned attempts {'skipped' if skip else 'served'}"
        bounds.append(Bound(f"difference of loads, {what}", abs(real - virtual), 0.1))
        apart = abs(real_again - virtual_again)
        bounds.append(Bound(f"difference of recovery, {what}", apart, 5.0, "s"))
    calls = LIVE.calls
    yield Section(
        "Virtual time against real time",
        f"{calls.processes} clients behind `resilient`, {calls.rate:g} calls/s in all, and a "
        "worker with 4 slots of 0.2 s through a LoopbackEngine. From 5 s to 10 s it works at a "
        f"fifth of its speed. Means of {len(seeds)} runs, beside the simulation of the same.",
        ("abandoned attempts: the worker", "", "load", "again after"),
        rows,
        bounds,
    )
