"""Registers triggers with the SDK's client: checked early, under a known id, without a warning.

SDK 0.25 warns at each ``register_trigger`` (DeprecationWarning). The user's call warns at the
user's line; what the library registers again warns nowhere, because a filter that turns warnings
into errors would make a background thread fail.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, FunctionType
from typing import Any

_PACKAGE = __name__.partition(".")[0]
_WARN = "_warn_deprecated"  # of SDK 0.25.0


def checked_trigger(client: Any, trigger: Any) -> Any:
    """A trigger as the SDK would keep it, without registering it.

    Args:
        client: The SDK's client.
        trigger: A dict or the SDK's own class.

    Returns:
        A copy that later changes of the argument do not reach; the argument itself where this SDK
        has another way of checking it.

    Raises:
        ValueError: The SDK refuses it.
        TypeError: The SDK refuses it.
    """
    model = getattr(_module_of(client), "RegisterTriggerInput", None)
    if isinstance(trigger, dict) and model is not None:
        trigger = model(**trigger)
    copy = getattr(trigger, "model_copy", None)
    return trigger if copy is None else copy(deep=True)


def warn_of_deprecation(client: Any, api: str) -> None:
    """Warn as the SDK does, at the line that called this package.

    Args:
        client: The SDK's client.
        api: The SDK's method.

    Raises:
        DeprecationWarning: Where the user's filters say so.
    """
    warn = getattr(_module_of(client), _WARN, None)
    if warn is not None:
        warn(api, stacklevel=_frames_of_ours() + 1)


def register_trigger(client: Any, trigger: Any) -> tuple[Any, str | None]:
    """Register a trigger without a warning.

    Args:
        client: The SDK's client.
        trigger: A dict or the SDK's own class.

    Returns:
        The SDK's reference, and the id it gave the trigger, or None where that is not known.

    Raises:
        Exception: Whatever the SDK raises.
    """
    before = set(getattr(client, "_triggers", ()))
    ref = _without_warning(client)(trigger)
    made = set(getattr(client, "_triggers", ())) - before
    return ref, made.pop() if len(made) == 1 else None


def forget_trigger(client: Any, trigger_id: str | None) -> bool:
    """Keep a client that is disconnected from registering a trigger again when it is back.

    Takes no lock: it may run on the SDK's thread.

    Args:
        client: The SDK's client.
        trigger_id: The id the SDK gave the trigger.

    Returns:
        Whether the trigger was there.
    """
    triggers = getattr(client, "_triggers", None)
    return isinstance(triggers, dict) and triggers.pop(trigger_id, None) is not None


def _without_warning(client: Any) -> Callable[[Any], Any]:
    """The client's ``register_trigger``, in a namespace where the warning does nothing.

    Python's warning filters hold for the whole process: to change them for a moment would take
    warnings from other threads.
    """
    method = getattr(type(client), "_register_trigger", None)
    if not isinstance(method, FunctionType) or _WARN not in method.__globals__:
        plain: Callable[[Any], Any] = client.register_trigger
        return plain
    quiet = FunctionType(
        method.__code__,
        {**method.__globals__, _WARN: lambda *_, **__: None},
        method.__name__,
        method.__defaults__,
        method.__closure__,
    )
    return lambda trigger: quiet(client, trigger, stacklevel=1)


def _module_of(client: Any) -> Any:
    return sys.modules.get(type(client).__module__)


def _frames_of_ours() -> int:
    """How many frames of this package lie between the caller of this module and the user."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - Python's own way to find a caller
    count = 1
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == _PACKAGE:
        count += 1
        frame = frame.f_back
    return count
