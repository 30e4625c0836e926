"""`resilient(worker)`: what it takes, what it changes, and what it passes through."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from support.engine_fixtures import caller, connect, engine, target
from support.real_sdk import InvocationError

from iii_resilience import (
    Backoff,
    Breaker,
    Budget,
    CircuitOpenError,
    PolicyBook,
    RetryPolicy,
    classify,
    load_policies,
    resilient,
    use_policies,
)
from iii_resilience.client.resilient import Resilient
from iii_resilience.config.rules import Rule
from iii_resilience.testing import AnswerError, LoopbackEngine

__all__ = ["caller", "connect", "engine", "target"]

STOPPED = AnswerError("invocation_stopped", "Invocation stopped")


class TestMaking:
    def test_worker_is_wrapped_once(self, caller: Resilient) -> None:
        with pytest.raises(TypeError, match="already resilient"):
            resilient(caller)

    def test_policies_are_book_or_policy(self, connect: Callable[..., Any]) -> None:
        with pytest.raises(TypeError, match="must be a PolicyBook or a RetryPolicy"):
            resilient(connect(), policies="policies.yaml")  # type: ignore[arg-type]

    def test_codes_and_exceptions_of_its_book_are_known(self, connect: Callable[..., Any]) -> None:
        code, name = "ONLY_IN_THIS_BOOK", "only.in.this.BookError"
        book = PolicyBook(codes={code: "transient"}, exceptions={name: "transient"})
        assert not classify(code).known
        resilient(connect(), policies=book)
        assert classify(code).known
        error = type("BookError", (Exception,), {"__module__": "only.in.this"})("x")
        assert classify(error).category == "transient"

    def test_it_says_what_it_wraps(self, caller: Resilient) -> None:
        assert repr(caller).startswith("resilient(<iii.iii.III")

    def test_as_context_manager_it_is_shut_down_at_the_end(
        self, connect: Callable[..., Any]
    ) -> None:
        with resilient(connect()) as worker:
            assert worker.get_connection_state() == "connected"
        assert worker.get_connection_state() == "disconnected"

    async def test_so_it_is_in_coroutine(self, connect: Callable[..., Any]) -> None:
        async with resilient(connect()) as worker:
            assert worker.get_connection_state() == "connected"
        assert worker.get_connection_state() == "disconnected"

    def test_what_copies_it_gets_plain_error(self, caller: Resilient) -> None:
        with pytest.raises((TypeError, AttributeError)):
            copy.deepcopy(caller)


class TestPassThrough:
    def test_everything_else_is_sdk_client_own(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        assert caller.get_connection_state() == "connected"
        reference = caller.register_function("t::own", lambda data: data)
        engine.wait_registered("t::own")
        assert reference.id == "t::own"

    def test_what_sdk_lacks_is_attribute_error(self, caller: Resilient) -> None:
        with pytest.raises(AttributeError, match="nonsense"):
            _ = caller.nonsense

    async def test_it_can_be_shut_down_from_coroutine_on_any_loop(
        self, connect: Callable[..., Any]
    ) -> None:
        worker = resilient(connect())
        await worker.shutdown_async()
        await worker.shutdown_async()
        assert worker.get_connection_state() == "disconnected"

    def test_it_can_be_shut_down_on_sdk_loop(self, connect: Callable[..., Any]) -> None:
        worker = resilient(connect())
        ended = threading.Event()

        async def end() -> None:
            await worker.shutdown_async()
            ended.set()

        asyncio.run_coroutine_threadsafe(end(), worker._loop)
        assert ended.wait(5)
        worker._thread.join(5)  # the SDK stops its loop a moment later
        worker.shutdown()

    def test_concurrent_shutdowns_run_once_and_all_wait(self, connect: Callable[..., Any]) -> None:
        """The SDK hangs in the second shutdown, also while the first is under way."""
        client = connect()
        worker, times, shutdown = resilient(client), 0, client.shutdown

        def slowly() -> None:
            nonlocal times
            times += 1
            time.sleep(0.3)
            shutdown()

        client.shutdown = slowly
        running: list[bool] = []

        def end() -> None:
            worker.shutdown()
            running.append(client._thread.is_alive())

        threads = [threading.Thread(target=end) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert times == 1
        assert running == [False] * 4

    def test_signal_in_middle_of_end_does_not_wait_for_itself(
        self, connect: Callable[..., Any]
    ) -> None:
        client = connect()
        worker, shutdown = resilient(client), client.shutdown

        def interrupted() -> None:
            began = time.monotonic()
            worker.shutdown()  # as the handler of a signal would, on this very thread
            assert time.monotonic() - began < 5
            shutdown()

        client.shutdown = interrupted
        worker.shutdown()
        assert not client._thread.is_alive()


class TestPolicies:
    @pytest.fixture(autouse=True)
    def function(self, engine: LoopbackEngine, target: Any) -> None:
        target.register_function("t::one", lambda data: "done")
        engine.wait_registered("t::one")
        engine.inject("t::one", STOPPED, times=2)

    def attempts(self, engine: LoopbackEngine, worker: Resilient, **options: Any) -> int:
        with suppress(InvocationError):
            worker.trigger({"function_id": "t::one"}, **options)
        return len(engine.calls("t::one"))

    def test_rule_chooses_policy_and_declares_call_idempotent(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        book = load_policies(
            {
                "version": 1,
                "policies": {"twice": {"attempts": 2, "backoff": {"base_ms": 1}}},
                "rules": [{"function": "t::*", "policy": "twice", "idempotent": True}],
            }
        )
        worker = resilient(connect(), policies=book)
        assert self.attempts(engine, worker) == 2
        worker.shutdown()

    def test_idempotent_in_code_wins_over_rule(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        book = PolicyBook(rules=[Rule("t::*", idempotent=True)])
        worker = resilient(connect(), policies=book)
        assert self.attempts(engine, worker, idempotent=False) == 1
        worker.shutdown()

    def test_call_may_name_another_policy(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        book = PolicyBook({"once": RetryPolicy(attempts=1)})
        worker = resilient(connect(), policies=book)
        assert self.attempts(engine, worker, idempotent=True, policy="once") == 1
        worker.shutdown()

    def test_unknown_policy_is_value_error_and_nothing_is_sent(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        with pytest.raises(ValueError, match=r"no policy is named 'defualt'.*'default'"):
            caller.trigger({"function_id": "t::one"}, policy="defualt")
        assert engine.calls("t::one") == ()

    def test_without_own_policies_it_follows_default_book(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        worker = resilient(connect())
        before = use_policies(PolicyBook({"default": RetryPolicy(attempts=1)}))
        try:
            assert self.attempts(engine, worker, idempotent=True) == 1
        finally:
            use_policies(before)
        worker.shutdown()

    def test_empty_budget_lets_no_retry_pass(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        budget = {"ratio": 0, "burst": 1, "min_per_second": 0}
        policy = {"budget": budget, "backoff": {"base_ms": 1}}
        book = load_policies({"version": 1, "policies": {"one": policy}, "default": "one"})
        worker = resilient(connect(), policies=book)
        assert self.attempts(engine, worker, idempotent=True) == 2
        engine.inject("t::one", STOPPED, times=2)
        assert self.attempts(engine, worker, idempotent=True) == 3
        worker.shutdown()

    def test_success_refills_bucket_of_its_function(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        budget = Budget(ratio=0.5, burst=10, min_per_second=0)
        policy = RetryPolicy(attempts=2, backoff=Backoff(base=0.001), budget=budget)
        worker = resilient(connect(), policies=policy)
        assert self.attempts(engine, worker, idempotent=True) == 2
        (bucket,) = budget._states.values()
        assert bucket.level == 8.0  # one retry, and the cost of a failed call
        for level in (8.0, 8.5, 9.0):
            assert bucket.level == level
            worker.trigger({"function_id": "t::one"}, idempotent=True)
        worker.trigger({"function_id": "t::one"})  # nothing that could be retried
        assert bucket.level == 9.5
        engine.inject("t::one", STOPPED, times=1)
        worker.trigger({"function_id": "t::one"}, idempotent=True)
        assert (bucket.level, bucket.taken, bucket.refunded, bucket.wasted) == (10.0, 2, 1, 1)
        worker.shutdown()

    def test_override_shares_budget_of_policy(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        budget = Budget(ratio=0, burst=1, min_per_second=0)
        book = PolicyBook({"default": RetryPolicy(backoff=Backoff(base=0.001), budget=budget)})
        worker = resilient(connect(), policies=book)
        assert self.attempts(engine, worker, idempotent=True) == 2
        engine.inject("t::one", STOPPED, times=2)
        override = book.policy_set.policy("default").replace(attempts=9)
        assert self.attempts(engine, worker, idempotent=True, policy=override) == 3
        worker.shutdown()

    def test_policies_made_for_each_call_share_their_guards(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        engine.inject("t::one", STOPPED, times=1000)
        worker = resilient(connect())
        for number in range(40):
            breaker = Breaker(min_calls=5)
            policy = RetryPolicy(attempts=1, breaker=breaker, deadline=50.0 + number % 2)
            with suppress(CircuitOpenError):
                self.attempts(engine, worker, idempotent=True, policy=policy)
        assert len(engine.calls("t::one")) == 5
        worker.shutdown()

    def test_unexecuted_retries_take_permits_too(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        engine.clear_faults()
        engine.inject("t::one", AnswerError("channel_send_failed", "worker is gone"), times=1000)
        budget = Budget(ratio=0, burst=1, min_per_second=0)
        policy = RetryPolicy(retry_unexecuted=True, backoff=Backoff(base=0.001), budget=budget)
        worker = resilient(connect(), policies=policy)
        assert self.attempts(engine, worker) == 2
        assert self.attempts(engine, worker) == 3
        worker.shutdown()
