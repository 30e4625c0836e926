"""The handler's door of one client: what `resilient(worker)` does for functions it serves.

Knows nothing of calls that go out. Each part is done in a room of its own.
"""

from __future__ import annotations

import asyncio
import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from iii_resilience.handling.hardening.harden import Hardener, Hardening
from iii_resilience.handling.hardening.running_handlers import Running
from iii_resilience.handling.health import Health
from iii_resilience.handling.registration.drain import Drained, Leave
from iii_resilience.handling.registration.keeper import Kept, keeper
from iii_resilience.handling.registration.ownership import MOST
from iii_resilience.handling.registration.registrations import (
    Entry,
    Reference,
    Registration,
    Served,
    Standing,
)
from iii_resilience.handling.registration.standby import Standby
from iii_resilience.sdk.connection import Link
from iii_resilience.sdk.engine_api import FUNCTIONS_INFO
from iii_resilience.sdk.frame_tap import watch

_ASK_FOR = 1.5  # seconds


class Handlers:
    """The functions that one client serves.

    Args:
        link: The client's connection.
        how: How handlers are hardened.
        keep_registered: Whether functions that nobody owns are registered again.
    """

    def __init__(self, link: Link, how: Hardening, *, keep_registered: bool) -> None:
        self._link = link
        self._keeps = keep_registered
        self._hardener = Hardener(how, running := Running())
        self._running = running
        self._served = Served(link.client, self._added)
        name = _own_name(link.client)
        self._standby = Standby(link, self._served, name, lambda work: keeper().do(work))
        self._kept = Kept(link, self._served, name, self._standby.tell_owners)
        self._leave = Leave(link, self._served, running, self._standby if keep_registered else None)
        self._lock = threading.Lock()
        self._started = False
        self._connected_since = time.time() if link.connected else None
        self._leaving = False
        self._pid = os.getpid()
        link.on_change(self._connection_changed)

    # Registering.

    def register_function(self, function_id: Any, handler: Any, options: dict[str, Any]) -> Any:
        """See `iii_resilience.client.resilient.Resilient.register_function`."""
        self._link.check_usable()
        if not isinstance(function_id, str):  # the SDK says what is wrong with it
            return self._link.client.register_function(function_id, handler, **options)
        self._start()
        if callable(handler):
            handler = self._hardener.harden(function_id, handler)
        return self._served.add_function(function_id, handler, options)

    def register_trigger(self, trigger: Any) -> Reference:
        """See `iii_resilience.client.resilient.Resilient.register_trigger`."""
        self._link.check_usable()
        self._start()
        return self._served.add_trigger(trigger)

    def _start(self) -> None:
        """With the first registration: a client that serves nothing needs none of this."""
        with self._lock:
            if self._started or self._leaving:
                return
            self._started = True
        watch(self._link.client, self._rejected)
        if self._keeps:
            self._standby.register(self._kept)
            keeper().add(self._kept)

    def _added(self, entry: Entry) -> None:
        if self._keeps:
            keeper().do(lambda _: self._kept.added(entry))

    def _rejected(self, frame: dict[str, Any]) -> None:
        """The engine has refused a registration. Runs on the SDK's thread."""
        if frame.get("type") == "triggerregistrationresult":
            error = frame.get("error")
            if error:
                code = error.get("code") if isinstance(error, dict) else None
                self._served.trigger_refused(str(frame.get("id")), str(code))
            return
        code, function_id = str(frame.get("code")), frame.get("function_id")
        if function_id is None:  # the worker itself
            for entry in (*self._served.functions(), *self._served.triggers()):
                entry.stands(Standing.REJECTED, code=code)
            return
        refused = self._served.function(function_id) if isinstance(function_id, str) else None
        if refused is not None:
            owned = bool(frame.get("owner_worker_id"))
            state = Standing.STANDBY if owned else Standing.REJECTED
            refused.stands(state, owner=refused.owner if owned else None, code=code)

    def _connection_changed(self) -> None:
        """Runs on the SDK's thread."""
        if self._link.closed:
            self.stop_keeping()
        self._connected_since = time.time() if self._link.connected else None
        if self._keeps and self._started:
            keeper().do(self._kept.connection_changed)

    # How it stands.

    def registrations(self) -> tuple[Registration, ...]:
        """See `iii_resilience.client.resilient.Resilient.registrations`."""
        self._check_fork()
        ids = [entry.function_id for entry in self._served.functions()]
        if ids and not self._keeping:
            self._ask(ids)
        entries = (*self._served.functions(), *self._served.triggers())
        return tuple(entry.described() for entry in entries)

    def health(self, zombie_after: float) -> Health:
        """See `iii_resilience.client.resilient.Resilient.health`."""
        registrations = self.registrations()
        if not (registrations or self._keeping):
            self._ask([FUNCTIONS_INFO])
        running = self._running.now()
        asked_at = self._kept.asked_at
        silent = None if asked_at is None else time.monotonic() - asked_at
        return Health(
            connected=self._link.connected,
            connected_since=self._connected_since if self._link.connected else None,
            registrations=registrations,
            in_flight=len(running),
            oldest=running[0] if running else None,
            silent_for=silent,
            zombie=self._zombie(silent, zombie_after),
        )

    def _zombie(self, silent: float | None, after: float) -> str | None:
        link = self._link
        if link.closed or link.client.get_connection_state() != "connected":
            return None
        if not link.loop.is_running():
            return "the SDK's loop has ended under a connection that is open"
        receiver = getattr(link.client, "_receiver_task", None)
        if receiver is not None and receiver.done():
            return "nobody reads from the connection any longer"
        if silent is not None and silent > after:
            return f"the engine has not answered for {silent:.0f} s"
        return None

    def _check_fork(self) -> None:
        if os.getpid() != self._pid:
            self._link.check_usable()  # which says what to do

    @property
    def _keeping(self) -> bool:
        return self._keeps and self._started and not self._leaving

    def _ask(self, ids: list[str]) -> None:
        """Without a keeper: ask now, so that what is told is true now."""
        link, kept = self._link, self._kept
        if link.closed or link.on_loop_thread or not link.loop.is_running():
            return
        if not link.connected:
            kept.connection_changed(time.monotonic())
            return
        until = time.monotonic() + _ASK_FOR
        for start in range(0, len(ids), MOST):
            asked = ids[start : start + MOST]
            kept.asked_at = kept.asked_at or time.monotonic()
            future = asyncio.run_coroutine_threadsafe(kept.ask(asked), link.loop)
            try:
                answers = future.result(max(0.0, until - time.monotonic()))
            except TimeoutError:
                return
            except Exception as error:
                kept.not_answered(error)
                return
            kept.asked_at = None
            kept.rounds.learn(asked, answers)

    # Leaving.

    def stop_keeping(self) -> None:
        """Nothing is registered again from now on."""
        self._leaving = True
        keeper().remove(self._kept)

    def drain(self, timeout: float, shutdown: Callable[[], None]) -> Drained:
        """See `iii_resilience.client.resilient.Resilient.drain`."""
        if self._link.on_loop_thread:
            raise RuntimeError(
                "drain() was called on the SDK's own thread, where it would wait for itself. Use "
                "'await worker.drain_async(...)' there"
            )
        self._check_fork()
        self.stop_keeping()
        if self._link.closed:
            return Drained({}, (), 0.0)
        return self._leave.drain(timeout, shutdown)


def _own_name(client: Any) -> str:
    """The name this client registers under, as its SDK works it out."""
    with suppress(Exception):
        name = client._get_worker_metadata()["name"]  # noqa: SLF001 - there is no public way
        if isinstance(name, str) and name:
            return name
    return f"{platform.node()}:{os.getpid()}"
