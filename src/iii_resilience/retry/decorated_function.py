"""A decorated function: its first attempt, and how it goes on after a failure.

The first attempt runs inline; after a failure `retry.retried_call` takes over. Knows nothing of
the engine.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from iii_resilience.config.default_book import Default
from iii_resilience.core import system_clock as clock
from iii_resilience.core.callables import qualified_name
from iii_resilience.core.failure import Failure
from iii_resilience.core.guards.breaker import Rejection
from iii_resilience.core.lazy_imports import lazy_module
from iii_resilience.core.policy import RetryPolicy
from iii_resilience.retry.cancellation import Cancellations, refuse_other_libraries
from iii_resilience.retry.policy_source import PolicySource, ResolvedPolicy
from iii_resilience.retry.retried_call import RetriedCall, deadline_of
from iii_resilience.retry.user_traceback import user_traceback
from iii_resilience.telemetry import meters

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = lazy_module("asyncio")  # a program without coroutines never needs it


# The first attempt of a decorated function is what every success costs, so it is spelled out twice
# and calls as little as it can, not even a property; benchmarks/RESULTS.md has the figures.


def wrap_sync(  # noqa: C901, PLR0915 - see above
    function: Callable[..., Any], source: PolicySource
) -> Callable[..., Any]:
    """A function that does what this one does, with retries.

    Args:
        function: The function.
        source: Where its policy is from.
    """
    name = qualified_name(function)
    current: ResolvedPolicy | None = None
    unknown = True  # whether it returns awaitables: the first value other than None shows it

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: C901, PLR0912, PLR0915 - see above
        nonlocal current, unknown
        by, book = current, Default.book
        if by is None or book is None or by.policy_set is not book.policy_set:
            current = by = source.resolved(name)
        started = clock.monotonic()
        bucket, guard = by.bucket, by.guard
        classified: list[Failure] = []
        try:
            if guard is None:
                value = function(*args, **kwargs)
            elif (circuit := guard.circuit_alone) is not None:
                ticket = circuit.phase.ticket or circuit.admit(started)
                if isinstance(ticket, Rejection):
                    raise guard.open_error(ticket)
                try:
                    value = function(*args, **kwargs)
                except BaseException as error:
                    guard.failed(ticket, started, error, classified)
                    raise
                ended = clock.monotonic()
                circuit.succeeded(ticket, ended, ended - started)
            else:
                attempt: Callable[[], Any] = functools.partial(function, *args, **kwargs)
                value = guard.attempt(attempt, deadline_of(by.policy, started), classified)
        except Exception as error:
            run = RetriedCall(
                by.context,
                started,
                idempotent=source.idempotent,
                deadline_at=deadline_of(by.policy, started),
                classified=classified,
            )
            run.attempt_failed(error, user_traceback(error))
        except BaseException as error:
            meters.passed(name, started, error)
            raise
        else:
            if bucket is not None and bucket.level < bucket.burst:
                bucket.succeeded(clock.monotonic())
            if meters.probe._real_instrument is not None:  # noqa: SLF001 - see `Meters.probe`
                meters.succeeded(name, started)
            if unknown and value is not None:
                unknown = False
                source.check_returned(name, value)
            return value
        attempt = functools.partial(function, *args, **kwargs)
        if guard is not None:
            attempt = functools.partial(guard.attempt, attempt, run.deadline_at, classified)
        outcome = run.retry(attempt)
        del run  # it holds the exceptions, and they hold this frame
        error_to_raise = outcome.error
        if error_to_raise is None:
            return outcome.value
        del outcome
        try:
            raise error_to_raise
        finally:
            del error_to_raise

    return call


def wrap_async(  # noqa: C901, PLR0915 - see above
    function: Callable[..., Any], source: PolicySource
) -> Callable[..., Any]:
    """As `wrap_sync`, for coroutine functions."""
    task_of, get_running_loop = _tasks()
    name = qualified_name(function)
    current: ResolvedPolicy | None = None

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:  # noqa: C901, PLR0912, PLR0915 - see above
        nonlocal current
        by, book = current, Default.book
        if by is None or book is None or by.policy_set is not book.policy_set:
            current = by = source.resolved(name)
        started = clock.monotonic()
        bucket, guard = by.bucket, by.guard
        try:
            task = task_of(get_running_loop())
        except RuntimeError:  # a coroutine that is driven by hand, or by another library
            refuse_other_libraries(name)
            task = None
        cancelled = 0 if task is None else task.cancelling()
        cancellations: Cancellations | None = None
        classified: list[Failure] = []
        try:
            if by.plain:
                value = await function(*args, **kwargs)
            elif guard is not None and (circuit := by.circuit_alone) is not None:
                ticket = circuit.phase.ticket or circuit.admit(started)
                if isinstance(ticket, Rejection):
                    raise guard.open_error(ticket)
                try:
                    value = await function(*args, **kwargs)
                except BaseException as error:
                    guard.failed(ticket, started, error, classified)
                    raise
                ended = clock.monotonic()
                circuit.succeeded(ticket, ended, ended - started)
            else:
                cancellations = Cancellations(cancelled)
                attempt = functools.partial(function, *args, **kwargs)
                value = await _guarded_attempt(by, attempt, started, cancellations, classified)()
        except Exception as error:
            cancellations = cancellations or Cancellations(cancelled)
            run = RetriedCall(
                by.context,
                started,
                idempotent=source.idempotent,
                deadline_at=deadline_of(by.policy, started),
                classified=classified,
                swallowed=cancellations.swallowed,
            )
            run.attempt_failed(error, user_traceback(error))
        except BaseException as error:
            meters.passed(name, started, error)
            raise
        else:
            if bucket is not None and bucket.level < bucket.burst:
                bucket.succeeded(clock.monotonic())
            if meters.probe._real_instrument is not None:  # noqa: SLF001 - see `Meters.probe`
                meters.succeeded(name, started)
            return value
        attempt = functools.partial(function, *args, **kwargs)
        attempt = _guarded_attempt(by, attempt, started, cancellations, classified)
        outcome = await run.retry_async(attempt)
        del run
        error_to_raise = outcome.error
        if error_to_raise is None:
            return outcome.value
        del outcome
        try:
            raise error_to_raise
        finally:
            del error_to_raise

    return call


def _tasks() -> tuple[Callable[[Any], asyncio.Task[Any] | None], Callable[[], Any]]:
    """What finds the running task of an event loop, and what finds the loop, both written in C."""
    import asyncio  # noqa: PLC0415 - see the module's imports

    if sys.version_info >= (3, 12):  # pragma: no cover - coverage is taken on the oldest Python
        return asyncio.current_task, asyncio.get_running_loop
    # `current_task` is written in Python there: this is what it does, in half the time.
    tasks: dict[Any, asyncio.Task[Any]] = vars(asyncio.tasks)["_current_tasks"]
    return tasks.get, asyncio.get_running_loop


def _guarded_attempt(
    by: ResolvedPolicy,
    attempt: functools.partial[Any],
    started: float,
    cancellations: Cancellations,
    classified: list[Failure],
) -> functools.partial[Any]:
    """An attempt of an async function, behind what its policy puts before it."""
    policy = by.policy
    if policy.attempt_timeout is not None:
        attempt = functools.partial(_timed, attempt, policy, started, cancellations)
    if by.guard is not None:
        deadline_at = deadline_of(policy, started)
        attempt = functools.partial(by.guard.attempt_async, attempt, deadline_at, classified)
    return attempt


async def _timed(
    attempt: Callable[[], Any],
    policy: RetryPolicy,
    started: float,
    cancellations: Cancellations,
) -> Any:
    """One attempt, cut after the policy's ``attempt_timeout`` or at its deadline."""
    limit = cast("float", policy.attempt_timeout)
    deadline_at = deadline_of(policy, started)
    if deadline_at is not None:
        limit = min(limit, deadline_at - clock.monotonic())
    async with asyncio.timeout(limit) as timer:
        try:
            return await attempt()
        except Exception:
            cancellations.timed_out = timer.expired()
            raise
