"""Hears from PostgreSQL that a key has ended: one connection for all waiting calls of a process.

What is not heard (the connection broke, a worker was killed) is found by polling: each waiting
call does so as well. Knows nothing of keys' states.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Final

_IDLE: Final = 5.0  # seconds without a waiting call, after which the thread ends
_LISTENS: Final = 1.0  # seconds between looks at who waits
_AGAIN: Final = 1.0  # seconds after a connection that failed


class PostgresListener:
    """Listens on a channel, on a thread that lives as long as something waits.

    Args:
        connect: Makes a connection that commits each statement.
        channel: Its name.
    """

    def __init__(self, connect: Callable[[], Any], channel: str) -> None:
        self._connect = connect
        self._listen = 'LISTEN "' + channel.replace('"', '""') + '"'
        self._new()

    def _new(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._waiting: dict[str, set[Future[float]]] = {}
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def watch(self, slot: str) -> Future[float]:
        """A future that is done when a notification names the slot, or never.

        Args:
            slot: The slot. Where the future is cancelled, it is no longer waited for.
        """
        if os.getpid() != self._pid:
            self._new()
        future: Future[float] = Future()
        with self._lock:
            self._waiting.setdefault(slot, set()).add(future)
            self._start()
        future.add_done_callback(lambda done: self._forget(slot, done))
        return future

    def close(self) -> None:
        """End the thread; the next `watch` starts another."""
        if os.getpid() != self._pid:
            self._new()
            return
        with self._lock:
            thread, self._thread = self._thread, None
            over, self._over = self._over, threading.Event()
        over.set()
        if thread is not None:
            thread.join(2 * _LISTENS)

    def _start(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        thread = threading.Thread(
            target=self._run, args=(self._over,), name="iii-resilience listens", daemon=True
        )
        with suppress(RuntimeError):  # no thread can be started: looking again is enough
            thread.start()
            self._thread = thread

    def _forget(self, slot: str, future: Future[float]) -> None:
        with self._lock:
            others = self._waiting.get(slot, set())
            others.discard(future)
            if not others:
                self._waiting.pop(slot, None)

    def _run(self, over: threading.Event) -> None:
        while not over.is_set():
            try:
                connection = self._connect()
            except Exception:
                if self._ends(time.monotonic() - _IDLE):
                    return
                over.wait(_AGAIN)
                continue
            try:
                connection.execute(self._listen)
                if self._hear(connection, over):
                    return
            except Exception:
                over.wait(_AGAIN)
            finally:
                connection.close()

    def _hear(self, connection: Any, over: threading.Event) -> bool:
        """Until nothing waits any longer: whether the thread ends."""
        idle_since = time.monotonic()
        while not over.is_set():
            for notification in connection.notifies(timeout=_LISTENS, stop_after=1):
                self._wake(notification.payload)
            if self._waiting:
                idle_since = time.monotonic()
            elif self._ends(idle_since):
                return True
        return True

    def _ends(self, idle_since: float) -> bool:
        with self._lock:
            if self._waiting or time.monotonic() - idle_since < _IDLE:
                return False
            self._thread = None
            return True

    def _wake(self, slot: str) -> None:
        with self._lock:
            futures = self._waiting.pop(slot, set())
        for future in futures:
            with suppress(InvalidStateError):
                future.set_result(0.0)
