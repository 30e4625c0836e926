"""What tenacity is known to get wrong does not show through: each first in tenacity, then here.

If a new release of tenacity mends one, its half of the test says so and can go.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import tenacity

from iii_resilience import Backoff, RetryPolicy, iii_retry, report_for

QUICK = RetryPolicy(
    attempts=3, backoff=Backoff(base=0.0, throttled_base=0.0), budget=None, deadline=None
)
retry = iii_retry(idempotent=True, policy=QUICK)


async def cancels_until_it_ends(call: Callable[[], Any]) -> tuple[int, BaseException | None]:
    """How often a call has to be cancelled, and what it ends with."""
    task = asyncio.ensure_future(call())
    for count in range(1, 10):
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(50):  # neither waits for anything but the loop's next iteration
            await asyncio.sleep(0)
        if task.done():
            return count, None if task.cancelled() else task.exception()
    return 10, None


async def hangs() -> None:
    await asyncio.sleep(60)


async def test_cancellation_is_not_retried() -> None:
    theirs = tenacity.retry(
        retry=tenacity.retry_if_not_exception_type(ValueError), stop=tenacity.stop_after_attempt(3)
    )(hangs)
    count, error = await cancels_until_it_ends(theirs)
    assert (count, type(error)) == (3, tenacity.RetryError)
    assert await cancels_until_it_ends(retry(hangs)) == (1, None)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupt_is_not_retried(kind: type[BaseException]) -> None:
    calls = 0

    def function() -> None:
        nonlocal calls
        calls += 1
        raise kind

    theirs = tenacity.retry(
        retry=tenacity.retry_if_not_exception_type(ValueError), stop=tenacity.stop_after_attempt(3)
    )(function)
    with pytest.raises(tenacity.RetryError):
        theirs()
    assert calls == 3
    calls = 0
    with pytest.raises(kind):
        retry(function)()
    assert calls == 1


def test_nobody_sees_another_thread_s_attempts() -> None:
    """Tenacity shows the latest call's statistics on the function, whoever made it."""
    both = threading.Barrier(2)
    reports: dict[str, int] = {}

    @retry
    def function(name: str) -> None:
        if name == "twice" and len(calls[name]) == 1:
            calls[name].append(1)
            raise ValueError("the second attempt ends it")
        calls[name].append(1)
        raise ConnectionResetError

    calls: dict[str, list[int]] = {"twice": [], "thrice": []}

    def work(name: str) -> None:
        both.wait(10)
        try:
            function(name)
        except Exception as error:
            both.wait(10)  # only when both are over does anybody look
            report = report_for(error)
            assert report is not None
            reports[name] = len(report.attempts)

    threads = [threading.Thread(target=work, args=(name,)) for name in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reports == {"twice": 2, "thrice": 3}
    assert not hasattr(function, "statistics")
    assert not hasattr(function, "retry")


def test_what_a_call_ends_with_is_no_retry_error() -> None:
    error = ConnectionResetError("ours")

    def function() -> None:
        raise error

    with pytest.raises(tenacity.RetryError):
        tenacity.retry(stop=tenacity.stop_after_attempt(2))(function)()
    with pytest.raises(ConnectionResetError) as caught:
        retry(function)()
    assert caught.value is error


def test_mistake_in_program_is_not_repeated() -> None:
    calls = 0

    def function() -> None:
        nonlocal calls
        calls += 1
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        tenacity.retry(stop=tenacity.stop_after_attempt(3), reraise=True)(function)()
    assert calls == 3
    calls = 0
    with pytest.raises(TypeError):
        retry(function)()
    assert calls == 1
