"""Hands one message to its queue, and parks one that can never be enqueued.

The receipt comes first, then the store hears of it: what ends in between is handed over again, with
the same key. Knows nothing of when, and of which relay is active.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs

from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.errors import InvalidPayloadError, PayloadTooLargeError
from iii_resilience.core.failure import Failure
from iii_resilience.handling.decorators.parked_message import (
    FailureSummary,
    ParkedMessage,
    message_id,
)
from iii_resilience.handling.relay.hand_over_rules import NO_RECEIPT
from iii_resilience.sdk.connection import Connection
from iii_resilience.sdk.payload_check import check_payload, size_of
from iii_resilience.sdk.propagation import PAYLOAD_FIELD, CallContext
from iii_resilience.stores.protocol import Messages, Record
from iii_resilience.stores.relaying import OutboxRow, RelayedStore

ANSWER_WITHIN: Final = 10.0
"""Seconds for a receipt."""
KEPT: Final = 30 * 86_400.0
"""Seconds the record of a retry is kept that was handed over; as a consumer keeps it."""
# What other programs write: no JSON, a lone surrogate, deeper nesting than Python reads.
_NO_JSON: Final = (ValueError, RecursionError)
_FRAME_MOST: Final = 1024  # bytes of ids, trace headers and action around a payload


class RelayableStore(RelayedStore, Messages, Protocol):
    """What a relay hands over from, and parks in."""


class NotEnqueuedError(Exception):
    """An enqueue that was answered without a receipt.

    Attributes:
        failure: What that is.
    """

    def __init__(self) -> None:
        super().__init__("the enqueue was answered without a receipt")
        self.failure = Failure(
            NO_RECEIPT,
            Category.PERMANENT,
            Execution.MAYBE_EXECUTED,
            known=False,
            origin="engine",
            remedy="look at the queue's provider: it takes messages without a receipt",
        )


@attrs.frozen
class HandOver:
    """One message on its way to its queue.

    Attributes:
        queue: The queue.
        function_id: The function it is for.
        payload: Makes the payload, with what travels in it.
        begin: Is called before it is sent; False where it has gone meanwhile.
        done: Is called with the receipt.
        park: Parks it, with a failure.
    """

    queue: str
    function_id: str
    payload: Callable[[], Any] = attrs.field(repr=False)
    begin: Callable[[], bool] = attrs.field(repr=False)
    done: Callable[[], object] = attrs.field(repr=False)
    park: Callable[[FailureSummary], str] = attrs.field(repr=False)

    def send(self, connection: Connection) -> None:
        """Enqueue it.

        Raises:
            NotEnqueuedError: There was no receipt.
            InvalidPayloadError: The engine would drop or change the payload.
            PayloadTooLargeError: The message is larger than the SDK can send.
            Exception: What the SDK raises.
        """
        payload = self.payload()
        check_payload(payload)
        compact, limit = connection.sdk.compact, connection.sdk.send_limit
        size = size_of(payload, compact=compact) + _FRAME_MOST
        if size > limit:
            raise PayloadTooLargeError(size, limit)
        request = {
            "function_id": self.function_id,
            "payload": payload,
            "action": {"type": "enqueue", "queue": self.queue},
            "timeout_ms": int(ANSWER_WITHIN * 1000),
        }
        answer = connection.in_flight.send(request, seconds=ANSWER_WITHIN)
        if not (isinstance(answer, dict) and isinstance(answer.get("messageReceiptId"), str)):
            raise NotEnqueuedError


def of_row(store: RelayableStore, row: OutboxRow) -> HandOver:
    """The hand-over of a row of the outbox.

    Args:
        store: The store.
        row: The row.
    """
    carried = CallContext(idempotency_key=row.key)

    def payload_to_send() -> dict[str, Any]:
        try:
            payload = json.loads(row.data)
        except _NO_JSON:
            payload = None
        if not isinstance(payload, dict):
            raise InvalidPayloadError("the data of the outbox's row is no JSON object")
        return {**payload, PAYLOAD_FIELD: carried.to_wire()}

    def parked(summary: FailureSummary, payload: Any) -> ParkedMessage:
        key = json.dumps(row.key)
        return ParkedMessage.of(
            payload,
            summary,
            kept_under=message_id(row.function_id, key, payload),
            function_id=row.function_id,
            queue=row.queue,
            key=key,
            carried=carried,
        )

    def park(summary: FailureSummary) -> str:
        try:
            message = parked(summary, json.loads(row.data))
        except _NO_JSON:  # then its text is what is kept: no row holds up those behind it
            message = parked(summary, row.data)
        store.note(message.id, message.to_note(), parked=True, keep=KEPT)
        store.handed_over(row.id)
        return message.id

    return HandOver(
        row.queue,
        row.function_id,
        payload=payload_to_send,
        begin=lambda: True,
        done=lambda: store.handed_over(row.id),
        park=park,
    )


def of_retry(store: RelayableStore, record: Record) -> HandOver | None:
    """The hand-over of a message whose time to be tried again has come.

    Args:
        store: The store.
        record: Its record; None is returned for one that names no queue.
    """
    message = ParkedMessage.from_record(record)
    if message is None or message.queue is None:
        return None
    revisions: list[int] = []

    def begin() -> bool:
        revision = store.take(record.id, record.revision)
        revisions[:] = [] if revision is None else [revision]
        return revision is not None

    def park(summary: FailureSummary) -> str:
        parked = attrs.evolve(message, told=summary)
        store.note(record.id, parked.to_note(), parked=True, keep=KEPT)
        return record.id

    return HandOver(
        message.queue,
        message.function_id,
        payload=lambda: message.data_of_attempt(record.deliveries + 1),
        begin=begin,
        done=lambda: store.sent(record.id, revisions[0], keep=KEPT),
        park=park,
    )
