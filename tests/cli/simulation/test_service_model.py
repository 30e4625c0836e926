"""The service of a simulation against the formulas of queues, and what incidents do to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from iii_resilience.cli.simulation.scenario import Incident, Service, Shedding
from iii_resilience.cli.simulation.service_model import ServiceModel, SimulatedError, _draw
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.testing.virtual_time import run_in_virtual_time

F = "a::f"


async def nothing_nested(following: str, request: dict[str, Any]) -> Any:
    raise AssertionError(following)


class Bench:
    """A service, and the answers of calls that are placed at given times."""

    def __init__(self, settings: Service, nested: Any = nothing_nested) -> None:
        self.service = ServiceModel(F, settings, nested)
        self.began = time.monotonic()
        self.random = Random(1)

    async def call(self, at: float = 0.0) -> tuple[float, str]:
        """When the answer came, and its code; ``ok`` for a success."""
        await asyncio.sleep(self.began + at - time.monotonic())
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.service.place({"function_id": F, "payload": {}}, reply, self.random)
        try:
            await reply
        except SimulatedError as error:
            return time.monotonic() - self.began, classify(error, function_id=F).code
        return time.monotonic() - self.began, "ok"

    async def calls(self, *times: float) -> list[tuple[float, str]]:
        found = await asyncio.gather(*map(self.call, times))
        return [(round(at, 6), code) for at, code in found]

    async def during(self, at: float, *incidents: Incident) -> None:
        await asyncio.sleep(self.began + at - time.monotonic())
        self.service.apply(incidents)


def run(settings: Service, story: Callable[[Bench], Awaitable[Any]], **more: Any) -> Any:
    async def main() -> Any:
        return await story(Bench(settings, **more))

    return run_in_virtual_time(main())


def test_slots_are_served_at_once_and_rest_in_turn() -> None:
    found = run(Service(slots=2, service_time=1.0), lambda bench: bench.calls(0, 0, 0, 0, 0.5))
    assert found == [(1.0, "ok"), (1.0, "ok"), (2.0, "ok"), (2.0, "ok"), (3.0, "ok")]


def test_sharing_divides_speed() -> None:
    settings = Service(slots=1, service_time=1.0, discipline="sharing")
    found = run(settings, lambda bench: bench.calls(0, 0.5))
    # Alone until 0.5, then at half speed: 0.5 left takes until 1.5; then the other has 0.5 left.
    assert found == [(1.5, "ok"), (2.0, "ok")]


def test_change_of_speed_counts_for_what_is_under_way() -> None:
    async def story(bench: Bench) -> Any:
        slow = bench.during(0.5, Incident(0, 1, capacity=0.1))
        fast = bench.during(1.5)
        return (await asyncio.gather(bench.calls(0), slow, fast))[0]

    # Half by 0.5, a tenth of the speed for a second, the remaining 0.4 at full speed.
    assert run(Service(service_time=1.0), story) == [(1.9, "ok")]


def test_service_that_stands_still_goes_on_later() -> None:
    async def story(bench: Bench) -> Any:
        still = bench.during(0.5, Incident(0, 1, capacity=0.0))
        goes_on = bench.during(10)
        return (await asyncio.gather(bench.calls(0), still, goes_on))[0]

    assert run(Service(service_time=1.0), story) == [(10.5, "ok")]


@pytest.mark.parametrize("distribution", ["fixed", "uniform", "exponential", "lognormal"])
def test_distributions_have_mean_one(distribution: str) -> None:
    random = Random(7)
    drawn = [_draw(distribution, random) for _ in range(100_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(1.0, abs=0.03)
    assert min(drawn) >= 0
    assert (len(set(drawn)) == 1) == (distribution == "fixed")


def test_mean_wait_is_that_of_queueing_theory() -> None:
    """M/M/1 at 70 %: a call is in the system for 1 / (1 - 0.7) service times on average."""

    async def story(bench: Bench) -> float:
        arrivals, at, times = Random(3), 0.0, []
        for _ in range(20_000):
            at += arrivals.expovariate(0.7)
            times.append(at)
        found = await asyncio.gather(*map(bench.call, times))
        return sum(end - start for (end, _), start in zip(found, times, strict=True)) / len(times)

    mean = run(Service(slots=1, service_time=1.0, distribution="exponential"), story)
    assert mean == pytest.approx(1 / (1 - 0.7), rel=0.15)


def test_killed_worker_ends_its_calls_and_is_not_found() -> None:
    async def story(bench: Bench) -> Any:
        down = bench.during(0.5, Incident(0, 1, down="worker"))
        back = bench.during(2.0)
        return (await asyncio.gather(bench.calls(0, 0, 1.0, 2.1), down, back))[0]

    found = run(Service(slots=1, service_time=1.0), story)
    assert found == [
        (0.5, "invocation_stopped"),
        (0.5, "invocation_stopped"),
        (1.0, "function_not_found"),
        (3.1, "ok"),
    ]


def test_missing_function_is_proof_that_nothing_ran() -> None:
    async def story(bench: Bench) -> Any:
        bench.service.apply([Incident(0, 1, down="worker")])
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        bench.service.place({"function_id": F}, reply, bench.random)
        return classify(reply.exception(), function_id=F)

    failure = run(Service(), story)
    assert (failure.category, failure.execution) == (Category.NOT_FOUND, Execution.NOT_EXECUTED)


def test_part_of_calls_fails_with_code() -> None:
    async def story(bench: Bench) -> Any:
        bench.service.apply([Incident(0, 1, error_rate=0.3, code="TIMEOUT")])
        return await bench.calls(*(0.01 * number for number in range(1000)))

    codes = [code for _, code in run(Service(slots=10_000), story)]
    assert 250 < codes.count("TIMEOUT") < 350
    assert codes.count("ok") == 1000 - codes.count("TIMEOUT")


def test_errors_of_incidents_at_once_come_together() -> None:
    async def story(bench: Bench) -> Any:
        bench.service.apply([Incident(0, 1, error_rate=0.5), Incident(0, 1, error_rate=0.5)])
        return await bench.calls(*(0.01 * number for number in range(1000)))

    codes = [code for _, code in run(Service(slots=10_000), story)]
    assert 700 < codes.count("invocation_error") < 800


def test_full_queue_refuses_at_once() -> None:
    found = run(Service(slots=1, service_time=1.0, queue=1), lambda bench: bench.calls(0, 0, 0))
    assert found[:2] == [(1.0, "ok"), (2.0, "ok")]
    assert found[2][0] == 0.0
    assert found[2][1] != "ok"


def test_refusal_of_full_worker_is_transient() -> None:
    async def story(bench: Bench) -> Any:
        bench.service.place({}, asyncio.get_running_loop().create_future(), bench.random)
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        bench.service.place({}, reply, bench.random)
        return classify(reply.exception(), function_id=F)

    failure = run(Service(slots=1, queue=0), story)
    assert failure.category is Category.TRANSIENT
    assert failure.retry_after == pytest.approx(0.1)


def test_limit_refuses_what_would_wait_too_long() -> None:
    settings = Service(slots=1, service_time=1.0, limit=Shedding(concurrency=2, wait=0.5))
    found = run(settings, lambda bench: bench.calls(0, 0, 0, 0.8))
    # Two are taken; the third is refused after its wait; a place comes free at 1.0 for the fourth.
    assert [at for at, _ in found] == [1.0, 2.0, 0.5, 3.0]
    assert [code == "ok" for _, code in found] == [True, True, False, True]


@pytest.mark.parametrize("skips", [True, False])
def test_abandoned_attempts_are_skipped_where_asked(skips: bool) -> None:
    async def story(bench: Bench) -> Any:
        first = asyncio.create_task(bench.call(0))
        abandoned = asyncio.create_task(bench.call(0.1))
        last = asyncio.create_task(bench.call(0.2))
        await asyncio.sleep(0.5)
        abandoned.cancel()
        await first
        return (await last)[0]

    settings = Service(slots=1, service_time=1.0, skip_abandoned=skips)
    assert run(settings, story) == pytest.approx(2.0 if skips else 3.0)


def test_nested_call_keeps_slot_until_it_is_answered() -> None:
    async def nested(following: str, request: dict[str, Any]) -> Any:
        assert (following, request["function_id"]) == ("b::g", F)
        await asyncio.sleep(2.0)
        return "from b"

    found = run(
        Service(slots=1, service_time=1.0, calls="b::g"),
        lambda bench: bench.calls(0, 0),
        nested=nested,
    )
    assert found == [(3.0, "ok"), (6.0, "ok")]


def test_failed_nested_call_travels_as_handler_error() -> None:
    async def nested(following: str, request: dict[str, Any]) -> Any:
        raise SimulatedError("TIMEOUT", "b took too long", following)

    found = run(
        Service(slots=1, service_time=1.0, calls="b::g"),
        lambda bench: bench.calls(0),
        nested=nested,
    )
    assert found == [(1.0, "invocation_failed")]


def test_kill_ends_nested_calls_too() -> None:
    async def nested(following: str, request: dict[str, Any]) -> Any:
        await asyncio.sleep(100)

    async def story(bench: Bench) -> Any:
        down = bench.during(2.0, Incident(0, 1, down="worker"))
        back = bench.during(3.0)
        found = await asyncio.gather(bench.calls(0), down, back)
        assert bench.service._inside == 0
        return found[0]

    settings = Service(slots=1, service_time=1.0, calls="b::g")
    assert run(settings, story, nested=nested) == [(2.0, "invocation_stopped")]
