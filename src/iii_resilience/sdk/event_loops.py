"""Schedules callbacks on event loops of other threads, and runs a loop of its own.

Knows nothing of calls or connections.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Generator
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


def run_on(
    loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]
) -> Future[T]:
    """Run a coroutine on an event loop of another thread.

    Args:
        loop: The loop. Where it has ended and is not closed, the future stays as it is.
        make: Makes the coroutine, on the loop.

    Raises:
        RuntimeError: The loop is closed.
    """
    return asyncio.run_coroutine_threadsafe(_MadeThere(make), loop)


class _MadeThere(Coroutine[Any, Any, T]):
    """A coroutine that is made when it begins: Python warns of one that was made and never did."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._make = make
        self._made: Coroutine[Any, Any, T] | None = None

    def _begun(self) -> Coroutine[Any, Any, T]:
        if self._made is None:
            self._made = self._make()
        return self._made

    def send(self, value: Any) -> Any:
        return self._begun().send(value)

    def throw(self, *error: Any) -> Any:
        return self._begun().throw(*error)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._begun().__await__()


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
