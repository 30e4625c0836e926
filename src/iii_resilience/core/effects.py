"""Runs a generator of effects, either on this thread or in a coroutine.

One generator says what happens in which order; the driver says how: an effect blocks the thread,
or is awaited. So a flow that serves threads and coroutines is written once. Knows nothing of
stores, handlers or connections.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from iii_resilience.core.blocking_work import BlockingWork, InThread
from iii_resilience.core.lazy_imports import lazy_module

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = lazy_module("asyncio")  # a program without coroutines never needs it


@attrs.frozen
class Blocking:
    """An operation that may wait for a disk or a network. The effect's value is its result.

    Attributes:
        work: The operation.
        undo: Takes the result back if the coroutine was cancelled meanwhile.
        blocking: Whether it may wait.
        cleanup: Whether it belongs to a shutdown that must complete. A cancellation during it
            is raised at the next effect without ``cleanup``, or after the last one.
    """

    work: Callable[[], Any]
    undo: Callable[[Any], object] | None = None
    blocking: bool = True
    cleanup: bool = False


class Sleeper(Protocol):
    """What can end a sleep early, such as a queue of those that wait for one event."""

    def add(self) -> Future[float]:
        """A future that ends a sleep once it is done; if it holds an error, with that."""
        ...

    def leave(self, future: Future[float]) -> None:
        """The sleep is over."""


@attrs.frozen
class Sleep:
    """Time passes.

    Attributes:
        seconds: How long.
        sleeper: What may end the sleep early, or None.
    """

    seconds: float
    sleeper: Sleeper | None = None


@attrs.frozen
class Wait:
    """A future is awaited. The effect's value is the future's result.

    `TimeoutError` is thrown into the generator if the time is over first.

    Attributes:
        future: The future.
        seconds: How long at most.
    """

    future: Future[float]
    seconds: float


@attrs.frozen
class CallHandler:
    """The callable that the driver was given is called: a handler, or an attempt.

    The effect's value is what it returns.

    Attributes:
        extra: Keyword arguments beside those it already has.
    """

    extra: dict[str, Any] = attrs.field(factory=dict, repr=False)


Steps = Generator[Blocking | Sleep | Wait | CallHandler, Any, Any]


def _nothing_to_call(**_: Any) -> Any:
    raise AssertionError("these steps call nothing")


def drive(
    steps: Steps,
    call: Callable[..., Any] = _nothing_to_call,
) -> Any:
    """Run a generator of effects on this thread.

    Args:
        steps: The generator.
        call: What `CallHandler` calls.

    Returns:
        What the generator returns.
    """
    try:
        step = next(steps)
        while True:
            try:
                value: Any = None
                if isinstance(step, CallHandler):
                    value = call(**step.extra)
                elif isinstance(step, Sleep):
                    if step.sleeper is None:
                        time.sleep(step.seconds)
                    else:
                        sleep_until_woken(step.seconds, step.sleeper)
                elif isinstance(step, Wait):
                    value = step.future.result(min(step.seconds, TIMEOUT_MAX))
                else:
                    value = step.work()
            except BaseException as error:  # the generator decides what becomes of it
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as end:
        return end.value
    finally:
        # The traceback of an error that the generator keeps leads here: this frame holds nothing.
        del steps, call


async def drive_async(  # noqa: C901 - one branch for each kind of effect
    steps: Steps,
    call: Callable[..., Awaitable[Any]] = _nothing_to_call,
    in_thread: InThread | None = None,
) -> Any:
    """As `drive`, in a coroutine.

    Args:
        steps: The generator.
        call: What `CallHandler` calls and awaits.
        in_thread: Runs a blocking operation on another thread; None where there is none.
    """
    held_back: list[asyncio.CancelledError] = []
    try:
        step = next(steps)
        while True:
            try:
                value: Any = None
                if isinstance(step, Blocking):
                    value = await _block(step, in_thread, held_back)
                elif held_back:
                    raise held_back.pop()
                elif isinstance(step, CallHandler):
                    value = await call(**step.extra)
                elif isinstance(step, Sleep):
                    await _sleep(step)
                else:
                    future = asyncio.wrap_future(step.future)
                    value = await asyncio.wait_for(future, step.seconds)
            except GeneratorExit:  # the loop has ended under the coroutine: it can await no more
                steps.close()
                raise
            except BaseException as error:  # the generator decides what becomes of it
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as end:
        return end.value
    finally:
        del steps, call, in_thread  # as in `drive`
        if held_back:
            raise held_back.pop() from None


async def _block(
    step: Blocking, in_thread: InThread | None, held_back: list[asyncio.CancelledError]
) -> Any:
    """Run an operation; a cancellation that comes during cleanup is held back."""
    if not step.cleanup and held_back:
        raise held_back.pop()
    if not step.blocking or in_thread is None:
        return step.work()
    work = BlockingWork(step.work, None if step.cleanup else step.undo)
    cancelled = await work.done(in_thread)
    if cancelled is not None:
        held_back[:] = held_back or [cancelled]
        if not step.cleanup:
            raise held_back.pop()
    return work.answer()


async def _sleep(step: Sleep) -> None:
    if step.sleeper is None:
        await asyncio.sleep(step.seconds)
    else:
        await sleep_until_woken_async(step.seconds, step.sleeper)


def sleep_until_woken(seconds: float, sleeper: Sleeper) -> None:
    """Sleep on this thread, unless something ends the sleep early.

    Args:
        seconds: How long at most.
        sleeper: What may end it. What its future holds is raised.
    """
    wake = sleeper.add()
    try:
        with suppress(TimeoutError):
            wake.result(min(seconds, TIMEOUT_MAX))
    finally:
        sleeper.leave(wake)


async def sleep_until_woken_async(seconds: float, sleeper: Sleeper) -> None:
    """As `sleep_until_woken`, in a coroutine."""
    wake = sleeper.add()
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(wake), seconds)
    finally:
        sleeper.leave(wake)
