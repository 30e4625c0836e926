"""Two threads and two event loops on one decorated function: no lost permits, no wrong reports."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter

import pytest

from iii_resilience import Backoff, Budget, Reason, RetryPolicy, iii_retry, report_for

POLICY = RetryPolicy(
    attempts=3,
    backoff=Backoff(base=0.0005, cap=0.001, throttled_base=0.0005),
    budget=Budget(ratio=0.5, burst=1000, min_per_second=1000.0),
)


class FlakyError(ConnectionResetError):
    """One call's failure; it knows which call it belongs to and how often that was tried."""

    def __init__(self, call: object, attempt: int) -> None:
        super().__init__("reset")
        self.call = call
        self.attempt = attempt


class Call:
    """One call: how often it was tried, and after how many tries it succeeds."""

    def __init__(self) -> None:
        self.attempts = 0
        self.succeeds_at = random.randint(1, 5)

    def attempt(self) -> None:
        self.attempts += 1
        if self.attempts < self.succeeds_at:
            raise FlakyError(self, self.attempts)


@iii_retry(idempotent=True, policy=POLICY)
def sync(call: Call) -> Call:
    call.attempt()
    return call


@iii_retry(idempotent=True, policy=POLICY)
async def coroutine(call: Call) -> Call:
    await asyncio.sleep(0)
    call.attempt()
    return call


def judge(call: Call, error: FlakyError | None) -> str:
    """Whether what came back belongs to this call and says what happened to it."""
    if error is None:
        assert call.attempts == call.succeeds_at
        return "done"
    assert error.call is call
    assert error.attempt == call.attempts
    report = report_for(error)
    assert report is not None
    assert len(report.attempts) == call.attempts
    assert [attempt.number for attempt in report.attempts] == list(range(1, call.attempts + 1))
    if report.reason is Reason.EXHAUSTED:
        assert call.attempts == 3
    else:
        assert report.reason is Reason.BUDGET_EXHAUSTED
    return report.reason.value


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seconds", [2.5, pytest.param(10.0, marks=pytest.mark.long)])
def test_two_threads_and_two_loops_do_not_disturb_each_other(seconds: float) -> None:
    until = time.monotonic() + seconds
    seen: Counter[str] = Counter()
    failures: list[BaseException] = []

    def threads() -> None:
        while time.monotonic() < until:
            call = Call()
            try:
                sync(call)
                outcome = judge(call, None)
            except FlakyError as error:
                outcome = judge(call, error)
            seen[outcome] += 1

    async def one() -> None:
        call = Call()
        try:
            await coroutine(call)
            outcome = judge(call, None)
        except FlakyError as error:
            outcome = judge(call, error)
        seen[outcome] += 1

    async def loops() -> None:
        while time.monotonic() < until:
            tasks = [asyncio.ensure_future(one()) for _ in range(20)]
            for task in tasks[::7]:
                await asyncio.sleep(0)
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result

    def guarded(work: object) -> None:
        try:
            asyncio.run(loops()) if work is loops else threads()
        except BaseException as error:
            failures.append(error)

    workers = [
        threading.Thread(target=guarded, args=(w,)) for w in (threads, threads, loops, loops)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    assert seen["done"] > 100
    assert seen["exhausted"] > 100
    assert POLICY.budget is not None
    for bucket in POLICY.budget._states.values():
        assert bucket.taken == bucket.refunded + bucket.wasted
