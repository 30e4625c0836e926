"""The connection of one SDK client: its state, its age, and requests to the engine.

The SDK does not fail a call when the connection is lost. It queues calls made while disconnected
and sends them later, and it hangs after ``shutdown()`` (docs/engine-notes.md, 4 and 5). So this
module reports each connect and disconnect, and rejects use after the shutdown.

Works with every SDK from 0.11.3 on, by inspecting the client and never importing ``iii``. Knows
nothing of policies or retries.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from iii_resilience.core.effects import Sleep, Wait
from iii_resilience.core.errors import NotConnectedError
from iii_resilience.sdk.client_adapter import POLL, ClientAdapter, SdkClient
from iii_resilience.sdk.connection_state import REFUSALS, ConnectionMonitor, ConnectionState
from iii_resilience.sdk.engine_api import FunctionStatus, functions_info
from iii_resilience.sdk.pending_calls import InFlightCalls
from iii_resilience.sdk.versions import Sdk, installed
from iii_resilience.sdk.wait_queue import WaitQueue

T = TypeVar("T")

_ENDED = "the client was shut down while the call waited; nothing more was sent"


def connection_of(worker: SdkClient) -> Connection:
    """The connection of a client, the one that `resilient` made where it has wrapped it.

    Args:
        worker: What ``iii.register_worker()`` or `resilient` returned.

    Raises:
        TypeError: The object is not a client of the SDK.
    """
    own = getattr(worker, "_connection", None)
    return own if isinstance(own, Connection) else Connection(worker)


class Connection:
    """What is known of one SDK client's connection.

    Args:
        client: What ``iii.register_worker`` returned.
        sdk: What its version does; the installed one's by default.

    Attributes:
        client: The client.
        history: How its connections have come and gone.
        connections: The callers that wait for a connection.
        in_flight: The calls that have not ended.

    Raises:
        TypeError: The object is not a client of the SDK.
    """

    def __init__(self, client: SdkClient, sdk: Sdk | None = None) -> None:
        self.client = ClientAdapter(client)
        self.sdk = installed() if sdk is None else sdk
        self.connections = WaitQueue()
        self.in_flight = InFlightCalls(
            self.client.own_loop,
            self.client.check_sendable,
            self.client.call_async,
            self.check_usable,
            may_cancel=self.sdk.cancels_safely,
        )
        self.sleeps = WaitQueue()
        self._pid = os.getpid()
        self._on_change: list[Callable[[], None]] = []
        self._tasks: set[Future[None]] = set()
        self._monitor = ConnectionMonitor(
            self.client,
            self._connection_changed,
            self.connections.release,
            survives_clean_close=self.sdk.survives_clean_close,
        )
        self.history = self._monitor.history
        self._monitor.start(self.loop)

    # The connection.

    @property
    def state(self) -> ConnectionState:
        """The state of the connection now."""
        return self._monitor.state

    @property
    def connected(self) -> bool:
        """Whether a call handed to the SDK now would be sent now."""
        return self.client.connected

    @property
    def refused(self) -> bool:
        """Whether the engine seems to refuse this worker: every connection ends at once."""
        return self.history.refused(time.monotonic())

    @property
    def epoch(self) -> int:
        """Counts the comings and goings of the connection."""
        return self.history.epoch

    @property
    def closed(self) -> bool:
        """Whether the client was shut down through this object."""
        return self._monitor.closed

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop where the SDK's calls are at home: its own, or one of ours.

        Every SDK so far has a loop of its own, though no public way to it; one that does not show
        it (0.25 works on any loop) is called on a thread of this library.
        """
        return self.in_flight.loop

    def check_process(self) -> None:
        """Refuse use in a forked child.

        Raises:
            RuntimeError: The process was forked: the SDK's thread is not here.
        """
        if os.getpid() != self._pid:
            raise RuntimeError(
                "this client belongs to the parent process; its connection and thread did not "
                "survive the fork. Call iii.register_worker() and resilient() in the child"
            )

    def check_usable(self, *, local: bool = False) -> None:
        """Refuse use after the end, or in a forked child.

        Args:
            local: Whether the SDK runs the call in this process, which needs no connection.

        Raises:
            NotConnectedError: The client was shut down (the SDK would hang), or the SDK has given
                up reconnecting.
            Exception: What the engine refused this worker's registration with; the SDK does not
                come back from that either.
            RuntimeError: The process was forked: the SDK's thread is not here.
        """
        if os.getpid() != self._pid:
            self.check_process()
        loop = self.client.own_loop
        if self._monitor.closed or not (loop is None or loop.is_running()):
            raise NotConnectedError(
                "this client was shut down; nothing was sent. Make a new one with "
                "iii.register_worker()"
            )
        if not local and self.client.state == "failed":
            refused = self.client.fatal_error
            if refused is not None:
                # One object for all: without the frames of those that it was raised to before.
                raise refused.with_traceback(None)
            raise NotConnectedError(
                "the SDK has given up reconnecting to the engine (state: failed); nothing was "
                "sent. Make a new client with iii.register_worker()"
            )

    def seems_up(self) -> bool:
        """Whether a call may be made without a wait, by a quick look.

        Where it says no, `check_usable` and the waits say why; where it says yes, the SDK's loop
        still looks closely at the moment of sending.
        """
        history, loop = self.history, self.client.own_loop
        return (
            history.connected
            and history.refusals < REFUSALS
            and not self._monitor.closed
            and (loop is None or loop.is_running())
            and os.getpid() == self._pid
        )

    def wait_connected(self, seconds: float) -> Generator[Wait | Sleep, Any, bool]:
        """Wait until the SDK is connected, as effects.

        Args:
            seconds: How long at most; 0 only looks.

        Returns:
            Whether it is connected now.

        Raises:
            NotConnectedError: The client was shut down meanwhile.
        """
        until = time.monotonic() + seconds
        while not self.connected:
            self.check_usable()
            left = until - time.monotonic()
            if left <= 0 or self.state.hopeless:
                return False
            future = self.connections.add()
            try:
                if self.connected:
                    return True
                # Without a listener the future is never released: it is only a way to sleep.
                spread = yield Wait(future, left if self._monitor.reports else min(left, POLL))
                yield Sleep(spread)
            except TimeoutError:
                continue
            finally:
                self.connections.leave(future)
        return True

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back, on the SDK's thread, whenever the connection has come or gone."""
        self._on_change.append(callback)

    def close(self) -> None:
        """Refuse new calls and end every wait; the SDK itself is not touched."""
        self._monitor.closed = True
        self.connections.refuse(lambda: NotConnectedError(_ENDED))
        self.sleeps.refuse(lambda: NotConnectedError(_ENDED))
        self._report_change()
        for task in list(self._tasks):
            task.cancel()

    def _connection_changed(self, connected: bool) -> None:
        try:
            self._report_change()
        finally:
            if not connected:
                self.in_flight.connection_lost()

    def _report_change(self) -> None:
        for callback in self._on_change:
            callback()

    async def ask_functions_info(
        self, function_ids: list[str], namespace: str | None
    ) -> dict[str, FunctionStatus]:
        """Query the engine for the registered functions. Runs on the SDK's loop.

        Args:
            function_ids: Up to `engine_api.IDS_AT_ONCE` ids.
            namespace: The namespace the calls go to, or None for the default one.

        Raises:
            LookupError: The answer is not in a form that is known.
            Exception: Whatever the SDK raises.
        """
        answers = await functions_info(self.client.call_async, function_ids, namespace)
        self.history.answered = True
        return answers

    def run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run something on the SDK's loop.

        Raises:
            NotConnectedError: That loop has ended.
        """
        own = self.client.own_loop
        with suppress(RuntimeError):  # the loop was closed after the check
            future = asyncio.run_coroutine_threadsafe(work, own or self.loop)
            if own is None or own.is_running():
                return future
        work.close()  # else it is complained of: nothing will ever await it
        raise NotConnectedError("this client was shut down; nothing was sent")

    def start(self, task: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine on the SDK's loop without waiting for it; it ends with the client.

        Raises:
            NotConnectedError: The client was shut down, or its loop has ended.
        """
        running = self.run(task)
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)
        if self._monitor.closed:  # `close` may not have seen this one
            running.cancel()
            raise NotConnectedError(_ENDED)

    def namespace_of(self, request: dict[str, Any]) -> str | None:
        """The namespace a call goes to, or None for the engine's default one."""
        explicit = request.get("namespace")
        if isinstance(explicit, str):
            return explicit
        return self.client.namespace
