"""Runs an operation that blocks on a thread, and undoes it for a coroutine that was cancelled.

However many cancellations come, the operation ends, and so does its undo; then the first of them
goes on. Half an operation is none. Knows nothing of what the operation is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from iii_resilience.core.lazy_imports import lazy_module

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = lazy_module("asyncio")  # a program without coroutines never needs it

InThread = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""Runs what blocks on a thread, and waits for it without blocking the event loop."""


class BlockingWork:
    """An operation on a thread. It runs to its end, whatever becomes of the coroutine.

    Args:
        work: The operation.
        undo: Takes its result back where the coroutine was cancelled meanwhile.
    """

    def __init__(
        self, work: Callable[[], Any], undo: Callable[[Any], object] | None = None
    ) -> None:
        self._work = work
        self._undo = undo
        self._lock = threading.Lock()
        self._answers: list[Any] = []
        self._abandoned = False
        self._error: BaseException | None = None

    def answer(self) -> Any:
        """What the work returned.

        Raises:
            BaseException: What it raised.
        """
        if self._error is not None:
            raise self._error
        return self._answers[0]

    async def done(self, in_thread: InThread) -> asyncio.CancelledError | None:
        """Wait for the work, and for its undo where the coroutine was cancelled meanwhile.

        Returns:
            The first cancellation that came in between, or None.
        """
        task, cancelled = await _finished(in_thread(self._run))
        if task.cancelled():
            # The loop cancels every task, this one too: the thread is alone from here on.
            with self._lock:
                self._abandoned = not self._answers
            cancelled = cancelled or asyncio.CancelledError()
        else:
            self._error = task.exception() or self._error
        undo = self._undo
        # Not where the thread is alone: it may have ended by now, and undone its work itself.
        held = self._answers and not self._abandoned
        if cancelled is not None and undo is not None and held:

            def take_back() -> None:
                undo(self._answers[0])

            undone, _ = await _finished(in_thread(take_back))
            # Looked at: the undo has said itself what went wrong.
            _ = undone.cancelled() or undone.exception()
        return cancelled

    def _run(self) -> None:
        try:
            answer = self._work()
        except BaseException as error:  # the coroutine raises it
            self._error = error
            return
        with self._lock:
            self._answers.append(answer)
            abandoned = self._abandoned
        if abandoned and self._undo is not None:
            self._undo(answer)


async def _finished(
    work: Coroutine[Any, Any, None],
) -> tuple[asyncio.Task[None], asyncio.CancelledError | None]:
    """Wait until a task has ended, however often this coroutine is cancelled."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = cancelled or error
    return task, cancelled
