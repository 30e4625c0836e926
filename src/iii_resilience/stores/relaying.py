"""What a relay needs of a store: rows of the outbox, retries that are due, and one relay at a time.

Knows nothing of engines, of queues' providers, or of how a relay works.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, Protocol

import attrs

from iii_resilience.stores.protocol import Claim, Record, State, digest

KEY_LONGEST: Final = 512
"""Characters of an idempotency key that the other side reads (`sdk.propagation`)."""
RELAY_SLOT: Final = digest("relay")
"""The key that the active relay holds where a lease says which one is active."""
_LEASE: Final = 10.0  # seconds
_RENEWED: Final = 3  # times in a lease


@attrs.frozen
class OutboxRow:
    """A message that a transaction has committed.

    Attributes:
        id: Its number: a row that was enqueued after another one was committed has a greater one.
        queue: The queue it goes to.
        function_id: The function it is for.
        data: Its payload, as JSON.
        key: Its idempotency key.
    """

    id: int
    queue: str
    function_id: str
    data: str = attrs.field(repr=False)
    key: str = attrs.field(repr=False)


@attrs.frozen
class Backlog:
    """What waits for a relay.

    Attributes:
        outbox: Rows of the outbox.
        retries: Messages that wait to be tried again, due or not.
        oldest: Seconds since the oldest of them could have been handed over: a row since it was
            enqueued, a retry since it is due; None where none could.
    """

    outbox: int = 0
    retries: int = 0
    oldest: float | None = None


class RelayLock(Protocol):
    """The right to relay a store's rows: one relay at a time has it."""

    def active(self) -> bool:
        """Take it, or keep it: whether this relay has it now.

        Raises:
            StoreUnavailableError: The store cannot be reached; this relay does not have it.
        """
        raise NotImplementedError

    def watch(self, *, busy: bool) -> Future[float] | None:
        """A future that is done when a row was committed; None where only polling finds it.

        Args:
            busy: Whether this relay will look again at once anyway: then nothing needs to wake it.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Give it back, so that another relay takes it at once. Harmless without it."""


class Postpones(Protocol):
    """A store in which messages wait to be tried again; optional."""

    def arrived(self, message: str, *, keep: float) -> int:
        """Count a delivery, unless the message waits to be tried again.

        Args:
            message: The message's id.
            keep: Seconds its row is kept where it is not parked.

        Returns:
            How many there were, this one included; 0 where it waits.
        """
        raise NotImplementedError

    def postpone(self, message: str, note: Mapping[str, Any], *, seconds: float) -> None:
        """Record a failure, and that the message is to be enqueued again.

        A message has one record: one that waits already waits anew.

        Args:
            message: The message's id.
            note: Anything that JSON carries; its ``queue`` is where the message goes.
            seconds: When it is due, from now.
        """


class RelayedStore(Postpones, Protocol):
    """What a relay works on."""

    def relay_lock(self) -> RelayLock:
        """A lock of its own for one relay; it is not taken yet."""
        raise NotImplementedError

    def relayed(self) -> bool:
        """Whether a relay is active, in any process."""
        raise NotImplementedError

    def outbox(self, *, without: Collection[str], most: int) -> Sequence[OutboxRow]:
        """Committed rows, in the order in which they are to be handed over.

        Args:
            without: Queues whose rows are left out.
            most: How many at most.
        """
        raise NotImplementedError

    def handed_over(self, row: int) -> None:
        """Delete a row of the outbox.

        Args:
            row: Its number.
        """

    def due(self, *, without: Collection[str], most: int) -> tuple[Sequence[Record], float | None]:
        """Messages whose time to be tried again has come, the longest due first.

        Args:
            without: Queues whose messages are left out.
            most: How many at most.

        Returns:
            The messages, and seconds until the next one is due, or None.
        """
        raise NotImplementedError

    def take(self, message: str, revision: int) -> int | None:
        """Begin to hand a message over: from now on a delivery of it is no longer one that waits.

        Args:
            message: The message's id.
            revision: As it was when the message was looked at.

        Returns:
            The new revision; None where the message has changed meanwhile.
        """
        raise NotImplementedError

    def sent(self, message: str, revision: int, *, keep: float) -> bool:
        """A message was handed over: it waits no longer.

        Args:
            message: The message's id.
            revision: What `take` returned.
            keep: Seconds its row is kept.

        Returns:
            False where the message has changed meanwhile.
        """
        raise NotImplementedError

    def backlog(self) -> Backlog:
        """What waits now."""
        raise NotImplementedError


class Leases(Protocol):
    """Of `Keys` what a lock needs."""

    def claim(self, slot: str, *, fingerprint: str, nonce: str, lease: float, keep: float) -> Claim:
        """See `Keys.claim`."""
        raise NotImplementedError

    def renew(self, slot: str, token: int, *, lease: float, keep: float) -> bool:
        """See `Keys.renew`."""
        raise NotImplementedError

    def release(self, slot: str, token: int) -> bool:
        """See `Keys.release`."""
        raise NotImplementedError


class LeaseLock:
    """A `RelayLock` by a lease: of a relay that was killed it is free when that is over.

    Args:
        keys: The store's keys.
        clock: Monotonic time in seconds.
        lease: Seconds.
    """

    def __init__(
        self, keys: Leases, clock: Callable[[], float] = time.monotonic, lease: float = _LEASE
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._lease = lease
        self._token: int | None = None
        self._until = 0.0

    def active(self) -> bool:
        """See `RelayLock.active`."""
        now = self._clock()
        if self._token is None:
            claim = self._keys.claim(
                RELAY_SLOT,
                fingerprint="relay",
                nonce=uuid.uuid4().hex,
                lease=self._lease,
                keep=self._lease,
            )
            if claim.state is State.CLAIMED:
                self._token, self._until = claim.token, now + self._lease
        elif now > self._until - self._lease * (_RENEWED - 1) / _RENEWED:
            # Of a lease that is over, too: the token is another one if a relay has claimed it.
            if self._keys.renew(RELAY_SLOT, self._token, lease=self._lease, keep=self._lease):
                self._until = now + self._lease
            else:
                self._token = None
        return self._token is not None

    def watch(self, *, busy: bool) -> None:
        """See `RelayLock.watch`: nothing is reported here."""

    def release(self) -> None:
        """See `RelayLock.release`."""
        token, self._token = self._token, None
        if token is not None:
            self._keys.release(RELAY_SLOT, token)


def checked_message(
    queue: str, function_id: str, data: Mapping[str, Any], key: str | None
) -> tuple[str, str]:
    """Check what is to be put into an outbox.

    Args:
        queue: The queue's name.
        function_id: The function.
        data: The payload.
        key: The idempotency key, or None for one that is made here.

    Returns:
        The payload as JSON, and the key.

    Raises:
        TypeError: The payload is not an object, or holds what JSON does not know.
        ValueError: A name or key that is empty or too long, NaN or an infinity, a lone surrogate,
            or a payload that refers back to itself.
    """
    for name, value in (("queue", queue), ("function_id", function_id)):
        if not _is_text(value, None):
            raise ValueError(f"enqueue: {name} must be a text that is not empty, got {value!r}")
    if not _is_object(data):
        raise TypeError(
            "enqueue: data must be a dict, because the idempotency key travels inside it; got "
            f"{type(data).__name__}"
        )
    if key is None:
        key = uuid.uuid4().hex
    elif not _is_text(key, KEY_LONGEST):
        raise ValueError(f"enqueue: key must be a text of 1 to {KEY_LONGEST} characters")
    text = json.dumps(dict(data), ensure_ascii=False, allow_nan=False)
    for part in (queue, function_id, text, key):
        try:
            part.encode()
        except UnicodeEncodeError:
            raise ValueError("enqueue: a lone surrogate cannot be sent") from None
    return text, key


def _is_text(value: object, most: int | None) -> bool:
    return isinstance(value, str) and 0 < len(value) <= (most or len(value))


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping)
