"""What `iii-resilience doctor` says of an engine, in each of the cases that it tells apart.

What stops an engine needs one of its own: `III_ENGINE`, a program, where `III_URL` is set.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from iii import InitOptions, register_worker
from support.ports import reserved_port
from support.real_engine import RealEngine
from support.real_sdk import needs
from support.waiting import freeze, until

from iii_resilience import discover
from iii_resilience.cli.doctor import Finding, examine
from iii_resilience.testing import LoopbackEngine, Rbac

pytestmark = [pytest.mark.engine, needs((0, 23), "namespaces")]

REFUSES = "auth::nobody"
LOOPBACK = (
    "from iii_resilience.testing import LoopbackEngine\n"
    "with LoopbackEngine() as engine:\n    print(engine.url, flush=True); input()\n"
)


@pytest.fixture
def function_id(engine_url: str) -> Iterator[str]:
    """A function that is served."""
    tag = uuid.uuid4().hex[:8]
    served = f"doctor-{tag}::f"
    options = InitOptions(worker_name=f"doctor-{tag}", otel={"enabled": False})
    client: Any = register_worker(engine_url, options)
    client.register_function(served, lambda data: data)
    assert discover(client, served)
    yield served
    client.shutdown()


def trouble(url: str, function_id: str | None = None, **options: Any) -> Finding:
    (found,) = [finding for finding in examine(url, function_id, **options) if finding.bad]
    assert found.advice
    return found


def test_healthy(engine_url: str, function_id: str) -> None:
    findings = examine(engine_url, function_id)
    assert [finding for finding in findings if finding.bad] == []
    assert f"{function_id} is owned by worker doctor-" in " ".join(f.told for f in findings)


def test_down() -> None:
    found = trouble(f"ws://127.0.0.1:{reserved_port()}")
    assert (found.advice or "").startswith("Start the engine")


def test_refused(loopback: LoopbackEngine | None, tmp_path: Path) -> None:
    """A listener whose auth function nobody serves lets nobody in."""
    if loopback is not None:
        with LoopbackEngine(rbac=Rbac(REFUSES)) as engine:
            found = trouble(engine.rbac_url)
    else:
        own = _own_engine(tmp_path)
        try:
            found = trouble(own.guarded_url)
        finally:
            own.end()
    assert found.subject == "access"
    assert (found.advice or "").startswith("Fix this worker's access")


def test_forbidden(rbac_url: str, function_id: str) -> None:
    found = trouble(rbac_url, function_id)
    assert found.told.endswith("calls are FORBIDDEN")
    assert "rbac.expose_functions" in (found.advice or "")


def test_missing(engine_url: str) -> None:
    found = trouble(engine_url, "doctor-nowhere::f")
    assert found.told == "doctor-nowhere::f is not registered"


def test_other_namespace(engine_url: str, function_id: str) -> None:
    found = trouble(engine_url, function_id, namespace="elsewhere")
    assert found.told == f"{function_id} is not registered in namespace elsewhere"


def test_port_of_http_routes(loopback: LoopbackEngine | None) -> None:
    http_url = os.environ.get("III_HTTP_URL") if loopback is None else loopback.http_url
    if not http_url:
        pytest.skip("needs an engine with iii-http: III_HTTP_URL")
    found = trouble(http_url.replace("http", "ws", 1))
    assert "instead of a WebSocket" in found.told
    assert "HTTP routes" in (found.advice or "")


def test_frozen(loopback: LoopbackEngine | None, tmp_path: Path) -> None:
    own = _own_engine(tmp_path) if loopback is None else _LoopbackProcess()
    try:
        until(lambda: not any(finding.bad for finding in examine(own.url)))
        freeze(own.pid)
        found = trouble(own.url, timeout=1.0)
    finally:
        own.end()
    assert "takes connections" in found.told
    assert (found.advice or "").startswith("Look at the process that listens")


def _own_engine(folder: Path) -> RealEngine:
    if not os.environ.get("III_ENGINE"):
        pytest.skip("needs an engine that it may stop: III_ENGINE, a program")
    engine = RealEngine(folder, guarded_by=REFUSES)
    engine.start()
    return engine


class _LoopbackProcess:
    """A loopback engine that can be stopped."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", LOOPBACK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._child.pid
        assert self._child.stdout is not None
        self.url = self._child.stdout.readline().strip()

    def end(self) -> None:
        self._child.kill()
        self._child.communicate()
