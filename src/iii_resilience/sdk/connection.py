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
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, cast

from iii_resilience.core.effects import Sleep, Wait
from iii_resilience.core.errors import NotConnectedError
from iii_resilience.sdk.event_loops import call_soon
from iii_resilience.sdk.pending_calls import InFlightCalls, SendCheck, unsent
from iii_resilience.sdk.versions import Sdk, installed
from iii_resilience.sdk.wait_queue import WaitQueue

_POLL = 0.02

_NO_CLIENT = "resilient() takes what iii.register_worker() returned, got {!r}, which has no {}()"
_ENDED = "the client was shut down while the call waited; nothing more was sent"

# An engine that refuses this worker takes the connection and closes it at once; the SDK tries
# again every few hundred ms and never hears why (docs/engine-notes.md, 1).
_SHORT_LIVED = 1.0
_REFUSALS = 3


def connection_of(worker: Any) -> Connection:
    """The connection of a client, the one that `resilient` made where it has wrapped it.

    Args:
        worker: What ``iii.register_worker()`` or `resilient` returned.

    Raises:
        TypeError: The object is no client of the SDK.
    """
    own = getattr(worker, "_connection", None)
    return own if isinstance(own, Connection) else Connection(worker)


class Connection:
    """What is known of one SDK client's connection.

    Args:
        client: What ``iii.register_worker`` returned.
        sdk: What its version does; the installed one's by default.

    Attributes:
        epoch: Counts the comings and goings of the connection.
        closed: Whether the client was shut down through this object.
        answered: Whether the engine has answered anything on this connection.
        in_flight: The calls that have not ended.
        own_loop: The SDK's own event loop, or None where it shows none.
        namespace: Where calls go that name none, or None for the engine's default one.

    Raises:
        TypeError: The object is no client of the SDK.
    """

    def __init__(self, client: Any, sdk: Sdk | None = None) -> None:
        # 0.26 renames trigger to call.
        call: Any = getattr(client, "trigger_async", None) or getattr(client, "call_async", None)
        for needed in ("get_connection_state", "shutdown"):
            if not callable(getattr(client, needed, None)):
                raise TypeError(_NO_CLIENT.format(client, needed))
        if not callable(call):
            raise TypeError(_NO_CLIENT.format(client, "trigger_async"))
        self.call = cast("Callable[[dict[str, Any]], Coroutine[Any, Any, Any]]", call)
        self.client = client
        self.sdk = installed() if sdk is None else sdk
        self.closed = False
        self.epoch = 0
        self.answered = False
        self.connections = WaitQueue()
        loop = getattr(client, "_loop", None)
        self.own_loop = loop if isinstance(loop, asyncio.AbstractEventLoop) else None
        self.in_flight = InFlightCalls(
            self.own_loop,
            self._look,
            self.call,
            self.check_usable,
            may_cancel=self.sdk.cancels_safely,
        )
        self.sleeps = WaitQueue()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._on_change: list[Callable[[], None]] = []
        self._tasks: set[Future[None]] = set()
        self._refusals = 0
        self._open: Any = None
        self._since = time.monotonic()
        self._was_connected = self.connected
        self._socket = getattr(client, "_ws", None)
        self._dead_since: float | None = None
        self._thread_ident: int | None = getattr(getattr(client, "_thread", None), "ident", None)
        own = getattr(client, "_worker_namespace", None)
        current_inbound = own() if callable(own) else None
        self.namespace = current_inbound if isinstance(current_inbound, str) else None
        subscribe = getattr(client, "add_connection_state_listener", None)
        self._listens = callable(subscribe)
        if callable(subscribe):
            subscribe(self._told)
        if not (self._listens and self.sdk.survives_clean_close):
            # Nobody tells of the loss, or not of every one: look again and again.
            call_soon(self.loop, self._watch)

    # The connection.

    @property
    def connected(self) -> bool:
        """Whether a call handed to the SDK now would be sent now.

        The state alone is no proof: the SDK learns a moment late that its socket is closing, and
        before 0.24.4 a clean close leaves it "connected" for good (docs/engine-notes.md, 6).
        """
        client = self.client
        if client.get_connection_state() != "connected":
            return False
        socket = getattr(getattr(client, "_ws", None), "state", None)
        if socket is self._open:
            return True
        if getattr(socket, "name", "OPEN") != "OPEN":
            return False
        self._open = socket  # a member of an enum: its name, which takes longer, is asked once
        return True

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop where the SDK's calls are at home: its own, or one of ours.

        Every SDK so far has a loop of its own, though no public way to it; one that does not show
        it (0.25 works on any loop) is called on a thread of this library.
        """
        return self.in_flight.loop

    @property
    def on_loop_thread(self) -> bool:
        """Whether this code runs on the SDK's thread, where a sync call would wait for itself."""
        ident = self._thread_ident
        if ident is not None and ident != threading.get_ident():
            return False
        # The ident of a thread that has ended may be another one's by now.
        return threading.current_thread() is getattr(self.client, "_thread", None)

    @property
    def ended(self) -> bool:
        """Whether the SDK's own loop has stopped: whatever is asked of it now would hang."""
        return not (self.own_loop is None or self.own_loop.is_running())

    @property
    def refused(self) -> bool:
        """Whether the engine seems to refuse this worker: every connection ends at once."""
        if self._refusals < _REFUSALS:
            return False
        lasts = self._was_connected and time.monotonic() - self._since >= _SHORT_LIVED
        return not (self.answered or lasts)

    @property
    def turned_away(self) -> bool:
        """Whether the last connection ended as one that the engine refuses does.

        It takes three of them to be sure of it (`refused`); a client that is `dead` has only one.
        """
        return self._refusals > 0 and not self.answered

    @property
    def dead(self) -> bool:
        """Whether the SDK thinks it is connected and its socket is closed, for good.

        Before 0.24.4 it does not reconnect after a clean close (docs/engine-notes.md, 6).
        """
        return (
            not self.sdk.survives_clean_close
            and self.client.get_connection_state() == "connected"
            and not self.connected
        )

    @property
    def stays_dead(self) -> bool:
        """Whether it has been dead for so long that there is no use in waiting.

        An old SDK whose socket closes under it looks the same for the moment until it notices.
        """
        since = self._dead_since
        return since is not None and time.monotonic() - since >= _SHORT_LIVED and self.dead

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
            raise RuntimeError(
                "this client belongs to the parent process; its connection and thread did not "
                "survive the fork. Call iii.register_worker() and resilient() in the child"
            )
        loop = self.own_loop
        if self.closed or not (loop is None or loop.is_running()):  # `ended`, without its call
            raise NotConnectedError(
                "this client was shut down; nothing was sent. Make a new one with "
                "iii.register_worker()"
            )
        if not local and self.client.get_connection_state() == "failed":
            refused = getattr(self.client, "_fatal_error", None)
            if isinstance(refused, Exception):
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
        loop = self.own_loop
        return (
            not self.closed
            and self._refusals < _REFUSALS
            and (loop is None or loop.is_running())
            and os.getpid() == self._pid
            and self._was_connected
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
            if left <= 0 or self.refused or self.stays_dead:
                return False
            future = self.connections.add()
            try:
                if self.connected:
                    return True
                # Without a listener the future is never released: it is only a way to sleep.
                spread = yield Wait(future, left if self._listens else min(left, _POLL))
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
        self.closed = True
        self.connections.refuse(lambda: NotConnectedError(_ENDED))
        self.sleeps.refuse(lambda: NotConnectedError(_ENDED))
        self._changed()
        for task in list(self._tasks):
            task.cancel()

    def _told(self, _: str) -> None:
        # The SDK tells the state of the moment on the thread that subscribes, and changes on its
        # own: what it says on the one may be older than what it has said on the other.
        self._state_changed(None)

    def _state_changed(self, state: str | None) -> None:
        # Runs on the SDK's thread: it sets flags and releases futures, and never sends.
        with self._lock:
            if state is None:
                state = self.client.get_connection_state()
            connected = state == "connected"
            changed = connected != self._was_connected
            if changed:
                self._count_change(connected)
        try:
            if changed:
                self._changed()
        finally:
            if changed and not connected:
                self.in_flight.connection_lost()
            if state == "failed" or (changed and (connected or self.refused)):
                self.connections.release()  # they look again, and learn what it is

    def _count_change(self, connected: bool) -> None:
        self._was_connected = connected
        self.epoch += 1
        now = time.monotonic()
        if connected:
            self.answered = False
        elif self.answered or now - self._since >= _SHORT_LIVED:
            self._refusals = 0
        else:
            self._refusals += 1
        self._since = now

    def _watch(self) -> None:
        """Look at the connection of an SDK that does not tell; runs on the SDK's loop.

        A chain of timers, not a task: nothing is left over when that loop is stopped.
        """
        if self.closed:
            return
        socket, before = getattr(self.client, "_ws", None), self._socket
        self._socket = socket
        if socket is not before and socket is not None and before is not None:
            self._state_changed("disconnected")  # it went and came between two looks
        self._state_changed("connected" if self.connected else "disconnected")
        if not self.dead:
            self._dead_since = None
        elif self._dead_since is None:
            self._dead_since = time.monotonic()
        elif self.stays_dead:
            self.connections.release()  # they look again, and learn that nothing will come
        self.loop.call_later(_POLL, self._watch)

    def _changed(self) -> None:
        for callback in self._on_change:
            callback()

    # Calls in flight.

    def _look(self, request: dict[str, Any], *, local: bool, send_check: SendCheck | None) -> None:
        """One more look at a call, in the step of the SDK's loop in which it is sent.

        Raises:
            SendRefused: A call with a send check must not be sent now.
            NotConnectedError: A call without one must not be sent now.
        """
        if local and self.dispatches_locally(request):
            return
        # Of one that was local nobody has looked whether it can be sent.
        if not self.connected or (send_check is not None and (local or not send_check.may_send())):
            raise unsent(send_check)

    # The availability check.

    def start(self, task: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine on the SDK's loop without waiting for it; it ends with the client."""
        loop = self.own_loop or self.loop
        try:
            running = asyncio.run_coroutine_threadsafe(task, loop)
        except RuntimeError:  # the loop was closed after the check
            task.close()
            raise NotConnectedError(_ENDED) from None
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)

    def namespace_of(self, request: dict[str, Any]) -> str | None:
        """The namespace a call goes to, or None for the engine's default one."""
        explicit = request.get("namespace")
        if isinstance(explicit, str):
            return explicit
        return self.namespace

    def dispatches_locally(self, request: dict[str, Any]) -> bool:
        """Whether the SDK (0.25) would run this call in the process itself."""
        functions = getattr(self.client, "_functions", None)
        prepare = getattr(self.client, "_prepare_call", None)
        if not functions or prepare is None or request.get("function_id") not in functions:
            return False
        try:
            return getattr(prepare(request), "local", None) is not None
        except Exception:
            return False  # when in doubt a call is remote
