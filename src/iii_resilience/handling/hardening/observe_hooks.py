"""Hardens the hooks with which a function learns of its observers (SDK 0.25).

The SDK runs an asynchronous hook as a task of its own event loop: a `SystemExit` in it ends that
loop, and the worker stays connected and answers nothing (docs/engine-notes.md, 16). Knows nothing
of handlers or registrations.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

from iii_resilience.handling.hardening.error_encoding import encode_error
from iii_resilience.telemetry import worker_events

HOOKS = ("on_observer_added", "on_observer_removed")
_REJECTION = "ObserveRejection"  # the SDK's class, which is not imported here

Hook = Callable[[Any], Any]


def harden_hooks(function_id: str, observe: Any) -> Any:
    """The ``observe`` option of a registration, with hooks that cannot end the worker.

    Args:
        function_id: The function.
        observe: An ``ObserveHooks`` of the SDK, a dict, or None. It is not changed.

    Returns:
        What to register in its place.
    """
    if isinstance(observe, dict):
        hooks = {
            name: _hardened(function_id, name, observe[name])
            for name in HOOKS
            if callable(observe.get(name))
        }
        return {**observe, **hooks}
    names = [name for name in HOOKS if callable(getattr(observe, name, None))]
    if not names:
        return observe
    hardened = copy.copy(observe)
    for name in names:
        setattr(hardened, name, _hardened(function_id, name, getattr(observe, name)))
    return hardened


def _hardened(function_id: str, name: str, hook: Hook) -> Hook:
    async def awaited(result: Awaitable[Any], since: float) -> None:
        try:
            await result
        except GeneratorExit:  # the loop ended under the hook
            raise
        except BaseException as error:
            shown = _shown(function_id, name, error, since)
        else:
            return
        raise shown

    async def on_loop(observer: Any) -> None:
        await awaited(hook(observer), time.monotonic())

    def on_thread(observer: Any) -> Any:
        since = time.monotonic()
        try:
            result = hook(observer)
        except BaseException as error:
            shown = _shown(function_id, name, error, since)
        else:
            return awaited(result, since) if inspect.isawaitable(result) else result
        raise shown

    return on_loop if _is_async(hook) else on_thread


def _is_async(hook: Hook) -> bool:
    """As the SDK sees it: an asynchronous hook runs on its loop, any other on a thread."""
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(
        getattr(hook, "__call__", None)  # noqa: B004 - it is looked at, not called
    )


def _shown(function_id: str, name: str, error: BaseException, since: float) -> BaseException:
    """What the SDK is to see of what a hook raised: it rejects the observer, and nothing more."""
    if any(one.__name__ == _REJECTION for one in type(error).__mro__):
        return error  # an answer, no failure: its code travels as it is
    if isinstance(error, asyncio.CancelledError) and _cancelled_from_outside():
        return error
    worker_events.hook_failed(function_id, name, error)
    return encode_error(error, since=since)


def _cancelled_from_outside() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread of its own, where nothing cancels it
        return False
    return task is not None and task.cancelling() > 0
