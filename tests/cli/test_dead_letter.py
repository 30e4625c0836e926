"""The three shapes of dead letters, and what was parked, in one."""

from __future__ import annotations

import json
import time
from typing import Any

import attrs
import pytest

from iii_resilience import Category
from iii_resilience.cli.dead_letter import DeadLetter, Recordings, from_dead_letter, from_stored
from iii_resilience.cli.dead_letter_queue import triage
from iii_resilience.handling import PermanentError, TransientError
from iii_resilience.handling.decorators.parked_message import FailureSummary, ParkedMessage
from iii_resilience.sdk.propagation import PAYLOAD_FIELD, CallContext

NOTHING = Recordings([])

# As seen beside engine 0.23 (docs/engine-notes.md, 9).
QUEUE = {
    "id": "5f0c",
    "error": "function call failed",
    "failed_at": 1_795_270_853_123,
    "retries": 4,
    "size_bytes": 215,
    "payload": {
        "function_id": "orders::save",
        "data": {"order_id": "o-1", "_caller_worker_id": "w"},
        "message_id": "a1b2",
        "max_retries": 3,
        "backoff_ms": 100,
        "baggage": "iii.function.id=orders::save",
        "priority": None,
        "traceparent": None,
    },
}
# As seen in engine 0.23 (docs/engine-notes.md, 9).
TOPIC = {
    "error": (
        'ErrorBody { code: "invocation_failed", message: '
        '"{\\"type\\": \\"permanent\\", \\"code\\": \\"CARD_DECLINED\\", \\"message\\": \\"no\\"}"'
        ', stacktrace: Some("Traceback") }'
    ),
    "failed_at": 1_795_270_853,
    "id": "77aa",
    "payload": {"order_id": "o-1"},
    "retries": 3,
    "size_bytes": 2333,
}
# As seen in engine 0.19.7 (docs/engine-notes.md, 9).
BARE = {
    "error": "function call failed",
    "failed_at": 1_795_270_853,
    "id": "99cc",
    "payload": {"order_id": "o-1"},
    "retries": 3,
    "size_bytes": 80,
}


def message(payload: Any, error: Exception, **more: Any) -> ParkedMessage:
    settings: dict[str, Any] = {
        "kept_under": "m-1",
        "function_id": "orders::save",
        "queue": None,
        "key": None,
        "carried": None,
        **more,
    }
    return ParkedMessage.of(payload, FailureSummary.of(error), **settings)


def test_queues_record_names_its_function_and_no_cause() -> None:
    letter = from_dead_letter(QUEUE, NOTHING)
    assert (letter.source, letter.function_id, letter.deliveries) == ("queue", "orders::save", 4)
    assert letter.since == 1_795_270_853.123
    assert (letter.category, letter.code) == (None, None)


def test_topics_record_holds_our_code_inside_rusts_debug_text() -> None:
    letter = from_dead_letter(TOPIC, NOTHING)
    assert (letter.source, letter.function_id) == ("topic", None)
    assert (letter.category, letter.code) == (Category.PERMANENT, "CARD_DECLINED")
    assert letter.since == 1_795_270_853


def test_oldest_shape_holds_nothing() -> None:
    letter = from_dead_letter(BARE, NOTHING)
    assert (letter.source, letter.function_id, letter.category) == ("bare", None, None)


@pytest.mark.parametrize("record", [QUEUE, BARE], ids=["queue", "bare"])
def test_cause_is_joined_by_the_message_itself(record: dict[str, Any]) -> None:
    recorded = Recordings(
        [
            message({"order_id": "o-2"}, PermanentError("no", code="OTHER")),
            message({"order_id": "o-1"}, TransientError("no", code="BUSY")),
        ]
    )
    letter = from_dead_letter(record, recorded)
    assert (letter.category, letter.code) == (Category.TRANSIENT, "BUSY")
    assert letter.function_id == "orders::save"


def test_key_that_travels_in_data_counts_before_data() -> None:
    data = {"n": 1, PAYLOAD_FIELD: CallContext(idempotency_key="b").to_wire()}
    recorded = Recordings(
        [
            message({"n": 1}, PermanentError("no", code="B"), key=json.dumps("b")),
            message({"n": 1}, PermanentError("no", code="A"), key=json.dumps("a")),
        ]
    )
    payload = {"function_id": "orders::save", "data": data, "message_id": "x"}
    record = {**QUEUE, "payload": payload}
    assert from_dead_letter(record, recorded).code == "B"


def test_another_functions_message_is_another() -> None:
    other = message({"order_id": "o-1"}, PermanentError("no"), function_id="orders::other")
    assert from_dead_letter(QUEUE, Recordings([other])).category is None


@pytest.mark.parametrize(
    "record",
    [{}, {"payload": None, "error": 5, "failed_at": "x", "retries": True}, {"error": "strange"}],
)
def test_record_of_no_known_shape_is_unknown(record: dict[str, Any]) -> None:
    letter = from_dead_letter(record, NOTHING)
    assert (letter.category, letter.since, letter.deliveries) == (None, None, None)


def test_parked_message_says_everything() -> None:
    parked = attrs.evolve(
        message({"n": 1}, PermanentError("why", code="X")), deliveries=2, first_failed_at=5.0
    )
    letter = from_stored(parked)
    assert letter.parked
    assert not letter.waits
    assert (letter.category, letter.code, letter.message) == (Category.PERMANENT, "X", "why")
    assert (letter.deliveries, letter.since, letter.data) == (2, 5.0, {"n": 1})


def test_neither_payload_nor_message_shows() -> None:
    secret = from_stored(message({"n": "secret"}, PermanentError("secret"), key="secret"))
    assert "secret" not in repr(secret) + repr(from_dead_letter(QUEUE, NOTHING).id)


def test_triage_groups_by_category_code_and_function() -> None:
    def letter(category: Category | None, code: str | None, since: float) -> DeadLetter:
        return DeadLetter(
            id=str(since),
            source="queue",
            function_id="f",
            category=category,
            code=code,
            since=since,
        )

    groups = triage(
        [
            letter(None, None, 1.0),
            letter(Category.PAYLOAD, "A", 5.0),
            letter(Category.TRANSIENT, "B", 4.0),
            letter(Category.TRANSIENT, "C", 3.0),
            letter(Category.TRANSIENT, "C", 2.0),
        ]
    )
    assert [(one.category, one.code, one.count, one.oldest) for one in groups] == [
        (Category.TRANSIENT, "C", 2, 2.0),
        (Category.TRANSIENT, "B", 1, 4.0),
        (Category.PAYLOAD, "A", 1, 5.0),
        (None, None, 1, 1.0),
    ]
    assert all(one.advice for one in groups)


def test_triage_of_many_distinct_codes_is_linear() -> None:
    """100 000 messages of 10 000 codes: 2 s of processor time."""
    letters = [
        DeadLetter(
            id=str(n),
            source="parked",
            function_id="f",
            category=Category.PERMANENT,
            code=f"CODE_{n % 10_000}",
            since=float(n),
        )
        for n in range(100_000)
    ]
    began = time.process_time()  # other programs' work does not count
    groups = triage(letters)
    assert time.process_time() - began < 10
    assert len(groups) == 10_000
    assert {(one.count, one.oldest) for one in groups} == {(10, float(n)) for n in range(10_000)}
