"""The common base of wrappers around handlers: their arguments, and what the SDK sees.

The SDK inspects a handler's signature for ``metadata``, and whether it is a coroutine function; a
wrapper must look like the handler. Knows nothing of what a wrapper is for.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ParamSpec, TypeVar

import attrs

from iii_resilience.core.callables import is_coroutine_function
from iii_resilience.core.decorator_order import mark_wrapped, wrapped_by
from iii_resilience.core.effects import Steps, drive, drive_async
from iii_resilience.handling.handler_errors import PermanentError
from iii_resilience.sdk import propagation
from iii_resilience.sdk.event_loops import in_thread
from iii_resilience.sdk.propagation import CallContext, InboundCall

F = TypeVar("F", bound=Callable[..., Any])
_STARTS_LATE = "_iii_resilience_starts_late"  # functools.wraps hands it on to outer decorators
P = ParamSpec("P")
R = TypeVar("R")


def not_bare(example: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For what makes a decorator: say how it is written, where it was used without arguments.

    Args:
        example: How it is written.
    """

    def decorate(make: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(make)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            given: tuple[Any, ...] = args
            if len(given) == 1 and not kwargs and callable(given[0]):
                raise TypeError(f"@{make.__name__} needs its arguments: write {example}")
            return make(*args, **kwargs)

        return checked

    return decorate


def is_wrapped(handler: object) -> bool:
    """Whether a handler carries one of the wrappers that know the function it serves."""
    return bool(wrapped_by(handler))


def starts_late(handler: object) -> bool:
    """Whether a handler is to start although its attempt's time is over."""
    return getattr(handler, _STARTS_LATE, False) is True


@attrs.frozen
class IncomingCall:
    """One call of a wrapped handler.

    Attributes:
        payload: What the handler is given, without our reserved field.
        carried: What travelled with the call, or None.
        function_id: The function that was called, or None if it is not known.
        outermost: Whether neither `resilient` nor another wrapper is around this one.
    """

    payload: Any = attrs.field(repr=False)
    carried: CallContext | None
    function_id: str | None
    outermost: bool = True

    def known_function(self) -> str:
        """The function that was called.

        Raises:
            PermanentError: The function is not known.
        """
        if self.function_id is None:
            raise PermanentError(
                "this handler does not know its function: register it through resilient(worker), "
                "or pass function_id= to its decorator",
                code="FUNCTION_ID_UNKNOWN",
            )
        return self.function_id


def wrap(
    handler: F,
    steps: Callable[[IncomingCall], Steps],
    *,
    name: str,
    function_id: str | None = None,
    hidden: str | None = None,
    late_starts: bool = False,
) -> F:
    """A handler that does ``steps`` around another one.

    Args:
        handler: A plain or asynchronous handler, or method.
        steps: Makes the steps of one call; one of them is to run the handler.
        name: The decorator's name.
        function_id: The function it serves; None leaves it to the registration.
        hidden: A parameter of the handler that the steps provide, and the SDK must not see.
        late_starts: Whether it is to start although its attempt's time is over.

    Raises:
        TypeError: It is not a handler.
    """
    if not callable(handler):
        raise TypeError(f"this decorates a handler, got {handler!r}")
    signature = inspect.signature(handler)
    names = list(signature.parameters)
    place = 1 if names[:1] in (["self"], ["cls"]) else 0

    def arrive(args: tuple[Any, ...], kwargs: dict[str, Any], stack: ExitStack) -> _WrappedCall:
        given = list(args)
        if len(given) <= place and len(names) > place and names[place] in kwargs:
            given.append(kwargs.pop(names[place]))
        outside = propagation.current_inbound()
        inbound = outside or InboundCall()
        carried = inbound.carried
        if len(given) > place:
            given[place], queued = propagation.take_from_payload(given[place])
            carried = queued or carried
        serves = function_id or inbound.function_id
        # Wrappers further in know what this one knows. What the handler itself calls does not
        # serve the function: two helpers with one key would get each other's results.
        inside = serves if is_wrapped(handler) else None
        inbound = attrs.evolve(inbound, carried=carried, function_id=inside)
        stack.enter_context(propagation.handling(inbound))
        payload = given[place] if len(given) > place else None
        call = IncomingCall(payload, carried, serves, outermost=outside is None)
        return _WrappedCall(steps(call), functools.partial(handler, *given, **kwargs))

    wrapper: Any
    if is_coroutine_function(handler):

        @functools.wraps(handler)
        async def wrapper_async(*args: Any, **kwargs: Any) -> Any:
            with ExitStack() as stack:
                call = arrive(args, kwargs, stack)
                return await drive_async(call.steps, call.run, in_thread)

        wrapper = wrapper_async
    else:

        @functools.wraps(handler)
        def wrapper_plain(*args: Any, **kwargs: Any) -> Any:
            with ExitStack() as stack:
                call = arrive(args, kwargs, stack)
                return drive(call.steps, call.run)

        wrapper = wrapper_plain
    shown = [one for name, one in signature.parameters.items() if name != hidden]
    mark_wrapped(wrapper, name, handler)
    if late_starts:
        setattr(wrapper, _STARTS_LATE, True)
    wrapper.__signature__ = signature.replace(parameters=shown)
    result: F = wrapper
    return result


@attrs.frozen
class _WrappedCall:
    steps: Steps
    run: Callable[..., Any] = attrs.field(repr=False)


def takes(handler: object, parameter: str) -> bool:
    """Whether something is a handler with a parameter of this name."""
    return callable(handler) and parameter in inspect.signature(handler).parameters
