"""The threads that look, seconds after a message began to wait, whether a relay is active."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest


def relay_checks() -> list[threading.Timer]:
    """Those that are still due, or under way."""
    return [
        thread
        for thread in threading.enumerate()
        if isinstance(thread, threading.Timer) and thread.name == "iii-resilience relay check"
    ]


@pytest.fixture(autouse=True)
def relay_checks_end_with_test() -> Iterator[None]:
    """One would log a warning in the middle of a later test."""
    yield
    for check in relay_checks():
        check.cancel()
        check.join(60)
