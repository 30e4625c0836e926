"""The log: one record per decision and per state change of a circuit.

Every record of a failure has the same fields, so one query finds all of them. Payloads, arguments
and remote messages are never recorded. Knows nothing of metrics, or of how calls are made.
"""

from __future__ import annotations

import logging
from typing import Any

from iii_resilience.core.decide import Decision
from iii_resilience.core.failure import Failure
from iii_resilience.core.guards.breaker import CircuitState
from iii_resilience.core.observers import logger
from iii_resilience.telemetry.spans import Ids, current_ids

logger.logger.addHandler(logging.NullHandler())  # a program without logging gets no records

_LONGEST_ID = 64  # an invocation id is a UUID


def fields(
    function_id: str | None,
    failure: Failure,
    error: BaseException | None,
    *,
    attempt: int,
    reason: str | None = None,
    delay: float | None = None,
    ids: Ids | None = None,
) -> dict[str, Any]:
    """What every record of a failure says of it, as ``extra``: the logger prefixes ``iii_``.

    Args:
        function_id: The function id, or the decorated function's qualified name.
        failure: The failure.
        error: The exception, or None where there is none. Only its invocation id is taken.
        attempt: The attempt's number, from 1.
        reason: The reason of what was decided, or None where nothing was.
        delay: Seconds until the retry, or None for none.
        ids: Trace and span id; None for those of the current span.
    """
    trace_id, span_id = current_ids() if ids is None else ids
    return {
        "function_id": function_id,
        "code": failure.code,
        "category": failure.category.value,
        "reason": reason,
        "attempt": attempt,
        "delay": delay,
        "invocation_id": invocation_id(error),
        "trace_id": trace_id,
        "span_id": span_id,
    }


def invocation_id(error: BaseException | None) -> str | None:
    """The id of the call that an exception of the SDK came from, or None."""
    try:
        value = getattr(error, "invocation_id", None)
    except Exception:  # an exception whose own attributes raise
        return None
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_ID else None


def heard(level: int) -> bool:
    """Whether a record of this level would reach a handler; else there is no use in making it.

    Args:
        level: The level.
    """
    ours = logger.logger
    if not ours.isEnabledFor(level):
        return False
    if ours.filters:
        return True  # whatever they do, they see every record
    at: logging.Logger | None = ours
    while at is not None:
        for handler in at.handlers:
            if not isinstance(handler, logging.NullHandler):
                return True
        at = at.parent if at.propagate else None
    return False


def decided(
    failure: Failure,
    decision: Decision,
    *,
    attempt: int,
    name: str,
    error: BaseException | None = None,
    ids: Ids | None = None,
) -> None:
    """Log one decision.

    Args:
        failure: The failed attempt's error.
        decision: What was decided about it.
        attempt: The failed attempt's number, from 1.
        name: The function id, or the decorated function's qualified name.
        error: The exception itself, or None.
        ids: Trace and span id of the attempt; None for those of the current span.
    """
    level = logging.WARNING if decision.delay is None else logging.INFO
    if not heard(level):
        return
    reason = decision.reason.value
    logger.log(
        level,
        "%s: attempt %d failed with %s (%s): %s (%s)",
        name,
        attempt,
        failure.code,
        failure.category.value,
        f"retry in {decision.delay:.3f} s" if decision.delay is not None else "give up",
        reason,
        extra=fields(
            name,
            failure,
            error,
            attempt=attempt,
            reason=reason,
            delay=decision.delay,
            ids=ids,
        ),
    )


def circuit_changed(name: str, before: CircuitState, after: CircuitState) -> None:
    """Log a circuit breaker's change of state.

    Args:
        name: The function id, or the decorated function's qualified name.
        before: What it was.
        after: What it is.
    """
    level = logging.WARNING if after is CircuitState.OPEN else logging.INFO
    logger.log(
        level,
        "%s: circuit %s, was %s",
        name,
        after.value,
        before.value,
        extra={"function_id": name, "state": after.value, "was": before.value},
    )
