"""Calls through the engine: what their spans say, and under which of them the engine's own hang.

The first attempt carries the caller's current span, each further one its own: what the engine and
the worker make of it hangs under the attempt that caused it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from support.engine_fixtures import QUICK
from support.telemetry_fixtures import Seen, attributes, id_of, is_error, parent_of
from support.waiting import until

from iii_resilience import Breaker, Enqueue, Enqueued, NotConnectedError, Reroute, report_for
from iii_resilience.client.resilient import Resilient
from iii_resilience.testing import AnswerError, Delay, LoopbackEngine

STOPPED = AnswerError("invocation_stopped", "Invocation stopped")

Trigger = Callable[..., Any]


@pytest.fixture(params=["sync", "another loop", "the SDK's loop"])
def trigger(request: pytest.FixtureRequest, caller: Resilient) -> Trigger:
    """Makes a call in one of the three ways there are."""

    def sync(request: Any, **options: Any) -> Any:
        return caller.trigger(request, **options)

    def elsewhere(request: Any, **options: Any) -> Any:
        return asyncio.run(caller.trigger_async(request, **options))

    def at_home(request: Any, **options: Any) -> Any:
        loop = caller._connection.loop
        work = caller.trigger_async(request, **options)
        return asyncio.run_coroutine_threadsafe(work, loop).result(20)

    ways: dict[str, Trigger] = {"sync": sync, "another loop": elsewhere, "the SDK's loop": at_home}
    return ways[request.param]


@pytest.fixture
def function(engine: LoopbackEngine, target: Any) -> str:
    target.register_function("t::f", lambda data: "done")
    target.register_function("t::other", lambda data: "other")
    engine.wait_registered("t::f", "t::other")
    return "t::f"


def on_the_wire(engine: LoopbackEngine, function_id: str) -> list[tuple[str, str]]:
    """Trace and span id of every call of a function that the caller sent."""
    return [
        tuple(frame.message.get("traceparent", "---").split("-")[1:3])
        for frame in engine.frames
        if frame.conn == "caller"
        and frame.direction == "to-engine"
        and frame.message.get("type") == "invokefunction"
        and frame.message["function_id"] == function_id
    ]


def hexed(*span_ids: int) -> list[str]:
    return [trace.format_span_id(span_id) for span_id in span_ids]


def test_traceparent_is_attempts_from_second_on(
    trigger: Trigger, function: str, engine: LoopbackEngine, seen: Seen
) -> None:
    engine.inject(function, STOPPED, times=2)
    with seen.tracer.start_as_current_span("around") as around:
        assert trigger({"function_id": function}, idempotent=True) == "done"
    ((call, attempts),) = seen.calls().values()
    sent = on_the_wire(engine, function)
    outside = around.get_span_context()
    assert [span_id for _, span_id in sent] == hexed(
        outside.span_id, id_of(attempts[1]), id_of(attempts[2])
    )
    assert {trace_id for trace_id, _ in sent} == {trace.format_trace_id(outside.trace_id)}
    assert parent_of(call) == outside.span_id
    assert call.kind is SpanKind.INTERNAL
    assert {span.kind for span in attempts} == {SpanKind.CLIENT}
    assert not is_error(call)


def test_what_worker_does_hangs_under_attempt(
    trigger: Trigger, function: str, engine: LoopbackEngine, seen: Seen
) -> None:
    engine.inject(function, STOPPED)
    trigger({"function_id": function}, idempotent=True)
    ((_, attempts),) = seen.calls().values()

    def executions() -> list[ReadableSpan]:
        return [
            span
            for span in seen.exporter.get_finished_spans()
            if span.instrumentation_scope is not None
            and span.instrumentation_scope.name == "iii-python-sdk"
        ]

    until(executions)  # the worker answers before its span ends
    (executed,) = executions()
    assert parent_of(executed) == id_of(attempts[1])


def test_success_sends_callers_own_span_and_makes_none(
    trigger: Trigger, function: str, engine: LoopbackEngine, seen: Seen
) -> None:
    with seen.tracer.start_as_current_span("around") as around:
        trigger({"function_id": function}, idempotent=True)
    assert [s for _, s in on_the_wire(engine, function)] == hexed(around.get_span_context().span_id)
    assert seen.spans() == []
    metrics = seen.metrics()
    metrics.pop("iii.retry.budget.available")
    assert list(metrics) == ["iii.client.call.duration"]
    (point,) = metrics["iii.client.call.duration"].points
    assert (point.count, point.attributes) == (1, {"iii.function.id": function})


def test_enqueue_that_is_repeated_carries_its_attempt(
    trigger: Trigger, function: str, engine: LoopbackEngine, seen: Seen
) -> None:
    engine.define_queue("q")
    engine.inject("engine::queue::enqueue", STOPPED)
    request = {"function_id": function, "action": {"type": "enqueue", "queue": "q"}}
    trigger(request, idempotent=True)
    ((_, attempts),) = seen.calls().values()
    assert len(attempts) == 2
    assert on_the_wire(engine, function)[1][1:] == tuple(hexed(id_of(attempts[1])))


def test_void_call_held_back_carries_its_attempt(
    trigger: Trigger, function: str, engine: LoopbackEngine, seen: Seen, caller: Resilient
) -> None:
    listens_again = threading.Thread(target=engine.listen)

    def wait(_: object) -> float:
        if listens_again.ident is None:  # once an attempt has failed
            listens_again.start()
        return 0.02

    policy = QUICK.replace(attempts=1000, ready_timeout=0.0, wait=wait)
    engine.stop_listening()
    until_gone(caller)
    request = {"function_id": function, "action": {"type": "void"}}
    trigger(request, idempotent=True, policy=policy)
    engine.wait_calls(function, 1)
    ((_, attempts),) = seen.calls().values()
    sent = [attributes(span)["iii.attempt.sent"] for span in attempts]
    assert sent == [False] * (len(sent) - 1) + [True]
    assert [s for _, s in on_the_wire(engine, function)] == hexed(id_of(attempts[-1]))
    assert seen.metrics()["iii.client.call.retries"].total() == 1


def until_gone(caller: Resilient) -> None:
    gone = threading.Event()
    while caller._connection.connected:
        gone.wait(0.01)


def test_what_was_never_sent_says_so(
    trigger: Trigger, engine: LoopbackEngine, seen: Seen, caller: Resilient
) -> None:
    engine.stop_listening()
    until_gone(caller)
    policy = QUICK.replace(ready_timeout=0.0)
    with pytest.raises(NotConnectedError) as caught:
        trigger({"function_id": "t::f"}, idempotent=True, policy=policy)
    report = report_for(caught.value)
    assert report is not None
    ((call, attempts),) = seen.calls().values()
    assert len(attempts) == len(report.attempts)
    assert {attributes(span)["iii.attempt.sent"] for span in attempts} == {False}
    assert attributes(call)["iii.error.execution"] == "not_executed"
    assert "iii.client.call.retries" not in seen.metrics()


def test_request_that_is_refused_is_call_with_one_attempt(trigger: Trigger, seen: Seen) -> None:
    with pytest.raises(ValueError, match="NaN"):
        trigger({"function_id": "t::f", "payload": float("nan")})
    ((call, (attempt,)),) = seen.calls().values()
    assert attributes(attempt)["iii.attempt.sent"] is False
    assert attributes(call)["error.type"] == "invalid_payload"
    assert is_error(call)


class TestFallback:
    def test_another_function_is_called_under_span_of_its_own(
        self, trigger: Trigger, function: str, engine: LoopbackEngine, seen: Seen
    ) -> None:
        engine.inject(function, STOPPED, times=2)
        policy = QUICK.replace(attempts=2, fallback=Reroute("t::other"))
        assert trigger({"function_id": function}, idempotent=True, policy=policy) == "other"
        ((call, attempts),) = seen.calls().values()
        (fallback,) = seen.spans("fallback ")
        assert len(attempts) == 2
        assert parent_of(fallback) == id_of(call)
        assert [s for _, s in on_the_wire(engine, "t::other")] == hexed(id_of(fallback))
        assert attributes(fallback) == {
            "iii.function.id": function,
            "iii.fallback.kind": "reroute",
            "iii.fallback.target": "t::other",
        }
        assert not is_error(fallback)
        assert not is_error(call)
        assert attributes(call)["iii.retry.decision"] == "handed_off"
        assert fallback.end_time <= call.end_time  # type: ignore[operator]
        duration = seen.metrics()["iii.client.call.duration"]
        assert [p.attributes for p in duration.points] == [{"iii.function.id": function}]
        decisions = seen.metrics()["iii.retry.decisions"]
        assert {p.attributes["iii.retry.decision"]: p.value for p in decisions.points} == {
            "retried": 1,
            "exhausted": 1,
            "handed_off": 1,
        }

    def test_queue_takes_it_under_span_of_its_own(
        self, trigger: Trigger, function: str, engine: LoopbackEngine, seen: Seen
    ) -> None:
        engine.define_queue("q")
        engine.inject(function, STOPPED, times=2)
        policy = QUICK.replace(attempts=2, fallback=Enqueue("q"))
        request = {"function_id": function, "payload": {}}
        taken = trigger(request, idempotent=True, policy=policy, accept_enqueued=True)
        assert isinstance(taken, Enqueued)
        ((call, attempts),) = seen.calls().values()
        (fallback,) = seen.spans("fallback ")
        sent = [s for _, s in on_the_wire(engine, function)]
        assert sent[1:] == hexed(id_of(attempts[1]), id_of(fallback))
        assert attributes(fallback)["iii.fallback.target"] == "q"
        assert attributes(fallback)["iii.fallback.kind"] == "enqueue"
        assert not is_error(call)

    def test_one_that_fails_too_leaves_calls_own_failure(
        self, trigger: Trigger, function: str, engine: LoopbackEngine, seen: Seen
    ) -> None:
        engine.inject(function, STOPPED, times=2)
        engine.inject("t::other", AnswerError("FORBIDDEN", "no"))
        policy = QUICK.replace(attempts=2, fallback=Reroute("t::other"))
        with pytest.raises(Exception, match="invocation_stopped"):
            trigger({"function_id": function}, idempotent=True, policy=policy)
        ((call, _),) = seen.calls().values()
        (fallback,) = seen.spans("fallback ")
        assert is_error(fallback)
        assert attributes(fallback)["error.type"] == "FORBIDDEN"
        assert is_error(call)
        assert attributes(call)["error.type"] == "invocation_stopped"
        assert attributes(call)["iii.retry.decision"] == "exhausted"
        duration = seen.metrics()["iii.client.call.duration"]
        assert duration.count(error__type="invocation_stopped") == duration.count() == 1

    def test_one_that_is_not_carried_out_ends_call(
        self, trigger: Trigger, function: str, engine: LoopbackEngine, seen: Seen
    ) -> None:
        engine.inject(function, AnswerError("FORBIDDEN", "no"))
        policy = QUICK.replace(fallback=Reroute("t::other"))
        with pytest.raises(Exception, match="FORBIDDEN"):
            trigger({"function_id": function}, idempotent=True, policy=policy)
        ((call, (attempt,)),) = seen.calls().values()
        assert is_error(call)
        assert seen.spans("fallback ") == []
        assert attributes(attempt)["iii.attempt.sent"] is True
        assert seen.metrics()["iii.client.call.duration"].count(error__type="FORBIDDEN") == 1

    async def test_cancellation_of_fallback_ends_everything(
        self, caller: Resilient, function: str, engine: LoopbackEngine, seen: Seen
    ) -> None:
        engine.inject(function, STOPPED)
        engine.inject("t::other", Delay(20.0))
        policy = QUICK.replace(attempts=1, fallback=Reroute("t::other"))
        work = caller.trigger_async({"function_id": function}, idempotent=True, policy=policy)
        task = asyncio.ensure_future(work)
        await asyncio.to_thread(engine.wait_calls, "t::other", 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ((call, _),) = seen.calls().values()
        (fallback,) = seen.spans("fallback ")
        assert attributes(call)["error.type"] == attributes(fallback)["error.type"]
        assert attributes(call)["error.type"] == "CancelledError"
        assert seen.metrics()["iii.client.call.duration"].count() == 1


class TestCancelled:
    async def test_under_second_attempt(
        self, caller: Resilient, function: str, engine: LoopbackEngine, seen: Seen
    ) -> None:
        engine.inject(function, STOPPED)
        engine.inject(function, Delay(20.0), call=2)
        task = asyncio.ensure_future(
            caller.trigger_async({"function_id": function}, idempotent=True)
        )
        await asyncio.to_thread(engine.wait_calls, function, 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ((call, attempts),) = seen.calls().values()
        assert [attributes(span)["error.type"] for span in [call, *attempts]] == [
            "CancelledError",
            "invocation_stopped",
            "CancelledError",
        ]
        assert attributes(attempts[1])["iii.attempt.sent"] is True
        assert seen.metrics()["iii.client.call.retries"].total() == 1

    async def test_under_first_attempt(
        self, caller: Resilient, function: str, engine: LoopbackEngine, seen: Seen
    ) -> None:
        engine.inject(function, Delay(20.0))
        task = asyncio.ensure_future(caller.trigger_async({"function_id": function}))
        await asyncio.to_thread(engine.wait_calls, function, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen.spans() == []
        assert seen.metrics()["iii.client.call.duration"].count(error__type="CancelledError") == 1


def test_end_of_client_under_delay_ends_call(
    caller: Resilient, function: str, engine: LoopbackEngine, seen: Seen
) -> None:
    engine.inject(function, STOPPED)
    end = threading.Timer(0.05, caller.shutdown)

    def wait(_: object) -> float:
        if end.ident is None:  # once the attempt has failed
            end.start()
        return 9.0

    policy = QUICK.replace(wait=wait)
    with pytest.raises(NotConnectedError):
        caller.trigger({"function_id": function}, idempotent=True, policy=policy)
    end.join(60)
    ((call, attempts),) = seen.calls().values()
    assert len(attempts) == 1
    assert is_error(call)
    assert attributes(call)["error.type"] == "NOT_CONNECTED"


def test_open_circuit_is_told_as_such(
    caller: Resilient, function: str, engine: LoopbackEngine, seen: Seen
) -> None:
    engine.inject(function, STOPPED, times=None)
    policy = QUICK.replace(attempts=1, breaker=Breaker(min_calls=2, window=60.0))
    for _ in range(4):
        with pytest.raises(Exception, match=r"stopped|circuit"):
            caller.trigger({"function_id": function}, idempotent=True, policy=policy)
    told = [attributes(call) for call, _ in seen.calls().values()]
    assert [about["error.type"] for about in told] == ["invocation_stopped"] * 2 + [
        "CIRCUIT_OPEN"
    ] * 2
    assert told[3]["iii.retry.decision"] == "circuit_open"
    transitions = seen.metrics()["iii.circuit_breaker.transitions"]
    assert [(p.attributes, p.value) for p in transitions.points] == [
        ({"iii.function.id": function, "iii.circuit_breaker.state": "open"}, 1)
    ]
