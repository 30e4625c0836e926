"""Scenarios that run against a real engine where `III_URL` names one, else the loopback engine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from iii_resilience.testing import LoopbackEngine


@pytest.fixture
def engine_url() -> Iterator[str]:
    """Where the engine listens."""
    url = os.environ.get("III_URL")
    if url:
        yield url
        return
    with LoopbackEngine() as engine:
        yield engine.url


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") and not os.environ.get("III_LONG"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: make test-long"))
