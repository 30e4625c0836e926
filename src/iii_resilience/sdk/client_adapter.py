"""The one place that touches an SDK client: its calls, registrations, state, parts and end.

Everything else holds a `ClientAdapter`, or passes a client on as an opaque `SdkClient`. Works with
every SDK from 0.11.3 on, by inspecting the client and never importing ``iii``; what cannot be
inspected is a row of `versions.QUIRKS`. Knows nothing of policies, waits or retries.
"""

from __future__ import annotations

import asyncio
import os
import platform
import threading
from collections.abc import Awaitable, Callable, Container, Coroutine
from contextlib import suppress
from typing import Any, Protocol, cast

from iii_resilience.sdk import trigger_registration
from iii_resilience.sdk.event_loops import call_soon
from iii_resilience.sdk.send_check import SendCheck, unsent

POLL = 0.02
"""Seconds between two looks at what an SDK does not report."""

_NO_CLIENT = "resilient() takes what iii.register_worker() returned, got {!r}, which has no {}()"

Receive = Callable[[Any], Awaitable[Any]]


class SdkClient(Protocol):
    """What ``iii.register_worker()`` or `resilient` returned; opaque outside ``sdk``."""


class ClientAdapter:
    """One client of the SDK, under names that hold for every version.

    A client may have ``trigger`` and ``trigger_async``, ``call`` and ``call_async``, or both.

    Args:
        client: The client; or what `resilient` returned, whose calls follow its policies.

    Attributes:
        call_async: The client's own coroutine function for a call.
        own_loop: The client's own event loop, or None where it shows none.
        namespace: Where calls go that name none, or None for the engine's default one.
        thread_ident: The ident of the SDK's thread, or None where it shows none. Another thread
            may have it once that one has ended: `on_loop_thread` knows.
        local_functions: The ids of what this client serves, if its SDK may run calls to them in
            this process: `dispatches_locally` knows.

    Raises:
        TypeError: The object is not a client of the SDK.
    """

    def __init__(self, client: SdkClient) -> None:
        self._client: Any = client
        for needed in ("get_connection_state", "shutdown"):
            if not callable(getattr(client, needed, None)):
                raise TypeError(_NO_CLIENT.format(client, needed))
        call: Any = getattr(client, "trigger_async", None) or getattr(client, "call_async", None)
        if not callable(call):
            raise TypeError(_NO_CLIENT.format(client, "trigger_async"))
        self.call_async = cast("Callable[[dict[str, Any]], Coroutine[Any, Any, Any]]", call)
        loop = getattr(client, "_loop", None)
        self.own_loop = loop if isinstance(loop, asyncio.AbstractEventLoop) else None
        own = getattr(client, "_worker_namespace", None)
        namespace = own() if callable(own) else None
        self.namespace = namespace if isinstance(namespace, str) else None
        self.thread_ident: int | None = getattr(getattr(client, "_thread", None), "ident", None)
        functions = getattr(client, "_functions", None)
        runs_here = isinstance(functions, dict) and hasattr(client, "_prepare_call")
        self.local_functions: Container[Any] = cast("Any", functions) if runs_here else ()
        self._open: Any = None

    def __repr__(self) -> str:
        return repr(self._client)

    def namespace_of(self, function_id: str) -> str | None:
        """The namespace that a call to a function of the engine must name; None where none must.

        See `versions.OWN_NAMESPACE_OF_CONFIGURATION`.

        Args:
            function_id: The function.
        """
        elsewhere = self.namespace not in {None, "default"}
        return "default" if elsewhere and function_id.startswith("configuration::") else None

    def attribute(self, name: str) -> Any:
        """Any attribute of the client, for users who expect the client itself.

        Raises:
            AttributeError: The client has none of that name.
        """
        return getattr(self._client, name)

    # The connection.

    @property
    def state(self) -> str:
        """The connection's state, as the client reports it."""
        return self._client.get_connection_state()  # type: ignore[no-any-return]

    @property
    def connected(self) -> bool:
        """Whether a call handed to the SDK now would be sent now.

        The state alone proves nothing: the SDK learns a moment late that its socket is closing, and
        before 0.24.4 a clean close leaves it "connected" for good (docs/engine-notes.md, 6).
        """
        client = self._client
        if client.get_connection_state() != "connected":
            return False
        socket = getattr(getattr(client, "_ws", None), "state", None)
        if socket is self._open:
            return True
        if getattr(socket, "name", "OPEN") != "OPEN":
            return False
        self._open = socket  # an enum member; its name, which takes longer, is read once
        return True

    @property
    def socket(self) -> object:
        """The client's current socket, to be compared with an earlier one; None for none."""
        return getattr(self._client, "_ws", None)

    @property
    def receives(self) -> bool:
        """Whether the client still reads from its connection, as far as it shows that."""
        receiver = getattr(self._client, "_receiver_task", None)
        return receiver is None or not receiver.done()

    @property
    def fatal_error(self) -> Exception | None:
        """The error for which the engine rejected this worker, or None."""
        error = getattr(self._client, "_fatal_error", None)
        return error if isinstance(error, Exception) else None

    def listen(self, changed: Callable[[], None]) -> bool:
        """Have the client report changes of its connection's state (0.21.8).

        Args:
            changed: Is called on the SDK's thread, and once on this one.

        Returns:
            Whether it reports them.
        """
        subscribe = getattr(self._client, "add_connection_state_listener", None)
        if not callable(subscribe):
            return False
        # The state of the moment comes on the thread that subscribes, and changes on the SDK's
        # own: a state may be older than the one before it, so it is read anew.
        subscribe(lambda _: changed())
        return True

    # The event loop and its thread.

    @property
    def on_loop_thread(self) -> bool:
        """Whether this code runs on the SDK's thread, where a sync call would wait for itself."""
        if self.thread_ident not in {None, threading.get_ident()}:
            return False
        # The ident of a thread that has ended may be another one's by now.
        return threading.current_thread() is getattr(self._client, "_thread", None)

    @property
    def loop_ended(self) -> bool:
        """Whether the client's own loop has stopped: any use of the client would hang."""
        return not (self.own_loop is None or self.own_loop.is_running())

    # Calls.

    def call(self, request: dict[str, Any]) -> Any:
        """Call a function, in the client's own way, and wait for the answer."""
        call = getattr(self._client, "trigger", None) or self._client.call
        return call(request)

    @property
    def default_timeout_ms(self) -> float | None:
        """The timeout of a call that names none, where the user has set one."""
        options = getattr(self._client, "_options", None)
        default = getattr(options, "invocation_timeout_ms", None)
        return default if isinstance(default, int | float) and default > 0 else None

    def dispatches_locally(self, request: dict[str, Any]) -> bool:
        """Whether the SDK (0.25) would run this call in the process itself."""
        functions = getattr(self._client, "_functions", None)
        prepare = getattr(self._client, "_prepare_call", None)
        if not functions or prepare is None or request.get("function_id") not in functions:
            return False
        try:
            return getattr(prepare(request), "local", None) is not None
        except Exception:
            return False  # when in doubt a call is remote

    def check_sendable(
        self, request: dict[str, Any], *, local: bool, send_check: SendCheck | None
    ) -> None:
        """One more look at a call, in the step of the SDK's loop in which it is sent.

        Raises:
            SendRefused: It must not be sent now.
            NotConnectedError: The same, for a call without a send check.
        """
        if local and self.dispatches_locally(request):
            return
        # Nothing has checked yet whether a call that was local can be sent.
        if not self.connected or (send_check is not None and (local or not send_check.may_send())):
            raise unsent(send_check)

    # Registrations.

    @property
    def worker_name(self) -> str:
        """The name this client registers under, as its SDK works it out."""
        with suppress(Exception):
            name = self._client._get_worker_metadata()["name"]  # noqa: SLF001 - no public way
            if isinstance(name, str) and name:
                return name
        return f"{platform.node()}:{os.getpid()}"

    def register_function(self, function_id: Any, handler: Any, **options: Any) -> Any:
        """Register a function; returns the SDK's reference."""
        return self._client.register_function(function_id, handler, **options)

    def checked_trigger(self, trigger: Any) -> Any:
        """A trigger as the SDK would keep it; see `trigger_registration.checked_trigger`."""
        return trigger_registration.checked_trigger(self._client, trigger)

    def register_trigger(self, trigger: Any) -> tuple[Any, str | None]:
        """Register a trigger silently; returns the SDK's reference and the trigger's id."""
        return trigger_registration.register_trigger(self._client, trigger)

    def forget_trigger(self, trigger_id: str | None) -> bool:
        """Keep the SDK from registering it again; see `trigger_registration.forget_trigger`."""
        return trigger_registration.forget_trigger(self._client, trigger_id)

    def warn_of_deprecation(self, api: str) -> None:
        """Warn at the user's line; see `trigger_registration.warn_of_deprecation`."""
        trigger_registration.warn_of_deprecation(self._client, api)

    @property
    def handlers(self) -> dict[str, Any]:
        """The client's own table of handlers, by function id; an empty one where it shows none."""
        functions = getattr(self._client, "_functions", None)
        return functions if isinstance(functions, dict) else {}

    def intercept(self, wrap: Callable[[Receive], Receive]) -> None:
        """Put something around what receives the client's frames, where that can be done.

        Args:
            wrap: Is given what receives a frame; returns what does so from now on.
        """
        receive: Receive | None = getattr(self._client, "_handle_message", None)
        if receive is not None:
            with suppress(AttributeError):
                self._client._handle_message = wrap(receive)  # noqa: SLF001 - no public way

    # The end.

    def shutdown(self) -> None:
        """Shut the client down, from any thread but its own."""
        self._client.shutdown()

    async def shutdown_async(self) -> None:
        """Shut the client down, on its own thread."""
        await self._client.shutdown_async()

    def stop(self) -> None:
        """Close the socket and stop the loop of a client whose shutdown failed half-way."""
        loop = self.own_loop
        if loop is not None and loop.is_running():
            transport = getattr(self.socket, "transport", None)
            if isinstance(transport, asyncio.Transport):
                call_soon(loop, transport.abort)  # the shutdown did not get to it
            # A moment later: the caller on that loop still has to learn of its end.
            call_soon(loop, loop.call_later, 0.01, loop.stop)
        thread = getattr(self._client, "_thread", None)
        if isinstance(thread, threading.Thread) and not self.on_loop_thread:
            thread.join(5)
