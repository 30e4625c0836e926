"""The functions and triggers of one client, and how to register them again.

Knows nothing of when that happens, nor of the engine: others pass in what they have learned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from iii_resilience.handling.registration.entries import (
    RETRY_MOST,
    Entry,
    FunctionEntry,
    RegistrationState,
    TriggerEntry,
)
from iii_resilience.handling.registration.trigger_types import rule_of
from iii_resilience.sdk.client_adapter import ClientAdapter
from iii_resilience.telemetry import logger

_REFUSED_MOST = 1000  # remembered, of triggers that were not made here
_RETRY_FIRST = 0.25  # seconds, doubled with each try

_WANTED = {
    RegistrationState.OWNER: True,
    RegistrationState.STANDBY: False,
    RegistrationState.REJECTED: False,
}
"""Whether a function in that state has its triggers registered here."""


class RegistrationTable:
    """The functions and triggers of one client.

    Args:
        client: The client.
        added: Is called with every function that is registered, or is given a trigger.

    Attributes:
        by_ownership: Whether who owns a function decides who registers its triggers; otherwise
            each is registered at once.
        leaving: Whether this worker leaves. Then only its user registers something; what the keeper
            still had to do is dropped.
    """

    def __init__(self, client: ClientAdapter, added: Callable[[FunctionEntry], None]) -> None:
        self._client = client
        self._added = added
        self.by_ownership = False
        self.leaving = False
        # Held while something is made, made again or given up, so that these do not cross.
        self._making = threading.RLock()
        self._functions: dict[str, FunctionEntry] = {}
        self._triggers: list[TriggerEntry] = []
        self._refused: dict[str, str] = {}  # codes, by the ids of triggers

    def add_function(self, function_id: Any, handler: Any, options: dict[str, Any]) -> Reference:
        """Register a function.

        Raises:
            Exception: Whatever the SDK raises.
        """

        def register() -> Any:
            return self._client.register_function(function_id, handler, **options)

        entry = FunctionEntry("function", function_id, register=register)
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
        trigger = self._client.checked_trigger(trigger)
        read = trigger.get if isinstance(trigger, dict) else _attributes_of(trigger)
        entry = TriggerEntry(
            "trigger",
            str(read("function_id")),
            read("type"),
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

    def again(self, entry: FunctionEntry) -> None:
        """Make a function's registration again.

        Raises:
            Exception: Whatever the SDK raises; the function is tried again later.
        """
        with self._making:
            if entry.gone or self.leaving:
                return
            entry.attempts.tries += 1
            entry.attempts.at = time.monotonic()
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
                if not (trigger.gone or trigger.made or self.leaving):
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
                if trigger.gone or wanted is None or self.leaving:
                    continue
                if not wanted:
                    self._withdraw(trigger)
                elif not trigger.made or trigger.lost:
                    if now >= trigger.attempts.retry_at:
                        self._try_trigger(trigger, now)
                    if not trigger.made or trigger.lost:
                        waiting.append(trigger.attempts.retry_at)
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
                and self._client.forget_trigger(trigger.trigger_id)
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

    def functions(self) -> list[FunctionEntry]:
        """The functions, in the order of their registration."""
        return list(self._functions.values())

    def function(self, function_id: str) -> FunctionEntry | None:
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
        if function.attempts.tries:  # it was registered again, and not looked at since
            return None
        return _WANTED.get(function.state)

    def _try_trigger(self, entry: TriggerEntry, now: float) -> None:
        try:
            self._make_trigger(entry, now)
        except Exception as error:
            entry.failure = type(error).__name__
            wait = min(RETRY_MOST, _RETRY_FIRST * 2.0**entry.attempts.tries)
            entry.attempts.retry_at = now + wait
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
        entry.attempts.tries += 1
        if before is not None and not rule.overlap:
            entry.made = False
            with suppress(Exception):
                before.unregister()
        entry.ref, entry.trigger_id = self._client.register_trigger(entry.trigger)
        entry.made, entry.lost, entry.taken, entry.failure = True, False, False, None
        entry.attempts.at, entry.attempts.misses = now, 0
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
        entry.made, entry.trigger_id = False, None
        entry.attempts.tries, entry.attempts.retry_at = 0, 0.0
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
