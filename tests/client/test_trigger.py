"""Calls through `resilient(worker)` with the real SDK and the LoopbackEngine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from iii import TriggerAction
from iii.iii_types import TriggerRequest
from support.real_sdk import InvocationError, RegistrationRejectedError, needs
from support.waiting import until

from iii_resilience import (
    Backoff,
    ConnectionLostError,
    Execution,
    NotConnectedError,
    Reason,
    RetryPolicy,
    hint_for,
    iii_retry,
    report_for,
    resilient,
)
from iii_resilience.client.resilient import Resilient
from iii_resilience.testing import (
    AnswerError,
    CutCaller,
    Delay,
    Drop,
    DropAnswer,
    LoopbackEngine,
    RestartEngine,
)

STOPPED = AnswerError("invocation_stopped", "Invocation stopped")


def stopped_again_and_again(
    engine: LoopbackEngine, target: Any, connect: Callable[..., Any]
) -> tuple[Resilient, RetryPolicy]:
    """A client whose calls of ``t::echo`` all fail, and a policy under which they wait long."""
    echo(target, engine)
    engine.inject("t::echo", STOPPED, times=None)
    return resilient(connect()), RetryPolicy(backoff=Backoff(base=20.0, jitter="none"))


def echo(target: Any, engine: LoopbackEngine, function_id: str = "t::echo") -> list[Any]:
    """Register an echo and return the list of what it was given."""
    seen: list[Any] = []

    def handler(data: Any) -> Any:
        seen.append(data)
        return data

    target.register_function(function_id, handler)
    engine.wait_registered(function_id)
    return seen


def asked(engine: LoopbackEngine) -> int:
    return len(engine.calls("engine::functions::info"))


class TestResults:
    def test_result_of_function_is_returned(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        result = caller.trigger({"function_id": "t::echo", "payload": {"n": 1}})
        assert result["n"] == 1

    async def test_coroutine_on_loop_of_its_own_gets_it_too(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        result = await caller.trigger_async({"function_id": "t::echo", "payload": {"n": 1}})
        assert result["n"] == 1

    def test_trigger_request_works_like_dict(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        request = TriggerRequest(function_id="t::echo", payload={"n": 1})
        assert caller.trigger(request)["n"] == 1
        assert request.timeout_ms is None

    def test_request_is_not_changed(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        request = {"function_id": "t::echo", "payload": None}
        caller.trigger(request)
        assert request == {"function_id": "t::echo", "payload": None}

    @pytest.mark.parametrize("request_", [{}, {"payload": None}])
    def test_call_without_payload_is_sent_with_empty_object(
        self, engine: LoopbackEngine, target: Any, caller: Resilient, request_: dict[str, Any]
    ) -> None:
        seen = echo(target, engine)
        caller.trigger({"function_id": "t::echo", **request_})
        assert [set(data) for data in seen] == [{"_caller_worker_id"}]

    def test_success_costs_no_question_once_function_is_known(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        for _ in range(5):
            caller.trigger({"function_id": "t::echo"})
        assert asked(engine) == 1

    def test_void_returns_at_once_and_runs(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        seen = echo(target, engine)
        request = {"function_id": "t::echo", "payload": {"n": 1}, "action": TriggerAction.Void()}
        assert caller.trigger(request) is None
        caller.trigger({"function_id": "t::echo", "payload": {"n": 2}})
        assert {data["n"] for data in seen} >= {2}
        until = time.monotonic() + 5
        while len(seen) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert {data["n"] for data in seen} == {1, 2}

    def test_enqueue_returns_receipt_and_waits_for_no_question(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        seen = echo(target, engine)
        engine.define_queue("jobs")
        action = TriggerAction.Enqueue(queue="jobs")
        receipt = caller.trigger({"function_id": "t::echo", "payload": {"n": 1}, "action": action})
        assert set(receipt) == {"messageReceiptId"}
        engine.wait_queue_idle("jobs", timeout=5)
        assert [data["n"] for data in seen] == [1]
        sent = [call.function_id for call in engine.calls("t::echo") if call.action == "enqueue"]
        assert sent == ["t::echo"]
        # Beside the calls the provider is looked up once, after the first receipt.
        assert asked(engine) <= 1


class TestRefusedRequests:
    @pytest.mark.parametrize(
        "request_",
        [{}, {"payload": {}}, {"function_id": ""}, {"function_id": None}, {"function_id": 7}],
    )
    def test_request_without_function_id_is_value_error(
        self, engine: LoopbackEngine, caller: Resilient, request_: dict[str, Any]
    ) -> None:
        with pytest.raises(ValueError, match=r"needs a function_id.*Nothing was sent"):
            caller.trigger(request_)
        sent = [f.message["function_id"] for f in engine.frames if f.direction == "to-engine"]
        assert sent in ([], ["engine::workers::register"])

    @pytest.mark.parametrize("request_", ["t::echo", None, 3])
    def test_what_is_no_request_is_type_error(self, caller: Resilient, request_: Any) -> None:
        with pytest.raises(TypeError, match="takes a dict"):
            caller.trigger(request_)

    @pytest.mark.parametrize("action", ["void", {"type": "nope"}, {"type": "enqueue"}, 3])
    def test_unknown_action_is_rejected_not_made_synchronous(
        self, caller: Resilient, action: Any
    ) -> None:
        with pytest.raises(ValueError, match="Nothing was sent"):
            caller.trigger({"function_id": "t::echo", "action": action})

    @pytest.mark.parametrize("timeout", [-1, "5", True, float("nan")])
    def test_bad_timeout_is_refused(self, caller: Resilient, timeout: Any) -> None:
        with pytest.raises(ValueError, match="timeout_ms must be a positive number"):
            caller.trigger({"function_id": "t::echo", "timeout_ms": timeout})

    def test_timeout_of_zero_is_default_and_never_reaches_sdk(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        assert caller.trigger({"function_id": "t::echo", "timeout_ms": 0}) is not None

    @pytest.mark.parametrize(
        "options",
        [{"idempotent": "false"}, {"idempotent": 1}, {"accept_enqueued": "no"}, {"policy": 5}],
    )
    def test_options_are_not_taken_by_their_truth(
        self, engine: LoopbackEngine, target: Any, caller: Resilient, options: dict[str, Any]
    ) -> None:
        echo(target, engine)
        with pytest.raises(TypeError, match=r"must be .*Nothing was sent") as caught:
            caller.trigger({"function_id": "t::echo"}, **options)
        assert "false" not in str(caught.value)  # it may be a key that was put into the wrong place
        assert engine.calls("t::echo") == ()


class TestNeverRetried:
    @pytest.mark.parametrize("idempotent", [True, False])
    def test_forbidden_is_attempted_once(
        self, engine: LoopbackEngine, target: Any, caller: Resilient, idempotent: bool
    ) -> None:
        echo(target, engine, "t::secret")
        engine.forbid("t::*")
        with pytest.raises(InvocationError) as caught:
            caller.trigger({"function_id": "t::secret"}, idempotent=idempotent)
        assert caught.value.code == "FORBIDDEN"
        assert len(engine.calls("t::secret")) == 1
        hint = hint_for(caught.value)
        assert hint is not None
        assert hint.action == "fix-access"

    def test_forbidden_function_is_not_waited_for(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine, "t::secret")
        engine.forbid("t::*")
        began = time.monotonic()
        with pytest.raises(InvocationError):
            caller.trigger({"function_id": "t::secret"}, policy=RetryPolicy(ready_timeout=30.0))
        assert time.monotonic() - began < 5

    def test_missing_function_is_attempted_once_after_wait(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        policy = RetryPolicy(ready_timeout=0.2)
        with pytest.raises(InvocationError) as caught:
            caller.trigger({"function_id": "t::nobody"}, idempotent=True, policy=policy)
        assert caught.value.code == "function_not_found"
        assert len(engine.calls("t::nobody")) == 1
        report = report_for(caught.value)
        assert report is not None
        assert (report.reason, report.execution) == (
            Reason.NOT_RETRYABLE,
            Execution.NOT_EXECUTED,
        )

    def test_id_that_stayed_missing_is_not_waited_for_again(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        policy = RetryPolicy(ready_timeout=3.0)
        for _ in range(3):
            with pytest.raises(InvocationError):
                caller.trigger({"function_id": "t::nobody"}, policy=policy)
        began = time.monotonic()
        with pytest.raises(InvocationError):
            caller.trigger({"function_id": "t::nobody"}, policy=policy.replace(ready_timeout=29.0))
        assert time.monotonic() - began < 15.0
        assert len(engine.calls("t::nobody")) == 4


class TestRetries:
    def test_idempotent_call_is_repeated_after_invocation_stopped(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        seen = echo(target, engine)
        engine.inject("t::echo", STOPPED, times=2)
        assert caller.trigger({"function_id": "t::echo"}, idempotent=True) is not None
        assert len(engine.calls("t::echo")) == 3
        assert len(seen) == 1

    async def test_the_same_for_coroutines(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", STOPPED, times=2)
        result = await caller.trigger_async({"function_id": "t::echo"}, idempotent=True)
        assert result is not None
        assert len(engine.calls("t::echo")) == 3

    def test_call_that_is_not_declared_idempotent_is_sent_once(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", STOPPED)
        with pytest.raises(InvocationError, match="invocation_stopped") as caught:
            caller.trigger({"function_id": "t::echo"})
        assert len(engine.calls("t::echo")) == 1
        report = report_for(caught.value)
        assert report is not None
        assert report.reason is Reason.NOT_IDEMPOTENT

    def test_stops_beyond_max_stops_are_given_up_as_dead_letter(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", STOPPED, times=None)
        policy = RetryPolicy(attempts=9, max_stops=3)
        with pytest.raises(InvocationError) as caught:
            caller.trigger({"function_id": "t::echo"}, idempotent=True, policy=policy)
        hint = hint_for(caught.value)
        assert hint is not None
        assert (hint.action, hint.reason) == ("dead-letter", Reason.STOPPED)
        assert len(engine.calls("t::echo")) == 3

    @pytest.mark.usefixtures("sdk_times_out_first")
    def test_timeout_is_repeated_and_cut_to_what_deadline_leaves(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", Drop(), times=None)
        policy = RetryPolicy(deadline=2.0, attempts=9, backoff=Backoff(base=0.01))
        began = time.monotonic()
        with pytest.raises(InvocationError) as caught:
            caller.trigger(
                {"function_id": "t::echo", "timeout_ms": 800}, idempotent=True, policy=policy
            )
        assert caught.value.code == "TIMEOUT"
        assert time.monotonic() - began < 10
        assert 2 <= len(engine.calls("t::echo")) <= 3

    def test_explicit_timeout_longer_than_deadline_extends_it(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", Delay(0.5))
        request = {"function_id": "t::echo", "timeout_ms": 5000}
        assert caller.trigger(request, policy=RetryPolicy(deadline=0.1)) is not None

    def test_retry_without_its_function_raises_first_failure(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        references: list[Any] = []

        def leave(data: Any) -> None:
            references[0].unregister()

        references.append(target.register_function("t::leaves", leave))
        engine.wait_registered("t::leaves")
        engine.inject("t::leaves", AnswerError("invocation_stopped", "x", after_execution=True))
        policy = RetryPolicy(ready_timeout=0.3)
        with pytest.raises(InvocationError, match="invocation_stopped") as caught:
            caller.trigger({"function_id": "t::leaves"}, idempotent=True, policy=policy)
        report = report_for(caught.value)
        assert report is not None
        assert (report.reason, len(report.attempts)) == (Reason.NOT_READY, 1)
        assert len(engine.calls("t::leaves")) == 1

    def test_without_wait_retry_still_checks_readiness(
        self,
        engine: LoopbackEngine,
        target: Any,
        caller: Resilient,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("iii_resilience.client.trigger_call.ANSWER_WITHIN", 30.0)
        echo(target, engine)
        engine.inject("t::echo", STOPPED)
        policy = RetryPolicy(ready_timeout=0.0)
        assert caller.trigger({"function_id": "t::echo"}, idempotent=True, policy=policy)
        assert (len(engine.calls("t::echo")), asked(engine)) == (2, 1)

    def test_missing_function_is_reported_despite_short_deadline(
        self, engine: LoopbackEngine, caller: Resilient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("iii_resilience.client.trigger_call.ANSWER_WITHIN", 2.0)
        engine.inject("t::nobody", Delay(0.02))
        policy = RetryPolicy(deadline=3.0)
        with pytest.raises(InvocationError, match="function_not_found"):
            caller.trigger({"function_id": "t::nobody"}, policy=policy)

    def test_call_waits_until_its_function_is_registered(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        def later() -> None:
            time.sleep(0.3)
            target.register_function("t::late", lambda data: "here")

        threading.Thread(target=later).start()
        assert caller.trigger({"function_id": "t::late"}) == "here"
        assert len(engine.calls("t::late")) == 1

    def test_registered_wait_is_what_carries_retry_over_restart(
        self, engine: LoopbackEngine, connect: Callable[..., Any], caller: Resilient
    ) -> None:
        first = connect("first")
        hit = threading.Event()

        def slow(data: Any) -> None:
            hit.set()
            time.sleep(0.2)

        first.register_function("t::moves", slow)
        engine.wait_registered("t::moves")

        def restart() -> None:
            hit.wait(30)
            first.shutdown()  # no disconnection before: it could be back before it ends
            time.sleep(0.4)
            connect("second").register_function("t::moves", lambda data: "second")

        thread = threading.Thread(target=restart)
        thread.start()
        result = caller.trigger({"function_id": "t::moves"}, idempotent=True)
        thread.join()
        assert result == "second"
        assert len(engine.calls("t::moves")) == 2

    def test_engine_that_hides_question_is_not_asked_again(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        echo(target, engine, "t::other")
        engine.forbid("engine::functions::info")
        for function_id in ("t::echo", "t::other", "t::echo"):
            caller.trigger({"function_id": function_id})
        assert asked(engine) == 1


class TestConnection:
    def test_call_while_engine_is_away_waits_without_ghost(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        seen = echo(target, engine)
        engine.stop_listening()
        engine.disconnect()
        until(lambda: not caller._connection.connected)

        def back() -> None:
            time.sleep(0.4)
            engine.listen()

        thread = threading.Thread(target=back)
        thread.start()
        caller.trigger({"function_id": "t::echo", "payload": {"n": 1}})
        thread.join()
        assert [data["n"] for data in seen] == [1]

    def test_without_connection_in_time_nothing_is_sent(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        seen = echo(target, engine)
        engine.stop_listening()
        engine.disconnect()
        while caller.get_connection_state() == "connected":
            time.sleep(0.01)
        with pytest.raises(NotConnectedError, match="nothing was sent") as caught:
            caller.trigger({"function_id": "t::echo"}, policy=RetryPolicy(ready_timeout=0.2))
        report = report_for(caught.value)
        assert report is not None
        assert report.execution is Execution.NOT_EXECUTED
        assert [attempt.sent for attempt in report.attempts] == [False]
        engine.listen()
        engine.wait_registered("t::echo")
        caller.trigger({"function_id": "t::echo", "payload": {"n": 2}})
        assert [data.get("n") for data in seen] == [2]

    async def test_the_same_for_coroutines(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.stop_listening()
        engine.disconnect()
        while caller.get_connection_state() == "connected":
            await asyncio.sleep(0.01)
        with pytest.raises(NotConnectedError):
            await caller.trigger_async(
                {"function_id": "t::echo"}, policy=RetryPolicy(ready_timeout=0.2)
            )

    def test_connection_lost_under_call_ends_it_at_once(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", CutCaller())
        began = time.monotonic()
        with pytest.raises(ConnectionLostError) as caught:
            caller.trigger({"function_id": "t::echo", "timeout_ms": 20_000})
        assert time.monotonic() - began < 5
        report = report_for(caught.value)
        assert report is not None
        assert report.execution is Execution.MAYBE_EXECUTED

    async def test_fifty_coroutines_in_flight_all_end_at_once(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", DropAnswer(), times=None)
        request = {"function_id": "t::echo", "timeout_ms": 30_000}
        tasks = [asyncio.ensure_future(caller.trigger_async(request)) for _ in range(50)]
        while len(engine.calls("t::echo")) < 50:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        engine.disconnect("caller")
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert time.monotonic() - began < 5
        assert {type(result) for result in results} == {ConnectionLostError}

    def test_ended_event_loop_does_not_block_notifications(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", Drop(), times=None)
        request = {"function_id": "t::echo", "timeout_ms": 20_000}
        ended = asyncio.new_event_loop()
        left_behind = ended.create_task(caller.trigger_async(request))
        while not engine.calls("t::echo"):
            ended.run_until_complete(asyncio.sleep(0.005))
        errors: list[Exception] = []

        def call() -> None:
            try:
                caller.trigger(request)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        engine.wait_calls("t::echo", 4)
        ended.close()  # with a call pending, as after a crash
        left_behind._log_destroy_pending = False  # type: ignore[attr-defined]
        began = time.monotonic()
        engine.disconnect("caller")
        for thread in threads:
            thread.join()
        assert time.monotonic() - began < 10
        assert {type(error) for error in errors} == {ConnectionLostError}

    def test_idempotent_call_survives_lost_connection(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", CutCaller())
        assert caller.trigger({"function_id": "t::echo"}, idempotent=True) is not None
        assert len(engine.calls("t::echo")) == 2

    def test_execution_is_strongest_over_all_attempts(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", RestartEngine(down_for=300.0))
        policy = RetryPolicy(ready_timeout=0.3, attempts=2)
        with pytest.raises(ConnectionLostError) as caught:
            caller.trigger({"function_id": "t::echo"}, idempotent=True, policy=policy)
        report = report_for(caught.value)
        assert report is not None
        assert [attempt.sent for attempt in report.attempts] == [True, False]
        assert report.execution is Execution.MAYBE_EXECUTED

    async def test_one_cancel_ends_call_in_flight(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        echo(target, engine)
        engine.inject("t::echo", Drop())
        task = asyncio.ensure_future(
            caller.trigger_async({"function_id": "t::echo"}, idempotent=True)
        )
        while not engine.calls("t::echo"):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        result = await caller.trigger_async({"function_id": "t::echo"})
        assert result is not None


class TestEnd:
    def test_call_after_shutdown_is_refused_instead_of_hanging(self, caller: Resilient) -> None:
        caller.shutdown()
        with pytest.raises(NotConnectedError, match="was shut down"):
            caller.trigger({"function_id": "t::echo"})

    def test_a_second_shutdown_returns(self, caller: Resilient) -> None:
        caller.shutdown()
        caller.shutdown()

    def test_shutdown_of_bare_client_is_noticed_too(self, connect: Callable[..., Any]) -> None:
        client = connect()
        worker = resilient(client)
        client.shutdown()
        with pytest.raises(NotConnectedError, match="was shut down"):
            worker.trigger({"function_id": "t::echo"})
        worker.shutdown()  # the SDK would hang

    def test_shutdown_ends_waits_of_other_threads(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        worker = resilient(connect())
        errors: list[Exception] = []

        def wait() -> None:
            try:
                worker.trigger({"function_id": "t::nobody"}, policy=RetryPolicy(ready_timeout=30.0))
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        while not asked(engine):
            time.sleep(0.01)
        worker.shutdown()
        thread.join(timeout=5)
        assert not thread.is_alive()
        assert [type(error) for error in errors] == [NotConnectedError]

    def test_shutdown_ends_backoffs_too(
        self, engine: LoopbackEngine, target: Any, connect: Callable[..., Any]
    ) -> None:
        worker, policy = stopped_again_and_again(engine, target, connect)
        errors: list[Exception] = []

        def call() -> None:
            try:
                worker.trigger({"function_id": "t::echo"}, idempotent=True, policy=policy)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        while len(worker._connection.sleeps) < 3:
            time.sleep(0.005)
        worker.shutdown()
        for thread in threads:
            thread.join(timeout=10)
        assert [type(error) for error in errors] == [NotConnectedError] * 3
        assert len({id(error) for error in errors}) == 3, "each caller's own exception"
        for error in errors:
            report = report_for(error)
            assert report is not None
            assert [(a.failure.code, a.sent) for a in report.attempts] == [
                ("invocation_stopped", True),
                ("NOT_CONNECTED", False),
            ]
            assert report.execution is Execution.MAYBE_EXECUTED, "nothing MORE was sent"
            assert report.reason is Reason.NOT_READY

    def test_nor_is_shutdown_in_backoff_proof_for_outer_retries(
        self, engine: LoopbackEngine, target: Any, connect: Callable[..., Any]
    ) -> None:
        worker, policy = stopped_again_and_again(engine, target, connect)
        calls: list[None] = []

        @iii_retry(policy=RetryPolicy(retry_unexecuted=True))
        def outer() -> None:
            calls.append(None)
            worker.trigger({"function_id": "t::echo"}, idempotent=True, policy=policy)

        def end() -> None:
            until(lambda: len(worker._connection.sleeps) > 0)
            worker.shutdown()

        thread = threading.Thread(target=end)
        thread.start()
        with pytest.raises(NotConnectedError):
            outer()
        thread.join()
        assert len(calls) == 1

    async def test_shutdown_ends_backoffs_of_coroutines_too(
        self, engine: LoopbackEngine, target: Any, connect: Callable[..., Any]
    ) -> None:
        worker, policy = stopped_again_and_again(engine, target, connect)
        call = asyncio.ensure_future(
            worker.trigger_async({"function_id": "t::echo"}, idempotent=True, policy=policy)
        )
        while len(worker._connection.sleeps) < 1:
            await asyncio.sleep(0.005)
        await worker.shutdown_async()
        with pytest.raises(NotConnectedError):
            await call

    @needs((0, 23), "does not tell of a rejected registration")
    def test_rejected_registration_fails_at_once_with_its_text(
        self,
        engine: LoopbackEngine,
        connect: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        connect("taken")
        engine.wait_workers("taken")
        # It would raise here, if the engine is faster than the client.
        monkeypatch.setattr("iii.iii.III._wait_until_connected", lambda client: None)
        worker = resilient(connect("taken"))
        while worker.get_connection_state() != "failed":
            time.sleep(0.005)
        began = time.monotonic()
        with pytest.raises(RegistrationRejectedError, match="WORKER_NAMESPACE_CONFLICT"):
            worker.trigger({"function_id": "t::echo"}, policy=RetryPolicy(ready_timeout=30.0))
        assert time.monotonic() - began < 10

    def test_sync_call_on_sdk_thread_is_refused_with_advice(
        self, engine: LoopbackEngine, target: Any, connect: Callable[..., Any]
    ) -> None:
        worker = resilient(target)

        async def handler(data: Any) -> str:
            try:
                worker.trigger({"function_id": "t::echo"})
            except RuntimeError as error:
                return str(error)
            return "no error"

        target.register_function("t::nested", handler)
        engine.wait_registered("t::nested")
        message = connect().trigger({"function_id": "t::nested", "payload": {}})
        assert "await worker.trigger_async" in message
        worker.shutdown()

    async def test_handler_may_call_through_its_own_worker(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        worker = resilient(target)

        async def handler(data: Any) -> Any:
            return await worker.trigger_async({"function_id": "t::echo", "payload": {"n": 2}})

        echo(target, engine)
        target.register_function("t::nested", handler)
        engine.wait_registered("t::nested")
        result = await caller.trigger_async({"function_id": "t::nested"})
        assert result["n"] == 2
        worker.shutdown()
