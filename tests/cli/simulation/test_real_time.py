"""A simulation against the same fleet in real time, on the loopback engine with the real SDK."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from random import Random
from typing import Any

import pytest
from iii import InitOptions, register_worker

from iii_resilience import PolicyBook, RetryPolicy, resilient
from iii_resilience.cli.simulation.row_run import RowSetting, run_row
from iii_resilience.cli.simulation.scenario import Calls, Incident, Scenario, Service
from iii_resilience.testing import LoopbackEngine

F = "orders::save"
SMALL = Scenario(
    "small",
    16.0,
    Calls(rate=24, processes=4, timeout=1.0),
    {F: Service(slots=4, service_time=0.1)},
    (Incident(4.0, 7.0, capacity=0.2),),
)
SEED = 1


class RealFleet:
    """The scenario in real time: a worker that serves, and processes' clients that call."""

    def __init__(self, engine: LoopbackEngine, policy: RetryPolicy, stack: ExitStack) -> None:
        self.engine = engine
        self.attempts = self.calls = self.answered = 0
        service = SMALL.services[F]
        self.places: asyncio.Semaphore | None = None
        self.began = 0.0
        worker = register_worker(engine.url, InitOptions(worker_name="service"))
        stack.callback(worker.shutdown)

        async def serve(_: Any) -> dict[str, bool]:
            self.attempts += self.watched()
            self.places = self.places or asyncio.Semaphore(service.slots)
            async with self.places:
                (incident,) = SMALL.timetable
                slow = incident.start <= self.now() < incident.end
                await asyncio.sleep(service.service_time / (incident.capacity if slow else 1.0))
            return {"ok": True}

        worker.register_function(F, serve)
        engine.wait_registered(F)
        self.callers = []
        for number in range(SMALL.calls.processes):
            client = register_worker(engine.url, InitOptions(worker_name=f"caller {number}"))
            # A policy of its own, as a process has: the objects keep the state.
            own = policy.replace(budget=None if policy.budget is None else type(policy.budget)())
            caller = resilient(client, policies=PolicyBook({"default": own}))
            self.callers.append(stack.enter_context(caller))

    def now(self) -> float:
        return time.monotonic() - self.began

    def watched(self) -> bool:
        return SMALL.trouble[0] <= self.now() < SMALL.duration

    async def process(self, number: int) -> None:
        arrivals, at = Random(f"{SEED}:{number}"), 0.0
        calls = []
        while True:
            at += arrivals.expovariate(1.0) * SMALL.calls.processes / SMALL.calls.rate
            await asyncio.sleep(at - self.now())
            if self.now() >= SMALL.duration:
                break
            self.calls += self.watched()
            calls.append(asyncio.create_task(self.call(number)))
        await asyncio.wait(calls, timeout=5.0)

    async def call(self, number: int) -> None:
        request = {"function_id": F, "payload": {}, "timeout_ms": 1000 * SMALL.calls.timeout}
        try:
            await self.callers[number].trigger_async(request, idempotent=True)
        except Exception:
            return
        self.answered += 1

    async def run(self) -> float:
        self.began = time.monotonic()
        await asyncio.gather(*map(self.process, range(SMALL.calls.processes)))
        return self.attempts / self.calls


@pytest.mark.long
@pytest.mark.parametrize(
    "policy",
    [RetryPolicy(attempts=1, budget=None), RetryPolicy(), RetryPolicy(budget=None)],
    ids=["no retries", "default", "no budget"],
)
def test_load_is_that_of_real_time(policy: RetryPolicy) -> None:
    policy_set = PolicyBook({"default": policy}).policy_set
    simulated = run_row(RowSetting("row", policy_set, "default"), SMALL, SEED).load
    with ExitStack() as stack:
        engine = stack.enter_context(LoopbackEngine())
        fleet = RealFleet(engine, policy, stack)
        real = asyncio.run(fleet.run())
    print(f"load: simulated {simulated:.3f}, real {real:.3f}, answered {fleet.answered}")
    assert real == pytest.approx(simulated, rel=0.15)
