"""Fixtures for tests that need an engine, a worker and callers on the real SDK."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from iii import InitOptions, register_worker
from iii.iii_constants import ReconnectionConfig

from iii_resilience import Backoff, RetryPolicy, resilient
from iii_resilience.client.resilient import Resilient
from iii_resilience.testing import LoopbackEngine

QUICK = RetryPolicy(
    backoff=Backoff(base=0.01, cap=0.1, throttled_base=0.01), deadline=10.0, ready_timeout=8.0
)


def end(client: Any) -> None:
    """Shut a client of the SDK down, if it is not, and end the handlers that its loop has left.

    The garbage collector would end them at any time: in a later test, whose log they would be in,
    or in the middle of `ast.parse`, which their tracebacks break on CPython 3.11 (a SystemError).
    """
    loop = client._loop
    if loop.is_running():
        client.shutdown()
    left = set() if loop.is_running() or loop.is_closed() else asyncio.all_tasks(loop)
    if left:
        loop.call_soon(loop.stop)
        loop.run_forever()  # what is ready, a second stop among it
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(left, timeout=5))


@pytest.fixture
def engine() -> Iterator[LoopbackEngine]:
    with LoopbackEngine() as running:
        yield running


@pytest.fixture
def sdk_times_out_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late the SDK's thread is: a call ends in the SDK's own TIMEOUT."""
    monkeypatch.setattr("iii_resilience.sdk.pending_calls._SLACK", 60.0)


@pytest.fixture
def connect(engine: LoopbackEngine) -> Iterator[Callable[..., Any]]:
    """Makes SDK clients that are shut down at the end, whatever happened to them."""
    numbers = itertools.count(1)
    clients: list[Any] = []

    def connect(name: str | None = None) -> Any:
        client = register_worker(
            engine.url,
            InitOptions(
                worker_name=name or f"client-{next(numbers)}",
                otel={"enabled": False},
                reconnection_config=ReconnectionConfig(initial_delay_ms=50, max_delay_ms=100),
            ),
        )
        clients.append(client)
        return client

    yield connect
    for client in clients:
        end(client)


@pytest.fixture
def target(connect: Callable[..., Any]) -> Any:
    """A worker whose functions the tests call."""
    return connect("target")


@pytest.fixture
def caller(connect: Callable[..., Any]) -> Iterator[Resilient]:
    worker = resilient(connect("caller"), policies=QUICK)
    yield worker
    worker.shutdown()
