"""An operation on a thread, and its undo, where the waiting coroutine is cancelled."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from iii_resilience.core.blocking_work import BlockingWork


class CancelledByLoop:
    """Runs calls as a loop does whose end cancels the first of them, or what waits for it."""

    def __init__(self, *, thread_ends: bool) -> None:
        self.calls = 0
        self.thread_ends = thread_ends

    async def __call__(self, call: Callable[[], None]) -> None:
        self.calls += 1
        if self.calls > 1 or self.thread_ends:
            call()
        if self.calls == 1:
            raise asyncio.CancelledError


async def done_while_cancelled(
    work: BlockingWork, *messages: str, undo_runs: bool = True
) -> asyncio.CancelledError | None:
    """What `done` returns if cancellations come in while the work runs."""
    calls: list[Callable[[], None]] = []

    async def in_thread(call: Callable[[], None]) -> None:
        calls.append(call)
        if len(calls) > 1 and not undo_runs:
            raise asyncio.CancelledError
        for message in messages:
            waiting.cancel(message)
            for _ in range(3):
                await asyncio.sleep(0)
        call()

    waiting = asyncio.ensure_future(work.done(in_thread))
    return await waiting


async def test_first_of_several_cancellations_goes_on() -> None:
    undone: list[Any] = []
    work = BlockingWork(lambda: "held", undone.append)
    cancelled = await done_while_cancelled(work, "first", "second")
    assert cancelled is not None
    assert cancelled.args == ("first",)
    assert undone == ["held"]


async def test_nothing_is_undone_without_cancellation() -> None:
    undone: list[Any] = []
    work = BlockingWork(lambda: "held", undone.append)
    assert await done_while_cancelled(work) is None
    assert (work.answer(), undone) == ("held", [])


async def test_failed_work_has_nothing_to_undo() -> None:
    undone: list[Any] = []
    work = BlockingWork(lambda: 1 // 0, undone.append)
    assert await done_while_cancelled(work, "first") is not None
    with pytest.raises(ZeroDivisionError):
        work.answer()
    assert undone == []


async def test_error_of_undo_is_no_report_of_loop() -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))

    def broken(_: Any) -> None:
        raise ValueError("x")

    cancelled = await done_while_cancelled(BlockingWork(lambda: "held", broken), "first")
    assert cancelled is not None
    assert cancelled.args == ("first",)
    del cancelled
    gc.collect()
    assert reports == []


async def test_cancelled_undo_does_not_hide_first_cancellation() -> None:
    work = BlockingWork(lambda: "held", lambda _: None)
    cancelled = await done_while_cancelled(work, "first", undo_runs=False)
    assert cancelled is not None
    assert cancelled.args == ("first",)


async def test_cancellation_before_that_of_loop_goes_on() -> None:
    work = BlockingWork(lambda: "held")

    async def in_thread(_: Callable[[], None]) -> None:
        waiting.cancel("first")
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    waiting = asyncio.ensure_future(work.done(in_thread))
    cancelled = await waiting
    assert cancelled is not None
    assert cancelled.args == ("first",)


async def test_work_without_undo_needs_thread_once() -> None:
    in_thread = CancelledByLoop(thread_ends=True)
    assert await BlockingWork(lambda: "held").done(in_thread) is not None
    assert in_thread.calls == 1


async def test_work_alone_on_its_thread_undoes_itself() -> None:
    undone: list[str] = []
    work = BlockingWork(lambda: "result", undone.append)
    cancelled = await work.done(CancelledByLoop(thread_ends=False))
    assert isinstance(cancelled, asyncio.CancelledError)
    assert undone == []
    work._run()  # the thread ends later
    assert undone == ["result"]


async def test_work_that_ended_before_its_loop_is_undone_once() -> None:
    undone: list[str] = []
    work = BlockingWork(lambda: "result", undone.append)
    cancelled = await work.done(CancelledByLoop(thread_ends=True))
    assert isinstance(cancelled, asyncio.CancelledError)
    assert undone == ["result"]


async def test_work_that_ends_as_its_loop_does_is_undone_once() -> None:
    undone: list[str] = []
    work = BlockingWork(lambda: "result", undone.append)

    class Lock:
        """The thread waits for it, and ends as soon as it is free."""

        released = 0

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            self.released += 1
            if self.released == 1:
                work._run()

    work._lock = Lock()  # type: ignore[assignment]
    await work.done(CancelledByLoop(thread_ends=False))
    assert undone == ["result"]
