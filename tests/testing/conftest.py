"""What all tests of the loopback engine share: names of their own, and engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from iii_resilience.testing import LoopbackEngine


@pytest.fixture(autouse=True)
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK takes these from the environment."""
    for name in ("III_URL", "III_TOKEN", "III_WORKER_NAME", "III_NAMESPACE", "III_ISOLATION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def engine() -> Iterator[LoopbackEngine]:
    with LoopbackEngine() as running:
        yield running


@pytest.fixture
def sdk() -> Iterator[Callable[..., Any]]:
    """Connects clients of the real SDK, and shuts every one of them down."""
    from iii import InitOptions, register_worker

    clients: list[Any] = []

    def connect(url: str, name: str, **options: Any) -> Any:
        settings = InitOptions(worker_name=name, otel={"enabled": False}, **options)
        clients.append(register_worker(url, settings))
        return clients[-1]

    yield connect
    for client in clients:
        client.shutdown()
