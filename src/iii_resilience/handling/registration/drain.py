"""Graceful shutdown of a worker: hand functions over, let running handlers end, shut down.

Knows nothing of how functions are kept registered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import TypeVar

import attrs

from iii_resilience.handling.hardening.running_handlers import Running
from iii_resilience.handling.registration.entries import FunctionEntry
from iii_resilience.handling.registration.registrations import RegistrationTable
from iii_resilience.handling.registration.standby import Standby
from iii_resilience.handling.registration.trigger_types import rule_of
from iii_resilience.sdk.connection import Connection
from iii_resilience.sdk.engine_api import FUNCTIONS_INFO, functions_info_request
from iii_resilience.telemetry import logger

T = TypeVar("T")

# Functions given up at once: the first of them must not wait for the last to be handed over.
_AT_ONCE = 32
_HAND_OVER_MOST = 2.0  # seconds
_LAST_CALLS_MS = 1000


@attrs.frozen
class Drained:
    """How a worker has left.

    Attributes:
        handed_over: Which worker has taken which function over, by function id.
        unfinished: The functions whose handlers were still running, one id a handler.
        seconds: How long it took.
    """

    handed_over: dict[str, str]
    unfinished: tuple[str, ...]
    seconds: float


class Drainer:
    """The way out of one worker.

    Args:
        connection: Its connection.
        served: Its functions.
        running: The calls it is handling.
        standby: Hands functions over to a standby; None if that is not wanted.
    """

    def __init__(
        self,
        connection: Connection,
        served: RegistrationTable,
        running: Running,
        standby: Standby | None,
    ) -> None:
        self._connection = connection
        self._served = served
        self._running = running
        self._standby = standby
        self._still_answered: set[str] = set()
        connection.on_change(self._forget)

    def drain(self, timeout: float, shutdown: Callable[[], None]) -> Drained:
        """Hand over, wait for running handlers, shut down.

        Args:
            timeout: How long to wait for running handlers, in seconds.
            shutdown: Ends the client.
        """
        since = time.monotonic()
        until = since + timeout
        handed_over = self._hand_over(min(until, since + _HAND_OVER_MOST))
        self._running.wait(max(0.0, until - time.monotonic()))
        unfinished = tuple(call.function_id for call in self._running.now())
        if unfinished:
            logger.warning(
                "drained, but after %.3g s these were still running: %s",
                timeout,
                ", ".join(sorted(set(unfinished))),
                extra={"function_ids": unfinished},
            )
        for trigger in self._served.triggers():  # those that every worker registers
            self._served.give_up(trigger)
        shutdown()
        return Drained(handed_over, unfinished, time.monotonic() - since)

    def hand_over(self, seconds: float) -> None:
        """Hand over what a standby is known for, before a shutdown that waits for nothing.

        Args:
            seconds: What it may take.
        """
        if self._standby is not None and self._standby.has_others and self._connection.connected:
            self._hand_over(time.monotonic() + seconds)

    def _hand_over(self, until: float) -> dict[str, str]:
        handed_over: dict[str, str] = {}
        for entries in _groups(self._served.functions(), _AT_ONCE):
            # With their functions and no sooner: a tick that falls between is lost.
            self._give_up_triggers({entry.function_id for entry in entries}, overlap=False)
            self._let_go(entries)
            if self._standby is not None and self._connection.connected:
                handed_over.update(self._standby.hand_over(entries, until))
        for overlap in (False, True):
            self._give_up_triggers(None, overlap=overlap)
        self._last_calls(until)
        return handed_over

    def _give_up_triggers(self, of: set[str] | None, *, overlap: bool) -> None:
        """Those that only an owner registers: before the new owner does, or when it has."""
        for trigger in self._served.triggers():
            rule = rule_of(trigger.trigger_type)
            asked = of is None or trigger.function_id in of
            if asked and rule.overlap is overlap and not rule.every_worker:
                self._served.give_up(trigger)

    def _let_go(self, entries: list[FunctionEntry]) -> None:
        """Give functions up, but go on answering the calls that are on their way already.

        The SDK forgets a handler with its registration and would answer them with
        ``function_not_found``. It is given back before the SDK's loop looks at another frame.
        """
        done = threading.Event()

        def work() -> None:
            try:
                for entry in entries:
                    self._give_up(entry)
            finally:
                done.set()

        try:
            self._connection.loop.call_soon_threadsafe(work)
        except RuntimeError:  # the loop has ended, and every registration with it
            return
        done.wait(_HAND_OVER_MOST)

    def _give_up(self, entry: FunctionEntry) -> None:
        handlers = self._connection.client.handlers
        handler = handlers.get(entry.function_id)
        self._served.give_up(entry)
        if handler is not None:
            handlers[entry.function_id] = handler
            self._still_answered.add(entry.function_id)

    def _forget(self) -> None:
        """A new connection would register again what was given up. Runs on the SDK's thread."""
        handlers = self._connection.client.handlers
        while self._still_answered and not self._connection.connected:
            handlers.pop(self._still_answered.pop(), None)

    def _last_calls(self, until: float) -> None:
        """Wait for a word of the engine: what it had sent here before has arrived by then."""
        timeout_ms = int(min(_LAST_CALLS_MS, 1000 * (until - time.monotonic())))
        if timeout_ms > 0 and self._connection.connected:
            with suppress(Exception):  # any answer will do, and so will none
                self._connection.in_flight.send(
                    functions_info_request([FUNCTIONS_INFO], None, timeout_ms),
                    seconds=timeout_ms / 1000,
                )


def _groups(values: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(values)
    while group := list(islice(rest, size)):
        yield group
