"""The relay hands committed rows over, in order, and survives what comes in between."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest
from support.postgres_fixtures import needs_postgres
from support.waiting import until

from iii_resilience import NotConnectedError, resilient
from iii_resilience.handling import consumer, idempotent
from iii_resilience.handling.relay import relay_loop
from iii_resilience.handling.relay.hand_over_rules import TRIES_MOST
from iii_resilience.sdk.propagation import PAYLOAD_FIELD
from iii_resilience.stores import MemoryStore, PostgresStore, SqliteStore, StoreUnavailableError
from iii_resilience.testing import AnswerError, DropAnswer, LoopbackEngine

ENQUEUE = "engine::queue::enqueue"
ID = "orders::save"


class World:
    """A store with an outbox, a transaction of one's own, and a worker that serves the function."""

    def __init__(self, store: Any, mine: Any, engine: LoopbackEngine, connect: Any) -> None:
        self.store = store
        self.mine = mine
        self.engine = engine
        self.connect = connect
        self.relays: list[Any] = []
        self.seen: list[Any] = []
        target = connect()
        target.register_function(ID, self.seen.append)
        engine.wait_registered(ID)
        # One at a time: the SDK runs each handler on a thread, and threads overtake one another.
        engine.define_queue("orders", concurrency=1)

    def enqueue(self, *numbers: int, queue: str = "orders", **more: Any) -> None:
        for number in numbers:
            self.store.enqueue(self.mine, queue, ID, {"n": number, **more}, key=f"k{number}")
        self.mine.commit()

    def relay(self, **more: Any) -> Any:
        worker = resilient(self.connect(), relay=self.store, **more)
        self.relays.append(worker)
        return worker

    def end(self) -> None:
        for worker in self.relays:
            worker.shutdown()
        # One that found its store closed would say so in the log of the next test.
        until(lambda: not any(w._handlers._relay._thread.is_alive() for w in self.relays))
        self.mine.close()
        self.store.close()

    def numbers(self) -> list[int]:
        return [data["n"] for data in list(self.seen)]

    def delivered(self, *numbers: int) -> None:
        until(lambda: self.numbers() == list(numbers), 60)

    def left(self) -> int:
        return int(self.store.backlog().outbox)

    def emptied(self) -> None:
        until(lambda: self.left() == 0, 60)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs_postgres)])
def world(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    engine: LoopbackEngine,
    connect: Callable[..., Any],
) -> Iterator[World]:
    if request.param == "sqlite":
        store: Any = SqliteStore(tmp_path / "store.db")
        store.backlog()
        mine: Any = sqlite3.connect(tmp_path / "store.db")
    else:
        url = request.getfixturevalue("postgres_url")
        store, mine = PostgresStore(url), psycopg.connect(url)
    made = World(store, mine, engine, connect)
    yield made
    made.end()


@pytest.fixture
def small(tmp_path: Path, engine: LoopbackEngine, connect: Callable[..., Any]) -> Iterator[World]:
    """A world of SQLite alone."""
    store = SqliteStore(tmp_path / "store.db")
    store.backlog()
    mine = sqlite3.connect(tmp_path / "store.db")
    made = World(store, mine, engine, connect)
    yield made
    made.end()


def parked(store: Any) -> list[Any]:
    return [record for record in store.records() if record.parked_at is not None]


class TestHandOver:
    def test_committed_rows_arrive_in_order_with_their_keys(self, world: World) -> None:
        world.enqueue(*range(120))
        world.relay()
        world.delivered(*range(120))
        world.emptied()
        sent = [call.data[PAYLOAD_FIELD] for call in world.engine.calls(ID)]
        assert sent == [{"idempotency_key": f"k{n}"} for n in range(120)]

    def test_commit_is_noticed(self, world: World) -> None:
        worker = world.relay()
        until(lambda: worker.health().relay.active, 60)
        world.store.enqueue(world.mine, "orders", ID, {"n": 1})
        time.sleep(0.7)
        assert world.numbers() == []
        world.mine.commit()
        world.delivered(1)
        world.store.enqueue(world.mine, "orders", ID, {"n": 2})
        world.mine.rollback()
        world.enqueue(3)
        world.delivered(1, 3)

    def test_handlers_row_follows_its_transaction(self, world: World) -> None:
        worker = world.relay()
        ran: list[Any] = []

        @idempotent(world.store, key="order_id")
        def pay(data: Any, transaction: Any) -> None:
            world.store.enqueue(transaction, "orders", "orders::follow", data, key="p-1")

        @consumer(parking=world.store, queue="orders")
        @idempotent(world.store)  # by the key that travelled
        def follow(data: Any) -> None:
            ran.append(data["order_id"])

        worker.register_function("payments::take", pay)
        worker.register_function("orders::follow", follow)
        worker.trigger({"function_id": "payments::take", "payload": {"order_id": 1}})
        worker.trigger({"function_id": "payments::take", "payload": {"order_id": 1}})
        until(lambda: ran == [1], 60)
        world.emptied()
        # A handler that the end of its worker cuts off would be logged in the next test.
        world.engine.wait_queue_idle("orders", timeout=60)


class TestWaits:
    def test_provider_that_is_away(self, small: World, caplog: pytest.LogCaptureFixture) -> None:
        away = AnswerError("function_not_found", f"Function {ENQUEUE} not found")
        small.engine.inject(ENQUEUE, away, times=3)
        with caplog.at_level(logging.INFO, "iii_resilience"):
            small.enqueue(1, 2)
            worker = small.relay()
            until(lambda: worker.health().relay.waits_for == "enqueue_error", 60)
            small.delivered(1, 2)
            until(lambda: worker.health().relay.waits_for is None, 60)
        said = [r.getMessage() for r in caplog.records if "the relay" in r.getMessage()]
        assert len(said) == 2, "once a time"
        assert "waits, for all queues: enqueue_error" in said[0]
        assert said[1] == "the relay goes on, with all queues"

    def test_queue_that_is_not_defined_waits_alone(self, small: World) -> None:
        small.enqueue(1, queue="undefined")
        small.enqueue(2, 3)
        worker = small.relay()
        small.delivered(2, 3)
        until(lambda: worker.health().relay.waits_for == "enqueue_error", 60)
        assert parked(small.store) == []
        small.engine.define_queue("undefined")
        small.delivered(2, 3, 1)
        until(lambda: worker.health().relay.waits_for is None, 60)

    def test_engine_that_restarts(self, small: World) -> None:
        worker = small.relay()
        until(lambda: worker.health().relay.active, 60)
        small.engine.stop_listening()
        small.enqueue(1, 2)
        time.sleep(0.3)
        small.engine.listen()
        # The first comes after the second where it found the function not registered yet.
        until(lambda: sorted(small.numbers()) == [1, 2], 60)

    def test_worker_without_connection_leaves_lock_to_another(
        self, small: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relay_loop, "_AWAY_MOST", 0.1)
        first = small.relay()
        until(lambda: first.health().relay.active, 60)
        second = small.relay()
        transport = first._connection.client._client._ws.transport
        first._loop.call_soon_threadsafe(transport.abort)
        monkeypatch.setattr(
            type(first._connection),
            "connected",
            property(lambda self: self is second._connection and self.client.connected),
        )
        until(lambda: second.health().relay.active, 60)
        small.enqueue(1)
        small.delivered(1)

    def test_store_that_is_away(self, small: World, monkeypatch: pytest.MonkeyPatch) -> None:
        fails = [StoreUnavailableError("away")] * 2
        found = small.store.outbox

        def outbox(**more: Any) -> Any:
            if fails:
                raise fails.pop()
            return found(**more)

        monkeypatch.setattr(small.store, "outbox", outbox)
        small.enqueue(1)
        small.relay()
        small.delivered(1)

    def test_fault_of_its_own_does_not_end_it(
        self, small: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fails = [ZeroDivisionError()]
        found = small.store.due

        def due(**more: Any) -> Any:
            if fails:
                raise fails.pop()
            return found(**more)

        monkeypatch.setattr(small.store, "due", due)
        small.enqueue(1)
        small.relay()
        small.delivered(1)


class TestOrder:
    def test_pause_that_ends_within_batch_changes_no_order(
        self, small: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The row of another queue takes longer than the pause after the first row's failure."""
        worker = small.relay()
        sent: list[tuple[str, int]] = []
        fails = [NotConnectedError("no"), BusyError()]

        def send(request: Any, **_: Any) -> Any:
            where = request["action"]["queue"], request["payload"]["n"]
            if where == ("late", 0) and fails:
                raise fails.pop()
            if where[0] == "slow":
                time.sleep(1.0)
            sent.append(where)
            return {"messageReceiptId": "r"}

        monkeypatch.setattr(worker._connection.in_flight, "send", send)
        for number, queue in enumerate(("late", "slow", "late", "late")):
            small.store.enqueue(small.mine, queue, ID, {"n": number})
        small.mine.commit()
        small.emptied()
        assert [number for queue, number in sent if queue == "late"] == [0, 2, 3]

    def test_standby_keeps_its_session(self, small: World) -> None:
        locks: list[str] = []
        first = small.relay()
        until(lambda: first.health().relay.active, 60)
        second = resilient(small.connect(), relay=small.store)
        small.relays.append(second)
        relay: Any = second._handlers._relay
        released = relay._relay_lock.release

        def release() -> None:
            locks.append("released")
            released()

        relay._relay_lock.release = release
        time.sleep(2.5)
        assert not locks


class BusyError(Exception):
    code = "RATE_LIMITED"


class TestNeverEnqueued:
    def test_refused_function_is_parked_and_next_row_goes_on(self, world: World) -> None:
        world.engine.forbid("admin::*")
        world.store.enqueue(world.mine, "orders", "admin::drop", {"n": 0}, key="k0")
        world.enqueue(1)
        world.relay()
        world.delivered(1)
        world.emptied()
        (record,) = parked(world.store)
        note = record.note
        assert (note["code"], note["category"], note["queue"]) == ("FORBIDDEN", "auth", "orders")
        assert (note["function_id"], note["key"]) == ("admin::drop", '"k0"')
        assert json.loads(note["payload"]) == {"n": 0}
        assert note["carried"] == {"idempotency_key": "k0"}

    def test_payload_that_cannot_be_sent_is_parked(self, small: World) -> None:
        deep: Any = []
        for _ in range(150):
            deep = [deep]
        worker = small.relay()
        worker._connection.sdk = attrs.evolve(worker._connection.sdk, send_limit=5000)
        small.enqueue(0, deep=deep)
        small.enqueue(1, large="x" * 5000)
        small.enqueue(2)
        small.delivered(2)
        small.emptied()
        codes = {record.note["code"] for record in parked(small.store)}
        assert codes == {"invalid_payload", "payload_too_large"}

    def test_row_that_something_else_has_written_is_parked(self, small: World) -> None:
        for number, data in enumerate(("no JSON", "[1]")):
            small.mine.execute(
                "INSERT INTO iii_resilience_outbox VALUES (NULL, 'orders', ?, ?, ?, 0)",
                (ID, data, f"k{number}"),
            )
        small.enqueue(2)
        small.relay()
        small.delivered(2)
        small.emptied()
        assert len(parked(small.store)) == 2

    def test_answer_without_receipt_is_no_receipt(
        self, small: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("iii_resilience.handling.relay.hand_over_rules.TRIES_MOST", 3)
        assert TRIES_MOST > 3
        worker = small.relay()
        calls, sends = worker._connection.in_flight, worker._connection.in_flight.send
        answers: list[Any] = [{"status": "ok"}, None, {"messageReceiptId": None}]
        monkeypatch.setattr(
            calls, "send", lambda *of, **more: answers.pop() if answers else sends(*of, **more)
        )
        small.enqueue(1, 2)
        small.delivered(2)
        small.emptied()
        assert [record.note["code"] for record in parked(small.store)] == ["no receipt"]


class TestTwice:
    def test_lost_receipt_hands_over_again_and_handler_runs_once(
        self, small: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("iii_resilience.handling.relay.hand_over.ANSWER_WITHIN", 0.5)
        ran: list[Any] = []

        @idempotent(small.store)
        def once(data: Any) -> None:
            ran.append(data["n"])

        worker = small.relay()
        worker.register_function("orders::once", once)
        small.engine.wait_registered("orders::once")
        small.engine.inject(ENQUEUE, DropAnswer())
        small.store.enqueue(small.mine, "orders", "orders::once", {"n": 1}, key="k")
        small.mine.commit()
        small.emptied()
        until(lambda: len(small.engine.calls("orders::once")) >= 2, 60)
        small.engine.wait_queue_idle("orders", timeout=60)
        assert ran == [1]

    def test_store_that_fails_after_receipt_hands_over_again(
        self, small: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fails = [StoreUnavailableError("away")]
        deletes = small.store.handed_over

        def handed_over(row: int) -> None:
            if fails:
                raise fails.pop()
            deletes(row)

        monkeypatch.setattr(small.store, "handed_over", handed_over)
        small.enqueue(1, 2)
        small.relay()
        small.delivered(1, 1, 2)
        assert {call.data[PAYLOAD_FIELD]["idempotency_key"] for call in small.engine.calls(ID)} == {
            "k1",
            "k2",
        }


class TestRelayLocks:
    def test_one_of_two_is_active_until_it_leaves(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("iii_resilience.handling.worker._LAST_RECEIPT", 30.0)
        first = world.relay()
        until(lambda: first.health().relay.active, 60)
        second = world.relay()
        world.enqueue(1)
        world.delivered(1)
        assert not second.health().relay.active
        first.drain(30)
        assert not first.health().relay.active
        until(lambda: second.health().relay.active, 8)  # a lease would last longer
        world.enqueue(2)
        world.delivered(1, 2)

    def test_one_store_has_no_outbox(self, engine: LoopbackEngine, connect: Any) -> None:
        worker: Any = resilient(connect(), relay=MemoryStore())
        until(lambda: worker.health().relay.active, 60)
        worker.shutdown()

    def test_health_counts_what_waits(self, small: World) -> None:
        small.enqueue(1, 2, 3, queue="undefined")
        worker = small.relay()
        until(lambda: worker.health().relay.outbox == 3, 60)
        status = worker.health().relay
        assert (status.active, status.retries) == (True, 0)
        assert 0 <= status.oldest < 60
        assert resilient(small.connect()).health().relay is None


class TestLeaves:
    @pytest.mark.parametrize("leave", ["drain", "shutdown"])
    def test_row_under_way_is_finished(
        self, small: World, leave: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun = threading.Event()
        deletes = small.store.handed_over

        def handed_over(row: int) -> None:
            begun.set()
            until(lambda: relay._stopping)
            deletes(row)

        monkeypatch.setattr(small.store, "handed_over", handed_over)
        worker = small.relay()
        relay: Any = worker._handlers._relay
        small.enqueue(1, 2)
        assert begun.wait(60)
        monkeypatch.setattr("iii_resilience.handling.worker._LAST_RECEIPT", 30.0)
        getattr(worker, leave)()
        assert small.left() == 1
        assert not small.store.relayed()
        assert not relay._thread.is_alive()

    def test_receipt_that_never_comes_holds_nothing_up(self, small: World) -> None:
        small.engine.inject(ENQUEUE, DropAnswer(), times=None)
        small.enqueue(1)
        worker = small.relay()
        small.delivered(1)
        began = time.monotonic()
        worker.shutdown()
        assert time.monotonic() - began < 15
        assert small.left() == 1
        until(lambda: not small.store.relayed(), 60)

    def test_relay_must_be_store(self, connect: Callable[..., Any]) -> None:
        with pytest.raises(TypeError, match="relay must be a store"):
            resilient(connect(), relay=object())  # type: ignore[arg-type]
