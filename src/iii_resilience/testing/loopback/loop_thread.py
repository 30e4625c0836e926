"""An event loop on its own thread, which reports every error.

Knows nothing of what runs on it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_LOG = logging.getLogger("iii_resilience.testing")


class LoopThread:
    """Starts and stops the thread; runs things on it.

    Args:
        name: What the thread is called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._errors: list[BaseException] = []

    @property
    def running(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None

    def start(self) -> None:
        """Starts the thread; returns when its loop runs."""
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(self._unhandled)
        started = threading.Event()
        loop.call_soon(started.set)
        thread = threading.Thread(target=loop.run_forever, name=self._name, daemon=True)
        thread.start()
        self._loop, self._thread = loop, thread
        started.wait()

    def stop(self) -> None:
        """Ends the thread and everything on it; does nothing where it does not run."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        self._thread = self._loop = None

    def errors(self) -> tuple[BaseException, ...]:
        """Unhandled errors since the last call."""
        errors, self._errors = tuple(self._errors), []
        return errors

    def call(self, action: Callable[[], _T]) -> _T:
        """Runs an action on the thread and waits for it; here, where the thread does not run."""
        if self._loop is None or threading.current_thread() is self._thread:
            return action()

        async def act() -> _T:
            return action()

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Runs a coroutine on the thread and waits for it.

        Raises:
            RuntimeError: The thread does not run.
        """
        if self._loop is None:
            coroutine.close()
            raise RuntimeError("the engine is not running: call start(), or use it in a `with`")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Runs an action on the thread after a delay; called on the thread only."""
        if self._loop is not None:
            self._loop.call_later(seconds, action)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Starts a coroutine on the thread; called on the thread only."""
        if self._loop is None:
            coroutine.close()
            return
        task = self._loop.create_task(coroutine)
        task.add_done_callback(self._done)

    def report(self, error: BaseException) -> None:
        """Remembers and logs an unhandled error."""
        self._errors.append(error)
        _LOG.error("unhandled error in %s", self._name, exc_info=error)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            error = task.exception()
            if error is not None:
                self.report(error)

    def _unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.report(error if error is not None else RuntimeError(context["message"]))


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # What was scheduled by the ends of connections runs before the loop stops.
    for _ in range(3):
        await asyncio.sleep(0)
