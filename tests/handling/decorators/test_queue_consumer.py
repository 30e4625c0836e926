"""`@consumer`: what cannot succeed is parked with its cause; nothing is lost."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from support.telemetry_fixtures import Seen

from iii_resilience import Category, Reason, classify, iii_retry
from iii_resilience.core.hints import hint
from iii_resilience.handling import (
    AuthError,
    NotFoundError,
    PayloadError,
    PermanentError,
    TransientError,
    consumer,
    idempotent,
)
from iii_resilience.handling.decorators.parked_message import ParkedMessage
from iii_resilience.sdk.propagation import PAYLOAD_FIELD, CallContext, InboundCall, handling
from iii_resilience.stores import MemoryStore, Store, StoreUnavailableError
from iii_resilience.testing import LoopbackEngine

ID = "orders::save"


def run(handler: Any, *args: Any) -> Any:
    result = handler(*args)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


# With a store that the test makes itself.
one_store = pytest.mark.parametrize("store", ["memory"], indirect=True)


@pytest.fixture(params=["plain", "async"])
def made(request: pytest.FixtureRequest, store: Store) -> Callable[..., Any]:
    def make(does: Callable[[Any], Any], **options: Any) -> Any:
        settings: dict[str, Any] = {
            "parking": store,
            "key": "order_id",
            "function_id": ID,
            **options,
        }
        decorate = consumer(**settings)
        if request.param == "plain":
            return decorate(does)

        async def handler(data: Any) -> Any:
            await asyncio.sleep(0)
            return does(data)

        return decorate(handler)

    return make


def failing(error: BaseException, ran: list[Any] | None = None) -> Callable[[Any], Any]:
    def handler(data: Any) -> Any:
        if ran is not None:
            ran.append(data)
        raise error

    return handler


def messages(store: Store) -> list[ParkedMessage]:
    found = [ParkedMessage.from_record(record) for record in store.records()]
    return [one for one in found if one is not None]


def test_handled_message_leaves_nothing(made: Callable[..., Any], store: Store) -> None:
    assert run(made(lambda data: data["n"]), {"order_id": 1, "n": 5}) == 5
    assert list(store.records()) == []


@pytest.mark.parametrize(
    ("error", "category", "code"),
    [
        (PermanentError("no", code="CARD_DECLINED"), Category.PERMANENT, "CARD_DECLINED"),
        (PayloadError("bad"), Category.PAYLOAD, "PayloadError"),
        (AuthError("not you"), Category.AUTH, "AuthError"),
        (NotFoundError("no such order"), Category.NOT_FOUND, "NotFoundError"),
        (ValueError("a bug"), Category.PERMANENT, "ValueError"),
    ],
)
def test_what_cannot_succeed_is_parked_and_acknowledged(
    made: Callable[..., Any], store: Store, error: Exception, category: Category, code: str
) -> None:
    payload = {"order_id": "o-1", "n": 1, "_caller_worker_id": "w"}
    before = time.time()
    answer = run(made(failing(error), queue="orders"), payload)
    (parked,) = messages(store)
    assert answer == {"parked": parked.id}
    assert parked.parked_at is not None
    assert (parked.told.category, parked.told.code) == (category, code)
    assert parked.told.message == getattr(error, "message", "a bug")
    assert (parked.function_id, parked.queue, parked.key) == (ID, "orders", '"o-1"')
    assert parked.deliveries == 1
    assert parked.first_failed_at is not None
    assert before - 1 <= parked.first_failed_at <= time.time() + 1
    assert parked.data() == {"order_id": "o-1", "n": 1}


def test_transient_failure_is_recorded_and_raised(made: Callable[..., Any], store: Store) -> None:
    handler = made(failing(ConnectionError("gone")))
    for _ in range(3):
        with pytest.raises(ConnectionError):
            run(handler, {"order_id": 1})
    (found,) = messages(store)
    assert found.parked_at is None
    assert found.deliveries == 3
    assert found.told.category is Category.TRANSIENT


def test_message_that_succeeds_in_the_end_is_forgotten(
    made: Callable[..., Any], store: Store
) -> None:
    ran: list[Any] = []

    def handler(data: Any) -> str:
        ran.append(data)
        if len(ran) == 1:
            raise TransientError("busy")
        return "done"

    wrapped = made(handler)
    with pytest.raises(TransientError):
        run(wrapped, {"order_id": 1})
    assert run(wrapped, {"order_id": 1}) == "done"
    assert list(store.records()) == []


def test_parked_message_is_one_count_and_one_record(
    made: Callable[..., Any], seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(data: Any) -> None:
        raise PermanentError("no", code="CARD_DECLINED")

    run(made(fail), {"order_id": 1})
    (point,) = seen.metrics()["iii.handler.failures"].points
    assert point.value == 1
    assert point.attributes == {
        "iii.function.id": ID,
        "error.type": "_OTHER",
        "iii.error.category": "permanent",
    }
    (record,) = [r for r in caplog.records if r.name == "iii_resilience"]
    told = vars(record)
    assert told["iii_code"] == "CARD_DECLINED"
    assert (told["iii_category"], told["iii_attempt"]) == ("permanent", 1)
    assert told["iii_parked"]
    assert {
        "iii_reason",
        "iii_delay",
        "iii_invocation_id",
        "iii_trace_id",
        "iii_span_id",
    } <= set(told)


def test_message_is_parked_after_max_deliveries(made: Callable[..., Any], store: Store) -> None:
    handler = made(failing(TransientError("busy", code="BUSY")), max_deliveries=3)
    for _ in range(2):
        with pytest.raises(TransientError):
            run(handler, {"order_id": 1})
    assert "parked" in run(handler, {"order_id": 1})
    (parked,) = messages(store)
    assert (parked.deliveries, parked.told.code) == (3, "BUSY")


def test_poison_message_is_parked_without_being_run(made: Callable[..., Any], store: Store) -> None:
    ran: list[Any] = []
    handler = made(failing(SystemExit(), ran), max_deliveries=2)
    for _ in range(2):
        with pytest.raises(SystemExit):
            run(handler, {"order_id": 1})
    assert "parked" in run(handler, {"order_id": 1})
    assert len(ran) == 2
    (parked,) = messages(store)
    assert parked.told.code == "MAX_DELIVERIES"


def test_two_messages_with_different_travelled_keys_are_two(
    made: Callable[..., Any], store: Store
) -> None:
    handler = made(failing(PermanentError("no")), key=None)
    for key in ("a", "b", "a"):
        carried = CallContext(idempotency_key=key, left=3.0, deadline_unix=1.0)
        run(handler, {"n": 1, PAYLOAD_FIELD: carried.to_wire()})
    parked = sorted(messages(store), key=lambda one: str(one.key))
    assert [one.key for one in parked] == ['"a"', '"b"']
    assert [one.deliveries for one in parked] == [2, 1]
    assert parked[0].data() == {"n": 1, PAYLOAD_FIELD: {"idempotency_key": "a"}}


@pytest.mark.parametrize("payload", [{}, {"order_id": 1.5}])
def test_message_without_its_key_is_parked_and_not_run(
    made: Callable[..., Any], store: Store, payload: Any
) -> None:
    ran: list[Any] = []
    assert "parked" in run(made(ran.append), payload)
    assert ran == []
    (parked,) = messages(store)
    assert parked.key is None
    assert parked.told.category is Category.PAYLOAD


def test_each_failed_delivery_is_record_without_key(made: Callable[..., Any], store: Store) -> None:
    handler = made(failing(PermanentError("no")), key=None)
    for payload in ([1], [2], "text", [1]):
        run(handler, payload)
    found = messages(store)
    assert sorted(one.payload for one in found) == ['"text"', "[1]", "[1]", "[2]"]
    assert [one.deliveries for one in found] == [1] * 4


def test_success_removes_no_equal_message_without_key(
    made: Callable[..., Any], store: Store
) -> None:
    fails = [PermanentError("no"), None, TransientError("busy"), None]

    def handler(data: Any) -> None:
        if (error := fails.pop(0)) is not None:
            raise error

    wrapped = made(handler, key=None)
    run(wrapped, {"n": 1})
    run(wrapped, {"n": 1})
    with pytest.raises(TransientError):
        run(wrapped, {"n": 1})
    run(wrapped, {"n": 1})
    found = sorted(messages(store), key=lambda one: one.parked_at is None)
    assert [one.parked_at is not None for one in found] == [True, False]
    assert len(list(store.records())) == 2


def test_deliveries_are_not_counted_without_key() -> None:
    with pytest.raises(TypeError, match="max_deliveries needs key="):
        consumer(parking=MemoryStore(), max_deliveries=3)


def test_payload_with_channel_is_kept_as_far_as_it_goes(
    made: Callable[..., Any], store: Store
) -> None:
    run(made(failing(PermanentError("no"))), {"order_id": 1, "file": object()})
    (parked,) = messages(store)
    assert not parked.whole
    assert json.loads(parked.payload)["file"] == {"type": "builtins.object"}


def test_trace_is_recorded(made: Callable[..., Any], store: Store) -> None:
    context = trace.SpanContext(0xABC, 0xDEF, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(context)):
        run(made(failing(PermanentError("no"))), {"order_id": 1})
    (parked,) = messages(store)
    assert parked.trace_id == f"{0xABC:032x}"
    assert parked.span_id == f"{0xDEF:016x}"


def test_neither_payload_nor_key_nor_message_shows(
    made: Callable[..., Any], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "iii_resilience"):
        run(made(failing(PermanentError("secret"))), {"order_id": "secret", "n": "secret"})
    assert caplog.records
    assert "secret" not in caplog.text + repr(messages(store)) + repr(list(store.records()))


def test_permanent_hint_in_consumer_is_dead_letter(made: Callable[..., Any], store: Store) -> None:
    advised: list[str] = []

    def handler(data: Any) -> None:
        failure = classify(ValueError("x"))
        advised.append(hint(failure, Reason.NOT_RETRYABLE).action)

    run(made(handler), {"order_id": 1})
    assert advised == ["dead-letter"]
    assert hint(classify(ValueError("x")), Reason.NOT_RETRYABLE).action == "investigate"


# A store that is away.


class Away(MemoryStore):
    """A store of which some operations fail."""

    def __init__(self, *away: str) -> None:
        super().__init__()
        self.away = set(away)

    def _change(self, kind: str, row_id: str, rule: Any, *, lasting: bool = False) -> Any:
        name = rule.__qualname__.partition(".")[0]
        if name in self.away:
            raise StoreUnavailableError(f"{name} is away")
        return super()._change(kind, row_id, rule, lasting=lasting)


@one_store
def test_if_store_is_away_nothing_is_run(made: Callable[..., Any]) -> None:
    ran: list[Any] = []
    with pytest.raises(TransientError, match="nothing was run"):
        run(made(ran.append, parking=Away("delivered")), {"order_id": 1})
    assert ran == []


@one_store
def test_if_parking_fails_message_is_not_acknowledged(made: Callable[..., Any]) -> None:
    store = Away("note")
    handler = made(failing(PermanentError("no")), parking=store)
    with pytest.raises(TransientError, match="the message is not parked"):
        run(handler, {"order_id": 1})
    store.away.clear()
    assert "parked" in run(handler, {"order_id": 1})
    assert [one.deliveries for one in messages(store)] == [2]


@one_store
def test_unrecorded_transient_failure_is_raised(
    made: Callable[..., Any],
) -> None:
    with pytest.raises(ConnectionError):
        run(made(failing(ConnectionError()), parking=Away("note")), {"order_id": 1})


@one_store
def test_handled_message_is_acknowledged_despite_record(
    made: Callable[..., Any],
) -> None:
    assert run(made(lambda data: "done", parking=Away("settle")), {"order_id": 1}) == "done"


# With a key that runs once, and with the queue.


def test_key_that_travelled_reaches_wrapper_inside(store: Store) -> None:
    ran: list[Any] = []

    @consumer(parking=store, function_id=ID)
    @idempotent(store)
    def handler(data: Any) -> str:
        ran.append(data)
        return "done"

    payload = {"n": 1, PAYLOAD_FIELD: CallContext(idempotency_key="k").to_wire()}
    assert handler(payload) == handler(payload) == "done"
    assert ran == [{"n": 1}]


def test_stored_failure_is_parked_once_with_its_cause(store: Store) -> None:
    @consumer(parking=store, key="order_id", function_id=ID)
    @idempotent(store, key="order_id")
    def handler(data: Any) -> None:
        raise PermanentError("no", code="CARD_DECLINED")

    handler({"order_id": 1})
    handler({"order_id": 1})
    (parked,) = messages(store)
    assert (parked.told.code, parked.deliveries) == ("CARD_DECLINED", 2)
    assert parked.slot is not None
    assert store.forget_failure(parked.slot)


def test_function_is_known_from_registration(store: Store) -> None:
    handler = consumer(parking=store)(failing(PermanentError("no")))
    with pytest.raises(PermanentError, match="FUNCTION_ID_UNKNOWN"):
        handler({})
    with handling(InboundCall(function_id=ID)):
        handler({})
    assert [one.function_id for one in messages(store)] == [ID]


def test_on_queue_only_permanent_failures_are_not_retried(
    store: Store, engine: LoopbackEngine, target: Any, caller: Any
) -> None:
    heard: list[Any] = []

    @consumer(parking=store, key="n", function_id="jobs::do", max_deliveries=3)
    def handler(data: Any) -> None:
        heard.append(data["n"])
        raise PermanentError("no") if data["n"] == 1 else TransientError("busy")

    engine.define_queue("jobs", max_retries=9, backoff_ms=1)
    target.register_function("jobs::do", handler)
    engine.wait_registered("jobs::do")
    for n in (1, 2):
        request = {"function_id": "jobs::do", "payload": {"n": n}}
        caller.trigger({**request, "action": {"type": "enqueue", "queue": "jobs"}})
    engine.wait_queue_idle("jobs")
    assert sorted(heard) == [1, 2, 2, 2]
    assert engine.dead_letters("jobs") == ()
    assert sorted(one.payload for one in messages(store)) == ['{"n": 1}', '{"n": 2}']


def test_inner_retry_that_gave_up_is_recorded_as_what_it_was(store: Store) -> None:
    @iii_retry(idempotent=True, attempts=2, wait=lambda _: 0.0)
    def flaky() -> None:
        raise ConnectionError("gone")

    @consumer(parking=store, key="n", function_id=ID)
    def handler(data: Any) -> None:
        flaky()

    with pytest.raises(ConnectionError):
        handler({"n": 1})
    (found,) = messages(store)
    assert found.told.category is Category.TRANSIENT


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"key": 5}, TypeError),
        ({"parking": "store.db"}, TypeError),
        ({"key": "n", "max_deliveries": 0}, ValueError),
        ({"key": "n", "max_deliveries": 1.5}, ValueError),
        ({"keep": 0}, ValueError),
    ],
)
def test_bad_options_are_refused_where_they_are_written(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        consumer(**{"parking": MemoryStore(), **options})


class HeldUp(MemoryStore):
    """Counts, and then answers late."""

    blocking = True

    def __init__(self) -> None:
        super().__init__()
        self.counted, self.go_on = threading.Event(), threading.Event()

    def delivered(self, message: str, *, keep: float) -> int:
        count = super().delivered(message, keep=keep)
        self.counted.set()
        assert self.go_on.wait(60)
        return count


async def cancelled_while_counted(store: HeldUp, handler: Any) -> None:
    task = asyncio.create_task(handler({"order_id": 1}))
    while not store.counted.is_set():
        await asyncio.sleep(0.005)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    store.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_delivery_cancelled_while_counted_does_not_count() -> None:
    store = HeldUp()

    @consumer(parking=store, key="order_id", function_id=ID, max_deliveries=1)
    async def handler(data: Any) -> str:
        return "done"

    await cancelled_while_counted(store, handler)
    assert list(store.records()) == []
    again: Any = handler
    assert await again({"order_id": 1}) == "done", "not parked: it never ran"


async def test_count_that_cannot_be_taken_back_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Away(HeldUp):
        def undelivered(self, message: str, *, keep: float) -> None:
            raise StoreUnavailableError("away")

    store = Away()
    gc.collect()  # what tests before have left says so now
    caplog.clear()

    @consumer(parking=store, key="order_id", function_id=ID)
    async def handler(data: Any) -> str:
        return "done"

    await cancelled_while_counted(store, handler)
    gc.collect()
    both = ("iii_resilience", "asyncio")
    assert [r.getMessage() for r in caplog.records if r.name in both] == [
        "a delivery that was not begun stays counted: away"
    ], "and asyncio has nothing to add"
