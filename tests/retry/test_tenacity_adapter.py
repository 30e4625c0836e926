"""A policy as keyword arguments for the user's own tenacity objects."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest
import tenacity
from iii import InvocationError
from support.telemetry_fixtures import Seen, clean_globals, seen

from iii_resilience import Backoff, Budget, NotConnectedError, Reason, RetryPolicy, report_for
from iii_resilience.retry.tenacity_adapter import to_tenacity

if TYPE_CHECKING:
    from conftest import FakeClock

__all__ = ["clean_globals", "seen"]

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


def test_it_makes_decisions_of_decorator() -> None:
    function = Failing(fresh(), fresh())
    assert tenacity.Retrying(**QUICK.to_tenacity(idempotent=True))(function) == "done"
    assert function.calls == 3


def test_without_idempotency_original_is_raised_unrepeated() -> None:
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


def test_exhausted_attempts_raise_last_error_not_retry_error() -> None:
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


def test_it_works_as_decorator_and_in_loop() -> None:
    function = Failing(fresh())
    assert tenacity.retry(**QUICK.to_tenacity(idempotent=True))(function.__call__)() == "done"
    calls = 0
    for attempt in tenacity.Retrying(**QUICK.to_tenacity(idempotent=True)):
        with attempt:
            calls += 1
            if calls < 2:
                raise fresh()
    assert calls == 2


def test_users_retry_can_override_within_attempts() -> None:
    options = QUICK.to_tenacity(idempotent=True)
    options["retry"] = options["retry"] | tenacity.retry_if_exception_type(ValueError)
    function = Failing(*[ValueError() for _ in range(9)])
    with pytest.raises(ValueError):
        tenacity.Retrying(**options)(function)
    assert function.calls == 3


def test_stop_of_user_s_own_counts_too() -> None:
    options = QUICK.to_tenacity(idempotent=True)
    options["stop"] = options["stop"] | tenacity.stop_after_attempt(2)
    function = Failing(*[fresh() for _ in range(9)])
    with pytest.raises(InvocationError):
        tenacity.Retrying(**options)(function)
    assert function.calls == 2


def test_wait_can_be_added() -> None:
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


def test_budget_holds() -> None:
    policy = QUICK.replace(attempts=9, budget=Budget(ratio=0.0, burst=2, min_per_second=0))
    function = Failing(*[fresh() for _ in range(9)])
    with pytest.raises(InvocationError) as caught:
        tenacity.Retrying(**policy.to_tenacity(idempotent=True))(function)
    assert function.calls == 3
    report = report_for(caught.value)
    assert report is not None
    assert report.reason is Reason.BUDGET_EXHAUSTED


def test_deadline_holds() -> None:
    policy = QUICK.replace(attempts=9, deadline=0.5, backoff=Backoff(base=5.0, jitter="none"))
    function = Failing(*[fresh() for _ in range(9)])
    with pytest.raises(InvocationError) as caught:
        tenacity.Retrying(**policy.to_tenacity(idempotent=True))(function)
    assert function.calls == 1
    report = report_for(caught.value)
    assert report is not None
    assert report.reason is Reason.DEADLINE


def test_one_object_serves_many_threads() -> None:
    policy = QUICK.replace(budget=Budget(burst=24))  # a permit for each retry, all at once
    retrying = tenacity.Retrying(**policy.to_tenacity(idempotent=True))
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


def test_module_object_is_not_idempotent_by_default() -> None:
    function = Failing(fresh())
    with pytest.raises(InvocationError):
        tenacity.Retrying(**to_tenacity(QUICK))(function)
    assert function.calls == 1


def test_failure_of_users_code_proves_nothing_before_it() -> None:
    policy = QUICK.replace(retry_unexecuted=True)
    function = Failing(NotConnectedError("nothing was sent"))
    with pytest.raises(NotConnectedError):
        tenacity.Retrying(**policy.to_tenacity())(function)
    assert function.calls == 1


@pytest.mark.parametrize("idempotent", [True, False])
def test_only_calls_that_may_be_retried_feed_budget(idempotent: bool) -> None:
    budget = Budget(ratio=1.0, min_per_second=0.0)
    options = QUICK.replace(budget=budget, attempts=2).to_tenacity(idempotent=idempotent)
    with pytest.raises(InvocationError):
        tenacity.Retrying(**options)(Failing(*[fresh() for _ in range(3)]))
    levels = [bucket.level for bucket in budget._states.values()]
    assert levels == ([7.0] if idempotent else [])  # a retry, and the cost of the failure
    for _ in range(2):
        tenacity.Retrying(**options)(Failing())
    tenacity.Retrying(**options)(Failing(fresh())) if idempotent else None
    levels = [bucket.level for bucket in budget._states.values()]
    assert levels == ([10.0] if idempotent else [])


def test_each_function_has_permits_of_its_own_and_loops_share() -> None:
    budget = Budget()

    def fetch() -> None: ...

    def save() -> None: ...

    retrying = tenacity.Retrying(**QUICK.replace(budget=budget).to_tenacity(idempotent=True))
    for function in (fetch, save, fetch):
        retrying(function)
    for attempt in retrying:
        with attempt:
            pass
    assert set(budget._states) == {
        f"{fetch.__module__}.{fetch.__qualname__}",
        f"{save.__module__}.{save.__qualname__}",
        "tenacity",
    }


def test_permits_are_reported_and_no_span_is_left_open(seen: Seen) -> None:
    """A `retry` of the user's may end a call unseen: a span of it would have no end."""
    retrying = tenacity.Retrying(**QUICK.replace(budget=Budget()).to_tenacity(idempotent=True))
    retrying(Failing(fresh(), fresh()))
    with pytest.raises(InvocationError):
        retrying(Failing(fresh(), fresh(), fresh()))
    permits = seen.metrics()["iii.retry.budget.permits"]
    assert permits.total(iii__retry__budget__outcome="refunded") == 2
    assert seen.spans() == []


def level(budget: Budget) -> float:
    (bucket,) = budget._states.values()
    return bucket.level


def test_failed_attempt_earns_nothing() -> None:
    budget = Budget(ratio=1.0, burst=10, min_per_second=0.0)
    policy = QUICK.replace(budget=budget, attempts=2)
    retrying = tenacity.Retrying(**policy.to_tenacity(idempotent=True))
    levels = []
    for _ in range(2):
        with pytest.raises(InvocationError):
            retrying(Failing(fresh(), fresh()))
        levels.append(level(budget))
    assert levels == [7.0, 4.0]


def test_call_earns_once_however_often_its_value_is_rejected(clock: FakeClock) -> None:
    budget = Budget(ratio=0.5, burst=10, min_per_second=0.0)
    policy = QUICK.replace(budget=budget, attempts=4)
    options = policy.to_tenacity(idempotent=True)
    with pytest.raises(InvocationError):
        tenacity.Retrying(**options)(Failing(*[fresh() for _ in range(9)]))
    before = level(budget)
    options["retry"] = options["retry"] | tenacity.retry_if_result(lambda value: value == "done")
    with pytest.raises(tenacity.RetryError):
        tenacity.Retrying(**options, sleep=clock.sleep)(Failing())
    assert level(budget) == before + 0.5


def test_wait_and_stop_of_policy_see_tenacity_s_state(clock: FakeClock) -> None:
    policy = RetryPolicy(
        attempts=9,
        wait=tenacity.wait_incrementing(start=1.0, increment=1.0),
        stop=tenacity.stop_after_attempt(3),
    )
    function = Failing(*[fresh() for _ in range(9)])
    with pytest.raises(InvocationError):
        tenacity.Retrying(**policy.to_tenacity(idempotent=True), sleep=clock.sleep)(function)
    assert function.calls == 3
    assert clock.slept == [1.0, 2.0]


def test_without_budget_nothing_is_counted() -> None:
    function = Failing(*[fresh() for _ in range(9)])
    options = QUICK.replace(budget=None, attempts=5).to_tenacity(idempotent=True)
    with pytest.raises(InvocationError):
        tenacity.Retrying(**options)(function)
    assert function.calls == 5


def test_log_names_function_and_loop_is_tenacity_s(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fetch() -> None:
        raise fresh()

    options = QUICK.to_tenacity()
    with caplog.at_level(logging.INFO, "iii_resilience"):
        with pytest.raises(InvocationError):
            tenacity.Retrying(**options)(fetch)
        with contextlib.suppress(InvocationError):
            for attempt in tenacity.Retrying(**options):
                with attempt:
                    raise fresh()
    names = [record.iii_function_id for record in caplog.records]  # type: ignore[attr-defined]
    assert names == [fetch.__qualname__, "tenacity"]


def test_every_attempt_is_sent_and_shows_users_frames(clock: FakeClock) -> None:
    def fetch() -> None:
        clock.now += 2.0
        raise fresh()

    with pytest.raises(InvocationError) as caught:
        tenacity.Retrying(**QUICK.to_tenacity(idempotent=True))(fetch)
    report = report_for(caught.value)
    assert report is not None
    assert [attempt.sent for attempt in report.attempts] == [True] * 3
    assert [attempt.duration for attempt in report.attempts] == pytest.approx([2.0] * 3)
    assert caught.traceback[-1].name == "fetch"


def test_delay_that_is_slept_is_one_that_was_decided(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = iter([0.25, 0.5])
    monkeypatch.setattr(random, "random", lambda: next(draws))
    options = QUICK.replace(backoff=Backoff(base=1.0, factor=2.0)).to_tenacity(idempotent=True)
    function = Failing(fresh(), fresh(), fresh())
    with pytest.raises(InvocationError) as caught:
        tenacity.Retrying(**options, sleep=clock.sleep)(function)
    assert clock.slept == [0.25, 1.0]
    report = report_for(caught.value)
    assert report is not None
    assert [attempt.delay for attempt in report.attempts] == [0.0, 0.25, 1.0]


def overridden(policy: RetryPolicy) -> dict[str, Any]:
    """The policy's arguments, and a retry of the user's own that repeats every ValueError."""
    options = policy.to_tenacity(idempotent=True)
    options["retry"] = options["retry"] | tenacity.retry_if_exception_type(ValueError)
    return options


def test_overridden_decision_waits_at_most_the_schedule(
    clock: FakeClock,
) -> None:
    policy = QUICK.replace(attempts=4, backoff=Backoff(base=1.0, factor=2.0))
    with pytest.raises(ValueError):
        tenacity.Retrying(**overridden(policy), sleep=clock.sleep)(
            Failing(*[ValueError() for _ in range(9)])
        )
    assert clock.slept == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("deadline", "slept"), [(7.5, [1.0, 2.0, 4.0]), (7.0, [1.0, 2.0]), (6.9, [1.0, 2.0])]
)
def test_overridden_decision_does_not_sleep_past_deadline(
    deadline: float, slept: list[float], clock: FakeClock
) -> None:
    policy = QUICK.replace(
        attempts=99, deadline=deadline, backoff=Backoff(base=1.0, factor=2.0, cap=20.0)
    )
    with pytest.raises(ValueError):
        tenacity.Retrying(**overridden(policy), sleep=clock.sleep)(
            Failing(*[ValueError() for _ in range(9)])
        )
    assert clock.slept == slept


def test_without_deadline_override_ends_with_attempts(clock: FakeClock) -> None:
    policy = QUICK.replace(attempts=3, deadline=None, backoff=Backoff(base=1.0))
    function = Failing(*[ValueError() for _ in range(9)])
    with pytest.raises(ValueError):
        tenacity.Retrying(**overridden(policy), sleep=clock.sleep)(function)
    assert function.calls == 3


def test_try_again_ends_with_budget() -> None:
    policy = QUICK.replace(attempts=9, budget=Budget(ratio=0.0, burst=1, min_per_second=0))
    calls = 0

    def function() -> None:
        nonlocal calls
        calls += 1
        raise tenacity.TryAgain

    with pytest.raises(tenacity.TryAgain) as caught:
        tenacity.Retrying(**policy.to_tenacity(idempotent=True))(function)
    assert calls == 2
    report = report_for(caught.value)
    assert report is not None
    assert report.reason is Reason.BUDGET_EXHAUSTED


def test_value_rejected_by_users_retry_is_repeated_in_limits(
    clock: FakeClock,
) -> None:
    calls = 0

    def function() -> None:
        nonlocal calls
        calls += 1

    options = QUICK.replace(backoff=Backoff(base=1.0)).to_tenacity(idempotent=True)
    options["retry"] = options["retry"] | tenacity.retry_if_result(lambda value: value is None)
    with pytest.raises(tenacity.RetryError):
        tenacity.Retrying(**options, sleep=clock.sleep)(function)
    assert calls == 3
    assert clock.slept == [1.0, 2.0]
