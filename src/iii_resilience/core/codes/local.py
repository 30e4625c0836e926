"""Codes of this library's own errors: what was not sent and why, and how a handler ended.

System and origin are ``local`` in every row. Knows nothing of the exceptions themselves.
"""

from __future__ import annotations

from iii_resilience.core.codes.model import Category, Code, Execution
from iii_resilience.core.codes.shorthand import EX, ME, NE, P, T, X


def _row(
    code: str,
    category: Category,
    execution: Execution,
    remedy: str,
    meaning: str,
    *,
    throttled: bool = False,
    queue: bool = False,
    source: str = "errors.py",
) -> Code:
    return Code(
        code,
        category,
        execution,
        "local",
        remedy,
        meaning,
        source,
        system="local",
        throttled=throttled,
        queue=queue,
    )


ROWS = (
    _row(
        "NOT_CONNECTED",
        T,
        NE,
        "start the engine, check its address and this worker's credentials",
        "the engine cannot be reached; nothing was sent",
        queue=True,
    ),
    _row(
        "CONNECTION_LOST",
        T,
        ME,
        "repeat the call only if it is idempotent: its answer will never come",
        "the connection went away under a call in flight",
        queue=True,
    ),
    _row(
        "CIRCUIT_OPEN",
        T,
        NE,
        "wait until the circuit breaker lets a probe through",
        "the circuit breaker of this function is open; nothing was sent",
        throttled=True,
        queue=True,
    ),
    _row(
        "BULKHEAD_FULL",
        T,
        NE,
        "slow down: too many calls of this function are running or waiting",
        "the bulkhead of this function is full; nothing was sent",
        throttled=True,
        queue=True,
    ),
    _row(
        "payload_too_large",
        P,
        NE,
        "shrink the payload or move binary data to channels",
        "the message would exceed a size limit; nothing was sent",
    ),
    _row(
        "invalid_payload",
        P,
        NE,
        "fix the value at the place the message names",
        "the payload would be dropped or changed on its way; nothing was sent",
    ),
    _row(
        "DEADLINE_PASSED",
        T,
        NE,
        "give the call more time, or enqueue it: its time was over before it could start",
        "nothing was sent, or the handler not started: the caller's time was over",
        queue=True,
    ),
    _row(
        "OVERLOADED",
        T,
        NE,
        "slow down, add workers, or raise the worker's limit if it has capacity to spare",
        "the worker runs as many handlers as its limit allows; this one was not started",
        throttled=True,
        queue=True,
        source="handling",
    ),
    _row(
        "HANDLER_CANCELLED",
        T,
        EX,
        "repeat the call only if it is idempotent: its handler was cancelled half-way",
        "the handler was cancelled before it had a result",
        queue=True,
        source="handling",
    ),
    _row(
        "HANDLER_EXITED",
        X,
        EX,
        "fix the handler: it must raise an error, not end its process",
        "the handler raised SystemExit, KeyboardInterrupt or the like",
        source="handling",
    ),
)
