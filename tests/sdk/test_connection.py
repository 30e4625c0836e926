"""One client's connection: waits, releases, losses, ends, and forks."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from support.engine_fixtures import connect, engine
from support.waiting import until

from iii_resilience import NotConnectedError, RetryPolicy, resilient
from iii_resilience.core.effects import drive, drive_async
from iii_resilience.sdk.connection import Connection
from iii_resilience.testing import LoopbackEngine

__all__ = ["connect", "engine"]


class TestLink:
    @pytest.mark.parametrize("client", [None, "ws://127.0.0.1", object()])
    def test_what_is_no_client_is_refused(self, client: Any) -> None:
        with pytest.raises(TypeError, match=r"what iii\.register_worker\(\) returned"):
            Connection(client)

    def test_it_is_connected_while_sdk_is(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        connection = Connection(connect())
        assert connection.connected
        engine.stop_listening()
        engine.disconnect()
        while connection.connected:
            time.sleep(0.005)
        assert not drive(connection.wait_connected(0.05))
        engine.listen()
        assert drive(connection.wait_connected(5.0))

    def test_socket_that_is_no_longer_open_is_no_connection(
        self, connect: Callable[..., Any]
    ) -> None:
        """The zombie of SDKs before 0.24.4: its state says connected for ever."""
        client = connect()
        connection = Connection(client)

        class Closed:
            class state:  # noqa: N801 - stands for an enum member
                name = "CLOSED"

        socket, client._ws = client._ws, Closed
        try:
            assert client.get_connection_state() == "connected"
            assert not connection.connected
        finally:
            client._ws = socket

    async def test_coroutines_wait_for_connection_too(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        connection = Connection(connect())
        engine.stop_listening()
        engine.disconnect()
        while connection.connected:
            await asyncio.sleep(0.005)
        assert not await drive_async(connection.wait_connected(0.05))
        thread = threading.Timer(0.1, engine.listen)
        thread.start()
        assert await drive_async(connection.wait_connected(5.0))
        thread.join()

    def test_sdk_without_listeners_is_asked_again_and_again(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        client = connect()

        class Old:
            """What SDKs before 0.21.8 lack."""

            add_connection_state_listener = None

            def __getattr__(self, name: str) -> Any:
                return getattr(client, name)

        connection = Connection(Old())
        engine.stop_listening()
        engine.disconnect()
        while connection.connected:
            time.sleep(0.005)
        thread = threading.Timer(0.1, engine.listen)
        thread.start()
        assert drive(connection.wait_connected(5.0))
        thread.join()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_forked_child_is_told_to_make_client_of_its_own(
        self, connect: Callable[..., Any]
    ) -> None:
        worker = resilient(connect(), policies=RetryPolicy(ready_timeout=0.1))
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            answer = "no error"
            try:
                worker.trigger({"function_id": "t::echo"})
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(writer, answer.encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader) as pipe:
            answer = pipe.read()
        assert answer.startswith("RuntimeError: this client belongs to the parent process")
        assert "register_worker" in answer

    def test_connection_that_comes_before_wait_is_not_waited_for(
        self, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = Shown(connect(), state="disconnected")
        connection = Connection(client)
        add = connection.connections.add

        def comes() -> Any:
            future = add()
            client.state = "connected"
            return future

        monkeypatch.setattr(connection.connections, "add", comes)
        with pytest.raises(StopIteration) as ended:
            next(connection.wait_connected(60.0))
        assert ended.value.value is True

    def test_refusal_that_is_raised_again_keeps_no_frames(
        self, connect: Callable[..., Any]
    ) -> None:
        """The SDK has one object for it, which all callers get."""
        refusal = ValueError("refused")
        connection = Connection(Shown(connect(), state="failed", refusal=refusal))
        frames = []
        for _ in range(3):
            with pytest.raises(ValueError, match="refused"):
                connection.check_usable()
            frames.append(len(traceback.extract_tb(refusal.__traceback__)))
        assert frames == [frames[0]] * 3

    def test_answer_of_engine_is_noted(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        connection = Connection(connect())
        assert not connection.history.answered
        question = connection.ask_functions_info(["t::none"], None)
        connection.run(question).result(5)
        assert connection.history.answered

    def test_work_of_client_ends_with_it(self, connect: Callable[..., Any]) -> None:
        connection = Connection(connect())
        steps: list[str] = []

        async def work() -> None:
            steps.append("began")
            try:
                await asyncio.sleep(60)
            finally:
                steps.append("ended")

        connection.start(work())
        until(lambda: steps == ["began"])
        connection.close()
        until(lambda: steps == ["began", "ended"])

    @pytest.mark.parametrize("closed", [False, True], ids=["stopped", "closed"])
    def test_work_for_loop_that_ended_is_refused(
        self, connect: Callable[..., Any], closed: bool
    ) -> None:
        client = connect()
        connection = Connection(client)
        client.shutdown()
        if closed:
            client._loop.close()
        work = asyncio.sleep(0)
        with pytest.raises(NotConnectedError, match="was shut down"):
            connection.run(work)
        assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED, "else a warning is raised"


class Shown:
    """A real client that shows another state of its connection."""

    def __init__(self, client: Any, state: str, refusal: Exception | None = None) -> None:
        self._real = client
        self._fatal_error = refusal
        self.state = state

    def get_connection_state(self) -> str:
        return self.state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
