"""Runs a generator of effects around a handler, either synchronously or in a coroutine.

The effects are a blocking operation, a sleep, and the handler itself. Knows nothing of stores or
handlers, only how each effect runs without blocking an event loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import attrs

InThread = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""Runs what blocks on a thread, and waits for it without blocking the event loop."""


@attrs.frozen
class Blocking:
    """Something that may wait for a disk or a network.

    Attributes:
        work: What is done.
        undo: Takes the work's result where nobody is there any more to take it.
        blocking: Whether it may wait.
        cleanup: Whether it belongs to an end that must be whole. A cancellation that comes during
            it is raised at the next step that is no cleanup, or after the last step.
    """

    work: Callable[[], Any]
    undo: Callable[[Any], object] | None = None
    blocking: bool = True
    cleanup: bool = False


@attrs.frozen
class Sleep:
    """Time to pass, in seconds."""

    seconds: float


@attrs.frozen
class CallHandler:
    """The handler runs.

    Attributes:
        extra: Keyword arguments beside those of the call.
    """

    extra: dict[str, Any] = attrs.field(factory=dict, repr=False)


Steps = Generator[Blocking | Sleep | CallHandler, Any, Any]


def drive(steps: Steps, run: Callable[..., Any]) -> Any:
    """Carry steps out on this thread; returns what they return.

    Args:
        steps: The steps.
        run: Calls the handler.
    """

    def make(step: Blocking | Sleep | CallHandler) -> Any:
        if isinstance(step, CallHandler):
            return run(**step.extra)
        if isinstance(step, Sleep):
            return time.sleep(step.seconds)
        return step.work()

    try:
        step = next(steps)
        while True:
            try:
                value = make(step)
            except BaseException as error:  # it is for the steps to say what becomes of it
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as end:
        return end.value


async def drive_async(steps: Steps, run: Callable[..., Any], in_thread: InThread) -> Any:
    """As `drive`, for coroutines: whatever blocks is done on a thread of its own.

    Args:
        steps: The steps.
        run: Calls the handler.
        in_thread: Runs a blocking step on another thread.
    """
    driver = _AsyncDriver(run, in_thread)
    try:
        step = next(steps)
        while True:
            try:
                value = await driver.make(step)
            except GeneratorExit:  # the loop has ended under the handler: nothing can be awaited
                steps.close()
                raise
            except BaseException as error:  # it is for the steps to say what becomes of it
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as end:
        driver.go_on()
        return end.value
    except Exception:
        driver.go_on()
        raise


class _AsyncDriver:
    """Makes steps in a coroutine, and holds back a cancellation that comes during cleanup."""

    def __init__(self, run: Callable[..., Any], in_thread: InThread) -> None:
        self._run = run
        self._in_thread = in_thread
        self._held_back: asyncio.CancelledError | None = None

    async def make(self, step: Blocking | Sleep | CallHandler) -> Any:
        if isinstance(step, Blocking):
            return await self._block(step)
        self.go_on()
        if isinstance(step, CallHandler):
            return await self._run(**step.extra)
        return await asyncio.sleep(step.seconds)

    def go_on(self) -> None:
        """Raise the cancellation that was held back, if any."""
        cancelled, self._held_back = self._held_back, None
        if cancelled is not None:
            raise cancelled

    async def _block(self, step: Blocking) -> Any:
        if not step.blocking:
            return step.work()
        work = _Work(step)
        cancelled = await work.done(self._in_thread)
        if cancelled is not None and not step.cleanup:
            raise cancelled
        self._held_back = self._held_back or cancelled
        return work.answer()


class _Work:
    """A blocking step on its thread. It is done to its end: half an operation is none."""

    def __init__(self, step: Blocking) -> None:
        self._step = step
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
        undo = self._step.undo
        if cancelled is not None and not self._step.cleanup and undo is not None and self._answers:
            await _finished(in_thread(lambda: _call(undo, self._answers[0])))
        return cancelled

    def _run(self) -> None:
        try:
            answer = self._step.work()
        except BaseException as error:  # the coroutine raises it
            self._error = error
            return
        with self._lock:
            self._answers.append(answer)
            abandoned = self._abandoned
        if abandoned and self._step.undo is not None:
            self._step.undo(answer)


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


def _call(undo: Callable[[Any], object], result: Any) -> None:
    undo(result)
