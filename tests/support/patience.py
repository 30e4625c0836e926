"""What a worker waits for before it leaves, as long as a busy machine may take.

An answer of a standby comes in milliseconds, and a worker that leaves waits for it for a quarter of
a second. One stall of any of the threads between is longer, and then the standby notices by itself,
a second later.
"""

from __future__ import annotations

from iii_resilience.handling import worker
from iii_resilience.handling.registration import drain, standby

PATIENCE = 60.0  # seconds
LEAVING: tuple[tuple[object, str, float], ...] = (
    (worker, "_HAND_OVER", PATIENCE),
    (drain, "_HAND_OVER_MOST", PATIENCE),
    (drain, "_LAST_CALLS_MS", 1000 * PATIENCE),
    (standby, "_TAKE_OVER_MS", 1000 * PATIENCE),
    (standby, "_TIMEOUT_MS", int(1000 * PATIENCE)),
)
"""Where each of these times stands, and what it is in a test."""


def leave_patiently() -> None:
    """In a process of its own, which does so for good."""
    for module, name, value in LEAVING:
        setattr(module, name, value)
