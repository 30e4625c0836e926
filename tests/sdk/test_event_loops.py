"""Coroutines on the event loop of another thread: results, ends, and loops that stop."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest
from support.waiting import until

from iii_resilience.sdk.event_loops import run_soon


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


async def fail() -> None:
    raise LookupError("nothing there")


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


class TestRunSoon:
    def test_result_and_error_come_back(self, loop: asyncio.AbstractEventLoop) -> None:
        assert run_soon(loop, lambda: double(2)).result(60) == 4
        with pytest.raises(LookupError, match="nothing there"):
            run_soon(loop, fail).result(60)

    def test_cancellation_reaches_coroutine(self, loop: asyncio.AbstractEventLoop) -> None:
        steps: list[str] = []

        async def work() -> None:
            steps.append("began")
            try:
                await asyncio.sleep(600)
            finally:
                steps.append("ended")

        future = run_soon(loop, work)
        until(lambda: steps == ["began"])
        assert future.cancel()
        until(lambda: steps == ["began", "ended"])

    def test_one_that_is_cancelled_before_does_not_begin(
        self, loop: asyncio.AbstractEventLoop
    ) -> None:
        began, busy = threading.Event(), threading.Event()

        async def work() -> None:
            began.set()

        loop.call_soon_threadsafe(busy.wait, 60)
        assert run_soon(loop, work).cancel()
        busy.set()
        assert run_soon(loop, lambda: double(1)).result(60) == 2
        assert not began.is_set()

    def test_cancelled_coroutine_is_cancelled_future(self, loop: asyncio.AbstractEventLoop) -> None:
        async def work() -> None:
            raise asyncio.CancelledError

        with pytest.raises(CancelledError):
            run_soon(loop, work).result(60)

    def test_loop_that_stops_before_leaves_no_unawaited_coroutine(self) -> None:
        loop = asyncio.new_event_loop()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            future = run_soon(loop, fail)
            loop.close()
            del loop
            gc.collect()
        assert [str(one.message) for one in caught if "never awaited" in str(one.message)] == []
        assert not future.done()

    def test_closed_loop_is_refused(self) -> None:
        loop = asyncio.new_event_loop()
        loop.close()
        with pytest.raises(RuntimeError, match="closed"):
            run_soon(loop, fail)
