"""Decides which functions to poll next, and what an answer means for their ownership.

One request covers up to 32 ids. With more functions, not all are polled each time. But a worker's
functions leave with it: one of them stands for all that it owns, and if that one is gone, the
others are polled at once. Knows nothing of I/O, and has no clock of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from iii_resilience.handling.registration.entries import (
    RETRY_MOST,
    FunctionEntry,
    RegistrationState,
    TriggerEntry,
)
from iii_resilience.handling.registration.registrations import RegistrationTable
from iii_resilience.handling.registration.trigger_types import rule_of
from iii_resilience.sdk.engine_api import IDS_AT_ONCE, FunctionStatus
from iii_resilience.telemetry import worker_events

# The engine may not have seen a registration that is this young, in seconds: it is believed to be
# missing only when it is missing twice.
_YOUNG = 1.0
_MISSES = 2
_LOOK_AGAIN = 0.05
_TRIES_AT_ONCE = 3

_MISSING = FunctionStatus(there=False)


class OwnershipPolling:
    """The questions about one client's functions.

    Args:
        served: Its functions.
        name: Its own name, as the engine knows it.
    """

    def __init__(self, served: RegistrationTable, name: str) -> None:
        self._served = served
        self.name = name
        self._suspects: dict[str, None] = {}  # to be checked before all others
        self._turn = 0

    def check_next(self, function_ids: Iterable[str]) -> None:
        """These are checked next."""
        self._suspects.update(dict.fromkeys(function_ids))

    def next_ids(self) -> list[str]:
        """What to check now; empty if nothing is served."""
        entries = self._served.functions()
        known = {entry.function_id for entry in entries}
        chosen = dict.fromkeys([i for i in self._suspects if i in known][:IDS_AT_ONCE])
        self._suspects = {i: None for i in self._suspects if i in known and i not in chosen}
        for sample in self._samples(entries)[: IDS_AT_ONCE // 2]:
            if len(chosen) < IDS_AT_ONCE:
                chosen[sample] = None
        for _ in range(len(entries)):
            if len(chosen) >= min(IDS_AT_ONCE, len(entries)):
                break
            self._turn = (self._turn + 1) % len(entries)
            chosen[entries[self._turn].function_id] = None
        return list(chosen)

    @property
    def has_urgent(self) -> bool:
        """Whether something is to be checked at once."""
        return bool(self._suspects)

    def _samples(self, entries: list[FunctionEntry]) -> list[str]:
        """One function of every other owner, a different one every time."""
        by_owner: dict[str, list[str]] = {}
        for entry in entries:
            if entry.state is RegistrationState.STANDBY and entry.owner is not None:
                by_owner.setdefault(entry.owner, []).append(entry.function_id)
        return [ids[self._turn % len(ids)] for ids in by_owner.values()]

    def answered(
        self,
        asked: list[str],
        answers: Mapping[str, FunctionStatus],
        now: float,
        asked_at: float | None = None,
    ) -> tuple[list[FunctionEntry], float | None]:
        """Learn from an answer.

        Args:
            asked: The ids that were checked.
            answers: What the engine said of them.
            now: Monotonic time in seconds.
            asked_at: That of the question; an answer that another thread has overtaken is old.

        Returns:
            The functions without an owner that are to be registered again now, and seconds
            until the next poll is due, or None for the usual pace.
        """
        orphans: list[FunctionEntry] = []
        soon: float | None = None
        left: set[str] = set()
        for function_id in asked:
            entry = self._to_learn(function_id, asked_at)
            if entry is None:
                continue
            answer = answers.get(function_id, _MISSING)
            entry.hidden = answer.forbidden
            if answer.forbidden:
                continue
            before = entry.owner if entry.state is RegistrationState.STANDBY else None
            if before is not None and answer.owner != before:
                left.add(before)
            if not answer.there:
                if self._is_orphan(entry, now):
                    orphans.append(entry)
                elif now >= entry.attempts.retry_at:
                    soon = _LOOK_AGAIN
                    self.check_next([function_id])
                self._unowned(entry)
            else:
                self._owned(entry, answer, now)
        if left:
            self.check_next(
                entry.function_id
                for entry in self._served.functions()
                if entry.state is RegistrationState.STANDBY
                and entry.owner in left
                and entry.function_id not in asked
            )
        if orphans:
            # How that went is looked at soon, so that the winner is known.
            self.check_next(entry.function_id for entry in orphans)
            soon = _LOOK_AGAIN
        return orphans, soon

    def _to_learn(self, function_id: str, asked_at: float | None) -> FunctionEntry | None:
        """The entry of a function; None where it is given up, or its answer too old."""
        entry = self._served.function(function_id)
        if entry is None or entry.newest(asked_at):
            return entry
        self.check_next([function_id])
        return None

    def learn(
        self,
        asked: list[str],
        answers: Mapping[str, FunctionStatus],
        now: float,
        asked_at: float | None = None,
    ) -> None:
        """Learn from an answer only how things stand.

        Args:
            asked: The ids that were checked.
            answers: What the engine said of them.
            now: Monotonic time in seconds.
            asked_at: That of the question, as for `answered`.
        """
        for function_id in asked:
            entry, answer = self._served.function(function_id), answers.get(function_id, _MISSING)
            if entry is None or answer.forbidden or not entry.newest(asked_at):
                continue
            if answer.there:
                self._owned(entry, answer, now)
            elif entry.state is not RegistrationState.REJECTED:
                seen = entry.state is not RegistrationState.UNKNOWN
                if seen or now - entry.attempts.at >= _YOUNG:
                    entry.set_state(RegistrationState.MISSING)
                    self._unowned(entry)

    def _owned(self, entry: FunctionEntry, answer: FunctionStatus, now: float) -> None:
        entry.attempts.misses = entry.attempts.tries = 0
        entry.attempts.retry_at = 0.0
        own = answer.owner == self.name
        if own:
            entry.set_state(RegistrationState.OWNER, owner=answer.owner)
        else:
            entry.set_state(RegistrationState.STANDBY, owner=answer.owner, keep_code=True)
        triggers = self._served.triggers(entry.function_id)
        if answer.triggers is None:
            gone: frozenset[tuple[str, str]] = frozenset()
        else:
            ids = {trigger.trigger_id for trigger in triggers}
            others = frozenset(t for t in answer.triggers if t[0] not in ids)
            gone = entry.others - others
            entry.others = others
        for trigger in triggers:
            if trigger.made:
                self._see(trigger, answer, gone, now)
            elif not own:
                self._stand_by(trigger, answer)

    @staticmethod
    def _stand_by(trigger: TriggerEntry, answer: FunctionStatus) -> None:
        """Learn how a trigger stands that the owner of its function is to register."""
        active = answer.triggers is None or any(
            trigger_type == trigger.trigger_type for _, trigger_type in answer.triggers
        )
        trigger.attempts.misses = 0 if active else trigger.attempts.misses + 1
        if active:
            trigger.set_state(RegistrationState.STANDBY, owner=answer.owner)
        elif trigger.state is not RegistrationState.UNKNOWN or trigger.attempts.misses >= _MISSES:
            trigger.set_state(RegistrationState.MISSING, owner=answer.owner)

    def _see(
        self,
        trigger: TriggerEntry,
        answer: FunctionStatus,
        gone: Iterable[tuple[str, str]],
        now: float,
    ) -> None:
        """Learn how a trigger stands that is registered here.

        Args:
            trigger: The trigger.
            answer: What the engine says of its function.
            gone: Ids and types of registrations of others that were there before.
            now: Monotonic time in seconds.
        """
        if answer.triggers is None:
            return
        active = any(
            trigger.trigger_type == trigger_type
            if trigger.trigger_id is None
            else trigger.trigger_id == trigger_id
            for trigger_id, trigger_type in answer.triggers
        )
        lost_with = rule_of(trigger.trigger_type).lost_with
        if active and any(
            trigger_type == trigger.trigger_type
            and (lost_with == "any" or (lost_with == "later" and other not in trigger.older))
            for other, trigger_type in gone
        ):
            trigger.lose(now, taken=True)
            trigger.set_state(RegistrationState.MISSING)
        elif active and not trigger.lost:
            trigger.attempts.misses = trigger.attempts.tries = 0
            trigger.set_state(RegistrationState.OWNER, owner=self.name)
        elif not active and trigger.state is not RegistrationState.REJECTED:
            trigger.attempts.misses += 1
            # The engine may not have seen it yet, as with a function.
            if trigger.attempts.misses >= _MISSES or now - trigger.attempts.at >= _YOUNG:
                trigger.lose(now)
                trigger.set_state(RegistrationState.MISSING)

    def _unowned(self, entry: FunctionEntry) -> None:
        """A trigger does nothing where its function is missing."""
        if entry.state is RegistrationState.MISSING:
            for trigger in self._served.triggers(entry.function_id):
                trigger.set_state(RegistrationState.MISSING)

    def _is_orphan(self, entry: FunctionEntry, now: float) -> bool:
        attempts = entry.attempts
        attempts.misses += 1
        if now < attempts.retry_at or (attempts.misses < _MISSES and now - attempts.at < _YOUNG):
            return False
        if entry.state is not RegistrationState.REJECTED:
            entry.set_state(RegistrationState.MISSING, code=entry.code)
        beyond = attempts.tries + 1 - _TRIES_AT_ONCE
        if beyond > 0:
            # The engine ignores it; to request it every second would change nothing.
            attempts.retry_at = now + min(RETRY_MOST, 2.0**beyond)
            if beyond == 1:
                worker_events.unheeded(entry.function_id)
        return True
