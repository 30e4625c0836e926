"""`@consumer`: parks queue messages that cannot succeed, and lets others wait for their time.

iii's queues retry every error, and their dead letters name no cause (docs/engine-notes.md, 9). Only
an acknowledgement stops a message. So it is first parked in a store. Wherever the process ends, the
message is in the queue, or parked, or both.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs

from iii_resilience.core.backoff import Backoff
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.core.decorator_order import refuse_inside
from iii_resilience.core.effects import Blocking, CallHandler, Steps
from iii_resilience.core.hints import consuming
from iii_resilience.core.validators import number
from iii_resilience.handling.decorators.idempotency_key import KeyOf, check_key, key_of, missing
from iii_resilience.handling.decorators.parked_message import (
    FailureSummary,
    ParkedMessage,
    message_id,
)
from iii_resilience.handling.decorators.relay_needed import expect_relay, needs_relay
from iii_resilience.handling.decorators.wrapper import (
    F,
    IncomingCall,
    not_bare,
    wrap,
)
from iii_resilience.handling.handler_errors import (
    HandlerError,
    PayloadError,
    PermanentError,
    TransientError,
)
from iii_resilience.stores.protocol import (
    Messages,
    Store,
    StoreRefusedError,
    StoreUnavailableError,
)
from iii_resilience.telemetry import logger, worker_events
from iii_resilience.telemetry.parkings import parkings

_MONTH = 30 * 86_400.0
_YEAR = 366 * 86_400.0  # a time beyond is none that was meant, and some stores cannot hold it
_NOT_KEPT = (StoreUnavailableError, StoreRefusedError)


@not_bare("@consumer(parking=store, key='order_id')")
def consumer(
    *,
    parking: Store,
    key: KeyOf = None,
    queue: str | None = None,
    max_deliveries: int | None = None,
    retry_later: Backoff | None = None,
    keep: float = _MONTH,
    function_id: str | None = None,
) -> Callable[[F], F]:
    """Decorate a queue's handler so that what cannot succeed is parked and acknowledged.

    Permanent, payload, auth and not-found failures are parked with payload, cause, deliveries,
    times, trace and key, and the message is acknowledged. Transient ones are recorded and raised,
    so that the queue retries. If parking fails, the message is not acknowledged.

    Beside ``@idempotent`` it stands outside, with the same key and, best, the same store.

    Args:
        parking: Where messages are parked: `SqliteStore`, `RedisStore` for many machines.
        key: What stands for a message: the payload's field, a function of the payload, or None for
            the key that travelled, where one did. A message that lacks the field is parked. A
            delivery shows a handler nothing else that its message could be known by
            (docs/engine-notes.md, 9): without a key each delivery that fails is a record of its
            own, and one that succeeds removes none.
        queue: The queue's name, which a handler cannot see, for the operator's view: ``dlq`` acts
            on a record without one only where it is named.
        max_deliveries: Deliveries after which a message is parked whatever it fails with, even if
            it ends its worker each time; None leaves it to the queue. Deliveries that overlap
            count, too. Needs a ``key``.
        retry_later: Transient failures are not raised: the message is recorded with the time at
            which it is due, acknowledged, and enqueued again by the store's relay
            (``resilient(worker, relay=store)``). The time is this backoff with its jitter, and a
            failure's ``retry_after`` at least. Needs a ``key`` and a ``queue``. None leaves
            retries to the queue.
        keep: Seconds the record of a message that failed, and was neither parked nor handled, is
            kept. Parked messages are kept until they are removed.
        function_id: The function it serves. None leaves it to the registration through
            ``resilient(worker)``.

    Raises:
        TypeError: No store; a ``key`` that can be none; ``max_deliveries`` or ``retry_later``
            without a ``key``; ``retry_later`` without a ``queue``, or with a store in which
            messages cannot wait; or a handler that `consumer` decorates already.
        ValueError: A number that is none, or a backoff with decorrelated jitter.
    """
    check_key(key, "consumer")
    for needed in ("delivered", "note", "settle"):
        if not callable(getattr(parking, needed, None)):
            raise TypeError(f"consumer: parking must be a store, got {type(parking).__name__}")
    if max_deliveries is not None and key is None:
        raise TypeError(
            "consumer: max_deliveries needs key=. Without one, two messages with the same payload "
            "cannot be distinguished, and their deliveries would be counted together: name the "
            "field of the payload that identifies a message"
        )
    limits = _Limits(max_deliveries=max_deliveries, keep=keep)
    if retry_later is not None:
        _check_retry_later(retry_later, parking, key, queue)
    parkings.add(parking)
    desk = _Delivery(parking, key, queue, limits, retry_later, blocking=parking.blocking)

    def decorate(handler: F) -> F:
        refuse_inside(
            "consumer", handler, consumer="the outer one would take what is parked for handled"
        )
        wrapped = wrap(handler, desk.steps, name="consumer", function_id=function_id)
        if retry_later is not None:
            needs_relay(wrapped, parking)
        return wrapped

    return decorate


def _check_retry_later(backoff: object, parking: object, key: object, queue: object) -> None:
    if not isinstance(backoff, Backoff):
        raise TypeError(f"consumer: retry_later must be a Backoff, got {type(backoff).__name__}")
    if backoff.jitter == "decorrelated":
        raise ValueError(
            "consumer: retry_later cannot have decorrelated jitter, which needs the delay before, "
            "and that is not recorded: use full or equal"
        )
    if not (callable(getattr(parking, "arrived", None)) and hasattr(parking, "postpone")):
        raise TypeError(
            f"consumer: in a {type(parking).__name__} messages cannot wait for retry_later: it "
            "has no arrived() and postpone()"
        )
    for name, value, why in (
        ("key", key, "two deliveries cannot be known as one message"),
        ("queue", queue, "the message cannot be enqueued again"),
    ):
        if value is None:
            raise TypeError(f"consumer: retry_later needs {name}=. Without one {why}")


@attrs.frozen(kw_only=True)
class _Limits:
    max_deliveries: int | None = attrs.field(validator=number(least=1, optional=True, integer=True))
    keep: float = attrs.field(validator=number(above=0, unit="seconds"))


@attrs.frozen
class _Delivery:
    """The steps around one handler's deliveries."""

    parking: Messages
    key: KeyOf
    queue: str | None
    limits: _Limits
    retry_later: Backoff | None
    blocking: bool

    def steps(self, call: IncomingCall) -> Steps:
        function_id = call.known_function()
        key, unusable = self._key(call)
        message = message_id(function_id, key, call.payload)
        count = yield from self._counted(message)
        most = self.limits.max_deliveries
        if count == 0:  # it waits already: a delivery that was repeated, for whatever reason
            return worker_events.ParkedAnswer(waiting=message)
        if unusable is not None:
            return (yield from self._park(call, message, key, FailureSummary.of(unusable)))
        if most is not None and count > most:
            # How the last one ended could not be recorded: it took the worker with it.
            summary = FailureSummary(
                "MAX_DELIVERIES", Category.PERMANENT, "find out what ends the worker", ""
            )
            return (yield from self._park(call, message, key, summary))
        try:
            with consuming():
                result = yield CallHandler()
        except Exception as error:
            summary = FailureSummary.of(error)
            if summary.category is Category.TRANSIENT and not (most is not None and count >= most):
                later = yield from self._postpone(call, message, key, summary, error, count)
                if later is None:
                    raise
                return later
            return (yield from self._park(call, message, key, summary))
        try:
            yield self._ask(lambda: self.parking.settle(message))
        except _NOT_KEPT as away:
            # It was handled; its record goes with time.
            logger.warning("%s: a handled message is still on record: %s", function_id, away)
        if call.outermost:
            worker_events.handler_returned(function_id, result)
        return result

    def _key(self, call: IncomingCall) -> tuple[str | None, HandlerError | None]:
        try:
            key = key_of(self.key, call.payload, call.carried)
        except PayloadError as error:
            return None, error
        return key, missing(self.key) if key is None and self.key is not None else None

    def _counted(self, message: str) -> Steps:
        keep = self.limits.keep
        count_back: Any = getattr(self.parking, "undelivered", None)

        def undo(counted: int) -> None:
            # Cancelled while it was counted: it was not begun, so it is not a delivery.
            try:
                if count_back is not None and counted:
                    count_back(message, keep=keep)
            except _NOT_KEPT as away:
                logger.warning("a delivery that was not begun stays counted: %s", away)

        parking: Any = self.parking

        def count() -> int:
            counted = parking.delivered if self.retry_later is None else parking.arrived
            found: int = counted(message, keep=keep)
            return found

        try:
            return (yield Blocking(count, undo, blocking=self.blocking))
        except _NOT_KEPT as away:
            # Without the store this message could not be parked: it is not even begun.
            raise _not_now(away, "nothing was run") from None

    def _postpone(
        self,
        call: IncomingCall,
        kept_under: str,
        key: str | None,
        summary: FailureSummary,
        error: Exception,
        count: int,
    ) -> Steps:
        """Record a transient failure; None where the queue is to retry, else what acknowledges."""
        message = self._message(call, kept_under, key, summary)
        if self.retry_later is None or not message.whole:  # a channel cannot be sent again
            yield from self._record(call, message)
            return None
        failure = classify(error)
        seconds = self.retry_later.delay(count - 1, random.random, throttled=failure.throttled)
        seconds = min(_YEAR, max(seconds, failure.retry_after or 0.0))
        parking: Any = self.parking
        try:
            # It is committed before the acknowledgement. In between, the queue repeats it.
            note = message.to_note()
            yield self._ask(lambda: parking.postpone(message.id, note, seconds=seconds))
        except _NOT_KEPT as away:
            logger.warning("%s: a retry is left to the queue: %s", call.function_id, away)
            return None
        expect_relay(self.parking, message.function_id)
        worker_events.postponed(
            message.function_id, failure, message.id, seconds=seconds, attempt=count
        )
        return worker_events.ParkedAnswer(waiting=message.id)

    def _record(self, call: IncomingCall, message: ParkedMessage) -> Steps:
        try:
            yield self._ask(lambda: self._note(message, parked=False))
        except _NOT_KEPT as away:
            logger.warning("%s: a failure is not on record: %s", call.function_id, away)

    def _park(
        self, call: IncomingCall, kept_under: str, key: str | None, summary: FailureSummary
    ) -> Steps:
        """Park the message; what is returned acknowledges it."""
        message = self._message(call, kept_under, key, summary)
        try:
            yield self._ask(lambda: self._note(message, parked=True))
        except _NOT_KEPT as away:
            raise _not_now(away, "the message is not parked") from None
        worker_events.parked(
            message.function_id,
            summary.code,
            summary.category,
            message.id,
            attempt=1 if call.carried is None else call.carried.attempt,
        )
        return worker_events.ParkedAnswer(parked=message.id)

    def _note(self, message: ParkedMessage, *, parked: bool) -> None:
        keep = self.limits.keep
        self.parking.note(message.id, message.to_note(), parked=parked, keep=keep)

    def _message(
        self, call: IncomingCall, kept_under: str, key: str | None, summary: FailureSummary
    ) -> ParkedMessage:
        return ParkedMessage.of(
            call.payload,
            summary,
            kept_under=kept_under,
            function_id=call.known_function(),
            queue=self.queue,
            key=key,
            carried=call.carried,
        )

    def _ask(self, work: Callable[[], Any]) -> Blocking:
        return Blocking(work, blocking=self.blocking)


def _not_now(away: StoreUnavailableError | StoreRefusedError, what: str) -> HandlerError:
    logger.warning("%s: %s", away, what)
    # A raised error does not acknowledge: the queue keeps the message.
    if isinstance(away, StoreRefusedError):
        return PermanentError(
            f"the store of parked messages refuses this message; {what}", code="STORE_REFUSED"
        )
    return TransientError(f"the store of parked messages is away; {what}", code="STORE_UNAVAILABLE")
