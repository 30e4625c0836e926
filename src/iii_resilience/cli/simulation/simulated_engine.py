"""An engine in memory, and the clients that the library's own code drives instead of the SDK's.

It answers calls, says which functions are registered, queues, and goes down: all in the event loop
that runs, so virtual time is its time. Knows nothing of policies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from random import Random
from typing import Any

import attrs

from iii_resilience.cli.simulation.measurement import Recorder
from iii_resilience.cli.simulation.scenario import Incident, Scenario
from iii_resilience.cli.simulation.service_model import (
    Nested,
    ServiceModel,
    SimulatedError,
    not_found,
)
from iii_resilience.config.queue_definition import Queue
from iii_resilience.sdk.engine_api import FUNCTIONS_INFO

_RECONNECTS_WITHIN = 0.5
"""Seconds after the engine's return within which its clients are back, each at its own moment."""
_ENQUEUE = "engine::queue::enqueue"
_SDK_TIMEOUT = 30.0


@attrs.define(eq=False)
class CallTrace:
    """What belongs to one simulated call, in all its attempts.

    Attributes:
        random: Its own random numbers: they do not depend on what other calls do.
        attempts: The attempts so far.
        ended: When the last one ended, in seconds of the loop's time.
    """

    random: Random
    attempts: int = 0
    ended: float = 0.0


current_trace: ContextVar[CallTrace | None] = ContextVar("iii_resilience_simulated", default=None)


class SimulatedEngine:
    """Services, queues and connections.

    Args:
        scenario: What happens.
        queues: The queues that fallbacks name, by name.
        nested: Calls another function for a request that a service serves.
        recorder: What counts.
        random: For what belongs to no call.

    Attributes:
        up: Whether connections to it last.
    """

    def __init__(
        self,
        scenario: Scenario,
        queues: dict[str, Queue],
        nested: Nested,
        recorder: Recorder,
        random: Random,
    ) -> None:
        self.up = True
        self.recorder = recorder
        self._scenario = scenario
        self._services = {
            function_id: ServiceModel(function_id, settings, nested)
            for function_id, settings in scenario.services.items()
        }
        self._random = random
        self._clients: list[SimulatedClient] = []
        self._queues = {name: _QueueModel(queue, self) for name, queue in queues.items()}

    def connect(self) -> SimulatedClient:
        """One more client, which is connected."""
        client = SimulatedClient(self)
        self._clients.append(client)
        return client

    async def follow_timetable(self) -> None:
        """Let incidents begin and end at their times; runs until the last has ended."""
        loop, timetable = asyncio.get_running_loop(), self._scenario.timetable
        began = loop.time()
        for moment in sorted({at for one in timetable for at in (one.start, one.end)}):
            await asyncio.sleep(began + moment - loop.time())
            self._apply([one for one in timetable if one.start <= moment < one.end])

    def _apply(self, under_way: list[Incident]) -> None:
        called = self._scenario.calls.function
        for function_id, service in self._services.items():
            service.apply(one for one in under_way if (one.service or called) == function_id)
        up = not any(one.down == "engine" for one in under_way)
        if up == self.up:
            return
        self.up = up
        loop = asyncio.get_running_loop()
        for client in self._clients:
            if up:
                loop.call_later(self._random.random() * _RECONNECTS_WITHIN, client.comes_back)
            else:
                client.change(connected=False)

    # What clients ask for.

    def functions_info(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Which functions are registered, as the engine answers it."""
        return {
            "functions": [
                {"function_id": function_id, "worker_name": function_id}
                if self._registered(function_id)
                else {"function_id": function_id, "error": "not_found"}
                for function_id in payload["function_ids"]
            ]
        }

    def _registered(self, function_id: str) -> bool:
        if function_id == _ENQUEUE:
            return bool(self._queues)
        service = self._services.get(function_id)
        return service is not None and service.registered

    def place(self, request: dict[str, Any], reply: asyncio.Future[Any], random: Random) -> None:
        """Hand a call to its service.

        Args:
            request: The request, as the SDK takes it.
            reply: Ends with the answer.
            random: Of the call.
        """
        function_id = request["function_id"]
        service = self._services.get(function_id)
        if service is None:
            reply.set_exception(not_found(function_id))
        else:
            service.place(request, reply, random)

    def enqueue(self, request: dict[str, Any], queue: str) -> dict[str, str]:
        """Take a message for a queue; returns its receipt.

        Raises:
            SimulatedError: No queue has that name.
        """
        model = self._queues.get(queue)
        if model is None:
            text = f"Queue {queue} not found"
            raise SimulatedError("enqueue_error", text, request["function_id"])
        return {"messageReceiptId": model.take(request)}

    async def answered(
        self, request: dict[str, Any], seconds: float, expired: Callable[[], Exception]
    ) -> Any:
        """Make one attempt at a service and wait for its answer.

        Args:
            request: The request.
            seconds: Its timeout.
            expired: Makes the error of an attempt that has no answer by then.
        """
        loop, trace = asyncio.get_running_loop(), current_trace.get()
        if trace is None:
            trace = CallTrace(self._random)
        self.recorder.attempt(request["function_id"], trace.attempts, loop.time() - trace.ended)
        trace.attempts += 1
        reply: asyncio.Future[Any] = loop.create_future()
        timer = loop.call_later(seconds, _expire, reply, expired)
        try:
            self.place(request, reply, trace.random)
            return await reply
        finally:
            timer.cancel()
            trace.ended = loop.time()


def _expire(reply: asyncio.Future[Any], expired: Callable[[], Exception]) -> None:
    if not reply.done():
        reply.set_exception(expired())


class SimulatedClient:
    """A client of the engine in memory, as `sdk.client_adapter` takes one.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: SimulatedEngine) -> None:
        self._loop = asyncio.get_running_loop()  # the SDK's clients keep theirs under this name
        self._engine = engine
        self._connected = True
        self._listeners: list[Callable[[str], None]] = []

    def get_connection_state(self) -> str:
        """As the SDK reports it."""
        return "connected" if self._connected else "reconnecting"

    def add_connection_state_listener(self, listener: Callable[[str], None]) -> None:
        """Report each change of the state from now on, and the state now."""
        self._listeners.append(listener)
        listener(self.get_connection_state())

    def comes_back(self) -> None:
        """The client has connected again, unless the engine is gone again."""
        if self._engine.up:
            self.change(connected=True)

    def change(self, *, connected: bool) -> None:
        """The connection has come or gone."""
        if connected != self._connected:
            self._connected = connected
            for listener in self._listeners:
                listener(self.get_connection_state())

    def shutdown(self) -> None:
        """End the connection."""
        self.change(connected=False)

    async def trigger_async(self, request: dict[str, Any]) -> Any:
        """Make one call, as the SDK does."""
        function_id = request["function_id"]
        if function_id == FUNCTIONS_INFO:
            return self._engine.functions_info(request["payload"])
        action = request.get("action")
        if action is not None:
            return self._engine.enqueue(request, action["queue"])
        seconds = request.get("timeout_ms", 1000 * _SDK_TIMEOUT) / 1000

        def expired() -> Exception:
            message = f"invocation of {function_id} timed out after {seconds:g} s"
            return SimulatedError("TIMEOUT", message, function_id)

        return await self._engine.answered(request, seconds, expired)


class _QueueModel:
    """A queue: it delivers its messages, and again where that fails, until they are dead letters.

    A delivery that finds its function missing does not count (docs/engine-notes.md, 9).
    """

    def __init__(self, queue: Queue, engine: SimulatedEngine) -> None:
        self._queue = queue
        self._engine = engine
        self._places = asyncio.Semaphore(queue.concurrency)
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = 0

    def take(self, request: dict[str, Any]) -> str:
        """Keep a message; returns its receipt."""
        self._number += 1
        random = Random(f"{self._queue.name}:{self._number}")
        task = asyncio.get_running_loop().create_task(self._deliver(request, random))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._engine.recorder.queued["queued"] += 1
        return f"{self._queue.name}-{self._number}"

    async def _deliver(self, request: dict[str, Any], random: Random) -> None:
        queue, failures = self._queue, 0
        while failures <= queue.max_retries:
            async with self._places:
                try:
                    await self._handled(request, random)
                except SimulatedError as error:
                    missing = error.code == "function_not_found"
                except TimeoutError:
                    missing = False
                else:
                    self._engine.recorder.queued["delivered"] += 1
                    return
            if missing:
                await asyncio.sleep(queue.poll_interval)
            else:
                await asyncio.sleep(queue.backoff * 2**failures)
                failures += 1
        self._engine.recorder.queued["dead_lettered"] += 1

    async def _handled(self, request: dict[str, Any], random: Random) -> None:
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._engine.place(request, reply, random)
        async with asyncio.timeout(self._queue.timeout):
            await reply
