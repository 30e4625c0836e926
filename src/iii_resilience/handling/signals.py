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
