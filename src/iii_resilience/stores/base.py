"""The base of stores that are written in Python: every operation changes one row.

Knows nothing of where rows are and how they are locked: each store defines that.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from iii_resilience.stores import transitions
from iii_resilience.stores.protocol import Claim, Record
from iii_resilience.stores.relaying import RELAY_SLOT, Backlog, LeaseLock, OutboxRow
from iii_resilience.stores.transitions import Row, Rule

T = TypeVar("T")

KEY = "key"
MESSAGE = "message"


class LocalStore(ABC):
    """The operations of a `Store`, over rows that a subclass keeps."""

    @abstractmethod
    def _change(self, kind: str, row_id: str, rule: Rule[T], *, lasting: bool = False) -> T:
        """Apply a rule to one row, atomically.

        Args:
            kind: `KEY` or `MESSAGE`.
            row_id: Whose row.
            rule: What becomes of it.
            lasting: Whether the change must survive the machine losing its power. (Every change
                survives the end of the process.)
        """

    @abstractmethod
    def _rows(self, kind: str) -> Iterable[tuple[str, Row]]:
        """Every row of a kind that is kept, with its id."""

    @abstractmethod
    def _waiting(self) -> Iterator[tuple[str, Row]]:
        """The rows of messages that wait to be tried again, the first to be due first."""

    # Keys.

    def claim(self, slot: str, *, fingerprint: str, nonce: str, lease: float, keep: float) -> Claim:
        """See `Keys.claim`."""
        return self._change(KEY, slot, transitions.claim(fingerprint, nonce, lease, keep))

    def renew(self, slot: str, token: int, *, lease: float, keep: float) -> bool:
        """See `Keys.renew`."""
        return self._change(KEY, slot, transitions.renew(token, lease, keep))

    def finish(
        self, slot: str, token: int, outcome: str, *, failed: bool = False, keep: float
    ) -> bool:
        """See `Keys.finish`."""
        rule = transitions.finish(token, outcome, keep, failed=failed)
        return self._change(KEY, slot, rule, lasting=True)

    def release(self, slot: str, token: int) -> bool:
        """See `Keys.release`."""
        return self._change(KEY, slot, transitions.release(token))

    def forget_failure(self, slot: str) -> bool:
        """See `Keys.forget_failure`."""
        return self._change(KEY, slot, transitions.forget_failure())

    # Messages.

    def delivered(self, message: str, *, keep: float) -> int:
        """See `Messages.delivered`."""
        return self._change(MESSAGE, message, transitions.delivered(keep))

    def undelivered(self, message: str, *, keep: float) -> None:
        """See `CountsBack.undelivered`."""
        self._change(MESSAGE, message, transitions.undelivered(keep))

    def note(self, message: str, note: Mapping[str, Any], *, parked: bool, keep: float) -> None:
        """See `Messages.note`."""
        # A parked message is acknowledged next: from then on it stands nowhere else.
        self._change(MESSAGE, message, transitions.note(note, keep, parked=parked), lasting=parked)

    def settle(self, message: str) -> None:
        """See `Messages.settle`."""
        self._change(MESSAGE, message, transitions.settle())

    def records(self) -> Iterator[Record]:
        """See `Messages.records`."""
        for message, row in self._rows(MESSAGE):
            yield transitions.record(message, row)

    def prepare(self, message: str, revision: int) -> int | None:
        """See `Messages.prepare`."""
        return self._change(MESSAGE, message, transitions.prepare(revision))

    def remove(self, message: str, revision: int) -> bool:
        """See `Messages.remove`."""
        return self._change(MESSAGE, message, transitions.remove(revision))

    # Retries that wait, and the relay.

    def arrived(self, message: str, *, keep: float) -> int:
        """See `Postpones.arrived`."""
        return self._change(MESSAGE, message, transitions.arrived(keep))

    def postpone(self, message: str, note: Mapping[str, Any], *, seconds: float) -> None:
        """See `Postpones.postpone`."""
        # The message is acknowledged next, as one that is parked.
        self._change(MESSAGE, message, transitions.postpone(note, seconds), lasting=True)

    def due(self, *, without: Collection[str], most: int) -> tuple[Sequence[Record], float | None]:
        """See `RelayedStore.due`."""
        found: list[Record] = []
        for message, row in self._waiting():
            left = row["due_at"] - time.time()
            if left > 0:
                return found, left
            if len(found) == most:
                return found, 0.0
            if row["note"].get("queue") not in without:
                found.append(transitions.record(message, row))
        return found, None

    def take(self, message: str, revision: int) -> int | None:
        """See `RelayedStore.take`."""
        return self._change(MESSAGE, message, transitions.take(revision))

    def sent(self, message: str, revision: int, *, keep: float) -> bool:
        """See `RelayedStore.sent`."""
        return self._change(MESSAGE, message, transitions.sent(revision, keep))

    def relay_lock(self) -> LeaseLock:
        """See `RelayedStore.relay_lock`."""
        return LeaseLock(self)

    def relayed(self) -> bool:
        """See `RelayedStore.relayed`."""
        return self._change(KEY, RELAY_SLOT, transitions.running())

    def outbox(self, *, without: Collection[str], most: int) -> Sequence[OutboxRow]:  # noqa: ARG002
        """See `RelayedStore.outbox`: none here."""
        return ()

    def handed_over(self, row: int) -> None:  # noqa: B027 - there is nothing to delete
        """See `RelayedStore.handed_over`."""

    def backlog(self) -> Backlog:
        """See `RelayedStore.backlog`."""
        now = time.time()
        due = [row["due_at"] for _, row in self._waiting()]
        return Backlog(retries=len(due), oldest=now - due[0] if due and due[0] <= now else None)
