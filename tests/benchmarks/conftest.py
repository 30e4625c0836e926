"""What a benchmark changes in its process is undone after each test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def level_of_log() -> Iterator[None]:
    """Benchmarks switch the library's log off; later tests of the process read it."""
    logger = logging.getLogger("iii_resilience")
    before = logger.level
    yield
    logger.setLevel(before)
