"""The loop `retrying`: retries around a block of a user's own code.

The first attempt is yielded before anything else is made. After a failure
`retry.retried_call` decides. Knows nothing of the engine.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Self, cast

from iii_resilience.core import system_clock as clock
from iii_resilience.core.decide import Reason
from iii_resilience.core.errors import BulkheadFullError, CircuitOpenError
from iii_resilience.core.failure import Failure
from iii_resilience.core.guards.budget import PermitBucket
from iii_resilience.core.policy import RetryPolicy
from iii_resilience.retry.admission import Admission, guard_for
from iii_resilience.retry.cancellation import (
    Cancellations,
    cancellations_asked_for,
    refuse_other_libraries,
)
from iii_resilience.retry.policy_source import PolicySource
from iii_resilience.retry.retried_call import RetriedCall, deadline_of
from iii_resilience.retry.retry_context import StopRetrying
from iii_resilience.telemetry import meters

_LOOP = "retrying()"
_NEVER_ENTERED = GeneratorExit()


class RetryAttempt:
    """One attempt of a `retrying` loop: a context manager around the block.

    Attributes:
        number: 1 for the first.
    """

    def __init__(
        self,
        number: int,
        started: float,
        classified: list[Failure],
        run: RetriedCall | None = None,
        bucket: PermitBucket | None = None,
    ) -> None:
        self.number = number
        self.error: Exception | None = None
        self.admission: Admission | None = None
        self._started = started
        self._classified = classified
        self._run = run
        self._bucket = bucket

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> bool:
        run, self._run = self._run, None  # the user's variable may outlive the loop
        admission, self.admission = self.admission, None
        if admission is not None:
            if error is None:
                admission.release(None)
            else:
                admission.failed(error, self._classified)
        # The loop could not raise these two itself: to an iterator they mean its end.
        if isinstance(error, Exception) and not isinstance(
            error, (StopIteration, StopAsyncIteration)
        ):
            self.error = error
            if run is not None:
                run.telemetry.leave()
            return True
        # Reported here and not in the loop: a `return` in the block skips the rest of the loop.
        if error is None:
            if run is None:
                bucket = self._bucket
                if bucket is not None and bucket.level < bucket.burst:
                    bucket.succeeded(clock.monotonic())
                meters.succeeded(_LOOP, self._started)
            else:
                run.succeeded()
        elif run is None:
            meters.passed(_LOOP, self._started, error)
        else:
            run.interrupted(error)
        return False

    def admit(self, admit: Callable[[], Admission]) -> None:
        """Pass the policy's breaker and bulkhead; a rejection is this attempt's error."""
        try:
            self.admission = admit()
        except (CircuitOpenError, BulkheadFullError) as error:
            self.error = error

    async def admit_async(self, admit: Callable[[], Awaitable[Admission]]) -> None:
        """As `admit`, for coroutines."""
        try:
            self.admission = await admit()
        except (CircuitOpenError, BulkheadFullError) as error:
            self.error = error

    def abandon(self) -> None:
        """Give its place back, where the block was never entered: nothing was attempted."""
        admission, self.admission = self.admission, None
        if admission is not None:
            admission.release(_NEVER_ENTERED)

    def take_error(self) -> Exception:
        """What the block raised; the user's variable may outlive the loop, and keeps none."""
        error, self.error = self.error, None
        return cast("Exception", error)


class _HandedOut:
    """The attempt that a loop of coroutines has handed out last.

    ``break`` drops the loop's generator, and asyncio ends that in an iteration of its own. The
    attempt's place is given back at once.

    Attributes:
        attempt: The attempt, or None before the first one.
    """

    __slots__ = ("_generator", "attempt")

    def __init__(self) -> None:
        self.attempt: RetryAttempt | None = None
        self._generator: weakref.ref[AsyncIterator[RetryAttempt]] | None = None

    def watch(self, generator: AsyncIterator[RetryAttempt]) -> None:
        """Give the place back when the generator is dropped."""
        self._generator = weakref.ref(generator, self._dropped)

    def _dropped(self, _: object) -> None:
        self._generator = None  # it holds this method
        if self.attempt is not None:
            self.attempt.abandon()


class RetryLoop:
    """What `retrying` returns: iterate over it with ``for`` or ``async for``.

    Args:
        source: Where its policy is from.
        scope: The function that contains it: the states of guards are kept for it.
    """

    def __init__(self, source: PolicySource, scope: str) -> None:
        self._source = source
        self._scope = scope

    def __iter__(self) -> Iterator[RetryAttempt]:
        """Attempts until the block succeeds or its failure is given up."""
        policy, bucket, started = self._start()
        deadline_at = deadline_of(policy, started)
        guard = guard_for(policy, _LOOP, self._scope, self._source.rules)
        classified: list[Failure] = []
        attempt = RetryAttempt(1, started, classified, bucket=bucket)
        if guard is not None:
            attempt.admit(functools.partial(guard.admit, deadline_at))
        if attempt.error is None:
            try:
                yield attempt
            finally:
                attempt.abandon()
        if attempt.error is None:
            return
        run = RetriedCall(
            self._source.context(_LOOP, policy, bucket),
            started,
            idempotent=self._source.idempotent,
            deadline_at=deadline_at,
            classified=classified,
        )
        _record(run, attempt)
        while (delay := run.next_delay()) is not None:
            run.sleep(delay)
            attempt = RetryAttempt(len(run.log.failed) + 1, started, classified, run)
            if run.too_late():
                attempt.error = StopRetrying(Reason.DEADLINE)
            if attempt.error is None and guard is not None:
                attempt.admit(functools.partial(guard.admit, deadline_at))
            if attempt.error is None:
                run.attempt_started(sent=True)
                try:
                    yield attempt
                except GeneratorExit as left:
                    _left(run, attempt, left)
                    raise
                finally:
                    attempt.abandon()
            if attempt.error is None:
                return
            _record(run, attempt)
        error = run.finish()
        del run  # it holds the exceptions, and those hold this frame
        try:
            raise error
        finally:
            del error

    def __aiter__(self) -> AsyncIterator[RetryAttempt]:
        """As ``for``, without blocking the event loop while it waits."""
        handed_out = _HandedOut()
        attempts = self._attempts(handed_out)
        handed_out.watch(attempts)
        return attempts

    async def _attempts(self, handed_out: _HandedOut) -> AsyncIterator[RetryAttempt]:
        refuse_other_libraries(_LOOP)
        policy, bucket, started = self._start()
        deadline_at = deadline_of(policy, started)
        cancellations = Cancellations(cancellations_asked_for())
        guard = guard_for(policy, _LOOP, self._scope, self._source.rules)
        classified: list[Failure] = []
        attempt = RetryAttempt(1, started, classified, bucket=bucket)
        if guard is not None:
            await attempt.admit_async(functools.partial(guard.admit_async, deadline_at))
        if attempt.error is None:
            handed_out.attempt = attempt
            try:
                yield attempt
            finally:
                attempt.abandon()
        if attempt.error is None:
            return
        run = RetriedCall(
            self._source.context(_LOOP, policy, bucket),
            started,
            idempotent=self._source.idempotent,
            deadline_at=deadline_at,
            classified=classified,
            swallowed=cancellations.swallowed,
        )
        _record(run, attempt)
        while (delay := run.next_delay()) is not None:
            await run.sleep_async(delay)
            attempt = RetryAttempt(len(run.log.failed) + 1, started, classified, run)
            if run.too_late():
                attempt.error = StopRetrying(Reason.DEADLINE)
            if attempt.error is None and guard is not None:
                await attempt.admit_async(functools.partial(guard.admit_async, deadline_at))
            if attempt.error is None:
                handed_out.attempt = attempt
                run.attempt_started(sent=True)
                try:
                    yield attempt
                except GeneratorExit as left:
                    _left(run, attempt, left)
                    raise
                finally:
                    attempt.abandon()
            if attempt.error is None:
                return
            _record(run, attempt)
        error = run.finish()
        del run  # it holds the exceptions, and those hold this frame
        try:
            raise error
        finally:
            del error

    def _start(self) -> tuple[RetryPolicy, PermitBucket | None, float]:
        policy, bucket = self._source.resolve(self._scope)
        started = clock.monotonic()
        return policy, bucket, started


def _record(run: RetriedCall, attempt: RetryAttempt) -> None:
    error = attempt.take_error()
    try:
        run.attempt_failed(error, error.__traceback__)  # from the user's frame on
    finally:
        del error


def _left(run: RetriedCall, attempt: RetryAttempt, left: GeneratorExit) -> None:
    """The user's code has left the loop in a retry: the call ends there."""
    if attempt.error is not None:
        _record(run, attempt)
    run.interrupted(left)
