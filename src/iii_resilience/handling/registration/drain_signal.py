"""Drains a worker when a signal comes, and then ends the process.

Knows nothing of how a worker is drained.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from iii_resilience.core.observers import where
from iii_resilience.telemetry import logger

_SIGNALLED_EVERY = 0.5  # seconds


def drain_at(number: int, drain: Callable[[], object]) -> None:
    """Drain when a signal comes, then end the process, or do what the signal did before.

    Args:
        number: The signal.
        drain: What is done.

    Raises:
        ValueError: This is not the main thread.
    """
    signalled = _Signalled(number, drain)
    signal.signal(number, signalled.received)
    _call_at(number, signalled.leave)


class _Signalled:
    """What a signal starts, and its end."""

    def __init__(self, number: int, drain: Callable[[], object]) -> None:
        self._number = number
        self._drain = drain
        self._before = signal.getsignal(number)
        self._leaving = threading.Lock()  # held from the start of draining on
        self._left = threading.Event()
        self._noticed = threading.Event()

    def received(self, signum: int, frame: FrameType | None) -> None:
        """Runs on the main thread."""
        if not self._left.is_set():
            self.leave()
            return
        self._noticed.set()
        if callable(self._before):
            self._before(signum, frame)
        elif self._before is not signal.SIG_IGN:
            raise SystemExit(0)

    def leave(self) -> None:
        """Start draining, unless it has started."""
        if not self._leaving.acquire(blocking=False):
            return
        # On its own thread: the main thread may hold a lock that draining needs.
        thread = threading.Thread(target=self._leave, name="iii-resilience drain", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._leaving.release()
            logger.warning("draining did not start: %s; send the signal again", error)

    def _leave(self) -> None:
        try:
            self._drain()
        except Exception as error:  # the process ends all the same
            logger.warning("draining caught %s", where(error))
        self._left.set()
        # Only the main thread can end the process, and it may be asleep: signal it once more. What
        # comes in the moment before it falls asleep does not wake it, so it is signalled again.
        while not self._noticed.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, self._number)
            self._noticed.wait(_SIGNALLED_EVERY)


def _call_at(number: int, work: Callable[[], None]) -> None:
    """Call this when a signal comes, even if the main thread does not notice.

    Python runs signal handlers on the main thread only, but the system may hand a signal to any
    thread. One that starts another thread at that moment often takes it from a main thread that
    sleeps, and that one sleeps on. What the interpreter then writes to a file wakes another thread.
    A process has one such file: where an event loop has its own, that loop wakes the main thread.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    other = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def end() -> None:
        with suppress(OSError):
            os.close(reader)
            os.close(writer)

    def read() -> None:
        while signals := os.read(reader, 64):
            if number in signals:
                work()

    def forked() -> None:
        now = signal.set_wakeup_fd(-1)
        if now != writer:
            signal.set_wakeup_fd(now)
        end()

    if other != -1:
        signal.set_wakeup_fd(other)
        end()
        return
    try:
        threading.Thread(target=read, name="iii-resilience signals", daemon=True).start()
    except RuntimeError as error:
        signal.set_wakeup_fd(-1)
        end()
        logger.warning("signal %d may be noticed late: %s", number, error)
        return
    # A child that wrote to this file would make its parent drain.
    os.register_at_fork(after_in_child=forked)
