"""The built-in queue worker does what the standalone one was seen to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from testing.loopback_clients import Message, Raw, error_of

from iii_resilience.testing import AnswerError, LoopbackEngine


@pytest.fixture
def caller(engine: LoopbackEngine) -> Iterator[Raw]:
    with Raw(engine.url, "caller") as raw:
        yield raw


@pytest.fixture
def worker(engine: LoopbackEngine) -> Iterator[Raw]:
    with Raw(engine.url, "worker") as raw:
        yield raw


def enqueue(caller: Raw, queue: str, data: Any = None, function_id: str = "jobs::do") -> Message:
    return caller.ask(function_id, data, action={"type": "enqueue", "queue": queue})


def fail(worker: Raw, delivery: Message) -> None:
    error = {"code": "FORBIDDEN", "message": "whatever"}
    worker.answer(delivery, error=error)


def test_a_message_is_delivered_with_its_data_alone(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue("jobs")
    worker.register("jobs::do")
    engine.wait_registered("jobs::do")
    receipt = enqueue(caller, "jobs", {"n": 1})["result"]
    assert set(receipt) == {"messageReceiptId"}
    delivery = worker.hear()
    assert set(delivery) == {"type", "invocation_id", "function_id", "data"}
    assert delivery["data"].pop("_caller_worker_id") not in {caller.worker_id, worker.worker_id}
    assert delivery["data"] == {"n": 1}
    worker.answer(delivery, {"error": "no error at all"})
    engine.wait_queue_idle("jobs")
    assert engine.dead_letters("jobs") == ()
    stats = caller.ask("engine::queue::topic_stats", {"topic": "jobs"})["result"]
    assert stats == {
        "config": None,
        "consumer_count": 0,
        "delivered": 1,
        "depth": 0,
        "dlq_depth": 0,
        "failed": 0,
    }


def test_an_undefined_queue_is_refused(engine: LoopbackEngine, caller: Raw) -> None:
    assert error_of(enqueue(caller, "nosuch")) == (
        "enqueue_error",
        (
            "invocation_failed: handler error: queue 'nosuch' is not defined; "
            "call queue::define before enqueueing"
        ),
    )
    code, message = error_of(enqueue(caller, ""))
    assert (code, message) == (
        "enqueue_error",
        "invocation_failed: handler error: queue is required",
    )
    with pytest.raises(ValueError, match="queue 'nosuch' is not defined"):
        engine.queue_depth("nosuch")


def test_defining_a_queue_over_the_wire(engine: LoopbackEngine, caller: Raw) -> None:
    define = {"queue": "jobs", "config": {"max_retries": 1}}
    assert caller.ask("queue::define", define)["result"] == {"queue": "jobs", "changed": True}
    assert caller.ask("queue::define", define)["result"] == {"queue": "jobs", "changed": False}
    for config in ({"max_retry": 1}, {"max_retries": "1"}, {"max_retries": -1}, {"type": "lifo"}):
        code, message = error_of(caller.ask("queue::define", {"queue": "jobs", "config": config}))
        assert code == "invocation_failed"
        assert message.startswith("handler error: ")
    entry = caller.ask("configuration::get", {"id": "queue"})["result"]["value"]
    assert entry["queue_configs"]["jobs"] == {
        "max_retries": 1,
        "concurrency": 10,
        "timeout_ms": 1_800_000,
        "type": "standard",
        "backoff_ms": 1000,
        "poll_interval_ms": 100,
        "redeliver_on_engine_restart": False,
    }


def test_a_missing_function_is_waited_for_and_holds_a_slot(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue("jobs", concurrency=2, max_retries=0)
    worker.register("jobs::live")
    engine.wait_registered("jobs::live")
    for _ in range(2):
        enqueue(caller, "jobs", function_id="jobs::missing")
    enqueue(caller, "jobs", function_id="jobs::live")
    assert worker.silent()
    assert engine.queue_depth("jobs") == 1
    worker.register("jobs::missing")
    for _ in range(3):
        worker.answer(worker.hear())
    engine.wait_queue_idle("jobs")
    assert engine.dead_letters("jobs") == ()


def test_failures_are_retried_with_growing_delays_and_then_buried(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue("jobs", max_retries=2, backoff_ms=40)
    worker.register("jobs::do")
    engine.wait_registered("jobs::do")
    before = time.time()
    receipt = enqueue(caller, "jobs", {"n": 1})["result"]["messageReceiptId"]
    heard = []
    for _ in range(3):
        delivery = worker.hear()
        heard.append(time.monotonic())
        fail(worker, delivery)
    engine.wait_queue_idle("jobs")
    assert heard[1] - heard[0] >= 0.035
    assert heard[2] - heard[1] >= 0.075
    (letter,) = engine.dead_letters("jobs")
    assert letter["error"] == "function call failed"
    assert letter["retries"] == 3
    assert before * 1000 - 1 <= letter["failed_at"] <= time.time() * 1000
    assert letter["payload"] == {
        "function_id": "jobs::do",
        "data": {"n": 1},
        "message_id": receipt,
        "max_retries": 2,
        "backoff_ms": 40,
        "baggage": "iii.function.id=jobs::do",
        "priority": None,
        "traceparent": None,
    }
    assert letter["id"] != receipt
    assert set(letter) == {"id", "error", "failed_at", "retries", "size_bytes", "payload"}
    listed = caller.ask("engine::queue::dlq_messages", {"queue": "jobs"})["result"]
    assert listed == [letter]
    assert caller.ask("engine::queue::dlq_messages", {"topic": "jobs", "offset": 1})["result"] == []
    topics = caller.ask("engine::queue::dlq_topics", {})["result"]
    assert [(topic["topic"], topic["message_count"]) for topic in topics] == [("jobs", 1)]


def test_dead_letters_are_redriven_and_discarded(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue("jobs", max_retries=0)
    worker.register("jobs::do")
    engine.wait_registered("jobs::do")
    for n in range(3):
        enqueue(caller, "jobs", {"n": n})
        fail(worker, worker.hear())
    engine.wait_queue_idle("jobs")
    first, second, third = (letter["id"] for letter in engine.dead_letters("jobs"))

    def drive(what: str, message_id: str | None = None, queue: str = "jobs") -> Any:
        data = (
            {"queue": queue} if message_id is None else {"topic": queue, "message_id": message_id}
        )
        return caller.ask(f"iii::queue::{what}", data)["result"]

    assert drive("discard_message", first) == {"message_id": first, "queue": "jobs", "redriven": 1}
    assert drive("discard_message", first)["redriven"] == 0
    assert drive("redrive_message", "nosuch")["redriven"] == 0
    assert drive("redrive", queue="nosuch") == {"queue": "nosuch", "redriven": 0}
    assert drive("redrive_message", second)["redriven"] == 1
    delivery = worker.hear()
    assert delivery["data"]["n"] == 1
    worker.answer(delivery)
    assert drive("redrive") == {"queue": "jobs", "redriven": 1}
    delivery = worker.hear()
    assert delivery["data"]["n"] == 2
    fail(worker, delivery)
    engine.wait_queue_idle("jobs")
    (letter,) = engine.dead_letters("jobs")
    # Its attempts began anew, under another id.
    assert (letter["retries"], letter["id"] == third) == (1, False)


def test_a_target_that_leaves_costs_an_attempt(engine: LoopbackEngine, caller: Raw) -> None:
    engine.define_queue("jobs", max_retries=0)
    with Raw(engine.url, "worker") as worker:
        worker.register("jobs::do")
        engine.wait_registered("jobs::do")
        enqueue(caller, "jobs")
        worker.hear()
    engine.wait_queue_idle("jobs")
    assert len(engine.dead_letters("jobs")) == 1


def test_a_delivery_that_takes_too_long_is_made_again_beside_the_first(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue("jobs", max_retries=1, backoff_ms=1, timeout_ms=50)
    worker.register("jobs::do")
    engine.wait_registered("jobs::do")
    enqueue(caller, "jobs")
    first, second = worker.hear(), worker.hear()
    worker.answer(first, "too late")
    engine.wait_queue_idle("jobs")
    worker.answer(second, "too late, too")
    assert [letter["retries"] for letter in engine.dead_letters("jobs")] == [2]


@pytest.mark.parametrize("again", [True, False])
def test_a_delivery_in_flight_when_the_engine_restarts(
    engine: LoopbackEngine, caller: Raw, worker: Raw, again: bool
) -> None:
    engine.define_queue("jobs", redeliver_on_engine_restart=again, timeout_ms=400, backoff_ms=1)
    worker.register("jobs::do")
    engine.wait_registered("jobs::do")
    enqueue(caller, "jobs", {"n": 1})
    worker.hear()
    engine.restart()
    with Raw(engine.url, "worker") as back:
        back.register("jobs::do")
        engine.wait_registered("jobs::do")
        began = time.monotonic()
        delivery = back.hear()
        # Without the setting it stays stuck until its timeout.
        assert (time.monotonic() - began < 0.2) is again
        assert delivery["data"]["n"] == 1
        back.answer(delivery)
        engine.wait_queue_idle("jobs")
    assert engine.dead_letters("jobs") == ()


def test_a_queue_worker_that_restarts_delivers_again_what_is_in_flight(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue("jobs", max_retries=1, backoff_ms=1)
    worker.register("jobs::do")
    engine.wait_registered("jobs::do")
    enqueue(caller, "jobs", {"n": 1})
    first = worker.hear()
    engine.restart_queue_worker()
    second = worker.hear()
    assert first["data"]["n"] == second["data"]["n"] == 1
    assert first["data"]["_caller_worker_id"] != second["data"]["_caller_worker_id"]
    worker.answer(first)
    assert worker.silent(), "an answer to the delivery of the one that was killed counts nothing"
    # No attempt was counted: it may fail once more, and be retried.
    fail(worker, second)
    worker.answer(worker.hear())
    engine.wait_queue_idle("jobs")
    assert engine.dead_letters("jobs") == ()


def test_a_retry_that_is_due_outlives_the_queue_worker(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue("jobs", max_retries=1, backoff_ms=200)
    worker.register("jobs::do")
    engine.wait_registered("jobs::do")
    enqueue(caller, "jobs", {"n": 1})
    fail(worker, worker.hear())
    engine.restart_queue_worker(down_for=0.05)
    fail(worker, worker.hear())
    engine.wait_queue_idle("jobs")
    assert [letter["retries"] for letter in engine.dead_letters("jobs")] == [2]


def test_without_its_queue_worker_nothing_can_be_enqueued(
    engine: LoopbackEngine, caller: Raw
) -> None:
    engine.define_queue("jobs")
    queues = engine._queues()
    engine._thread.call(queues.kill)
    code, message = error_of(enqueue(caller, "jobs"))
    assert code == "enqueue_error"
    assert "No queue provider is installed" in message
    engine._thread.call(queues.kill)
    engine._thread.call(queues.connect)
    assert "messageReceiptId" in enqueue(caller, "jobs")["result"]


def test_messages_survive_a_restart(engine: LoopbackEngine, caller: Raw) -> None:
    engine.define_queue("jobs")
    enqueue(caller, "jobs", {"n": 1})
    engine.stop_listening()
    engine.listen()
    with Raw(engine.url, "worker") as worker:
        worker.register("jobs::do")
        delivery = worker.hear()
        assert delivery["data"]["n"] == 1
        worker.answer(delivery)
        engine.wait_queue_idle("jobs")


def test_redefining_a_queue_delivers_again_what_is_in_flight(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue("jobs")
    worker.register("jobs::do")
    engine.wait_registered("jobs::do")
    enqueue(caller, "jobs", {"n": 1})
    first = worker.hear()
    engine.define_queue("jobs", max_retries=5)
    second = worker.hear()
    assert first["invocation_id"] != second["invocation_id"]
    assert first["data"] == second["data"]
    worker.answer(second)
    engine.wait_queue_idle("jobs")


def test_a_fifo_queue_is_serial_within_a_group_and_retries_in_place(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue("jobs", type="fifo", message_group_field="order", backoff_ms=1)
    worker.register("jobs::do")
    engine.wait_registered("jobs::do")
    for order, n in (("a", 1), ("a", 2), ("b", 3)):
        enqueue(caller, "jobs", {"order": order, "n": n})
    first, other = worker.hear(), worker.hear()
    assert (first["data"]["n"], other["data"]["n"]) == (1, 3)
    worker.answer(other)
    fail(worker, first)
    again = worker.hear()
    assert again["data"]["n"] == 1
    worker.answer(again)
    last = worker.hear()
    assert last["data"]["n"] == 2
    worker.answer(last)
    engine.wait_queue_idle("jobs")
    # A group may be any value; without one a message is accepted and never delivered.
    enqueue(caller, "jobs", {"order": ["c"], "n": 4})
    worker.answer(worker.hear())
    engine.wait_queue_idle("jobs")
    enqueue(caller, "jobs", {"n": 5})
    assert worker.silent()
    assert engine.queue_depth("jobs") == 1


def test_faults_meet_deliveries_only_when_asked_to(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue("jobs", max_retries=1, backoff_ms=1)
    worker.register("jobs::do")
    engine.wait_registered("jobs::do")
    engine.inject("jobs::do", AnswerError("X", "direct"))
    engine.inject("jobs::do", AnswerError("Y", "both"), deliveries=True)
    enqueue(caller, "jobs")
    worker.answer(worker.hear())
    engine.wait_queue_idle("jobs")
    stats = caller.ask("engine::queue::topic_stats", {"topic": "jobs"})["result"]
    assert stats["delivered"] == 1
    assert error_of(caller.ask("jobs::do")) == ("X", "direct")


def test_waiting_for_a_queue_says_where_its_messages_stand(
    engine: LoopbackEngine, caller: Raw
) -> None:
    engine.define_queue("jobs")
    enqueue(caller, "jobs")
    with pytest.raises(TimeoutError, match=r"'jobs' still holds \{'waiting': 1\}"):
        engine.wait_queue_idle("jobs", timeout=0.05)


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"retries": 1}, ValueError, "unknown field `retries`, expected one of max_retries"),
        ({"max_retries": 1.5}, TypeError, "max_retries is a whole number, not 1.5"),
        ({"concurrency": 0}, ValueError, "concurrency is from 1 on"),
        ({"type": "fifo"}, ValueError, "a fifo queue needs message_group_field"),
        ({"redeliver_on_engine_restart": 1}, TypeError, "is true or false, not 1"),
    ],
)
def test_bad_settings_are_refused(
    engine: LoopbackEngine, settings: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        engine.define_queue("jobs", **settings)


def test_an_engine_without_the_queue_worker_has_no_queues() -> None:
    with LoopbackEngine(queue_worker=False) as engine, pytest.raises(RuntimeError):
        engine.define_queue("jobs")
