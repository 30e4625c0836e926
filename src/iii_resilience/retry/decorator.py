"""The decorator `@iii_retry`, and `retrying`: retries around a user's own code.

Checks what is decorated; `retry.decorated_function` and `retry.loop` carry it out. They, and what
they stand on, are loaded when the first function is decorated: a program that only imports the name
does not pay for them. Knows nothing of the engine.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from iii_resilience.core.callables import (
    function_behind,
    is_coroutine_function,
)
from iii_resilience.core.decorator_order import refuse_inside

if TYPE_CHECKING:
    from iii_resilience.core.policy import RetryPolicy
    from iii_resilience.retry.loop import RetryLoop
    from iii_resilience.retry.policy_source import Overrides

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
    from iii_resilience.retry.decorated_function import (  # noqa: PLC0415 - see above
        wrap_async,
        wrap_sync,
    )
    from iii_resilience.retry.policy_source import PolicySource  # noqa: PLC0415 - see above

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
        return (wrap_async if asynchronous else wrap_sync)(target, source)

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
    from iii_resilience.retry.loop import RetryLoop  # noqa: PLC0415 - see above
    from iii_resilience.retry.policy_source import PolicySource  # noqa: PLC0415 - see above

    source = PolicySource("retrying()", policy, dict(overrides), idempotent=idempotent)
    source.refuse_attempt_timeout("a block cannot be cut from outside: use asyncio.timeout() in it")
    caller = sys._getframe(1)  # noqa: SLF001 - the function whose block is retried
    scope = f"{caller.f_globals.get('__name__')}.{caller.f_code.co_qualname}"
    return RetryLoop(source, scope)


def _check_target(target: Any) -> bool:
    """Whether the target is async; raises for what cannot be called again."""
    from iii_resilience.core.policy import RetryPolicy  # noqa: PLC0415 - see above
    from iii_resilience.retry.decorated_function import qualified_name  # noqa: PLC0415 - see above

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
