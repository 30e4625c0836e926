"""Calls that were handed to the SDK: how they end where the SDK would let them hang."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from support.waiting import until

from iii_resilience import (
    Backoff,
    ConnectionLostError,
    Execution,
    NotConnectedError,
    RetryPolicy,
    report_for,
    resilient,
)
from iii_resilience.client.resilient import Resilient
from iii_resilience.core.failure import Failure
from iii_resilience.sdk.connection import Connection
from iii_resilience.sdk.in_flight_call import AsyncCall, Ended, InFlightCall, SyncCall, wake_all
from iii_resilience.sdk.pending_calls import AT_ONCE, PART, InFlightCalls
from iii_resilience.sdk.send_check import SendRefused
from iii_resilience.sdk.versions import sdk_of

QUICK = RetryPolicy(ready_timeout=0.2)
CALL = {"function_id": "t::echo", "payload": {"n": 1}, "timeout_ms": 30_000}
SHORT = {**CALL, "timeout_ms": 100}


class Client:
    """What an SDK's client shows of itself, and no more; it answers what it is told to."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        runs = threading.Event()  # a loop that does not run yet looks like one that has ended
        self.loop.call_soon(runs.set)
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        runs.wait()
        self.state = "connected"
        self.requests: list[dict[str, Any]] = []
        self.cancelled = 0
        self.hangs = False

    def get_connection_state(self) -> str:
        return self.state

    def shutdown(self) -> None:
        async def end() -> None:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def answer(self, request: dict[str, Any]) -> Any:
        if request["function_id"] == "engine::functions::info":
            return {"functions": [{"function_id": "t::echo", "worker_name": "w"}]}
        self.requests.append(request)
        try:
            await asyncio.sleep(30 if self.hangs else 0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request["payload"]


class Usual(Client):
    """SDK 0.9 to 0.25: a loop of its own, though no public way to it."""

    def __init__(self) -> None:
        super().__init__()
        self._loop, self._thread = self.loop, self.thread

    def trigger(self, request: dict[str, Any]) -> Any:
        raise AssertionError("the wrapper goes through trigger_async")

    async def trigger_async(self, request: dict[str, Any]) -> Any:
        return await self.answer(request)


class Renamed(Client):
    """SDK 0.26: call instead of trigger. This one does not even show its loop."""

    def call(self, request: dict[str, Any]) -> Any:
        raise AssertionError("the wrapper goes through call_async")

    async def call_async(self, request: dict[str, Any]) -> Any:
        return await self.answer(request)


@pytest.fixture(params=[Usual, Renamed])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    if made.thread.is_alive():
        made.shutdown()


@pytest.fixture
def sigint_raises() -> Iterator[None]:
    """Python's own handler, which a process started with SIGINT ignored (`command &`) lacks."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture
def worker(client: Any) -> Iterator[Resilient]:
    made = resilient(client, policies=QUICK)
    yield made
    made.shutdown()


class TestAnyClient:
    def test_both_names_of_call_work(self, worker: Resilient) -> None:
        assert worker.trigger(CALL) == worker.call(CALL) == {"n": 1}

    async def test_both_names_work_for_coroutines(self, worker: Resilient) -> None:
        assert await worker.trigger_async(CALL) == await worker.call_async(CALL) == {"n": 1}

    def test_threads_do_not_wait_for_each_other(self, worker: Resilient) -> None:
        results: list[Any] = []
        threads = [
            threading.Thread(target=lambda: results.append(worker.trigger(CALL))) for _ in range(50)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert results == [{"n": 1}] * 50

    def test_client_without_any_call_is_none(self) -> None:
        class Bare:
            def get_connection_state(self) -> str:
                return "connected"

            def shutdown(self) -> None: ...

        with pytest.raises(TypeError, match="has no trigger_async"):
            resilient(Bare())


class TestStuck:
    """A blocked socket, or a loop that stands still: the SDK does not keep the timeout."""

    def test_call_ends_soon_after_its_timeout(self, client: Any, worker: Resilient) -> None:
        client.hangs = True
        began = time.monotonic()
        with pytest.raises(ConnectionLostError, match=r"its timeout of 0\.1 s") as caught:
            worker.trigger(SHORT)
        assert 0.1 <= time.monotonic() - began < 5
        report = report_for(caught.value)
        assert report is not None
        assert report.execution is Execution.MAYBE_EXECUTED

    async def test_so_does_one_of_coroutine(self, client: Any, worker: Resilient) -> None:
        client.hangs = True
        began = time.monotonic()
        with pytest.raises(ConnectionLostError, match=r"its timeout of 0\.1 s"):
            await worker.trigger_async(SHORT)
        assert 0.1 <= time.monotonic() - began < 5

    def test_longer_timeout_is_waited_out(self, client: Any, worker: Resilient) -> None:
        client.hangs = True
        began = time.monotonic()
        with pytest.raises(ConnectionLostError):
            worker.trigger({**CALL, "timeout_ms": 1200})
        assert time.monotonic() - began >= 1.2


class TestCancelling:
    async def cancel(self, client: Any, version: tuple[int, ...]) -> None:
        connection = Connection(client, sdk_of(version))
        client.hangs = True
        call = asyncio.ensure_future(connection.in_flight.send_async(CALL, seconds=30.0))
        while not client.requests:
            await asyncio.sleep(0.005)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    async def test_before_0_24_4_sdk_s_own_part_is_left_alone(self, client: Any) -> None:
        await self.cancel(client, (0, 24, 3))
        await asyncio.sleep(0.05)
        assert client.cancelled == 0

    async def test_failure_of_abandoned_part_is_not_logged(
        self, client: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        gc.collect()  # what other tests have left on loops that have ended is logged now
        caplog.clear()
        connection = Connection(client, sdk_of((0, 24, 3)))
        fails = threading.Event()

        async def fail_late(_: Any) -> Any:
            client.requests.append(_)
            while not fails.is_set():
                await asyncio.sleep(0.005)
            raise ValueError("late")

        connection.in_flight._call = fail_late
        call = asyncio.ensure_future(connection.in_flight.send_async(CALL, seconds=30.0))
        while not client.requests:
            await asyncio.sleep(0.005)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        (left,) = connection.in_flight._left
        fails.set()
        while not left.done():
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.01)
        del left
        gc.collect()
        assert [r for r in caplog.records if r.name == "asyncio"] == []

    async def test_from_then_on_it_is_cancelled_too(self, client: Any) -> None:
        await self.cancel(client, (0, 24, 4))
        until(lambda: client.cancelled == 1)

    @pytest.mark.parametrize("version", [(0, 24, 3), (0, 25, 0)])
    async def test_lost_connection_is_no_cancellation(
        self, client: Any, version: tuple[int, ...]
    ) -> None:
        connection = Connection(client, sdk_of(version))
        client.hangs = True
        call = asyncio.ensure_future(connection.in_flight.send_async(CALL, seconds=30.0))
        while not client.requests:
            await asyncio.sleep(0.005)
        connection.in_flight.connection_lost()
        with pytest.raises(ConnectionLostError, match="was lost while the call was in flight"):
            await call
        assert len(connection.in_flight) == 0


class Refuses:
    """A send check that is never consulted."""

    def __init__(self) -> None:
        self.classified: list[Failure] = []

    def may_send(self) -> bool:
        raise AssertionError("asked about a call that is lost")

    def classify(self, error: Exception) -> Failure:
        raise AssertionError(f"asked about {error!r}")


class TestDeparture:
    """Between being handed over and being sent a call is in nobody's hands but ours."""

    @pytest.fixture
    def connection(self, client: Any) -> Connection:
        return Connection(client, sdk_of((0, 25, 0)))

    @pytest.fixture
    def lost_before(self, client: Any, connection: Connection) -> Iterator[None]:
        """The SDK's loop is busy while calls are handed to it, and then loses the connection."""
        busy = threading.Event()

        def lose() -> None:
            busy.wait(5)
            connection.in_flight.connection_lost()

        connection.loop.call_soon_threadsafe(lose)

        def handed_over() -> None:
            while not len(connection.in_flight):
                time.sleep(0.001)
            busy.set()

        watcher = threading.Thread(target=handed_over)
        watcher.start()
        yield
        watcher.join()

    @pytest.mark.usefixtures("lost_before")
    def test_call_lost_before_sending_is_never_sent(
        self, client: Any, connection: Connection
    ) -> None:
        with pytest.raises(NotConnectedError, match="lost before the call; nothing was sent"):
            connection.in_flight.send(CALL, seconds=30.0)
        time.sleep(0.05)
        assert client.requests == []

    @pytest.mark.usefixtures("lost_before")
    def test_one_with_gate_is_held_back(self, client: Any, connection: Connection) -> None:
        with pytest.raises(SendRefused):
            connection.in_flight.send(CALL, seconds=30.0, send_check=Refuses())
        time.sleep(0.05)
        assert client.requests == []

    async def test_coroutine_that_is_cancelled_first_sends_nothing(
        self, client: Any, connection: Connection
    ) -> None:
        busy = threading.Event()
        connection.loop.call_soon_threadsafe(busy.wait, 5)
        call = asyncio.ensure_future(connection.in_flight.send_async(CALL, seconds=30.0))
        while not len(connection.in_flight):
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        busy.set()
        await asyncio.sleep(0.05)
        assert client.requests == []


class MissingError(Exception):
    """As the SDK raises what the engine answers."""

    code = "function_not_found"


class TestPace:
    """Many that are let go at once do not all leave before the first of them is answered."""

    CALLS = 50

    async def test_first_answer_holds_back_rest(self, client: Any, worker: Resilient) -> None:
        await worker.trigger_async(CALL)
        client.requests.clear()
        sent_before_the_news: list[int] = []

        async def answer(request: dict[str, Any]) -> Any:
            if request["function_id"] == "engine::functions::info":
                sent_before_the_news.append(len(client.requests))
                return {"functions": [{"function_id": "t::echo", "worker_name": "w"}]}
            client.requests.append(request)
            first = len(client.requests) == 1
            await asyncio.sleep(0)
            if first:
                raise MissingError
            return request["payload"]

        client.answer = answer
        busy = threading.Event()
        worker._connection.loop.call_soon_threadsafe(busy.wait, 5)  # so that they come all at once
        calls = [asyncio.ensure_future(worker.trigger_async(CALL)) for _ in range(self.CALLS)]
        while len(worker._connection.in_flight) < self.CALLS:
            await asyncio.sleep(0.001)
        busy.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, MissingError) for result in results) == 1
        assert results.count({"n": 1}) == self.CALLS - 1
        assert sent_before_the_news[0] <= 2 * AT_ONCE

    @pytest.mark.parametrize("at_home", [False, True])
    async def test_calls_leave_one_at_a_time_after_loss(
        self, client: Any, worker: Resilient, at_home: bool
    ) -> None:
        """Also where they are made on the SDK's own loop, as a handler makes them."""
        in_flight, loop, sent = worker._connection.in_flight, worker._connection.loop, 0
        most: list[int] = []

        async def answer(request: dict[str, Any]) -> Any:
            nonlocal sent
            sent += 1
            if sent == 1:
                asyncio.get_running_loop().call_soon(iteration_ended)
            return request["payload"]

        def iteration_ended() -> None:
            nonlocal sent
            most.append(sent)
            sent = 0

        async def calls_at_home() -> None:
            await asyncio.gather(*(worker.trigger_async(CALL) for _ in range(3 * AT_ONCE)))

        async def calls_from_here() -> None:
            busy = threading.Event()
            loop.call_soon_threadsafe(busy.wait, 5)
            calls = [asyncio.ensure_future(worker.trigger_async(CALL)) for _ in range(3 * AT_ONCE)]
            while len(in_flight) < len(calls):
                await asyncio.sleep(0.001)
            busy.set()
            await asyncio.gather(*calls)

        async def burst() -> None:
            if at_home:
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(calls_at_home(), loop))
            else:
                await calls_from_here()
            while sum(most) < 3 * AT_ONCE:  # the last iteration may not have ended
                await asyncio.sleep(0.001)

        await worker.trigger_async(CALL)
        client.answer = answer
        await burst()
        assert max(most) == AT_ONCE
        most.clear()
        in_flight.pace()
        await burst()
        assert max(most) == 1

    async def test_of_many_one_in_32_leaves_in_an_iteration(
        self, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connection = Connection(client, sdk_of((0, 25, 0)))
        in_flight, left = connection.in_flight, [20 * PART]
        send_waiting = in_flight._send_waiting

        def counted() -> None:
            send_waiting()
            left.append(len(in_flight._waiting))

        monkeypatch.setattr(in_flight, "_send_waiting", counted)
        busy = threading.Event()
        connection.loop.call_soon_threadsafe(busy.wait, 60)
        send = partial(in_flight.send_async, CALL, seconds=60.0)
        calls = [asyncio.ensure_future(send()) for _ in range(left[0])]
        while len(in_flight) < len(calls):
            await asyncio.sleep(0.001)
        busy.set()
        await asyncio.gather(*calls)
        for before, after in itertools.pairwise(left):
            assert before - after == min(before, max(AT_ONCE, before // PART))

    async def test_loop_is_woken_once_for_calls_that_come_together(
        self, client: Any, worker: Resilient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await worker.trigger_async(CALL)
        loop, in_flight = worker._connection.loop, worker._connection.in_flight
        woken: list[Any] = []
        wake = loop.call_soon_threadsafe
        busy = threading.Event()
        wake(busy.wait, 5)

        def counted(what: Any, *more: Any) -> Any:
            woken.append(what)
            return wake(what, *more)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        calls = [asyncio.ensure_future(worker.trigger_async(CALL)) for _ in range(20)]
        while len(in_flight) < len(calls):
            await asyncio.sleep(0.001)
        assert woken == [in_flight._send_waiting]
        busy.set()
        assert await asyncio.gather(*calls) == [{"n": 1}] * 20

    async def test_loop_of_callers_is_woken_once_for_answers_that_come_together(
        self, client: Any, worker: Resilient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await worker.trigger_async(CALL)
        here, in_flight = asyncio.get_running_loop(), worker._connection.in_flight
        home = worker._connection.loop
        answered = home.create_future()

        async def answer(request: dict[str, Any]) -> Any:
            await asyncio.shield(answered)
            return request["payload"]

        client.answer = answer
        calls = [asyncio.ensure_future(worker.trigger_async(CALL)) for _ in range(20)]
        while sum(call.sent for call in in_flight._remote) < len(calls):
            await asyncio.sleep(0.001)
        woken: list[Any] = []
        wake = here.call_soon_threadsafe

        def counted(what: Any, *more: Any, **context: Any) -> Any:
            woken.append(what)
            return wake(what, *more, **context)

        monkeypatch.setattr(here, "call_soon_threadsafe", counted)
        home.call_soon_threadsafe(answered.set_result, None)
        assert await asyncio.gather(*calls) == [{"n": 1}] * 20
        assert len(woken) == 1

    async def test_loop_does_not_look_again_after_call_that_is_alone(
        self, worker: Resilient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await worker.trigger_async(CALL)
        in_flight, looks = worker._connection.in_flight, 0
        look = in_flight._send_waiting

        def counted() -> None:
            nonlocal looks
            looks += 1
            look()

        monkeypatch.setattr(in_flight, "_send_waiting", counted)
        for _ in range(3):
            await worker.trigger_async(CALL)
        assert looks == 3

    async def test_each_leaves_in_context_of_its_caller(
        self, client: Any, worker: Resilient
    ) -> None:
        """What the SDK sends of it (the trace, the call that is being handled) is the caller's."""
        who: contextvars.ContextVar[int] = contextvars.ContextVar("who")
        seen: list[tuple[int, int]] = []

        async def answer(request: dict[str, Any]) -> Any:
            seen.append((request["payload"]["n"], who.get()))
            return request["payload"]

        async def call(number: int) -> None:
            who.set(number)
            await worker.trigger_async({**CALL, "payload": {"n": number}})

        await worker.trigger_async(CALL)
        client.answer = answer
        busy = threading.Event()
        worker._connection.loop.call_soon_threadsafe(busy.wait, 5)
        calls = [asyncio.ensure_future(call(number)) for number in range(5)]
        while len(worker._connection.in_flight) < len(calls):
            await asyncio.sleep(0.001)
        busy.set()
        await asyncio.gather(*calls)
        assert seen == [(number, number) for number in range(5)]

    @staticmethod
    def handed_over(connection: Connection, calls: int) -> bool:
        return len(connection.in_flight._waiting) == calls

    def test_they_leave_in_order(self, client: Any) -> None:
        connection = Connection(client, sdk_of((0, 25, 0)))
        busy = threading.Event()
        connection.loop.call_soon_threadsafe(busy.wait, 60)
        threads = []
        for number in range(20):
            request = {**CALL, "payload": {"n": number}}
            thread = threading.Thread(
                target=connection.in_flight.send, args=[request], kwargs={"seconds": 60.0}
            )
            thread.start()
            threads.append(thread)
            until(partial(self.handed_over, connection, number + 1))
        busy.set()
        for thread in threads:
            thread.join(60)
        assert [request["payload"]["n"] for request in client.requests] == list(range(20))


def another_call() -> InFlightCall:
    """A call that is in flight as well, and whose thread has woken already."""
    return SyncCall(None)


class TestEnd:
    @pytest.fixture(autouse=True)
    def looks_often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("iii_resilience.sdk.pending_calls._LOOK_AFTER_THE_LOOP", 0.1)

    def in_flight(
        self, client: Any, usable: Callable[..., None], *, error: type[BaseException] | None = None
    ) -> InFlightCalls:
        async def call(request: dict[str, Any]) -> Any:
            if error is not None:
                raise error
            return await client.answer(request)

        return InFlightCalls(client.loop, self.fine, call, usable, may_cancel=True)

    @staticmethod
    def fine(*_: Any, **__: Any) -> None:
        """Nothing is wrong with the client."""

    @staticmethod
    def ended(**_: Any) -> None:
        raise NotConnectedError("this client was shut down; nothing was sent")

    @staticmethod
    def turns(loop: asyncio.AbstractEventLoop) -> None:
        """The SDK's loop has done what it had to do."""
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result(60)

    def test_answer_is_not_lost_where_loop_stops_before_waking_threads(self, client: Any) -> None:
        def usable(**_: Any) -> None:
            if not client.loop.is_running():
                self.ended()

        in_flight = self.in_flight(client, usable)

        async def call(request: dict[str, Any]) -> Any:
            client.loop.stop()  # no further iteration follows this one
            return request["payload"]

        in_flight._call = call
        in_flight._local[another_call()] = None
        began = time.monotonic()
        assert in_flight.send(CALL, seconds=30.0) == {"n": 1}
        assert time.monotonic() - began < 10
        client.thread.join(60)
        client.loop.close()

    async def test_neither_is_one_for_coroutine(self, client: Any) -> None:
        in_flight = self.in_flight(client, self.fine)

        async def call(request: dict[str, Any]) -> Any:
            client.loop.stop()
            return request["payload"]

        in_flight._call = call
        in_flight._local[another_call()] = None
        assert await in_flight.send_async(CALL, seconds=0.1) == {"n": 1}
        client.thread.join(60)
        client.loop.close()

    async def test_interrupt_of_one_coroutine_wakes_the_others(self) -> None:
        loop = asyncio.get_running_loop()
        raised: list[BaseException] = []

        class InterruptError(BaseException):
            """Not a KeyboardInterrupt, which would end the loop of this test."""

        class Interrupted(asyncio.Future[Any]):
            def set_result(self, _: Any) -> None:
                raise InterruptError

        futures: list[asyncio.Future[Any]] = [Interrupted(), loop.create_future()]
        ended: deque[Ended] = deque(
            (AsyncCall(None, loop, future), "answer", None) for future in futures
        )
        loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
        wake_all(ended)
        assert await asyncio.wait_for(futures[1], 10) == "answer"
        assert [type(error) for error in raised] == [InterruptError]

    def test_threads_wake_after_what_else_the_iteration_does(
        self, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A thread that looks after the loop wakes the others too.
        monkeypatch.setattr("iii_resilience.sdk.pending_calls._LOOK_AFTER_THE_LOOP", 60.0)
        order: list[str] = []

        async def call(request: dict[str, Any]) -> Any:
            asyncio.get_running_loop().call_soon(order.append, "other")
            order.append("answered")
            return request["payload"]

        in_flight = InFlightCalls(client.loop, self.fine, call, self.fine, may_cancel=True)
        settle = SyncCall.settle

        def woken(call: SyncCall, *ended: Any) -> None:
            order.append("woken")
            settle(call, *ended)

        monkeypatch.setattr(SyncCall, "settle", woken)
        assert in_flight.send(CALL, seconds=30.0) == {"n": 1}
        until(lambda: order == ["answered", "woken", "other"])  # it was alone
        order.clear()
        in_flight._local[another_call()] = None
        assert in_flight.send(CALL, seconds=30.0) == {"n": 1}
        assert order[:3] == ["answered", "other", "woken"]

    def test_client_ending_under_call_does_not_claim_unsent(self, client: Any) -> None:
        def usable(**_: Any) -> None:
            if client.requests:
                self.ended()

        client.hangs = True
        with pytest.raises(ConnectionLostError, match="may have run"):
            self.in_flight(client, usable).send(CALL, seconds=30.0)

    def test_call_never_taken_by_ended_loop_claims_unsent(self, client: Any) -> None:
        busy = threading.Event()
        client.loop.call_soon_threadsafe(busy.wait, 5)
        in_flight = self.in_flight(client, self.ended)
        with pytest.raises(NotConnectedError, match="nothing was sent"):
            in_flight.send(CALL, seconds=30.0)
        assert len(in_flight) == 0
        busy.set()
        self.turns(client.loop)
        assert client.requests == []

    def test_so_does_one_that_blocked_loop_did_not_take_in_time(self, client: Any) -> None:
        busy = threading.Event()
        client.loop.call_soon_threadsafe(busy.wait, 5)
        with pytest.raises(NotConnectedError, match=r"timeout of 0\.1 s.*nothing was sent"):
            self.in_flight(client, self.fine).send(CALL, seconds=0.1)
        busy.set()
        self.turns(client.loop)
        assert client.requests == []

    async def test_so_does_one_of_coroutine(self, client: Any) -> None:
        busy = threading.Event()
        client.loop.call_soon_threadsafe(busy.wait, 5)
        with pytest.raises(NotConnectedError, match=r"timeout of 0\.1 s.*nothing was sent"):
            await self.in_flight(client, self.fine).send_async(CALL, seconds=0.1)
        busy.set()
        self.turns(client.loop)
        assert client.requests == []

    @pytest.mark.parametrize("may_cancel", [False, True])
    def test_nothing_is_sent_after_its_caller_has_ended(
        self, client: Any, may_cancel: bool
    ) -> None:
        """The loop takes the call, and is blocked until its time is over before it sends it."""
        in_flight = self.in_flight(client, self.fine)
        in_flight._may_cancel = may_cancel
        depart, busy = in_flight._send_waiting, threading.Event()

        def depart_and_block() -> None:
            depart()
            client.loop.call_soon(busy.wait, 5)
            client.loop._ready.rotate(1)  # before the first step of the task that was just made

        in_flight._send_waiting = depart_and_block  # type: ignore[method-assign]
        with pytest.raises(NotConnectedError, match="nothing was sent"):
            in_flight.send(CALL, seconds=0.1)
        busy.set()
        self.turns(client.loop)
        assert client.requests == []
        assert not in_flight._left

    def test_answer_that_lands_in_last_moment_counts(
        self, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_flight: InFlightCalls

        def looked(**_: Any) -> None:
            # How long the caller waits for the one that has removed its call.
            monkeypatch.setattr("iii_resilience.sdk.pending_calls._SLACK", 60.0)
            for flight in [*in_flight._remote]:
                del in_flight._remote[flight]  # as whoever lands it does first
                threading.Timer(0.3, flight.settle, ["just in time", None]).start()

        client.hangs = True
        in_flight = self.in_flight(client, looked)  # looks after 0.1 s; its time is over after 0.3
        assert in_flight.send(CALL, seconds=0.05) == "just in time"

    def test_interrupted_settler_leaves_no_caller_waiting(self, client: Any) -> None:
        in_flight: InFlightCalls

        def looked(**_: Any) -> None:
            in_flight._remote.clear()

        client.hangs = True
        in_flight = self.in_flight(client, looked)
        with pytest.raises(ConnectionLostError):
            in_flight.send(CALL, seconds=0.05)

    @pytest.mark.parametrize("local", [False, True])
    async def test_end_of_client_ends_every_call(self, client: Any, local: bool) -> None:
        client.hangs = True
        in_flight = self.in_flight(client, self.fine)
        call = asyncio.ensure_future(in_flight.send_async(CALL, seconds=30.0, local=local))
        while not client.requests:
            await asyncio.sleep(0.005)
        in_flight.connection_lost()
        await asyncio.sleep(0.01)
        assert call.done() is not local
        in_flight.end()
        with pytest.raises(ConnectionLostError, match="was shut down" if local else "was lost"):
            await call
        assert len(in_flight) == 0

    def test_call_in_this_process_does_not_need_connection(self, client: Any) -> None:
        def usable(*, local: bool) -> None:
            if not local:
                raise NotConnectedError("the SDK has given up reconnecting")

        def slow(_: Any) -> Any:
            return asyncio.sleep(0.3, "done")

        client.answer = slow
        assert self.in_flight(client, usable).send(CALL, seconds=5.0, local=True) == "done"

    def test_late_remover_does_not_say_nothing_was_sent(self, client: Any) -> None:
        """It reads ``sent`` after the removal, so that is set before the call is looked for."""
        in_flight = self.in_flight(client, self.fine)
        sent = []

        class Pending(dict[Any, None]):
            def __contains__(self, call: object) -> bool:
                sent.append(call.sent)  # type: ignore[attr-defined]
                return super().__contains__(call)

        in_flight._remote = Pending()
        in_flight.send(CALL, seconds=30.0)
        assert sent == [False, True]  # before its task is made, and in the step that sends it

    @pytest.mark.parametrize("ends", ["connection_lost", "end"])
    def test_lost_call_ends_sdk_part_too(self, client: Any, ends: str) -> None:
        client.hangs = True
        in_flight = self.in_flight(client, self.fine)

        def end() -> None:
            while not client.requests:
                time.sleep(0.005)
            getattr(in_flight, ends)()

        threading.Thread(target=end).start()
        with pytest.raises(ConnectionLostError, match="may have run"):
            in_flight.send(CALL, seconds=30.0)
        self.turns(client.loop)
        assert (len(in_flight), client.cancelled) == (0, 1)

    @pytest.mark.usefixtures("sigint_raises")
    def test_interrupted_thread_leaves_nothing_behind(self, client: Any) -> None:
        client.hangs = True
        in_flight = self.in_flight(client, self.fine)

        def interrupt() -> None:
            while not client.requests:
                time.sleep(0.005)
            signal.raise_signal(signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            in_flight.send(CALL, seconds=30.0)
        self.turns(client.loop)
        assert (len(in_flight), client.cancelled) == (0, 1)

    def test_error_is_not_kept_alive_by_the_call_that_met_it(self, client: Any) -> None:
        in_flight = self.in_flight(client, self.fine, error=RefusedError)

        def call() -> None:
            in_flight.send(CALL, seconds=5.0)

        assert_freed(call, client.loop)

    def test_nor_by_that_of_coroutine(self, client: Any) -> None:
        in_flight = self.in_flight(client, self.fine, error=RefusedError)

        async def call() -> weakref.ref[BaseException]:
            try:
                await in_flight.send_async(CALL, seconds=5.0)
            except RefusedError as error:
                return weakref.ref(error)
            raise AssertionError("it did not fail")

        gc.collect()
        gc.disable()
        try:
            error = asyncio.run(call())
            self.turns(client.loop)
            assert error() is None
        finally:
            gc.enable()

    @pytest.mark.parametrize("fails_again", [False, True])
    def test_nor_by_what_is_made_of_it_for_its_caller(
        self, client: Any, worker: Resilient, fails_again: bool
    ) -> None:
        async def refuse(request: dict[str, Any]) -> Any:
            if request["function_id"] == "engine::functions::info":
                return {"functions": [{"function_id": "t::echo", "worker_name": "w"}]}
            raise ResetError if fails_again else RefusedError

        client.answer = refuse
        policy = QUICK.replace(attempts=2, backoff=Backoff(base=0.001))

        def call() -> None:
            worker.trigger(CALL, idempotent=True, policy=policy)

        assert_freed(call, worker._connection.loop)

    def test_sdk_task_cancelled_elsewhere_is_lost_call(self, client: Any) -> None:
        in_flight = self.in_flight(client, self.fine, error=asyncio.CancelledError)
        with pytest.raises(ConnectionLostError, match="its answer will never come"):
            in_flight.send(CALL, seconds=5.0)


class RefusedError(Exception):
    """What the SDK raises here."""


class ResetError(ConnectionResetError):
    """One that can be referred to weakly."""


def assert_freed(call: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
    """What the call raises is gone once nobody holds it, without the garbage collector."""
    gone: Callable[[], object] = object
    gc.collect()
    gc.disable()
    try:
        try:
            call()
        except Exception as error:
            gone = weakref.ref(error)
        TestEnd.turns(loop)
        assert gone() is None
    finally:
        gc.enable()


class TestConnection:
    def test_client_that_tells_nothing_is_watched(self) -> None:
        client = Usual()
        connection = Connection(client, sdk_of((0, 20, 0)))
        epochs = connection.epoch
        client.state = "reconnecting"
        until = time.monotonic() + 5
        while connection.epoch == epochs and time.monotonic() < until:
            time.sleep(0.005)
        assert connection.epoch == epochs + 1
        client.state = "connected"
        while connection.epoch == epochs + 1 and time.monotonic() < until:
            time.sleep(0.005)
        assert connection.epoch == epochs + 2
        connection.close()
        client.shutdown()

    def test_state_that_is_told_late_does_not_hide_next_loss(self) -> None:
        """The SDK tells the state of the moment on the thread that subscribes."""

        class Tells(Usual):
            call_soon: Callable[[str], object]

            def add_connection_state_listener(self, call_soon: Callable[[str], object]) -> None:
                self.tell = call_soon
                before, self.state = "connecting", "connected"  # changed on the SDK's own thread
                call_soon(self.state)
                call_soon(before)

        client = Tells()
        client.state = "connecting"
        connection = Connection(client, sdk_of((0, 25, 0)))
        assert connection.seems_up()
        client.hangs = True

        def lose() -> None:
            while not client.requests:
                time.sleep(0.005)
            client.state = "reconnecting"
            client.loop.call_soon_threadsafe(client.tell, client.state)

        threading.Thread(target=lose).start()
        with pytest.raises(ConnectionLostError, match="was lost"):
            connection.in_flight.send(CALL, seconds=30.0)
        connection.close()
        client.shutdown()

    def test_rejection_raised_repeatedly_does_not_grow(self) -> None:
        client: Any = Usual()
        worker = resilient(client)
        client._fatal_error, client.state = RefusedError(), "failed"
        lengths = set()
        for _ in range(5):
            with pytest.raises(RefusedError) as caught:
                worker.trigger(CALL, policy=QUICK)
            lengths.add(len(caught.traceback))
        assert len(lengths) == 1
        worker.shutdown()

    def test_new_socket_between_two_looks_is_loss(self) -> None:
        client: Any = Usual()
        client._ws = object()
        connection = Connection(client, sdk_of((0, 20, 0)))
        client.hangs = True

        def renew() -> None:
            until(lambda: client.requests)
            client._ws = object()

        threading.Thread(target=renew).start()
        with pytest.raises(ConnectionLostError, match="was lost"):
            connection.in_flight.send(CALL, seconds=30.0)
        connection.close()
        client.shutdown()

    def test_socket_closed_for_good_is_said_in_so_many_words(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client: Any = Usual()
        monkeypatch.setattr("iii_resilience.sdk.connection.installed", lambda: sdk_of((0, 24, 3)))
        worker = resilient(client)

        class Closed:
            class state:  # noqa: N801 - stands for an enum member
                name = "CLOSED"

        client._ws = Closed
        with pytest.raises(NotConnectedError, match=r"iii-sdk 0\.24\.3 does not open another one"):
            worker.trigger(CALL, policy=QUICK)
        worker.shutdown()
