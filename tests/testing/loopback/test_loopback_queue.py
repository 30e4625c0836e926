"""The built-in queue worker does what the standalone one was seen to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from testing.loopback.loopback_clients import Message, Raw, error_of

from iii_resilience.testing import AnswerError, LoopbackEngine
from iii_resilience.testing.loopback.queue_worker import _NOTICE_SECONDS


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


def test_message_is_delivered_with_its_data_alone(
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


def test_undefined_queue_is_refused(engine: LoopbackEngine, caller: Raw) -> None:
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


def test_defining_queue_over_wire(engine: LoopbackEngine, caller: Raw) -> None:
    define = {"queue": "jobs", "config": {"max_retries": 1}}
    assert caller.ask("queue::define", define)["result"] == {"queue": "jobs", "changed": True}
    assert caller.ask("queue::define", define)["result"] == {"queue": "jobs", "changed": False}
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


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"config": {"max_retry": 1}}, "serialization error: unknown field `max_retry`"),
        ({"config": {"max_retries": "1"}}, "serialization error: "),
        ({"config": {"max_retries": -1}}, "serialization error: "),
        ({"retries": 1}, "serialization error: unknown field `retries`, expected one of `queue`"),
        ({"config": {"type": "lifo"}}, "handler error: queue 'jobs' type must be either "),
        ({"config": {"type": "fifo"}}, "handler error: queue 'jobs' with type 'fifo' requires "),
        ({"config": {"timeout_ms": 0}}, "handler error: queue 'jobs' timeout_ms must be greater "),
        ({"config": {"poll_interval_ms": 0}}, "handler error: queue 'jobs' poll_interval_ms must"),
        ({"queue": " "}, "handler error: queue name is required"),
    ],
)
def test_invalid_definition_is_rejected_in_workers_words(
    engine: LoopbackEngine, caller: Raw, request_: dict[str, Any], message: str
) -> None:
    code, said = error_of(caller.ask("queue::define", {"queue": "jobs", **request_}))
    assert code == "invocation_failed"
    assert said.startswith(message)
    assert caller.ask("engine::queue::list_topics", {})["result"] == []


def test_queues_name_is_trimmed(engine: LoopbackEngine, caller: Raw) -> None:
    engine.define_queue("jobs")
    assert caller.ask("queue::define", {"queue": " jobs "})["result"] == {
        "queue": "jobs",
        "changed": False,
    }


def test_queues_are_listed_as_topics(engine: LoopbackEngine, caller: Raw) -> None:
    for name in ("zebra", "ant"):
        engine.define_queue(name)
    assert caller.ask("engine::queue::list_topics", {})["result"] == [
        {"name": name, "broker_type": "builtin", "subscriber_count": 0} for name in ("ant", "zebra")
    ]


@pytest.mark.parametrize(
    ("function_id", "data", "message"),
    [
        ("iii::queue::redrive", {"queue": ""}, "handler error: Queue name is required"),
        ("iii::queue::redrive", {}, "serialization error: missing field `queue`"),
        (
            "iii::queue::discard_message",
            {"queue": "jobs", "message_id": ""},
            "handler error: Message ID is required",
        ),
        ("engine::queue::topic_stats", {}, "serialization error: missing field `topic`"),
        ("engine::queue::topic_stats", {"topic": ""}, "handler error: topic is required"),
        (
            "engine::queue::dlq_messages",
            {"topic": "jobs", "limit": -1},
            "serialization error: invalid value",
        ),
    ],
)
def test_question_that_is_wrong_is_refused(
    engine: LoopbackEngine, caller: Raw, function_id: str, data: dict[str, Any], message: str
) -> None:
    code, said = error_of(caller.ask(function_id, data))
    assert code == "invocation_failed"
    assert said.startswith(message)


def test_missing_function_is_waited_for_and_holds_slot(
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


def test_failures_are_retried_with_growing_delays(
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
    # Its attempts began anew, under the same id.
    assert (letter["retries"], letter["id"]) == (1, third)


def test_target_that_leaves_costs_attempt(engine: LoopbackEngine, caller: Raw) -> None:
    engine.define_queue("jobs", max_retries=0)
    with Raw(engine.url, "worker") as worker:
        worker.register("jobs::do")
        engine.wait_registered("jobs::do")
        enqueue(caller, "jobs")
        worker.hear()
    engine.wait_queue_idle("jobs")
    assert len(engine.dead_letters("jobs")) == 1


def test_overlong_delivery_is_repeated_beside_first(
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
def test_delivery_in_flight_when_engine_restarts(
    engine: LoopbackEngine, caller: Raw, worker: Raw, again: bool
) -> None:
    timeout = 60.0 if again else 1.0
    engine.define_queue(
        "jobs",
        redeliver_on_engine_restart=again,
        timeout_ms=int(1000 * timeout),
        backoff_ms=1,
    )
    worker.register("jobs::do")
    engine.wait_registered("jobs::do")
    began = time.monotonic()
    enqueue(caller, "jobs", {"n": 1})
    worker.hear()
    engine.restart()
    with Raw(engine.url, "worker") as back:
        back.register("jobs::do")
        engine.wait_registered("jobs::do")
        delivery = back.hear()
        # Without the setting it stays stuck until its timeout.
        assert (time.monotonic() - began < timeout) is again
        assert delivery["data"]["n"] == 1
        back.answer(delivery)
        engine.wait_queue_idle("jobs")
    assert engine.dead_letters("jobs") == ()


def test_restarted_queue_worker_redelivers_messages_in_flight(
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


def test_retry_that_is_due_outlives_queue_worker(
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


def test_messages_survive_restart(engine: LoopbackEngine, caller: Raw) -> None:
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


def test_redefining_queue_delivers_again_what_is_in_flight(
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


def test_unchanged_definition_redelivers_nothing(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue("jobs", max_retries=5)
    worker.register("jobs::do")
    engine.wait_registered("jobs::do")
    enqueue(caller, "jobs", {"n": 1})
    delivery = worker.hear()
    engine.define_queue("jobs", max_retries=5)
    engine.define_queue("other")
    engine.define_queue("other", max_retries=1)
    assert worker.silent()
    worker.answer(delivery)
    engine.wait_queue_idle("jobs")


def test_changed_configuration_entry_redelivers_every_queue(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue("jobs")
    engine.define_queue("other")
    worker.register("jobs::do")
    engine.wait_registered("jobs::do")
    enqueue(caller, "jobs", {"n": 1})
    worker.hear()
    value = caller.ask("configuration::get", {"id": "queue"})["result"]["value"]

    def change() -> Any:
        return caller.ask("configuration::set", {"id": "queue", "value": value})

    change()
    assert worker.silent(), "nothing has changed"
    value["queue_configs"]["other"]["max_retries"] = 9
    change()
    worker.answer(worker.hear())
    engine.wait_queue_idle("jobs")
    value["queue_configs"]["other"]["max_retry"] = 9
    assert error_of(change())[0] == "SCHEMA_INVALID"


def test_queue_taken_out_of_entry_keeps_what_it_holds(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue("jobs")
    enqueue(caller, "jobs", {"n": 1})
    value = caller.ask("configuration::get", {"id": "queue"})["result"]["value"]
    caller.ask("configuration::set", {"id": "queue", "value": {**value, "queue_configs": {}}})
    assert "is not defined" in error_of(enqueue(caller, "jobs"))[1]
    assert caller.ask("engine::queue::list_topics", {})["result"] == []
    worker.register("jobs::do")
    assert worker.silent()
    time.sleep(2 * _NOTICE_SECONDS)  # the function is noticed, while nothing may be delivered
    engine.define_queue("jobs")
    worker.answer(worker.hear())
    engine.wait_queue_idle("jobs")


def test_dead_letter_holds_data_of_its_message(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue("jobs", max_retries=0, backoff_ms=7)
    enqueue(caller, "jobs")
    engine.define_queue("jobs", max_retries=1, backoff_ms=100_000)
    worker.register("jobs::do")
    fail(worker, worker.hear())
    fail(worker, worker.hear())
    engine.wait_queue_idle("jobs")
    (letter,) = engine.dead_letters("jobs")
    assert letter["retries"] == 2
    assert (letter["payload"]["max_retries"], letter["payload"]["backoff_ms"]) == (0, 7)


def test_fifo_queue_is_serial_per_group_and_retries_in_place(
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


def test_without_group_fifo_message_dies_undelivered(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.define_queue(
        "jobs", type="fifo", message_group_field="order", max_retries=1, backoff_ms=1
    )
    worker.register("jobs::do")
    engine.wait_registered("jobs::do")
    lost: list[Any] = [{"n": 1}, {"order": ""}, {"order": None}, {"order": True}, {"order": ["c"]}]
    for data in [*lost, [1]]:
        enqueue(caller, "jobs", data)
    for group in ("c", 0, 1.5):
        enqueue(caller, "jobs", {"order": group})
    for _ in range(3):
        worker.answer(worker.hear())
    engine.wait_queue_idle("jobs")
    assert worker.silent()
    letters = engine.dead_letters("jobs")
    assert [letter["payload"]["data"] for letter in letters] == [*lost, [1]]
    assert {letter["retries"] for letter in letters} == {2}


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


def test_waiting_for_queue_says_where_its_messages_stand(
    engine: LoopbackEngine, caller: Raw
) -> None:
    engine.define_queue("jobs")
    enqueue(caller, "jobs")
    with pytest.raises(TimeoutError, match=r"'jobs' still holds \{'waiting': 1\}"):
        engine.wait_queue_idle("jobs", timeout=0.05)


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"retries": 1}, ValueError, "unknown field `retries`, expected one of `max_retries`"),
        ({"max_retries": 1.5}, TypeError, "max_retries is a whole number, not 1.5"),
        ({"concurrency": 0}, ValueError, "concurrency must be greater than zero"),
        ({"type": "fifo"}, ValueError, "fifo' requires message_group_field"),
        ({"redeliver_on_engine_restart": 1}, TypeError, "is true or false, not 1"),
    ],
)
def test_bad_settings_are_refused(
    engine: LoopbackEngine, settings: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        engine.define_queue("jobs", **settings)


def test_engine_without_queue_worker_has_no_queues() -> None:
    with LoopbackEngine(queue_worker=False) as engine, pytest.raises(RuntimeError):
        engine.define_queue("jobs")
