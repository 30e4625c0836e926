"""What the outside can see of a call: one log record and one count for every decision.

Knows nothing of how calls are made. Payloads, arguments and remote messages never come here.
"""

from __future__ import annotations

import logging
from functools import cache

from opentelemetry import metrics

from iii_resilience.decide import Decision
from iii_resilience.failure import Failure
from iii_resilience.guards.breaker import CircuitState

logger = logging.getLogger("iii_resilience")
logger.addHandler(logging.NullHandler())  # a program that has set up no logging hears nothing


@cache
def _decisions() -> metrics.Counter:
    # Made at first use: a meter provider that is set after the import is still the one used.
    meter = metrics.get_meter("iii_resilience")
    return meter.create_counter(
        "iii.retry.decisions", unit="{decision}", description="What was decided about failures"
    )


@cache
def _transitions() -> metrics.Counter:
    meter = metrics.get_meter("iii_resilience")
    return meter.create_counter(
        "iii.circuit_breaker.transitions",
        unit="{transition}",
        description="Changes of state of circuit breakers",
    )


def circuit_changed(name: str, before: CircuitState, after: CircuitState, _: float) -> None:
    """Log and count a circuit breaker's change of state.

    Args:
        name: The function id, or the decorated function's qualified name.
        before: What it was.
        after: What it is.
    """
    _transitions().add(1, {"iii.function.id": name, "iii.circuit_breaker.state": after.value})
    level = logging.WARNING if after is CircuitState.OPEN else logging.INFO
    logger.log(
        level,
        "%s: circuit %s, was %s",
        name,
        after.value,
        before.value,
        extra={"function_id": name, "state": after.value, "was": before.value},
    )


def decided(failure: Failure, decision: Decision, *, attempt: int, name: str) -> None:
    """Log and count one decision.

    Args:
        failure: The failed attempt's error.
        decision: What was decided about it.
        attempt: The failed attempt's number, from 1.
        name: The function id, or the decorated function's qualified name.
    """
    _decisions().add(
        1,
        {
            "iii.function.id": name,
            "error.type": failure.code if failure.known else "_OTHER",
            "iii.error.category": failure.category.value,
            "iii.retry.decision": decision.reason.value,
        },
    )
    level = logging.INFO if decision.retry else logging.WARNING
    if logger.isEnabledFor(level):
        what = f"retry in {decision.delay:.3f} s" if decision.delay is not None else "give up"
        logger.log(
            level,
            "%s: attempt %d failed with %s (%s): %s (%s)",
            name,
            attempt,
            failure.code,
            failure.category.value,
            what,
            decision.reason.value,
            extra={
                "function_id": name,
                "code": failure.code,
                "category": failure.category.value,
                "reason": decision.reason.value,
                "attempt": attempt,
                "delay": decision.delay,
            },
        )
