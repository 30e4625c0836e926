"""What the outside can see of calls: metrics, spans and log records, through the standard ways.

Knows nothing of how calls are made. Payloads, arguments, keys and remote messages never come here.
`meters` counts and measures, `FailedCall` tells the story of a call that has failed at least once,
`records` writes the log.
"""

from __future__ import annotations

from iii_resilience.guards.breaker import CircuitState
from iii_resilience.telemetry import records
from iii_resilience.telemetry.budgets import named
from iii_resilience.telemetry.calls import FailedCall, refused
from iii_resilience.telemetry.meters import meters
from iii_resilience.telemetry.records import logger

__all__ = ["FailedCall", "circuit_changed", "logger", "meters", "named", "refused"]


def circuit_changed(name: str, before: CircuitState, after: CircuitState, _: float) -> None:
    """Log and count a circuit breaker's change of state.

    Args:
        name: The function id, or the decorated function's qualified name.
        before: What it was.
        after: What it is.
    """
    meters.circuit_changed(name, after)
    records.circuit_changed(name, before, after)
