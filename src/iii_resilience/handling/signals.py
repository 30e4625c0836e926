"""What the outside can see of a worker: its handlers' failures and its registrations' changes.

Knows nothing of handlers or engines. Payloads, results and messages never come here.
"""

from __future__ import annotations

import logging
import traceback
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from opentelemetry import metrics, trace

from iii_resilience.failure import Failure
from iii_resilience.telemetry import logger

_OURS = str(Path(__file__).with_name("worker.py"))
_FRAMES_MOST = 20
_CODES_DEEP = 4


@cache
def _failures() -> metrics.Counter:
    # Made at first use: a meter provider that is set after the import is still the one used.
    meter = metrics.get_meter("iii_resilience")
    return meter.create_counter(
        "iii.handler.failures", unit="{failure}", description="Calls whose handler failed"
    )


@cache
def _changes() -> metrics.Counter:
    meter = metrics.get_meter("iii_resilience")
    return meter.create_counter(
        "iii.worker.registration.transitions",
        unit="{transition}",
        description="Changes of how a worker's functions and triggers are registered",
    )


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
        owner: Who owns it, where that is known.
        code: Why it does not stand well, where that is known.
    """
    _changes().add(
        1,
        {
            "iii.function.id": function_id,
            "iii.registration.kind": kind,
            "iii.registration.state": after,
        },
    )
    logger.log(
        logging.INFO if after in _WELL or after == "unknown" else logging.WARNING,
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
    function_id: str,
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
        function_id: The function.
        failure: What the failure is, as its caller will see it.
        error: What the handler raised, or None where it was not started.
        seconds: How long it ran.
        attempt: The caller's attempt, from 1.
    """
    code = _telling(failure)
    _failures().add(
        1,
        {
            "iii.function.id": function_id,
            "error.type": code.code if code.known else "_OTHER",
            "iii.error.category": failure.category.value,
        },
    )
    if not logger.isEnabledFor(logging.WARNING):
        return
    types, place, stack = _described(error)
    span = trace.get_current_span().get_span_context()
    extra: dict[str, Any] = {
        "function_id": function_id,
        "code": code.code,
        "category": failure.category.value,
        "attempt": attempt,
        "duration": seconds,
        "exception": types,
    }
    if span.is_valid:
        extra["trace_id"] = trace.format_trace_id(span.trace_id)
        extra["span_id"] = trace.format_span_id(span.span_id)
    logger.warning(
        "%s: the handler failed with %s (%s) after %.3f s%s%s",
        function_id,
        code.code,
        failure.category.value,
        seconds,
        place,
        stack,
        extra=extra,
    )


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
    frames = [frame for frame in stack if frame.filename != _OURS][-_FRAMES_MOST:]
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
        "%s: registered several times, and still nobody owns it; it is tried again ever less "
        "often. May this worker register functions (rbac), and under this id?",
        function_id,
        extra={"function_id": function_id},
    )
