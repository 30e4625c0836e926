"""Many calls in flight at once on something that is killed once, and how many of them fail.

A worker process under calls through `resilient`, and a TCP server under calls of a decorated
coroutine. Knows nothing of what is good or bad: the tests judge, and the benchmark prints.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from iii import InitOptions, register_worker
from support.processes import ECHO, Engine, Worker, read_log

from iii_resilience import RetryPolicy, iii_retry, resilient

_WORK = 8.0  # seconds a call takes in the worker: all have arrived before the first one ends
_WITHIN = 60.0  # seconds for the calls to arrive


def through_trigger(calls: int, home: Path, policy: RetryPolicy | None = None) -> int:
    """How many of the calls fail whose worker is killed (SIGKILL); another one takes over.

    Args:
        calls: Calls in flight.
        home: A directory for what the run leaves behind.
        policy: Their policy; None for the default one.
    """
    log = home / "runs.log"
    with Engine(home) as engine:
        first = Worker(engine.url, "first", log, home=home)
        second = Worker(engine.url, "second", log, home=home)
        options = InitOptions(worker_name="caller", otel={"enabled": False})
        worker = resilient(register_worker(engine.url, options), policies=policy or RetryPolicy())
        try:
            first.register()
            engine.call("wait_registered", ECHO)

            async def one(number: int) -> None:
                payload = {"order": str(number), "work": _WORK}
                request = {"function_id": ECHO, "payload": payload, "timeout_ms": 60_000}
                await worker.trigger_async(request, idempotent=True)

            async def main() -> int:
                started = [asyncio.create_task(one(number)) for number in range(calls)]
                await _until(lambda: len(read_log(log)) >= calls)
                await asyncio.to_thread(first.kill)
                await asyncio.to_thread(second.register)
                return await _failures(started)

            return asyncio.run(main())
        finally:
            worker.shutdown()
            first.end()
            second.end()


def through_decorator(calls: int, policy: RetryPolicy | None = None) -> int:
    """How many of the calls fail whose server drops its connections, and accepts new ones at once.

    Args:
        calls: Calls in flight.
        policy: Their policy; None for the default one.
    """

    async def main() -> int:
        server = _Server()
        await server.start()

        @iii_retry(idempotent=True, policy=policy or RetryPolicy())
        async def fetch() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                answer = await reader.readexactly(2)
            finally:
                writer.close()
            return answer

        started = [asyncio.create_task(fetch()) for _ in range(calls)]
        try:
            await _until(lambda: server.open >= calls)
            await server.restart()
            return await _failures(started)
        finally:
            await server.stop()

    return asyncio.run(main())


class _Server:
    """Answers no connection before its restart, and each one after it."""

    def __init__(self) -> None:
        self.port = 0
        self._restarted = False
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._writers)

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", self.port, backlog=2048
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End at once, as a process does that is killed: connections are reset."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._writers.clear()

    async def restart(self) -> None:
        """End, and listen at the same port."""
        await self.stop()
        self._restarted = True
        await self.start()

    async def _connected(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._restarted:
            writer.write(b"ok")
            writer.close()
        else:
            self._writers.append(writer)


async def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _WITHIN
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("the calls have not all arrived")
        await asyncio.sleep(0.05)


async def _failures(calls: list[Any] | list[Awaitable[Any]]) -> int:
    ended = await asyncio.gather(*calls, return_exceptions=True)
    return sum(isinstance(each, BaseException) for each in ended)
