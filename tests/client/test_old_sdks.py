"""What kills clients of SDKs before 0.24.4, and must not through `resilient(worker)`."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from support.real_sdk import fixed_in, needs

from iii_resilience import NotConnectedError, RetryPolicy
from iii_resilience.client.resilient import Resilient
from iii_resilience.testing import LoopbackEngine


@pytest.fixture
def answered(engine: LoopbackEngine, target: Any) -> threading.Event:
    """A function whose first call takes a while; set when its answer is on its way."""
    sent = threading.Event()

    def slow(data: Any) -> str:
        if not sent.is_set():
            time.sleep(0.4)
            sent.set()
        return "done"

    target.register_function("t::slow", slow)
    engine.wait_registered("t::slow")
    return sent


class TestACancelledCall:
    """The late answer to a call that was cancelled inside the SDK ends its receiving for good."""

    async def _goes_on(self, engine: LoopbackEngine, caller: Resilient) -> None:
        await asyncio.sleep(0.2)  # the late answer has come
        assert await caller.trigger_async({"function_id": "t::slow", "timeout_ms": 5000}) == "done"
        assert len(engine.calls("t::slow")) == 2

    async def test_by_cancel(
        self, engine: LoopbackEngine, caller: Resilient, answered: threading.Event
    ) -> None:
        call = asyncio.ensure_future(caller.trigger_async({"function_id": "t::slow"}))
        while not engine.calls("t::slow"):
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(answered.wait, 10)
        await self._goes_on(engine, caller)

    async def test_by_timeout_of_user_s_own(
        self, engine: LoopbackEngine, caller: Resilient, answered: threading.Event
    ) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(caller.trigger_async({"function_id": "t::slow"}), 0.2)
        assert await asyncio.to_thread(answered.wait, 10)
        await self._goes_on(engine, caller)

    def test_on_sdk_s_own_loop(
        self, engine: LoopbackEngine, caller: Resilient, answered: threading.Event
    ) -> None:
        async def work() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(caller.trigger_async({"function_id": "t::slow"}), 0.2)
            while not answered.is_set():
                await asyncio.sleep(0.01)
            await self._goes_on(engine, caller)

        asyncio.run_coroutine_threadsafe(work(), caller._loop).result(20)


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
        self, engine: LoopbackEngine, caller: Resilient, answered: threading.Event, code: int
    ) -> None:
        call = asyncio.ensure_future(caller.trigger_async({"function_id": "t::slow"}))
        while not engine.calls("t::slow"):
            await asyncio.sleep(0.01)
        began = time.monotonic()
        engine.wait_workers("caller")
        engine.disconnect("caller", code)
        with pytest.raises(ConnectionError):
            await call
        assert time.monotonic() - began < 5, "its timeout is 30 s"
        assert await asyncio.to_thread(answered.wait, 10)

    @needs((0, 24, 4), "does not come back after a clean close")
    def test_is_survived(
        self, engine: LoopbackEngine, caller: Resilient, answered: threading.Event, code: int
    ) -> None:
        engine.wait_workers("caller")
        engine.disconnect("caller", code)
        assert caller.trigger({"function_id": "t::slow"}, idempotent=True) == "done"
