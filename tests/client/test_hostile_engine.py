"""Engines that the LoopbackEngine does not play: deaf ones, and ones that let nobody in."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from iii import InitOptions, register_worker
from iii.iii_constants import ReconnectionConfig
from support.real_sdk import fixed_in, needs
from support.waiting import until
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from iii_resilience import (
    ConnectionLostError,
    Execution,
    NotConnectedError,
    RetryPolicy,
    hint_for,
    report_for,
    resilient,
)
from iii_resilience.client.resilient import Resilient
from iii_resilience.sdk.connection_state import ConnectionState

AUTH_ERROR = {"type": "error", "error": {"code": "AUTH_ERROR", "message": "who are you?"}}


class HostileEngine:
    """An engine that answers every call with null, until it is told to do worse.

    Attributes:
        refuses: Whether it sends AUTH_ERROR and closes, whoever comes.
        connections: How many have come.
    """

    def __init__(self) -> None:
        self.refuses = False
        self.connections = 0
        self.port = 0
        self._open: set[ServerConnection] = set()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._hears = threading.Event()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()))
        self._thread.start()
        self._listens.wait(10)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def _run(self) -> None:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # soon full
        listening.bind(("127.0.0.1", 0))
        async with serve(self._serve, sock=listening, max_size=None, compression=None):
            self.port = listening.getsockname()[1]
            self._listens.set()
            await self._over.wait()
            for connection in self._open:
                connection.transport.abort()

    async def _serve(self, connection: ServerConnection) -> None:
        self.connections += 1
        if self.refuses:
            await connection.send(json.dumps(AUTH_ERROR))
            connection.transport.close()
            return
        self._open.add(connection)
        try:
            async for text in connection:
                message = json.loads(text)
                if "invocation_id" in message:
                    await connection.send(json.dumps(self._answer(message)))
        except ConnectionClosed:
            pass
        finally:
            self._open.discard(connection)

    @staticmethod
    def _answer(message: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "type": "invocationresult",
            "invocation_id": message["invocation_id"],
            "function_id": message["function_id"],
        }
        if message["function_id"] == "engine::functions::info":
            return {**answer, "error": {"code": "FORBIDDEN", "message": "no questions"}}
        return {**answer, "result": "done"}

    def stop_reading(self) -> None:
        """Take no more bytes from anybody, until `cut`."""
        self._hears.clear()
        self._loop.call_soon_threadsafe(self._hears.wait)

    def cut(self) -> None:
        """End every connection."""
        self._hears.set()

        async def abort() -> None:
            for connection in self._open:
                connection.transport.abort()

        asyncio.run_coroutine_threadsafe(abort(), self._loop).result(5)

    def stop(self) -> None:
        self._hears.set()
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def hostile() -> Iterator[HostileEngine]:
    engine = HostileEngine()
    yield engine
    engine.stop()


@pytest.fixture
def worker(hostile: HostileEngine) -> Iterator[Resilient]:
    options = InitOptions(
        worker_name="caller",
        otel={"enabled": False},
        reconnection_config=ReconnectionConfig(initial_delay_ms=20, max_delay_ms=50),
    )
    made = resilient(register_worker(hostile.url, options), policies=RetryPolicy())
    yield made
    hostile.cut()  # a blocked send would keep the SDK from closing
    made.shutdown()


class TestBlockedSocket:
    """The SDK's own timeout does not bound the send."""

    REQUEST: ClassVar = {
        "function_id": "t::big",
        "payload": {"x": "x" * 15_000_000},
        "timeout_ms": 500,
    }

    def _judge(self, error: BaseException, took: float) -> None:
        assert isinstance(error, ConnectionLostError)
        assert "did not end within its timeout of 0.5 s" in str(error)
        assert 0.4 < took < 30, "0.75 s on a machine with nothing else to do; else it never ends"
        report = report_for(error)
        assert report is not None
        assert report.execution is Execution.MAYBE_EXECUTED

    def test_call_from_thread_ends_near_its_timeout(
        self, hostile: HostileEngine, worker: Resilient
    ) -> None:
        assert worker.trigger({"function_id": "t::big"}) == "done"
        hostile.stop_reading()
        began = time.monotonic()
        with pytest.raises(ConnectionLostError) as caught:
            worker.trigger(self.REQUEST)
        self._judge(caught.value, time.monotonic() - began)

    async def test_call_from_coroutine_ends_near_its_timeout(
        self, hostile: HostileEngine, worker: Resilient
    ) -> None:
        assert await worker.trigger_async({"function_id": "t::big"}) == "done"
        hostile.stop_reading()
        began = time.monotonic()
        with pytest.raises(ConnectionLostError) as caught:
            await worker.trigger_async(self.REQUEST)
        self._judge(caught.value, time.monotonic() - began)

    def test_so_does_one_from_coroutine_on_sdk_s_own_loop(
        self, hostile: HostileEngine, worker: Resilient
    ) -> None:
        hostile.stop_reading()
        began = time.monotonic()
        call = asyncio.run_coroutine_threadsafe(
            worker.trigger_async(self.REQUEST, policy=RetryPolicy(ready_timeout=0.0)), worker._loop
        )
        self._judge(call.exception(20) or AssertionError("no error"), time.monotonic() - began)

    def test_once_connection_is_cut_calls_go_through_again(
        self, hostile: HostileEngine, worker: Resilient
    ) -> None:
        hostile.stop_reading()
        with pytest.raises(ConnectionLostError):
            worker.trigger(self.REQUEST, policy=RetryPolicy(ready_timeout=0.0))
        epoch = worker._connection.epoch
        hostile.cut()
        until(lambda: worker._connection.epoch > epoch)
        assert worker.trigger({"function_id": "t::big"}, policy=RetryPolicy(ready_timeout=10.0))


class TestRefusedHandshake:
    @needs((0, 24, 4), "takes such an end for none, and does not come back")
    def test_it_is_recognised_and_says_what_to_fix(
        self, hostile: HostileEngine, worker: Resilient
    ) -> None:
        hostile.refuses = True
        hostile.cut()
        until(lambda: hostile.connections >= 6)
        began = time.monotonic()
        with pytest.raises(NotConnectedError, match="seems to refuse the worker") as caught:
            worker.trigger({"function_id": "t::any"}, policy=RetryPolicy(ready_timeout=30.0))
        assert time.monotonic() - began < 10, "it does not wait for what will not come"
        hint = hint_for(caught.value)
        assert hint is not None
        assert hint.action == "fix-access"

    @needs((0, 24, 4), "takes such an end for none, and does not come back")
    def test_it_recovers_when_engine_lets_it_in_again(
        self, hostile: HostileEngine, worker: Resilient
    ) -> None:
        hostile.refuses = True
        hostile.cut()
        until(lambda: worker._connection.refused)
        hostile.refuses = False
        until(lambda: not worker._connection.refused)
        assert worker.trigger({"function_id": "t::any"}) == "done"

    @fixed_in((0, 24, 4), "such an end is taken for none, and the client does not come back")
    def test_client_that_stays_away_fails_fast_and_shuts_down(
        self, hostile: HostileEngine, worker: Resilient
    ) -> None:
        hostile.refuses = True
        hostile.cut()
        until(lambda: worker._connection.state is ConnectionState.REFUSED_ONCE)
        began = time.monotonic()
        with pytest.raises(NotConnectedError, match=r"does not open another one") as caught:
            worker.trigger({"function_id": "t::any"}, policy=RetryPolicy(ready_timeout=60.0))
        assert time.monotonic() - began < 5
        assert "seems to refuse the worker" in str(caught.value)
        hint = hint_for(caught.value)
        assert hint is not None
        assert hint.action == "fix-access"
        worker.shutdown()  # the SDK raises here, and leaves its thread behind
        assert not worker._thread.is_alive()

    def test_who_waits_already_learns_of_it_on_every_version(
        self, hostile: HostileEngine, worker: Resilient
    ) -> None:
        hostile.refuses = True
        hostile.cut()
        with pytest.raises(NotConnectedError):
            worker.trigger({"function_id": "t::any"}, policy=RetryPolicy(ready_timeout=60.0))
