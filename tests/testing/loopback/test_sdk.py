"""The real iii-sdk meets in the loopback engine what it meets in the real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from iii import InvocationError, TriggerAction
from support.waiting import until
from testing.loopback.loopback_clients import worker_process

from iii_resilience.testing import LoopbackEngine

Connect = Callable[..., Any]


def failure(client: Any, function_id: str, payload: Any = None, **more: Any) -> InvocationError:
    request = {"function_id": function_id, "payload": {} if payload is None else payload, **more}
    with pytest.raises(InvocationError) as caught:
        client.trigger(request)
    return caught.value


def test_worker_in_another_process_is_called(engine: LoopbackEngine, sdk: Connect) -> None:
    with worker_process(engine.url, "orders", "orders::do"):
        caller = sdk(engine.url, "caller")
        engine.wait_registered("orders::do")
        engine.wait_workers("orders", "caller")

        result = caller.trigger(
            {"function_id": "orders::do", "payload": {"n": 1}, "metadata": {"attempt": 1}}
        )
        assert result == {
            "by": "orders",
            "data": {"n": 1, "_caller_worker_id": caller.worker_id},
            "metadata": {"attempt": 1},
        }
        assert caller.trigger({"function_id": "orders::do", "payload": [1]})["data"] == [1]
        assert caller.trigger({"function_id": "orders::do", "payload": {"do": "none"}}) is None

        raised = failure(caller, "orders::do", {"do": "raise", "say": "card declined"})
        assert (raised.code, raised.message) == ("invocation_failed", "card declined")
        assert raised.stacktrace is not None

        call = engine.calls("orders::do")[0]
        assert (call.caller, call.action, call.data) == ("caller", "call", {"n": 1})
        assert call.metadata == {"attempt": 1}
        assert abs(call.at - time.time()) < 60


def test_killed_worker_ends_its_calls_and_functions(engine: LoopbackEngine, sdk: Connect) -> None:
    with worker_process(engine.url, "orders", "orders::do") as process:
        caller = sdk(engine.url, "caller")
        engine.wait_registered("orders::do")
        engine.wait_workers("caller")

        def kill() -> None:
            engine.wait_calls("orders::do")
            process.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        began = time.monotonic()
        stopped = failure(caller, "orders::do", {"do": "sleep", "seconds": 30})
        assert (stopped.code, stopped.message) == ("invocation_stopped", "Invocation stopped")
        assert time.monotonic() - began < 15
        killer.join()
    missing = failure(caller, "orders::do")
    assert missing.code == "function_not_found"
    assert missing.message == "Function orders::do not found in namespace default."
    assert engine.workers() == ("caller",)


def test_second_worker_does_not_inherit_function(engine: LoopbackEngine, sdk: Connect) -> None:
    second = sdk(engine.url, "second")

    def rejected() -> list[str]:
        return [f.conn for f in engine.frames if f.message["type"] == "registrationrejected"]

    with worker_process(engine.url, "first", "orders::do"):
        engine.wait_registered("orders::do")
        engine.wait_workers("second")
        reference = second.register_function("orders::do", lambda _: "second")
        caller = sdk(engine.url, "caller")
        assert caller.trigger({"function_id": "orders::do", "payload": {}})["by"] == "first"
        info = {"function_id": "engine::functions::info", "payload": {"function_id": "orders::do"}}
        assert caller.trigger(info)["worker_name"] == "first"
        until(rejected)
    assert rejected() == ["second"]
    until(lambda: "first" not in engine.workers())
    assert failure(caller, "orders::do").code == "function_not_found"

    reference.unregister()
    second.register_function("orders::do", lambda _: "second")
    engine.wait_registered("orders::do")
    assert caller.trigger({"function_id": "orders::do", "payload": {}}) == "second"


def test_what_engine_drops_is_timeout_and_frames_say_why(
    engine: LoopbackEngine, sdk: Connect
) -> None:
    worker = sdk(engine.url, "worker")
    ran: list[Any] = []
    worker.register_function("orders::do", ran.append)
    worker.register_function("orders::nan", lambda _: float("nan"))
    engine.wait_registered("orders::do", "orders::nan")
    caller = sdk(engine.url, "caller")
    for payload in (None, {"x": float("nan")}, {"x": "\ud800"}):
        with pytest.raises(InvocationError) as caught:
            caller.trigger({"function_id": "orders::do", "payload": payload, "timeout_ms": 150})
        assert caught.value.code == "TIMEOUT"
    assert failure(caller, "orders::nan", timeout_ms=150).code == "TIMEOUT"

    def reasons() -> list[str]:
        return [frame.dropped for frame in engine.frames if frame.dropped is not None]

    until(lambda: len(reasons()) >= 4)
    assert reasons() == [
        "missing field `data`",
        "NaN is not JSON",
        "lone surrogate in a string",
        "NaN is not JSON",
    ]
    assert ran == []
    # The invocation stays open until its worker leaves.
    engine.disconnect("worker")
    late = [frame for frame in engine.frames if frame.conn == "caller"][-1]
    assert late.message["error"]["code"] == "invocation_stopped"


def test_late_answer_reaches_caller_who_ignores_it(engine: LoopbackEngine, sdk: Connect) -> None:
    worker, go = sdk(engine.url, "worker"), threading.Event()
    worker.register_function("orders::slow", lambda _: go.wait(10))
    engine.wait_registered("orders::slow")
    caller = sdk(engine.url, "caller")
    assert failure(caller, "orders::slow", timeout_ms=50).code == "TIMEOUT"
    go.set()

    def answers() -> list[Any]:
        return [
            frame.message
            for frame in engine.frames
            if (frame.conn, frame.direction) == ("caller", "from-engine")
            and frame.message["type"] == "invocationresult"
        ]

    until(answers)
    assert [answer["result"] for answer in answers()] == [True]
    assert caller.get_connection_state() == "connected"


def test_void_enqueue_and_namespaces(sdk: Connect) -> None:
    with LoopbackEngine(queue_worker=False) as engine:
        worker, ran = sdk(engine.url, "worker"), threading.Event()
        worker.register_function("orders::do", lambda _: ran.set())
        engine.wait_registered("orders::do")
        caller = sdk(engine.url, "caller")
        void = {"function_id": "orders::do", "payload": {}, "action": TriggerAction.Void()}
        assert caller.trigger(void) is None
        assert ran.wait(5)
        assert caller.trigger({**void, "function_id": "orders::nobody"}) is None

        elsewhere = failure(caller, "orders::do", namespace="elsewhere")
        assert elsewhere.message == (
            "Function orders::do not found in namespace elsewhere. "
            "It is registered in namespace(s): default."
        )
        refused = failure(caller, "orders::do", action=TriggerAction.Enqueue(queue="jobs"))
        assert refused.code == "enqueue_error"
        assert refused.message.startswith("No queue provider is installed.")


def test_taken_name_is_fatal(
    engine: LoopbackEngine, sdk: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iii.errors import RegistrationRejectedError

    sdk(engine.url, "orders")
    engine.wait_workers("orders")
    # It would raise here, if the engine is faster than the client, and leave its thread behind.
    monkeypatch.setattr("iii.iii.III._wait_until_connected", lambda client: None)
    second = sdk(engine.url, "orders")
    until(lambda: second.get_connection_state() == "failed")
    with pytest.raises(RegistrationRejectedError) as caught:
        second.trigger({"function_id": "orders::do", "payload": {}})
    assert caught.value.code == "WORKER_NAMESPACE_CONFLICT"
    assert engine.workers() == ("orders",)


def test_after_restart_everybody_comes_back_on_the_same_port(
    engine: LoopbackEngine, sdk: Connect
) -> None:
    worker = sdk(engine.url, "worker")
    worker.register_function("orders::do", lambda data: data["n"])
    engine.wait_registered("orders::do")
    caller = sdk(engine.url, "caller")
    assert caller.trigger({"function_id": "orders::do", "payload": {"n": 1}}) == 1
    port = engine.port
    engine.restart()
    assert engine.port == port
    engine.wait_registered("orders::do")
    engine.wait_workers("caller")
    assert caller.trigger({"function_id": "orders::do", "payload": {"n": 2}}) == 2
    reattached = {frame.conn for frame in engine.frames if frame.message["type"] == "reattach"}
    assert reattached == {"worker", "caller"}


def test_call_in_flight_at_disconnect_is_never_answered(
    engine: LoopbackEngine, sdk: Connect
) -> None:
    worker, go = sdk(engine.url, "worker"), threading.Event()
    worker.register_function("orders::slow", lambda _: go.wait(10))
    engine.wait_registered("orders::slow")
    caller = sdk(engine.url, "caller")
    engine.wait_workers("caller")

    def cut() -> None:
        engine.wait_calls("orders::slow")
        engine.disconnect("caller")
        go.set()

    cutter = threading.Thread(target=cut)
    cutter.start()
    assert failure(caller, "orders::slow", timeout_ms=500).code == "TIMEOUT"
    cutter.join()
    engine.wait_workers("caller")


def test_configuration_events_reach_worker(engine: LoopbackEngine, sdk: Connect) -> None:
    worker = sdk(engine.url, "worker")
    events: list[Any] = []
    worker.register_function("policies::changed", events.append)
    with pytest.warns(DeprecationWarning, match="register_?[tT]rigger"):
        worker.register_trigger(
            {
                "type": "configuration",
                "function_id": "policies::changed",
                "config": {"configuration_id": "policies"},
            }
        )
    caller = sdk(engine.url, "caller")

    def configure(what: str, **payload: Any) -> Any:
        return caller.trigger({"function_id": f"configuration::{what}", "payload": payload})

    info = {
        "function_id": "engine::functions::info",
        "payload": {"function_id": "policies::changed"},
    }
    engine.wait_registered("policies::changed")
    while not caller.trigger(info)["registered_triggers"]:
        time.sleep(0.005)
    schema = {"type": "object", "required": ["attempts"]}
    configure("register", id="policies", name="n", description="d", schema=schema)
    assert configure("set", id="policies", value={"attempts": 3})["old_value"] is None
    with pytest.raises(InvocationError) as caught:
        configure("set", id="policies", value={})
    assert caught.value.message == 'schema validation failed: "attempts" is a required property'
    assert configure("get", id="policies") == {"id": "policies", "value": {"attempts": 3}}
    until(lambda: len(events) >= 2)
    assert sorted(event["event_type"] for event in events) == [
        "configuration:registered",
        "configuration:updated",
    ]


def test_calls_are_routed_at_once(engine: LoopbackEngine, sdk: Connect) -> None:
    worker, together = sdk(engine.url, "worker"), threading.Barrier(5, timeout=10)
    worker.register_function("orders::meet", lambda _: together.wait() >= 0)
    engine.wait_registered("orders::meet")
    caller, results = sdk(engine.url, "caller"), []
    request = {"function_id": "orders::meet", "payload": {}}
    threads = [
        threading.Thread(target=lambda: results.append(caller.trigger(request))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 5
