"""What becomes of a call that was given up: a queue, or another function."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.real_sdk import SDK, InvocationError, needs

from iii_resilience import (
    Enqueue,
    Enqueued,
    Execution,
    NotConnectedError,
    Reason,
    Reroute,
    RetryPolicy,
    hint_for,
    report_for,
)
from iii_resilience.client.resilient import Resilient
from iii_resilience.sdk.propagation import METADATA_FIELD, PAYLOAD_FIELD
from iii_resilience.testing import AnswerError, Drop, LoopbackEngine

STOPPED = AnswerError("invocation_stopped", "Invocation stopped")
PERMANENT = AnswerError("invocation_failed", "no")


def echo(target: Any, engine: LoopbackEngine, function_id: str = "t::echo") -> list[Any]:
    """Register an echo and return the list of what it was given."""
    seen: list[Any] = []

    def handler(data: Any, metadata: Any = None) -> Any:
        seen.append({**data, "metadata": metadata} if isinstance(data, dict) else data)
        return {"from": function_id}

    target.register_function(function_id, handler)
    engine.wait_registered(function_id)
    return seen


class TestFallback:
    def test_call_that_is_given_up_is_handed_to_queue(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        seen = echo(target, engine)
        engine.define_queue("later")
        engine.inject("t::echo", STOPPED, times=None)
        policy = RetryPolicy(attempts=2, fallback=Enqueue("later"))
        request = {"function_id": "t::echo", "payload": {"n": 1}}
        result = caller.trigger(request, idempotent=True, policy=policy, accept_enqueued=True)
        assert isinstance(result, Enqueued)
        assert (result.queue, result.failure.code) == ("later", "invocation_stopped")
        engine.wait_queue_idle("later", timeout=5)
        assert [data["n"] for data in seen] == [1]

    async def test_the_same_for_coroutines(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.define_queue("later")
        engine.inject("t::echo", STOPPED, times=None)
        policy = RetryPolicy(attempts=2, fallback=Enqueue("later"))
        result = await caller.trigger_async(
            {"function_id": "t::echo"}, idempotent=True, policy=policy, accept_enqueued=True
        )
        assert isinstance(result, Enqueued)

    def test_without_accept_enqueued_error_is_raised_with_hint(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.define_queue("later")
        engine.inject("t::echo", STOPPED, times=None)
        policy = RetryPolicy(attempts=2, fallback=Enqueue("later"))
        with pytest.raises(InvocationError) as caught:
            caller.trigger({"function_id": "t::echo"}, idempotent=True, policy=policy)
        hint = hint_for(caught.value)
        assert hint is not None
        assert (hint.action, hint.queue) == ("enqueue", "later")

    def test_missing_function_is_handed_over_to_queue(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        engine.define_queue("later")
        policy = RetryPolicy(ready_timeout=0.2, fallback=Enqueue("later"))
        request = {"function_id": "t::absent", "payload": {"n": 1}}
        result = caller.trigger(request, policy=policy, accept_enqueued=True)
        assert isinstance(result, Enqueued)
        seen = echo(target, engine, "t::absent")
        engine.wait_queue_idle("later", timeout=5)
        assert [data["n"] for data in seen] == [1]

    def test_maybe_executed_call_is_not_handed_over(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.define_queue("later")
        engine.inject("t::echo", STOPPED)
        policy = RetryPolicy(fallback=Enqueue("later"))
        with pytest.raises(InvocationError):
            caller.trigger({"function_id": "t::echo"}, policy=policy, accept_enqueued=True)
        assert engine.queue_depth("later") == 0

    def test_permanent_failure_is_never_handed_over(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        def broken(data: Any) -> None:
            raise RuntimeError("no")

        target.register_function("t::broken", broken)
        engine.wait_registered("t::broken")
        engine.define_queue("later")
        policy = RetryPolicy(fallback=Enqueue("later"))
        with pytest.raises(InvocationError, match="invocation_failed"):
            caller.trigger(
                {"function_id": "t::broken"}, idempotent=True, policy=policy, accept_enqueued=True
            )
        assert len(engine.calls("t::broken")) == 1

    def test_when_queue_fails_too_original_exception_says_so(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", STOPPED, times=None)
        policy = RetryPolicy(attempts=2, fallback=Enqueue("undefined"))
        with pytest.raises(InvocationError, match="invocation_stopped") as caught:
            caller.trigger(
                {"function_id": "t::echo"}, idempotent=True, policy=policy, accept_enqueued=True
            )
        (note,) = caught.value.__notes__
        assert "; the fallback to queue 'undefined' failed too: enqueue_error (" in note
        assert "define the queue: ensure_queue(worker, name) does so" in note

    def test_other_queue_errors_are_not_a_missing_queue(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.define_queue("later")
        engine.inject("t::echo", STOPPED, times=None)
        gone = AnswerError("enqueue_error", "channel_send_failed: channel closed")
        engine.inject("engine::queue::enqueue", gone, times=None)
        policy = RetryPolicy(attempts=2, fallback=Enqueue("later"))
        with pytest.raises(InvocationError, match="invocation_stopped") as caught:
            caller.trigger(
                {"function_id": "t::echo"}, idempotent=True, policy=policy, accept_enqueued=True
            )
        (note,) = caught.value.__notes__
        assert "the fallback to queue 'later' failed too: enqueue_error (" in note
        assert "ensure_queue" not in note

    def test_hand_over_does_not_wait_for_connection_past_deadline(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.stop_listening()
        engine.disconnect()
        while caller._connection.connected:
            time.sleep(0.005)
        policy = RetryPolicy(deadline=0.3, fallback=Enqueue("later"))
        began = time.monotonic()
        with pytest.raises(NotConnectedError):
            caller.trigger({"function_id": "t::echo"}, policy=policy, accept_enqueued=True)
        assert time.monotonic() - began < policy.ready_timeout - 2

    def test_what_is_handed_over_carries_what_handler_needs(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        seen = echo(target, engine)
        engine.define_queue("later")
        engine.inject("t::echo", STOPPED, times=None)
        policy = RetryPolicy(attempts=2, fallback=Enqueue("later"))
        payload = {"n": 1}
        request = {"function_id": "t::echo", "payload": payload}
        caller.trigger(
            request, idempotent=True, policy=policy, accept_enqueued=True, idempotency_key="k1"
        )
        engine.wait_queue_idle("later", timeout=5)
        assert payload == {"n": 1}
        assert seen[0][PAYLOAD_FIELD] == {
            "attempt": 3,
            "idempotency_key": "k1",
            "already_retried": True,
            "function_id": "t::echo",
            "code": "invocation_stopped",
        }

    @pytest.mark.parametrize("payload", [[1], "text", 5])
    def test_payload_without_room_for_it_is_not_handed_over(
        self, engine: LoopbackEngine, target: Any, caller: Resilient, payload: Any
    ) -> None:
        echo(target, engine)
        engine.define_queue("later")
        engine.inject("t::echo", STOPPED, times=None)
        policy = RetryPolicy(attempts=1, fallback=Enqueue("later"))
        with pytest.raises(InvocationError, match="invocation_stopped"):
            caller.trigger(
                {"function_id": "t::echo", "payload": payload},
                idempotent=True,
                policy=policy,
                accept_enqueued=True,
            )
        assert engine.queue_depth("later") == 0

    @pytest.mark.parametrize("answer", [None, {}, {"messageReceiptId": 5}, "queued"])
    def test_without_receipt_nothing_is_reported_as_queued(
        self,
        engine: LoopbackEngine,
        target: Any,
        caller: Resilient,
        monkeypatch: pytest.MonkeyPatch,
        answer: Any,
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", STOPPED)
        send = caller._connection.in_flight.send

        def no_receipt(request: dict[str, Any], **options: Any) -> Any:
            return answer if request.get("action") else send(request, **options)

        monkeypatch.setattr(caller._connection.in_flight, "send", no_receipt)
        policy = RetryPolicy(attempts=1, fallback=Enqueue("later"))
        with pytest.raises(InvocationError, match="invocation_stopped") as caught:
            caller.trigger(
                {"function_id": "t::echo"}, idempotent=True, policy=policy, accept_enqueued=True
            )
        (note,) = caught.value.__notes__
        assert note.endswith("the fallback to queue 'later' failed too: no receipt")


class TestReroute:
    POLICY = RetryPolicy(attempts=2, ready_timeout=8.0, fallback=Reroute("t::other"))
    SOON = POLICY.replace(ready_timeout=0.3)

    def test_call_given_up_goes_to_another_function_once(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        seen = echo(target, engine, "t::other")
        engine.inject("t::echo", STOPPED, times=None)
        request = {"function_id": "t::echo", "payload": {"n": 1}}
        result = caller.trigger(request, idempotent=True, policy=self.POLICY, idempotency_key="k1")
        assert result == {"from": "t::other"}
        assert (len(engine.calls("t::echo")), len(engine.calls("t::other"))) == (2, 1)
        assert seen[0]["n"] == 1
        if not SDK.sends_metadata:
            return
        carried = seen[0]["metadata"][METADATA_FIELD]
        assert carried["already_retried"] is True
        assert (carried["attempt"], carried["idempotency_key"]) == (3, "k1")

    async def test_the_same_for_coroutines(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        echo(target, engine, "t::other")
        engine.inject("t::echo", STOPPED, times=None)
        result = await caller.trigger_async(
            {"function_id": "t::echo"}, idempotent=True, policy=self.POLICY
        )
        assert result == {"from": "t::other"}

    def test_missing_function_is_rerouted_though_not_idempotent(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine, "t::other")
        result = caller.trigger({"function_id": "t::absent"}, policy=self.SOON)
        assert result == {"from": "t::other"}

    @pytest.mark.parametrize("fault", [PERMANENT, AnswerError("FORBIDDEN", "not allowed")])
    def test_never_after_permanent_failure_or_forbidden(
        self, engine: LoopbackEngine, target: Any, caller: Resilient, fault: AnswerError
    ) -> None:
        echo(target, engine)
        echo(target, engine, "t::other")
        engine.inject("t::echo", fault, times=None)
        with pytest.raises(InvocationError, match=fault.code):
            caller.trigger({"function_id": "t::echo"}, idempotent=True, policy=self.POLICY)
        assert engine.calls("t::other") == ()

    def test_never_where_it_may_have_run_and_is_not_idempotent(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        echo(target, engine, "t::other")
        engine.inject("t::echo", STOPPED)
        with pytest.raises(InvocationError, match="invocation_stopped"):
            caller.trigger({"function_id": "t::echo"}, policy=self.POLICY)
        assert engine.calls("t::other") == ()

    @pytest.mark.usefixtures("sdk_times_out_first")
    def test_never_past_deadline(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        echo(target, engine, "t::other")
        engine.inject("t::echo", Drop(), times=None)
        policy = self.POLICY.replace(deadline=0.2)
        with pytest.raises(InvocationError, match="TIMEOUT"):
            caller.trigger({"function_id": "t::echo"}, idempotent=True, policy=policy)
        assert engine.calls("t::other") == ()

    def test_when_other_fails_too_original_exception_says_so(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", STOPPED, times=None)
        with pytest.raises(InvocationError, match="invocation_stopped") as caught:
            caller.trigger({"function_id": "t::echo"}, idempotent=True, policy=self.SOON)
        (note,) = caught.value.__notes__
        assert note.endswith("the fallback to t::other failed too: function_not_found")
        assert len(engine.calls("t::other")) == 1


class TestPoison:
    """A message that Python workers before SDK 0.24.5 die of."""

    def test_stop_above_one_mebibyte_is_payload_failure(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", STOPPED, times=None)
        request = {"function_id": "t::echo", "payload": {"text": "x" * (1 << 20)}}
        with pytest.raises(InvocationError, match="invocation_stopped") as caught:
            caller.trigger(request, idempotent=True)
        report, hint = report_for(caught.value), hint_for(caught.value)
        assert report is not None
        assert hint is not None
        failure = report.attempts[0].failure
        assert failure.category == "payload"
        assert failure.payload_bytes == (1 << 20) + len('{"text":""}')
        assert (report.reason, hint.action) == (Reason.NOT_RETRYABLE, "fix-payload")
        assert report.execution is Execution.MAYBE_EXECUTED
        assert len(engine.calls("t::echo")) == 1

    @needs((0, 24, 5), "its workers die of such a message")
    def test_up_to_mebibyte_it_is_repeated(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", STOPPED)
        text = "x" * ((1 << 20) - len('{"text":""}'))
        caller.trigger({"function_id": "t::echo", "payload": {"text": text}}, idempotent=True)
        assert len(engine.calls("t::echo")) == 2

    def test_size_that_counts_is_what_worker_receives(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        """Older SDKs write six bytes where the engine, which writes anew, passes two on."""
        echo(target, engine)
        engine.inject("t::echo", STOPPED)
        request = {"function_id": "t::echo", "payload": {"text": "é" * 200_000}}
        caller.trigger(request, idempotent=True)
        assert len(engine.calls("t::echo")) == 2

    @needs((0, 24, 5), "its workers die of such a message")
    def test_other_failures_of_such_a_call_are_what_they_are(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", AnswerError("channel_send_failed", "channel closed"))
        request = {"function_id": "t::echo", "payload": "x" * (2 << 20)}
        caller.trigger(request, idempotent=True)
        assert len(engine.calls("t::echo")) == 2
