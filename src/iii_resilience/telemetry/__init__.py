"""What the outside can see of calls: metrics, spans and log records, through the standard ways.

Knows nothing of how calls are made. Payloads, arguments, keys and remote messages never come here.
`meters` counts and measures, `FailedCall` tells the story of a call that has failed at least once,
`records` writes the log.
"""

from __future__ import annotations

from iii_resilience.core.guards.breaker import CircuitState
from iii_resilience.telemetry import logs
from iii_resilience.telemetry.call_events import FailedCall, refused
from iii_resilience.telemetry.logs import logger
from iii_resilience.telemetry.metrics import meters, named

__all__ = ["FailedCall", "circuit_changed", "logger", "meters", "named", "refused"]


def circuit_changed(name: str, before: CircuitState, after: CircuitState, _: float) -> None:
    """Log and count a circuit breaker's change of state.

    Args:
        name: The function id, or the decorated function's qualified name.
        before: What it was.
        after: What it is.
    """
    meters.circuit_changed(name, after)
    logs.circuit_changed(name, before, after)
