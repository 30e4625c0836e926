"""A pytest plugin: the tests of the core may not really sleep for more than ten seconds together.

Loaded by `make coverage`. What a test replaces by a clock of its own is not seen here and costs no
time; what is interrupted counts for as long as it lasted, and never for longer than was asked for.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from typing import Any

import pytest

MOST = 10.0

_slept: defaultdict[str, float] = defaultdict(float)
_test = ["collection"]
_lock = threading.Lock()
_sleep, _sleep_async, _monotonic = time.sleep, asyncio.sleep, time.monotonic


def _count(seconds: float, started: float) -> None:
    with _lock:
        _slept[_test[0]] += min(max(seconds, 0.0), _monotonic() - started)


def _counted(seconds: Any, /) -> None:
    started = _monotonic()
    try:
        _sleep(seconds)
    finally:
        _count(seconds, started)


async def _counted_async(delay: float, result: Any = None) -> Any:
    started = _monotonic()
    try:
        return await _sleep_async(delay, result)
    finally:
        _count(delay, started)


def pytest_configure() -> None:
    time.sleep = _counted
    asyncio.sleep = _counted_async


def pytest_runtest_setup(item: pytest.Item) -> None:
    _test[0] = item.nodeid


def pytest_sessionfinish(session: pytest.Session) -> None:
    if sum(_slept.values()) > MOST:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    total = sum(_slept.values())
    terminalreporter.write_line(f"really slept {total:.1f} s, of {MOST:g} s at most")
    for test, seconds in sorted(_slept.items(), key=lambda item: -item[1])[:3]:
        terminalreporter.write_line(f"  {seconds:.1f} s in {test}")
