"""The doctor: what it finds, one clear sentence for each trouble, and how it ends."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from iii import InitOptions, register_worker
from support.engine_fixtures import connect, engine, target
from support.ports import reserved_port
from support.waiting import freeze
from typer.testing import CliRunner, Result
from websockets.sync.server import ServerConnection, serve

from iii_resilience import PolicyBook, RetryPolicy
from iii_resilience.cli import doctor
from iii_resilience.cli.app import app
from iii_resilience.sdk.versions import sdk_of
from iii_resilience.testing import AnswerResult, Drop, LoopbackEngine, Rbac

__all__ = ["connect", "engine", "target"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def advice(result: Result) -> str:
    """The last line of what it prints: one sentence."""
    (*_, last) = result.stdout.strip().splitlines()
    return last


@pytest.fixture
def served(engine: LoopbackEngine, target: Any) -> str:
    target.register_function("t::f", lambda data: 1)
    engine.wait_registered("t::f")
    return engine.url


@pytest.fixture
def limited() -> Iterator[LoopbackEngine]:
    with LoopbackEngine(rbac=Rbac(expose=("public::*",))) as running:
        yield running


@pytest.fixture
def nowhere() -> str:
    return f"ws://127.0.0.1:{reserved_port()}"


class TestTrouble:
    def test_port_of_http_routes_is_wrong_address(self, engine: LoopbackEngine) -> None:
        result = run("--engine", engine.http_url.replace("http", "ws"))
        assert result.exit_code == 1
        assert advice(result).startswith("Correct the address")
        assert "HTTP routes" in advice(result)
        (first, *_) = doctor.examine(engine.http_url.replace("http", "ws"))
        assert first.told.endswith("answers with HTTP 404 instead of a WebSocket")

    @pytest.mark.parametrize("status", [401, 403])
    def test_only_401_and_403_are_refused_access(self, status: int) -> None:
        def refuse(connection: ServerConnection, request: Any) -> Any:
            return connection.respond(status, "no\n")

        with serve(lambda _: None, "127.0.0.1", 0, process_request=refuse) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            result = run("--engine", f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
            server.shutdown()
            thread.join()
        assert result.exit_code == 1
        assert advice(result).startswith("Fix this worker's access")

    def test_nothing_listens(self, nowhere: str) -> None:
        result = run("--engine", nowhere)
        assert result.exit_code == 1
        assert advice(result).startswith(
            "Start the engine, or correct the address: nothing answers"
        )

    @pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:1", "ws://"])
    def test_address_that_is_none(self, url: str) -> None:
        result = run("--engine", url)
        assert result.exit_code == 1
        assert advice(result).startswith("Start the engine, or correct the address")

    def test_listener_that_answers_nothing_is_frozen(self) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            findings = doctor.examine(f"ws://127.0.0.1:{other.getsockname()[1]}", timeout=0.3)
        assert findings[0].bad
        assert "does not answer them: no answer within 0.3 s" in findings[0].told

    def test_stopped_engine_is_frozen(self) -> None:
        program = (
            "from iii_resilience.testing import LoopbackEngine\n"
            "with LoopbackEngine() as engine:\n    print(engine.url, flush=True); input()\n"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert child.stdout is not None
            url = child.stdout.readline().strip()
            assert not doctor.examine(url, timeout=10.0)[0].bad
            freeze(child.pid)
            result = run("--engine", url)
        finally:
            child.kill()
            child.communicate()
        assert result.exit_code == 1
        assert advice(result).startswith("Look at the process that listens at ws://127.0.0.1")

    def test_engine_refuses_handshake(self) -> None:
        with LoopbackEngine(rbac=Rbac("auth::ask", expose=("public::*",))) as engine:
            result = run("--engine", engine.rbac_url)
        assert result.exit_code == 1
        assert "AUTH_ERROR" in result.stdout
        assert advice(result).startswith("Fix this worker's access")

    def test_engine_hides_question(self, limited: LoopbackEngine) -> None:
        result = run("--engine", limited.rbac_url)
        assert result.exit_code == 1
        assert advice(result) == (
            "Let workers ask whether a function is registered: add engine::functions::info to "
            "rbac.expose_functions."
        )

    def test_function_is_missing(self, engine: LoopbackEngine) -> None:
        result = run("--engine", engine.url, "--function", "t::f")
        assert result.exit_code == 1
        assert advice(result).startswith("Start a worker that registers t::f")

    def test_function_is_owned_by_another_worker(self, served: str) -> None:
        result = run("--engine", served, "--function", "t::f", "--worker", "mine")
        assert result.exit_code == 1
        assert "t::f is owned by worker target, not by mine" in " ".join(result.stdout.split())
        assert advice(result).startswith("Stop worker target, or let mine stand by for it")

    def test_function_is_hidden(self) -> None:
        with LoopbackEngine(rbac=Rbac(expose=("engine::functions::info",))) as engine:
            client: Any = register_worker(engine.url, InitOptions(otel={"enabled": False}))
            client.register_function("t::f", lambda data: 1)
            engine.wait_registered("t::f")
            result = run("--engine", engine.rbac_url, "--function", "t::f")
            client.shutdown()
        assert result.exit_code == 1
        assert advice(result) == "Add t::f to rbac.expose_functions."

    def test_engine_answers_nothing(self, engine: LoopbackEngine) -> None:
        engine.inject("engine::functions::info", Drop(), times=None)
        (finding,) = [f for f in doctor.examine(engine.url, timeout=2.0) if f.bad]
        assert "TIMEOUT" in finding.told

    @pytest.mark.parametrize(
        "answer", [{"function_id": "t::f"}, 5, None], ids=["one", "number", "nothing"]
    )
    def test_engine_answers_otherwise(self, engine: LoopbackEngine, answer: Any) -> None:
        engine.inject("engine::functions::info", AnswerResult(answer), times=None)
        (finding,) = [f for f in doctor.examine(engine.url) if f.bad]
        assert "does not answer engine::functions::info for several ids" in (finding.advice or "")


class TestFine:
    def test_all_is_told_and_it_ends_with_0(self, served: str) -> None:
        result = run("--engine", served, "--function", "t::f", "--worker", "target")
        assert result.exit_code == 0
        text = " ".join(result.stdout.split())
        for told in (
            f"answers at {served}",
            "is let in",
            "calls wait for their function",
            "keep_registered=True works here",
            "fallback=Enqueue works",
            "t::f is owned by worker target",
            "iii-sdk 0.25.0",
            "messages of up to 64 MiB",
            "max_payload_bytes: what the SDK sends",
        ):
            assert told in text, told

    def test_in_another_namespace_too(self, served: str) -> None:
        findings = doctor.examine(served, "t::f", namespace="default")
        assert not [finding for finding in findings if finding.bad]
        (finding,) = [f for f in doctor.examine(served, "t::f", namespace="elsewhere") if f.bad]
        assert finding.told == "t::f is not registered in namespace elsewhere"

    def test_without_queue_worker_it_says_what_is_missing(self) -> None:
        with LoopbackEngine(queue_worker=False) as engine:
            (finding,) = [f for f in doctor.examine(engine.url) if f.subject == "queue"]
        assert finding.advice
        assert not finding.bad

    def test_it_prints_json(self, served: str) -> None:
        findings = json.loads(run("--engine", served, "--json").stdout)
        assert {"subject", "told", "advice", "bad"} == set(findings[0])

    def test_limits_of_policies_stand_beside_those_of_sdk(self, tmp_path: Path) -> None:
        book = PolicyBook(
            {
                "small": RetryPolicy(max_payload_bytes=1000),
                "large": RetryPolicy(max_payload_bytes=1 << 30),
            }
        )
        told = {f.subject: f for f in doctor._limits(sdk_of((0, 25, 0)), book)}
        assert told["policy small"].told == "max_payload_bytes 1000"
        assert told["policy large"].advice

    def test_policy_file_that_cannot_be_read_is_usage_error(self, served: str) -> None:
        assert run("--engine", served, "--policies", "nothing.yaml").exit_code == 2


class TestSdk:
    @pytest.mark.parametrize(
        ("sdk", "lacking"),
        [((0, 25, 0), 0), ((0, 24, 6), 1), ((0, 24, 3), 3), ((0, 22, 1), 4), ((0, 11, 6), 6)],
    )
    def test_it_tells_what_a_version_cannot_do(self, sdk: tuple[int, ...], lacking: int) -> None:
        findings = list(doctor._sdk(sdk_of(sdk)))
        assert len(findings) == 1 + lacking
        assert all(finding.advice for finding in findings[1:])

    def test_and_what_it_receives_and_sends(self) -> None:
        told = [f.told for f in doctor._limits(sdk_of((0, 22, 1)), PolicyBook())]
        assert told[:2] == [
            "messages of up to 1 MiB",
            "messages of up to 16 MiB (beyond that the engine cuts the connection)",
        ]

    def test_without_sdk_it_says_so(self) -> None:
        (finding,) = doctor._sdk(sdk_of((0,)))
        assert finding.advice == "pip install iii-sdk"
        assert list(doctor._limits(sdk_of((0,)), PolicyBook())) == []
