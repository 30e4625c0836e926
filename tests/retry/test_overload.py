"""What the budget promises, seen from outside: through the decorator, with a clock of its own."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from iii_resilience import Budget, RetryPolicy, iii_retry

if TYPE_CHECKING:
    from conftest import FakeClock

CALLS = 10_000
POLICY = RetryPolicy()  # as shipped, but a budget of its own in every test


@pytest.fixture(autouse=True)
def without_a_log(caplog: pytest.LogCaptureFixture) -> None:
    """A record for each of ten thousand decisions would take longer than all the rest."""
    caplog.set_level(logging.CRITICAL, "iii_resilience")


class Service:
    """A function that fails at random, or always; it counts its calls."""

    def __init__(self, failing: float, seed: int = 0) -> None:
        self.failing = failing
        self.random = random.Random(seed)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.random.random() < self.failing:
            raise ConnectionResetError
        return "done"


def decorated(service: Service, how: str, **options: Any) -> Callable[[], object]:
    """The service behind the decorator, as something that is called, sync or async."""
    if how == "sync":
        return iii_retry(idempotent=True, **options)(service.__call__)

    @iii_retry(idempotent=True, **options)
    async def call() -> str:
        return service()

    def to_its_end() -> None:
        # Nothing in it waits, so it needs no event loop: ten thousand of them would take longer.
        with contextlib.suppress(StopIteration):
            call().send(None)

    return to_its_end


def succeeded(
    call: Callable[[], object], clock: FakeClock, *, rate: float, calls: int = CALLS
) -> int:
    """How many of the calls succeed that come at a rate; delays let time pass too."""
    count = 0
    for _ in range(calls):
        clock.now += 1 / rate
        try:
            call()
        except ConnectionResetError:
            continue
        count += 1
    return count


@pytest.mark.parametrize(("how", "calls", "rate"), [("sync", CALLS, 1e4), ("async", 2_000, 100.0)])
def test_at_total_failure_retries_end(how: str, calls: int, rate: float, clock: FakeClock) -> None:
    budget, began = Budget(), clock.now
    service = Service(failing=1.0)
    call = decorated(service, how, policy=POLICY.replace(budget=budget))
    assert succeeded(call, clock, rate=rate, calls=calls) == 0
    most = budget.burst + budget.min_per_second * (clock.now - began)
    assert calls < service.calls <= calls + most


def test_retries_come_back_with_success(clock: FakeClock) -> None:
    service = Service(failing=1.0)
    call = decorated(service, "sync", policy=POLICY.replace(budget=Budget(min_per_second=0)))
    succeeded(call, clock, rate=1_000.0, calls=200)
    service.failing = 0.0
    succeeded(call, clock, rate=1_000.0, calls=200)
    service.failing, before = 0.3, service.calls
    assert succeeded(call, clock, rate=1_000.0, calls=1_000) > 985
    assert service.calls - before > 1_300


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("failing", [0.01, 0.05])
@pytest.mark.parametrize("rate", [20.0, 1_000.0])
def test_at_five_percent_failures_budget_costs_no_success(
    rate: float, failing: float, seed: int, clock: FakeClock
) -> None:
    shares = []
    for budget in (Budget(), None):
        call = decorated(Service(failing, seed), "sync", policy=POLICY.replace(budget=budget))
        shares.append(succeeded(call, clock, rate=rate) / CALLS)
    budgeted, unlimited = shares
    assert unlimited > 0.9999
    assert abs(budgeted - unlimited) <= 0.001


def test_the_same_for_coroutines(clock: FakeClock) -> None:
    call = decorated(Service(0.05), "async", policy=POLICY.replace(budget=Budget()))
    assert succeeded(call, clock, rate=100.0) / CALLS > 0.999
