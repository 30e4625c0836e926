"""One call under a policy, from its first failure on: its attempts, its decisions, its retries.

It takes the failure of an attempt and a callable that makes the next one. The first attempt never
comes here, so a success costs nothing. Knows nothing of decorators, loops or the engine.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import tenacity

from iii_resilience.core import system_clock as clock
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.decide import NOT_RETRYABLE, CallSoFar, Decision, Reason, decide
from iii_resilience.core.effects import sleep_until_woken, sleep_until_woken_async
from iii_resilience.core.errors import BulkheadFullError, CircuitOpenError, NotConnectedError
from iii_resilience.core.failure import Failure
from iii_resilience.core.lazy_imports import lazy_module
from iii_resilience.core.policy import Enqueue, RetryPolicy
from iii_resilience.core.report import GivenUp, already_retried, attach, report_for
from iii_resilience.retry.attempt_log import AttemptLog, FailedAttempt
from iii_resilience.retry.retry_context import CallOutcome, RetryContext, StopRetrying
from iii_resilience.retry.tenacity_driver import TenacityDriver, finite_delay
from iii_resilience.retry.try_again import of_try_again
from iii_resilience.retry.user_traceback import user_traceback
from iii_resilience.telemetry.call_events import FailedCall, begin
from iii_resilience.telemetry.logs import heard
from iii_resilience.telemetry.metrics import REFUNDED, WASTED

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = lazy_module("asyncio")  # a program without coroutines never needs it

T = TypeVar("T")


class RetriedCall:
    """One call's attempts and decisions.

    Args:
        context: What all calls of the function have in common.
        started: Monotonic time of the call's start, in seconds.
        idempotent: Whether the user declared the call idempotent.
        deadline_at: Monotonic time of its deadline in seconds, or None.
        classified: Where an attempt, or a guard around it, leaves the failure it has classified;
            None where none does.
        swallowed: Whether the attempt that has just failed with this exception swallowed a
            cancellation; None where there are none.

    Attributes:
        reason: Why it was given up, or None.
        log: Its attempts.
        observer: What its attempts are reported to, or None where nothing listens.
    """

    # Most calls fail once: what they do not change is not written for them.
    reason: Reason | None = None
    _stopped: Reason | None = None  # the reason of an attempt that raised StopRetrying
    _decision: Decision | None = None  # about the attempt that failed last
    _driver: TenacityDriver | None = None

    def __init__(
        self,
        context: RetryContext,
        started: float,
        *,
        idempotent: bool,
        deadline_at: float | None = None,
        classified: list[Failure] | None = None,
        swallowed: Callable[[Exception], bool] | None = None,
    ) -> None:
        self.context = context
        self.idempotent = idempotent
        self.deadline_at = deadline_at
        may_repeat = idempotent or context.policy.retry_unexecuted
        self.log = AttemptLog(started, context.bucket if may_repeat else None)
        self._classified = classified
        self._swallowed = swallowed
        self.observer = begin(
            context.name,
            started,
            remote=context.function_id is not None,
            whole=context.reports_end,
        )

    @property
    def telemetry(self) -> FailedCall:
        """What reports the call's end: also where nothing listens to its retries."""
        telemetry = self.observer
        if telemetry is None:
            failed = self.log.failed
            telemetry = self.observer = FailedCall(
                self.context.name,
                self.log.begun,
                whole=self.context.reports_end,
                attempts=len(failed),
                error=failed[-1].error if failed else None,
            )
        return telemetry

    # What an attempt reports.

    def attempt_started(self, *, sent: bool) -> None:
        """An attempt starts; ``sent`` says whether starting it is sending it."""
        log = self.log
        log.started = clock.monotonic()
        if log.failed:
            # Raised again, the same object would carry the library's frames along.
            log.failed[-1].error.with_traceback(None)
        if not sent:
            log.sent = False
        elif self.observer is None:
            log.sent = True  # as `attempt_sent`, without its frame: each retry comes here
        else:
            self.attempt_sent()

    def attempt_sent(self) -> None:
        """The attempt leaves this process: its span starts."""
        log = self.log
        log.sent = True
        if log.failed and self.observer is not None:
            self.observer.sends(log.started, log.delay)

    def too_late(self) -> bool:
        """Whether the deadline has passed: a delay may take longer than it should."""
        deadline_at = self.deadline_at
        return deadline_at is not None and clock.monotonic() >= deadline_at

    def attempt_failed(  # noqa: C901 - one short step after the other, without a frame for each
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
        log, context = self.log, self.context
        self._decision = None
        failure = self._classified.pop() if self._classified else None
        if isinstance(error, StopRetrying):
            self._stopped = error.reason
            log.settle_permit(sent=False)
            if self.observer is not None:
                self.observer.not_made()
            return
        if isinstance(error, tenacity.TryAgain):
            failure = of_try_again(error, context.function_id, context.rules)
        elif failure is None:
            failure = classify(error, function_id=context.function_id, rules=context.rules)
        if context.function_id is not None:
            log.stops += failure.code == "invocation_stopped"
        if sent is None:
            sent = log.sent
        if sent and isinstance(error, _REJECTIONS) and report_for(error) is None:
            sent = False  # rejected before it was made; if an inner call gave up, it has a report
        failed = FailedAttempt(
            len(log.failed) + 1,
            failure,
            log.delay,
            clock.monotonic() - log.started,
            sent,
            error,
            traceback,
        )
        if log.permit:
            log.settle_permit(sent=sent)
        log.failed.append(failed)
        if self.observer is not None:
            self.observer.failed(failed.attempt, log.started, error)
        if self._driver is not None:
            self._driver.attempt_failed(error)

    def interrupted(self, error: BaseException) -> None:
        """An exception that needs no decision passes through the call, and ends it.

        Args:
            error: A cancellation or its like, or what ended a wait.
        """
        log, context = self.log, self.context
        self.telemetry.permits(WASTED, log.interrupted())
        self.telemetry.passed(error)
        if isinstance(error, NotConnectedError) and log.failed:
            # The client was shut down. Alone it would say that nothing ran, but attempts were sent.
            now, failure = clock.monotonic(), classify(error, function_id=context.function_id)
            made = [(one.failure, one.delay, one.duration, one.sent) for one in log.failed]
            attempts = (*made, (failure, log.delay, 0.0, False))
            took = now - log.begun
            attach(error, GivenUp(attempts, Reason.NOT_READY, now, took, self.failure, None))

    def succeeded(self) -> None:
        """The attempt under way has succeeded, and with it the call."""
        permits = self.log.succeeded(clock.monotonic())
        if self.observer is not None:
            self.observer.permits(REFUNDED, permits)
            self.observer.succeeded()

    # The rest of a call after its first failure. `retry` and `retry_async` are the same lines:
    # one generator for both (`core.effects`) would take a tenth of the time of a retried call.

    def retry(self, attempt: Callable[[], T], *, sends: bool = True) -> CallOutcome[T]:
        """Decide about the recorded failure and make the attempts that follow, if any.

        Args:
            attempt: Makes one attempt.
            sends: Whether calling ``attempt`` sends it (False: it calls `attempt_sent` itself).
        """
        try:
            while (delay := self.next_delay()) is not None:
                self.sleep(delay)
                try:
                    if self.too_late():
                        raise StopRetrying(Reason.DEADLINE)
                    self.attempt_started(sent=sends)
                    value = attempt()
                except Exception as error:
                    self.attempt_failed(error, user_traceback(error))
                except BaseException as error:
                    self.interrupted(error)
                    return CallOutcome(None, error.with_traceback(user_traceback(error)))
                else:
                    self.succeeded()
                    return CallOutcome(value)
            return CallOutcome(None, self.finish())
        finally:
            del self, attempt  # the traceback of the outcome's error holds this frame

    async def retry_async(
        self, attempt: Callable[[], Awaitable[T]], *, sends: bool = True
    ) -> CallOutcome[T]:
        """As `retry`, for coroutines."""
        try:
            while (delay := self.next_delay()) is not None:
                await self.sleep_async(delay)
                try:
                    if self.too_late():
                        raise StopRetrying(Reason.DEADLINE)
                    self.attempt_started(sent=sends)
                    value = await attempt()
                except Exception as error:
                    self.attempt_failed(error, user_traceback(error))
                except BaseException as error:
                    self.interrupted(error)
                    return CallOutcome(None, error.with_traceback(user_traceback(error)))
                else:
                    self.succeeded()
                    return CallOutcome(value)
            return CallOutcome(None, self.finish())
        finally:
            del self, attempt  # as in `retry`

    def next_delay(self) -> float | None:
        """Seconds to wait before the next attempt; None if the call is given up.

        `decide` alone says so, unless the policy has a ``wait`` or ``stop`` of the user's: then
        tenacity drives, and its state of the call is what they see.
        """
        policy = self.context.policy
        if policy.wait is None and policy.stop is None:
            return self._decide().delay
        if self._driver is None:
            self._driver = TenacityDriver(self, self.context.name, self.log.begun)
            self._driver.attempt_failed(self.log.failed[-1].error)
        return self._driver.next_delay()

    def sleep(self, seconds: float) -> None:
        """Wait before a retry; its permit is given back if the wait is interrupted.

        If it stops a running event loop, that is said once.

        Args:
            seconds: How long.
        """
        context = self.context
        try:
            if context.sleeper is not None:
                sleep_until_woken(seconds, context.sleeper)
            else:
                if seconds > 0 and context.on_blocking is not None and _in_event_loop():
                    context.on_blocking()
                clock.sleep(seconds)
        except BaseException as error:
            self.interrupted(error)
            raise
        finally:
            del self  # the traceback of what ends the wait holds this frame

    async def sleep_async(self, seconds: float) -> None:
        """As `sleep`, for coroutines."""
        sleeper = self.context.sleeper
        try:
            if sleeper is not None:
                await sleep_until_woken_async(seconds, sleeper)
            else:
                await clock.sleep_async(seconds)
        except BaseException as error:
            self.interrupted(error)
            raise
        finally:
            del self  # as in `sleep`

    def finish(self) -> Exception:
        """The exception the caller sees, with its report, hint and note."""
        context, log = self.context, self.log
        now, shown = clock.monotonic(), log.failed[-1]
        if not shown.sent:
            shown = log.shown()
        error, traceback, failure = shown.error, shown.traceback, shown.failure
        if isinstance(error, tenacity.TryAgain) and isinstance(error.__cause__, Exception):
            # The user's code requested a retry because of this one: it is what happened.
            error = error.__cause__
            traceback = error.__traceback__
            failure = failure.inner or failure
        fallback, queue = context.policy.fallback, None
        if isinstance(fallback, Enqueue) and context.function_id is not None:
            queue = fallback.queue
        attempts = tuple([(one.failure, one.delay, one.duration, one.sent) for one in log.failed])
        reason = self.reason or Reason.NOT_RETRYABLE
        attach(error, GivenUp(attempts, reason, now, now - log.begun, failure, queue))
        for one in log.failed:
            # Each as it was raised; with the library's frames it would hold this object.
            one.error.with_traceback(one.traceback)
        retryable = reason is not Reason.NOT_RETRYABLE
        if retryable or log.spent or log.permit:
            permits = log.gave_up(now, retryable=retryable)
            if permits and self.observer is not None:
                self.observer.permits(WASTED, permits)
        if self.observer is not None and (fallback is None or context.function_id is None):
            self.observer.gave_up(failure)
        return error.with_traceback(traceback)

    def not_handed_over(self) -> None:
        """There was no fallback for this failure, or it failed too: the call ends as it stands."""
        self.telemetry.gave_up(self.failure)

    @property
    def failure(self) -> Failure:
        """The failure that the caller's exception stands for."""
        return self.log.shown().failure

    def decided(self, state: tenacity.RetryCallState | None) -> Decision:
        """The decision about the attempt that just failed, made when it is first needed.

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
        if self._stopped is not None or not (asked or last.failure.retryable):
            return None, False
        delay = None if policy.wait is None else finite_delay(policy.wait(state))
        state.upcoming_sleep = delay or 0.0  # stop_before_delay reads it
        return delay, policy.stop is not None and bool(policy.stop(state))

    def _decide(self, user_delay: float | None = None, user_stop: bool = False) -> Decision:
        log, context = self.log, self.context
        last = log.failed[-1]
        failure, error = last.failure, last.error
        asked = isinstance(error, tenacity.TryAgain)
        if self._stopped is not None:
            decision = Decision(self._stopped)
        elif failure.category is not Category.TRANSIENT and not asked:
            decision = NOT_RETRYABLE  # as `decide` says of it, whatever the call
        else:
            now = clock.monotonic()
            decision = decide(
                failure,
                context.policy,
                self._so_far(last, asked=asked),
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
            if self.observer is not None or heard(logging.WARNING):
                self.telemetry.decided(failure, decision)
        else:
            log.delay = decision.delay
            if self.observer is not None:
                self.observer.decided(failure, decision)
        return decision

    def _so_far(self, last: FailedAttempt, *, asked: bool) -> CallSoFar:
        """The call, as far as a decision about its last attempt needs it."""
        log, failure, error = self.log, last.failure, last.error
        # Asked only where it counts: it takes the proofs of all attempts.
        unexecuted = (
            not self.idempotent
            and self.context.policy.retry_unexecuted
            and log.execution is Execution.NOT_EXECUTED
        )
        again = failure.already_retried or already_retried(error, since=log.started)
        swallowed = self._swallowed is not None and self._swallowed(error)
        return CallSoFar(  # by place: nine keywords take as long as all the rest
            last.number,
            self.idempotent,
            self.deadline_at,
            unexecuted,
            log.stops,
            last.delay or None,
            asked,
            again,
            swallowed,
        )


def _in_event_loop() -> bool:
    if "asyncio" not in sys.modules:
        return False
    return asyncio._get_running_loop() is not None  # noqa: SLF001 - asyncio exports it


_REJECTIONS = (NotConnectedError, CircuitOpenError, BulkheadFullError)


def deadline_of(policy: RetryPolicy, started: float) -> float | None:
    """Monotonic time of the deadline of a call that started then, in seconds, or None."""
    return None if policy.deadline is None else started + policy.deadline
