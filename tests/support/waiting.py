"""Waits for what happens on another thread or in another process."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any


def until(happened: Callable[[], object], timeout: float = 60.0) -> None:
    """Poll until something is true.

    Args:
        happened: Says whether it is.
        timeout: Seconds after which the test fails.
    """
    end = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


async def until_sockets_closed() -> None:
    """Wait until the running event loop watches no socket but its own.

    A transport that is closed, or aborted, closes its socket in a later iteration. If the loop ends
    before, it is a warning of whatever test runs when the garbage collector finds it.
    """
    loop: Any = asyncio.get_running_loop()
    async with asyncio.timeout(60.0):
        while len(loop._selector.get_map()) > 1:
            await asyncio.sleep(0.005)


def freeze(child: int) -> None:
    """Stop a child process (SIGSTOP), and wait until it stands still: a signal takes its time.

    Args:
        child: Its process id.
    """
    os.kill(child, signal.SIGSTOP)
    os.waitid(os.P_PID, child, os.WSTOPPED | os.WNOWAIT)
