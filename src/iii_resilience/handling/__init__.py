"""The worker's side: decorators for handlers, errors to raise in them, and a worker's state."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iii_resilience.handling.decorators.error_reporting import reports_errors as reports_errors
    from iii_resilience.handling.decorators.idempotency import idempotent as idempotent
    from iii_resilience.handling.decorators.queue_consumer import consumer as consumer
    from iii_resilience.handling.handler_errors import AuthError as AuthError
    from iii_resilience.handling.handler_errors import HandlerError as HandlerError
    from iii_resilience.handling.handler_errors import NotFoundError as NotFoundError
    from iii_resilience.handling.handler_errors import PayloadError as PayloadError
    from iii_resilience.handling.handler_errors import PermanentError as PermanentError
    from iii_resilience.handling.handler_errors import TransientError as TransientError
    from iii_resilience.handling.hardening.capacity import LimitUse as LimitUse
    from iii_resilience.handling.hardening.running_handlers import InFlight as InFlight
    from iii_resilience.handling.health import Health as Health
    from iii_resilience.handling.registration.drain import Drained as Drained
    from iii_resilience.handling.registration.entries import Registration as Registration
    from iii_resilience.handling.registration.entries import (
        RegistrationState as RegistrationState,
    )
    from iii_resilience.handling.relay.relay_status import RelayStatus as RelayStatus
else:
    from iii_resilience.core.lazy_imports import lazy_exports

    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "decorators.error_reporting": "reports_errors",
            "decorators.idempotency": "idempotent",
            "decorators.queue_consumer": "consumer",
            "handler_errors": (
                "AuthError HandlerError NotFoundError PayloadError PermanentError TransientError"
            ),
            "hardening.capacity": "LimitUse",
            "hardening.running_handlers": "InFlight",
            "health": "Health",
            "registration.drain": "Drained",
            "registration.entries": "Registration RegistrationState",
            "relay.relay_status": "RelayStatus",
        },
    )
