"""The functions and triggers of one client, their state, and how to register them again.

Knows nothing of when that happens, nor of the engine: others pass in what they have learned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any

import attrs

from iii_resilience.core.codes.lookup import find
from iii_resilience.sdk.client_adapter import ClientAdapter
from iii_resilience.telemetry import worker_events

_REFUSED_MOST = 1000  # remembered, of triggers that were not made here


class RegistrationState(StrEnum):
    """How a registration stands."""

    OWNER = "owner"
    """The engine sends its calls here; of a trigger: it is active."""
    STANDBY = "standby"
    """Another living worker owns it."""
    MISSING = "missing"
    """Nobody owns it; of a trigger: it is not active."""
    REJECTED = "rejected"
    """The engine has refused it."""
    UNKNOWN = "unknown"
    """It was not looked at yet, or the engine does not answer that question."""


@attrs.frozen
class Registration:
    """How one function or trigger stands.

    Attributes:
        kind: ``function`` or ``trigger``.
        id: The function's id, or the id that the SDK gave the trigger (empty where it tells none).
        state: How it stands.
        since: Since when, in seconds since 1970.
        function_id: The function; of a trigger: the one it calls.
        trigger_type: The trigger's type; None for a function.
        owner: The name of the worker that owns it, where that is known.
        code: Why it is missing or was rejected, where the engine has said so.
        remedy: What to do about it.
    """

    kind: str
    id: str
    state: RegistrationState
    since: float
    function_id: str
    trigger_type: str | None = None
    owner: str | None = None
    code: str | None = None
    remedy: str | None = None


@attrs.define
class RegistrationAttempts:
    """How often a registration was made again, and when that may be done next.

    Attributes:
        at: Monotonic time when it was made, or made again, or when its connection began.
        tries: How often it was made again since it was last seen.
        misses: How often in a row nobody owned it.
        retry_at: Monotonic time before which it is not made again.
    """

    at: float = attrs.field(factory=time.monotonic)
    tries: int = 0
    misses: int = 0
    retry_at: float = 0.0


@attrs.define(eq=False)
class Entry:
    """One registration, and how to make it again.

    Attributes:
        kind: ``function`` or ``trigger``.
        function_id: The function; of a trigger: the one it calls.
        register: Makes it again; returns the SDK's reference.
        ref: The SDK's current reference.
        trigger_type: The trigger's type; None for a function.
        trigger_id: The id the SDK gave the trigger, where it can be known.
        attempts: How it was made again so far.
        gone: Whether its user has given it up.
    """

    kind: str
    function_id: str
    register: Callable[[], Any]
    ref: Any = None
    trigger_type: str | None = None
    trigger_id: str | None = None
    attempts: RegistrationAttempts = attrs.field(factory=RegistrationAttempts)
    gone: bool = False
    state: RegistrationState = RegistrationState.UNKNOWN
    since: float = attrs.field(factory=time.time)
    owner: str | None = None
    code: str | None = None

    def set_state(
        self, state: RegistrationState, *, owner: str | None = None, code: str | None = None
    ) -> None:
        """What was learned of it; a change is logged and counted.

        Args:
            state: How it stands.
            owner: Who owns it, where that is known.
            code: Why it does not stand well.
        """
        before, self.owner, self.code = self.state, owner, code
        if state is before:
            return
        self.state, self.since = state, time.time()
        worker_events.registration_changed(
            self.kind, self.function_id, self.trigger_type, before, state, owner=owner, code=code
        )

    def described(self) -> Registration:
        """What is told of it."""
        # To stand by is no trouble, whatever the engine calls it.
        well = self.state in {RegistrationState.OWNER, RegistrationState.STANDBY}
        row = find(self.code) if self.code is not None and not well else None
        return Registration(
            self.kind,
            self.function_id if self.kind == "function" else self.trigger_id or "",
            self.state,
            self.since,
            self.function_id,
            self.trigger_type,
            self.owner,
            self.code,
            _REMEDIES.get((self.kind, self.state)) if row is None else row.remedy,
        )


_REMEDIES = {
    (
        "function",
        RegistrationState.MISSING,
    ): "keep it registered: resilient(worker, keep_registered=True)",
    ("trigger", RegistrationState.MISSING): "start the worker that provides triggers of this type",
    ("function", RegistrationState.REJECTED): "see the engine's log for what it refuses",
    ("trigger", RegistrationState.REJECTED): "see the engine's log for what it refuses",
}


class RegistrationTable:
    """The functions and triggers of one client.

    Args:
        client: The client.
        added: Is called with every function that is registered, or is given a trigger.
    """

    def __init__(self, client: ClientAdapter, added: Callable[[Entry], None]) -> None:
        self._client = client
        self._added = added
        # Held while something is made, made again or given up, so that these do not cross.
        self._making = threading.RLock()
        self._functions: dict[str, Entry] = {}
        self._triggers: list[Entry] = []
        self._refused: dict[str, str] = {}  # codes, by the ids of triggers

    def add_function(self, function_id: Any, handler: Any, options: dict[str, Any]) -> Reference:
        """Register a function.

        Raises:
            Exception: Whatever the SDK raises.
        """

        def register() -> Any:
            return self._client.register_function(function_id, handler, **options)

        entry = Entry("function", function_id, register)
        with self._making:
            # There before it is sent: the engine may refuse it before the SDK's call returns.
            before = self._functions.get(function_id)
            self._functions[function_id] = entry
            try:
                entry.ref = register()
            except BaseException:
                if before is None:
                    del self._functions[function_id]
                else:
                    self._functions[function_id] = before
                raise
        self._added(entry)
        return Reference(self, entry)

    def add_trigger(self, trigger: Any) -> Reference:
        """Register a trigger, as a dict or the SDK's own class.

        Raises:
            Exception: Whatever the SDK raises.
        """
        read = trigger.get if isinstance(trigger, dict) else _attributes_of(trigger)
        entry = Entry(
            "trigger",
            str(read("function_id")),
            lambda: self._client.register_trigger(trigger),
            trigger_type=read("type"),
        )
        with self._making:
            self._triggers.append(entry)  # there before it is sent, as a function is
            try:
                self._make_trigger(entry)
            except BaseException:
                self._triggers.remove(entry)
                raise
        function = self.function(entry.function_id)
        if function is not None:
            self._added(function)
        return Reference(self, entry)

    def again(self, entry: Entry) -> None:
        """Make a function's registration again, and those of its triggers with it.

        Raises:
            Exception: Whatever the SDK raises; the function is tried again later.
        """
        with self._making:
            if entry.gone:
                return
            entry.attempts.tries += 1
            entry.attempts.at = time.monotonic()
            with suppress(Exception):  # it may never have come to be
                entry.ref.unregister()
            entry.ref = entry.register()
            for trigger in self._triggers:
                if trigger.function_id == entry.function_id:
                    with suppress(Exception):
                        trigger.ref.unregister()
                    self._make_trigger(trigger)

    def give_up(self, entry: Entry) -> None:
        """Its user does not want it any longer."""
        with self._making:
            if not entry.gone:
                entry.gone = True
                if entry.kind == "function":
                    self._functions.pop(entry.function_id, None)
                else:
                    self._triggers.remove(entry)
            entry.ref.unregister()

    def functions(self) -> list[Entry]:
        """The functions, in the order of their registration."""
        return list(self._functions.values())

    def function(self, function_id: str) -> Entry | None:
        """One function, or None where it is not served here."""
        return self._functions.get(function_id)

    def triggers(self, function_id: str | None = None) -> list[Entry]:
        """The triggers, of one function or of all."""
        return [t for t in tuple(self._triggers) if function_id in {None, t.function_id}]

    def trigger_refused(self, trigger_id: str, code: str) -> None:
        """The engine has refused a trigger, whose id may not be known yet.

        Args:
            trigger_id: The id the SDK gave it.
            code: The engine's code.
        """
        if len(self._refused) >= _REFUSED_MOST:
            self._refused.clear()
        self._refused[trigger_id] = code
        for trigger in self.triggers():
            if trigger.trigger_id == trigger_id:
                trigger.set_state(RegistrationState.REJECTED, code=code)

    def _make_trigger(self, entry: Entry) -> None:
        before = self._client.trigger_ids
        entry.ref = entry.register()
        made = list(self._client.trigger_ids - before)
        entry.attempts.at = time.monotonic()
        if entry.state is RegistrationState.REJECTED:
            entry.set_state(RegistrationState.UNKNOWN)
        entry.trigger_id = made[0] if len(made) == 1 else None
        code = self._refused.pop(entry.trigger_id or "", None)
        if code is not None:
            entry.set_state(RegistrationState.REJECTED, code=code)


class Reference:
    """What `register_function` and `register_trigger` return: the SDK's reference, kept current.

    Everything but `unregister` is the SDK's own.
    """

    def __init__(self, served: RegistrationTable, entry: Entry) -> None:
        self._served = served
        self._entry = entry

    def unregister(self) -> None:
        """Take the registration back, for good."""
        self._served.give_up(self._entry)

    def __getattr__(self, name: str) -> Any:
        if name in {"_served", "_entry"}:  # not made yet: copying and pickling look for them
            raise AttributeError(name)
        return getattr(self._entry.ref, name)

    def __repr__(self) -> str:
        return f"resilient({self._entry.ref!r})"


def _attributes_of(value: Any) -> Callable[[str], Any]:
    return lambda name: getattr(value, name, None)
