"""Cancelling a call at every point where it waits: it ends, and nothing it held is lost."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from iii_resilience import (
    Backoff,
    Breaker,
    Budget,
    Bulkhead,
    RetryPolicy,
    iii_retry,
    report_for,
    retrying,
)
from iii_resilience.core.guards.breaker import CircuitState
from iii_resilience.retry.cancellation import refuse_other_libraries

LONG = 60.0
_BURSTS = itertools.count(10)


def permits_out(budget: Budget) -> int:
    """Permits that calls hold, for retries that are sent or not."""
    buckets = budget._states.values()
    return sum(bucket.taken - bucket.refunded - bucket.wasted for bucket in buckets)


class Guarded:
    """A policy with every guard there is, and what each of them has given out."""

    def __init__(self, *, attempt_timeout: float | None = None) -> None:
        # None equals another: the decorator would take the first of equal policies, and its guards.
        self.budget = Budget(ratio=0.0, burst=next(_BURSTS), min_per_second=0)
        self.breaker = Breaker(min_calls=1_000)
        self.bulkhead = Bulkhead(1, queue=1, wait=LONG)
        self.policy = RetryPolicy(
            attempts=3,
            backoff=Backoff(base=0.0),
            budget=self.budget,
            breaker=self.breaker,
            bulkhead=self.bulkhead,
            attempt_timeout=attempt_timeout,
        )

    def held(self) -> dict[str, int]:
        gates = self.bulkhead._states.values()
        return {
            "reserved": permits_out(self.budget),
            "inside": sum(gate.inside for gate in gates),
            "waiting": sum(gate.waiting for gate in gates),
        }


NOTHING = {"reserved": 0, "inside": 0, "waiting": 0}
Call = Callable[[], Awaitable[Any]]


def as_decorated(guarded: Guarded, attempt: Call) -> Call:
    return iii_retry(idempotent=True, policy=guarded.policy)(attempt)


def as_a_loop(guarded: Guarded, attempt: Call) -> Call:
    async def call() -> Any:
        value = None
        async for tried in retrying(idempotent=True, policy=guarded.policy):
            with tried:
                value = await attempt()
        return value

    return call


async def cancelled_after(steps: int, call: Call) -> str:
    """Cancel once the call has come to its nth wait; how it ended."""
    task = asyncio.ensure_future(call())
    for _ in range(steps):
        await asyncio.sleep(0)
        if task.done():
            break
    if task.done():
        return "done" if task.exception() is None else "failed"
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=30)
    assert done, "one cancel() did not end the call"
    return "cancelled" if task.cancelled() else "done"


@pytest.mark.parametrize(
    ("form", "timed"), [(as_decorated, False), (as_decorated, True), (as_a_loop, False)]
)
async def test_cancelled_anywhere_call_gives_everything_back(
    form: Callable[[Guarded, Call], Call], timed: bool
) -> None:
    ends: list[str] = []
    cancelled_in: set[tuple[int, int]] = set()
    for steps in range(200):
        guarded = Guarded(attempt_timeout=LONG if timed else None)
        attempts = 0

        async def attempt() -> str:
            nonlocal attempts
            attempts += 1
            for _ in range(3):
                await asyncio.sleep(0)
            if attempts < 3:
                raise ConnectionResetError
            return "done"

        call = form(guarded, attempt)  # what it holds ends with it
        ends.append(await cancelled_after(steps, call))
        assert guarded.held() == NOTHING, steps
        buckets = guarded.budget._states.values()
        cancelled_in.add((attempts, sum(bucket.wasted for bucket in buckets)))
        if ends[-1] == "done":
            break
    # Before the first step, in attempts, in delays, between them: everywhere until it is done.
    assert set(ends[:-1]) == {"cancelled"}
    assert ends[-1] == "done"
    assert len(ends) > 12
    # In the attempts, and in the delays before them: a retry that was sent has lost its permit.
    assert cancelled_in == {(0, 0), (1, 0), (2, 1), (3, 2), (3, 0)}


@pytest.mark.parametrize("form", [as_decorated, as_a_loop])
async def test_cancelled_in_front_of_full_bulkhead_leaves_queue(
    form: Callable[[Guarded, Call], Call],
) -> None:
    guarded = Guarded()
    inside, leave = asyncio.Event(), asyncio.Event()

    async def attempt() -> str:
        inside.set()
        await leave.wait()
        return "done"

    call = form(guarded, attempt)
    first = asyncio.ensure_future(call())
    await inside.wait()
    second = asyncio.ensure_future(call())
    while guarded.held()["waiting"] == 0:
        await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert guarded.held() == {"reserved": 0, "inside": 1, "waiting": 0}
    leave.set()
    assert await first == "done"
    assert guarded.held() == NOTHING


async def test_cancelled_probe_leaves_its_slot_to_next_call() -> None:
    breaker = Breaker(min_calls=1, open=0.01, probes=1)
    reached = asyncio.Event()

    @iii_retry(policy=RetryPolicy(attempts=1, breaker=breaker))
    async def function(how: str) -> str:
        if how == "fails":
            raise ConnectionResetError
        if how == "hangs":
            reached.set()
            await asyncio.sleep(LONG)
        return "done"

    with pytest.raises(ConnectionResetError):
        await function("fails")
    await asyncio.sleep(0.02)
    probe = asyncio.ensure_future(function("hangs"))
    await reached.wait()
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert await function("succeeds") == "done"
    (circuit,) = breaker._states.values()
    assert circuit.state is CircuitState.CLOSED


def test_coroutine_discarded_in_delay_returns_its_permit() -> None:
    budget = Budget(ratio=0.0, burst=10, min_per_second=0)
    policy = RetryPolicy(budget=budget, backoff=Backoff(base=20.0, jitter="none"))

    @iii_retry(idempotent=True, policy=policy)
    async def function() -> None:
        raise ConnectionResetError

    async def start() -> None:
        coroutine = function()
        coroutine.send(None)
        assert permits_out(budget) == 1
        coroutine.close()

    asyncio.run(start())
    gc.collect()
    assert permits_out(budget) == 0


async def test_failing_task_group_ends_retries_of_its_tasks() -> None:
    guarded = Guarded()
    started = time.monotonic()

    @iii_retry(idempotent=True, backoff=Backoff(base=20.0, jitter="none"), budget=guarded.budget)
    async def retried() -> None:
        raise ConnectionResetError

    async def breaks() -> None:
        while guarded.held()["reserved"] == 0:
            await asyncio.sleep(0)
        raise ValueError

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(retried())
            group.create_task(breaks())

    with pytest.raises(ExceptionGroup) as caught:
        await both()
    assert [type(error) for error in caught.value.exceptions] == [ValueError]
    assert guarded.held()["reserved"] == 0
    assert time.monotonic() - started < 15


async def test_cancelled_call_raises_cancellation_without_report() -> None:
    @iii_retry(idempotent=True, backoff=Backoff(base=20.0, jitter="none"), budget=None)
    async def function() -> None:
        raise ConnectionResetError

    task = asyncio.ensure_future(function())
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("enough",)
    assert report_for(caught.value) is None


def test_coroutine_driven_by_hand_needs_no_sniffio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sniffio", raising=False)
    calls: list[int] = []

    @iii_retry(idempotent=True)
    async def call() -> None:
        calls.append(1)

    with pytest.raises(StopIteration):
        call().send(None)
    refuse_other_libraries("call")
    assert calls == [1]
