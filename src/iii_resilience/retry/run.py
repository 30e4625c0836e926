"""One call under a policy, from its first failure on: tenacity drives, `core.decide` decides.

It takes the failure of an attempt and a callable that makes the next one. The first attempt never
comes here, so a success costs nothing. Knows nothing of decorators, loops or the engine.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import attrs
import tenacity

from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.decide import CallSoFar, Decision, Reason, decide
from iii_resilience.core.errors import BulkheadFullError, CircuitOpenError, NotConnectedError
from iii_resilience.core.failure import Failure
from iii_resilience.core.guards.budget import BudgetWindow
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
from iii_resilience.retry.tenacity_driver import CallState
from iii_resilience.telemetry import FailedCall

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = lazy_module("asyncio")  # a program without coroutines never needs it

T = TypeVar("T")


@attrs.frozen
class CallOutcome(Generic[T]):
    """How a call ended: a value, or the exception to raise.

    The exception is handed back instead of being raised here, so that its traceback shows one
    frame of the library, the one that the user called.
    """

    value: T | None = attrs.field(default=None, repr=False)
    error: BaseException | None = attrs.field(default=None, repr=False)


class StopRetrying(Exception):  # noqa: N818 - control flow between an attempt and its run, no error
    """Raised by an attempt that found it must not be sent: the call ends for this reason."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(reason.value)


class Sleeper(Protocol):
    """What sleeps between attempts, and may raise to end the call."""

    def pause(self, seconds: float) -> None:
        """Sleep."""

    async def pause_async(self, seconds: float) -> None:
        """Sleep, for coroutines."""


@attrs.define
class FailedAttempt:
    """One failed attempt and the exception it raised, with the traceback of the user's code."""

    attempt: Attempt
    error: Exception = attrs.field(repr=False)
    traceback: TracebackType | None


class RetriedCall:
    """One call's attempts and decisions.

    Args:
        policy: The policy the call started with.
        idempotent: Whether the user declared the call idempotent.
        name: The function id or the decorated function's name, for log and metrics.
        started: Monotonic time of the call's start, in seconds.
        window: The budget's count, or None where the policy has no budget.
        deadline_at: Monotonic time of the deadline in seconds, or None for none.
        function_id: The engine function that is called, or None in a decorator.
        on_blocking: Called when a delay is about to block a running event loop.
        pauses: What sleeps, where a delay can end early; None for the clock.
        look: What the caller knows about a failure that the error alone does not say, or None.
        swallowed: Whether the attempt that has just failed with this exception swallowed a
            cancellation; None where there are none.
        tells_its_end: Whether every call's end is told, so that it can be seen whole.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        idempotent: bool,
        name: str,
        started: float,
        window: BudgetWindow | None,
        deadline_at: float | None,
        function_id: str | None = None,
        on_blocking: Callable[[], object] | None = None,
        pauses: Sleeper | None = None,
        look: Callable[[Failure], Failure] | None = None,
        swallowed: Callable[[Exception], bool] | None = None,
        tells_its_end: bool = True,
    ) -> None:
        self.policy = policy
        self.idempotent = idempotent
        self.name = name
        self.started = started
        self.deadline_at = deadline_at
        self.function_id = function_id
        self.reason: Reason | None = None
        self.failed: list[FailedAttempt] = []
        self._window = window
        self._permit = False
        self._stops = 0
        self._delay = 0.0
        self._attempt_started = started
        self._sent = True
        self._forced: Reason | None = None
        self._decision: Decision | None = None
        self._decided_at: tuple[int, Reason | None] | None = None
        self._on_blocking = on_blocking
        self._pauses = pauses
        self._look = look
        self._swallowed = swallowed
        self._tells_its_end = tells_its_end
        self._telemetry: FailedCall | None = None

    # What an attempt reports.

    def attempt_started(self, *, sent: bool) -> None:
        """An attempt starts; ``sent`` says whether starting it already is sending it."""
        self._attempt_started = time.monotonic()
        self._sent = False
        if self.failed:
            # Raised again, the same object would carry the library's frames along.
            self.failed[-1].error.with_traceback(None)
        if sent:
            self.attempt_sent()

    def attempt_sent(self) -> None:
        """The attempt leaves this process now: its permit is spent, and it can be seen."""
        self._sent = True
        self.spend()
        if self._telemetry is not None:
            self._telemetry.sends(self._attempt_started, self._delay)

    def spend(self) -> None:
        """The permit of the retry is spent, if it has one."""
        if self._permit and self._window is not None:
            self._permit = False
            self._window.spend(time.monotonic())

    def too_late(self) -> StopRetrying | None:
        """What ends the call instead of a retry, where its delay took longer than it should."""
        if self.deadline_at is not None and time.monotonic() >= self.deadline_at:
            return StopRetrying(Reason.DEADLINE)
        return None

    def attempt_failed(
        self, error: Exception, traceback: TracebackType | None, *, sent: bool | None = None
    ) -> None:
        """Record a failed attempt.

        Args:
            error: What it raised.
            traceback: The traceback from the user's first frame on.
            sent: Whether the attempt left this process, where `attempt_sent` was not told.
        """
        self._release()
        if isinstance(error, StopRetrying):
            self._forced = error.reason
            self.telemetry.not_made()
            return
        failure = self._classify(error)
        if self._look is not None:
            failure = self._look(failure)
        if failure.code == "invocation_stopped" and self.function_id is not None:
            self._stops += 1
        attempt = Attempt(
            number=len(self.failed) + 1,
            failure=failure,
            delay=self._delay,
            duration=time.monotonic() - self._attempt_started,
            sent=(self._sent if sent is None else sent) and not _refused(error),
        )
        self.failed.append(FailedAttempt(attempt, error, traceback))
        self.telemetry.failed(attempt, self._attempt_started, error)

    def interrupted(self, error: BaseException) -> None:
        """Something passes through the call that is no outcome to decide about: it ends.

        Args:
            error: Cancellation or its like, or what ended a wait.
        """
        self._release()
        self.telemetry.passed(error)

    @property
    def telemetry(self) -> FailedCall:
        """What the outside can see of the call."""
        seen = self._telemetry
        if seen is None:
            seen = self._telemetry = FailedCall(
                self.name,
                self.started,
                remote=self.function_id is not None,
                whole=self._tells_its_end,
            )
        return seen

    # The rest of a call after its first failure.

    def go_on(self, attempt: Callable[[], T], *, sends: bool = True) -> CallOutcome[T]:
        """Decide about the recorded failure and make the attempts that follow, if any.

        Args:
            attempt: Makes one attempt.
            sends: Whether calling ``attempt`` sends it (False: it calls `attempt_sent` itself).
        """
        if self._ends_at_once():
            return CallOutcome(error=self.finish())
        state = CallState(self, self.failed[-1].error, attempt)
        try:
            while isinstance(do := state.next_step(), tenacity.DoSleep):
                state.prepare_for_next_attempt()
                self.sleep(do)
                try:
                    self._start_in_time(sent=sends)
                    value = attempt()
                except Exception as error:
                    self.attempt_failed(error, user_traceback(error))
                    state.failed_with(error)
                except BaseException as error:
                    self.interrupted(error)
                    return CallOutcome(error=error.with_traceback(user_traceback(error)))
                else:
                    self.telemetry.succeeded()
                    return CallOutcome(value=value)
            return CallOutcome(error=self.finish())
        finally:
            # The frames of what an attempt raised lead here: none of these may hold the exception.
            del self, state

    async def go_on_async(
        self, attempt: Callable[[], Awaitable[T]], *, sends: bool = True
    ) -> CallOutcome[T]:
        """As `go_on`, for coroutines."""
        if self._ends_at_once():
            return CallOutcome(error=self.finish())
        state = CallState(self, self.failed[-1].error, attempt)
        try:
            while isinstance(do := state.next_step(), tenacity.DoSleep):
                state.prepare_for_next_attempt()
                await self.sleep_async(do)
                try:
                    self._start_in_time(sent=sends)
                    value = await attempt()
                except Exception as error:
                    self.attempt_failed(error, user_traceback(error))
                    state.failed_with(error)
                except BaseException as error:
                    self.interrupted(error)
                    return CallOutcome(error=error.with_traceback(user_traceback(error)))
                else:
                    self.telemetry.succeeded()
                    return CallOutcome(value=value)
            return CallOutcome(error=self.finish())
        finally:
            # The frames of what an attempt raised lead here: none of these may hold the exception.
            del self, state

    def finish(self) -> Exception:
        """The exception the caller sees, with its report, hint and note."""
        attempts = tuple(failed.attempt for failed in self.failed)
        reason = self.reason or Reason.NOT_RETRYABLE
        now = time.monotonic()
        report = RetryReport(attempts, reason, execution_over(attempts), now - self.started)
        shown = self._shown()
        fallback = self.policy.fallback
        queue = None
        if isinstance(fallback, Enqueue) and self.function_id is not None:
            queue = fallback.queue
        error, traceback, failure = shown.error, shown.traceback, shown.attempt.failure
        if isinstance(error, tenacity.TryAgain) and isinstance(error.__cause__, Exception):
            # The user's code asked for a retry because of this one: it is what happened.
            error = error.__cause__
            traceback = error.__traceback__
            failure = failure.inner or failure
        attach(error, report, hint(failure, reason, queue=queue), now=now)
        for failed in self.failed:
            # Each as it was raised; with the library's frames it would hold this object.
            failed.error.with_traceback(failed.traceback)
        if fallback is None or self.function_id is None:
            self.telemetry.gave_up(failure)
        return error.with_traceback(traceback)

    def not_handed_over(self) -> None:
        """There was no fallback for this failure, or it failed too: the call ends as it stands."""
        self.telemetry.gave_up(self.failure)

    @property
    def failure(self) -> Failure:
        """The failure that the caller's exception stands for."""
        return self._shown().attempt.failure

    @property
    def execution(self) -> Execution:
        """The strongest over all attempts so far."""
        return execution_over([failed.attempt for failed in self.failed])

    def _shown(self) -> FailedAttempt:
        """Of the failed attempts the last one that was sent; if none was, the last one."""
        for failed in reversed(self.failed):
            if failed.attempt.sent:
                return failed
        return self.failed[-1]

    def _ends_at_once(self) -> bool:
        """Whether the recorded failure ends the call, without tenacity having to be made for it.

        A user's ``wait`` and ``stop`` need tenacity's state of the call; whoever has none of his
        own gets a rejection of an open circuit, or any other end, for a third less.
        """
        if self.policy.wait is not None or self.policy.stop is not None:
            return False
        return not self.decided(None).retry

    def _start_in_time(self, *, sent: bool) -> None:
        late = self.too_late()
        if late is not None:
            raise late
        self.attempt_started(sent=sent)

    def decided(self, state: tenacity.RetryCallState | None) -> Decision:
        """The decision about the attempt that just failed; made for the first that asks.

        Args:
            state: Tenacity's state of the call, which a ``wait`` or ``stop`` of the policy is
                shown; None where it has neither.
        """
        attempt = (len(self.failed), self._forced)
        if self._decision is None or attempt != self._decided_at:
            self._decided_at = attempt
            try:
                self._decision = self._decide(state)
            except BaseException as error:  # what a user's own wait or stop raises
                self.interrupted(error)
                raise
            last = self.failed[-1].attempt
            if self._decision.retry:
                self._delay = self._decision.delay or 0.0
            else:
                self.reason = self._decision.reason
            self.telemetry.decided(last.failure, self._decision)
        return self._decision

    def _decide(self, state: tenacity.RetryCallState | None) -> Decision:
        if self._forced is not None:
            return Decision(self._forced)
        last = self.failed[-1]
        failure = last.attempt.failure
        asked = isinstance(last.error, tenacity.TryAgain)
        user_delay: float | None = None
        user_stop = False
        if state is not None and (asked or failure.retryable):
            if self.policy.wait is not None:
                user_delay = _delay(self.policy.wait(state))
            state.upcoming_sleep = user_delay or 0.0  # stop_before_delay looks at it
            user_stop = self.policy.stop is not None and bool(self.policy.stop(state))
        now = time.monotonic()
        decision = decide(
            failure,
            self.policy,
            CallSoFar(
                attempts=len(self.failed),
                idempotent=self.idempotent,
                deadline_at=self.deadline_at,
                unexecuted=self.execution is Execution.NOT_EXECUTED,
                stops=self._stops,
                previous_delay=last.attempt.delay or None,
                asked=asked,
                already_retried=failure.already_retried
                or already_retried(last.error, since=self._attempt_started),
                swallowed=self._swallowed is not None and self._swallowed(last.error),
            ),
            now=now,
            random=random.random,
            user_delay=user_delay,
            user_stop=user_stop,
        )
        if decision.retry and self._window is not None:
            if not self._window.reserve(now):
                return Decision(Reason.BUDGET_EXHAUSTED)
            self._permit = True
        return decision

    def _classify(self, error: Exception) -> Failure:
        if isinstance(error, tenacity.TryAgain):
            cause = error.__cause__ or error.__context__
            inner = classify(cause, function_id=self.function_id) if cause is not None else None
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
        return classify(error, function_id=self.function_id)

    def sleep(self, seconds: float) -> None:
        """Wait before a retry; its permit is given back if the wait is interrupted."""
        try:
            if seconds > 0 and self._on_blocking is not None and _in_event_loop():
                self._on_blocking()
            if self._pauses is not None:
                self._pauses.pause(seconds)
            else:
                time.sleep(seconds)
        except BaseException as error:
            self.interrupted(error)
            raise

    async def sleep_async(self, seconds: float) -> None:
        """As `sleep`, for coroutines."""
        try:
            if self._pauses is not None:
                await self._pauses.pause_async(seconds)
            else:
                await asyncio.sleep(seconds)
        except BaseException as error:
            self.interrupted(error)
            raise

    def _release(self) -> None:
        if self._permit and self._window is not None:
            self._permit = False
            self._window.release()


def _refused(error: Exception) -> bool:
    """Whether the attempt was refused before it was made.

    One of these that an inner call gave up on carries that call's report; ours does not yet.
    """
    return isinstance(error, _REFUSALS) and report_for(error) is None


def _in_event_loop() -> bool:
    if "asyncio" not in sys.modules:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_REFUSALS = (NotConnectedError, CircuitOpenError, BulkheadFullError)
_RETRIES = f"{__package__}."


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
    return str(frame.f_globals.get("__name__")).startswith(_RETRIES)


def _delay(value: Any) -> float:
    """What a user's ``wait`` returned, as seconds that can be slept."""
    seconds = float(value)
    # An endless wait must not become none; above the limit time.sleep() raises.
    return min(seconds, threading.TIMEOUT_MAX) if seconds > 0 else 0.0
