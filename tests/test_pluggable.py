"""A policy as keyword arguments for the user's own tenacity objects."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import tenacity
from iii import InvocationError

from iii_resilience import Backoff, Budget, Reason, RetryPolicy, report_for

QUICK = RetryPolicy(attempts=3, backoff=Backoff(base=0.0))
STOPPED = InvocationError("invocation_stopped", "Invocation stopped")


class Failing:
    """Raises one error after the other, then returns."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def fresh(code: str = "invocation_stopped") -> InvocationError:
    return InvocationError(code, "x")


def test_it_makes_the_decisions_of_the_decorator() -> None:
    function = Failing(fresh(), fresh())
    assert tenacity.Retrying(**QUICK.to_tenacity(idempotent=True))(function) == "done"
    assert function.calls == 3


def test_without_idempotency_nothing_is_repeated_and_the_original_is_raised() -> None:
    error = fresh()
    function = Failing(error)
    with pytest.raises(InvocationError) as caught:
        tenacity.Retrying(**QUICK.to_tenacity())(function)
    assert caught.value is error
    assert function.calls == 1
    report = report_for(error)
    assert report is not None
    assert report.reason is Reason.NOT_IDEMPOTENT


@pytest.mark.parametrize("code", ["FORBIDDEN", "function_not_found"])
def test_never_is_never(code: str) -> None:
    function = Failing(fresh(code), fresh(code))
    with pytest.raises(InvocationError):
        tenacity.Retrying(**QUICK.to_tenacity(idempotent=True))(function)
    assert function.calls == 1


def test_when_attempts_run_out_the_last_exception_is_raised_and_no_retry_error() -> None:
    errors = [fresh() for _ in range(5)]
    last = errors[2]
    function = Failing(*errors)
    with pytest.raises(InvocationError) as caught:
        tenacity.Retrying(**QUICK.to_tenacity(idempotent=True))(function)
    assert caught.value is last
    assert function.calls == 3


async def test_it_drives_async_retrying_too() -> None:
    function = Failing(fresh())

    async def call() -> str:
        return function()

    assert await tenacity.AsyncRetrying(**QUICK.to_tenacity(idempotent=True))(call) == "done"
    assert function.calls == 2


def test_it_works_as_a_decorator_and_in_a_loop() -> None:
    function = Failing(fresh())
    assert tenacity.retry(**QUICK.to_tenacity(idempotent=True))(function.__call__)() == "done"
    calls = 0
    for attempt in tenacity.Retrying(**QUICK.to_tenacity(idempotent=True)):
        with attempt:
            calls += 1
            if calls < 2:
                raise fresh()
    assert calls == 2


def test_a_retry_of_the_user_s_own_can_override_but_not_beyond_the_attempts() -> None:
    options = QUICK.to_tenacity(idempotent=True)
    options["retry"] = options["retry"] | tenacity.retry_if_exception_type(ValueError)
    function = Failing(*[ValueError() for _ in range(9)])
    with pytest.raises(ValueError):
        tenacity.Retrying(**options)(function)
    assert function.calls == 3


def test_a_stop_of_the_user_s_own_counts_too() -> None:
    options = QUICK.to_tenacity(idempotent=True)
    options["stop"] = options["stop"] | tenacity.stop_after_attempt(2)
    function = Failing(*[fresh() for _ in range(9)])
    with pytest.raises(InvocationError):
        tenacity.Retrying(**options)(function)
    assert function.calls == 2


def test_a_wait_can_be_added() -> None:
    slept: list[float] = []
    options = QUICK.to_tenacity(idempotent=True)
    options["wait"] = options["wait"] + tenacity.wait_fixed(3)
    options["sleep"] = slept.append
    tenacity.Retrying(**options)(Failing(fresh()))
    assert slept == [3.0]


def test_try_again_is_honoured_and_ends_with_its_cause() -> None:
    cause = fresh()
    calls = 0

    def function() -> None:
        nonlocal calls
        calls += 1
        raise tenacity.TryAgain from cause

    with pytest.raises(InvocationError) as caught:
        tenacity.Retrying(**QUICK.to_tenacity())(function)
    assert caught.value is cause
    assert calls == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_what_is_no_exception_passes(error: BaseException) -> None:
    function = Failing(error)
    with pytest.raises(type(error)):
        tenacity.Retrying(**QUICK.to_tenacity(idempotent=True))(function)
    assert function.calls == 1


def test_the_budget_holds() -> None:
    policy = QUICK.replace(attempts=9, budget=Budget(ratio=0.0, min_per_second=0.2, window=10.0))
    function = Failing(*[fresh() for _ in range(9)])
    with pytest.raises(InvocationError) as caught:
        tenacity.Retrying(**policy.to_tenacity(idempotent=True))(function)
    assert function.calls == 3
    report = report_for(caught.value)
    assert report is not None
    assert report.reason is Reason.BUDGET_EXHAUSTED


def test_the_deadline_holds() -> None:
    policy = QUICK.replace(attempts=9, deadline=0.5, backoff=Backoff(base=5.0, jitter="none"))
    function = Failing(*[fresh() for _ in range(9)])
    with pytest.raises(InvocationError) as caught:
        tenacity.Retrying(**policy.to_tenacity(idempotent=True))(function)
    assert function.calls == 1
    report = report_for(caught.value)
    assert report is not None
    assert report.reason is Reason.DEADLINE


def test_one_object_serves_many_threads() -> None:
    retrying = tenacity.Retrying(**QUICK.to_tenacity(idempotent=True))
    functions = [Failing(*[fresh() for _ in range(n % 3)]) for n in range(24)]
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda f=f: results.append(retrying.copy()(f))) for f in functions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["done"] * 24
    assert [f.calls for f in functions] == [n % 3 + 1 for n in range(24)]
