"""One call under a policy, from its first failure on: its attempts, its decisions, its retries.

It takes the failure of an attempt and a callable that makes the next one. The first attempt never
comes here, so a success costs nothing. Knows nothing of decorators, loops or the engine.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import tenacity

from iii_resilience.core import system_clock as clock
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.decide import CallSoFar, Decision, Reason, decide
from iii_resilience.core.effects import CallHandler, Sleep, drive, drive_async
from iii_resilience.core.errors import BulkheadFullError, CircuitOpenError, NotConnectedError
from iii_resilience.core.failure import Failure
from iii_resilience.core.hints import hint
from iii_resilience.core.lazy_imports import lazy_module
from iii_resilience.core.policy import Enqueue, RetryPolicy
from iii_resilience.core.report import (
    Attempt,
    RetryReport,
    already_retried,
    attach,
    execution_over,
    report_for,
)
from iii_resilience.retry.attempt_log import AttemptLog, FailedAttempt
from iii_resilience.retry.retry_context import (
    NO_HOOKS,
    CallOutcome,
    RetryContext,
    RetryHooks,
    StopRetrying,
)
from iii_resilience.retry.tenacity_driver import TenacityDriver
from iii_resilience.telemetry.call_events import FailedCall, begin
from iii_resilience.telemetry.metrics import REFUNDED, WASTED

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = lazy_module("asyncio")  # a program without coroutines never needs it

T = TypeVar("T")


class RetriedCall:
    """One call's attempts and decisions.

    Args:
        context: What does not change during the call.
        idempotent: Whether the user declared the call idempotent.
        hooks: What its caller adds to it.

    Attributes:
        reason: Why it was given up, or None.
        log: Its attempts.
    """

    def __init__(
        self, context: RetryContext, *, idempotent: bool, hooks: RetryHooks = NO_HOOKS
    ) -> None:
        self.context = context
        self.hooks = hooks
        self.idempotent = idempotent
        self.log = AttemptLog(context.started, context.bucket)
        self.reason: Reason | None = None
        self._telemetry = begin(
            context.name,
            context.started,
            remote=context.function_id is not None,
            whole=hooks.reports_end,
        )
        self._stopped: Reason | None = None  # the reason of an attempt that raised StopRetrying
        self._decision: Decision | None = None  # about the attempt that failed last
        self._driver: TenacityDriver | None = None

    @property
    def telemetry(self) -> FailedCall:
        """What reports the call's end: also where nothing listens to its retries."""
        telemetry = self._telemetry
        if telemetry is None:
            failed = self.log.failed
            telemetry = self._telemetry = FailedCall(
                self.context.name,
                self.context.started,
                whole=self.hooks.reports_end,
                attempts=len(failed),
                error=failed[-1].error if failed else None,
            )
        return telemetry

    # What an attempt reports.

    def attempt_started(self, *, sent: bool) -> None:
        """An attempt starts; ``sent`` says whether starting it is sending it."""
        log = self.log
        log.started = clock.monotonic()
        log.sent = False
        if log.failed:
            # Raised again, the same object would carry the library's frames along.
            log.failed[-1].error.with_traceback(None)
        if sent:
            self.attempt_sent()

    def attempt_sent(self) -> None:
        """The attempt leaves this process: its span starts."""
        log = self.log
        log.sent = True
        if log.failed and self._telemetry is not None:
            self._telemetry.sends(log.started, log.delay)

    def too_late(self) -> StopRetrying | None:
        """What ends the call instead of a retry, if its delay took longer than it should."""
        deadline_at = self.context.deadline_at
        if deadline_at is not None and clock.monotonic() >= deadline_at:
            return StopRetrying(Reason.DEADLINE)
        return None

    def attempt_failed(
        self,
        error: Exception,
        traceback: TracebackType | None,
        *,
        sent: bool | None = None,
    ) -> None:
        """Record a failed attempt.

        Args:
            error: What it raised.
            traceback: The traceback from the user's first frame on.
            sent: Whether the attempt left this process, where `attempt_sent` was not called.
        """
        log, classified = self.log, self.hooks.classified
        self._decision = None
        known = classified.pop() if classified else None
        if isinstance(error, StopRetrying):
            self._stopped = error.reason
            log.settle_permit(sent=False)
            if self._telemetry is not None:
                self._telemetry.not_made()
            return
        if known is None or isinstance(error, tenacity.TryAgain):
            known = self._classify(error)
        failure = known
        if self.hooks.refine is not None:
            failure = self.hooks.refine(failure)
        if failure.code == "invocation_stopped" and self.context.function_id is not None:
            log.stops += 1
        attempt = Attempt(
            number=len(log.failed) + 1,
            failure=failure,
            delay=log.delay,
            duration=clock.monotonic() - log.started,
            sent=(log.sent if sent is None else sent)
            # Rejected before it was made. If an inner call gave up on it, it carries a report.
            and not (isinstance(error, _REJECTIONS) and report_for(error) is None),
        )
        log.settle_permit(sent=attempt.sent)
        log.add(FailedAttempt(attempt, error, traceback))
        if self._telemetry is not None:
            self._telemetry.failed(attempt, log.started, error)
        if self._driver is not None:
            self._driver.attempt_failed(error)

    def interrupted(self, error: BaseException) -> None:
        """Something that is no outcome to decide about passes through the call, and ends it.

        Args:
            error: A cancellation or its like, or what ended a wait.
        """
        self.telemetry.permits(WASTED, self.log.interrupted())
        self.telemetry.passed(error)

    def succeeded(self) -> None:
        """The attempt under way has succeeded, and with it the call."""
        permits = self.log.succeeded()
        if self._telemetry is not None:
            self._telemetry.permits(REFUNDED, permits)
            self._telemetry.succeeded()

    # The rest of a call after its first failure.

    def retry(self, attempt: Callable[[], T], *, sends: bool = True) -> CallOutcome[T]:
        """Decide about the recorded failure and make the attempts that follow, if any.

        Args:
            attempt: Makes one attempt.
            sends: Whether calling ``attempt`` sends it (False: it calls `attempt_sent` itself).
        """
        try:
            return cast("CallOutcome[T]", drive(self.retries(sends=sends), attempt, self._block))
        finally:
            del self, attempt  # the traceback of the outcome's error holds this frame

    async def retry_async(
        self, attempt: Callable[[], Awaitable[T]], *, sends: bool = True
    ) -> CallOutcome[T]:
        """As `retry`, for coroutines."""
        try:
            steps = self.retries(sends=sends)
            outcome = drive_async(steps, attempt, sleep=clock.sleep_async)
            return cast("CallOutcome[T]", await outcome)
        finally:
            del self, attempt  # as in `retry`

    def retries(self, *, sends: bool) -> Generator[Sleep | CallHandler, Any, CallOutcome[Any]]:
        """The delays and attempts that follow a failure, as effects."""
        sleeper = self.hooks.sleeper
        try:
            while (delay := self.next_delay()) is not None:
                wake = None
                try:
                    if sleeper is not None:
                        wake = sleeper.add()
                    yield Sleep(delay, wake)
                except BaseException as error:
                    self.interrupted(error)
                    raise
                finally:
                    if sleeper is not None and wake is not None:
                        sleeper.leave(wake)
                try:
                    deadline_at = self.context.deadline_at
                    if deadline_at is not None and clock.monotonic() >= deadline_at:
                        raise StopRetrying(Reason.DEADLINE)
                    self.attempt_started(sent=sends)
                    value = yield CallHandler()
                except Exception as error:
                    self.attempt_failed(error, user_traceback(error))
                except BaseException as error:
                    self.interrupted(error)
                    return CallOutcome(error=error.with_traceback(user_traceback(error)))
                else:
                    self.succeeded()
                    return CallOutcome(value=value)
            return CallOutcome(error=self.finish())
        finally:
            # The frames of what an attempt raised lead here: none of these may hold the exception.
            del self

    def next_delay(self) -> float | None:
        """Seconds to wait before the next attempt; None if the call is given up.

        `decide` alone says so, unless the policy has a ``wait`` or ``stop`` of the user's: then
        tenacity drives, and its state of the call is what they see.
        """
        policy = self.context.policy
        if policy.wait is None and policy.stop is None:
            return self._decide().delay
        if self._driver is None:
            self._driver = TenacityDriver(self, self.context.name, self.context.started)
            self._driver.attempt_failed(self.log.failed[-1].error)
        return self._driver.next_delay()

    def sleep(self, seconds: float) -> None:
        """Wait before a retry; its permit is given back if the wait is interrupted."""
        try:
            self._block(seconds)
        except BaseException as error:
            self.interrupted(error)
            raise

    async def sleep_async(self, seconds: float) -> None:
        """As `sleep`, for coroutines."""
        try:
            await clock.sleep_async(seconds)
        except BaseException as error:
            self.interrupted(error)
            raise

    def finish(self) -> Exception:
        """The exception the caller sees, with its report, hint and note."""
        context, log = self.context, self.log
        attempts = tuple(failed.attempt for failed in log.failed)
        reason = self.reason or Reason.NOT_RETRYABLE
        now = clock.monotonic()
        report = RetryReport(attempts, reason, execution_over(attempts), now - context.started)
        shown = log.shown()
        fallback = context.policy.fallback
        queue = None
        if isinstance(fallback, Enqueue) and context.function_id is not None:
            queue = fallback.queue
        error, traceback, failure = shown.error, shown.traceback, shown.attempt.failure
        if isinstance(error, tenacity.TryAgain) and isinstance(error.__cause__, Exception):
            # The user's code asked for a retry because of this one: it is what happened.
            error = error.__cause__
            traceback = error.__traceback__
            failure = failure.inner or failure
        attach(error, report, hint(failure, reason, queue=queue), now=now)
        for failed in log.failed:
            # Each as it was raised; with the library's frames it would hold this object.
            failed.error.with_traceback(failed.traceback)
        retryable = reason is not Reason.NOT_RETRYABLE
        self.telemetry.permits(WASTED, log.gave_up(now, retryable=retryable))
        if fallback is None or context.function_id is None:
            self.telemetry.gave_up(failure)
        return error.with_traceback(traceback)

    def not_handed_over(self) -> None:
        """There was no fallback for this failure, or it failed too: the call ends as it stands."""
        self.telemetry.gave_up(self.failure)

    @property
    def failure(self) -> Failure:
        """The failure that the caller's exception stands for."""
        return self.log.shown().attempt.failure

    def decided(self, state: tenacity.RetryCallState | None) -> Decision:
        """The decision about the attempt that just failed, made when it is first asked for.

        Args:
            state: Tenacity's state of the call, which a ``wait`` or ``stop`` of the policy sees;
                None if it has neither.
        """
        if self._decision is not None:
            return self._decision
        user_delay, user_stop = None, False
        if state is not None:
            try:
                user_delay, user_stop = self._ask_user(state)
            except BaseException as error:  # raised by the user's own wait or stop
                self.interrupted(error)
                raise
        return self._decide(user_delay, user_stop)

    def _ask_user(self, state: tenacity.RetryCallState) -> tuple[float | None, bool]:
        """What the policy's own ``wait`` and ``stop`` say about the attempt that just failed."""
        last, policy = self.log.failed[-1], self.context.policy
        asked = isinstance(last.error, tenacity.TryAgain)
        if self._stopped is not None or not (asked or last.attempt.failure.retryable):
            return None, False
        delay = None if policy.wait is None else _finite_delay(policy.wait(state))
        state.upcoming_sleep = delay or 0.0  # stop_before_delay reads it
        return delay, policy.stop is not None and bool(policy.stop(state))

    def _decide(self, user_delay: float | None = None, user_stop: bool = False) -> Decision:
        log, context = self.log, self.context
        last = log.failed[-1]
        failure = last.attempt.failure
        if self._stopped is not None:
            decision = Decision(self._stopped)
        else:
            swallowed = self.hooks.swallowed
            now = clock.monotonic()
            decision = decide(
                failure,
                context.policy,
                CallSoFar(
                    attempts=len(log.failed),
                    idempotent=self.idempotent,
                    deadline_at=context.deadline_at,
                    unexecuted=log.execution is Execution.NOT_EXECUTED,
                    stops=log.stops,
                    previous_delay=last.attempt.delay or None,
                    asked=isinstance(last.error, tenacity.TryAgain),
                    already_retried=failure.already_retried
                    or already_retried(last.error, since=log.started),
                    swallowed=swallowed is not None and swallowed(last.error),
                ),
                now=now,
                random=random.random,
                user_delay=user_delay,
                user_stop=user_stop,
            )
            if decision.delay is not None and not log.reserve_permit(now):
                decision = Decision(Reason.BUDGET_EXHAUSTED)
        self._decision = decision
        if decision.delay is None:
            self.reason = decision.reason
        else:
            log.delay = decision.delay
        if self._telemetry is not None or decision.delay is None:
            self.telemetry.decided(failure, decision)
        return decision

    def _classify(self, error: Exception) -> Failure:
        function_id, rules = self.context.function_id, self.hooks.rules
        if isinstance(error, tenacity.TryAgain):
            cause = error.__cause__ or error.__context__
            inner = None
            if cause is not None:
                inner = classify(cause, function_id=function_id, rules=rules)
            return Failure(
                code="TryAgain",
                category=Category.TRANSIENT,
                execution=inner.execution if inner is not None else Execution.MAYBE_EXECUTED,
                throttled=inner is not None and inner.throttled,
                retry_after=inner.retry_after if inner is not None else None,
                remedy=inner.remedy if inner is not None else "the function asked for a retry",
                system="local",
                origin="local",
                inner=inner,
            )
        return classify(error, function_id=function_id, rules=rules)

    def _block(self, seconds: float) -> None:
        """Sleep on this thread; say so once if that stops a running event loop."""
        if seconds > 0 and self.hooks.on_blocking is not None and _in_event_loop():
            self.hooks.on_blocking()
        clock.sleep(seconds)


def _in_event_loop() -> bool:
    if "asyncio" not in sys.modules:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_REJECTIONS = (NotConnectedError, CircuitOpenError, BulkheadFullError)
_RETRIES = f"{__package__}."
_EFFECTS = drive.__module__


def deadline_of(policy: RetryPolicy, started: float) -> float | None:
    """Monotonic time of the deadline of a call that started then, in seconds, or None."""
    return None if policy.deadline is None else started + policy.deadline


def user_traceback(error: BaseException) -> TracebackType | None:
    """The traceback from the user's first frame on, without the library's above it."""
    traceback = error.__traceback__
    while traceback is not None and _is_retries(traceback.tb_frame):
        traceback = traceback.tb_next
    return traceback


def _is_retries(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__")
    return module == _EFFECTS or str(module).startswith(_RETRIES)


def _finite_delay(value: Any) -> float:
    """What a user's ``wait`` returned, as seconds that can be slept."""
    seconds = float(value)
    # An endless wait must not become none; above the limit time.sleep() raises.
    return min(seconds, threading.TIMEOUT_MAX) if seconds > 0 else 0.0
