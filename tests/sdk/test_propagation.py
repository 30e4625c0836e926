"""What travels with a call: written whole, read with suspicion."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_resilience.sdk.propagation import (
    METADATA_FIELD,
    PAYLOAD_FIELD,
    CallContext,
    InboundCall,
    add_context,
    current_inbound,
    from_metadata,
    handling,
    take_from_payload,
)

texts = st.text(min_size=1, max_size=40)
milliseconds = st.integers(0, 10**12).map(lambda value: value / 1000)


@st.composite
def contexts(draw: st.DrawFn) -> CallContext:
    """Contexts as calls carry them: all times are those of one moment, the sending."""
    sent = draw(milliseconds)
    left, attempt_left = (draw(st.none() | milliseconds) for _ in range(2))
    return CallContext(
        left=left,
        deadline_unix=None if left is None else sent + left,
        attempt=draw(st.integers(1, 1000)),
        idempotency_key=draw(st.none() | texts),
        already_retried=draw(st.booleans()),
        function_id=draw(st.none() | texts),
        code=draw(st.none() | texts),
        attempt_left=attempt_left,
        attempt_deadline_unix=None if attempt_left is None else sent + attempt_left,
    )


@given(contexts())
def test_what_is_carried_arrives_within_milliseconds(carried: CallContext) -> None:
    arrived = from_metadata({METADATA_FIELD: json.loads(json.dumps(carried.to_wire())), "x": 1})
    assert arrived is not None
    for name in ("left", "deadline_unix", "attempt_left", "attempt_deadline_unix"):
        sent, got = getattr(carried, name), getattr(arrived, name)
        assert (sent is None) == (got is None)
        assert sent is None or abs(sent - got) <= 0.0031  # of three that are rounded down
    for name in ("attempt", "idempotency_key", "already_retried", "function_id", "code"):
        assert getattr(arrived, name) == getattr(carried, name)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


EVERY_FIELD = CallContext(1.0, 2.0, 3, "k", True, "a::b", "TIMEOUT", 4.0, 5.0)
NAMES = sorted({*EVERY_FIELD.to_wire(), "attempt_deadline_unix_ms"})


def test_what_a_reader_works_out_does_not_travel() -> None:
    wire = CallContext(1.0, 2.0, attempt_left=4.0, attempt_deadline_unix=5.0).to_wire()
    assert wire == {"left_ms": 1000, "deadline_unix_ms": 2000, "attempt_left_ms": 4000}


# The attempt's deadline is worked out only where both times of the call are there.
@pytest.mark.parametrize(("left", "deadline_unix"), [(None, None), (1.0, None), (None, 2.0)])
def test_deadline_of_attempt_travels_where_reader_lacks_time(
    left: float | None, deadline_unix: float | None
) -> None:
    sent = CallContext(left, deadline_unix, attempt_left=4.0, attempt_deadline_unix=5.0)
    wire = sent.to_wire()
    assert wire["attempt_deadline_unix_ms"] == 5000
    assert CallContext.from_wire(wire) == sent
    del wire["attempt_deadline_unix_ms"]
    carried = CallContext.from_wire(wire)
    assert carried is not None
    assert carried.attempt_deadline_unix is None


def test_call_past_its_deadline_has_no_time_left() -> None:
    wire = CallContext(left=-0.5, deadline_unix=2.0).to_wire()
    assert wire == {"left_ms": 0, "deadline_unix_ms": 2000}
    carried = CallContext.from_wire(wire)
    assert carried is not None
    assert carried.left == 0.0


@pytest.mark.parametrize(
    ("name", "most", "read"),
    [
        ("attempt", (1 << 31) - 1, CallContext(attempt=(1 << 31) - 1)),
        ("left_ms", 1 << 53, CallContext(left=(1 << 53) / 1000)),
    ],
)
def test_number_past_most_that_is_sent_is_as_good_as_absent(
    name: str, most: int, read: CallContext
) -> None:
    assert CallContext.from_wire({name: most}) == read
    assert CallContext.from_wire({name: most + 1}) == CallContext()


def test_longest_key_that_is_read_has_512_characters() -> None:
    longest = {"idempotency_key": "k" * 512}
    assert CallContext.from_wire(longest) == CallContext(idempotency_key="k" * 512)
    assert CallContext.from_wire({"idempotency_key": "k" * 513}) == CallContext()


@given(st.dictionaries(st.sampled_from(NAMES), anything) | anything)
def test_whatever_stands_there_is_read_without_error(wire: Any) -> None:
    carried = from_metadata({METADATA_FIELD: wire})
    if isinstance(wire, dict):
        assert carried is not None
        assert carried.attempt >= 1
    else:
        assert carried is None


@pytest.mark.parametrize(
    "wire",
    [
        {"left_ms": "5", "deadline_unix_ms": True, "attempt": 0, "idempotency_key": ""},
        {"left_ms": -1, "deadline_unix_ms": float("inf"), "attempt": True, "idempotency_key": 5},
        {"left_ms": float("nan"), "deadline_unix_ms": 1 << 60, "idempotency_key": "k" * 513},
        {"already_retried": 1, "function_id": [], "code": {}},
        {"attempt_left_ms": "5", "attempt_deadline_unix_ms": -1},
    ],
)
def test_field_of_wrong_type_is_as_good_as_absent(wire: dict[str, Any]) -> None:
    assert CallContext.from_wire(wire) == CallContext()


@pytest.mark.parametrize("metadata", [None, [], "x", {}, {"other": 1}])
def test_metadata_without_our_field_carries_nothing(metadata: Any) -> None:
    assert from_metadata(metadata) is None


def test_sender_says_when_it_sent() -> None:
    assert CallContext(left=2.0, deadline_unix=100.0).sent_unix == 98.0
    assert CallContext(left=2.0).sent_unix is None
    assert CallContext(deadline_unix=2.0).sent_unix is None
    assert CallContext(attempt_left=2.0, attempt_deadline_unix=50.0).sent_unix == 48.0


def test_work_that_waits_in_queue_has_no_times() -> None:
    lasting = CallContext(
        attempt=3, idempotency_key="k", already_retried=True, function_id="a::b", code="TIMEOUT"
    )
    assert EVERY_FIELD.without_times() == lasting


def test_context_travels_beside_metadata_of_user() -> None:
    wire = {"left_ms": 1000}
    for fields in ({}, {"metadata": None}):
        request: dict[str, Any] = {"function_id": "a::b", **fields}
        add_context(request, wire)
        assert request == {"function_id": "a::b", "metadata": {METADATA_FIELD: wire}}
    theirs = {"tenant": "t", METADATA_FIELD: "older"}
    request = {"metadata": theirs}
    add_context(request, wire)
    assert request == {"metadata": {"tenant": "t", METADATA_FIELD: wire}}
    assert theirs == {"tenant": "t", METADATA_FIELD: "older"}


@pytest.mark.parametrize("metadata", ["text", [1], 5])
def test_metadata_that_is_no_mapping_is_left_alone(metadata: Any) -> None:
    request = {"metadata": metadata}
    add_context(request, {"left_ms": 1000})
    assert request == {"metadata": metadata}


def test_reserved_field_is_taken_out_of_copy() -> None:
    payload = {"order": 1, PAYLOAD_FIELD: {"idempotency_key": "k"}}
    rest, carried = take_from_payload(payload)
    assert rest == {"order": 1}
    assert carried == CallContext(idempotency_key="k")
    assert PAYLOAD_FIELD in payload


@pytest.mark.parametrize("payload", [None, 5, "x", [1], {}, {"order": 1}])
def test_payload_without_field_stays_what_it_is(payload: Any) -> None:
    rest, carried = take_from_payload(payload)
    assert rest is payload
    assert carried is None


def test_key_is_not_in_repr() -> None:
    assert "secret" not in repr(InboundCall(1.0, CallContext(idempotency_key="secret")))


async def test_each_task_inherits_from_its_own_handler() -> None:
    seen: dict[float, float | None] = {}

    async def handler(deadline_at: float) -> None:
        with handling(InboundCall(deadline_at)):
            await asyncio.sleep(0.01)
            inbound = current_inbound()
            seen[deadline_at] = inbound.deadline_at if inbound else None

    await asyncio.gather(*(handler(float(number)) for number in range(5)))
    assert seen == {float(number): float(number) for number in range(5)}
    assert current_inbound() is None
