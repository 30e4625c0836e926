"""The telemetry of a worker: its handlers' failures and its registrations' changes.

Payloads, results and messages are never recorded. Knows nothing of handlers or engines.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from iii_resilience.core.codes.lookup import find
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.failure import Failure
from iii_resilience.telemetry import logger, meters
from iii_resilience.telemetry.logs import fields

_PACKAGE = Path(__file__).parents[1]
# What runs handlers stands above their frames, and says nothing of what went wrong in them.
_OURS = (str(_PACKAGE / "handling"), str(_PACKAGE / "core" / "effects.py"))
_FRAMES_MOST = 20
_CODES_DEEP = 4
_NOBODY_SAID = "a handler"
_TOLD = "_iii_resilience_told"
_WELL = frozenset({"owner", "standby"})


def registration_changed(
    kind: str,
    function_id: str,
    trigger_type: str | None,
    before: str,
    after: str,
    *,
    owner: str | None,
    code: str | None,
) -> None:
    """Log and count a registration's change of state.

    Args:
        kind: ``function`` or ``trigger``.
        function_id: The function; of a trigger: the one it calls.
        trigger_type: The trigger's type, or None for a function.
        before: How it stood.
        after: How it stands.
        owner: Its owner, if known.
        code: Why it does not stand well, where that is known.
    """
    meters.registration_changed(function_id, kind, after)
    logger.log(
        logging.INFO
        if after in _WELL or (after == "unknown" and code is None)
        else logging.WARNING,
        "%s: %s %s, was %s%s%s",
        function_id,
        kind if trigger_type is None else f"{trigger_type} trigger",
        after,
        before,
        f" (owner: {owner})" if owner is not None and after == "standby" else "",
        f" ({code})" if code is not None else "",
        extra={
            "function_id": function_id,
            "kind": kind,
            "state": after,
            "was": before,
            "owner": owner,
            "code": code,
        },
    )


def handler_failed(
    function_id: str | None,
    failure: Failure,
    error: BaseException | None,
    *,
    seconds: float,
    attempt: int,
) -> None:
    """Log and count one failure of a handler.

    The record holds the stack of the original exception and the names of the types in its chain,
    never what the exceptions say: a message may hold a payload.

    Args:
        function_id: The function, or None if it is not known.
        failure: What the failure is, as its caller will see it.
        error: What the handler raised, or None where it was not started.
        seconds: How long it ran.
        attempt: The caller's attempt, from 1.
    """
    telling = _telling(failure).replace(category=failure.category)
    meters.handler_failed(function_id or _NOBODY_SAID, telling)
    if not logger.isEnabledFor(logging.WARNING):
        return
    types, place, stack = _described(error)
    logger.warning(
        "%s: the handler failed with %s (%s) after %.3f s%s%s",
        function_id or _NOBODY_SAID,
        telling.code,
        telling.category.value,
        seconds,
        place,
        stack,
        extra={
            **_fields(function_id, telling, attempt),
            "duration": seconds,
            "exception": types,
        },
    )


def hook_failed(function_id: str, hook: str, error: BaseException) -> None:
    """Log a hook of a function's observers that failed: its observer is rejected.

    Args:
        function_id: The function.
        hook: The hook's name.
        error: What it raised.
    """
    types, place, stack = _described(error)
    logger.warning(
        "%s: the hook %s failed%s%s",
        function_id,
        hook,
        place or f": {types}",
        stack,
        extra={"function_id": function_id, "hook": hook, "exception": types},
    )


def call_refused(function_id: str, failure: Failure) -> None:
    """Count a call that was not started because its worker is full.

    Args:
        function_id: The function.
        failure: What the failure is, as its caller will see it.
    """
    meters.handler_failed(function_id, _telling(failure))


def calls_refused(function_id: str, failure: Failure, count: int, *, attempt: int) -> None:
    """Log calls that were not started because their worker is full.

    Args:
        function_id: The function.
        failure: What the failure of the last one is, as its caller will see it.
        count: How many there were since the record before.
        attempt: The attempt of the last one's caller, from 1.
    """
    telling = _telling(failure)
    logger.warning(
        "%s: the worker is full, %d call%s refused with %s",
        function_id,
        count,
        " was" if count == 1 else "s were",
        telling.code,
        extra={**_fields(function_id, telling, attempt), "refused": count},
    )


class ParkedAnswer(dict[str, str]):
    """What acknowledges a message that is parked or waits. It is no success of its handler."""


def handler_returned(function_id: str | None, result: object) -> None:
    """Count one success of a handler, unless its message was parked.

    Args:
        function_id: The function, or None if it is not known.
        result: What it returned.
    """
    if not isinstance(result, ParkedAnswer):
        meters.handler_succeeded(function_id or _NOBODY_SAID)


def parked(function_id: str, code: str, category: Category, message: str, *, attempt: int) -> None:
    """Log and count a message that its handler could not handle, and that is parked.

    Args:
        function_id: The function.
        code: What its failure is.
        category: Of what category.
        message: What it is parked under.
        attempt: Its sender's attempt, from 1.
    """
    known = find(code) is not None
    failure = Failure(code, category, Execution.EXECUTED, known=known, origin="handler")
    meters.handler_failed(function_id, failure)
    meters.parked(function_id, failure)
    logger.warning(
        "%s: a message is parked: %s (%s)",
        function_id,
        code,
        category.value,
        extra={**_fields(function_id, failure, attempt), "parked": message},
    )


def postponed(
    function_id: str, failure: Failure, message: str, *, seconds: float, attempt: int
) -> None:
    """Log and count a message whose handler failed, and that is tried again later.

    Args:
        function_id: The function.
        failure: What the failure is.
        message: What it is kept under.
        seconds: When it is due, from now.
        attempt: The attempt that failed, from 1.
    """
    telling = _telling(failure)
    meters.handler_failed(function_id, telling)
    logger.warning(
        "%s: attempt %d failed with %s (%s); it is tried again in %.3g s",
        function_id,
        attempt,
        telling.code,
        telling.category.value,
        seconds,
        extra={
            **_fields(function_id, telling, attempt),
            "waiting": message,
            "delay": seconds,
        },
    )


def not_enqueued(function_id: str, queue: str, code: str, category: Category, message: str) -> None:
    """Log and count a message that can never be enqueued, and that the relay has parked.

    Args:
        function_id: The function it is for.
        queue: The queue.
        code: What the failure is.
        category: Of what category.
        message: What it is parked under.
    """
    known = find(code) is not None
    failure = Failure(code, category, Execution.NOT_EXECUTED, known=known, origin="engine")
    meters.parked(function_id, failure)
    logger.warning(
        "%s: a message cannot be enqueued to %s and is parked: %s (%s)",
        function_id,
        queue,
        code,
        category.value,
        extra={**fields(function_id, failure, None, attempt=1), "parked": message, "queue": queue},
    )


def tell(error: BaseException) -> None:
    """Mark the failure that an exception stands for as logged and counted, now."""
    with suppress(Exception):  # one that rejects attributes is reported twice
        setattr(error, _TOLD, time.monotonic())


def told(error: BaseException, *, since: float) -> bool:
    """Whether this call's failure has been logged and counted further in.

    Args:
        error: What the handler raised.
        since: Monotonic time of the handler's start, in seconds: some programs raise one object
            again and again.
    """
    try:
        at = getattr(error, _TOLD, None)
    except Exception:  # an exception whose own attributes raise
        return False
    return isinstance(at, float) and at >= since


def _fields(function_id: str | None, failure: Failure, attempt: int) -> dict[str, Any]:
    return {
        **fields(function_id, failure, None, attempt=attempt),
        "invocation_id": _current_invocation(),
    }


def _current_invocation() -> str | None:
    """The id of the call that is handled now, if the SDK provides it (0.25); or None."""
    current: Any = getattr(sys.modules.get("iii"), "current_invocation", None)
    try:
        found = current().invocation_id
    except Exception:  # outside of a call, or an SDK without it
        return None
    return found if isinstance(found, str) else None


def _telling(failure: Failure) -> Failure:
    """The failure whose code says most: that of the cause where the outer one says nothing."""
    for _ in range(_CODES_DEEP):
        cause = failure.inner
        if cause is None or cause.code == "_OTHER":
            break
        if failure.code != "invocation_failed" and (failure.known or not cause.known):
            break
        failure = cause
    return failure


def _described(error: BaseException | None) -> tuple[str, str, str]:
    if error is None:
        return "", "", ""
    types = [type(error).__name__]
    cause = error.__cause__ or error.__context__
    while cause is not None and len(types) < _CODES_DEEP:
        types.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    named = " from ".join(types)
    stack = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in stack if not frame.filename.startswith(_OURS)][-_FRAMES_MOST:]
    if not frames:
        return named, f": {named}", ""
    last = frames[-1]
    place = f": {named} at {PurePath(last.filename).name}:{last.lineno} in {last.name}"
    return named, place, "\n" + "".join(traceback.format_list(frames)).rstrip()


def unheeded(function_id: str) -> None:
    """Warn of a function that the engine does not take in, however often it is registered.

    Args:
        function_id: The function.
    """
    logger.warning(
        "%s: registered several times, and it still has no owner; it is tried again ever less "
        "often. May this worker register functions (rbac), and under this id?",
        function_id,
        extra={"function_id": function_id},
    )
