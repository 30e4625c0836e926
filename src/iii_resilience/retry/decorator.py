"""The decorator `@iii_retry`, and `retrying`: retries around a user's own code.

The first attempt runs inline; after a failure `retry.retried_call` takes over. Knows nothing of
the engine.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import (
    TYPE_CHECKING,
    Any,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from iii_resilience.config.default_book import Default
from iii_resilience.core import system_clock as clock
from iii_resilience.core.callables import function_behind, is_coroutine_function
from iii_resilience.core.decorator_order import refuse_inside
from iii_resilience.core.failure import Failure
from iii_resilience.core.guards.breaker import Rejection
from iii_resilience.core.lazy_imports import lazy_module
from iii_resilience.core.policy import RetryPolicy
from iii_resilience.retry.admission import AttemptGuard
from iii_resilience.retry.cancellation import Cancellations, refuse_other_libraries
from iii_resilience.retry.loop import RetryLoop
from iii_resilience.retry.policy_source import (
    Overrides,
    PolicySource,
    ResolvedPolicy,
    qualified_name,
)
from iii_resilience.retry.retried_call import RetriedCall, deadline_of
from iii_resilience.retry.user_traceback import user_traceback
from iii_resilience.telemetry import meters

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = lazy_module("asyncio")  # a program without coroutines never needs it

P = ParamSpec("P")
R = TypeVar("R")


class _Decorator(Protocol):
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def iii_retry(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def iii_retry(
    *,
    idempotent: bool = ...,
    policy: str | RetryPolicy | None = ...,
    **overrides: Unpack[Overrides],
) -> _Decorator: ...


def iii_retry(
    function: Any = None,
    /,
    *,
    idempotent: bool = False,
    policy: str | RetryPolicy | None = None,
    **overrides: Any,
) -> Any:
    """Retry a function when it fails with a transient failure.

    Works on functions and methods, sync and async, and on what stands for one: partials, objects
    with ``__call__``, mocks, what is marked with `inspect.markcoroutinefunction`. Coroutines need
    asyncio; under another library the decorated function raises `RuntimeError` at once. Without
    ``idempotent=True`` failures are classified and reported, and never retried.

    Args:
        function: The function, when used as ``@iii_retry`` without parentheses.
        idempotent: Whether calling the function twice does what calling it once does.
        policy: A `RetryPolicy`, or the name of one in the default book (looked up when the
            function is called); None for the book's default.
        **overrides: Parts of the policy to change: ``attempts``, ``backoff``, ``deadline``,
            ``attempt_timeout`` (async functions only), ``budget``, ``wait``, ``stop``. The changed
            policy shares the budget of the one it was made from. And ``transient``: a class of
            exceptions, or several, that are transient failures of this function, before what
            `register_exceptions` says. It makes nothing retryable that ``FORBIDDEN`` or
            ``function_not_found`` caused.

    Returns:
        The decorated function, with the same signature; or the decorator.

    Raises:
        TypeError: What is decorated is not a function that could be called again, or an option
            only has a meaning in `worker.trigger`.
        ValueError: A number out of range. (An unknown policy name: at the first call.)
        ConfigError: ``transient`` names `Exception`, or a class whose exceptions go by code.

    The decorated function raises the last attempt's own exception; `report_for` and `hint_for`
    return what was tried and what to do instead.
    """
    source = PolicySource("@iii_retry", policy, overrides, idempotent=idempotent)

    def decorate(target: Any) -> Any:
        if isinstance(target, (staticmethod, classmethod)):
            return type(target)(decorate(target.__func__))
        asynchronous = _check_target(target)
        refuse_inside(
            "iii_retry", target, consumer="each retry would count as a delivery of the message"
        )
        if not asynchronous:
            source.refuse_attempt_timeout(
                "a sync function cannot be interrupted: give it a timeout of its own, make it "
                "async, or set a deadline, which starts no retry past it"
            )
        return (_wrap_async if asynchronous else _wrap_sync)(target, source)

    return decorate if function is None else decorate(function)


def retrying(
    *,
    idempotent: bool = False,
    policy: str | RetryPolicy | None = None,
    **overrides: Unpack[Overrides],
) -> RetryLoop:
    """Retry a block of code.

    Write ``for attempt in retrying(idempotent=True):`` and in it ``with attempt:`` and the block.

    Use ``async for`` in coroutines. The loop ends when the block succeeds; a failure that is given
    up is raised from the loop.

    Args:
        idempotent: Whether running the block twice does what running it once does.
        policy: As for `iii_retry`.
        **overrides: As for `iii_retry`, without ``attempt_timeout``.

    Returns:
        A loop; each iteration over it is a new call.

    Raises:
        TypeError: An option that only means something in `worker.trigger`.
        ValueError: A number out of range, an unknown policy name, or ``attempt_timeout``.
        ConfigError: As for `iii_retry`.
    """
    source = PolicySource("retrying()", policy, dict(overrides), idempotent=idempotent)
    source.refuse_attempt_timeout("a block cannot be cut from outside: use asyncio.timeout() in it")
    caller = sys._getframe(1)  # noqa: SLF001 - the function whose block is retried
    scope = f"{caller.f_globals.get('__name__')}.{caller.f_code.co_qualname}"
    return RetryLoop(source, scope)


def _check_target(target: Any) -> bool:
    """Whether the target is async; raises for what cannot be called again."""
    if isinstance(target, type):
        raise TypeError(
            f"@iii_retry cannot decorate the class {target.__name__}: decorate the methods that "
            "may be repeated"
        )
    if isinstance(target, (str, RetryPolicy)):
        raise TypeError(
            "@iii_retry takes its policy by name: write @iii_retry(policy=...) above the function"
        )
    if not callable(target):
        raise TypeError(
            f"@iii_retry cannot decorate {target!r}: it is not callable. Decorate a function, or "
            "use 'for attempt in retrying(...)' around a block"
        )
    plain = function_behind(target)
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise TypeError(
            f"@iii_retry cannot decorate the generator function {qualified_name(target)}: what it "
            "has yielded cannot be taken back. Decorate the function that makes one item, or "
            "collect the items in a list inside a plain function"
        )
    return is_coroutine_function(target)


# The first attempt of a decorated function is what every success costs, so it is spelled out twice
# and calls as little as it can, not even a property; benchmarks/RESULTS.md has the figures.


def _wrap_sync(  # noqa: C901, PLR0915 - see above
    function: Callable[..., Any], source: PolicySource
) -> Callable[..., Any]:
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
                ticket = circuit.admit(started)
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
                bucket.succeeded()
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


def _wrap_async(  # noqa: C901, PLR0915 - see above
    function: Callable[..., Any], source: PolicySource
) -> Callable[..., Any]:
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
        bucket = by.bucket
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
            elif (circuit := by.circuit_alone) is not None:
                ticket = circuit.admit(started)
                if isinstance(ticket, Rejection):
                    raise cast("AttemptGuard", by.guard).open_error(ticket)
                try:
                    value = await function(*args, **kwargs)
                except BaseException as error:
                    cast("AttemptGuard", by.guard).failed(ticket, started, error, classified)
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
                bucket.succeeded()
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
