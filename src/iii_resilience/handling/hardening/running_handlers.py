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
    waiting: bool
    parts: int = 1


@attrs.frozen
class InFlight:
    """One call that is being handled.

    Attributes:
        function_id: The function.
        seconds: How long its handler has been running, or the call waiting.
        waiting: Whether its handler has not started yet, because its limit is reached.
    """

    function_id: str
    seconds: float
    waiting: bool = False


class Running:
    """The calls under way of one worker."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: dict[int, _RunningHandler] = {}
        self._tickets = itertools.count()

    def begin(self, function_id: str, *, waiting: bool = False) -> int:
        """A call arrives.

        Args:
            function_id: The function.
            waiting: Whether its handler does not start yet.

        Returns:
            A ticket for the other methods.
        """
        ticket = next(self._tickets)
        with self._changed:
            self._calls[ticket] = _RunningHandler(function_id, time.monotonic(), waiting)
        return ticket

    def started(self, ticket: int) -> None:
        """Its handler starts, after it has waited."""
        with self._changed:
            call = self._calls[ticket]
            call.waiting, call.since = False, time.monotonic()

    def add_part(self, ticket: int) -> None:
        """It ends once more: its answer may be gone while the handler's thread still runs."""
        with self._changed:
            self._calls[ticket].parts += 1

    def end(self, ticket: int) -> None:
        """A part of it is over."""
        with self._changed:
            call = self._calls[ticket]
            call.parts -= 1
            if not call.parts:
                del self._calls[ticket]
                self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until nothing runs, and no call waits to.

        Args:
            seconds: How long at most.

        Returns:
            Whether nothing runs.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._calls, seconds)

    def now(self) -> tuple[InFlight, ...]:
        """What runs or waits, in the order of arrival."""
        at = time.monotonic()
        with self._changed:
            calls = list(self._calls.values())
        return tuple(InFlight(call.function_id, at - call.since, call.waiting) for call in calls)
