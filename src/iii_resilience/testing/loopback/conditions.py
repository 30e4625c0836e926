"""Waits on one thread for a condition that becomes true on another.

Knows nothing of the condition.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable

from iii_resilience.testing.loopback.loop_thread import LoopThread


class Conditions:
    """The conditions that other threads wait for.

    Args:
        thread: The engine's thread.
    """

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self._waiting: list[tuple[Callable[[], bool], concurrent.futures.Future[None]]] = []

    def look(self) -> None:
        """Something has changed: checks all conditions; called on the engine's thread."""
        for done, future in self._waiting:
            if not future.done() and done():
                future.set_result(None)

    def wait(self, timeout: float, done: Callable[[], bool], complaint: Callable[[], str]) -> None:
        """Waits until something is true.

        Args:
            timeout: How long to wait, in seconds.
            done: Whether it is true; called on the engine's thread.
            complaint: The message if it does not become true; called on the engine's thread.

        Raises:
            TimeoutError: It did not become true.
        """
        future: concurrent.futures.Future[None] = concurrent.futures.Future()

        def begin() -> None:
            if done():
                future.set_result(None)
            else:
                self._waiting.append((done, future))

        def end() -> None:
            self._waiting = [entry for entry in self._waiting if entry[1] is not future]

        self._thread.call(begin)
        try:
            future.result(timeout)
        except concurrent.futures.TimeoutError:
            raise TimeoutError(f"after {timeout:g} s: {self._thread.call(complaint)}") from None
        finally:
            self._thread.call(end)
