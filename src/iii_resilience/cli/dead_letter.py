"""Dead letters and parked messages in one shape, whatever stored them.

Reads the three shapes of iii's dead letters (docs/engine-notes.md, 9) and the parked messages of a
store. Knows nothing of how messages are fetched, shown or sent again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import attrs

from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.core.failure import Failure
from iii_resilience.handling.decorators.idempotency_key import fingerprint
from iii_resilience.handling.decorators.parked_message import ParkedMessage
from iii_resilience.sdk.propagation import take_from_payload

# What the queues put into every dead letter, whatever the handler said.
_NO_CAUSE = "function call failed"
# Fields that a queue puts around a message's data; a topic's record holds the bare data.
_AROUND = frozenset({"function_id", "data", "message_id"})
_MILLISECONDS = 1e11  # as seconds it would be the year 5138


@attrs.frozen(kw_only=True)
class DeadLetter:
    """A message that is not delivered any more.

    Attributes:
        id: Names it: the dead letter's id, or the parked message's.
        source: ``queue``; ``topic``; ``bare``: a record that names neither function nor cause (a
            queue's of the engine's own, up to 0.20, or a topic's of the standalone queue worker);
            ``parked``; or ``waiting``, to be tried again.
        function_id: The function it is for, or None if that was not recorded.
        category: The failure's category; None where it is unknown.
        code: The failure's code; None where it is unknown.
        remedy: What the code's table advises.
        message: What the failure said.
        deliveries: How often it was delivered, or None.
        since: When it was enqueued (a queue's record), or failed first, in seconds since 1970.
        data: The payload (see the property).
        recorded: What a consumer recorded of it, or None.
    """

    id: str
    source: str
    function_id: str | None
    category: Category | None
    code: str | None
    remedy: str = ""
    message: str = attrs.field(default="", repr=False)
    deliveries: int | None = None
    since: float | None = None
    _data: Any = attrs.field(default=None, repr=False, alias="data")
    recorded: ParkedMessage | None = None

    @property
    def data(self) -> Any:
        """The payload. A parked message's is decoded here: most commands never look at it."""
        if self.stored and self.recorded is not None:
            return json.loads(self.recorded.payload)
        return self._data

    @property
    def parked(self) -> bool:
        """Whether a consumer, or the relay, has parked it."""
        return self.source == "parked"

    @property
    def stored(self) -> bool:
        """Whether it is in a store of ours, and not with the queue."""
        return self.parked or self.waits

    @property
    def waits(self) -> bool:
        """Whether it is not dead, but waits to be tried again."""
        return self.source == "waiting"

    @property
    def due_at(self) -> float | None:
        """When it is to be tried again, in seconds since 1970; None where it does not wait."""
        return self.recorded.due_at if self.waits and self.recorded is not None else None

    @property
    def queue(self) -> str | None:
        """The queue that a stored message's consumer names; None where there is none."""
        return self.recorded.queue if self.stored and self.recorded is not None else None

    @property
    def queue_unknown(self) -> bool:
        """Whether it is parked by a consumer that does not name its queue."""
        return self.stored and self.queue is None


class Recordings:
    """What consumers recorded, to be found by the message itself.

    Args:
        messages: All of it.
    """

    def __init__(self, messages: Iterable[ParkedMessage]) -> None:
        self.messages = tuple(messages)

    @cached_property
    def _by_key(self) -> dict[tuple[str | None, str], ParkedMessage]:
        """The latest with each key, with its function and without."""
        return self._latest(lambda one: one.key)

    @cached_property
    def _by_payload(self) -> dict[tuple[str | None, str], ParkedMessage]:
        """The latest with each payload, with its function and without."""
        return self._latest(lambda one: one.fingerprint)

    def _latest(
        self, known_by: Callable[[ParkedMessage], str | None]
    ) -> dict[tuple[str | None, str], ParkedMessage]:
        found: dict[tuple[str | None, str], ParkedMessage] = {}
        for one in sorted(self.messages, key=lambda one: one.last_failed_at or 0.0):
            text = known_by(one)
            if text is not None:
                # Also without its function: the oldest shape of dead letters does not name it.
                found[one.function_id, text] = found[None, text] = one
        return found

    def find(self, function_id: str | None, data: Any) -> ParkedMessage | None:
        """What was recorded of a message, or None.

        By the idempotency key that travels in its data; where none does, by the data itself, in
        which a key of the payload stands too.
        """
        _, carried = take_from_payload(data)
        if carried is not None and carried.idempotency_key is not None:
            key = json.dumps(carried.idempotency_key)
            return self._by_key.get((function_id, key))
        return self._by_payload.get((function_id, fingerprint(data)))


def from_dead_letter(record: Mapping[str, Any], recorded: Recordings) -> DeadLetter:
    """A dead letter of a queue or topic, joined with what a consumer recorded of it.

    Args:
        record: One item of ``engine::queue::dlq_messages``.
        recorded: What consumers recorded.
    """
    payload, error = record.get("payload"), record.get("error")
    source, function_id, data = "bare", None, payload
    if isinstance(payload, Mapping) and payload.keys() >= _AROUND:
        source, function_id, data = "queue", payload["function_id"], payload["data"]
    elif error != _NO_CAUSE:
        source = "topic"
    function_id = function_id if isinstance(function_id, str) else None
    known = recorded.find(function_id, data)
    letter = DeadLetter(
        id=str(record.get("id")),
        source=source,
        function_id=function_id or (None if known is None else known.function_id),
        category=None,
        code=None,
        deliveries=_whole(record.get("retries")),
        since=_seconds(record.get("failed_at")),
        data=data,
        recorded=known,
    )
    if source == "topic" and isinstance(error, str):
        failure = _inside(classify(error))
        if failure.known or failure.message:
            return _told(letter, failure.category, failure.code, failure.remedy, failure.message)
    if known is not None:
        summary = known.told
        return _told(letter, summary.category, summary.code, summary.remedy, summary.message)
    return letter


def from_stored(message: ParkedMessage) -> DeadLetter:
    """A message that a consumer parked, or that waits to be tried again."""
    summary = message.told
    return DeadLetter(
        id=message.id,
        source="parked" if message.due_at is None else "waiting",
        function_id=message.function_id,
        category=summary.category,
        code=summary.code,
        remedy=summary.remedy,
        message=summary.message,
        deliveries=message.deliveries,
        since=message.first_failed_at,
        recorded=message,
    )


def _told(
    letter: DeadLetter, category: Category, code: str, remedy: str, message: str
) -> DeadLetter:
    return attrs.evolve(letter, category=category, code=code, remedy=remedy, message=message)


def _inside(failure: Failure) -> Failure:
    """The cause, where the code itself says no more than that there is one."""
    while failure.code == "invocation_failed" and failure.inner is not None:
        failure = failure.inner
    return failure


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seconds(value: object) -> float | None:
    """A time in seconds, or in milliseconds as some records have it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value / 1000 if value > _MILLISECONDS else float(value)
