"""Observability of calls and workers: metrics, spans and log records.

`metrics` counts and measures, `call_events` reports a call that has failed at least once, `logs`
writes the log. Payloads, arguments, keys and remote messages are never recorded. Knows nothing of
how calls are made.
"""

from __future__ import annotations

from iii_resilience.core.guards.breaker import CircuitState
from iii_resilience.core.observers import logger
from iii_resilience.telemetry import logs
from iii_resilience.telemetry.call_events import FailedCall, refused
from iii_resilience.telemetry.guard_states import INLINE, named
from iii_resilience.telemetry.metrics import meters

__all__ = ["INLINE", "FailedCall", "circuit_changed", "logger", "meters", "named", "refused"]


def circuit_changed(name: str, before: CircuitState, after: CircuitState, _: float) -> None:
    """Log and count a circuit breaker's change of state.

    Args:
        name: The function id, or the decorated function's qualified name.
        before: What it was.
        after: What it is.
    """
    meters.circuit_changed(name, after)
    logs.circuit_changed(name, before, after)
