"""The calls that a worker is handling now.

Knows nothing of what they do.
"""

from __future__ import annotations

import itertools
import threading
import time

import attrs


@attrs.define
class _RunningHandler:
    function_id: str
    since: float
    parts: int


@attrs.frozen
class InFlight:
    """One call that is being handled.

    Attributes:
        function_id: The function.
        seconds: How long its handler has been running.
    """

    function_id: str
    seconds: float


class Running:
    """The calls under way of one worker."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: dict[int, _RunningHandler] = {}
        self._tickets = itertools.count()

    def begin(self, function_id: str, parts: int) -> int:
        """A handler starts.

        Args:
            function_id: The function.
            parts: How often `end` is called before it is over: the answer may be gone while the
                handler's thread still runs.

        Returns:
            A ticket for `end`.
        """
        ticket = next(self._tickets)
        with self._changed:
            self._calls[ticket] = _RunningHandler(function_id, time.monotonic(), parts)
        return ticket

    def end(self, ticket: int) -> None:
        """A part of it is over."""
        with self._changed:
            call = self._calls[ticket]
            call.parts -= 1
            if not call.parts:
                del self._calls[ticket]
                self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until nothing runs.

        Args:
            seconds: How long at most.

        Returns:
            Whether nothing runs.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._calls, seconds)

    def now(self) -> tuple[InFlight, ...]:
        """What runs, the longest first."""
        at = time.monotonic()
        with self._changed:
            calls = list(self._calls.values())
        return tuple(InFlight(call.function_id, at - call.since) for call in calls)
