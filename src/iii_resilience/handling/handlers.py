"""The handler's door of one client: what `resilient(worker)` does for functions it serves.

Knows nothing of calls that go out. Each part is done in a room of its own.
"""

from __future__ import annotations

from typing import Any

from iii_resilience.handling.running import Running
from iii_resilience.handling.worker import Hardener, Hardening
from iii_resilience.link import Link


class Handlers:
    """The functions that one client serves.

    Args:
        link: The client's connection.
        how: How handlers are hardened.
    """

    def __init__(self, link: Link, how: Hardening) -> None:
        self._link = link
        self.running = Running()
        self._hardener = Hardener(how, self.running)

    def register_function(self, function_id: str, handler: Any, **options: Any) -> Any:
        """See `iii_resilience.client.Resilient.register_function`."""
        if callable(handler) and isinstance(function_id, str):
            handler = self._hardener.harden(function_id, handler)
        return self._link.client.register_function(function_id, handler, **options)
