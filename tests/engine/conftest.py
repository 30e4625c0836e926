"""Scenarios that run against a real engine where `III_URL` names one, else the loopback engine.

What a scenario needs beside an engine it takes as a fixture, which skips it where it is not there:

- `rbac_url`: a second listener of that engine (`III_RBAC_URL`) that lets everybody in and exposes
  ``match("conformance-open-*::*")`` and ``engine::functions::info``;
- `queues`: a queue worker beside that engine: one that runs, or the program `III_QUEUE_WORKER`,
  which is then started, killed and ended here (it is given its engine as `III_URL`);
- `queue`: a queue that is defined and runs: `III_QUEUE`, or one that the queue worker is asked for.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from iii import InitOptions, register_worker
from support.relay_checks import relay_checks_end_with_test

from iii_resilience import discover, ensure_queue
from iii_resilience.testing import LoopbackEngine, Rbac

__all__ = ["relay_checks_end_with_test"]

EXPOSED = ("conformance-open-*::*", "engine::functions::info")


@pytest.fixture
def loopback() -> Iterator[LoopbackEngine | None]:
    """The loopback engine, or None where a real one is used."""
    if os.environ.get("III_URL"):
        yield None
        return
    with LoopbackEngine(rbac=Rbac(expose=EXPOSED)) as engine:
        yield engine


@pytest.fixture
def engine_url(loopback: LoopbackEngine | None) -> str:
    """Where the engine listens."""
    return os.environ["III_URL"] if loopback is None else loopback.url


@pytest.fixture
def rbac_url(loopback: LoopbackEngine | None) -> str:
    """Where the engine listens and exposes little."""
    if loopback is not None:
        return loopback.rbac_url
    url = os.environ.get("III_RBAC_URL")
    if not url:
        pytest.skip("needs an RBAC listener: III_RBAC_URL")
    return url


@attrs.define
class Queues:
    """The queue worker beside the engine of a scenario."""

    url: str
    loopback: LoopbackEngine | None
    command: list[str]
    folder: Path
    _process: subprocess.Popen[bytes] | None = None

    def restart(self) -> None:
        """Kill it and start it again; a scenario that does is skipped where that cannot be."""
        if self.loopback is not None:
            self.loopback.restart_queue_worker(down_for=0.1)
            return
        if not self.command:
            pytest.skip("needs a queue worker that it may kill: III_QUEUE_WORKER, a program")
        self.kill()
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            env={**os.environ, "III_URL": self.url, "HOME": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert self.answers(within=30.0), "the queue worker does not register its functions"

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            end = time.monotonic() + 10
            while self.answers():  # the engine has not heard of it yet
                assert time.monotonic() < end, "its functions are still registered"

    def answers(self, within: float = 0.0) -> bool:
        """Whether there is one, with all of its functions; this one it registers last."""
        client = register_worker(self.url, InitOptions(otel={"enabled": False}))
        try:
            whole = discover(client, "engine::queue::dlq_messages", timeout=within)
            # An engine's own queue, which has topics alone, is none.
            return bool(whole and discover(client, "queue::define", timeout=0))
        finally:
            client.shutdown()


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queues | None]:
    """The queue worker of a real engine, one for all scenarios; None where there is none."""
    url = os.environ.get("III_URL")
    if not url:
        yield None
        return
    command = shlex.split(os.environ.get("III_QUEUE_WORKER", ""))
    queues = Queues(url, None, command, tmp_path_factory.mktemp("queue-worker"))
    if command:
        assert not queues.answers(), "another queue worker runs beside this engine: end it first"
        queues.start()
    elif not queues.answers():
        yield None
        return
    yield queues
    queues.kill()


@pytest.fixture
def queues(loopback: LoopbackEngine | None, started: Queues | None, tmp_path: Path) -> Queues:
    """A queue worker."""
    if loopback is not None:
        return Queues(loopback.url, loopback, [], tmp_path)
    if started is None:
        pytest.skip("needs a queue worker: one that runs, or the program III_QUEUE_WORKER")
    return started


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    """The name of a queue."""
    name = os.environ.get("III_QUEUE")
    if name:
        return name
    queues: Queues = request.getfixturevalue("queues")
    if queues.loopback is not None:
        queues.loopback.define_queue("conformance")
        return "conformance"
    client = register_worker(queues.url, InitOptions(otel={"enabled": False}))
    try:
        ensure_queue(client, "conformance")
    finally:
        client.shutdown()
    return "conformance"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") and not os.environ.get("III_LONG"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: make test-long"))
