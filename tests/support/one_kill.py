"""Many calls in flight at once on something that is killed once, and how many of them fail.

A worker process under calls through `resilient`, and a TCP server under calls of a decorated
coroutine. Knows nothing of what is good or bad: the tests judge, and the benchmark prints.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from iii import InitOptions, register_worker
from support.ports import reserved_port
from support.processes import ECHO, Engine, Worker, failures, read_log

from iii_resilience import RetryPolicy, iii_retry, resilient

_WORK = 60.0  # seconds a call takes in the worker that is killed
_WITHIN = 60.0  # seconds for the calls to arrive
_BEFORE = 1.0  # seconds that other calls fail at random before
_EVERY = 0.02  # seconds between two of them


def through_trigger(
    calls: int, home: Path, policy: RetryPolicy | None = None, *, failing: float = 0.0
) -> int:
    """How many of the calls fail whose worker is killed (SIGKILL); another one takes over.

    Args:
        calls: Calls in flight.
        home: A directory for what the run leaves behind.
        policy: Their policy; None for the default one.
        failing: The part of the attempts that fail for another reason, at random (`failures`): of
            retries, and of 50 other calls a second that come before, meanwhile and after. 0 for no
            others.
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

            async def one(order: str, work: float) -> None:
                payload = {"order": order, "work": work, "at": "first", "failing": failing}
                request = {"function_id": ECHO, "payload": payload, "timeout_ms": 60_000}
                await worker.trigger_async(request, idempotent=True)

            async def main() -> int:
                beside = await _beside(lambda number: one(f"beside {number}", 0.0), failing)
                started = [asyncio.create_task(one(str(n), _WORK)) for n in range(calls)]
                expected = {str(number) for number in range(calls)}
                await _until(lambda: expected <= {run.order for run in read_log(log)})
                await asyncio.to_thread(first.kill)
                await asyncio.to_thread(second.register)
                failures = await _failures(started)
                beside.cancel()
                await asyncio.wait({beside})
                return failures

            return asyncio.run(main())
        finally:
            worker.shutdown()
            first.end()
            second.end()


def through_decorator(
    calls: int, policy: RetryPolicy | None = None, *, failing: float = 0.0
) -> int:
    """How many of the calls fail whose server drops its connections, and accepts new ones at once.

    Args:
        calls: Calls in flight.
        policy: Their policy; None for the default one.
        failing: As for `through_trigger`.
    """

    async def main() -> int:
        server = _Server(failing)
        await server.start()

        @iii_retry(idempotent=True, policy=policy or RetryPolicy())
        async def fetch(how: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                writer.write(how)
                answer = await reader.readexactly(2)
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
            return answer

        beside = await _beside(lambda _: fetch(_QUICK), failing)
        started = [asyncio.create_task(fetch(_LONG)) for _ in range(calls)]
        try:
            await _until(lambda: server.held >= calls)
            await server.restart()
            return await _failures(started)
        finally:
            beside.cancel()
            await asyncio.wait({beside})
            await server.stop()

    return asyncio.run(main())


async def _beside(call: Callable[[int], Awaitable[object]], failing: float) -> asyncio.Task[None]:
    """Other calls, until they are cancelled; returns once there have been some.

    Args:
        call: Makes one.
        failing: The part of attempts that fails; without any there are no other calls.
    """

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in itertools.count() if failing else ():
                group.create_task(one(number))
                await asyncio.sleep(_EVERY)

    async def one(number: int) -> None:
        with suppress(Exception):
            await call(number)

    task = asyncio.create_task(main())
    await asyncio.sleep(_BEFORE if failing else 0.0)
    return task


_QUICK, _LONG = b"q", b"l"


class _Server:
    """Answers long calls after its restart only, and quick ones at once.

    Args:
        failing: The part of the calls whose connection it resets, at random.

    Attributes:
        held: How many long calls have come before the restart.
    """

    def __init__(self, failing: float) -> None:
        self.port = reserved_port()
        self._fails = failures(failing) if failing else itertools.repeat(False)
        self._restarted = False
        self._writers: set[asyncio.StreamWriter] = set()
        self.held = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", self.port, backlog=2048
        )

    async def stop(self) -> None:
        """End at once, as a process does that is killed: connections are reset."""
        assert self._server is not None
        self._server.close()
        writers = list(self._writers)
        for writer in writers:
            _reset(writer)
        await asyncio.gather(*(each.wait_closed() for each in writers), return_exceptions=True)

    async def restart(self) -> None:
        """End, and listen at the same port."""
        self._restarted = True
        await self.stop()
        await self.start()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            how = await reader.readexactly(1)
            if how == _LONG and not self._restarted:
                self.held += 1
                await reader.read()  # until the connection ends
            elif next(self._fails):
                _reset(writer)
            else:
                writer.write(b"ok")
        except (asyncio.IncompleteReadError, OSError):
            pass  # the caller, or this server, has ended
        finally:
            writer.close()
            self._writers.discard(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _WITHIN
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("the calls have not all arrived")
        await asyncio.sleep(0.05)


async def _failures(calls: list[Any] | list[Awaitable[Any]]) -> int:
    ended = await asyncio.gather(*calls, return_exceptions=True)
    return sum(isinstance(each, BaseException) for each in ended)
