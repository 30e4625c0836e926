"""Who owns what, where a call goes, and what becomes of it when a connection ends."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from testing.loopback.loopback_clients import Raw, error_of
from websockets.exceptions import ConnectionClosed

from iii_resilience.testing import LoopbackEngine, Rbac


@pytest.fixture
def caller(engine: LoopbackEngine) -> Iterator[Raw]:
    with Raw(engine.url, "caller") as raw:
        yield raw


@pytest.fixture
def worker(engine: LoopbackEngine) -> Iterator[Raw]:
    with Raw(engine.url, "worker") as raw:
        raw.register("a::do")
        engine.wait_registered("a::do")
        yield raw


def test_target_that_leaves_stops_its_calls(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    invocation_id = caller.call("a::do")
    worker.hear()
    engine.disconnect("worker")
    answer = caller.hear()
    assert answer["invocation_id"] == invocation_id
    assert error_of(answer) == ("invocation_stopped", "Invocation stopped")
    assert error_of(caller.ask("a::do"))[0] == "function_not_found"


def test_caller_that_leaves_is_not_answered_when_it_is_back(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    caller.call("a::do")
    invocation = worker.hear()
    engine.disconnect("caller")
    with Raw(engine.url, "caller") as back:
        worker.answer(invocation, "for nobody")
        assert worker.silent()
        assert back.silent()


def test_first_owner_keeps_function_and_takes_it_along(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    with Raw(engine.url, "second") as second:
        second.register("a::do")
        assert second.hear() == {
            "type": "registrationrejected",
            "code": "FUNCTION_NAMESPACE_CONFLICT",
            "namespace": "default",
            "function_id": "a::do",
            "owner_worker_id": worker.worker_id,
        }
        second.say({"type": "unregisterfunction", "id": "a::do"})
        assert second.silent()
        assert engine.registered("a::do")
        engine.disconnect("worker")
        assert error_of(caller.ask("a::do"))[0] == "function_not_found"
        second.register("a::do")
        engine.wait_registered("a::do")


def test_reattaching_worker_retires_its_older_connection(
    engine: LoopbackEngine, worker: Raw
) -> None:
    with Raw(engine.url) as back:
        back.hear()
        previous = {"type": "reattach", "previous_worker_id": worker.worker_id}
        back.say({**previous, "reattach_token": str(uuid.uuid4())})
        back.say(previous)
        back.say({"type": "reattach", "previous_worker_id": "garbage"})
        assert back.silent()
        assert engine.registered("a::do")
        back.say({**previous, "reattach_token": worker.welcome["reattach_token"]})
        back.register("a::do")
        back.announce("worker")
        assert back.silent()
        assert worker.closed_with() in {1005, 1006}
        assert engine.registered("a::do")
        assert engine.workers() == ("worker",)


def test_registrations_wait_for_namespace(engine: LoopbackEngine, caller: Raw) -> None:
    with Raw(engine.url) as worker:
        worker.hear()
        worker.register("a::do")
        assert worker.silent()
        assert not engine.registered("a::do")
        worker.announce("worker", namespace="blue")
        engine.wait_registered("a::do", namespace="blue")
        assert not engine.registered("a::do")
        caller.call("a::do", namespace="blue")
        worker.answer(worker.hear(), 1)
        assert caller.hear()["result"] == 1
        worker.register("engine::mine")
        assert worker.hear()["code"] == "FUNCTION_NAMESPACE_CONFLICT"


def test_without_announcement_default_namespace_is_taken(
    engine: LoopbackEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("III_NAMESPACE_GRACE_MS", "20")
    with Raw(engine.url) as worker:
        worker.register("a::do")
        engine.wait_registered("a::do")


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ("18446744073709551615", "18446744073709551615"),
        ("18446744073709551616", "1.8446744073709552e+19"),
        ("-9223372036854775809", "-9.223372036854776e+18"),
        ("-0", "-0.0"),
        ('[1,-0, -0.5,"-0",2e1]', '[1, -0.0, -0.5, "-0", 20.0]'),
        ("[0.5,18446744073709551616]", "[0.5, 1.8446744073709552e+19]"),
        ('"\\ud83d\\ude00"', '"\\ud83d\\ude00"'),
        ('"\\u0000"', '"\\u0000"'),
        ('{"1":"a","1":"b"}', '{"1": "b"}'),
        ("1.79e308", "1.79e+308"),
        ("null", "null"),
        ("[" * 126 + "]" * 126, "[" * 126 + "]" * 126),
    ],
)
def test_what_a_payload_becomes(caller: Raw, worker: Raw, sent: str, arrives: str) -> None:
    frame = '{"type":"invokefunction","function_id":"a::do","invocation_id":"%s","data":%s}'
    caller.say(frame % (uuid.uuid4(), sent))
    data = worker.hear()["data"]
    if isinstance(data, dict):
        assert data.pop("_caller_worker_id") == caller.worker_id
    assert json.dumps(data) == arrives


@pytest.mark.parametrize(
    "frame",
    [
        '{"type":"invokefunction","function_id":"a::do","invocation_id":"ID"}',
        '{"type":"invokefunction","function_id":"a::do","invocation_id":"ID","data":NaN}',
        '{"type":"invokefunction","function_id":"a::do","invocation_id":"ID","data":-Infinity}',
        '{"type":"invokefunction","function_id":"a::do","invocation_id":"ID","data":1e999}',
        '{"type":"invokefunction","function_id":"a::do","invocation_id":"ID","data":"\\ud83d"}',
        '{"type":"invokefunction","function_id":"a::do","invocation_id":"ID","data":1,"metadata":NaN}',
        '{"type":"invokefunction","function_id":"a::do","invocation_id":"no-uuid","data":1}',
        '{"type":"invokefunction","function_id":5,"invocation_id":"ID","data":1}',
        (
            '{"type":"invokefunction","function_id":"a::do","invocation_id":"ID","data":1,'
            '"action":{"type":"nope"}}'
        ),
        '{"type":"invokefunction","function_id":"a::do","invocation_id":"ID","data":'
        + "[" * 127
        + "]" * 127
        + "}",
        (
            '{"type":"invocationresult","invocation_id":"ID","function_id":"a::do",'
            '"error":{"code":5,"message":"m"}}'
        ),
        '{"type":"nope"}',
        '{"function_id":"a::do"}',
        "[1]",
        "{",
    ],
)
def test_frames_engine_drops(engine: LoopbackEngine, caller: Raw, worker: Raw, frame: str) -> None:
    caller.say(frame.replace("ID", str(uuid.uuid4())))
    assert caller.silent()
    assert worker.silent()
    assert engine.frames[-1].dropped is not None
    # The connection has not suffered.
    caller.say({"type": "ping"})
    assert caller.hear() == {"type": "pong"}


def test_frame_above_16_mib_cuts_connection(engine: LoopbackEngine, caller: Raw) -> None:
    frame = json.dumps(
        {"type": "invokefunction", "function_id": "a::do", "data": "x" * (16 * 2**20)}
    )
    # The connection may be gone before all of it is sent, as with the real engine.
    with contextlib.suppress(ConnectionClosed):
        caller.socket.send(frame)
    assert caller.closed_with() == 1006
    assert engine.workers() == ()


def test_fragmented_message_above_16_mib_passes(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    payload = "x" * (17 * 2**20)
    frame = json.dumps({"type": "invokefunction", "function_id": "a::do", "data": payload})
    half = len(frame) // 2
    caller.socket.send(iter([frame[:half], frame[half:]]))
    assert worker.hear(20)["data"] == payload
    assert engine.workers() == ("caller", "worker")


def test_connection_that_does_not_read_holds_nobody_else_up(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    with Raw(engine.url, "slow") as slow:
        slow.register("slow::do")
        engine.wait_registered("slow::do")
        engine.stall("slow")
        ids = [caller.call("slow::do", {"n": n}) for n in range(100)]
        caller.call("a::do")
        worker.answer(worker.hear(), "at once")
        assert caller.hear()["result"] == "at once"
        engine.disconnect("slow")
        heard = [caller.hear() for _ in ids]
        answers = {answer["invocation_id"]: error_of(answer) for answer in heard}
        # What had found room in the connection's queue of 64 may have run; the rest was not sent.
        assert [answers[call][0] for call in ids] == ["invocation_stopped"] * 64 + [
            "channel_send_failed"
        ] * 36


def test_forbidden_functions(engine: LoopbackEngine, caller: Raw, worker: Raw) -> None:
    engine.forbid("admin::*")
    engine.forbid("a::do")
    denied = ("FORBIDDEN", "function '{}' not allowed (remove from rbac.forbidden_functions)")
    for function_id in ("admin::drop", "a::do"):
        for action in (None, {"type": "enqueue", "queue": "jobs"}):
            answer = caller.ask(function_id, action=action)
            assert error_of(answer) == (denied[0], denied[1].format(function_id))
    invocation_id = caller.call("a::do", action={"type": "void"}, invocation_id=None)
    assert caller.hear()["invocation_id"] != invocation_id
    assert worker.silent()


def test_sessions_of_second_listener() -> None:
    grant: dict[str, Any] = {
        "namespaces": {"blue": ["svc::*"], "default": []},
        "allowed_functions": ["hidden::one"],
        "function_registration_prefix": "tenant",
    }
    with LoopbackEngine(rbac=Rbac("auth::ask", expose=("public::*",))) as engine:
        with Raw(engine.rbac_url) as early:
            assert early.hear() == {
                "type": "error",
                "error": {
                    "code": "AUTH_ERROR",
                    "message": "Function auth::ask not found in namespace default",
                },
            }
            assert early.closed_with() == 1005
        with Raw(engine.url, "auth") as auth:
            auth.register("auth::ask", "hidden::one", "hidden::two", "public::all")
            engine.wait_registered("public::all")
            with Raw(f"{engine.rbac_url}/?a=1&a=2&b=") as limited:
                asked = auth.hear()
                assert asked["data"]["query_params"] == {"a": ["1", "2"], "b": [""]}
                auth.answer(asked, grant)
                limited.hear()
                limited.announce("limited", namespace="green")
                refused = limited.hear()["error"]["message"]
                assert refused == (
                    "namespace 'green' not allowed for this session (permitted: blue, default)"
                )
                limited.announce("limited")
                limited.register("mine")
                engine.wait_registered("tenant::mine")
                for function_id in ("hidden::one", "public::all"):
                    limited.call(function_id)
                    auth.answer(auth.hear(), function_id)
                    assert limited.hear()["result"] == function_id
                assert error_of(limited.ask("hidden::two"))[0] == "FORBIDDEN"
                assert error_of(limited.ask("svc::x", namespace="blue"))[0] == "function_not_found"
                assert error_of(limited.ask("public::all", namespace="blue"))[0] == "FORBIDDEN"
                auth.call("tenant::mine")
                invocation = limited.hear()
                assert invocation["function_id"] == "mine"
                limited.answer(invocation, "yours")
                assert auth.hear()["result"] == "yours"
            bad_grants: list[Any] = [None, [], {"allowed_functions": "x"}, {"namespaces": []}]
            for bad in bad_grants:
                with Raw(engine.rbac_url) as nobody:
                    auth.answer(auth.hear(), bad)
                    assert nobody.hear()["error"]["code"] == "AUTH_ERROR"


def test_telemetry_connections_are_no_workers(engine: LoopbackEngine) -> None:
    with Raw(f"{engine.url}/otel") as telemetry:
        telemetry.socket.send(b"OTLP{}")
        assert telemetry.silent()
        assert engine.workers() == ()
