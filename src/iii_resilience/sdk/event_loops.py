"""Schedules callbacks on event loops of other threads, and runs a loop of its own.

Knows nothing of calls or connections.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def call_soon(
    loop: asyncio.AbstractEventLoop, what: Callable[..., object], *arguments: Any
) -> None:
    """Run something on an event loop, unless that loop has ended."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(what, *arguments)


def run_soon(
    loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, T]]
) -> Future[T]:
    """Run a coroutine on the event loop of another thread.

    As ``asyncio.run_coroutine_threadsafe``, but the coroutine is made on that loop: one that stops
    before would leave it behind, and Python warns of coroutines that were never awaited.

    Args:
        loop: Where it runs.
        work: Makes the coroutine.

    Returns:
        Its result; to cancel it cancels the coroutine.

    Raises:
        RuntimeError: The loop is closed.
    """
    future: Future[T] = Future()

    def begin() -> None:
        if future.cancelled():
            return
        task = loop.create_task(work())
        task.add_done_callback(ended)

        def cancel(done: Future[T]) -> None:
            if done.cancelled():
                call_soon(loop, task.cancel)

        future.add_done_callback(cancel)

    def ended(task: asyncio.Task[T]) -> None:
        if task.cancelled():
            future.cancel()
        error = None if task.cancelled() else task.exception()
        if not future.set_running_or_notify_cancel():
            return
        if error is None:
            future.set_result(task.result())
        else:
            future.set_exception(error)

    loop.call_soon_threadsafe(begin)
    return future


async def in_thread(work: Callable[[], None]) -> None:
    """Run what blocks on a thread of our own, and wait for it.

    Not in asyncio's default executor: that belongs to the user, and may be full.
    """
    here = asyncio.get_running_loop()
    done: asyncio.Future[None] = here.create_future()

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # handed to the waiting coroutine
            error = raised
        call_soon(here, settle, done, None, error)

    threading.Thread(target=run, name="iii-resilience", daemon=True).start()
    await done


def settle(future: asyncio.Future[Any], answer: Any, error: BaseException | None) -> None:
    """End a future, with an answer or an error, unless it has ended already; on its own loop."""
    if future.done():
        return
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(error)


class _Substitute:
    """The event loop, on a daemon thread, of clients that have none to be seen."""

    lock = threading.Lock()
    loop: asyncio.AbstractEventLoop | None = None
    pid = 0


def substitute_loop() -> asyncio.AbstractEventLoop:
    """An event loop on a daemon thread of this library; one a process."""
    with _Substitute.lock:
        loop = _Substitute.loop
        if loop is None or _Substitute.pid != os.getpid():
            loop = asyncio.new_event_loop()
            try:
                threading.Thread(
                    target=loop.run_forever, name="iii-resilience", daemon=True
                ).start()
            except RuntimeError:  # no thread can be started: the next call tries again
                loop.close()
                raise
            _Substitute.loop, _Substitute.pid = loop, os.getpid()
    return loop
