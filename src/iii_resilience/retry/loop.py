"""The loop `retrying`: retries around a block of a user's own code.

The first attempt is yielded before anything else is made. After a failure tenacity drives the loop,
and `retry.run` decides. Knows nothing of the engine.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import tenacity

from iii_resilience.core.errors import BulkheadFullError, CircuitOpenError
from iii_resilience.core.guards.budget import BudgetWindow
from iii_resilience.core.policy import RetryPolicy
from iii_resilience.retry.admission import Admission, guard_for
from iii_resilience.retry.cancellation import Cancellations, cancellations_asked_for
from iii_resilience.retry.policy_source import PolicySource, begin
from iii_resilience.retry.run import RetriedCall, deadline_of
from iii_resilience.retry.tenacity_driver import hooks
from iii_resilience.telemetry import meters

_LOOP = "retrying()"


class RetryAttempt:
    """One attempt of a `retrying` loop: a context manager around the block.

    Attributes:
        number: 1 for the first.
    """

    def __init__(self, number: int, started: float, run: RetriedCall | None = None) -> None:
        self.number = number
        self.error: Exception | None = None
        self.admission: Admission | None = None
        self._started = started
        self._run = run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> bool:
        run, self._run = self._run, None  # the user's variable may outlive the loop
        if self.admission is not None:
            self.admission.release(error)
        # The loop could not raise these two itself: to an iterator they mean its end.
        if isinstance(error, Exception) and not isinstance(
            error, (StopIteration, StopAsyncIteration)
        ):
            self.error = error
            if run is not None:
                run.telemetry.leave()
            return True
        # Told here and not in the loop: whoever leaves the block with `return` leaves that too.
        if error is None:
            if run is None:
                meters.succeeded(_LOOP, self._started)
            else:
                run.telemetry.succeeded()
        elif run is None:
            meters.passed(_LOOP, self._started, error)
        else:
            run.interrupted(error)
        return False

    def refused_by(self, enter: Callable[[], Admission]) -> None:
        """Go behind the policy's breaker and bulkhead; a refusal is this attempt's error."""
        try:
            self.admission = enter()
        except (CircuitOpenError, BulkheadFullError) as error:
            self.error = error

    async def refused_by_async(self, enter: Callable[[], Awaitable[Admission]]) -> None:
        """As `refused_by`, for coroutines."""
        try:
            self.admission = await enter()
        except (CircuitOpenError, BulkheadFullError) as error:
            self.error = error

    def replay(self) -> None:
        """Raise what the block raised, if it did: tenacity learns of it."""
        error, self.error = self.error, None  # the user's variable may outlive the loop
        if error is not None:
            try:
                raise error
            finally:
                del error


class RetryLoop:
    """What `retrying` returns: iterate over it with ``for`` or ``async for``."""

    def __init__(self, source: PolicySource) -> None:
        self._source = source

    def __iter__(self) -> Iterator[RetryAttempt]:
        """Attempts until the block succeeds or its failure is given up."""
        policy, started, window = self._start()
        guard = guard_for(policy, _LOOP)
        attempt = RetryAttempt(1, started)
        if guard is not None:
            attempt.refused_by(functools.partial(guard.admit, deadline_of(policy, started)))
        if attempt.error is None:
            yield attempt
        if attempt.error is None:
            return
        run = self._run(policy, started, window, attempt.error)
        managers = iter(tenacity.Retrying(sleep=run.sleep, **hooks(run)))
        for manager in managers:
            if attempt.number > 1 or manager.retry_state.attempt_number > 1:
                attempt = RetryAttempt(manager.retry_state.attempt_number, started, run)
                attempt.error = run.too_late()
                if attempt.error is None and guard is not None:
                    attempt.refused_by(functools.partial(guard.admit, run.deadline_at))
                if attempt.error is None:
                    run.attempt_started(sent=True)
                    with _unless_left(run, attempt):
                        yield attempt
                if attempt.error is not None:
                    run.attempt_failed(attempt.error, _own(attempt.error))
            with manager:
                attempt.replay()
        if run.reason is not None:
            error = run.finish()
            del run, managers  # they hold the exceptions, and those hold this frame
            try:
                raise error
            finally:
                del error

    async def __aiter__(self) -> AsyncIterator[RetryAttempt]:
        """As ``for``, without blocking the event loop while it waits."""
        policy, started, window = self._start()
        cancellations = Cancellations(cancellations_asked_for())
        guard = guard_for(policy, _LOOP)
        attempt = RetryAttempt(1, started)
        if guard is not None:
            await attempt.refused_by_async(
                functools.partial(guard.admit_async, deadline_of(policy, started))
            )
        if attempt.error is None:
            yield attempt
        if attempt.error is None:
            return
        run = self._run(policy, started, window, attempt.error, cancellations.swallowed)
        managers = tenacity.AsyncRetrying(sleep=run.sleep_async, **hooks(run))
        async for manager in managers:
            if attempt.number > 1 or manager.retry_state.attempt_number > 1:
                attempt = RetryAttempt(manager.retry_state.attempt_number, started, run)
                attempt.error = run.too_late()
                if attempt.error is None and guard is not None:
                    await attempt.refused_by_async(
                        functools.partial(guard.admit_async, run.deadline_at)
                    )
                if attempt.error is None:
                    run.attempt_started(sent=True)
                    with _unless_left(run, attempt):
                        yield attempt
                if attempt.error is not None:
                    run.attempt_failed(attempt.error, _own(attempt.error))
            with manager:
                attempt.replay()
        if run.reason is not None:
            error = run.finish()
            del run, managers  # they hold the exceptions, and those hold this frame
            try:
                raise error
            finally:
                del error

    def _start(self) -> tuple[RetryPolicy, float, BudgetWindow | None]:
        policy, window = self._source.resolve()
        started = time.monotonic()
        if window is not None:
            window.called(started)
        return policy, started, window

    def _run(
        self,
        policy: RetryPolicy,
        started: float,
        window: BudgetWindow | None,
        error: Exception,
        swallowed: Callable[[Exception], bool] | None = None,
    ) -> RetriedCall:
        run = begin(self._source, _LOOP, started, policy, window, swallowed)
        run.attempt_failed(error, _own(error))
        return run


@contextmanager
def _unless_left(run: RetriedCall, attempt: RetryAttempt) -> Iterator[None]:
    """While the user has an attempt: where he leaves the loop instead, the call ends there."""
    try:
        yield
    except GeneratorExit as left:
        if attempt.error is not None:
            run.attempt_failed(attempt.error, _own(attempt.error))
        run.interrupted(left)
        raise


def _own(error: Exception) -> TracebackType | None:
    """The block's own traceback, from the user's frame on."""
    return error.__traceback__
