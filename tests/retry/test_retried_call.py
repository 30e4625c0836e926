"""One call from its first failure on, without a decorator or a loop around it."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import tenacity
from iii import InvocationError

from iii_resilience import (
    Backoff,
    CircuitOpenError,
    Enqueue,
    Execution,
    NotConnectedError,
    Reason,
    RetryPolicy,
    hint_for,
    report_for,
)
from iii_resilience.core.guards.budget import PermitBucket
from iii_resilience.retry.retried_call import RetriedCall, deadline_of
from iii_resilience.retry.retry_context import CallOutcome, RetryContext, StopRetrying
from iii_resilience.retry.user_traceback import user_traceback

if TYPE_CHECKING:
    from conftest import FakeClock

QUICK = RetryPolicy(backoff=Backoff(base=0, throttled_base=0), budget=None)


def stopped() -> Exception:
    return InvocationError("invocation_stopped", "the worker went away")  # type: ignore[no-any-return]


def failing(
    policy: RetryPolicy = QUICK, error: Exception | None = None, **more: Any
) -> RetriedCall:
    """A run whose first attempt has failed."""
    idempotent = more.pop("idempotent", True)
    names = {"deadline_at", "classified", "swallowed"}
    own = {name: more.pop(name) for name in names & set(more)}
    started = more.pop("started", 1000.0)
    context = RetryContext(policy=policy, name="n", **more)
    run = RetriedCall(context, started, idempotent=idempotent, **own)
    run.attempt_failed(stopped() if error is None else error, None)
    return run


class Attempts:
    """Raises what it is told to, one after the other; then returns."""

    def __init__(self, *errors: BaseException | Callable[[], BaseException]) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            error = self.errors.pop(0)
            raise error if isinstance(error, BaseException) else error()
        return "done"

    async def coroutine(self) -> str:
        return self()


def go_on(run: RetriedCall, attempts: Attempts, how: str, **more: Any) -> Any:
    if how == "sync":
        return run.retry(attempts, **more)
    return asyncio.run(run.retry_async(attempts.coroutine, **more))


BOTH = pytest.mark.parametrize("how", ["sync", "async"])


@BOTH
def test_first_failure_is_not_made_again(how: str) -> None:
    attempts = Attempts(stopped())
    assert go_on(failing(), attempts, how) == CallOutcome(value="done")
    assert attempts.calls == 2


@BOTH
@pytest.mark.parametrize("sends", [True, False])
def test_permit_is_held_until_attempt_ends(how: str, sends: bool) -> None:
    bucket = PermitBucket(0.0, 1.0, 0.0)
    run = failing(bucket=bucket)
    seen: list[float] = []

    class Looks(Attempts):
        def __call__(self) -> str:
            seen.append(bucket.level)
            if not sends:
                run.attempt_sent()
            seen.append(bucket.level)
            return super().__call__()

    go_on(run, Looks(), how, sends=sends)
    assert seen == [0.0, 0.0]
    assert (bucket.level, bucket.refunded, bucket.wasted) == (1.0, 1, 0)


@BOTH
def test_unsent_attempt_returns_permit_and_is_not_shown(
    how: str,
) -> None:
    bucket = PermitBucket(0.0, 5.0, 0.0)
    first = InvocationError("TIMEOUT", "too slow")
    run = failing(error=first, bucket=bucket)
    unsent = Attempts(*[NotConnectedError("x") for _ in range(3)])
    assert go_on(run, unsent, how, sends=False).error is first
    assert (bucket.taken, bucket.level) == (0, 5.0)
    report = report_for(first)
    assert report is not None
    assert [attempt.sent for attempt in report.attempts] == [True, False, False, False]
    assert report.execution is Execution.MAYBE_EXECUTED
    assert run.failure.code == "TIMEOUT"
    assert run.log.execution is Execution.MAYBE_EXECUTED


@BOTH
def test_attempt_failed_before_sending_itself_was_not_sent(how: str) -> None:
    run = failing(QUICK.replace(attempts=2))
    go_on(run, Attempts(ConnectionResetError()), how, sends=False)
    assert [failed.attempt.sent for failed in run.log.failed] == [True, False]


def test_permit_is_spent_once_and_given_back_once() -> None:
    bucket = PermitBucket(0.0, 5.0, 0.0)
    run = failing(bucket=bucket)
    run.attempt_sent()  # the first attempt needed none
    assert bucket.taken == 0
    pauses = Sleeper(NotConnectedError("shut down"))
    run = failing(NONE_OF_THE_CLOCK, bucket=bucket, sleeper=pauses)
    with pytest.raises(NotConnectedError):
        run.retry(Attempts())
    run.attempt_failed(stopped(), None)
    assert (bucket.taken, bucket.level) == (0, 5.0)

    def sends_twice() -> str:
        run.attempt_sent()
        run.attempt_sent()
        return "done"

    run = failing(bucket=bucket)
    assert run.retry(sends_twice, sends=False).value == "done"
    assert (bucket.taken, bucket.refunded, bucket.level) == (1, 1, 5.0)


@BOTH
@pytest.mark.parametrize("allowed", [True, False])
def test_not_executed_is_retried_if_policy_allows(allowed: bool, how: str) -> None:
    policy = QUICK.replace(retry_unexecuted=allowed)
    run = failing(policy, NotConnectedError("x"), idempotent=False)
    assert go_on(run, Attempts(), how).value == ("done" if allowed else None)
    assert (run.reason is Reason.NOT_IDEMPOTENT) is not allowed


def test_one_attempt_that_may_have_run_ends_that() -> None:
    policy = QUICK.replace(retry_unexecuted=True, attempts=9)
    run = failing(policy, NotConnectedError("x"), idempotent=False)
    attempts = Attempts(InvocationError("TIMEOUT", "x"), NotConnectedError("x"))
    error = go_on(run, attempts, "sync").error
    assert isinstance(error, InvocationError)
    assert attempts.calls == 1
    assert run.reason is Reason.NOT_IDEMPOTENT


def test_stop_sees_that_no_delay_is_about_to_be_slept() -> None:
    seen: list[float] = []

    def stop(state: tenacity.RetryCallState) -> bool:
        seen.append(state.upcoming_sleep)
        return False

    go_on(failing(QUICK.replace(stop=stop, wait=lambda _: 0.0)), Attempts(stopped()), "sync")
    assert seen == [0.0, 0.0]


def test_delays_of_nothing_are_reported_as_nothing() -> None:
    run = failing(QUICK.replace(attempts=3))
    go_on(run, Attempts(stopped(), stopped()), "sync")
    assert [failed.attempt.delay for failed in run.log.failed] == [0.0, 0.0, 0.0]


def test_where_nothing_was_sent_last_failure_is_shown() -> None:
    last = NotConnectedError("last")
    run = failing(QUICK.replace(attempts=2), NotConnectedError("first"))
    assert go_on(run, Attempts(last), "sync").error is last
    assert run.failure.message == "last"
    assert run.log.execution is Execution.NOT_EXECUTED


def test_failure_may_be_told_that_it_was_not_sent() -> None:
    run = failing()
    run.attempt_failed(stopped(), None, sent=False)
    run.attempt_failed(stopped(), None, sent=True)
    assert [failed.attempt.sent for failed in run.log.failed] == [True, False, True]
    assert [failed.attempt.number for failed in run.log.failed] == [1, 2, 3]


def test_refusal_of_inner_call_was_sent_by_the_outer_one() -> None:
    refusal = CircuitOpenError("x")
    inner = failing(QUICK.replace(attempts=1), refusal)
    assert go_on(inner, Attempts(), "sync").error is refusal
    assert failing(error=refusal).log.failed[0].attempt.sent


@BOTH
@pytest.mark.parametrize("stops", [1, 2, 3])
def test_calls_that_end_in_stops_are_given_up_at_limit(stops: int, how: str) -> None:
    policy = QUICK.replace(attempts=9, max_stops=stops)
    run = failing(policy, function_id="a::b")
    attempts = Attempts(*[stopped() for _ in range(9)])
    error = go_on(run, attempts, how).error
    assert attempts.calls == stops - 1
    assert error is not None
    hint = hint_for(error)
    assert run.reason is Reason.STOPPED
    assert hint is not None
    assert hint.action == "dead-letter"


def test_only_stops_of_engine_s_function_are_counted() -> None:
    attempts = Attempts(*[stopped() for _ in range(9)])
    run = failing(QUICK.replace(attempts=6, max_stops=1))
    go_on(run, attempts, "sync")
    assert attempts.calls == 5
    other = failing(
        QUICK.replace(attempts=6, max_stops=1),
        InvocationError("TIMEOUT", "x"),
        function_id="a::b",
    )
    attempts = Attempts(*[InvocationError("TIMEOUT", "x") for _ in range(9)])
    go_on(other, attempts, "sync")
    assert attempts.calls == 5


@pytest.mark.parametrize(("function_id", "queue"), [("a::b", "later"), (None, None)])
def test_hint_names_queue_only_with_an_engine(function_id: str | None, queue: str | None) -> None:
    policy = QUICK.replace(attempts=1, fallback=Enqueue("later"))
    error = go_on(failing(policy, function_id=function_id), Attempts(), "sync").error
    assert error is not None
    hint = hint_for(error)
    assert hint is not None
    assert (hint.action, hint.queue) == ("enqueue", queue)


def test_failures_carry_function_that_was_called() -> None:
    run = failing(error=InvocationError("TIMEOUT", "x"), function_id="a::b")
    assert run.failure.function_id == "a::b"
    again = tenacity.TryAgain()
    again.__cause__ = InvocationError("TIMEOUT", "x")
    inner = failing(error=again, function_id="a::b").failure.inner
    assert inner is not None
    assert inner.function_id == "a::b"


@BOTH
@pytest.mark.parametrize(
    "error", [CircuitOpenError("x"), ValueError("x"), InvocationError("FORBIDDEN", "no")]
)
def test_what_ends_at_once_needs_nothing_of_tenacity(
    how: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tenacity, "Retrying")
    monkeypatch.delattr(tenacity, "AsyncRetrying")
    assert go_on(failing(error=error), Attempts(), how).error is error
    assert report_for(error) is not None


@BOTH
def test_what_is_decided_before_tenacity_is_not_decided_again(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = PermitBucket(0.0, 1.0, 0.0)
    with caplog.at_level(logging.INFO, "iii_resilience"):
        assert go_on(failing(bucket=bucket), Attempts(), how).value == "done"
    assert len(caplog.records) == 1
    assert (bucket.taken, bucket.refunded) == (1, 1)


# TryAgain.


def test_bare_try_again_is_transient_and_maybe_executed() -> None:
    failure = failing(error=tenacity.TryAgain()).failure
    assert attrs.asdict(failure, filter=lambda f, v: v != f.default) == {
        "code": "TryAgain",
        "category": "transient",
        "execution": "maybe_executed",
        "remedy": "the function requested a retry",
        "system": "local",
        "origin": "local",
    }


@pytest.mark.parametrize("attribute", ["__cause__", "__context__"])
def test_try_again_says_what_its_cause_says(attribute: str) -> None:
    again = tenacity.TryAgain()
    setattr(again, attribute, InvocationError("RATE_LIMITED", "retry after 1500ms"))
    failure = failing(error=again).failure
    assert failure.code == "TryAgain"
    assert failure.throttled
    assert failure.retry_after == 1.5
    assert failure.execution is Execution.NOT_EXECUTED
    assert failure.inner is not None
    assert failure.inner.code == "RATE_LIMITED"
    assert failure.remedy == failure.inner.remedy


def test_hint_of_try_again_is_that_of_its_cause() -> None:
    again = tenacity.TryAgain()
    again.__cause__ = cause = InvocationError("FORBIDDEN", "no")
    error = go_on(failing(error=again), Attempts(), "sync").error
    assert error is cause
    hint = hint_for(error)
    assert hint is not None
    assert hint.action == "fix-access"


# Deadlines.


def test_deadline_counts_from_start() -> None:
    assert deadline_of(RetryPolicy(deadline=5.0), 1000.0) == 1005.0
    assert deadline_of(RetryPolicy(deadline=None), 1000.0) is None


def test_at_deadline_it_is_too_late(clock: FakeClock) -> None:
    run = failing(deadline_at=clock.now + 5.0)
    assert not run.too_late()
    clock.now += 5.0
    assert run.too_late()
    assert not failing(deadline_at=None).too_late()


@BOTH
def test_sleep_that_took_too_long_ends_call_at_deadline(how: str, clock: FakeClock) -> None:
    clock.late = 10.0
    error = stopped()
    attempts = Attempts()
    run = failing(RetryPolicy(budget=None), error, deadline_at=clock.now + 5.0)
    assert go_on(run, attempts, how).error is error
    assert attempts.calls == 0
    assert run.reason is Reason.DEADLINE


@BOTH
def test_attempt_may_end_call_for_reason_of_its_own(how: str) -> None:
    error = stopped()
    run = failing(error=error)
    assert go_on(run, Attempts(StopRetrying(Reason.NOT_READY)), how).error is error
    assert run.reason is Reason.NOT_READY
    assert len(run.log.failed) == 1


def test_end_says_its_reason() -> None:
    assert str(StopRetrying(Reason.NOT_READY)) == "not_ready"


# Delays.


class Sleeper:
    """Counts the sleeps, each over at once; or raises instead."""

    def __init__(self, raises: BaseException | None = None) -> None:
        self.sleeps = 0
        self.raises = raises

    def add(self) -> Future[float]:
        self.sleeps += 1
        if self.raises is not None:
            raise self.raises
        over: Future[float] = Future()
        over.set_result(0.0)
        return over

    def leave(self, future: Future[float]) -> None:
        assert future.done()


NONE_OF_THE_CLOCK = QUICK.replace(backoff=Backoff(base=60.0, cap=60.0, jitter="none"))


@BOTH
def test_delays_are_slept_by_whoever_can_end_them_early(how: str) -> None:
    pauses = Sleeper()
    policy = NONE_OF_THE_CLOCK.replace(attempts=3)
    run = failing(policy, sleeper=pauses)
    go_on(run, Attempts(stopped(), stopped()), how)
    assert pauses.sleeps == 2
    assert [failed.attempt.delay for failed in run.log.failed] == [0.0, 60.0, 60.0]


@BOTH
def test_pause_that_raises_ends_call_and_gives_permit_back(how: str) -> None:
    bucket = PermitBucket(0.0, 1.0, 0.0)
    end = NotConnectedError("shut down")
    run = failing(NONE_OF_THE_CLOCK, bucket=bucket, sleeper=Sleeper(end))
    with pytest.raises(NotConnectedError) as caught:
        go_on(run, Attempts(), how)
    assert caught.value is end
    assert bucket.taken == 0


@pytest.mark.parametrize(
    ("wait", "slept"),
    [(-1.0, 0.0), (0, 0.0), (1, 1.0), (math.inf, threading.TIMEOUT_MAX), (math.nan, 0.0)],
)
def test_result_of_a_wait_becomes_seconds_to_sleep(wait: float, slept: float) -> None:
    run = failing(QUICK.replace(wait=lambda _: wait, deadline=None), sleeper=Sleeper())
    go_on(run, Attempts(), "sync")
    assert run.log.delay == slept


def test_blocked_event_loop_is_reported_before_delay(clock: FakeClock) -> None:
    told: list[float] = []

    async def call(base: float) -> None:
        policy = QUICK.replace(backoff=Backoff(base=base, cap=60.0, jitter="none"))
        failing(policy, on_blocking=lambda: told.append(base)).retry(Attempts())

    asyncio.run(call(0.0))
    asyncio.run(call(2.0))
    failing(NONE_OF_THE_CLOCK, on_blocking=lambda: told.append(60.0)).retry(Attempts())
    assert told == [2.0]
    assert clock.slept == [0.0, 2.0, 60.0]


def test_process_without_asyncio_blocks_no_event_loop(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    told: list[bool] = []
    policy = QUICK.replace(backoff=Backoff(base=2.0, jitter="none"))

    async def call() -> None:  # were it asked, it would find the loop that this runs in
        monkeypatch.delitem(sys.modules, "asyncio")
        failing(policy, on_blocking=lambda: told.append(True)).retry(Attempts())

    asyncio.run(call())
    assert not told
    assert clock.slept == [2.0]


def test_decorrelated_delay_grows_from_one_that_was_slept(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    monkeypatch.setattr(random, "random", lambda: 1.0)
    policy = QUICK.replace(backoff=Backoff(base=1.0, cap=60.0, jitter="decorrelated"))
    go_on(failing(policy), Attempts(stopped(), stopped()), "sync")
    assert clock.slept == [3.0, 9.0, 27.0]


@BOTH
def test_call_in_middle_of_another_ones_step_gets_its_own(how: str) -> None:
    inner: list[object] = []

    def wait(state: tenacity.RetryCallState) -> float:
        # A user's wait may call what is retried itself, while tenacity is deciding.
        inner.append(failing(NONE_OF_THE_CLOCK, sleeper=Sleeper()).retry(Attempts(stopped())).value)
        assert "stopped" not in repr(state)
        assert repr(state).endswith(f"attempt {state.attempt_number}>")
        return 0.0

    policy = QUICK.replace(wait=wait, attempts=3)
    outcome = go_on(failing(policy, sleeper=Sleeper()), Attempts(stopped()), how)
    assert outcome.value == "done"
    assert inner == ["done", "done"]


# What is noted.


@BOTH
def test_report_has_every_delay_and_duration(how: str, clock: FakeClock) -> None:
    class Slow(Attempts):
        def __call__(self) -> str:
            clock.now += 3.0
            return super().__call__()

    backoff = Backoff(base=1.0, jitter="none")
    clock.now += 2.0  # the first attempt took two seconds
    run = failing(RetryPolicy(attempts=3, backoff=backoff, budget=None))
    error = go_on(run, Slow(stopped(), stopped()), how).error
    assert error is not None
    report = report_for(error)
    assert report is not None
    assert [attempt.delay for attempt in report.attempts] == [0.0, 1.0, 2.0]
    assert [attempt.duration for attempt in report.attempts] == [2.0, 3.0, 3.0]
    assert report.elapsed == 11.0


@BOTH
def test_each_failure_is_decided_and_logged_once(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "iii_resilience"):
        go_on(failing(QUICK.replace(attempts=3)), Attempts(stopped(), stopped()), how)
    told = [(r.iii_attempt, r.iii_reason, r.iii_function_id) for r in caplog.records]  # type: ignore[attr-defined]
    assert told == [(1, "retried", "n"), (2, "retried", "n"), (3, "exhausted", "n")]


def test_users_stop_sees_only_retryable_failures() -> None:
    asked: list[int] = []

    def stop(state: tenacity.RetryCallState) -> bool:
        asked.append(state.attempt_number)
        return False

    policy = QUICK.replace(stop=stop)
    go_on(failing(policy, ValueError("x")), Attempts(), "sync")
    assert asked == []
    go_on(failing(policy), Attempts(stopped()), "sync")
    assert asked == [1, 2]


def test_traceback_begins_where_user_s_code_does() -> None:
    def users() -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:
        users()
    own = caught.value.__traceback__
    assert user_traceback(caught.value) is own
    assert user_traceback(ValueError()) is None


@BOTH
def test_errors_keep_tracebacks_of_user_s_code(how: str) -> None:
    first = stopped()
    try:
        raise first
    except Exception as error:
        traceback = error.__traceback__
    run = RetriedCall(RetryContext(policy=QUICK, name="n"), 0.0, idempotent=True)
    run.attempt_failed(first, traceback)
    last = stopped()
    assert go_on(run, Attempts(stopped(), stopped(), last), how).error is last
    assert first.__traceback__ is traceback
