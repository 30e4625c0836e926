"""The handler's door: what runs inside workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iii_resilience.lazy import lazily

if TYPE_CHECKING:
    from iii_resilience.handling.consumer import consumer
    from iii_resilience.handling.errors import (
        AuthError,
        HandlerError,
        NotFoundError,
        PayloadError,
        PermanentError,
        TransientError,
    )
    from iii_resilience.handling.health import Health
    from iii_resilience.handling.idempotent import idempotent
    from iii_resilience.handling.leave import Drained
    from iii_resilience.handling.reports import reports_errors
    from iii_resilience.handling.running import InFlight
    from iii_resilience.handling.served import Registration, Standing

__all__ = [
    "AuthError",
    "Drained",
    "HandlerError",
    "Health",
    "InFlight",
    "NotFoundError",
    "PayloadError",
    "PermanentError",
    "Registration",
    "Standing",
    "TransientError",
    "consumer",
    "idempotent",
    "reports_errors",
]

lazily(
    __name__,
    {
        "AuthError": "errors",
        "Drained": "leave",
        "HandlerError": "errors",
        "Health": "health",
        "InFlight": "running",
        "NotFoundError": "errors",
        "PayloadError": "errors",
        "PermanentError": "errors",
        "Registration": "served",
        "Standing": "served",
        "TransientError": "errors",
        "consumer": "consumer",
        "idempotent": "idempotent",
        "reports_errors": "reports",
    },
)
