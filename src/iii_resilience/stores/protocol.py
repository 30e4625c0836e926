"""The `Store` protocol: keys that run once, and messages that failed.

Every operation is atomic. A store that cannot be reached raises: it never reports a key as new
because it cannot look it up. Knows nothing of handlers, queues or storage.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from enum import StrEnum
from typing import Any, Protocol

import attrs


class StoreUnavailableError(ConnectionError):
    """The store cannot be reached, or cannot write; nothing is known and nothing was promised."""


class StoreRefusedError(Exception):
    """The store answers, and refuses this operation however often it is repeated.

    A key of another type under the store's prefix, a command that the server does not have.
    """


class TransactionEndedError(Exception):
    """A handler's transaction ended before its handler did; neither effects nor key are written.

    Args:
        message: What happened.
        by_handler: Whether the handler ended it. Otherwise the database did, and another try may
            succeed.
        conflict: Whether the database did because of another transaction at the same time (a
            deadlock, a serialization failure).
    """

    def __init__(self, message: str, *, by_handler: bool, conflict: bool = False) -> None:
        super().__init__(message)
        self.by_handler = by_handler
        self.conflict = conflict


class State(StrEnum):
    """What a claim of a key was answered with."""

    CLAIMED = "claimed"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    OTHER = "other"


@attrs.frozen
class Claim:
    """The answer to a claim.

    Attributes:
        state: ``claimed``: run it; ``running``: another worker runs it; ``done`` and ``failed``:
            it has run; ``other``: the key belongs to another payload.
        token: Whose lease it is; a later claim of the key has a greater one.
        left: Seconds until the running call's lease is over, for ``running``.
        outcome: What was stored, for ``done`` and ``failed``.
    """

    state: State
    token: int = 0
    left: float = 0.0
    outcome: str | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Record:
    """A message that failed, or is being delivered.

    Attributes:
        id: Its id in the store.
        deliveries: How often it was delivered, since it was redriven last.
        note: What was recorded with its latest failure; empty where it has not failed yet.
        first_failed_at: Time of its first failure, in seconds since 1970, or None.
        last_failed_at: Time of its latest failure, in seconds since 1970, or None.
        parked_at: Since when it is parked, in seconds since 1970; None where it is not.
        revision: Changes whenever it is parked, postponed, or prepared to be sent again.
        due_at: When it is to be tried again, in seconds since 1970; None where it does not wait.
    """

    id: str
    deliveries: int = 0
    note: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    first_failed_at: float | None = None
    last_failed_at: float | None = None
    parked_at: float | None = None
    revision: int = 0
    due_at: float | None = None


class Transaction(Protocol):
    """Effects that are committed together with a key, or not at all.

    Attributes:
        exclusive: Whether the key cannot be claimed elsewhere while it is open. It then needs no
            renewal, and what could not be committed is gone.
    """

    exclusive: bool

    @property
    def handle(self) -> Any:
        """What the handler writes with."""

    def commit(self, outcome: str, *, keep: float) -> bool:
        """Commit the effects and the key's outcome as one.

        Args:
            outcome: What a repeat is answered with.
            keep: Seconds the outcome is kept.

        Returns:
            False if another worker has taken over the lease: then nothing was written.

        Raises:
            TransactionEndedError: The transaction is not the one that was begun.
        """
        raise NotImplementedError

    def rollback(self) -> None:
        """Forget the effects. Harmless after the end."""


class ReadsErrors(Protocol):
    """A transaction that knows its store's own errors among a handler's; optional."""

    def meaning_of(self, error: Exception) -> Exception | None:
        """What an error that the handler raised says of the store.

        Args:
            error: The error.

        Returns:
            StoreUnavailableError or TransactionEndedError where the store failed, or ended the
            transaction; None where the error says nothing of it.
        """
        raise NotImplementedError


@attrs.frozen
class Renewal:
    """One lease to extend, as `Keys.renew` takes it."""

    slot: str
    token: int
    lease: float
    keep: float


class RenewsMany(Protocol):
    """A store that extends many leases in one round trip; optional."""

    def renew_many(self, renewals: Sequence[Renewal]) -> Sequence[bool]:
        """Extend leases from now on.

        Args:
            renewals: The leases.

        Returns:
            For each whether it was extended: False if another worker has claimed the key since.

        Raises:
            StoreUnavailableError: Whether any was extended is not known.
        """
        raise NotImplementedError


class Watches(Protocol):
    """A store that hears of a key's end; optional. Without it a waiting call looks now and then."""

    def watch(self, slot: str) -> Future[float]:
        """A future that is done when the key has ended or is free, or never.

        Args:
            slot: The key, with its scope. Where the future is cancelled, nothing waits any longer.
        """
        raise NotImplementedError


class CountsBack(Protocol):
    """A store that can take a count of a delivery back; optional."""

    def undelivered(self, message: str, *, keep: float) -> None:
        """Count a delivery back: nothing was run, and it says nothing of the message.

        Args:
            message: The message's id.
            keep: Seconds its row is kept where it is not parked.

        Raises:
            StoreUnavailableError: Whether it was counted back is not known.
        """
        raise NotImplementedError


class Keys(Protocol):
    """Keys that run once."""

    def claim(self, slot: str, *, fingerprint: str, nonce: str, lease: float, keep: float) -> Claim:
        """Request to run a key.

        Args:
            slot: The key, with its scope (see `digest`).
            fingerprint: What stands for the payload.
            nonce: Stands for this claim: repeated with the same one, it gets the same answer.
            lease: Seconds until the key is free again if nothing more is heard.
            keep: Seconds its row is kept after that.
        """
        raise NotImplementedError

    def renew(self, slot: str, token: int, *, lease: float, keep: float) -> bool:
        """Extend a lease from now on; False if another worker has claimed the key since."""
        raise NotImplementedError

    def finish(
        self, slot: str, token: int, outcome: str, *, failed: bool = False, keep: float
    ) -> bool:
        """Store an outcome for ``keep`` seconds; False where the lease was lost."""
        raise NotImplementedError

    def release(self, slot: str, token: int) -> bool:
        """Free a key that has not finished; False where the lease was lost."""
        raise NotImplementedError

    def forget_failure(self, slot: str) -> bool:
        """Free a key that has failed, so that it may run again; whether it had."""
        raise NotImplementedError

    def begin(self, slot: str, token: int) -> Transaction:
        """Begin effects that are committed together with the key.

        Raises:
            TypeError: This store has no transactions.
        """
        raise NotImplementedError


class Messages(Protocol):
    """Messages that failed: how often they were delivered, and why they are not any longer."""

    def delivered(self, message: str, *, keep: float) -> int:
        """Count a delivery; how many there were, this one included."""
        raise NotImplementedError

    def note(self, message: str, note: Mapping[str, Any], *, parked: bool, keep: float) -> None:
        """Record a failure.

        Args:
            message: The message's id.
            note: Anything that JSON carries.
            parked: Whether the message is parked: then it is kept until it is removed.
            keep: Seconds it is kept where it is not parked.
        """

    def settle(self, message: str) -> None:
        """Forget a message: it was handled."""

    def records(self) -> Iterator[Record]:
        """Every message that is kept, in no order."""
        raise NotImplementedError

    def prepare(self, message: str, revision: int) -> int | None:
        """Begin to redrive a parked message: its deliveries count from 0 again.

        Args:
            message: Its id.
            revision: As it was when the message was looked at.

        Returns:
            The new revision; None where the message has changed meanwhile.
        """
        raise NotImplementedError

    def remove(self, message: str, revision: int) -> bool:
        """Remove a message, unless it was parked again meanwhile; whether it was removed."""
        raise NotImplementedError


class Store(Keys, Messages, Protocol):
    """What `idempotent` and `consumer` keep.

    Attributes:
        blocking: Whether an operation may wait for a disk or a network.
        transactions: Whether it has transactions to give to handlers.
    """

    blocking: bool
    transactions: bool

    def close(self) -> None:
        """Give back what is open; the store opens it again when it is used."""


def digest(*parts: Any) -> str:
    """One short text for several parts, the same in every process: 64 hexadecimal digits.

    Args:
        *parts: What JSON carries.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
