"""What kills clients of SDKs before 0.24.4, and must not through `resilient(worker)`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.real_sdk import fixed_in, needs

from iii_resilience import NotConnectedError, RetryPolicy
from iii_resilience.client.resilient import Resilient
from iii_resilience.testing import LoopbackEngine


class Slow:
    """A function whose first call is answered late.

    Attributes:
        late: Set by the test when the answer may come.
        sent: Set when the answer is on its way.
    """

    def __init__(self) -> None:
        self.late = threading.Event()
        self.sent = threading.Event()

    def answer(self, data: Any) -> str:
        """The handler."""
        if not self.sent.is_set():
            self.late.wait(60)
            self.sent.set()
        return "done"


@pytest.fixture
def slow(engine: LoopbackEngine, target: Any) -> Iterator[Slow]:
    """``t::slow``."""
    function = Slow()
    target.register_function("t::slow", function.answer)
    engine.wait_registered("t::slow")
    yield function
    function.late.set()


async def called(engine: LoopbackEngine) -> None:
    """Wait until the function is called."""
    while not engine.calls("t::slow"):
        await asyncio.sleep(0.01)


async def time_out(engine: LoopbackEngine, caller: Resilient) -> None:
    """Call the function under a timeout of the user's own, which is over once it runs."""

    async def end(bound: asyncio.Timeout) -> None:
        await called(engine)
        bound.reschedule(asyncio.get_running_loop().time())

    async with asyncio.timeout(None) as bound, asyncio.TaskGroup() as beside:
        beside.create_task(end(bound))
        await caller.trigger_async({"function_id": "t::slow"})


class TestACancelledCall:
    """The late answer to a call that was cancelled inside the SDK ends its receiving for good."""

    async def _goes_on(self, engine: LoopbackEngine, caller: Resilient, slow: Slow) -> None:
        slow.late.set()
        while not slow.sent.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # the late answer has come
        assert await caller.trigger_async({"function_id": "t::slow", "timeout_ms": 5000}) == "done"
        assert len(engine.calls("t::slow")) == 2

    async def test_by_cancel(self, engine: LoopbackEngine, caller: Resilient, slow: Slow) -> None:
        call = asyncio.ensure_future(caller.trigger_async({"function_id": "t::slow"}))
        await called(engine)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await self._goes_on(engine, caller, slow)

    async def test_by_timeout_of_user_s_own(
        self, engine: LoopbackEngine, caller: Resilient, slow: Slow
    ) -> None:
        with pytest.raises(TimeoutError):
            await time_out(engine, caller)
        await self._goes_on(engine, caller, slow)

    def test_on_sdk_s_own_loop(self, engine: LoopbackEngine, caller: Resilient, slow: Slow) -> None:
        async def work() -> None:
            with pytest.raises(TimeoutError):
                await time_out(engine, caller)
            await self._goes_on(engine, caller, slow)

        asyncio.run_coroutine_threadsafe(work(), caller._loop).result(60)


@pytest.mark.parametrize("code", [1000, 1001])
class TestACleanClose:
    @fixed_in((0, 24, 4), "the client does not come back")
    def test_is_said_clearly_and_soon(
        self, engine: LoopbackEngine, caller: Resilient, code: int
    ) -> None:
        engine.wait_workers("caller")
        engine.disconnect("caller", code)
        while caller._connection.connected:
            time.sleep(0.01)
        began = time.monotonic()
        with pytest.raises(NotConnectedError, match="does not open another one") as caught:
            caller.trigger({"function_id": "t::any"}, policy=RetryPolicy(ready_timeout=60.0))
        assert time.monotonic() - began < 10, "it does not wait for what will not come"
        assert "new client" in str(caught.value)

    @fixed_in((0, 24, 4), "the client does not come back")
    async def test_ends_calls_under_way(
        self, engine: LoopbackEngine, caller: Resilient, slow: Slow, code: int
    ) -> None:
        call = asyncio.ensure_future(caller.trigger_async({"function_id": "t::slow"}))
        await called(engine)
        began = time.monotonic()
        engine.wait_workers("caller")
        engine.disconnect("caller", code)
        with pytest.raises(ConnectionError):
            await call
        assert time.monotonic() - began < 10, "its timeout is 30 s"

    @needs((0, 24, 4), "does not come back after a clean close")
    def test_is_survived(
        self, engine: LoopbackEngine, caller: Resilient, slow: Slow, code: int
    ) -> None:
        slow.late.set()
        engine.wait_workers("caller")
        engine.disconnect("caller", code)
        assert caller.trigger({"function_id": "t::slow"}, idempotent=True) == "done"
