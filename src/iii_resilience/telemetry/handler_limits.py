"""The limits of this process's workers, as metrics show them.

Knows nothing of instruments.
"""

from __future__ import annotations

from collections.abc import Iterator

from iii_resilience.core.guards.concurrency_limit import limits_in_use

OF_LIMITS = {
    "limit": "Handlers that may run at once",
    "running": "Handlers under a limit that run now",
    "waiting": "Calls that wait for a handler under a limit to end",
}
"""What is shown of each limit, and what it is."""


def values(what: str) -> Iterator[tuple[str | None, int]]:
    """Function id (None for the limit of a whole worker) and value, for every limit.

    Args:
        what: One of `OF_LIMITS`.
    """
    for limit in limits_in_use():
        yield limit.function_id, getattr(limit, what)
