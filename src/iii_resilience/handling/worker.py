"""The worker's side of one client: what `resilient(worker)` does for its functions.

Delegates to `hardening` and `registration`. Knows nothing of outgoing calls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from iii_resilience.core.errors import NotConnectedError
from iii_resilience.core.guards.concurrency_limit import Limit
from iii_resilience.core.lazy_imports import lazy_module
from iii_resilience.handling.decorators.relay_needed import (
    expect_relay,
    relayed_here,
    store_to_relay,
)
from iii_resilience.handling.hardening.capacity import SAME_AS_WORKER
from iii_resilience.handling.hardening.harden import Hardener, Hardening
from iii_resilience.handling.hardening.observe_hooks import harden_hooks
from iii_resilience.handling.hardening.running_handlers import Running
from iii_resilience.handling.health import Health
from iii_resilience.handling.registration.drain import Drained, Drainer
from iii_resilience.handling.registration.entries import (
    FunctionEntry,
    Registration,
    RegistrationState,
)
from iii_resilience.handling.registration.keeper import KeptClient, keeper
from iii_resilience.handling.registration.registrations import Reference, RegistrationTable
from iii_resilience.handling.registration.standby import Standby
from iii_resilience.sdk.connection import Connection
from iii_resilience.sdk.engine_api import FUNCTIONS_INFO, IDS_AT_ONCE
from iii_resilience.sdk.frame_tap import watch

if TYPE_CHECKING:
    from iii_resilience.handling.relay import relay_loop
    from iii_resilience.handling.relay.hand_over import RelayableStore
else:
    # A program without a relay needs neither it nor the stores.
    relay_loop = lazy_module("iii_resilience.handling.relay.relay_loop")

_ASK_FOR = 1.5  # seconds
_HAND_OVER = 0.5  # seconds that a shutdown may take for it
_LAST_RECEIPT = 1.0  # seconds for the receipt of the message that the relay is handing over


class Handlers:
    """The functions that one client serves.

    Args:
        connection: The client's connection.
        how: How handlers are hardened.
        keep_registered: Whether functions without an owner are registered again.
        relay: The store whose messages are handed over, or None.
    """

    def __init__(
        self,
        connection: Connection,
        how: Hardening,
        *,
        keep_registered: bool,
        relay: RelayableStore | None = None,
    ) -> None:
        self._connection = connection
        self._keeps = keep_registered
        self._hardener = Hardener(how, running := Running())
        self._running = running
        self._served = RegistrationTable(connection.client, self._added)
        name = connection.client.worker_name
        self._standby = Standby(connection, self._served, name, lambda work: keeper().do(work))
        self._kept = KeptClient(connection, self._served, name, self._standby.tell_owners)
        self._leave = Drainer(
            connection, self._served, running, self._standby if keep_registered else None
        )
        self._lock = threading.Lock()
        self._started = False
        self._connected_since = time.time() if connection.connected else None
        connection.on_change(self._connection_changed)
        self._relay = None if relay is None else relay_loop.Relay(connection, relay)
        if self._relay is not None:
            relayed_here(relay)
            self._relay.start()

    # Registering.

    def register_function(
        self, function_id: Any, handler: Any, limit: Limit | None, options: dict[str, Any]
    ) -> Any:
        """See `iii_resilience.client.resilient.Resilient.register_function`."""
        self._connection.check_usable()
        if not isinstance(function_id, str):  # the SDK says what is wrong with it
            return self._connection.client.register_function(function_id, handler, **options)
        if not (callable(handler) or limit in (None, SAME_AS_WORKER)):
            raise TypeError(
                f"{function_id}: limit applies to handlers that run in this worker, and this "
                "function has none"
            )
        self._start()
        if (store := store_to_relay(handler)) is not None:
            expect_relay(store, function_id)
        if callable(handler):
            handler = self._hardener.harden(function_id, handler, limit)
        if options.get("observe") is not None:
            options = {**options, "observe": harden_hooks(function_id, options["observe"])}
        return self._served.add_function(function_id, handler, options)

    def register_trigger(self, trigger: Any) -> Reference:
        """See `iii_resilience.client.resilient.Resilient.register_trigger`."""
        self._connection.check_usable()
        self._connection.client.warn_of_deprecation("register_trigger")
        self._start()
        return self._served.add_trigger(trigger)

    def _start(self) -> None:
        """With the first registration: a client that serves nothing needs none of this."""
        with self._lock:
            if self._started or self._served.leaving:
                return
            self._started = True
        watch(self._connection.client, self._rejected)
        if self._keeps:
            self._served.by_ownership = True
            self._standby.register(self._kept)
            keeper().add(self._kept)

    def _added(self, entry: FunctionEntry) -> None:
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
                entry.set_state(RegistrationState.REJECTED, code=code)
            return
        refused = self._served.function(function_id) if isinstance(function_id, str) else None
        if refused is not None:
            owned = bool(frame.get("owner_worker_id"))
            state = RegistrationState.STANDBY if owned else RegistrationState.REJECTED
            refused.set_state(state, owner=refused.owner if owned else None, code=code)

    def _connection_changed(self) -> None:
        """Runs on the SDK's thread."""
        if self._connection.closed:
            self.stop_keeping()
        self._connected_since = time.time() if self._connection.connected else None
        if self._keeps and self._started:
            if not self._connection.connected:
                self._served.disconnected()
            keeper().do(self._kept.connection_changed)

    # How it stands.

    def registrations(self) -> tuple[Registration, ...]:
        """See `iii_resilience.client.resilient.Resilient.registrations`."""
        self._connection.check_process()
        ids = [entry.function_id for entry in self._served.functions()]
        if ids:
            self._ask(ids)
        entries = (*self._served.functions(), *self._served.triggers())
        described = tuple(entry.described() for entry in entries)
        if not self._connection.closed:
            return described
        # Who owns it now is not known here, and what was known is no longer true.
        unknown, code = RegistrationState.UNKNOWN, NotConnectedError.code
        return tuple(
            attrs.evolve(one, state=unknown, owner=None, code=code, remedy=None)
            for one in described
        )

    def health(self, zombie_after: float) -> Health:
        """See `iii_resilience.client.resilient.Resilient.health`."""
        registrations = self.registrations()
        if not (registrations or self._keeping):
            self._ask([FUNCTIONS_INFO])
        running = [call for call in self._running.now() if not call.waiting]
        asked_at = self._kept.asked_at
        silent = None if asked_at is None else time.monotonic() - asked_at
        return Health(
            connected=self._connection.connected,
            connected_since=self._connected_since if self._connection.connected else None,
            registrations=registrations,
            in_flight=len(running),
            oldest=running[0] if running else None,
            limits=tuple(
                limit
                for limit in self._hardener.limits()
                if limit.function_id is None or self._served.function(limit.function_id)
            ),
            silent_for=silent,
            zombie=self._zombie(silent, zombie_after),
            relay=None if self._relay is None else self._relay.status,
        )

    def _zombie(self, silent: float | None, after: float) -> str | None:
        connection = self._connection
        if connection.closed or connection.client.state != "connected":
            return None
        if not connection.loop.is_running():
            return "the SDK's loop has ended under a connection that is open"
        if not connection.client.receives:
            return "the connection is not being read any more"
        if silent is not None and silent > after:
            return f"the engine has not answered for {silent:.0f} s"
        return None

    @property
    def _keeping(self) -> bool:
        return self._keeps and self._started and not self._served.leaving

    def _ask(self, ids: list[str]) -> None:
        """Query the engine now, so that the state returned is current."""
        connection, kept = self._connection, self._kept
        if (
            connection.closed
            or connection.client.on_loop_thread
            or not connection.loop.is_running()
        ):
            return
        if not connection.connected:
            kept.disconnected()
            return
        if self._keeping and not kept.answers:
            return
        until = time.monotonic() + _ASK_FOR
        for start in range(0, len(ids), IDS_AT_ONCE):
            asked = ids[start : start + IDS_AT_ONCE]
            kept.asked_at = kept.asked_at or time.monotonic()
            try:
                future = connection.run(kept.ask(asked))
                answers, asked_at = future.result(max(0.0, until - time.monotonic()))
            except TimeoutError:
                return
            except NotConnectedError:  # the client has just ended
                kept.disconnected()
                return
            except Exception as error:
                kept.not_answered(error)
                return
            kept.asked_at = None
            kept.rounds.learn(asked, answers, time.monotonic(), asked_at)
        if self._keeping:
            keeper().do(kept.look_again)

    # Leaving.

    def stop_keeping(self) -> None:
        """Nothing is registered again from now on."""
        self._served.leaving = True
        keeper().remove(self._kept)
        self._hardener.log_rest()

    def leave(self) -> None:
        """Before a shutdown: a standby that is known takes over what is owned here."""
        closed, client = self._connection.closed, self._connection.client
        if self._relay is not None and not client.on_loop_thread:
            self._relay.stop(0.0 if closed else _LAST_RECEIPT)
        if self._keeping and not (closed or client.on_loop_thread):
            self.stop_keeping()
            self._leave.hand_over(_HAND_OVER)

    def drain(self, timeout: float, shutdown: Callable[[], None]) -> Drained:
        """See `iii_resilience.client.resilient.Resilient.drain`."""
        if self._connection.client.on_loop_thread:
            raise RuntimeError(
                "drain() was called on the SDK's own thread, where it would wait for itself. Use "
                "'await worker.drain_async(...)' there"
            )
        self._connection.check_process()
        self.stop_keeping()
        if self._relay is not None:
            # Another one takes over while the handlers here come to their end.
            self._relay.stop(min(timeout, _LAST_RECEIPT))
        if self._connection.closed:
            return Drained({}, (), 0.0)
        return self._leave.drain(timeout, shutdown)
