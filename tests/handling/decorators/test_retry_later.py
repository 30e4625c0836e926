"""`@consumer(retry_later=...)`: a transient failure waits for its time, outside of the queue."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.relay_checks import relay_checks
from support.waiting import until

from iii_resilience import Backoff, resilient
from iii_resilience.handling import PermanentError, TransientError, consumer, idempotent
from iii_resilience.handling.decorators import relay_needed
from iii_resilience.handling.decorators.parked_message import ParkedMessage
from iii_resilience.sdk.propagation import PAYLOAD_FIELD
from iii_resilience.stores import MemoryStore, Record, Store, StoreUnavailableError
from iii_resilience.testing import DropAnswer, LoopbackEngine

ID = "orders::save"
SOON = Backoff(base=0.05, cap=0.05, jitter="none")
LATE = Backoff(base=900.0, cap=3600.0, jitter="none")
ORDER = {"order_id": 1}


def run(handler: Any, data: Any) -> Any:
    result = handler(data)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


@pytest.fixture(params=["plain", "async"])
def made(request: pytest.FixtureRequest, store: Store) -> Callable[..., Any]:
    def make(does: Callable[[Any], Any], **options: Any) -> Any:
        settings: dict[str, Any] = {
            "parking": store,
            "key": "order_id",
            "queue": "orders",
            "function_id": ID,
            "retry_later": LATE,
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


def failing(error: Exception, ran: list[Any] | None = None) -> Callable[[Any], Any]:
    def handler(data: Any) -> Any:
        if ran is not None:
            ran.append(data)
        raise error

    return handler


def only(store: Store) -> Record:
    (record,) = store.records()
    return record


def left(store: Store) -> float:
    due = only(store).due_at
    assert due is not None
    return due - time.time()


class TestOneDelivery:
    def test_transient_failure_waits_and_is_acknowledged(
        self, made: Callable[..., Any], store: Store
    ) -> None:
        handler = made(failing(TransientError("busy", code="BUSY")))
        assert list(run(handler, ORDER)) == ["waiting"]
        assert 800 < left(store) <= 901
        message = ParkedMessage.from_record(only(store))
        assert message is not None
        assert (message.told.code, message.queue, message.key) == ("BUSY", "orders", "1")
        assert (message.deliveries, message.parked_at) == (1, None)

    def test_delivery_of_what_waits_is_acknowledged_and_not_run(
        self, made: Callable[..., Any], store: Store
    ) -> None:
        ran: list[Any] = []
        handler = made(failing(TransientError("busy"), ran), max_deliveries=2)
        first, again = run(handler, ORDER), run(handler, ORDER)
        assert first == again
        assert len(ran) == only(store).deliveries == 1

    @pytest.mark.parametrize(("asked", "least"), [(1800.0, 1700), (1.5, 800), (None, 800)], ids=str)
    def test_time_that_failure_names_is_floor(
        self, made: Callable[..., Any], store: Store, asked: float | None, least: float
    ) -> None:
        run(made(failing(TransientError("busy", retry_after=asked))), ORDER)
        assert least < left(store) <= (32e6 if asked == 1e12 else 1801)

    def test_each_attempt_waits_longer(self, made: Callable[..., Any], store: Any) -> None:
        handler = made(failing(TransientError("busy")))
        for most in (900, 1800, 3600, 3600):
            run(handler, ORDER)
            assert most - 100 < left(store) <= most + 1
            store.take(only(store).id, only(store).revision)

    def test_jitter_is_drawn(self, made: Callable[..., Any], store: Store) -> None:
        run(made(failing(TransientError("busy")), retry_later=Backoff(900, cap=900)), ORDER)
        assert left(store) < 901

    def test_last_delivery_is_parked(self, made: Callable[..., Any], store: Any) -> None:
        handler = made(failing(TransientError("busy")), max_deliveries=2)
        assert list(run(handler, ORDER)) == ["waiting"]
        store.take(only(store).id, only(store).revision)
        assert list(run(handler, ORDER)) == ["parked"]
        assert (only(store).deliveries, only(store).due_at) == (2, None)
        assert only(store).parked_at is not None

    def test_permanent_failure_is_parked_at_once(
        self, made: Callable[..., Any], store: Store
    ) -> None:
        assert list(run(made(failing(PermanentError("no"))), ORDER)) == ["parked"]

    def test_handled_message_leaves_nothing(self, made: Callable[..., Any], store: Any) -> None:
        outcomes = [TransientError("busy"), None]

        def handler(_: Any) -> str:
            outcome = outcomes.pop(0)
            if outcome is not None:
                raise outcome
            return "done"

        wrapped = made(handler)
        run(wrapped, ORDER)
        store.take(only(store).id, only(store).revision)
        assert run(wrapped, ORDER) == "done"
        assert list(store.records()) == []

    def test_channel_is_left_to_queue(self, made: Callable[..., Any], store: Store) -> None:
        with pytest.raises(TransientError):
            run(made(failing(TransientError("busy"))), {"order_id": 1, "file": object()})
        assert only(store).due_at is None


class TestStoreAway:
    def test_queue_retries_where_nothing_is_recorded(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = MemoryStore()

        def postpone(*_: Any, **__: Any) -> None:
            raise StoreUnavailableError("away")

        monkeypatch.setattr(store, "postpone", postpone)
        options: Any = {"key": "order_id", "queue": "orders", "function_id": ID}
        handler = consumer(parking=store, retry_later=LATE, **options)(
            failing(TransientError("busy"))
        )
        with pytest.raises(TransientError):
            handler(ORDER)
        assert "a retry is left to the queue: away" in caplog.text


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "error", "why"),
        [
            ({"retry_later": 3.0}, TypeError, "must be a Backoff, got float"),
            ({"retry_later": Backoff(jitter="decorrelated")}, ValueError, "decorrelated"),
            ({"key": None}, TypeError, "needs key=. Without one two deliveries"),
            ({"queue": None}, TypeError, "needs queue=. Without one the message"),
        ],
    )
    def test_refused(self, options: dict[str, Any], error: type[Exception], why: str) -> None:
        settings: dict[str, Any] = {"key": "order_id", "queue": "q", "retry_later": LATE}
        with pytest.raises(error, match=why):
            consumer(parking=MemoryStore(), **{**settings, **options})

    def test_store_without_waiting_is_refused(self) -> None:
        class Old:
            blocking = False
            delivered = note = settle = print

        options: Any = {"key": "order_id", "queue": "q", "retry_later": LATE}
        with pytest.raises(TypeError, match="in a Old messages cannot wait"):
            consumer(parking=Old(), **options)  # type: ignore[arg-type]


class TestNoRelay:
    @pytest.fixture(autouse=True)
    def quickly(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        caplog.clear()
        monkeypatch.setattr(relay_needed, "_GRACE", 0.05)

    @staticmethod
    def handler(store: Store) -> Any:
        options: Any = {"key": "order_id", "queue": "orders", "retry_later": SOON}
        return consumer(parking=store, **options)(failing(TransientError("busy")))

    def test_registration_without_relay_is_warned_of(
        self, connect: Callable[..., Any], store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        worker = resilient(connect())
        worker.register_function(ID, self.handler(store))
        worker.register_function(f"{ID}-2", self.handler(store))
        until(lambda: "no relay is active on it" in caplog.text, 60)
        time.sleep(0.2)
        assert caplog.text.count("no relay is active") == 1
        worker.shutdown()

    def test_relay_anywhere_is_enough(
        self, connect: Callable[..., Any], store: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        lock = store.relay_lock()
        assert lock.active()
        worker = resilient(connect())
        worker.register_function(ID, self.handler(store))
        until(lambda: not relay_checks(), 60)
        assert "no relay" not in caplog.text
        lock.release()
        worker.shutdown()

    def test_worker_that_relays_is_not_warned(
        self, connect: Callable[..., Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        store = MemoryStore()
        worker = resilient(connect(), relay=store)
        worker.register_function(ID, self.handler(store))
        assert not relay_checks()
        worker.shutdown()
        assert "no relay" not in caplog.text

    def test_handler_without_worker_of_ours_is_warned_when_it_waits(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = MemoryStore()
        options: Any = {"key": "order_id", "queue": "q", "retry_later": SOON, "function_id": ID}
        consumer(parking=store, **options)(failing(TransientError("busy")))(ORDER)
        until(lambda: "no relay is active on it" in caplog.text, 60)


class TestWithRelay:
    def test_message_comes_again_in_its_time_and_holds_no_slot(
        self, engine: LoopbackEngine, connect: Callable[..., Any], store: Store
    ) -> None:
        engine.define_queue("orders", concurrency=1)
        times: dict[int, list[float]] = {1: [], 2: []}
        attempts: list[Any] = []
        both_sent = threading.Event()

        @consumer(parking=store, key="order_id", queue="orders", retry_later=SOON)
        @idempotent(store, key="order_id")
        def save(data: Any) -> str:
            times[data["order_id"]].append(time.monotonic())
            if data["order_id"] == 1 and len(times[1]) == 1:
                assert both_sent.wait(60)
                raise TransientError("busy", retry_after=3.0)
            return "done"

        worker = resilient(connect(), relay=store)  # type: ignore[arg-type]
        worker.register_function(ID, save)
        engine.wait_registered(ID)
        for number in (1, 2):
            worker.trigger(
                {
                    "function_id": ID,
                    "payload": {"order_id": number},
                    "action": {"type": "enqueue", "queue": "orders"},
                }
            )
        both_sent.set()
        until(lambda: len(times[1]) == 2 and times[2], 60)
        engine.wait_queue_idle("orders", timeout=60)
        attempts += [
            call.data.get(PAYLOAD_FIELD)
            for call in engine.calls(ID)
            if call.data["order_id"] == 1 and call.action == "enqueue"
        ]
        assert times[1][1] - times[1][0] >= 3.0
        assert times[2][0] < times[1][1], "the queue's only slot was free meanwhile"
        assert attempts == [None, {"attempt": 2}]
        until(lambda: not [one for one in store.records() if one.note], 60)
        worker.shutdown()

    def test_lost_acknowledgement_makes_no_second_retry(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        engine.define_queue("orders", backoff_ms=20)
        store = MemoryStore()
        ran: list[Any] = []

        @consumer(parking=store, key="order_id", queue="orders", retry_later=SOON)
        def save(data: Any) -> None:
            ran.append(data)
            if len(ran) == 1:
                raise TransientError("busy", retry_after=900.0)

        worker = resilient(connect(), relay=store)
        worker.register_function(ID, save)
        engine.wait_registered(ID)
        engine.inject(ID, DropAnswer(), deliveries=True)
        action = {"type": "enqueue", "queue": "orders"}
        worker.trigger({"function_id": ID, "payload": ORDER, "action": action})
        until(lambda: [record for record in store.records() if record.due_at], 60)
        engine.restart_queue_worker()  # it delivers again what was not acknowledged
        engine.wait_queue_idle("orders", timeout=60)
        assert len(ran) == only(store).deliveries == 1, "the repeated delivery is not run"
        store.postpone(only(store).id, only(store).note, seconds=0.0)  # its time has come
        until(lambda: len(ran) == 2, 60)
        engine.wait_queue_idle("orders", timeout=60)
        assert len(engine.calls(ID)) == 2, "one retry was enqueued"
        until(lambda: not list(store.records()), 60)
        worker.shutdown()

    def test_deliveries_count_across(
        self, engine: LoopbackEngine, connect: Callable[..., Any], store: Store
    ) -> None:
        engine.define_queue("orders")
        ran: list[Any] = []
        options: Any = {"key": "order_id", "queue": "orders", "retry_later": SOON}
        handler = failing(TransientError("busy"), ran)
        worker = resilient(connect(), relay=store)  # type: ignore[arg-type]
        worker.register_function(ID, consumer(parking=store, max_deliveries=3, **options)(handler))
        engine.wait_registered(ID)
        action = {"type": "enqueue", "queue": "orders"}
        worker.trigger({"function_id": ID, "payload": ORDER, "action": action})
        until(lambda: only(store).parked_at if ran else None, 60)
        assert (len(ran), only(store).deliveries) == (3, 3)
        worker.shutdown()

    def test_refused_retry_is_parked(
        self, engine: LoopbackEngine, connect: Callable[..., Any], store: Any
    ) -> None:
        options: Any = {"key": "order_id", "queue": "orders", "function_id": ID}
        consumer(parking=store, retry_later=SOON, **options)(failing(TransientError("x")))(ORDER)
        engine.define_queue("orders")
        engine.forbid(ID)
        worker = resilient(connect(), relay=store)
        until(lambda: only(store).parked_at, 60)
        assert only(store).note["code"] == "FORBIDDEN"
        assert only(store).due_at is None
        worker.shutdown()
