"""The health of one worker: connected, owning its functions, busy, or silently dead.

Knows nothing of repairs.
"""

from __future__ import annotations

import attrs

from iii_resilience.handling.hardening.capacity import LimitUse
from iii_resilience.handling.hardening.running_handlers import InFlight
from iii_resilience.handling.registration.entries import Registration
from iii_resilience.handling.relay.relay_status import RelayStatus


@attrs.frozen
class Health:
    """How one worker fares.

    Attributes:
        connected: Whether it is connected to the engine.
        connected_since: Since when, in seconds since 1970, as far as this library has seen it;
            None while it is not.
        registrations: How each of its functions and triggers stands.
        in_flight: How many calls it is handling, without those that wait for its limit.
        oldest: The call that it has been handling longest, or None.
        silent_for: Seconds since the oldest question that the engine has not answered; None while
            none waits.
        zombie: Why it is believed to be dead although it says that it is connected, or None.
        limits: How much of each of its limits is in use, that of the worker first.
        relay: How its relay fares, or None where it has none.
    """

    connected: bool
    connected_since: float | None
    registrations: tuple[Registration, ...]
    in_flight: int
    oldest: InFlight | None
    silent_for: float | None
    zombie: str | None
    limits: tuple[LimitUse, ...] = ()
    relay: RelayStatus | None = None
