"""The decorator: when it calls again, what the caller sees, and what it never touches."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import logging
import threading
import time
import timeit
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import iii
import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st
from support.paths import PACKAGE

import iii_resilience
from iii_resilience import (
    Backoff,
    Breaker,
    Budget,
    Category,
    PolicyBook,
    Reason,
    RetryPolicy,
    RpcError,
    classify,
    hint_for,
    iii_retry,
    report_for,
    retrying,
    use_policies,
)
from iii_resilience.core.decide import decide
from iii_resilience.core.guards.budget import PermitBucket
from iii_resilience.core.policy import FIELDS, TRIGGER_FIELDS
from iii_resilience.retry.cancellation import _comes_of_a_cancellation
from iii_resilience.retry.policy_source import PolicySource
from iii_resilience.retry.retried_call import RetriedCall
from iii_resilience.retry.retry_context import RetryContext
from iii_resilience.testing import fake_clock as our_clock

if TYPE_CHECKING:
    from conftest import ClockMaker, FakeClock

AT_ONCE = Backoff(base=0, throttled_base=0)
QUICK = RetryPolicy(backoff=AT_ONCE, budget=None)  # tests must not share a budget
MARKER = "s3cr3t"


def stopped() -> Exception:
    error: Exception = iii.InvocationError("invocation_stopped", "the worker went away")
    return error


def denied(code: str = "FORBIDDEN") -> Exception:
    error: Exception = iii.InvocationError(code, "no")
    return error


class Script:
    """A function that fails as it is told, and counts its calls."""

    def __init__(self, *outcomes: Any, forever: Callable[[], BaseException] | None = None) -> None:
        self.outcomes = list(outcomes)
        self.forever = forever
        self.calls = 0

    def play(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls > len(self.outcomes) and self.forever is not None:
            raise self.forever()
        outcome = self.outcomes[self.calls - 1]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class SyncCallable(Script):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.play()


class AsyncCallable(Script):
    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.play()


def call(script: Script, how: str = "sync", **options: Any) -> Any:
    """The outcome of a decorated script, sync or async."""
    if how == "sync":
        return iii_retry(**options)(script.play)()

    async def play() -> Any:
        return script.play()

    return asyncio.run(iii_retry(**options)(play)())


def given_up(
    script: Script, how: str = "sync", *, error: type[BaseException] = Exception, **options: Any
) -> Any:
    with pytest.raises(error) as caught:
        call(script, how, **{"policy": QUICK, **options})
    return caught.value


def reason(error: BaseException) -> Reason:
    report = report_for(error)
    assert report is not None
    return report.reason


BOTH = pytest.mark.parametrize("how", ["sync", "async"])


# What is retried.


@BOTH
def test_idempotent_function_is_called_until_it_succeeds(how: str) -> None:
    script = Script(stopped(), stopped(), "done")
    assert call(script, how, idempotent=True, policy=QUICK) == "done"
    assert script.calls == 3


@BOTH
def test_without_idempotent_is_called_once(how: str) -> None:
    error = stopped()
    script = Script(error, "done")
    assert given_up(script, how) is error
    assert script.calls == 1
    assert reason(error) is Reason.NOT_IDEMPOTENT


@BOTH
def test_last_attempts_exception_is_raised_with_report(how: str) -> None:
    errors = [stopped() for _ in range(4)]
    script = Script(*errors)
    assert given_up(script, how, idempotent=True) is errors[-1]
    report = report_for(errors[-1])
    assert report is not None
    assert report.reason is Reason.EXHAUSTED
    assert [attempt.number for attempt in report.attempts] == [1, 2, 3, 4]
    assert {attempt.failure.code for attempt in report.attempts} == {"invocation_stopped"}
    assert all(attempt.sent for attempt in report.attempts)
    assert [report_for(error) for error in errors[:-1]] == [None] * 3


@pytest.mark.parametrize("value", [None, 0, False, [], ValueError("a value, not raised")])
@BOTH
def test_whatever_is_returned_is_success(how: str, value: Any) -> None:
    script = Script(stopped())
    script.outcomes.append([value])
    assert call(script, how, idempotent=True, policy=QUICK) == [value]


ERRORS: dict[str, Callable[[], Exception]] = {
    "transient": stopped,
    "connection": lambda: ConnectionError("x"),
    "throttled": lambda: iii.InvocationError("RATE_LIMITED", "slow down"),
    "permanent": lambda: ValueError("x"),
    "unknown": lambda: iii.InvocationError("no_such_code", "x"),
    "payload": lambda: iii.InvocationError("invalid_payload", "x"),
    "FORBIDDEN": denied,
    "function_not_found": lambda: denied("function_not_found"),
    "again": tenacity.TryAgain,
}
TRANSIENT = {"transient", "connection", "throttled"}


@given(
    outcomes=st.lists(st.sampled_from([*ERRORS, "success"]), min_size=1, max_size=8),
    idempotent=st.booleans(),
    attempts=st.integers(min_value=1, max_value=9),
    deadline=st.none() | st.floats(min_value=0.001, max_value=30),
    cap=st.floats(min_value=0.2, max_value=20),
    late=st.floats(min_value=0, max_value=5),
    took=st.floats(min_value=0, max_value=5),
    jitter=st.sampled_from(["full", "equal", "decorrelated", "none"]),
    how=st.sampled_from(["sync", "async", "for", "async for"]),
)
def test_no_policy_calls_more_often_or_later_than_rules_allow(
    fake_clock: ClockMaker,
    outcomes: list[str],
    idempotent: bool,
    attempts: int,
    deadline: float | None,
    cap: float,
    late: float,
    took: float,
    jitter: str,
    how: str,
) -> None:
    policy = RetryPolicy(
        attempts=attempts,
        deadline=deadline,
        backoff=Backoff(base=min(0.2, cap), throttled_base=min(1.0, cap), cap=cap, jitter=jitter),
        budget=None,
    )
    starts: list[float] = []

    def attempt() -> str:
        starts.append(clock.now)
        clock.now += took
        outcome = outcomes[min(len(starts), len(outcomes)) - 1]
        if outcome != "success":
            error = ERRORS[outcome]()
            raise error
        return outcome

    raised: Exception | None = None
    with fake_clock() as clock:
        clock.late = late
        began = clock.now
        try:
            run_as(how, attempt, idempotent=idempotent, policy=policy)
        except Exception as error:
            raised = error

    seen = [outcomes[min(n, len(outcomes) - 1)] for n in range(len(starts))]
    assert 1 <= len(starts) <= attempts
    assert type(raised) is (type(None) if seen[-1] == "success" else type(ERRORS[seen[-1]]()))
    for retried in seen[:-1]:
        assert retried == "again" or (idempotent and retried in TRANSIENT)
    if deadline is not None:
        assert all(start < began + deadline for start in starts[1:])
        assert all(until < began + deadline for until in clock.until)
    assert all(0 <= delay <= cap for delay in clock.slept)


def run_as(how: str, attempt: Callable[[], Any], **options: Any) -> Any:
    """One retried call, in whichever of the four ways."""
    if how == "sync":
        return iii_retry(**options)(attempt)()

    async def attempt_async() -> Any:
        return attempt()

    if how == "async":
        return asyncio.run(iii_retry(**options)(attempt_async)())
    value = None
    if how == "for":
        for tried in iii_resilience.retrying(**options):
            with tried:
                value = attempt()
        return value

    async def loop() -> Any:
        value = None
        async for tried in iii_resilience.retrying(**options):
            with tried:
                value = attempt()
        return value

    return asyncio.run(loop())


@pytest.mark.parametrize("code", ["FORBIDDEN", "function_not_found"])
@BOTH
def test_denial_is_final_under_any_policy(how: str, code: str) -> None:
    most = QUICK.replace(attempts=100, retry_unexecuted=True, budget=None, deadline=None)
    script = Script(denied(code), "done")
    error = given_up(script, how, idempotent=True, policy=most)
    assert script.calls == 1
    assert reason(error) is Reason.NOT_RETRYABLE
    action = {"FORBIDDEN": "fix-access", "function_not_found": "discover"}[code]
    hint = hint_for(error)
    assert hint is not None
    assert hint.action == action


@pytest.mark.parametrize("code", ["FORBIDDEN", "function_not_found"])
@pytest.mark.parametrize("kind", [ConnectionError, TimeoutError, ValueError, tenacity.TryAgain])
@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("between", [0, 2])
@BOTH
def test_denial_behind_another_exception_is_final_too(
    how: str, between: int, explicit: bool, kind: type[Exception], code: str
) -> None:
    calls = 0

    def function() -> None:
        nonlocal calls
        calls += 1
        try:
            try:
                raise denied(code)
            except Exception as error:
                outermost = error
                for _ in range(between):
                    wrapped = RuntimeError("wrapped")
                    wrapped.__cause__ = outermost
                    outermost = wrapped
                if between:
                    raise outermost  # noqa: B904 - its cause is the denial
                raise
        except Exception as error:
            if explicit:
                raise kind("outer") from error
            raise kind("outer")  # noqa: B904 - a bare context forbids too

    with contextlib.suppress(Exception):
        run_as(how, function, idempotent=True, policy=QUICK)
    assert calls == 1


def test_denial_inside_handlers_message_is_final() -> None:
    text = 'handler error: {"code": "FORBIDDEN", "message": "no"}'
    script = Script(iii.InvocationError("invocation_failed", text), "done")
    assert reason(given_up(script, idempotent=True)) is Reason.NOT_RETRYABLE
    assert script.calls == 1


def test_one_attempt_means_no_retry() -> None:
    script = Script(stopped(), "done")
    assert reason(given_up(script, idempotent=True, attempts=1)) is Reason.EXHAUSTED


# Delays.


def test_every_delay_is_slept_and_reported(clock: FakeClock) -> None:
    script = Script(forever=stopped)
    backoff = Backoff(jitter="none")
    error = given_up(script, idempotent=True, policy=RetryPolicy(backoff=backoff))
    assert clock.slept == pytest.approx([0.2, 0.4, 0.8])
    report = report_for(error)
    assert report is not None
    assert [attempt.delay for attempt in report.attempts] == pytest.approx([0, 0.2, 0.4, 0.8])
    assert report.elapsed == pytest.approx(1.4)


def test_decorrelated_delays_grow_from_one_before(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iii_resilience.retry.retried_call.random.random", lambda: 1.0)
    policy = RetryPolicy(backoff=Backoff(jitter="decorrelated"))
    given_up(Script(forever=stopped), idempotent=True, policy=policy)
    assert clock.slept == pytest.approx([0.6, 1.8, 5.4])


@pytest.mark.parametrize(
    "error",
    [
        lambda: RpcError("RATE_LIMITED", "slow", retry_after=0.3),
        lambda: iii_resilience.check_rpc(
            {
                "status": "error",
                "label": "RATE_LIMITED",
                "error": {"code": "RATE_LIMITED", "message": "retry after 300ms"},
            }
        ),
    ],
)
def test_pushback_is_floor_for_delay(clock: FakeClock, error: Callable[[], Any]) -> None:
    def function() -> None:
        raise error()

    decorate = iii_retry(idempotent=True, wait=tenacity.wait_none(), attempts=2)
    with pytest.raises(RpcError):
        decorate(function)()
    assert clock.slept == [0.3]


@pytest.mark.parametrize(
    "policy", [RetryPolicy(deadline=None), RetryPolicy(deadline=25.0), RetryPolicy(deadline=3.0)]
)
def test_pushback_past_cap_or_deadline_hints_to_wait(clock: FakeClock, policy: RetryPolicy) -> None:
    seconds = 3.0 if policy.deadline == 3.0 else 20.5
    script = Script(forever=lambda: RpcError("RATE_LIMITED", "slow", retry_after=seconds))
    error = given_up(script, idempotent=True, policy=policy)
    assert clock.slept == []
    assert reason(error) is Reason.PUSHBACK
    hint = hint_for(error)
    assert hint is not None
    assert (hint.action, hint.seconds) == ("wait", seconds)


@BOTH
def test_no_retry_starts_past_deadline_after_long_sleep(how: str, clock: FakeClock) -> None:
    clock.late = 100.0
    script = Script(forever=stopped)
    budget = Budget(ratio=0, burst=1, min_per_second=0)
    error = given_up(script, how, idempotent=True, policy=RetryPolicy(budget=budget))
    assert script.calls == 1
    assert reason(error) is Reason.DEADLINE
    assert level(budget) == 1.0  # its permit is given back


def test_deadline_never_cuts_attempt(clock: FakeClock) -> None:
    def function() -> str:
        clock.now += 1_000
        return "late"

    assert iii_retry(idempotent=True, deadline=1.0)(function)() == "late"


def test_no_deadline_is_none(clock: FakeClock) -> None:
    policy = RetryPolicy(deadline=None, attempts=12, backoff=Backoff(jitter="none"))
    given_up(Script(forever=stopped), idempotent=True, policy=policy)
    assert sum(clock.slept) > 60


# Tenacity's parts.


@pytest.mark.parametrize(
    ("wait", "delays"),
    [
        (tenacity.wait_fixed(2), [2, 2, 2]),
        (tenacity.wait_fixed(2) + tenacity.wait_incrementing(1, 1), [3, 4, 5]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(5)), [1, 5, 5]),
        (tenacity.wait_exponential(multiplier=1), [1, 2, 4]),
        (tenacity.wait_none(), [0, 0, 0]),
        (lambda state: state.attempt_number * 10, [10, 20, 0]),
        (lambda _: float("nan"), [0, 0, 0]),
        (lambda _: -5, [0, 0, 0]),
    ],
)
@BOTH
def test_tenacitys_waits_and_their_sums_replace_backoff(
    how: str, wait: Any, delays: list[float], clock: FakeClock
) -> None:
    given_up(Script(forever=stopped), how, idempotent=True, policy=RetryPolicy(wait=wait))
    assert clock.slept == delays[: len(clock.slept)]
    assert len(clock.slept) == (2 if delays[-1] == 0 and delays[0] == 10 else 3)


@pytest.mark.parametrize("seconds", [float("inf"), 1e30])
@pytest.mark.parametrize("deadline", [60.0, None])
def test_endless_wait_is_not_taken_for_none(
    seconds: float, deadline: float | None, clock: FakeClock
) -> None:
    policy = RetryPolicy(wait=lambda _: seconds, deadline=deadline, attempts=2)
    error = given_up(Script(forever=stopped), idempotent=True, policy=policy)
    assert reason(error) is (Reason.EXHAUSTED if deadline is None else Reason.DEADLINE)
    assert all(delay == threading.TIMEOUT_MAX for delay in clock.slept)


@pytest.mark.parametrize(
    ("stop", "calls"),
    [
        (tenacity.stop_after_attempt(2), 2),
        (tenacity.stop_after_attempt(9), 4),
        (tenacity.stop_after_attempt(2) | tenacity.stop_after_delay(1e9), 2),
        (tenacity.stop_after_attempt(2) & tenacity.stop_after_delay(1e9), 4),
        (tenacity.stop_after_delay(0), 1),
        (tenacity.stop_before_delay(2.5), 2),
        (tenacity.stop_never, 4),
    ],
)
@BOTH
def test_tenacitys_stops_are_or_ed_with_limits(
    how: str, stop: Any, calls: int, clock: FakeClock
) -> None:
    script = Script(forever=stopped)
    policy = RetryPolicy(stop=stop, wait=tenacity.wait_fixed(2))
    error = given_up(script, how, idempotent=True, policy=policy)
    assert script.calls == calls
    assert reason(error) is Reason.EXHAUSTED


def test_stop_before_delay_sees_delay_about_to_be_slept(clock: FakeClock) -> None:
    script = Script(forever=stopped)
    wait = tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(5))
    given_up(script, idempotent=True, wait=wait, stop=tenacity.stop_before_delay(4))
    assert clock.slept == [1]


def test_stop_after_delay_counts_from_calls_start(clock: FakeClock) -> None:
    calls = 0

    def slow() -> None:
        nonlocal calls
        calls += 1
        clock.now += 6
        raise stopped()

    stop = tenacity.stop_after_delay(10)
    with pytest.raises(Exception, match="invocation_stopped"):
        iii_retry(idempotent=True, wait=tenacity.wait_none(), stop=stop)(slow)()
    assert calls == 2


def test_users_wait_sees_state_of_call(clock: FakeClock) -> None:
    seen: list[Any] = []

    def wait(state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None
        seen.append((state.attempt_number, state.outcome.exception(), state.seconds_since_start))
        return 1.0

    errors = [stopped(), stopped(), stopped()]
    call(Script(*errors, 1), idempotent=True, wait=wait)
    assert seen == [(n + 1, error, n) for n, error in enumerate(errors)]


# TryAgain.


@pytest.mark.parametrize("idempotent", [True, False])
@BOTH
def test_try_again_is_retried_whether_idempotent_or_not(how: str, idempotent: bool) -> None:
    script = Script(tenacity.TryAgain(), tenacity.TryAgain(), "done")
    assert call(script, how, idempotent=idempotent, policy=QUICK) == "done"
    assert script.calls == 3


@BOTH
def test_try_again_counts_as_attempt_and_runs_out_as_itself(how: str) -> None:
    errors = [tenacity.TryAgain() for _ in range(4)]
    script = Script(*errors)
    error = given_up(script, how)
    assert error is errors[-1]
    assert script.calls == 4
    assert reason(error) is Reason.EXHAUSTED


@BOTH
def test_try_again_runs_out_as_its_cause(how: str) -> None:
    cause = ValueError("why")

    def function() -> None:
        try:
            raise cause
        except ValueError as error:
            raise tenacity.TryAgain from error

    with pytest.raises(ValueError, match="why") as caught:
        run_as(how, function, policy=QUICK)
    assert caught.value is cause
    assert reason(cause) is Reason.EXHAUSTED
    hint = hint_for(cause)
    assert hint is not None
    assert hint.action == "investigate"  # it is the cause that the caller holds
    assert library_frames(cause) == 1


def test_try_again_from_throttled_error_waits_its_time(clock: FakeClock) -> None:
    def function() -> None:
        raise tenacity.TryAgain from RpcError("RATE_LIMITED", "slow", retry_after=7.0)

    with pytest.raises(RpcError):
        iii_retry(function)()
    assert clock.slept == [7.0, pytest.approx(7.0), pytest.approx(7.0)]


# Cancellation and its like.

PASSING = [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]


@pytest.mark.parametrize(
    "kind",
    # A generator on the way would take the third for its own: mutmut's trampolines are some.
    [pytest.param(kind, marks=[pytest.mark.bare] * (kind is GeneratorExit)) for kind in PASSING],
)
@pytest.mark.parametrize("before", [0, 1])
def test_in_attempt_they_pass_at_once_and_untouched(kind: type[BaseException], before: int) -> None:
    error = kind()
    script = Script(*[stopped() for _ in range(before)], error, "done")
    raised = given_up(script, error=kind, idempotent=True)
    assert raised is error
    assert library_frames(raised) == 1
    assert not hasattr(raised, "__notes__")
    assert script.calls == before + 1


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("before", [0, 1])
def test_in_async_attempt_they_pass_at_once_and_untouched(
    kind: type[BaseException], before: int
) -> None:
    error = kind()
    script = Script(*[stopped() for _ in range(before)], error, "done")

    @iii_retry(idempotent=True, policy=QUICK)
    async def function() -> Any:
        return script.play()

    # Driven by hand: asyncio's own handling of the first three would end the loop.
    step: Any = function()

    def drive() -> None:
        while True:
            step.send(None)

    with pytest.raises(kind) as caught:
        drive()
    assert caught.value is error
    assert script.calls == before + 1


@pytest.mark.parametrize("kind", PASSING)
def test_in_sleep_they_pass_at_once_and_permit_is_given_back(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = kind()
    budget = Budget(ratio=0, burst=1, min_per_second=0)
    script = Script(forever=stopped)

    def interrupt(_: float) -> None:
        assert level(budget) == 0.0
        raise error

    monkeypatch.setattr("iii_resilience.core.system_clock.sleep", interrupt)
    raised = given_up(script, error=kind, idempotent=True, policy=QUICK.replace(budget=budget))
    assert raised is error
    assert script.calls == 1
    assert level(budget) == 1.0


@pytest.mark.parametrize("where", ["attempt", "retry", "sleep"])
@pytest.mark.parametrize("timed", [False, True])
async def test_one_cancel_is_enough_wherever_it_hits(where: str, timed: bool) -> None:
    budget = Budget(ratio=0, burst=1, min_per_second=0)
    calls, reached = 0, asyncio.Event()

    @iii_retry(
        idempotent=True,
        backoff=Backoff(base=9, throttled_base=9, jitter="none") if where == "sleep" else AT_ONCE,
        budget=budget,
        attempt_timeout=9 if timed else None,
    )
    async def function() -> None:
        nonlocal calls
        calls += 1
        if where == "sleep" or (where == "retry" and calls == 1):
            reached.set()
            raise stopped()
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(function())
    await reached.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls == (2 if where == "retry" else 1)
    spent = 1.0 if where == "retry" else 0.0
    assert level(budget) == 1.0 - spent


async def test_timeout_around_retried_call_ends_it() -> None:
    calls = 0

    @iii_retry(idempotent=True, backoff=Backoff(base=5, throttled_base=5, jitter="none"))
    async def function() -> None:
        nonlocal calls
        calls += 1
        raise stopped()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await function()
    assert calls == 1


def test_permit_is_returned_if_attempt_was_not_sent() -> None:
    bucket = PermitBucket(0.0, 1.0, 10.0)
    context = RetryContext(policy=QUICK, name="n", bucket=bucket)
    run = RetriedCall(context, 0.0, idempotent=True)
    run.attempt_failed(stopped(), None)

    def unsent() -> None:
        raise KeyboardInterrupt

    assert isinstance(run.retry(unsent, sends=False).error, KeyboardInterrupt)
    assert bucket.level == 1.0


# attempt_timeout.


async def test_attempt_timeout_bounds_each_attempt() -> None:
    calls = 0

    @iii_retry(idempotent=True, backoff=AT_ONCE, attempt_timeout=0.02)
    async def function() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            await asyncio.sleep(30)
        return "done"

    assert await function() == "done"
    assert calls == 3


@pytest.mark.bare
async def test_attempt_timeout_is_timeout_error_with_one_frame() -> None:
    @iii_retry(idempotent=True, policy=QUICK.replace(attempt_timeout=0.01, attempts=2))
    async def function() -> None:
        await asyncio.sleep(30)

    with pytest.raises(TimeoutError) as caught:
        await function()
    assert reason(caught.value) is Reason.EXHAUSTED
    assert library_frames(caught.value) == 1


async def test_attempt_that_swallows_cancellation_returns_its_value() -> None:
    @iii_retry(idempotent=True, policy=QUICK, attempt_timeout=0.01)
    async def function() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return "saved"
        return "never"

    assert await function() == "saved"


async def test_attempt_timeout_is_cut_to_time_left() -> None:
    calls = 0

    @iii_retry(idempotent=True, policy=QUICK, attempts=2, attempt_timeout=60.0, deadline=60.0)
    async def function() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            clock.advance(59.95)
            raise stopped()
        await asyncio.sleep(30)

    started = time.monotonic()
    with our_clock() as clock, pytest.raises(TimeoutError) as caught:
        await function()
    assert calls == 2
    assert time.monotonic() - started < 15
    assert classify(caught.value).category is Category.TRANSIENT


@pytest.mark.parametrize("before", [0, 1])
async def test_swallowed_timeout_is_not_retried(before: int) -> None:
    calls = 0

    @iii_retry(idempotent=True, policy=QUICK, attempt_timeout=0.05)
    async def function() -> None:
        nonlocal calls
        calls += 1
        if calls <= before:
            raise stopped()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise ConnectionResetError from None  # whether its work was undone nobody knows

    with pytest.raises(ConnectionResetError) as caught:
        await function()
    assert calls == before + 1
    assert reason(caught.value) is Reason.NOT_RETRYABLE


async def test_attempt_that_fails_before_its_timeout_is_retried() -> None:
    script = Script(stopped(), stopped(), "done")

    @iii_retry(idempotent=True, policy=QUICK, attempt_timeout=30)
    async def function() -> Any:
        await asyncio.sleep(0)
        return script.play()

    assert await function() == "done"


@pytest.mark.parametrize("before", [0, 1])
async def test_swallowed_caller_cancellation_is_not_retried(
    before: int,
) -> None:
    calls, reached = 0, asyncio.Event()

    @iii_retry(idempotent=True, policy=QUICK)
    async def function() -> None:
        nonlocal calls
        calls += 1
        if calls <= before:
            raise stopped()
        reached.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise ConnectionResetError from None

    task = asyncio.create_task(function())
    await reached.wait()
    task.cancel()
    with pytest.raises(ConnectionResetError) as caught:
        await task
    assert calls == before + 1
    assert reason(caught.value) is Reason.NOT_RETRYABLE


async def test_clean_up_of_cancelled_task_is_retried() -> None:
    script = Script(stopped(), stopped(), "tidy")

    @iii_retry(idempotent=True, policy=QUICK)
    async def tidy_up() -> Any:
        return script.play()

    async def work() -> Any:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return await tidy_up()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "tidy"


async def test_attempt_whose_task_group_failed_is_retried() -> None:
    calls = 0

    async def fails() -> None:
        await asyncio.sleep(0)
        raise stopped()

    @iii_retry(idempotent=True, policy=QUICK)
    async def function() -> str:
        nonlocal calls
        calls += 1
        if calls == 3:
            return "done"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
        except ExceptionGroup:
            raise ConnectionResetError from None
        return "never"

    assert await function() == "done"


@pytest.mark.parametrize("between", [0, 3])
async def test_swallowed_cancellation_is_found_behind_others(between: int) -> None:
    calls, reached = 0, asyncio.Event()

    @iii_retry(idempotent=True, policy=QUICK)
    async def function() -> None:
        nonlocal calls
        calls += 1
        reached.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError as error:
            cause: BaseException = error
            for _ in range(between):
                wrapped = RuntimeError("wrapped")
                wrapped.__cause__ = cause
                cause = wrapped
            raise ConnectionResetError from cause

    task = asyncio.create_task(function())
    await reached.wait()
    task.cancel()
    with pytest.raises(ConnectionResetError):
        await task
    assert calls == 1


def test_circle_of_causes_comes_of_no_cancellation() -> None:
    first, second = ValueError(), ValueError()
    first.__context__, second.__context__ = second, first
    assert not _comes_of_a_cancellation(first)
    assert not _comes_of_a_cancellation(ValueError())
    second.__context__ = asyncio.CancelledError()
    assert _comes_of_a_cancellation(first)


async def test_attempt_with_timeout_of_its_own_is_retried() -> None:
    calls = 0

    @iii_retry(idempotent=True, policy=QUICK)
    async def function() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(30)
        return "done"

    assert await function() == "done"


def test_attempt_timeout_on_sync_is_rejected_with_advice() -> None:
    message = (
        "attempt_timeout cannot be kept here: a sync function cannot be interrupted: give it a "
        "timeout of its own, make it async, or set a deadline"
    )
    policy = RetryPolicy(attempt_timeout=1)
    with pytest.raises(ValueError, match=message):
        iii_retry(attempt_timeout=1)(len)
    with pytest.raises(ValueError, match=message):
        iii_retry(policy=policy)(len)
    assert iii_retry(policy=policy, attempt_timeout=None)(len)("abc") == 3


# What can be decorated.


@pytest.mark.parametrize(
    "target", [SyncCallable(stopped()), functools.partial(Script(stopped()).play), len]
)
def test_log_names_whatever_was_decorated(target: Any, caplog: pytest.LogCaptureFixture) -> None:
    kind = type(target)
    names = {SyncCallable: f"{__name__}.SyncCallable", functools.partial: "functools.partial"}
    with caplog.at_level(logging.INFO, "iii_resilience"), contextlib.suppress(Exception):
        iii_retry(policy=QUICK)(target)()
    (record,) = [one for one in caplog.records if one.name == "iii_resilience"]
    assert record.iii_function_id == names.get(kind, "builtins.len")  # type: ignore[attr-defined]


def test_methods_of_every_kind_and_in_both_orders() -> None:
    class Service:
        failures = 0
        name = "service"

        @classmethod
        def flaky(cls) -> None:
            Service.failures += 1
            if Service.failures % 3:
                raise stopped()

        @iii_retry(idempotent=True, policy=QUICK)
        def plain(self, number: int) -> tuple[str, int]:
            self.flaky()
            return self.name, number

        @iii_retry(idempotent=True, policy=QUICK)
        @classmethod
        def outside(cls, number: int) -> tuple[str, int]:
            cls.flaky()
            return cls.name, number

        @classmethod
        @iii_retry(idempotent=True, policy=QUICK)
        def inside(cls, number: int) -> tuple[str, int]:
            cls.flaky()
            return cls.name, number

        @iii_retry(idempotent=True, policy=QUICK)
        @staticmethod
        def static_outside(number: int) -> tuple[str, int]:
            Service.flaky()
            return "static", number

        @staticmethod
        @iii_retry(idempotent=True, policy=QUICK)
        def static_inside(number: int) -> tuple[str, int]:
            Service.flaky()
            return "static", number

        @iii_retry(idempotent=True, policy=QUICK)
        async def later(self, number: int) -> tuple[str, int]:
            self.flaky()
            return self.name, number

    service: Any = Service()
    assert service.plain(1) == ("service", 1)
    for owner in (service, Service):
        made: Any = owner
        assert made.outside(2) == ("service", 2)
        assert made.inside(3) == ("service", 3)
        assert made.static_outside(4) == ("static", 4)
        assert made.static_inside(5) == ("static", 5)
    assert asyncio.run(service.later(6)) == ("service", 6)
    assert Service.failures == 10 * 3


def test_partials_callable_objects_and_lambdas() -> None:
    decorate: Any = iii_retry(idempotent=True, policy=QUICK)
    script = Script(stopped(), "partial")
    assert decorate(functools.partial(script.play, 1, two=2))() == "partial"
    assert decorate(SyncCallable(stopped(), "object"))() == "object"
    assert decorate(functools.partial(SyncCallable(stopped(), "both"), 1))() == "both"
    assert decorate(lambda number: number)(3) == 3


async def test_async_partials_and_async_callable_objects() -> None:
    decorate: Any = iii_retry(idempotent=True, policy=QUICK)

    async def play(script: Script, **_: Any) -> Any:
        return script.play()

    assert await decorate(functools.partial(play, Script(stopped(), "partial"), x=1))() == "partial"
    assert await decorate(AsyncCallable(stopped(), "object"))() == "object"
    assert await decorate(functools.partial(AsyncCallable(stopped(), "both"), 1))() == "both"


def test_signature_name_documentation_and_kind_are_kept() -> None:
    def function(first: int, /, *, second: str = "x") -> str:
        """What it does."""
        return second * first

    async def later(first: int) -> int:
        return first

    decorated = iii_retry(function)
    assert decorated.__name__ == "function"
    assert decorated.__qualname__ == function.__qualname__
    assert decorated.__doc__ == "What it does."
    assert decorated.__wrapped__ is function  # type: ignore[attr-defined]
    assert inspect.signature(decorated) == inspect.signature(function)
    assert decorated(2, second="ab") == "abab"
    assert not inspect.iscoroutinefunction(decorated)
    assert inspect.iscoroutinefunction(iii_retry(later))


def test_arguments_are_passed_to_every_attempt_unchanged() -> None:
    seen: list[Any] = []

    @iii_retry(idempotent=True, policy=QUICK)
    def function(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))
        if len(seen) < 3:
            raise stopped()

    box: list[int] = []
    function(box, 1, function=2, self=3, policy=4)
    assert seen == [((box, 1), {"function": 2, "self": 3, "policy": 4})] * 3
    assert all(args[0] is box for args, _ in seen)


def a_generator() -> Iterator[int]:
    yield 1


async def an_async_generator() -> AsyncIterator[int]:
    yield 1


class GeneratingObject:
    def __call__(self) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "cannot decorate 5: it is not callable. Decorate a function, or use 'for attempt in"),
        ("payments", r"takes its policy by name: write @iii_retry\(policy=\.\.\.\) above"),
        (property(len), "it is not callable"),
        (Script, "cannot decorate the class Script: decorate the methods that may be repeated"),
        (a_generator, "cannot decorate the generator function .*a_generator: .* collect the items"),
        (an_async_generator, "cannot decorate the generator function .*an_async_generator"),
        (functools.partial(a_generator), "cannot decorate the generator function"),
        (GeneratingObject(), "cannot decorate the generator function"),
        (staticmethod(a_generator), "cannot decorate the generator function"),
        (classmethod(a_generator), "cannot decorate the generator function"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_called_again_is_rejected_with_advice(target: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^@iii_retry {message}|{message}"):
        iii_retry(target)
    with pytest.raises(TypeError, match=message):
        iii_retry(idempotent=True)(target)


# Options.


@pytest.mark.parametrize("name", ["fallback", "ready_timeout", "max_stops", "retry_unexecuted"])
def test_options_of_worker_trigger_are_refused_as_arguments(name: str) -> None:
    with pytest.raises(TypeError) as caught:
        iii_retry(**{name: 1})  # type: ignore[call-overload]
    assert str(caught.value) == (
        f"@iii_retry takes no {name}: it only works in worker.trigger, where it is known what was "
        "sent; put it into a policy used there"
    )


def test_unknown_option_is_answered_with_known_ones() -> None:
    with pytest.raises(TypeError) as caught:
        iii_retry(atempts=3)  # type: ignore[call-overload]
    allowed = ", ".join(sorted(FIELDS - TRIGGER_FIELDS))
    assert str(caught.value) == (
        "@iii_retry takes no atempts; did you mean attempts? "
        f"(it takes idempotent, policy, transient, {allowed})"
    )


def test_generator_function_gets_what_to_decorate_instead() -> None:
    with pytest.raises(TypeError) as caught:
        iii_retry(a_generator)
    assert str(caught.value) == (
        f"@iii_retry cannot decorate the generator function {__name__}.a_generator: what it has "
        "yielded cannot be taken back. Decorate the function that makes one item, or collect the "
        "items in a list inside a plain function"
    )


def test_options_of_worker_trigger_in_policy_are_ignored() -> None:
    policy = QUICK.replace(retry_unexecuted=True, max_stops=1, ready_timeout=0)
    unsent = Script(iii.InvocationError("channel_send_failed", "x"), "done")
    assert reason(given_up(unsent, policy=policy)) is Reason.NOT_IDEMPOTENT
    assert unsent.calls == 1
    assert call(Script(stopped(), stopped(), 1), idempotent=True, policy=policy) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"atempts": 3},
            TypeError,
            r"takes no atempts; did you mean attempts\? \(it takes idempotent, policy, transient",
        ),
        ({"attempts": 0}, ValueError, "RetryPolicy.attempts must be a whole number at least 1"),
        ({"deadline": -1}, ValueError, "RetryPolicy.deadline must be a finite number"),
        ({"wait": 5}, TypeError, r"RetryPolicy.wait must be a tenacity wait_\* object"),
        ({"policy": 5}, TypeError, "policy must be a RetryPolicy or a name, got 5"),
        ({"idempotent": "no"}, TypeError, "idempotent must be True or False, got str"),
        ({"idempotent": None}, TypeError, "idempotent must be True or False, got NoneType"),
    ],
)
def test_wrong_options_are_refused_where_they_stand(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        iii_retry(**options)


@BOTH
def test_named_policy_is_resolved_at_first_call(how: str) -> None:
    script = Script("done", "done")

    def wrapped() -> Any:
        return script.play()

    async def wrapped_async() -> Any:
        return script.play()

    target: Any = wrapped if how == "sync" else wrapped_async
    function: Any = iii_retry(idempotent=True, policy="paymnets")(target)

    def go() -> Any:
        return function() if how == "sync" else asyncio.run(function())

    use_policies(PolicyBook({"payments": QUICK}))
    with pytest.raises(ValueError, match=r"no policy is named 'paymnets'; did you mean 'payments'"):
        go()
    assert script.calls == 0
    use_policies(PolicyBook({"paymnets": QUICK}))
    assert go() == "done"


def test_use_policies_switches_functions_without_policy() -> None:
    plain, named, own = Script(forever=stopped), Script(forever=stopped), Script(forever=stopped)
    functions: list[Any] = [
        iii_retry(idempotent=True, backoff=AT_ONCE)(plain.play),
        iii_retry(idempotent=True, backoff=AT_ONCE, policy="slow")(named.play),
        iii_retry(idempotent=True, policy=QUICK)(own.play),
    ]
    for attempts in (2, 3, 2):
        counts = [script.calls for script in (plain, named, own)]
        policy = RetryPolicy(attempts=attempts)
        use_policies(PolicyBook({"slow": policy, "other": policy}, default="other"))
        for function in functions:
            with pytest.raises(Exception, match="invocation_stopped"):
                function()
        made = [s.calls - n for s, n in zip((plain, named, own), counts, strict=True)]
        assert made == [attempts, attempts, 4]


def test_concurrent_switch_of_policies_is_not_lost() -> None:
    old, new = PolicyBook({"default": RetryPolicy(attempts=2)}), PolicyBook()

    class Interrupted(PolicySource):
        """Another thread, with the old book in hand, comes between two assignments."""

        armed = False

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_resolved" and value is not None and self.armed:
                self.armed = False
                use_policies(old)
                self.resolve("t.f")
                use_policies(new)

    source = Interrupted("x", None, {}, idempotent=True)
    source.armed = True
    use_policies(new)
    source.resolve("t.f")
    assert source.resolve("t.f")[0].attempts == 4


def level(budget: Budget) -> float:
    """Permits left in the one bucket of a budget."""
    (bucket,) = budget._states.values()
    return bucket.level


def test_overrides_share_budget_of_policy_they_change() -> None:
    budget = Budget(ratio=0, burst=1, min_per_second=0)
    policy = QUICK.replace(budget=budget)
    script = Script(forever=stopped)
    first = given_up(script, idempotent=True, policy=policy, attempts=2)
    assert reason(first) is Reason.EXHAUSTED
    second = given_up(script, idempotent=True, policy=policy, attempts=3)
    assert reason(second) is Reason.BUDGET_EXHAUSTED
    third = given_up(script, idempotent=True, policy=policy, budget=None)
    assert reason(third) is Reason.EXHAUSTED


def test_only_calls_that_may_be_retried_feed_budget() -> None:
    budget = Budget(ratio=1, min_per_second=0)
    policy = QUICK.replace(budget=budget)
    script = Script(stopped(), 1, 1)
    function = iii_retry(idempotent=True, policy=policy.replace(attempts=1))(script.play)
    with pytest.raises(Exception, match="invocation_stopped"):
        function()
    assert level(budget) == 8.0  # the cost of the failure
    call(script, policy=policy)
    assert level(budget) == 8.0
    call(script, idempotent=True, policy=policy)
    assert level(budget) == 9.0


def test_with_all_calls_failing_retries_end(clock: FakeClock) -> None:
    script = Script(forever=stopped)
    function = iii_retry(idempotent=True, policy=QUICK.replace(budget=Budget()))(script.play)
    for _ in range(1_000):
        clock.now += 0.01
        with pytest.raises(Exception, match="invocation_stopped"):
            function()
    assert script.calls <= 1_000 + 10


def test_calls_that_fail_twice_each_all_succeed() -> None:
    budget = Budget(burst=2)
    for _ in range(50):
        call(Script(stopped(), stopped(), 1), idempotent=True, policy=QUICK.replace(budget=budget))


class TestBudgetOfFunctions:
    """State is kept per policy and function."""

    def test_dead_function_starves_no_healthy_one(self) -> None:
        dead, healthy = Script(forever=stopped), Script(*[stopped(), 1] * 50)
        decorate = iii_retry(idempotent=True, policy=QUICK.replace(budget=Budget()))

        @decorate
        def first() -> Any:
            return dead.play()

        @decorate
        def second() -> Any:
            return healthy.play()

        for _ in range(50):
            with pytest.raises(Exception, match="invocation_stopped"):
                first()
            assert second() == 1

    @pytest.mark.bare  # a loop's scope is the function that it stands in
    def test_loops_in_two_functions_do_not_share(self) -> None:
        policy = QUICK.replace(budget=Budget(burst=1, min_per_second=0))

        def dead() -> None:
            for attempt in retrying(idempotent=True, policy=policy):
                with attempt:
                    raise stopped()

        def healthy(script: Script) -> Any:
            for attempt in retrying(idempotent=True, policy=policy):
                with attempt:
                    return script.play()
            raise AssertionError("the loop ends with the block or an error")

        for _ in range(5):
            with pytest.raises(Exception, match="invocation_stopped"):
                dead()
            assert healthy(Script(stopped(), 1)) == 1

    def test_budget_given_beside_policy_is_shared(self) -> None:
        budget = Budget(ratio=0, burst=1, min_per_second=0)

        @iii_retry(idempotent=True, backoff=AT_ONCE, budget=budget)
        def first() -> None:
            raise stopped()

        @iii_retry(idempotent=True, backoff=AT_ONCE, budget=budget)
        def second() -> None:
            raise stopped()

        with pytest.raises(Exception, match="invocation_stopped"):
            first()
        with pytest.raises(Exception, match="invocation_stopped") as caught:
            second()
        assert reason(caught.value) is Reason.BUDGET_EXHAUSTED
        report = report_for(caught.value)
        assert report is not None
        assert len(report.attempts) == 1

    def test_other_budget_of_equal_numbers_is_another(self) -> None:
        def made(budget: Budget) -> Any:
            @iii_retry(idempotent=True, backoff=AT_ONCE, budget=budget)
            def function() -> None:
                raise stopped()

            return function

        @iii_retry(idempotent=True, backoff=AT_ONCE, budget=Budget(burst=1, min_per_second=0))
        def other() -> None:
            raise stopped()

        for function in (made(Budget(burst=1, min_per_second=0)), other):
            with pytest.raises(Exception, match="invocation_stopped") as caught:
                function()
            report = report_for(caught.value)
            assert report is not None
            assert len(report.attempts) == 2

    @pytest.mark.parametrize("where", ["decorator", "loop", "tenacity", "beside"])
    def test_policies_made_anew_share_budget(self, where: str) -> None:
        script = Script(forever=stopped)

        def once(policy: RetryPolicy) -> None:
            if where == "decorator":
                iii_retry(idempotent=True, policy=policy)(script.play)()
            elif where == "beside":
                iii_retry(idempotent=True, backoff=AT_ONCE, budget=policy.budget)(script.play)()
            elif where == "tenacity":
                tenacity.Retrying(**policy.to_tenacity(idempotent=True))(script.play)
            else:
                for attempt in retrying(idempotent=True, policy=policy):
                    with attempt:
                        script.play()

        for _ in range(40):
            policy = QUICK.replace(budget=Budget(ratio=0, burst=5, min_per_second=0))
            with pytest.raises(Exception, match="invocation_stopped"):
                once(policy)
        assert script.calls == 40 + 5

    @pytest.mark.parametrize("where", ["decorator", "loop"])
    def test_policies_made_anew_share_breaker(self, where: str) -> None:
        script = Script(forever=stopped)

        def once(policy: RetryPolicy) -> None:
            if where == "decorator":
                iii_retry(policy=policy)(script.play)()
            else:
                for attempt in retrying(policy=policy):
                    with attempt:
                        script.play()

        for number in range(40):
            policy = QUICK.replace(attempts=1 + number, breaker=Breaker(min_calls=5))
            with pytest.raises(Exception, match=r"invocation_stopped|the circuit of"):
                once(policy)
        assert script.calls == 5


class TestInFlight:
    """What was in flight when trouble began is one event."""

    @pytest.mark.parametrize("calls", [50, 500])
    async def test_calls_on_server_that_restarts_are_repaired(self, calls: int) -> None:
        up = asyncio.Event()

        @iii_retry(idempotent=True, policy=QUICK.replace(budget=Budget()))
        async def function(tries: list[int]) -> str:
            tries.append(1)
            await up.wait()
            if len(tries) == 1:
                raise ConnectionResetError
            return "done"

        tasks = [asyncio.create_task(function([])) for _ in range(calls)]
        await asyncio.sleep(0.01)
        up.set()
        assert await asyncio.gather(*tasks) == ["done"] * calls

    async def test_failure_before_trouble_does_not_count(self) -> None:
        policy = QUICK.replace(budget=Budget(burst=1, min_per_second=0))
        trouble = asyncio.Event()

        @iii_retry(idempotent=True, policy=policy)
        async def function(tries: list[int]) -> str:
            tries.append(1)
            if len(tries) == 2:
                await trouble.wait()
            if len(tries) <= 2:
                raise ConnectionResetError
            return "done"

        tries: list[int] = []
        task = asyncio.create_task(function(tries))
        while len(tries) < 2:
            await asyncio.sleep(0.001)
        assert await function([1, 1]) == "done"  # all is well, though the permit is still out
        trouble.set()
        assert await task == "done"

    async def test_only_one_retry_and_only_of_what_was_in_flight(self) -> None:
        up = asyncio.Event()
        attempts = 0

        @iii_retry(idempotent=True, policy=QUICK.replace(budget=Budget(min_per_second=0)))
        async def function() -> None:
            nonlocal attempts
            attempts += 1
            await up.wait()
            raise ConnectionResetError

        tasks = [asyncio.create_task(function()) for _ in range(100)]
        await asyncio.sleep(0.01)
        up.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert 200 <= attempts <= 100 + 100 + 10
        attempts = 0
        await asyncio.gather(*[function() for _ in range(100)], return_exceptions=True)
        assert attempts == 100


# Nesting.


@BOTH
def test_nested_decorators_do_not_multiply(how: str) -> None:
    script = Script(forever=stopped)
    decorate: Any = iii_retry(idempotent=True, policy=QUICK.replace(attempts=3))

    async def play() -> Any:
        return script.play()

    function: Any = script.play if how == "sync" else play
    function = decorate(decorate(decorate(function)))
    with pytest.raises(Exception, match="invocation_stopped") as caught:
        function() if how == "sync" else asyncio.run(function())
    assert script.calls == 3
    assert reason(caught.value) is Reason.ALREADY_RETRIED
    assert len(caught.value.__notes__) == 1
    assert library_frames(caught.value) <= 3


def test_wrapped_exception_of_inner_retry_is_not_retried() -> None:
    script = Script(forever=stopped)
    inner: Any = iii_retry(idempotent=True, policy=QUICK)(script.play)

    @iii_retry(idempotent=True, policy=QUICK)
    def outer() -> None:
        try:
            inner()
        except Exception as error:
            raise ConnectionError("wrapped") from error

    with pytest.raises(ConnectionError):
        outer()
    assert script.calls == 4


def test_outer_decorator_decides_about_inner_non_idempotent() -> None:
    script = Script(stopped(), stopped(), "done")
    inner: Any = iii_retry(policy=QUICK)(script.play)
    assert iii_retry(idempotent=True, policy=QUICK)(inner)() == "done"
    assert script.calls == 3


def test_one_object_raised_repeatedly_is_retried_each_time() -> None:
    error = ConnectionError("always the same")
    for _ in range(3):
        time.sleep(0.001)  # another call starts later than the one before was given up
        script = Script(*[error] * 4)
        assert given_up(script, idempotent=True) is error
        assert script.calls == 4
        assert reason(error) is Reason.EXHAUSTED
        assert len(error.__notes__) == 1


def test_recursion_is_no_nesting_of_failures() -> None:
    failed: set[int] = set()

    @iii_retry(idempotent=True, policy=QUICK.replace(budget=None))
    def down(number: int) -> int:
        if number not in failed:
            failed.add(number)
            raise stopped()
        return 0 if number == 0 else 1 + down(number - 1)

    assert down(20) == 20


# The caller's view.

LIBRARY = str(PACKAGE)


def library_frames(error: BaseException) -> int:
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    assert not [file for file in files if "tenacity" in file]
    return sum(file.startswith(LIBRARY) for file in files)


@pytest.mark.parametrize("calls", [1, 4])
@pytest.mark.parametrize(("how", "timed"), [("sync", False), ("async", False), ("async", True)])
@pytest.mark.bare
def test_traceback_has_one_frame_of_library(how: str, calls: int, timed: bool) -> None:

    def deeper() -> None:
        raise stopped()

    async def function() -> None:
        deeper()

    options: dict[str, Any] = {"attempt_timeout": 5} if timed else {}
    decorate: Any = iii_retry(idempotent=calls > 1, policy=QUICK, **options)
    with pytest.raises(Exception, match="invocation_stopped") as caught:
        decorate(deeper)() if how == "sync" else asyncio.run(decorate(function)())
    assert library_frames(caught.value) == 1
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "deeper"
    assert names.count("deeper") == 1
    assert caught.value.__context__ is None


def test_one_object_raised_by_each_attempt_shows_one_of_them() -> None:
    error = ConnectionError("x")

    def function() -> None:
        raise error

    with pytest.raises(ConnectionError):
        iii_retry(idempotent=True, policy=QUICK)(function)()
    assert library_frames(error) == 1
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names.count("function") == 1


def test_context_of_users_own_code_is_kept() -> None:
    def function() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise stopped()  # noqa: B904 - the context is what is tested

    with pytest.raises(Exception, match="invocation_stopped") as caught:
        iii_retry(idempotent=True, policy=QUICK)(function)()
    assert isinstance(caught.value.__context__, KeyError)
    assert caught.value.__cause__ is None


class TrackedError(ConnectionError):
    """May be referred to weakly, as every exception."""


@pytest.mark.parametrize("succeeds", [True, False])
@BOTH
def test_nothing_keeps_exception_that_was_handled(how: str, succeeds: bool) -> None:
    born: list[weakref.ref[TrackedError]] = []

    def function() -> None:
        if succeeds and len(born) == 3:
            return
        error = TrackedError("x")
        born.append(weakref.ref(error))
        raise error

    with contextlib.suppress(TrackedError):
        run_as(how, function, idempotent=True, policy=QUICK)
    gc.collect()
    assert len(born) >= 3
    assert [ref() for ref in born] == [None] * len(born)


def test_sdks_one_object_for_all_calls_is_not_written_on() -> None:
    error = iii.RegistrationRejectedError("WORKER_REJECTED", "ns", "worker", "owner")
    before = dict(vars(error))
    for _ in range(2):
        assert given_up(Script(error), idempotent=True) is error
    assert vars(error) == before


def test_exception_with_broken_attributes_reaches_caller() -> None:
    class HostileError(ConnectionError):
        def __getattribute__(self, name: str) -> Any:
            if name == "_iii_resilience":
                raise KeyError(name)
            return super().__getattribute__(name)

        def __setattr__(self, name: str, value: Any) -> None:
            raise RuntimeError(name)

    error = HostileError("x")
    assert given_up(Script(error, error, error, error), idempotent=True) is error


# Many at once.


def test_many_threads_share_decorated_function() -> None:
    local = threading.local()
    failures: list[BaseException] = []

    @iii_retry(idempotent=True, policy=QUICK.replace(budget=None))
    def function(number: int) -> int:
        local.calls = getattr(local, "calls", 0) + 1
        if local.calls % 4:
            raise stopped()
        return number

    def work(number: int) -> None:
        try:
            for n in range(20):
                assert function(number * 100 + n) == number * 100 + n
        except BaseException as error:  # told to the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_decorated_coroutine_works_on_several_loops_at_once() -> None:
    failed: set[int] = set()

    @iii_retry(idempotent=True, policy=QUICK.replace(budget=None))
    async def function(number: int) -> int:
        await asyncio.sleep(0)
        if number not in failed:
            failed.add(number)
            raise stopped()
        return number

    results: list[list[int]] = []

    def work(start: int) -> None:
        async def main() -> list[int]:
            return await asyncio.gather(*(function(start + n) for n in range(20)))

        results.append(asyncio.run(main()))

    threads = [threading.Thread(target=work, args=(n * 100,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [[n * 100 + m for m in range(20)] for n in range(4)]


def test_success_touches_nothing_of_tenacity(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a success came here")

    monkeypatch.setattr(tenacity, "Retrying", refuse)
    monkeypatch.setattr(tenacity, "AsyncRetrying", refuse)
    monkeypatch.setattr(RetriedCall, "__init__", refuse)
    for how in ("sync", "async", "for", "async for"):
        assert run_as(how, lambda: "done", idempotent=True) == "done"


def test_decide_is_asked_once_for_each_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Category] = []

    def counted(failure: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(failure.category)
        return decide(failure, *args, **kwargs)

    monkeypatch.setattr("iii_resilience.retry.retried_call.decide", counted)
    outcomes = [stopped(), tenacity.TryAgain(), stopped(), "done"]
    assert call(Script(*outcomes), idempotent=True, policy=QUICK) == "done"
    assert asked == [Category.TRANSIENT] * 3


@pytest.mark.bare
def test_success_costs_no_more_than_a_few_microseconds() -> None:
    function = iii_retry(idempotent=True)(lambda: None)
    function()
    # The best of many short runs: a busy machine disturbs the others.
    taken = min(timeit.repeat(function, number=100, repeat=50))
    assert taken / 100 < 100e-6  # tenacity alone needs about 10


def test_attempt_timeout_of_named_policy_is_rejected_on_sync() -> None:
    use_policies(PolicyBook({"timed": RetryPolicy(attempt_timeout=1.0)}))
    calls = []

    @iii_retry(policy="timed")
    def function() -> None:
        calls.append(1)

    with pytest.raises(ValueError, match="attempt_timeout cannot be kept here"):
        function()
    assert calls == []


def test_attempt_timeout_of_default_policy_spares_sync() -> None:
    use_policies(PolicyBook({"default": RetryPolicy(attempt_timeout=1.0)}))

    @iii_retry
    def function() -> str:
        return "done"

    assert function() == "done"


def test_try_again_from_retried_exception_is_honoured() -> None:
    calls = []

    @iii_retry(idempotent=True, attempts=2, wait=tenacity.wait_none())
    def inner() -> None:
        calls.append(1)
        raise ConnectionResetError

    @iii_retry(attempts=3, wait=tenacity.wait_none())
    def outer() -> None:
        try:
            inner()
        except ConnectionResetError as error:
            raise tenacity.TryAgain from error

    with pytest.raises(ConnectionResetError):
        outer()
    assert len(calls) == 6


class TestBlockingAnEventLoop:
    @staticmethod
    def function(*, wait: float = 0.001) -> Callable[[], str]:
        errors = [ConnectionResetError() for _ in range(2)]

        @iii_retry(idempotent=True, wait=tenacity.wait_fixed(wait))
        def fetch() -> str:
            if errors:
                raise errors.pop()
            return "done"

        return fetch

    async def test_sync_wait_inside_running_loop_warns_once(self) -> None:
        fetch = self.function()
        with pytest.warns(RuntimeWarning) as caught:
            assert fetch() == "done"
        message = (
            f"{fetch.__module__}.{fetch.__qualname__} is synchronous and waits for its retry "
            "inside a running event loop, which stands still meanwhile: make it async, or call it "
            "with asyncio.to_thread()"
        )
        assert [str(warning.message) for warning in caught] == [message]

    async def test_of_each_function_only_first_call_warns(self) -> None:
        errors: list[Exception] = []

        @iii_retry(idempotent=True, wait=tenacity.wait_fixed(0.001))
        def fetch() -> str:
            if errors:
                raise errors.pop()
            return "done"

        for warnings in (1, 0, 0):
            errors.append(ConnectionResetError())
            with pytest.warns() if warnings else contextlib.nullcontext():
                assert fetch() == "done"  # an error, where it warns unexpectedly
        with pytest.warns(RuntimeWarning):
            self.function()()

    async def test_one_that_does_not_wait_does_not_warn(self) -> None:
        assert self.function(wait=0.0)() == "done"

    async def test_nor_does_one_on_another_thread(self) -> None:
        assert await asyncio.to_thread(self.function()) == "done"

    def test_nor_does_one_without_loop(self) -> None:
        assert self.function()() == "done"

    async def test_loop_around_block_warns_too(self) -> None:
        errors = [ConnectionResetError()]

        def block() -> None:
            for attempt in iii_resilience.retrying(
                idempotent=True, wait=tenacity.wait_fixed(0.001)
            ):
                with attempt:
                    if errors:
                        raise errors.pop()

        with pytest.warns(RuntimeWarning, match=r"retrying\(\) is synchronous"):
            block()


async def test_attempt_timeout_holds_without_deadline() -> None:
    @iii_retry(attempt_timeout=0.01, deadline=None)
    async def function() -> None:
        await asyncio.sleep(30)

    with pytest.raises(TimeoutError) as caught:
        await function()
    assert classify(caught.value).category is Category.TRANSIENT
