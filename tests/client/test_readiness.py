"""When a function is known, when it stops being known, and who asks."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from support.real_sdk import InvocationError, needs
from support.waiting import until

from iii_resilience import NotConnectedError, RetryPolicy, resilient
from iii_resilience.client.resilient import Resilient
from iii_resilience.client.trigger_call import TriggerCall
from iii_resilience.testing import AnswerError, Delay, LoopbackEngine

QUESTION = "engine::functions::info"


def asked(engine: LoopbackEngine) -> int:
    return len(engine.calls(QUESTION))


def reconnect(engine: LoopbackEngine, caller: Resilient) -> None:
    """Cut the caller's connection and wait until it is back."""
    epoch = caller._connection.epoch
    engine.disconnect("caller")
    until(lambda: caller._connection.epoch >= epoch + 2)


@pytest.fixture
def functions(engine: LoopbackEngine, target: Any) -> None:
    for function_id in ("t::one", "t::two"):
        target.register_function(function_id, lambda data: data)
    engine.wait_registered("t::one", "t::two")


@pytest.mark.usefixtures("functions")
class TestTheMomentOfALoss:
    """What one call learns holds for every call that the SDK has not been handed yet."""

    def test_call_that_waits_for_sdk_s_thread_is_held_back(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        caller.trigger({"function_id": "t::one"})
        blocked, over = threading.Event(), threading.Event()

        def block() -> None:
            blocked.set()
            over.wait(10)
            caller._caller.ready.invalidate((None, "t::one"))

        caller._connection.loop.call_soon_threadsafe(block)
        blocked.wait(10)
        thread = threading.Thread(target=lambda: caller.trigger({"function_id": "t::one"}))
        thread.start()
        while not len(caller._connection.in_flight):
            time.sleep(0.005)
        time.sleep(0.05)  # it is on its way to the SDK's thread
        over.set()
        thread.join()
        assert (asked(engine), len(engine.calls("t::one"))) == (2, 2)

    async def test_it_is_known_before_caller_that_met_it_runs_again(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        await caller.trigger_async({"function_id": "t::one"})
        engine.inject("t::one", AnswerError("invocation_stopped", "x", after_execution=True))
        call = asyncio.ensure_future(caller.trigger_async({"function_id": "t::one"}))
        while len(engine.calls("t::one")) < 2:
            await asyncio.sleep(0)
        # This loop is busy while the answer comes.
        until(lambda: (None, "t::one") not in caller._caller.ready.known)
        with pytest.raises(InvocationError):
            await call

    def test_retry_that_is_held_back_spends_its_permit_once(
        self, engine: LoopbackEngine, caller: Resilient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caller.trigger({"function_id": "t::one"})
        holds = iter([False, False, True])
        may_send = TriggerCall.may_send
        monkeypatch.setattr(
            TriggerCall, "may_send", lambda call: may_send(call) and next(holds, True)
        )
        engine.inject("t::one", AnswerError("invocation_stopped", "x"))
        assert caller.trigger({"function_id": "t::one"}, idempotent=True) is not None
        assert len(engine.calls("t::one")) == 3


@pytest.mark.usefixtures("functions")
class TestKnown:
    @pytest.mark.parametrize(
        "code", ["invocation_stopped", "channel_send_failed", "invocation_error"]
    )
    def test_call_that_ends_like_lost_worker_makes_it_unknown(
        self, engine: LoopbackEngine, caller: Resilient, code: str
    ) -> None:
        caller.trigger({"function_id": "t::one"})
        engine.inject("t::one", AnswerError(code, "x"))
        with pytest.raises(InvocationError):
            caller.trigger({"function_id": "t::one"})
        caller.trigger({"function_id": "t::one"})
        assert asked(engine) == 2

    def test_all_functions_of_owner_become_unknown(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        caller.trigger({"function_id": "t::one"})
        caller.trigger({"function_id": "t::two"})
        engine.inject("t::one", AnswerError("invocation_stopped", "x"))
        with pytest.raises(InvocationError):
            caller.trigger({"function_id": "t::one"})
        caller.trigger({"function_id": "t::two"})
        assert asked(engine) == 3

    @pytest.mark.parametrize("code", ["TIMEOUT", "invocation_failed", "FORBIDDEN"])
    def test_other_failures_do_not(
        self, engine: LoopbackEngine, caller: Resilient, code: str
    ) -> None:
        caller.trigger({"function_id": "t::one"})
        engine.inject("t::one", AnswerError(code, "x"))
        with pytest.raises(InvocationError):
            caller.trigger({"function_id": "t::one"})
        caller.trigger({"function_id": "t::one"})
        assert asked(engine) == 1

    def test_new_connection_makes_everything_unknown(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        caller.trigger({"function_id": "t::one"})
        reconnect(engine, caller)
        caller.trigger({"function_id": "t::one"})
        assert asked(engine) == 2

    def test_late_success_does_not_make_lost_function_known_again(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        ready = caller._caller.ready
        key = (None, "t::one")
        generation = ready.generation
        ready.invalidate(key)
        ready.mark_known(key, generation)
        assert key not in ready.known
        ready.mark_known(key, ready.generation)
        assert key in ready.known


class TestQuestions:
    def test_one_question_at_a_time_however_many_threads_wait(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        engine.wait_workers("caller")
        engine.stall("caller")  # no question is answered before all of them wait
        results: list[Any] = []
        threads = [
            threading.Thread(
                target=lambda: results.append(caller.trigger({"function_id": "t::late"}))
            )
            for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        waiters = caller._caller.ready._asking
        until(lambda: [len(all_) for all_ in waiters.values()] == [16])
        target.register_function("t::late", lambda data: "here")
        engine.wait_registered("t::late")
        engine.resume()
        for thread in threads:
            thread.join()
        assert results == ["here"] * 16
        assert asked(engine) == 1

    async def test_one_question_at_a_time_however_many_coroutines_wait(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        engine.wait_workers("caller")
        engine.stall("caller")
        calls = [
            asyncio.ensure_future(caller.trigger_async({"function_id": "t::late"}))
            for _ in range(50)
        ]
        waiters = caller._caller.ready._asking
        while [len(all_) for all_ in waiters.values()] != [50]:
            await asyncio.sleep(0.005)
        target.register_function("t::late", lambda data: "here")
        engine.wait_registered("t::late")
        engine.resume()
        assert await asyncio.gather(*calls) == ["here"] * 50
        assert asked(engine) == 1

    def test_nobody_asks_on_once_nobody_waits(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        with pytest.raises(InvocationError):
            caller.trigger({"function_id": "t::nobody"}, policy=RetryPolicy(ready_timeout=0.1))
        until(lambda: not caller._caller.ready._asking)
        before = asked(engine)
        time.sleep(0.3)
        assert asked(engine) == before

    @pytest.mark.parametrize("waiting", [False, True], ids=["first", "joins another"])
    def test_wait_that_begins_in_a_shutdown_ends_with_it(
        self, caller: Resilient, monkeypatch: pytest.MonkeyPatch, waiting: bool
    ) -> None:
        ready = caller._caller.ready
        queue_for = ready._queue_for

        def shut_down_first(key: Any) -> Any:
            caller._connection.close()
            if waiting:
                with pytest.raises(NotConnectedError):
                    queue_for(key)
            return queue_for(key)

        monkeypatch.setattr(ready, "_queue_for", shut_down_first)
        began = time.monotonic()
        with pytest.raises(NotConnectedError, match="was shut down"):
            caller.trigger({"function_id": "t::nobody"}, policy=RetryPolicy(ready_timeout=30.0))
        assert time.monotonic() - began < 10
        assert not ready._asking
        while caller._connection._tasks:
            time.sleep(0.005)

    def test_shutdown_after_message_was_taken_does_not_fail_it(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        caller.trigger({"function_id": "engine::functions::list"})
        caller._connection.close()
        caller._caller.ready.enqueued(caller._caller.ready.generation)

    @pytest.mark.parametrize("code", ["FORBIDDEN", "function_not_found", "deserialization_error"])
    def test_engine_without_check_is_not_queried_again(
        self, engine: LoopbackEngine, target: Any, caller: Resilient, code: str
    ) -> None:
        target.register_function("t::one", lambda data: 1)
        engine.wait_registered("t::one")
        engine.inject(QUESTION, AnswerError(code, "no"), times=None)
        for _ in range(3):
            assert caller.trigger({"function_id": "t::one"}) == 1
        assert asked(engine) == 1
        reconnect(engine, caller)
        engine.clear_faults()
        caller.trigger({"function_id": "t::one"})
        assert asked(engine) == 2

    def test_silent_engine_is_not_queried_again(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        target.register_function("t::one", lambda data: 1)
        engine.wait_registered("t::one")
        engine.inject(QUESTION, Delay(30.0), times=None)
        for _ in range(2):
            assert caller.trigger({"function_id": "t::one"}) == 1
        assert asked(engine) == 1

    def test_engine_itself_is_not_asked_about(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        caller.trigger({"function_id": "engine::functions::list"})
        assert asked(engine) == 0

    @needs((0, 23), "sends no namespace")
    def test_question_goes_to_namespace_of_call(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        target.register_function("t::one", lambda data: 1)
        engine.wait_registered("t::one")
        request = {"function_id": "t::one", "namespace": "elsewhere"}
        with pytest.raises(InvocationError, match="not found in namespace elsewhere"):
            caller.trigger(request, policy=RetryPolicy(ready_timeout=0.1))
        assert engine.calls(QUESTION)[0].data["namespace"] == "elsewhere"

    async def test_cancelled_wait_leaves_others_waiting(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        first, second = (
            asyncio.ensure_future(caller.trigger_async({"function_id": "t::late"}))
            for _ in range(2)
        )
        while not asked(engine):
            await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        target.register_function("t::late", lambda data: "here")
        assert await second == "here"

    def test_two_clients_do_not_share_what_they_know(
        self, engine: LoopbackEngine, target: Any, caller: Resilient, connect: Any
    ) -> None:
        target.register_function("t::one", lambda data: 1)
        engine.wait_registered("t::one")
        other = resilient(connect("other"))
        caller.trigger({"function_id": "t::one"})
        other.trigger({"function_id": "t::one"})
        assert asked(engine) == 2
        other.shutdown()
