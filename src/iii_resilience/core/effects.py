"""Runs a generator of effects around a handler, either synchronously or in a coroutine.

The effects are a blocking operation, a sleep, and the handler itself. Knows nothing of stores or
handlers, only how each effect runs without blocking an event loop.
"""

from __future__ import annotations

import asyncio
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
    """

    work: Callable[[], Any]
    undo: Callable[[Any], object] | None = None
    blocking: bool = True


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

    async def make(step: Blocking | Sleep | CallHandler) -> Any:
        if isinstance(step, CallHandler):
            return await run(**step.extra)
        if isinstance(step, Sleep):
            return await asyncio.sleep(step.seconds)
        return await _aside(step, in_thread) if step.blocking else step.work()

    try:
        step = next(steps)
        while True:
            try:
                value = await make(step)
            except GeneratorExit:  # the loop has ended under the handler: nothing can be awaited
                steps.close()
                raise
            except BaseException as error:  # it is for the steps to say what becomes of it
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as end:
        return end.value


async def _aside(step: Blocking, in_thread: InThread) -> Any:
    """Done to its end even if the coroutine is cancelled meanwhile: half an operation is none."""
    answer: list[Any] = []
    task = asyncio.ensure_future(in_thread(lambda: answer.append(step.work())))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None and step.undo is not None:
            await in_thread(_call(step.undo, answer[0]))
        raise
    return answer[0]


def _call(undo: Callable[[Any], object], result: Any) -> Callable[[], None]:
    def work() -> None:
        undo(result)

    return work
