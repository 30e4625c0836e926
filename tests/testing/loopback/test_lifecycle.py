"""Starting, stopping, restarting and stalling an engine, and what it leaves behind: nothing."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest
from support.waiting import until
from testing.loopback.loopback_clients import Raw, error_of

from iii_resilience import testing
from iii_resilience.testing import LoopbackEngine, Rbac

build: Any = LoopbackEngine


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "iii-loopback-engine"]


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_stopping_leaves_no_thread_and_no_port() -> None:
    engine = LoopbackEngine(rbac=Rbac()).start()
    assert len(engine_threads()) == 1
    with Raw(engine.url, "caller") as caller:
        engine.wait_workers("caller")
        engine.stop()
        assert caller.closed_with() == 1006
    engine.stop()
    assert engine_threads() == []
    assert refused(engine.port)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", engine.port))
        free.listen()
    # What has happened can still be read, and the engine can be started again.
    assert engine.frames
    assert engine.calls("engine::workers::register")[0].caller == "caller"
    with engine, Raw(engine.url, "again"):
        engine.wait_workers("again")


def test_answers_do_not_wait_for_one_another(engine: LoopbackEngine) -> None:
    with Raw(engine.url, "caller"):
        engine.wait_workers("caller")
        (connection,) = engine._sockets._connections
        transport: Any = connection._transport
        accepted = transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_port_stays_while_nobody_listens(engine: LoopbackEngine) -> None:
    port = engine.port
    engine.stop_listening()
    assert refused(port)
    engine.stop_listening()
    engine.listen()
    engine.listen()
    assert engine.port == port
    with Raw(engine.url, "caller") as caller:
        assert error_of(caller.ask("a::do"))[0] == "function_not_found"


def test_connection_that_is_accepted_at_the_end_is_cut(engine: LoopbackEngine) -> None:
    """The engine may go down between the accepting of a connection and its first step."""
    ours, theirs = socket.socketpair()

    async def accept() -> None:
        connection = engine._sockets._accept()
        engine._sockets.stop_listening()
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, theirs)

    with ours:
        engine._thread.run(accept())
        ours.settimeout(30)
        assert ours.recv(1) == b""
    until(lambda: not engine._sockets._connections)


def test_restart_cuts_everybody_and_forgets_functions(engine: LoopbackEngine) -> None:
    with Raw(engine.url, "worker") as worker:
        worker.register("a::do")
        engine.wait_registered("a::do")
        engine.restart(down_for=0.01)
        assert worker.closed_with() == 1006
    assert not engine.registered("a::do")
    assert engine.workers() == ()


def test_what_survives_restart(engine: LoopbackEngine) -> None:
    entry = {"id": "e", "name": "n", "description": "d", "schema": {"type": "integer"}}
    with Raw(engine.url, "before") as caller:
        caller.ask("state::set", {"scope": "s", "key": "k", "value": 1})
        caller.ask("configuration::register", {**entry, "initial_value": 5})
    engine.restart()
    with Raw(engine.url, "after") as caller:
        assert caller.ask("state::get", {"scope": "s", "key": "k"})["result"] == 1
        assert caller.ask("configuration::get", {"id": "e"})["result"]["value"] == 5
        code, _ = error_of(caller.ask("configuration::set", {"id": "e", "value": 6}))
        assert code == "SCHEMA_UNAVAILABLE"
        caller.ask("configuration::register", entry)
        assert caller.ask("configuration::set", {"id": "e", "value": 6})["result"] == {
            "old_value": 5,
            "new_value": 6,
        }


@pytest.mark.parametrize(("code", "seen"), [(None, 1006), (1012, 1012), (4001, 4001)])
def test_disconnecting_one_or_all(engine: LoopbackEngine, code: int | None, seen: int) -> None:
    with Raw(engine.url, "one") as one, Raw(engine.url, "two") as two:
        engine.wait_workers("one", "two")
        engine.disconnect("one", code)
        assert engine.workers() == ("two",)
        assert one.closed_with() == seen
        engine.disconnect(code=code)
        assert two.closed_with() == seen
        assert engine.workers() == ()


def test_stalled_engine_answers_later(engine: LoopbackEngine) -> None:
    with Raw(engine.url, "one") as one, Raw(engine.url, "two") as two:
        engine.wait_workers("one", "two")
        engine.stall("one")
        invocation_id = one.call("a::do")
        assert error_of(two.ask("a::do"))[0] == "function_not_found"
        with pytest.raises(TimeoutError):
            one.hear(timeout=0.05)
        engine.resume()
        assert one.hear()["invocation_id"] == invocation_id
        engine.stall()
        two.call("a::do")
        with pytest.raises(TimeoutError):
            two.hear(timeout=0.05)
        with pytest.raises(TimeoutError):
            Raw(engine.url, open_timeout=0.05)
        engine.resume()
        assert error_of(two.hear())[0] == "function_not_found"


def test_what_is_missing_is_named(engine: LoopbackEngine) -> None:
    with Raw(engine.url, "worker") as worker:
        worker.register("a::here")
        engine.wait_registered("a::here")
        with pytest.raises(TimeoutError, match=r"not registered: \['a::one', 'a::two'\]"):
            engine.wait_registered("a::here", "a::one", "a::two", timeout=0.01)
        with pytest.raises(TimeoutError, match=r"not connected: \['nobody'\]"):
            engine.wait_workers("worker", "nobody", timeout=0.01)
        with pytest.raises(TimeoutError, match="0 of 2 calls of a::here received"):
            engine.wait_calls("a::here", 2, timeout=0.01)


@pytest.mark.parametrize(
    ("act", "error", "complaint"),
    [
        (lambda _: build(port="80"), ValueError, "port must be a whole number"),
        (lambda _: build(port=70_000), ValueError, "at least 0 and at most 65535, got 70000"),
        (lambda _: build(keep=0), ValueError, "keep must be a whole number at least 1, got 0"),
        (lambda _: build(rbac="no"), TypeError, r"rbac is Rbac\(...\) or None"),
        (lambda _: build(ports=1), TypeError, "ports"),
        (lambda _: Rbac(expose="public::*"), TypeError, "a sequence of patterns"),
        (lambda e: e.start(), RuntimeError, "runs already"),
        (lambda e: e.rbac_url, RuntimeError, "there is no second listener"),
        (lambda e: e.disconnect("nobody"), ValueError, "no worker named 'nobody' is connected"),
        (lambda e: e.stall("nobody"), ValueError, "no worker named 'nobody' is connected"),
        (lambda e: e.disconnect(code=5), ValueError, "code must be .* at most 4999, got 5"),
        (lambda e: e.restart(-1), ValueError, "down_for must be .* seconds at least 0, got -1"),
        (lambda e: e.forbid(""), ValueError, "pattern must be a function id"),
        (lambda e: e.forbid(None), ValueError, "pattern must be a function id"),
        (lambda e: e.wait_registered(), ValueError, "name at least one function"),
        (lambda e: e.wait_workers("x", timeout="1"), ValueError, "timeout must be a finite number"),
        (lambda e: e.define_queue(""), ValueError, "name must be the name of a queue"),
    ],
)
def test_bad_arguments_are_refused(
    engine: LoopbackEngine, act: Any, error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        act(engine)


def test_port_that_is_taken_is_refused_and_nothing_is_left() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            LoopbackEngine(port=taken.getsockname()[1]).start()
    assert engine_threads() == []


def test_engine_that_does_not_run_says_so() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        LoopbackEngine().listen()


def test_error_on_its_thread_does_not_hide_test_s_own() -> None:
    with pytest.raises(ZeroDivisionError), LoopbackEngine() as engine:  # noqa: PT012
        engine._thread.report(ValueError("a bug"))
        raise ZeroDivisionError


def test_frames_are_bounded_and_named() -> None:
    with LoopbackEngine(keep=3) as engine, Raw(engine.url, "caller") as caller:
        for _ in range(5):
            caller.ask("a::do")
        assert len(engine.frames) == 3
        assert {frame.conn for frame in engine.frames} == {"caller"}
        assert engine.frames[-1].direction == "from-engine"


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "websockets" else real(name, *rest),
    )
    with pytest.raises(ImportError, match=r"pip install 'iii-resilience\[testing\]'"):
        LoopbackEngine()


def test_package_and_plugin_import_nothing_heavy() -> None:
    program = (
        "import sys, iii_resilience.testing, iii_resilience.testing.plugin;"
        "heavy = {'iii', 'websockets', 'jsonschema'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    for name in vars(testing)["__all__"]:
        assert getattr(testing, name).__name__ == name
    assert set(vars(testing)["__all__"]) <= set(dir(testing))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        testing.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_plugin_brings_engine(loopback_engine: LoopbackEngine) -> None:
    with Raw(loopback_engine.url, "caller") as caller:
        assert error_of(caller.ask("a::do"))[0] == "function_not_found"


JUNK: list[Any] = [
    *(None, True, 0, -1.5, "", "jobs", [], [1], {}, {"id": 1}, {"queue": 5}, {"queue": "jobs"}),
    *({"id": "x"}, {"id": "queue", "value": 1}, {"id": "queue", "value": {"queue_configs": 1}}),
    {"id": "queue", "value": {"queue_configs": {"jobs": {"max_retries": "x"}}}},
    {"id": "queue", "value": {"queue_configs": {"jobs": 1}}},
    {"id": "x", "name": "n", "description": "d", "schema": 5, "initial_value": 1},
    {"id": "x", "name": "n", "description": "d", "schema": {"$ref": "#/no"}, "initial_value": 1},
    {"id": "x", "name": "n", "description": "d", "schema": {"type": 5}, "initial_value": {}},
    *({"workers": [{}]}, {"function_ids": [{}]}, {"function_ids": 1, "function_id": []}),
    *({"topic": "jobs", "offset": "x"}, {"topic": "jobs", "limit": -1}, {"queue": "jobs", "x": 1}),
    *({"queue": "jobs", "config": 1}, {"queue": "jobs", "config": {"x": 1}}, {"message_id": []}),
    {"queue": "jobs", "config": {"type": ["fifo"]}},
    {"queue": "jobs", "config": {"type": "fifo", "message_group_field": "g"}},
    {"queue": "jobs", "function_id": "a::do"},
    {"queue": "jobs", "function_id": [], "data": 1, "messageReceiptId": {}},
    {"queue": "jobs", "message_id": "x"},
    *({"scope": [], "key": {}}, {"scope": "s", "key": "k", "value": None}, {"namespace": [1]}),
    *({"namespace": " "}, {"name": [1]}, {"name": "\u0000"}, {"namespace": "blue", "name": "x"}),
]


def test_no_input_breaks_engine_s_own_functions(engine: LoopbackEngine) -> None:
    engine.define_queue("jobs", max_retries=0)
    functions = list(engine._engine.registry.functions())
    assert len(functions) > 18
    for function in functions:
        with Raw(engine.url, "caller") as caller:
            for junk in JUNK:
                answer = caller.ask(function.function_id, junk)
                assert answer["type"] == "invocationresult", (function.function_id, junk)
        engine.disconnect()


def test_meaningless_grace_period_is_ignored(
    engine: LoopbackEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("III_NAMESPACE_GRACE_MS", "soon")
    with Raw(engine.url, "caller"):
        engine.wait_workers("caller")
