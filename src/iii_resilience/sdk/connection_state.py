"""The state of a client's connection: what it reports, what its socket shows, its history.

Knows nothing of calls or waits.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from enum import StrEnum

import attrs

from iii_resilience.sdk.client_adapter import POLL, ClientAdapter
from iii_resilience.sdk.event_loops import call_soon

# An engine that refuses this worker takes the connection and closes it at once; the SDK tries
# again every few hundred ms and never hears why (docs/engine-notes.md, 1).
SHORT_LIVED = 1.0
"""Seconds; an unanswered connection that ends sooner counts as refused."""
REFUSALS = 3
"""So many refused connections in a row mean that the engine refuses the worker."""


class ConnectionState(StrEnum):
    """The state of a client's connection."""

    CONNECTED = "connected"
    """A call handed to the SDK now is sent now."""
    DISCONNECTED = "disconnected"
    """The SDK is about to connect again."""
    REFUSED = "refused"
    """The engine seems to refuse this worker: each of its connections ends at once."""
    STALE = "stale"
    """The SDK says connected and its socket is closed; it may still notice."""
    DEAD = "dead"
    """It has not noticed for a second: before 0.24.4 a clean close is never noticed."""
    REFUSED_ONCE = "refused once"
    """As `DEAD`, and the connection ended at once: the engine seems to refuse this worker."""
    FAILED = "failed"
    """The SDK has given up: it connects no more."""
    SHUT_DOWN = "shut down"
    """The client was shut down: it connects no more."""

    @property
    def hopeless(self) -> bool:
        """Whether a wait for the connection of a client that lives is of no use."""
        return self in _HOPELESS


_HOPELESS = frozenset({ConnectionState.REFUSED, ConnectionState.DEAD, ConnectionState.REFUSED_ONCE})


@attrs.define
class ConnectionHistory:
    """How a client's connections have come and gone; I/O-free, without a clock of its own.

    Attributes:
        connected: Whether it was connected at the last look.
        since: Since when, as monotonic time in seconds.
        epoch: Counts the comings and goings.
        answered: Whether the engine has answered anything on this connection.
        refusals: How many connections in a row have ended as those of a refused worker do.
    """

    connected: bool
    since: float
    epoch: int = 0
    answered: bool = False
    refusals: int = 0

    def changed(self, connected: bool, now: float) -> None:
        """The connection has come or gone.

        Args:
            connected: Which of the two.
            now: Monotonic time in seconds.
        """
        self.connected = connected
        self.epoch += 1
        if connected:
            self.answered = False
        elif self.answered or now - self.since >= SHORT_LIVED:
            self.refusals = 0
        else:
            self.refusals += 1
        self.since = now

    def refused(self, now: float) -> bool:
        """Whether the engine seems to refuse this worker.

        Args:
            now: Monotonic time in seconds.
        """
        if self.refusals < REFUSALS:
            return False
        lasts = self.connected and now - self.since >= SHORT_LIVED
        return not (self.answered or lasts)


class ConnectionMonitor:
    """Follows the connection of one client, by its reports and by polling where it makes none.

    Args:
        client: The client.
        survives_clean_close: Whether its SDK reconnects after a clean close.
        changed: Is called on the SDK's thread with whether it is connected now.
        look_again: Called there when the calls that wait for a connection should check again.

    Attributes:
        history: How its connections have come and gone.
        closed: Whether the client was shut down through this library.
        reports: Whether the client reports changes.
    """

    def __init__(
        self,
        client: ClientAdapter,
        changed: Callable[[bool], None],
        look_again: Callable[[], None],
        *,
        survives_clean_close: bool,
    ) -> None:
        self._client = client
        self._survives_clean_close = survives_clean_close
        self._changed = changed
        self._look_again = look_again
        self._lock = threading.Lock()
        self.history = ConnectionHistory(client.connected, time.monotonic())
        self.closed = False
        self.reports = False
        self._socket = client.socket
        self._dead_since: float | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Follow the connection from now on.

        Args:
            loop: Where the client is polled.
        """
        self.reports = self._client.listen(self._reported)
        if not (self.reports and self._survives_clean_close):
            call_soon(loop, self._poll)

    @property
    def state(self) -> ConnectionState:
        """The state now."""
        client, now = self._client, time.monotonic()
        if self.closed or client.loop_ended:
            return ConnectionState.SHUT_DOWN
        reported = client.state
        if reported == "failed":
            return ConnectionState.FAILED
        connected = client.connected
        # Its socket is closed, and the SDK has not noticed, or never will.
        stale = reported == "connected" and not connected and not self._survives_clean_close
        if self.history.refused(now):
            return ConnectionState.REFUSED_ONCE if stale else ConnectionState.REFUSED
        if connected:
            return ConnectionState.CONNECTED
        if not stale:
            return ConnectionState.DISCONNECTED
        if self._dead_since is None or now - self._dead_since < SHORT_LIVED:
            return ConnectionState.STALE
        if self.history.refusals > 0 and not self.history.answered:
            return ConnectionState.REFUSED_ONCE
        return ConnectionState.DEAD

    def _reported(self) -> None:
        self._seen(None)

    def _seen(self, connected: bool | None) -> None:
        # Runs on the SDK's thread: it sets flags and releases futures, and never sends.
        history = self.history
        with self._lock:
            state = self._client.state
            if connected is None:
                connected = state == "connected"
            changed = connected != history.connected
            if changed:
                history.changed(connected, time.monotonic())
        try:
            if changed:
                self._changed(connected)
        finally:
            if state == "failed" or (changed and (connected or history.refused(time.monotonic()))):
                self._look_again()

    def _poll(self) -> None:
        """Look at the connection of a client that does not report each change.

        A chain of timers, not a task: nothing is left over when the loop is stopped.
        """
        if self.closed:
            return
        client = self._client
        socket, before = client.socket, self._socket
        self._socket = socket
        if socket is not before and socket is not None and before is not None:
            self._seen(connected=False)  # it went and came between two looks
        self._seen(connected=client.connected)
        if self._survives_clean_close or client.connected or client.state != "connected":
            self._dead_since = None
        elif self._dead_since is None:
            self._dead_since = time.monotonic()
        elif self.state.hopeless:
            self._look_again()  # they look again, and learn that nothing will come
        asyncio.get_running_loop().call_later(POLL, self._poll)
