"""Waits for what happens on another thread or in another process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable


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


def freeze(child: int) -> None:
    """Stop a child process (SIGSTOP), and wait until it stands still: a signal takes its time.

    Args:
        child: Its process id.
    """
    os.kill(child, signal.SIGSTOP)
    os.waitid(os.P_PID, child, os.WSTOPPED | os.WNOWAIT)
