"""What one client serves: its functions and triggers, how to register them again, how they stand.

Knows nothing of when that is done, nor of the engine: others say what they have learned.
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
from iii_resilience.handling.registration.trigger_types import rule_of
from iii_resilience.sdk.trigger_registration import (
    checked_trigger,
    forget_trigger,
    register_trigger,
)
from iii_resilience.telemetry import logger, worker_events

_REFUSED_MOST = 1000  # remembered, of triggers that were not made here
_RETRY_FIRST = 0.25  # seconds, doubled with each try
_RETRY_MOST = 60.0


class RegistrationState(StrEnum):
    """How a registration stands."""

    OWNER = "owner"
    """The engine sends its calls here; of a trigger: it is active."""
    STANDBY = "standby"
    """Another living worker owns it; of a trigger: the owner of its function registers it."""
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


@attrs.define(eq=False)
class Entry:
    """One registration, and how to make it again.

    Attributes:
        kind: ``function`` or ``trigger``.
        function_id: The function; of a trigger: the one it calls.
        register: Makes it again; returns the SDK's reference.
        ref: The SDK's current reference.
        at: Monotonic time when it was made, or made again, or when its connection began.
        tries: How often it was made again since it was last seen.
        misses: How often in a row nobody owned it.
        retry_at: Monotonic time before which it is not made again.
        gone: Whether its user has given it up.
        hidden: Whether the engine does not say who owns it.
        others: Ids and types of its triggers that others have registered, as last seen.
    """

    # More than 12 attributes: what the keeper counts of a registration belongs to no one else.
    kind: str
    function_id: str
    register: Callable[[], Any]
    ref: Any = None
    trigger_type: str | None = None
    at: float = attrs.field(factory=time.monotonic)
    tries: int = 0
    misses: int = 0
    retry_at: float = 0.0
    gone: bool = False
    hidden: bool = False
    others: frozenset[tuple[str, str]] = frozenset()
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
            self.own_id,
            self.state,
            self.since,
            self.function_id,
            self.trigger_type,
            self.owner,
            self.code,
            self._remedy() if row is None else row.remedy,
        )

    @property
    def own_id(self) -> str:
        """The id under which the engine knows it; empty where that is not known."""
        return self.function_id

    def _remedy(self) -> str | None:
        return _REMEDIES.get((self.kind, self.state))


@attrs.define(eq=False)
class TriggerEntry(Entry):
    """One trigger, and whether it is registered with the SDK at present.

    Attributes:
        trigger: What is registered.
        trigger_id: The id the SDK gave it, where it can be known.
        made: Whether it is registered with the SDK.
        lost: Whether it is registered and known not to work: it is to be registered anew.
        taken: Whether it is lost because another registration was given up.
        older: The ids of others' triggers that were registered before it.
        failure: The class of the exception that the last registration raised, or None.
    """

    trigger: Any = None
    trigger_id: str | None = None
    made: bool = False
    lost: bool = False
    taken: bool = False
    older: frozenset[str] = frozenset()
    failure: str | None = None

    @property
    def own_id(self) -> str:
        """The id that the SDK gave it; empty where it has none."""
        return self.trigger_id or ""

    def lose(self, now: float, *, taken: bool = False) -> None:
        """It is registered, and does not work: it is registered anew, the sooner the newer that is.

        Args:
            now: Monotonic time in seconds.
            taken: Whether another registration was given up, and this one went with it.
        """
        if taken:
            self.tries, self.retry_at, self.taken = 0, 0.0, True
        elif not self.lost:
            self.retry_at = now + min(_RETRY_MOST, 2.0**self.tries)
        self.lost = True

    def _remedy(self) -> str | None:
        if self.state is not RegistrationState.MISSING:
            return super()._remedy()
        if self.failure is not None:
            return f"its registration raised {self.failure}: mend that; it is tried again"
        if self.owner is not None:
            return "the worker that owns its function has none like it; it is made at takeover"
        if self.taken:
            return "another registration of its kind was given up; it is registered again"
        return super()._remedy()


_REMEDIES = {
    (
        "function",
        RegistrationState.MISSING,
    ): "keep it registered: resilient(worker, keep_registered=True)",
    ("trigger", RegistrationState.MISSING): "start the worker that provides triggers of this type",
    ("function", RegistrationState.REJECTED): "see the engine's log for what it refuses",
    ("trigger", RegistrationState.REJECTED): "see the engine's log for what it refuses",
}


_WANTED = {
    RegistrationState.OWNER: True,
    RegistrationState.STANDBY: False,
    RegistrationState.REJECTED: False,
}
"""Whether a function in that state has its triggers registered here."""


class RegistrationTable:
    """The functions and triggers of one client.

    Args:
        client: The SDK's client.
        added: Is called with every function that is registered, or is given a trigger.

    Attributes:
        by_ownership: Whether who owns a function decides who registers its triggers; otherwise
            each is registered at once.
    """

    def __init__(self, client: Any, added: Callable[[Entry], None]) -> None:
        self._client = client
        self._added = added
        self.by_ownership = False
        # Held while something is made, made again or given up, so that these do not cross.
        self._making = threading.RLock()
        self._functions: dict[str, Entry] = {}
        self._triggers: list[TriggerEntry] = []
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
        """Register a trigger, as a dict or the SDK's own class, now or when its function is owned.

        Raises:
            Exception: Whatever the SDK raises.
        """
        trigger = checked_trigger(self._client, trigger)
        read = trigger.get if isinstance(trigger, dict) else _attributes_of(trigger)
        entry = TriggerEntry(
            "trigger",
            str(read("function_id")),
            lambda: None,
            trigger_type=read("type"),
            trigger=trigger,
        )
        with self._making:
            self._triggers.append(entry)  # there before it is sent, as a function is
            try:
                if self._wanted(entry):
                    self._make_trigger(entry, time.monotonic())
            except BaseException:
                self._triggers.remove(entry)
                raise
        function = self.function(entry.function_id)
        if function is not None:
            self._added(function)
        return Reference(self, entry)

    def again(self, entry: Entry) -> None:
        """Make a function's registration again.

        Raises:
            Exception: Whatever the SDK raises; the function is tried again later.
        """
        with self._making:
            if entry.gone:
                return
            entry.tries += 1
            entry.at = time.monotonic()
            with suppress(Exception):  # it may never have come to be
                entry.ref.unregister()
            entry.ref = entry.register()

    def adopt(self, function_id: str, now: float) -> None:
        """Register the triggers of a function whose owner has just handed it over.

        Args:
            function_id: The function.
            now: Monotonic time in seconds.
        """
        with self._making:
            for trigger in self.triggers(function_id):
                if not (trigger.gone or trigger.made):
                    self._try_trigger(trigger, now)
            function = self.function(function_id)
            if function is not None:  # the former owner's: it gave them up before, or will now
                function.others = frozenset()

    def tend(self, now: float) -> float | None:
        """Register each trigger that is wanted here and does not stand; give up the others.

        Args:
            now: Monotonic time in seconds.

        Returns:
            Monotonic time of the next try, or None where nothing waits for one.
        """
        waiting: list[float] = []
        with self._making:
            for trigger in self.triggers():
                wanted = self._wanted(trigger)
                if trigger.gone or wanted is None:
                    continue
                if not wanted:
                    self._withdraw(trigger)
                elif not trigger.made or trigger.lost:
                    if now >= trigger.retry_at:
                        self._try_trigger(trigger, now)
                    if not trigger.made or trigger.lost:
                        waiting.append(trigger.retry_at)
        return min(waiting, default=None)

    def disconnected(self) -> None:
        """Keep the SDK from registering again, on its own, what only an owner may register.

        Takes no lock: it runs on the SDK's thread.
        """
        for trigger in self.triggers():
            decided = self.by_ownership and self.function(trigger.function_id) is not None
            if (
                decided
                and not rule_of(trigger.trigger_type).every_worker
                and forget_trigger(self._client, trigger.trigger_id)
            ):
                trigger.made, trigger.trigger_id = False, None

    def give_up(self, entry: Entry) -> None:
        """Its user does not want it any longer."""
        with self._making:
            if not entry.gone:
                entry.gone = True
                if entry.kind == "function":
                    self._functions.pop(entry.function_id, None)
                else:
                    self._triggers = [trigger for trigger in self._triggers if trigger is not entry]
            if not isinstance(entry, TriggerEntry):
                entry.ref.unregister()
            elif entry.made:
                entry.made = False
                entry.ref.unregister()

    def functions(self) -> list[Entry]:
        """The functions, in the order of their registration."""
        return list(self._functions.values())

    def function(self, function_id: str) -> Entry | None:
        """One function, or None where it is not served here."""
        return self._functions.get(function_id)

    def triggers(self, function_id: str | None = None) -> list[TriggerEntry]:
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
                self._rejected(trigger, code)

    def _wanted(self, trigger: TriggerEntry) -> bool | None:
        """Whether a trigger is to be registered here; None while that is open."""
        function = self.function(trigger.function_id)
        if (
            not self.by_ownership
            or rule_of(trigger.trigger_type).every_worker
            or function is None
            or function.hidden
        ):
            return True
        if function.tries:  # it was registered again, and not looked at since
            return None
        return _WANTED.get(function.state)

    def _try_trigger(self, entry: TriggerEntry, now: float) -> None:
        try:
            self._make_trigger(entry, now)
        except Exception as error:
            entry.failure = type(error).__name__
            entry.retry_at = now + min(_RETRY_MOST, _RETRY_FIRST * 2.0**entry.tries)
            entry.set_state(RegistrationState.MISSING)
            logger.warning(
                "%s: its trigger of type %s could not be registered (%s); it is tried again",
                entry.function_id,
                entry.trigger_type,
                entry.failure,
                extra={"function_id": entry.function_id},
            )

    def _make_trigger(self, entry: TriggerEntry, now: float) -> None:
        rule, before = rule_of(entry.trigger_type), entry.ref if entry.made else None
        entry.tries += 1
        if before is not None and not rule.overlap:
            entry.made = False
            with suppress(Exception):
                before.unregister()
        entry.ref, entry.trigger_id = register_trigger(self._client, entry.trigger)
        entry.made, entry.lost, entry.taken, entry.failure = True, False, False, None
        entry.at, entry.misses = now, 0
        function = self.function(entry.function_id)
        if function is not None:
            entry.older = frozenset(other for other, _ in function.others)
        if before is not None and rule.overlap:
            with suppress(Exception):
                before.unregister()
        code = self._refused.pop(entry.trigger_id or "", None)
        if code is not None:
            self._rejected(entry, code)

    def _withdraw(self, entry: TriggerEntry) -> None:
        if not entry.made:
            return
        entry.made, entry.trigger_id, entry.tries, entry.retry_at = False, None, 0, 0.0
        with suppress(Exception):
            entry.ref.unregister()

    @staticmethod
    def _rejected(entry: TriggerEntry, code: str) -> None:
        entry.set_state(RegistrationState.REJECTED, code=code)
        entry.lose(time.monotonic())


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
