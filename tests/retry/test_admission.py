"""Attempts behind their policy's breaker and bulkhead: decorators, loops and trigger calls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from iii import InvocationError
from support.engine_fixtures import caller, connect, engine, target

from iii_resilience import (
    Backoff,
    Breaker,
    Bulkhead,
    BulkheadFullError,
    CircuitOpenError,
    ConnectionLostError,
    Execution,
    NotConnectedError,
    Reason,
    RetryPolicy,
    hint_for,
    iii_retry,
    load_policies,
    report_for,
    retrying,
)
from iii_resilience.client.resilient import Resilient
from iii_resilience.core import system_clock
from iii_resilience.core.guards.breaker import CircuitState
from iii_resilience.core.guards.bulkhead import Slots
from iii_resilience.retry.admission import AttemptGuard, guard_for
from iii_resilience.testing import AnswerError, LoopbackEngine

__all__ = ["caller", "connect", "engine", "target"]

BREAKER: dict[str, Any] = {"min_calls": 2, "window": 60.0, "open": 30.0, "probes": 1}


def breaking(**more: Any) -> RetryPolicy:
    """One attempt a call, and a circuit that opens after two failures of two calls."""
    return RetryPolicy(attempts=1, breaker=Breaker(**BREAKER), **more)


def open_circuit(call: Callable[[], Any]) -> None:
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            call()


class TestBreakerInADecorator:
    def test_open_circuit_refuses_without_calling(self) -> None:
        calls: list[int] = []

        @iii_retry(idempotent=True, policy=breaking())
        def function() -> None:
            calls.append(1)
            raise ConnectionResetError

        open_circuit(function)
        with pytest.raises(CircuitOpenError, match="nothing was sent") as caught:
            function()
        assert len(calls) == 2
        assert caught.value.retry_after is not None
        assert 10.0 < caught.value.retry_after <= 30.0
        report, hint = report_for(caught.value), hint_for(caught.value)
        assert report is not None
        assert hint is not None
        assert (report.reason, report.execution) == (
            Reason.CIRCUIT_OPEN,
            Execution.NOT_EXECUTED,
        )
        assert [attempt.sent for attempt in report.attempts] == [False]
        assert hint.action == "wait"
        assert hint.seconds == caught.value.retry_after

    async def test_the_same_for_coroutines(self) -> None:
        @iii_retry(idempotent=True, policy=breaking())
        async def function() -> None:
            raise ConnectionResetError

        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                await function()
        with pytest.raises(CircuitOpenError, match=r"circuit of .*function is open"):
            await function()

    def test_circuit_opened_between_attempts_ends_call(self) -> None:
        policy = RetryPolicy(attempts=5, breaker=Breaker(**BREAKER), backoff=Backoff(base=0.0))

        @iii_retry(idempotent=True, policy=policy)
        def function() -> None:
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError) as caught:
            function()
        report = report_for(caught.value)
        assert report is not None
        assert report.reason is Reason.CIRCUIT_OPEN
        assert [attempt.sent for attempt in report.attempts] == [True, True, False]
        assert report.execution is Execution.MAYBE_EXECUTED

    @pytest.mark.parametrize(
        "error",
        [
            InvocationError("FORBIDDEN", "no"),
            InvocationError("payload_too_large", "no"),
            InvocationError("invocation_failed", "boom"),
            ValueError("bug"),
        ],
    )
    def test_what_says_nothing_about_health_does_not_count(self, error: Exception) -> None:
        @iii_retry(policy=breaking())
        def function() -> None:
            raise error

        for _ in range(5):
            with pytest.raises(type(error)):
                function()

    @pytest.mark.parametrize(
        "error",
        [
            ConnectionLostError("gone"),
            InvocationError("TIMEOUT", "too slow"),
            InvocationError("channel_send_failed", "its connection is closing"),
            ConnectionRefusedError("refused"),
        ],
    )
    def test_transient_failures_of_what_was_sent_count(self, error: Exception) -> None:
        @iii_retry(policy=breaking())
        def function() -> None:
            raise error

        for _ in range(2):
            with pytest.raises(type(error)):
                function()
        with pytest.raises(CircuitOpenError):
            function()

    @pytest.mark.parametrize(
        "error", [NotConnectedError("x"), BulkheadFullError("x"), CircuitOpenError("x")]
    )
    def test_what_was_never_sent_does_not_count(self, error: Exception) -> None:
        @iii_retry(policy=breaking())
        def function() -> None:
            raise error

        for _ in range(5):
            with pytest.raises(type(error)):
                function()

    def test_refusal_names_function_and_what_opened_circuit(self) -> None:
        @iii_retry(policy=breaking())
        def function() -> None:
            raise ConnectionResetError

        open_circuit(function)
        name = f"{function.__module__}.{function.__qualname__}"
        with pytest.raises(CircuitOpenError) as caught:
            function()
        assert str(caught.value) == (
            f"the circuit of {name} is open (2 of 2 calls failed within 60 s); nothing was sent"
        )

    def test_cancellation_does_not_count(self) -> None:
        policy = breaking()

        @iii_retry(policy=policy)
        def function() -> None:
            raise KeyboardInterrupt

        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                function()

    def test_each_decorated_function_has_circuit_of_its_own(self) -> None:
        policy = breaking()

        @iii_retry(policy=policy)
        def broken() -> None:
            raise ConnectionResetError

        @iii_retry(policy=policy)
        def fine() -> str:
            return "fine"

        open_circuit(broken)
        with pytest.raises(CircuitOpenError):
            broken()
        assert fine() == "fine"

    def test_it_closes_again_when_probe_succeeds(self) -> None:
        policy = RetryPolicy(attempts=1, breaker=Breaker(min_calls=2, open=0.05, probes=1))
        healthy: list[bool] = []

        @iii_retry(policy=policy)
        def function() -> str:
            if not healthy:
                raise ConnectionResetError
            return "back"

        open_circuit(function)
        healthy.append(True)
        time.sleep(0.06)
        assert [function() for _ in range(5)] == ["back"] * 5

    def test_slow_calls_may_count(self) -> None:
        policy = RetryPolicy(breaker=Breaker(min_calls=2, slow_call=0.001))

        @iii_retry(policy=policy)
        def function() -> None:
            time.sleep(0.005)

        function()
        function()
        with pytest.raises(CircuitOpenError):
            function()

    def test_call_is_as_slow_as_it_takes_itself(self) -> None:
        breaker = Breaker(min_calls=1, slow_call=60.0, failure_rate=1.0)
        function = iii_retry(policy=RetryPolicy(breaker=breaker))(lambda: "done")
        assert [function() for _ in range(3)] == ["done"] * 3

    async def test_refused_coroutine_does_not_hold_circuit_either(self) -> None:
        circuit = Breaker(min_calls=1, open=0.01, probes=1).circuit_for()
        guard = AttemptGuard("f", circuit, Bulkhead(1).slots_for())

        async def breaks() -> None:
            raise ConnectionResetError

        async def works() -> str:
            return "done"

        with pytest.raises(ConnectionResetError):
            await guard.attempt_async(breaks, None, [])
        time.sleep(0.02)  # noqa: ASYNC251 - nothing else runs
        assert guard.slots is not None
        kept = guard.slots.acquire()
        assert kept is not None
        with pytest.raises(BulkheadFullError):
            await guard.attempt_async(works, None, [])
        guard.slots.release(kept)
        assert await guard.attempt_async(works, None, []) == "done"

    def test_inner_open_circuit_is_not_asked_again_by_outer_retry(self) -> None:
        calls = []

        @iii_retry(policy=breaking())
        def inner() -> None:
            raise ConnectionResetError

        @iii_retry(idempotent=True, attempts=4, backoff=Backoff(base=0.0))
        def outer() -> None:
            calls.append(1)
            inner()

        open_circuit(inner)
        with pytest.raises(CircuitOpenError) as caught:
            outer()
        assert len(calls) == 1
        report = report_for(caught.value)
        assert report is not None
        assert report.reason is Reason.ALREADY_RETRIED
        assert report.attempts[0].sent


class TestBulkheadInADecorator:
    @staticmethod
    def full() -> tuple[AttemptGuard, object]:
        """Slots with a wait of a minute, and the holder of the only one."""
        slots = Bulkhead(1, queue=5, wait=60.0).slots_for()
        guard = AttemptGuard("f", None, slots)
        return guard, guard.admit(None)

    @pytest.mark.parametrize("left", [-1.0, 0.0, 0.05])
    def test_nobody_waits_for_place_past_his_deadline(self, left: float) -> None:
        (guard, _kept), started = self.full(), time.monotonic()
        with pytest.raises(BulkheadFullError) as caught:
            guard.attempt(lambda: None, started + left, [])
        assert max(left, 0.0) <= time.monotonic() - started < 30.0
        assert str(caught.value) == "no place came free in the bulkhead of f; nothing was sent"

    @pytest.mark.parametrize("left", [-1.0, 0.0, 0.05])
    async def test_no_coroutine_waits_for_place_past_its_deadline(self, left: float) -> None:
        (guard, _kept), started = self.full(), time.monotonic()
        with pytest.raises(BulkheadFullError, match="bulkhead of f"):
            await guard.attempt_async(lambda: asyncio.sleep(0), started + left, [])
        assert max(left, 0.0) <= time.monotonic() - started < 30.0

    @pytest.mark.parametrize(
        ("deadline_at", "left"), [(None, None), (99.0, 0.0), (100.0, 0.0), (100.25, 0.25)]
    )
    async def test_wait_for_place_is_what_deadline_leaves(
        self, deadline_at: float | None, left: float | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        timeouts: list[float | None] = []

        def full(_: Slots, timeout: float | None = None) -> None:
            timeouts.append(timeout)

        async def full_async(_: Slots, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as `Slots`
            timeouts.append(timeout)

        monkeypatch.setattr(system_clock, "monotonic", lambda: 100.0)
        monkeypatch.setattr(Slots, "acquire", full)
        monkeypatch.setattr(Slots, "acquire_async", full_async)
        guard = AttemptGuard("f", None, Bulkhead(1).slots_for())
        with pytest.raises(BulkheadFullError):
            guard.admit(deadline_at)
        with pytest.raises(BulkheadFullError):
            await guard.admit_async(deadline_at)
        assert timeouts == [left, left]

    def test_place_is_given_back_however_attempt_ends(self) -> None:
        slots = Bulkhead(1).slots_for()
        guard = AttemptGuard("f", None, slots)

        def attempt(error: BaseException | None) -> str:
            assert slots.inside == 1
            if error is not None:
                raise error
            return "done"

        for error in (None, ValueError("x"), KeyboardInterrupt()):
            expected = contextlib.nullcontext() if error is None else pytest.raises(type(error))
            with expected:
                guard.attempt(partial(attempt, error), None, [])
            assert slots.inside == 0

    def test_call_beyond_limit_is_refused(self) -> None:
        inside, leave = threading.Event(), threading.Event()

        @iii_retry(idempotent=True, policy=RetryPolicy(bulkhead=Bulkhead(1)))
        def function() -> None:
            inside.set()
            leave.wait(60)

        thread = threading.Thread(target=function)
        thread.start()
        assert inside.wait(60)
        with pytest.raises(BulkheadFullError, match="nothing was sent") as caught:
            function()
        leave.set()
        thread.join()
        report, hint = report_for(caught.value), hint_for(caught.value)
        assert report is not None
        assert hint is not None
        assert (report.reason, hint.action) == (Reason.BULKHEAD_FULL, "wait")
        function()

    async def test_coroutines_wait_for_place(self) -> None:
        most, inside = 0, 0

        @iii_retry(policy=RetryPolicy(bulkhead=Bulkhead(2, queue=10, wait=5.0)))
        async def function() -> None:
            nonlocal most, inside
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

        await asyncio.gather(*(function() for _ in range(8)))
        assert most == 2

    async def test_cancelled_call_gives_its_place_back(self) -> None:
        policy = RetryPolicy(bulkhead=Bulkhead(1))

        @iii_retry(policy=policy)
        async def function(seconds: float) -> str:
            await asyncio.sleep(seconds)
            return "done"

        task = asyncio.ensure_future(function(30))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await function(0) == "done"

    def test_refused_probe_does_not_hold_circuit(self) -> None:
        """The ticket of a call that finds the bulkhead full is given back."""
        policy = RetryPolicy(
            attempts=1, breaker=Breaker(min_calls=2, open=0.01, probes=1), bulkhead=Bulkhead(1)
        )
        slots = policy.bulkhead.slots_for(f"{__name__}.scope") if policy.bulkhead else None
        assert slots is not None

        @iii_retry(policy=policy)
        def function(error: Exception | None = None) -> str:
            if error is not None:
                raise error
            return "done"

        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                function(ConnectionResetError())
        time.sleep(0.02)
        (own,) = [g for scope, g in policy.bulkhead._states.items() if scope != f"{__name__}.scope"]  # type: ignore[union-attr]
        permit = own.acquire()
        assert permit is not None
        with pytest.raises(BulkheadFullError):
            function()
        own.release(permit)
        assert function() == "done"


class TestLoops:
    @pytest.mark.bare  # a loop's scope is the function that it stands in
    @pytest.mark.parametrize("attempts_before", [0, 1])
    def test_nobody_waits_for_place_past_deadline(self, attempts_before: int) -> None:
        bulkhead = Bulkhead(1, queue=5, wait=60.0)
        policy = RetryPolicy(bulkhead=bulkhead, deadline=1.0, backoff=Backoff(base=0.0))
        taken, started = [], time.monotonic()

        def block() -> None:
            for attempt in retrying(idempotent=True, policy=policy):
                with attempt:
                    take()
                    raise ConnectionResetError

        def take() -> None:
            (slots,) = bulkhead._states.values()
            slots._limit = 0  # as if somebody else had come in as the block ends
            taken.append(slots)

        if attempts_before == 0:
            bulkhead.slots_for(f"{block.__module__}.{block.__qualname__}")
            take()
        with pytest.raises(ConnectionError) as caught:
            block()
        assert time.monotonic() - started < 30.0
        report = report_for(caught.value)
        assert report is not None
        assert len(report.attempts) == attempts_before + 1
        assert report.reason is Reason.BULKHEAD_FULL

    @pytest.mark.bare
    @pytest.mark.parametrize("attempts_before", [0, 1])
    async def test_no_coroutine_waits_for_place_past_its_deadline(
        self, attempts_before: int
    ) -> None:
        bulkhead = Bulkhead(1, queue=5, wait=60.0)
        policy = RetryPolicy(bulkhead=bulkhead, deadline=1.0, backoff=Backoff(base=0.0))
        started = time.monotonic()

        async def block() -> None:
            async for attempt in retrying(idempotent=True, policy=policy):
                with attempt:
                    slots._limit = 0
                    raise ConnectionResetError

        slots = bulkhead.slots_for(f"{block.__module__}.{block.__qualname__}")
        if attempts_before == 0:
            slots._limit = 0
        with pytest.raises(ConnectionError) as caught:
            await block()
        assert time.monotonic() - started < 30.0
        report = report_for(caught.value)
        assert report is not None
        assert len(report.attempts) == attempts_before + 1

    def test_open_circuit_refuses_block(self) -> None:
        policy = breaking()
        blocks = []

        def block() -> None:
            for attempt in retrying(idempotent=True, policy=policy):
                with attempt:
                    blocks.append(1)
                    raise ConnectionResetError

        open_circuit(block)
        with pytest.raises(CircuitOpenError, match=r"circuit of retrying\(\) is open"):
            block()
        assert len(blocks) == 2

    async def test_the_same_with_async_for(self) -> None:
        policy = breaking()

        async def block() -> None:
            async for attempt in retrying(idempotent=True, policy=policy):
                with attempt:
                    raise ConnectionResetError

        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                await block()
        with pytest.raises(CircuitOpenError, match=r"circuit of retrying\(\) is open"):
            await block()

    def test_circuit_opened_between_attempts_ends_loop(self) -> None:
        policy = RetryPolicy(breaker=Breaker(**BREAKER), backoff=Backoff(base=0.0))

        def block() -> None:
            for attempt in retrying(idempotent=True, policy=policy):
                with attempt:
                    raise ConnectionResetError

        with pytest.raises(ConnectionResetError) as caught:
            block()
        report = report_for(caught.value)
        assert report is not None
        assert [attempt.sent for attempt in report.attempts] == [True, True, False]

    async def test_the_same_between_attempts_of_async_for(self) -> None:
        policy = RetryPolicy(breaker=Breaker(**BREAKER), backoff=Backoff(base=0.0))

        async def block() -> None:
            async for attempt in retrying(idempotent=True, policy=policy):
                with attempt:
                    raise ConnectionResetError

        with pytest.raises(ConnectionResetError) as caught:
            await block()
        report = report_for(caught.value)
        assert report is not None
        assert [attempt.sent for attempt in report.attempts] == [True, True, False]

    async def test_full_bulkhead_refuses_block(self) -> None:
        policy = RetryPolicy(attempts=1, bulkhead=Bulkhead(1), breaker=Breaker(**BREAKER))

        async def block(inner: Callable[[], Any] | None) -> None:
            async for attempt in retrying(policy=policy):
                with attempt:
                    if inner is not None:
                        await inner()

        async def one_more() -> None:
            with pytest.raises(BulkheadFullError):
                await block(None)

        await block(one_more)

    def test_leaving_block_early_gives_place_back(self) -> None:
        policy = RetryPolicy(bulkhead=Bulkhead(1))
        for _ in range(3):
            for attempt in retrying(policy=policy):
                with attempt:
                    break


class TestTriggerCalls:
    @pytest.fixture(autouse=True)
    def functions(self, engine: LoopbackEngine, target: Any) -> None:
        for function_id in ("t::one", "t::two"):
            target.register_function(function_id, lambda data: "done")
        engine.wait_registered("t::one", "t::two")

    def test_open_circuit_creates_no_work_and_is_function_s_own(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        policy = breaking()
        engine.inject("t::one", AnswerError("invocation_error", "x"), times=2)
        for _ in range(2):
            with pytest.raises(InvocationError):
                caller.trigger({"function_id": "t::one"}, policy=policy)
        with pytest.raises(CircuitOpenError) as caught:
            caller.trigger({"function_id": "t::one"}, policy=policy, idempotent=True)
        assert len(engine.calls("t::one")) == 2
        report = report_for(caught.value)
        assert report is not None
        assert [attempt.sent for attempt in report.attempts] == [False]
        assert caller.trigger({"function_id": "t::two"}, policy=policy) == "done"

    async def test_the_same_for_coroutines(self, engine: LoopbackEngine, caller: Resilient) -> None:
        policy = breaking()
        engine.inject("t::one", AnswerError("invocation_error", "x"), times=2)
        for _ in range(2):
            with pytest.raises(InvocationError):
                await caller.trigger_async({"function_id": "t::one"}, policy=policy)
        with pytest.raises(CircuitOpenError):
            await caller.trigger_async({"function_id": "t::one"}, policy=policy)

    @pytest.mark.bare
    def test_rejection_costs_fraction_of_call_sent_and_fails(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        """A tenth, says benchmarks/bench_rejection.py; the bound is for a busy machine."""
        sent = RetryPolicy(attempts=1, breaker=Breaker(min_calls=10**9))
        rejected = RetryPolicy(attempts=1, breaker=Breaker(min_calls=1, open=1e6))
        engine.inject("t::one", AnswerError("invocation_error", "x"), times=101)

        def seconds(policy: RetryPolicy) -> float:
            started = time.perf_counter()
            with contextlib.suppress(InvocationError, CircuitOpenError):
                caller.trigger({"function_id": "t::one"}, policy=policy)
            return time.perf_counter() - started

        seconds(rejected)  # this failure opens the circuit for good
        pairs = [(seconds(sent), seconds(rejected)) for _ in range(100)]
        assert len(engine.calls("t::one")) == 101
        failing, rejecting = (statistics.median(times) for times in zip(*pairs, strict=True))
        assert rejecting < failing / 2

    def test_calls_that_were_never_sent_do_not_open_it(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        policy = breaking(ready_timeout=0.0)
        engine.stop_listening()
        engine.disconnect()
        while caller.get_connection_state() == "connected":
            time.sleep(0.005)
        for _ in range(3):
            with pytest.raises(ConnectionError, match="nothing was sent"):
                caller.trigger({"function_id": "t::one"}, policy=policy)
        (circuit,) = policy.breaker._states.values()  # type: ignore[union-attr]
        assert circuit.state is CircuitState.CLOSED

    async def test_bulkhead_bounds_calls_in_flight(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        most, inside = 0, 0

        async def handler(data: Any) -> None:
            nonlocal most, inside
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.1)
            inside -= 1

        target.register_function("t::counted", handler)
        engine.wait_registered("t::counted")
        policy = RetryPolicy(bulkhead=Bulkhead(3, queue=20, wait=5.0))
        request = {"function_id": "t::counted"}
        await asyncio.gather(*(caller.trigger_async(request, policy=policy) for _ in range(12)))
        assert most == 3


def test_both_can_be_written_in_file() -> None:
    book = load_policies(
        {
            "version": 1,
            "policies": {
                "p": {
                    "breaker": {
                        "failure_rate": 0.4,
                        "window_ms": 1000,
                        "min_calls": 5,
                        "open_ms": 2000,
                        "probes": 2,
                        "slow_call_ms": 300,
                    },
                    "bulkhead": {"limit": 4, "queue": 8, "wait_ms": 500},
                }
            },
        }
    )
    policy = book.policy_set.policy("p")
    assert policy.breaker == Breaker(0.4, 1.0, 5, 2.0, 2, 0.3)
    assert policy.bulkhead == Bulkhead(4, 8, 0.5)


class TestTheShieldOfAPolicy:
    def test_there_is_none_without_breaker_and_bulkhead(self) -> None:
        assert guard_for(RetryPolicy(), "f") is None

    def test_each_of_them_makes_one(self) -> None:
        breaker, bulkhead = Breaker(), Bulkhead(1)
        assert guard_for(RetryPolicy(breaker=breaker), "f") == AttemptGuard(
            "f", breaker.circuit_for("f"), None
        )
        assert guard_for(RetryPolicy(bulkhead=bulkhead), "f") == AttemptGuard(
            "f", None, bulkhead.slots_for("f")
        )

    def test_scope_may_be_narrower_than_name(self) -> None:
        breaker, bulkhead = Breaker(), Bulkhead(1)
        policy = RetryPolicy(breaker=breaker, bulkhead=bulkhead)
        assert guard_for(policy, "f", "f@blue") == AttemptGuard(
            "f", breaker.circuit_for("f@blue"), bulkhead.slots_for("f@blue")
        )

    @pytest.mark.parametrize("bulkhead", [None, Bulkhead(1)])
    def test_failures_and_durations_count_beside_bulkhead_too(
        self, bulkhead: Bulkhead | None
    ) -> None:
        breaker = Breaker(min_calls=2, failure_rate=1.0, open=3600.0, slow_call=60.0)
        guard = guard_for(RetryPolicy(breaker=breaker, bulkhead=bulkhead), "f")
        assert guard is not None

        def attempt() -> None:
            raise ConnectionResetError

        for _ in range(3):
            assert guard.attempt(lambda: "done", None, []) == "done"  # quick: none of them counts
        breaker = Breaker(min_calls=2, failure_rate=1.0, open=3600.0)
        guard = guard_for(RetryPolicy(breaker=breaker, bulkhead=bulkhead), "f")
        assert guard is not None
        open_circuit(lambda: guard.attempt(attempt, None, []))
        with pytest.raises(CircuitOpenError):
            guard.attempt(attempt, None, [])

    async def test_the_same_for_coroutines(self) -> None:
        breaker = Breaker(min_calls=2, failure_rate=1.0, open=3600.0)
        guard = guard_for(RetryPolicy(breaker=breaker, bulkhead=Bulkhead(1)), "f")
        assert guard is not None

        async def attempt() -> None:
            raise ConnectionResetError

        for error in (ConnectionResetError, ConnectionResetError, CircuitOpenError):
            with pytest.raises(error):
                await guard.attempt_async(attempt, None, [])

    def test_change_of_state_is_logged_with_function_s_name(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        guard = guard_for(breaking(), "f", "f@blue")
        assert guard is not None

        def attempt() -> None:
            raise ConnectionResetError

        with caplog.at_level(logging.INFO, "iii_resilience"):
            open_circuit(lambda: guard.attempt(attempt, None, []))
        told = [one.getMessage() for one in caplog.records if one.name == "iii_resilience"]
        assert told == ["f: circuit open, was closed"]
