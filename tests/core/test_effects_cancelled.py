"""Cancelled twice: cleanup runs to its end, and then the cancellation goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from iii_resilience.core.effects import Blocking, CallHandler, Steps, drive_async
from iii_resilience.sdk.event_loops import in_thread


class Slow:
    """Work on a thread that ends when a test lets it."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> str:
        self.began.set()
        assert self.go_on.wait(30)
        return "held"


async def began(work: Slow) -> None:
    while not work.began.is_set():
        await asyncio.sleep(0.005)


async def cancelled(task: asyncio.Task[Any], times: int = 3) -> None:
    for _ in range(times):
        task.cancel()
        for _ in range(3):
            await asyncio.sleep(0)


async def handler() -> str:
    return "done"


async def test_undo_runs_however_many_cancellations_come() -> None:
    work, undo = Slow(), Slow()
    undone: list[Any] = []

    def take_back(result: Any) -> None:
        undo()
        undone.append(result)

    def steps() -> Steps:
        yield Blocking(work, take_back)
        raise AssertionError("it goes on")

    task = asyncio.create_task(drive_async(steps(), handler, in_thread))
    await began(work)
    await cancelled(task)
    work.go_on.set()
    await began(undo)
    await cancelled(task)
    assert not task.done()
    undo.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == ["held"]


async def test_cleanup_after_failure_completes_before_cancellation() -> None:
    first, second = Slow(), Slow()

    def steps() -> Steps:
        try:
            yield CallHandler()
        except ValueError:
            yield Blocking(first, cleanup=True)
            yield Blocking(second, cleanup=True)
            raise

    async def fails() -> None:
        raise ValueError

    task = asyncio.create_task(drive_async(steps(), fails, in_thread))
    for work in (first, second):
        await began(work)
        await cancelled(task)
        work.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancellation_in_cleanup_ends_next_normal_step() -> None:
    work = Slow()
    after: list[str] = []

    def steps() -> Steps:
        yield Blocking(work, cleanup=True)
        after.append((yield CallHandler()))

    task = asyncio.create_task(drive_async(steps(), handler, in_thread))
    await began(work)
    await cancelled(task, 1)
    work.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert after == []


def test_undo_runs_where_loop_cancels_everything() -> None:
    """As `asyncio.run` does at its end, the task inside too."""
    work, undone = Slow(), threading.Event()

    def steps() -> Steps:
        yield Blocking(work, lambda _: undone.set())

    async def ends_when_cancelled() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            work.go_on.set()

    async def main() -> None:
        task = asyncio.create_task(drive_async(steps(), handler, in_thread))
        other = asyncio.create_task(ends_when_cancelled())
        await began(work)
        assert not task.done()
        assert not other.done()

    asyncio.run(main())
    assert undone.wait(30)


@pytest.mark.parametrize("fails", [ValueError("x"), SystemExit(3)])
async def test_work_that_fails_says_so(fails: BaseException) -> None:
    def raising() -> None:
        raise fails

    def steps() -> Steps:
        yield Blocking(raising, lambda _: None)

    with pytest.raises(type(fails)):
        await drive_async(steps(), handler, in_thread)


async def test_thread_that_cannot_start_leaves_nothing_to_undo() -> None:
    undone: list[Any] = []

    async def refuses(_: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    def steps() -> Steps:
        yield Blocking(lambda: "held", undone.append)

    with pytest.raises(RuntimeError, match="can't start"):
        await drive_async(steps(), handler, refuses)
    assert undone == []


async def test_cancellation_after_cleanup_precedes_next_work() -> None:
    started, go_on = threading.Event(), threading.Event()
    ran: list[bool] = []

    def clean_up() -> None:
        started.set()
        go_on.wait(10)

    def steps() -> Steps:
        yield Blocking(clean_up, cleanup=True)
        yield Blocking(lambda: ran.append(True), blocking=False)

    task = asyncio.ensure_future(drive_async(steps(), in_thread=in_thread))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    await asyncio.sleep(0.01)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ran == []
