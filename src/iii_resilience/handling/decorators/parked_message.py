"""The record of a message that failed: its cause, and what is needed to send it again.

The queue's own dead letters hold only "function call failed" (docs/engine-notes.md, 9). A parked
message is found again by its content. Knows nothing of queues, nor of who records or reads.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

import attrs

from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.core.failure import Failure
from iii_resilience.handling.decorators.idempotency_key import as_json, bare, fingerprint
from iii_resilience.handling.handler_errors import HandlerError
from iii_resilience.sdk.propagation import PAYLOAD_FIELD, CallContext
from iii_resilience.stores.protocol import Record, digest
from iii_resilience.telemetry.spans import current_ids

_LONGEST_MESSAGE = 2000  # characters of an error's message that are kept


def message_id(function_id: str, key: str | None, payload: Any) -> str:
    """What a message is kept under: with a key the same for each of its deliveries.

    Args:
        function_id: The function it is for.
        key: Its idempotency key, or None: then nothing shows that two deliveries are of one
            message, and each gets an id of its own.
        payload: Its payload.
    """
    if key is None:
        return digest("delivery", function_id, uuid.uuid4().hex)
    return digest("message", function_id, key, fingerprint(payload))


@attrs.frozen
class FailureSummary:
    """What an operator needs to know of a failure.

    Attributes:
        code: The code, or the exception's class where it has none.
        category: The failure's category.
        remedy: What the code's table advises.
        message: The error's text. It may hold anything, so it is shown only on request.
    """

    code: str
    category: Category
    remedy: str = ""
    message: str = attrs.field(default="", repr=False)

    @classmethod
    def of(cls, error: Exception) -> FailureSummary:
        """The summary of an exception."""
        failure = classify(error)
        if isinstance(error, HandlerError):
            code, message = error.code or type(error).__name__, error.message
        else:
            code, message = _telling(failure).code, failure.message
        return cls(code, failure.category, failure.remedy, message[:_LONGEST_MESSAGE])


def _telling(failure: Failure) -> Failure:
    """The cause inside, where the code itself says no more than that there is one."""
    while failure.code == "invocation_failed" and failure.inner is not None:
        failure = failure.inner
    return failure


@attrs.frozen(kw_only=True)
class ParkedMessage:
    """A message with its failure, as it is recorded.

    Attributes:
        id: What it is kept under.
        function_id: The function it is for.
        queue: The queue it came through, if the consumer names one; else None.
        key: Its idempotency key, as the text of a JSON value; or None.
        payload: What was sent, as JSON, without what was added on its way.
        whole: Whether that is all of it: a channel in it cannot be sent again.
        fingerprint: What stands for the payload.
        carried: What travelled in the payload's reserved field, as it travels; or None.
        told: The summary of the failure.
        trace_id: The trace of the latest delivery, or None.
        span_id: Its span, or None.
        deliveries: How often it was delivered.
        first_failed_at: Time of the first failure, in seconds since 1970.
        last_failed_at: Time of the latest failure, in seconds since 1970.
        parked_at: Since when it is parked, in seconds since 1970; None where it is not.
        due_at: When it is to be tried again, in seconds since 1970; None where it does not wait.
        revision: The record's, to remove or redrive exactly this.
    """

    id: str
    function_id: str
    queue: str | None
    key: str | None = attrs.field(repr=False)
    payload: str = attrs.field(repr=False)
    whole: bool
    fingerprint: str
    carried: Mapping[str, Any] | None = attrs.field(repr=False)
    told: FailureSummary
    trace_id: str | None
    span_id: str | None
    deliveries: int = 0
    first_failed_at: float | None = None
    last_failed_at: float | None = None
    parked_at: float | None = None
    due_at: float | None = None
    revision: int = 0

    @classmethod
    def of(
        cls,
        payload: Any,
        told: FailureSummary,
        *,
        kept_under: str,
        function_id: str,
        queue: str | None,
        key: str | None,
        carried: CallContext | None,
    ) -> ParkedMessage:
        """A message that has just failed, in the current span."""
        try:
            text, whole = json.dumps(bare(payload)), True
        except (TypeError, ValueError):
            text, whole = as_json(bare(payload)), False
        trace_id, span_id = current_ids()
        return cls(
            id=kept_under,
            function_id=function_id,
            queue=queue,
            key=key,
            payload=text,
            whole=whole,
            fingerprint=fingerprint(payload),
            carried=_lasting(carried),
            told=told,
            trace_id=trace_id,
            span_id=span_id,
        )

    def to_note(self) -> dict[str, Any]:
        """What is put into the store; counts and times are the store's own."""
        return {
            "function_id": self.function_id,
            "queue": self.queue,
            "key": self.key,
            "payload": self.payload,
            "whole": self.whole,
            "fingerprint": self.fingerprint,
            "carried": self.carried,
            "code": self.told.code,
            "category": self.told.category.value,
            "remedy": self.told.remedy,
            "message": self.told.message,
            "trace_id": self.trace_id,
            "span_id": self.span_id,
        }

    @classmethod
    def from_record(cls, record: Record) -> ParkedMessage | None:
        """The message a store has kept; None where it was only counted so far."""
        note = record.note
        if not note:
            return None
        return cls(
            id=record.id,
            function_id=note["function_id"],
            queue=note["queue"],
            key=note["key"],
            payload=note["payload"],
            whole=note["whole"],
            fingerprint=note["fingerprint"],
            carried=note["carried"],
            told=FailureSummary(
                note["code"], Category(note["category"]), note["remedy"], note["message"]
            ),
            trace_id=note["trace_id"],
            span_id=note["span_id"],
            deliveries=record.deliveries,
            first_failed_at=record.first_failed_at,
            last_failed_at=record.last_failed_at,
            parked_at=record.parked_at,
            due_at=record.due_at,
            revision=record.revision,
        )

    def data(self) -> Any:
        """The payload to send again, with what travelled in it."""
        payload = json.loads(self.payload)
        if self.carried is not None and isinstance(payload, dict):
            payload[PAYLOAD_FIELD] = dict(self.carried)
        return payload

    def data_of_attempt(self, attempt: int) -> Any:
        """The payload to try again, with what travelled in it and the number of the attempt.

        Args:
            attempt: The number, from 1.
        """
        payload = json.loads(self.payload)
        if isinstance(payload, dict):
            carried = CallContext.from_wire(self.carried) or CallContext()
            payload[PAYLOAD_FIELD] = attrs.evolve(carried, attempt=attempt).to_wire()
        return payload

    @property
    def slot(self) -> str | None:
        """Where `idempotent` keeps the outcome of this message's key; None without a key."""
        return None if self.key is None else digest(self.function_id, self.key)


def _lasting(carried: CallContext | None) -> dict[str, Any] | None:
    """As it travels on: without the deadline of a caller that no longer waits."""
    if carried is None:
        return None
    lasting = attrs.evolve(carried.without_times(), attempt=1)
    return None if lasting == CallContext() else lasting.to_wire()
