"""Deadline, budget and breaker under freezegun: time passes where a test says ``tick()``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from freezegun import freeze_time

from iii_resilience import (
    Backoff,
    Breaker,
    Budget,
    CircuitOpenError,
    Reason,
    RetryPolicy,
    iii_retry,
    report_for,
)
from iii_resilience.testing import fake_clock

START = "2026-01-01"
AT_ONCE = Backoff(base=0.0, throttled_base=0.0)
TEN_SECONDS = Backoff(base=10.0, factor=1.0, jitter="none")


class Failing:
    """Fails, after so many seconds."""

    def __init__(self, frozen: Any, seconds: float = 0.0) -> None:
        self.frozen = frozen
        self.seconds = seconds
        self.calls = 0
        self.works = False

    def __call__(self) -> str:
        self.calls += 1
        if self.seconds:
            self.frozen.tick(self.seconds)
        if self.works:
            return "done"
        raise ConnectionResetError

    async def coroutine(self) -> str:
        return self()


def reason(error: BaseException) -> Reason:
    report = report_for(error)
    assert report is not None
    return report.reason


def ends(call: Callable[[], object]) -> Reason:
    with pytest.raises(ConnectionError) as caught:
        call()
    return reason(caught.value)


async def ends_async(call: Callable[[], Awaitable[object]]) -> Reason:
    with pytest.raises(ConnectionError) as caught:
        await call()
    return reason(caught.value)


DEADLINE = RetryPolicy(attempts=9, deadline=55.0, backoff=TEN_SECONDS, budget=None)


@pytest.mark.parametrize(("seconds", "attempts"), [(0.0, 6), (10.0, 3), (44.0, 2), (45.0, 1)])
def test_deadline(seconds: float, attempts: int) -> None:
    with freeze_time(START) as frozen, fake_clock(frozen):
        failing = Failing(frozen, seconds)
        assert ends(iii_retry(idempotent=True, policy=DEADLINE)(failing.__call__)) is (
            Reason.DEADLINE
        )
    assert failing.calls == attempts


@pytest.mark.parametrize(("seconds", "attempts"), [(0.0, 6), (10.0, 3), (44.0, 2), (45.0, 1)])
async def test_deadline_of_coroutine(seconds: float, attempts: int) -> None:
    with freeze_time(START, real_asyncio=True) as frozen, fake_clock(frozen):
        failing = Failing(frozen, seconds)
        assert await ends_async(iii_retry(idempotent=True, policy=DEADLINE)(failing.coroutine)) is (
            Reason.DEADLINE
        )
    assert failing.calls == attempts


def one_retry_in_ten_seconds() -> RetryPolicy:
    budget = Budget(ratio=0.0, burst=1, min_per_second=0.1)
    return RetryPolicy(attempts=2, budget=budget, backoff=AT_ONCE)


def test_budget_s_trickle() -> None:
    with freeze_time(START) as frozen:
        call = iii_retry(idempotent=True, policy=one_retry_in_ten_seconds())(
            Failing(frozen).__call__
        )
        assert [ends(call), ends(call)] == [Reason.EXHAUSTED, Reason.BUDGET_EXHAUSTED]
        frozen.tick(8)
        assert ends(call) is Reason.BUDGET_EXHAUSTED
        frozen.tick(4)
        assert [ends(call), ends(call)] == [Reason.EXHAUSTED, Reason.BUDGET_EXHAUSTED]


async def test_budget_s_trickle_for_coroutines() -> None:
    with freeze_time(START, real_asyncio=True) as frozen:
        call = iii_retry(idempotent=True, policy=one_retry_in_ten_seconds())(
            Failing(frozen).coroutine
        )
        assert await ends_async(call) is Reason.EXHAUSTED
        assert await ends_async(call) is Reason.BUDGET_EXHAUSTED
        frozen.tick(8)
        assert await ends_async(call) is Reason.BUDGET_EXHAUSTED
        frozen.tick(4)
        assert await ends_async(call) is Reason.EXHAUSTED


def two_failures_open_it() -> RetryPolicy:
    breaker = Breaker(min_calls=2, window=30.0, open=10.0, probes=1)
    return RetryPolicy(attempts=1, breaker=breaker)


def test_breaker_s_window_and_time_it_stays_open() -> None:
    with freeze_time(START) as frozen:
        failing = Failing(frozen)
        call = iii_retry(policy=two_failures_open_it())(failing.__call__)
        for _ in range(3):  # one failure in a window opens nothing
            assert ends(call) is Reason.NOT_IDEMPOTENT
            frozen.tick(40)
        assert ends(call) is Reason.NOT_IDEMPOTENT
        frozen.tick(20)
        assert ends(call) is Reason.NOT_IDEMPOTENT
        with pytest.raises(CircuitOpenError) as caught:
            call()
        assert caught.value.retry_after == pytest.approx(10.0)
        frozen.tick(9)
        with pytest.raises(CircuitOpenError):
            call()
        failing.works = True
        frozen.tick(2)
        assert [call(), call()] == ["done", "done"]


async def test_breaker_times_follow_frozen_clock_in_coroutines() -> None:
    with freeze_time(START, real_asyncio=True) as frozen:
        failing = Failing(frozen)
        call = iii_retry(policy=two_failures_open_it())(failing.coroutine)
        assert await ends_async(call) is Reason.NOT_IDEMPOTENT
        frozen.tick(40)
        assert await ends_async(call) is Reason.NOT_IDEMPOTENT
        frozen.tick(20)
        assert await ends_async(call) is Reason.NOT_IDEMPOTENT
        with pytest.raises(CircuitOpenError):
            await call()
        failing.works = True
        frozen.tick(11)
        assert await call() == "done"
