"""Scenarios that run against a real engine where `III_URL` names one, else the loopback engine.

What a scenario needs beside an engine it takes as a fixture, which skips it where it is not there:

- `rbac_url`: a second listener of that engine (`III_RBAC_URL`) that lets everybody in and exposes
  ``match("conformance-open-*::*")`` and ``engine::functions::info``;
- `queue`: a queue that is defined and runs (`III_QUEUE` is its name).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from iii_resilience.testing import LoopbackEngine, Rbac

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


@pytest.fixture
def queue(loopback: LoopbackEngine | None) -> str:
    """The name of a queue."""
    if loopback is not None:
        loopback.define_queue("conformance")
        return "conformance"
    name = os.environ.get("III_QUEUE")
    if not name:
        pytest.skip("needs a queue that is defined: III_QUEUE")
    return name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") and not os.environ.get("III_LONG"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: make test-long"))
