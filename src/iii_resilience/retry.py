"""The decorator `@iii_retry` and the loop `retrying`: retries around a user's own code.

Knows nothing of the engine. The first attempt runs inline; after a failure `run` takes over.
"""

from __future__ import annotations

import functools
import inspect
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    ParamSpec,
    Protocol,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

import attrs
import tenacity

from iii_resilience.backoff import Backoff
from iii_resilience.book import Default, Edition, default_book
from iii_resilience.errors import BulkheadFullError, CircuitOpenError
from iii_resilience.guards.breaker import Breaker
from iii_resilience.guards.budget import Budget, BudgetWindow
from iii_resilience.guards.bulkhead import Bulkhead
from iii_resilience.lazy import later
from iii_resilience.policy import FIELDS, TRIGGER_FIELDS, RetryPolicy, Stop, Wait
from iii_resilience.run import CallRun, below, deadline_of
from iii_resilience.shielded import Shield, Visit, shield_for
from iii_resilience.telemetry import meters, named

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = later("asyncio")  # a program without coroutines never needs it

_LOOP = "retrying()"
_CAUSES_LOOKED_AT = 8

P = ParamSpec("P")
R = TypeVar("R")


class Overrides(TypedDict, total=False):
    """The parts of a policy that a decorator or loop may set inline (see `RetryPolicy`)."""

    attempts: int
    backoff: Backoff
    deadline: float | None
    attempt_timeout: float | None
    budget: Budget | None
    breaker: Breaker | None
    bulkhead: Bulkhead | None
    wait: Wait | None
    stop: Stop | None


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

    Works on functions and methods, sync and async. Without ``idempotent=True`` failures are
    classified and reported, and never retried.

    Args:
        function: The function, when used as ``@iii_retry`` without parentheses.
        idempotent: Whether calling the function twice does what calling it once does.
        policy: A `RetryPolicy`, or the name of one in the default book (looked up when the
            function is called); None for the book's default.
        **overrides: Parts of the policy to change: ``attempts``, ``backoff``, ``deadline``,
            ``attempt_timeout`` (async functions only), ``budget``, ``wait``, ``stop``. The changed
            policy shares the budget of the one it was made from.

    Returns:
        The decorated function, with the same signature; or the decorator.

    Raises:
        TypeError: What is decorated is no function that could be called again, or an option that
            only means something in `worker.trigger`.
        ValueError: A number out of range. (An unknown policy name: at the first call.)

    The decorated function raises the last attempt's own exception; `report_for` and `hint_for`
    tell what was tried and what to do instead.
    """
    source = _PolicySource("@iii_retry", policy, overrides, idempotent=idempotent)

    def decorate(target: Any) -> Any:
        if isinstance(target, (staticmethod, classmethod)):
            return type(target)(decorate(target.__func__))
        asynchronous = _check_target(target)
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
    """
    source = _PolicySource("retrying()", policy, dict(overrides), idempotent=idempotent)
    source.refuse_attempt_timeout("a block cannot be cut from outside: use asyncio.timeout() in it")
    return RetryLoop(source)


@attrs.frozen
class _InForce:
    """What one decorated function goes by until the default book turns to another edition.

    Attributes:
        edition: The edition of the default book that it was found in.
        policy: The policy.
        window: Its budget's count, or None where there is nothing to count.
        shield: Its breaker and bulkhead, or None.
        plain: Whether an attempt is just a call of the function.
    """

    edition: Edition
    policy: RetryPolicy
    window: BudgetWindow | None
    shield: Shield | None
    plain: bool


class _PolicySource:
    """Where a decorator or loop has its policy from, resolved when it is called."""

    def __init__(
        self, who: str, policy: Any, overrides: dict[str, Any], *, idempotent: bool
    ) -> None:
        if not (policy is None or isinstance(policy, (str, RetryPolicy))):
            raise TypeError(f"{who}: policy must be a RetryPolicy or a name, got {policy!r}")
        if not isinstance(idempotent, bool):
            raise TypeError(f"{who}: idempotent must be True or False, got {idempotent!r}")
        for name in sorted(overrides):
            if name in TRIGGER_FIELDS:
                raise TypeError(
                    f"{who} takes no {name}: it only works in worker.trigger, where it is known "
                    "what was sent; put it into a policy used there"
                )
            if name not in FIELDS:
                allowed = ", ".join(sorted(FIELDS - TRIGGER_FIELDS))
                raise TypeError(f"{who} takes no {name} (it takes idempotent, policy, {allowed})")
        self.idempotent = idempotent
        self._policy = policy
        self._overrides = overrides
        self._no_attempt_timeout: str | None = None
        self._warned = False
        # One attribute, so that another thread never sees one book's policy with another book.
        self._resolved: tuple[Edition, RetryPolicy, BudgetWindow | None] | None = None
        if not isinstance(policy, str):
            # Bad numbers are found where they stand, not at the first call.
            (policy or RetryPolicy()).replace(**overrides)

    def resolve(self) -> tuple[RetryPolicy, BudgetWindow | None]:
        """The policy in force now and its budget's count."""
        book = default_book().edition
        resolved = self._resolved
        if resolved is None or resolved[0] is not book:
            policy, called = self._policy, "inline"
            if not isinstance(policy, RetryPolicy):
                called = book.default if policy is None else policy
                policy = book.policy(called)
            # Around a user's own code a failure proves nothing about what ran before it.
            policy = policy.replace(**self._overrides, retry_unexecuted=False)
            if isinstance(self._policy, str):  # the default policy's is not meant for this call
                self._check_attempt_timeout(policy.attempt_timeout)
            window = policy.budget.window_for() if policy.budget is not None else None
            if window is not None:
                named(window, called)
            resolved = self._resolved = (book, policy, window if self.idempotent else None)
        return resolved[1:]

    def in_force(self, name: str) -> _InForce:
        """As `resolve`, and what else a decorated function looks up once an edition.

        Args:
            name: The function.
        """
        # Read first: should the book turn meanwhile, the next call looks again.
        edition = default_book().edition
        policy, window = self.resolve()
        shield = shield_for(policy, name)
        plain = shield is None and policy.attempt_timeout is None
        return _InForce(edition, policy, window, shield, plain)

    def warn_blocking(self, name: str) -> None:
        """A delay is about to stop a running event loop: say so, once."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{name} is synchronous and waits for its retry inside a running event loop, "
                "which stands still meanwhile: make it async, or call it with asyncio.to_thread()",
                RuntimeWarning,
                stacklevel=2,
            )

    def refuse_attempt_timeout(self, why: str) -> None:
        """Attempts cannot be cut here: whoever asked for it by name is told so."""
        self._no_attempt_timeout = why
        given = self._policy.attempt_timeout if isinstance(self._policy, RetryPolicy) else None
        self._check_attempt_timeout(self._overrides.get("attempt_timeout", given))

    def _check_attempt_timeout(self, given: float | None) -> None:
        if given is not None and self._no_attempt_timeout is not None:
            raise ValueError(f"attempt_timeout cannot be kept here: {self._no_attempt_timeout}")


def _check_target(target: Any) -> bool:
    """Whether the target is async; raises for what cannot be called again."""
    if isinstance(target, type):
        raise TypeError(
            f"@iii_retry cannot decorate the class {target.__name__}: decorate the methods that "
            "may be repeated"
        )
    if not callable(target):
        raise TypeError(
            f"@iii_retry cannot decorate {target!r}: it is not callable. Decorate a function, or "
            "use 'for attempt in retrying(...)' around a block"
        )
    plain = target
    while isinstance(plain, functools.partial):
        plain = plain.func
    if not (inspect.isroutine(plain) or isinstance(plain, functools.partialmethod)):
        plain = getattr(plain, "__call__", plain)  # noqa: B004 - the function behind the object
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise TypeError(
            f"@iii_retry cannot decorate the generator function {_name(target)}: what it has "
            "yielded cannot be taken back. Decorate the function that makes one item, or collect "
            "the items in a list inside a plain function"
        )
    return inspect.iscoroutinefunction(plain)


def _name(target: Any) -> str:
    module = getattr(target, "__module__", None) or type(target).__module__
    name = getattr(target, "__qualname__", None) or type(target).__qualname__
    return f"{module}.{name}"


class _Cancellations:
    """The cancellations of one async call: whether an attempt swallowed one.

    Args:
        before: How many its task had been asked for when the call began. A call may clean up for a
            task that is being cancelled: only what comes later counts.

    Attributes:
        timed_out: Whether the last attempt was to end by its timeout and ended otherwise.
    """

    __slots__ = ("_before", "timed_out")

    def __init__(self, before: int) -> None:
        self._before = before
        self.timed_out = False

    def swallowed(self, error: Exception) -> bool:
        """Whether the attempt that has just failed was to end by a cancellation."""
        if self.timed_out:
            return True
        # The count alone would not do: up to Python 3.12 a TaskGroup whose task failed leaves it
        # one too high.
        return _cancellations_asked_for() > self._before and _comes_of_a_cancellation(error)


def _cancellations_asked_for() -> int:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a coroutine that is driven by hand
        return 0
    return 0 if task is None else task.cancelling()


def _comes_of_a_cancellation(error: BaseException | None) -> bool:
    for _ in range(_CAUSES_LOOKED_AT):
        if error is None or isinstance(error, asyncio.CancelledError):
            return error is not None
        error = error.__cause__ or error.__context__
    return False


def _begin(
    source: _PolicySource,
    name: str,
    started: float,
    policy: RetryPolicy,
    window: Any,
    swallowed: Callable[[Exception], bool] | None = None,
) -> CallRun:
    return CallRun(
        policy,
        idempotent=source.idempotent,
        name=name,
        started=started,
        window=window,
        deadline_at=deadline_of(policy, started),
        on_blocking=functools.partial(source.warn_blocking, name),
        swallowed=swallowed,
    )


# The first attempt of a decorated function is what every success costs, so it is spelled out twice
# and calls as little as it can, not even a property; benchmarks/RESULTS.md has the figures.


def _wrap_sync(  # noqa: C901 - see above
    function: Callable[..., Any], source: _PolicySource
) -> Callable[..., Any]:
    name = _name(function)
    current: _InForce | None = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal current
        by, book = current, Default.book
        if by is None or book is None or by.edition is not book._edition:  # noqa: SLF001 - see above
            current = by = source.in_force(name)
        started = time.monotonic()
        window, shield = by.window, by.shield
        if window is not None:
            window.called(started)
        try:
            if shield is None:
                value = function(*args, **kwargs)
            else:
                value = shield.first_attempt(function, args, kwargs, started, by.policy.deadline)
        except Exception as error:
            run = _begin(source, name, started, by.policy, window)
            run.fails(error, below(error))
        except BaseException as error:
            meters.passed(name, started, error)
            raise
        else:
            if meters.probe._real_instrument is not None:  # noqa: SLF001 - see `Meters.probe`
                meters.succeeded(name, started)
            return value
        attempt: Callable[[], Any] = functools.partial(function, *args, **kwargs)
        if shield is not None:
            attempt = functools.partial(shield.attempt, attempt, run.deadline_at)
        outcome = run.go_on(attempt)
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


def _wrap_async(  # noqa: C901 - see above
    function: Callable[..., Any], source: _PolicySource
) -> Callable[..., Any]:
    task_of, get_running_loop = _tasks()
    name = _name(function)
    current: _InForce | None = None

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal current
        by, book = current, Default.book
        if by is None or book is None or by.edition is not book._edition:  # noqa: SLF001 - see above
            current = by = source.in_force(name)
        started = time.monotonic()
        window = by.window
        if window is not None:
            window.called(started)
        try:
            task = task_of(get_running_loop())
        except RuntimeError:  # a coroutine that is driven by hand
            task = None
        cancelled = 0 if task is None else task.cancelling()
        cancellations: _Cancellations | None = None
        try:
            if by.plain:
                value = await function(*args, **kwargs)
            else:
                cancellations = _Cancellations(cancelled)
                value = await _guarded(by, function, args, kwargs, started, cancellations)
        except Exception as error:
            cancellations = cancellations or _Cancellations(cancelled)
            run = _begin(source, name, started, by.policy, window, cancellations.swallowed)
            run.fails(error, below(error))
        except BaseException as error:
            meters.passed(name, started, error)
            raise
        else:
            if meters.probe._real_instrument is not None:  # noqa: SLF001 - see `Meters.probe`
                meters.succeeded(name, started)
            return value
        attempt = _attempts(by, functools.partial(function, *args, **kwargs), run, cancellations)
        outcome = await run.go_on_async(attempt)
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


async def _guarded(
    by: _InForce,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    started: float,
    cancellations: _Cancellations,
) -> Any:
    """The first attempt of an async function, behind what its policy puts before it."""
    policy, shield = by.policy, by.shield
    if policy.attempt_timeout is None and shield is not None:
        return await shield.first_attempt_async(function, args, kwargs, started, policy.deadline)
    attempt = functools.partial(function, *args, **kwargs)
    attempt = functools.partial(_timed, attempt, policy, started, cancellations)
    if shield is None:
        return await attempt()
    return await shield.attempt_async(attempt, deadline_of(policy, started))


def _attempts(
    by: _InForce,
    attempt: Callable[[], Any],
    run: CallRun,
    cancellations: _Cancellations,
) -> Callable[[], Any]:
    """What makes the attempts of an async function that follow the first."""
    if by.policy.attempt_timeout is not None:
        attempt = functools.partial(_timed, attempt, by.policy, run.started, cancellations)
    if by.shield is not None:
        attempt = functools.partial(by.shield.attempt_async, attempt, run.deadline_at)
    return attempt


async def _timed(
    attempt: Callable[[], Any],
    policy: RetryPolicy,
    started: float,
    cancellations: _Cancellations,
) -> Any:
    """One attempt, cut after the policy's ``attempt_timeout`` or at its deadline."""
    limit = cast("float", policy.attempt_timeout)
    deadline_at = deadline_of(policy, started)
    if deadline_at is not None:
        limit = min(limit, deadline_at - time.monotonic())
    async with asyncio.timeout(limit) as timer:
        try:
            return await attempt()
        except Exception:
            cancellations.timed_out = timer.expired()
            raise


class RetryAttempt:
    """One attempt of a `retrying` loop: a context manager around the block.

    Attributes:
        number: 1 for the first.
    """

    def __init__(self, number: int, started: float, run: CallRun | None = None) -> None:
        self.number = number
        self.error: Exception | None = None
        self.visit: Visit | None = None
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
        if self.visit is not None:
            self.visit.leave(error)
        # The loop could not raise these two itself: to an iterator they mean its end.
        if isinstance(error, Exception) and not isinstance(
            error, (StopIteration, StopAsyncIteration)
        ):
            self.error = error
            if run is not None:
                run.seen.leave()
            return True
        # Told here and not in the loop: whoever leaves the block with `return` leaves that too.
        if error is None:
            if run is None:
                meters.succeeded(_LOOP, self._started)
            else:
                run.seen.succeeded()
        elif run is None:
            meters.passed(_LOOP, self._started, error)
        else:
            run.passes(error)
        return False

    def refused_by(self, enter: Callable[[], Visit]) -> None:
        """Go behind the policy's breaker and bulkhead; a refusal is this attempt's error."""
        try:
            self.visit = enter()
        except (CircuitOpenError, BulkheadFullError) as error:
            self.error = error

    async def refused_by_async(self, enter: Callable[[], Awaitable[Visit]]) -> None:
        """As `refused_by`, for coroutines."""
        try:
            self.visit = await enter()
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

    def __init__(self, source: _PolicySource) -> None:
        self._source = source

    def __iter__(self) -> Iterator[RetryAttempt]:
        """Attempts until the block succeeds or its failure is given up."""
        policy, started, window = self._start()
        shield = shield_for(policy, _LOOP)
        attempt = RetryAttempt(1, started)
        if shield is not None:
            attempt.refused_by(functools.partial(shield.enter, deadline_of(policy, started)))
        if attempt.error is None:
            yield attempt
        if attempt.error is None:
            return
        run = self._run(policy, started, window, attempt.error)
        managers = iter(tenacity.Retrying(sleep=run.sleep, **run.hooks()))
        for manager in managers:
            if attempt.number > 1 or manager.retry_state.attempt_number > 1:
                attempt = RetryAttempt(manager.retry_state.attempt_number, started, run)
                attempt.error = run.too_late()
                if attempt.error is None and shield is not None:
                    attempt.refused_by(functools.partial(shield.enter, run.deadline_at))
                if attempt.error is None:
                    run.starts(sent=True)
                    with _unless_left(run, attempt):
                        yield attempt
                if attempt.error is not None:
                    run.fails(attempt.error, _own(attempt.error))
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
        cancellations = _Cancellations(_cancellations_asked_for())
        shield = shield_for(policy, _LOOP)
        attempt = RetryAttempt(1, started)
        if shield is not None:
            await attempt.refused_by_async(
                functools.partial(shield.enter_async, deadline_of(policy, started))
            )
        if attempt.error is None:
            yield attempt
        if attempt.error is None:
            return
        run = self._run(policy, started, window, attempt.error, cancellations.swallowed)
        managers = tenacity.AsyncRetrying(sleep=run.sleep_async, **run.hooks())
        async for manager in managers:
            if attempt.number > 1 or manager.retry_state.attempt_number > 1:
                attempt = RetryAttempt(manager.retry_state.attempt_number, started, run)
                attempt.error = run.too_late()
                if attempt.error is None and shield is not None:
                    await attempt.refused_by_async(
                        functools.partial(shield.enter_async, run.deadline_at)
                    )
                if attempt.error is None:
                    run.starts(sent=True)
                    with _unless_left(run, attempt):
                        yield attempt
                if attempt.error is not None:
                    run.fails(attempt.error, _own(attempt.error))
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
    ) -> CallRun:
        run = _begin(self._source, _LOOP, started, policy, window, swallowed)
        run.fails(error, _own(error))
        return run


@contextmanager
def _unless_left(run: CallRun, attempt: RetryAttempt) -> Iterator[None]:
    """While the user has an attempt: where he leaves the loop instead, the call ends there."""
    try:
        yield
    except GeneratorExit as left:
        if attempt.error is not None:
            run.fails(attempt.error, _own(attempt.error))
        run.passes(left)
        raise


def _own(error: Exception) -> TracebackType | None:
    """The block's own traceback, from the user's frame on."""
    return error.__traceback__
