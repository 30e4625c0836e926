"""What is refused before anything is sent, and what travels with what is sent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from iii import TriggerAction
from support.real_sdk import InvocationError, needs

from iii_resilience import (
    Backoff,
    Execution,
    InvalidPayloadError,
    PayloadTooLargeError,
    Reason,
    RetryPolicy,
    hint_for,
    report_for,
)
from iii_resilience.client.request import check, read
from iii_resilience.client.resilient import Resilient
from iii_resilience.sdk.propagation import (
    METADATA_FIELD,
    PAYLOAD_FIELD,
    InboundCall,
    from_metadata,
    handling,
)
from iii_resilience.sdk.versions import sdk_of
from iii_resilience.testing import AnswerError, Drop, LoopbackEngine

OLD, NEW = sdk_of((0, 22, 1)), sdk_of((0, 25, 0))
STOPPED = AnswerError("invocation_stopped", "Invocation stopped")


@pytest.fixture
def seen(engine: LoopbackEngine, target: Any) -> list[tuple[Any, Any]]:
    """What the function t::echo was given: data and metadata."""
    given: list[tuple[Any, Any]] = []

    def handler(data: Any, metadata: Any = None) -> Any:
        given.append((data, metadata))
        return data

    target.register_function("t::echo", handler)
    engine.wait_registered("t::echo")
    return given


def call(**fields: Any) -> dict[str, Any]:
    return {"function_id": "t::echo", **fields}


class TestRefused:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"payload": {"items": [1, 2, 3, {"price": math.nan}]}}, "$.items[3].price is NaN"),
            ({"payload": {"n": 2**70}}, "$.n is an integer outside"),
            ({"payload": "\ud800"}, "$ holds a lone surrogate"),
            ({"payload": {1, 2}}, "$ is of type set"),
            ({"metadata": {"n": math.inf}}, "the metadata cannot be sent: $.n is Infinity"),
            ({"function_id": ""}, "needs a function_id"),
            ({"action": "void"}, "the SDK would silently make a synchronous call"),
            ({"namespace": ""}, "namespace must be a non-empty string"),
            ({"namespace": 5}, "namespace must be a non-empty string"),
            ({"timeout_ms": -1}, "timeout_ms must be a positive number"),
            ({"timeout_ms": math.inf}, "timeout_ms must be a positive number"),
            ({"timeout_ms": 1e13}, "of milliseconds (at most 1e12), got 10000000000000"),
        ],
    )
    def test_it_is_payload_failure_at_once_and_nothing_is_sent(
        self,
        engine: LoopbackEngine,
        seen: list[Any],
        caller: Resilient,
        fields: dict[str, Any],
        message: str,
    ) -> None:
        with pytest.raises(InvalidPayloadError) as caught:
            caller.trigger(call(**fields), idempotent=True)
        assert message in str(caught.value)
        assert str(caught.value).endswith("Nothing was sent")
        report, hint = report_for(caught.value), hint_for(caught.value)
        assert report is not None
        assert hint is not None
        assert (report.reason, report.execution) == (Reason.NOT_RETRYABLE, Execution.NOT_EXECUTED)
        assert [attempt.sent for attempt in report.attempts] == [False]
        assert hint.action == "fix-payload"
        assert engine.calls("t::echo") == ()
        assert engine.calls("engine::functions::info") == ()

    async def test_the_same_for_coroutines(self, caller: Resilient) -> None:
        with pytest.raises(InvalidPayloadError):
            await caller.trigger_async(call(payload=math.nan))

    def test_without_check_such_a_payload_is_timeout(
        self, engine: LoopbackEngine, seen: list[Any], connect: Callable[..., Any]
    ) -> None:
        with pytest.raises(InvocationError) as caught:
            connect().trigger(call(payload={"n": math.nan}, timeout_ms=200))
        assert caught.value.code == "TIMEOUT"
        assert seen == []

    def test_namespace_is_refused_where_sdk_would_ignore_it(self) -> None:
        with pytest.raises(InvalidPayloadError, match=r"iii-sdk 0\.22\.1 ignores"):
            read(call(namespace="elsewhere"), OLD)
        assert read(call(namespace="default"), OLD).fields["namespace"] == "default"
        assert read(call(namespace="elsewhere"), NEW).fields["namespace"] == "elsewhere"

    @pytest.mark.parametrize("key", ["", "k" * 513, 5, b"key"])
    def test_key_that_cannot_travel_is_rejected_unseen(self, caller: Resilient, key: Any) -> None:
        with pytest.raises(InvalidPayloadError, match="idempotency_key must be text") as caught:
            caller.trigger(call(), idempotency_key=key)
        assert "kk" not in str(caught.value)


class TestSize:
    @pytest.mark.parametrize("sdk", [OLD, NEW])
    @pytest.mark.parametrize("most", [100_000, None])
    def test_at_limit_it_is_sent_and_one_byte_above_it_is_not(
        self, sdk: Any, most: int | None
    ) -> None:
        limit = sdk.send_limit if most is None else most

        def sized(characters: int) -> Any:
            return read(call(payload={"text": "x" * characters}), sdk)

        with pytest.raises(PayloadTooLargeError) as caught:
            check(sized(limit), sdk, most)
        assert caught.value.limit_bytes == limit
        fits = limit - (caught.value.payload_bytes - limit)
        check(sized(fits - 1), sdk, most)
        check(sized(fits), sdk, most)
        with pytest.raises(PayloadTooLargeError) as caught:
            check(sized(fits + 1), sdk, most)
        assert caught.value.payload_bytes == limit + 1
        assert str(caught.value).startswith(
            f"Payload {limit + 1} bytes exceeds invocation limit {limit} bytes. "
        )

    @needs((0, 25), "has no place where its messages can be measured")
    def test_size_is_that_of_message_on_wire(
        self, seen: list[Any], caller: Resilient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []
        client = caller._connection.client._client
        send = client._send_json

        async def measured(socket: Any, text: str) -> None:
            if '"function_id":"t::echo"' in text:
                sizes.append(len(text.encode()))
            await send(socket, text)

        monkeypatch.setattr(client, "_send_json", measured)
        request = call(payload={"text": "grüße" * 100}, metadata={"tenant": "a"})
        caller.trigger(request, idempotency_key="k1")
        with pytest.raises(PayloadTooLargeError) as caught:
            caller.trigger(request, policy=RetryPolicy(max_payload_bytes=10), idempotency_key="k1")
        (size,) = sizes
        # The times are counted at their longest, and with the number that a first attempt omits.
        assert 0 <= caught.value.payload_bytes - size <= 31

    def test_message_above_policy_s_limit_is_not_sent(
        self, engine: LoopbackEngine, seen: list[Any], caller: Resilient
    ) -> None:
        policy = RetryPolicy(max_payload_bytes=1 << 20)
        with pytest.raises(PayloadTooLargeError) as caught:
            caller.trigger(call(payload="x" * (1 << 20)), idempotent=True, policy=policy)
        assert engine.calls("t::echo") == ()
        hint = hint_for(caught.value)
        assert hint is not None
        assert hint.action == "fix-payload"

    def test_characters_old_sdks_escape_count_as_sent(self) -> None:
        request = call(payload="é" * 1000)
        check(read(request, NEW), NEW, 5000)
        with pytest.raises(PayloadTooLargeError):
            check(read(request, OLD), OLD, 5000)


class TestTravels:
    @needs((0, 21, 3), "sends no metadata")
    def test_context_travels_beside_users_metadata(
        self, engine: LoopbackEngine, seen: list[Any], caller: Resilient
    ) -> None:
        engine.inject("t::echo", STOPPED)
        request = call(payload={"n": 1}, metadata={"tenant": "a"})
        before = time.time()
        caller.trigger(
            request, idempotent=True, idempotency_key="k1", policy=RetryPolicy(deadline=20.0)
        )
        assert request["metadata"] == {"tenant": "a"}
        sent = [call.message["metadata"] for call in invocations(engine)]
        assert [metadata["tenant"] for metadata in sent] == ["a", "a"]
        first, second = (metadata[METADATA_FIELD] for metadata in sent)
        assert [first.get("attempt", 1), second["attempt"]] == [1, 2]
        assert {first["idempotency_key"], second["idempotency_key"]} == {"k1"}
        assert 0 < second["left_ms"] <= first["left_ms"] <= 20_000
        for wire in (first, second):
            assert abs(wire["deadline_unix_ms"] - 1000 * (before + 20)) < 5000
        (given,) = seen
        assert given[1][METADATA_FIELD] == second

    @needs((0, 21, 3), "sends no metadata")
    def test_without_deadline_none_travels(
        self, engine: LoopbackEngine, seen: list[Any], caller: Resilient
    ) -> None:
        caller.trigger(call(), policy=RetryPolicy(deadline=None))
        (sent,) = invocations(engine)
        assert not {"left_ms", "deadline_unix_ms"} & set(sent.message["metadata"][METADATA_FIELD])

    @needs((0, 21, 3), "sends no metadata")
    @pytest.mark.parametrize("more", [{}, {"metadata": {"tenant": "a"}}], ids=["quick", "other"])
    def test_each_attempt_says_when_it_is_given_up(
        self, engine: LoopbackEngine, seen: list[Any], caller: Resilient, more: dict[str, Any]
    ) -> None:
        engine.inject("t::echo", STOPPED)
        pause = Backoff(base=0.05, jitter="none")  # the times travel in whole milliseconds
        policy = RetryPolicy(deadline=20.0, attempt_timeout=3.0, backoff=pause)
        before = time.time()
        caller.trigger(call(**more), idempotent=True, policy=policy)
        wires = [call.message["metadata"][METADATA_FIELD] for call in invocations(engine)]
        assert [wire["attempt_left_ms"] for wire in wires] == [3000, 3000]
        read = [from_metadata({METADATA_FIELD: wire}) for wire in wires]
        ends = [context.attempt_deadline_unix or 0.0 for context in read if context is not None]
        assert before + 2.9 < ends[0] < ends[1] < time.time() + 3.1

    @needs((0, 21, 3), "sends no metadata")
    def test_attempt_ends_with_its_call(
        self, engine: LoopbackEngine, seen: list[Any], caller: Resilient
    ) -> None:
        caller.trigger(call(), policy=RetryPolicy(deadline=2.0))
        (sent,) = invocations(engine)
        assert sent.message["metadata"][METADATA_FIELD]["attempt_left_ms"] <= 2000

    @needs((0, 21, 3), "sends no metadata")
    def test_no_caller_waits_for_void_call(
        self, engine: LoopbackEngine, seen: list[Any], caller: Resilient
    ) -> None:
        caller.trigger(call(action=TriggerAction.Void()))
        (sent,) = invocations(engine)
        wire = sent.message["metadata"][METADATA_FIELD]
        assert not {"attempt_left_ms", "attempt_deadline_unix_ms"} & set(wire)

    @needs((0, 21, 3), "sends no metadata")
    def test_metadata_that_is_no_mapping_stays_what_it_is(
        self, engine: LoopbackEngine, seen: list[Any], caller: Resilient
    ) -> None:
        caller.trigger(call(metadata=["a"]), idempotency_key="k1")
        (sent,) = invocations(engine)
        assert sent.message["metadata"] == ["a"]

    def test_engine_s_own_functions_get_nothing_of_ours(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        caller.trigger({"function_id": "engine::workers::list"})
        (sent,) = invocations(engine, "engine::workers::list")
        assert "metadata" not in sent.message

    def test_through_queue_key_travels_in_payload(
        self, engine: LoopbackEngine, seen: list[Any], caller: Resilient
    ) -> None:
        engine.define_queue("jobs")
        action = TriggerAction.Enqueue(queue="jobs")
        payload = {"n": 1}
        caller.trigger(call(payload=payload, action=action), idempotency_key="k1")
        engine.wait_queue_idle("jobs", timeout=5)
        assert payload == {"n": 1}
        assert seen[0][0][PAYLOAD_FIELD] == {"idempotency_key": "k1"}
        caller.trigger(call(payload=payload, action=action))
        engine.wait_queue_idle("jobs", timeout=5)
        assert PAYLOAD_FIELD not in seen[1][0]

    def test_key_for_queue_needs_payload_with_room_for_it(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        engine.define_queue("jobs")
        request = call(payload=[1], action=TriggerAction.Enqueue(queue="jobs"))
        with pytest.raises(InvalidPayloadError, match="must be an object"):
            caller.trigger(request, idempotency_key="k1")
        assert caller.trigger(request)["messageReceiptId"]


class TestInherited:
    @needs((0, 21, 3), "sends no metadata")
    def test_time_left_of_caller_bounds_handlers_calls(
        self, engine: LoopbackEngine, seen: list[Any], caller: Resilient
    ) -> None:
        with handling(InboundCall(time.monotonic() + 5.0)):
            caller.trigger(call(timeout_ms=60_000), policy=RetryPolicy(deadline=30.0))
        (sent,) = invocations(engine)
        assert 0 < sent.message["metadata"][METADATA_FIELD]["left_ms"] <= 5000

    @needs((0, 21, 3), "sends no metadata")
    def test_shorter_deadline_of_its_own_wins(
        self, engine: LoopbackEngine, seen: list[Any], caller: Resilient
    ) -> None:
        with handling(InboundCall(time.monotonic() + 50.0)):
            caller.trigger(call(), policy=RetryPolicy(deadline=5.0))
        (sent,) = invocations(engine)
        assert sent.message["metadata"][METADATA_FIELD]["left_ms"] <= 5000

    @pytest.mark.parametrize("idempotent", [True, False])
    def test_once_it_is_over_nothing_is_sent(
        self, engine: LoopbackEngine, seen: list[Any], caller: Resilient, idempotent: bool
    ) -> None:
        with handling(InboundCall(time.monotonic() - 0.1)), pytest.raises(TimeoutError) as caught:
            caller.trigger(call(), idempotent=idempotent)
        report = report_for(caught.value)
        assert report is not None
        assert (report.reason, report.execution) == (Reason.DEADLINE, Execution.NOT_EXECUTED)
        assert [attempt.sent for attempt in report.attempts] == [False]
        assert engine.calls("t::echo") == ()


@pytest.mark.usefixtures("sdk_times_out_first")
class TestTimeoutNote:
    @pytest.mark.parametrize(
        ("fields", "policy", "note"),
        [
            ({"timeout_ms": 60}, RetryPolicy(), "its timeout was 60 ms, from the request's"),
            (
                {},
                RetryPolicy(attempt_timeout=0.06),
                "its timeout was 60 ms, from the policy's attempt_timeout",
            ),
            ({}, RetryPolicy(deadline=0.3), "ms, from the policy's deadline"),
        ],
    )
    def test_it_names_timeout_and_where_it_came_from(
        self,
        engine: LoopbackEngine,
        seen: list[Any],
        caller: Resilient,
        fields: dict[str, Any],
        policy: RetryPolicy,
        note: str,
    ) -> None:
        engine.inject("t::echo", Drop(), times=None)
        with pytest.raises(InvocationError, match="TIMEOUT") as caught:
            caller.trigger(call(**fields), policy=policy)
        (whole,) = caught.value.__notes__
        assert note in whole


def invocations(engine: LoopbackEngine, function_id: str = "t::echo") -> list[Any]:
    return [
        frame
        for frame in engine.frames
        if frame.direction == "to-engine"
        and isinstance(frame.message, dict)
        and frame.message.get("type") == "invokefunction"
        and frame.message.get("function_id") == function_id
    ]
