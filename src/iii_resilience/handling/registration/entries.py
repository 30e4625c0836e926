"""How one registration stands: a function or a trigger, its state, and what to do about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import attrs

from iii_resilience.core.codes.lookup import find
from iii_resilience.telemetry import worker_events

RETRY_MOST = 60.0
"""Seconds between two tries of one registration, at most."""


class RegistrationState(StrEnum):
    """How a registration stands."""

    OWNER = "owner"
    """The engine sends its calls here; of a trigger: it is active."""
    STANDBY = "standby"
    """Another living worker owns it; of a trigger: the owner of its function registers it."""
    MISSING = "missing"
    """It has no owner; of a trigger: it is not active."""
    REJECTED = "rejected"
    """The engine has refused it."""
    UNKNOWN = "unknown"
    """It was not looked at yet, the engine does not answer that question, or this worker is not
    connected (`code` says so)."""


@attrs.frozen
class Registration:
    """How one function or trigger stands.

    Attributes:
        kind: ``function`` or ``trigger``.
        id: The function's id, or the id that the SDK gave the trigger (empty if it gave none).
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
        misses: How often in a row it had no owner.
        retry_at: Monotonic time before which it is not made again.
    """

    at: float = attrs.field(factory=time.monotonic)
    tries: int = 0
    misses: int = 0
    retry_at: float = 0.0


@attrs.define(eq=False)
class Entry:
    """One registration.

    Attributes:
        kind: ``function`` or ``trigger``.
        function_id: The function; of a trigger: the one it calls.
        trigger_type: The trigger's type; None for a function.
        ref: The SDK's current reference.
        attempts: How it was made again so far.
        gone: Whether its user has given it up.
    """

    kind: str
    function_id: str
    trigger_type: str | None = None
    ref: Any = None
    attempts: RegistrationAttempts = attrs.field(factory=RegistrationAttempts)
    gone: bool = False
    state: RegistrationState = RegistrationState.UNKNOWN
    since: float = attrs.field(factory=time.time)
    owner: str | None = None
    code: str | None = None
    # The keeper's thread, the SDK's, and each that looks at the registrations learn how it stands.
    _changing: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def set_state(
        self,
        state: RegistrationState,
        *,
        owner: str | None = None,
        code: str | None = None,
        keep_code: bool = False,
    ) -> None:
        """What was learned of it; a change is logged and counted, once.

        Args:
            state: How it stands.
            owner: Its owner, if known.
            code: Why it does not stand well.
            keep_code: Whether its code stays as it is, where its state does.
        """
        with self._changing:
            before = self.state
            if keep_code and state is before:
                code = self.code
            self.owner, self.code = owner, code
            if state is before:
                return
            self.state, self.since = state, time.time()
        worker_events.registration_changed(
            self.kind, self.function_id, self.trigger_type, before, state, owner=owner, code=code
        )

    def described(self) -> Registration:
        """The public state of the entry."""
        # Standing by is not a problem, whatever the engine calls it.
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


@attrs.define(eq=False, kw_only=True)
class FunctionEntry(Entry):
    """One function, how to make it again, and what is known of its triggers.

    Attributes:
        register: Makes it again; returns the SDK's reference.
        hidden: Whether the engine does not name the owner.
        others: Ids and types of its triggers that others have registered, as last seen.
        asked_at: Monotonic time of the question whose answer was learned last, in seconds.
    """

    register: Callable[[], Any]
    hidden: bool = False
    others: frozenset[tuple[str, str]] = frozenset()
    asked_at: float = 0.0

    def newest(self, asked_at: float | None) -> bool:
        """Whether an answer is to be learned: none is known to a question that was sent later.

        Args:
            asked_at: Monotonic time of its question, in seconds; None where that is not known.
        """
        if asked_at is None:
            return True
        with self._changing:
            if asked_at < self.asked_at:
                return False
            self.asked_at = asked_at
        return True


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
            self.attempts.tries, self.attempts.retry_at, self.taken = 0, 0.0, True
        elif not self.lost:
            self.attempts.retry_at = now + min(RETRY_MOST, 2.0**self.attempts.tries)
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
