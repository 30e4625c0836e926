"""Limits of a worker: what is over them waits, and is refused at once when it has waited."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import attrs
import pytest
from iii import TriggerAction
from support.engine_fixtures import QUICK
from support.telemetry_fixtures import Seen
from support.waiting import until

from iii_resilience import (
    Breaker,
    Category,
    Execution,
    Limit,
    Reason,
    RetryPolicy,
    classify,
    hint_for,
    report_for,
    resilient,
)
from iii_resilience.client.resilient import Resilient
from iii_resilience.handling import consumer, idempotent
from iii_resilience.sdk.propagation import METADATA_FIELD, PAYLOAD_FIELD, CallContext
from iii_resilience.sdk.versions import installed
from iii_resilience.stores import MemoryStore
from iii_resilience.testing import LoopbackEngine

needs_metadata = pytest.mark.skipif(
    installed().version < (0, 21, 3), reason="SDK before 0.21.3 carries no metadata"
)
ONE = Limit(concurrency=1, wait=0.0)
HANDLERS = ["plain", "coroutine"]


@attrs.define
class Busy:
    """Handlers that run until they may end.

    Attributes:
        started: Payloads of the calls that were started.
        threads: Names of the threads that handled them.
    """

    started: list[Any] = attrs.field(factory=list)
    threads: list[str] = attrs.field(factory=list)
    _end: threading.Event = attrs.field(factory=threading.Event)

    def plain(self, data: Any) -> Any:
        self.started.append(data.get("n"))
        self.threads.append(threading.current_thread().name)
        assert self._end.wait(120)
        return data.get("n")

    async def coroutine(self, data: Any) -> Any:
        self.started.append(data.get("n"))
        while not self._end.is_set():
            await asyncio.sleep(0.005)
        return data.get("n")

    def end(self) -> None:
        self._end.set()


@pytest.fixture
def busy() -> Iterator[Busy]:
    made = Busy()
    yield made
    made.end()


@pytest.fixture
def make(connect: Callable[..., Any]) -> Iterator[Callable[..., Resilient]]:
    made: list[Resilient] = []

    def make(limit: Limit | None = ONE, **options: Any) -> Resilient:
        made.append(resilient(connect(), limit=limit, **options))
        return made[-1]

    yield make
    for worker in made:
        worker.shutdown()


@pytest.fixture
def pool(busy: Busy) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as made:
        yield made
        busy.end()


def request(n: int = 0, function_id: str = "t::f", **more: Any) -> dict[str, Any]:
    return {"function_id": function_id, "payload": {"n": n}, "timeout_ms": 60_000, **more}


def fill(
    pool: ThreadPoolExecutor, busy: Busy, client: Any, function_id: str = "t::f"
) -> Future[Any]:
    """Occupies the only place."""
    before = len(busy.started)
    future = pool.submit(client.trigger, request(0, function_id))
    until(lambda: len(busy.started) > before)
    return future


def serve(
    engine: LoopbackEngine, worker: Resilient, handler: Any, function_id: str = "t::f", **more: Any
) -> None:
    worker.register_function(function_id, handler, **more)
    engine.wait_registered(function_id)


class TestRefused:
    @pytest.mark.parametrize("kind", HANDLERS)
    def test_call_over_limit_did_not_run(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
        kind: str,
    ) -> None:
        serve(engine, make(), getattr(busy, kind))
        first = fill(pool, busy, target)
        with pytest.raises(Exception, match="invocation_failed") as caught:
            target.trigger(request(1))
        failure = classify(caught.value, function_id="t::f")
        assert failure.inner is not None
        assert failure.inner.code == "OVERLOADED"
        assert failure.category is Category.TRANSIENT
        assert failure.throttled
        assert failure.execution is Execution.NOT_EXECUTED
        assert failure.retry_after is None  # no handler has ended yet
        busy.end()
        assert first.result(60) == 0
        assert busy.started == [0]
        assert target.trigger(request(2)) == 2

    def test_it_says_when_to_come_again(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
    ) -> None:
        async def slow(data: Any) -> None:
            await asyncio.sleep(0.2)

        worker = make()
        serve(engine, worker, slow, "t::slow")
        serve(engine, worker, busy.coroutine)
        target.trigger(request(0, "t::slow"))
        fill(pool, busy, target)
        with pytest.raises(Exception, match="OVERLOADED") as caught:
            target.trigger(request(1))
        retry_after = classify(caught.value).retry_after
        assert retry_after is not None
        assert 0.19 < retry_after < 5

    def test_no_thread_is_started_for_it(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        serve(engine, make(), busy.plain)
        fill(pool, busy, target)
        started: list[str] = []
        start = threading.Thread.start

        def noted(thread: threading.Thread) -> None:
            started.append(thread.name)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", noted)
        with pytest.raises(Exception, match="OVERLOADED"):
            target.trigger(request(1))
        assert [name for name in started if name.startswith("iii-resilience")] == []
        busy.end()

    def test_what_is_on_wire_any_client_can_read(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
    ) -> None:
        serve(engine, make(), busy.coroutine)
        fill(pool, busy, target)
        with pytest.raises(Exception, match="invocation_failed"):
            target.trigger(request(1))
        (answer,) = [
            frame.message
            for frame in engine.frames
            if frame.direction == "to-engine"
            and frame.message["type"] == "invocationresult"
            and frame.message.get("error")
        ]
        assert answer["error"]["code"] == "invocation_failed"
        body = json.loads(answer["error"]["message"])
        assert body["type"] == "transient"
        assert body["code"] == "OVERLOADED"
        assert body["function_id"] == "t::f"
        assert "t::f was not started" in body["message"]

    def test_caller_retries_even_what_is_not_idempotent_if_asked(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        caller: Resilient,
        pool: ThreadPoolExecutor,
    ) -> None:
        serve(engine, make(), busy.plain)
        fill(pool, busy, caller)
        with pytest.raises(Exception, match="OVERLOADED") as caught:
            caller.trigger(request(1))
        report = report_for(caught.value)
        assert report is not None
        assert report.reason is Reason.NOT_IDEMPOTENT
        assert report.execution is Execution.NOT_EXECUTED
        hint = hint_for(caught.value)
        assert hint is not None
        assert (hint.action, hint.seconds is not None) == ("wait", True)
        policy = QUICK.replace(retry_unexecuted=True, attempts=200, budget=None)
        later = pool.submit(caller.trigger, request(2), policy=policy)
        until(lambda: len(engine.calls("t::f")) > 3)
        busy.end()
        assert later.result(60) == 2

    def test_breaker_of_caller_counts_it(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        caller: Resilient,
        pool: ThreadPoolExecutor,
    ) -> None:
        serve(engine, make(), busy.plain)
        fill(pool, busy, caller)
        policy = QUICK.replace(attempts=1, breaker=Breaker(min_calls=2, open=30.0))
        for words in ("OVERLOADED", "OVERLOADED", "open"):
            with pytest.raises(Exception, match=words):
                caller.trigger(request(1), idempotent=True, policy=policy)

    def test_rejected_nested_call_proves_nothing_of_outer_one(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
    ) -> None:
        serve(engine, make(), busy.plain)
        outer = make(None)

        def pass_on(data: Any) -> Any:
            return outer._connection.client.call(request(1))

        serve(engine, outer, pass_on, "t::outer")
        fill(pool, busy, target)
        with pytest.raises(Exception, match="OVERLOADED") as caught:
            target.trigger(request(1, "t::outer"))
        assert classify(caught.value, function_id="t::outer").execution is Execution.EXECUTED

    def test_void_call_is_logged_and_counted(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
        seen: Seen,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        serve(engine, make(), busy.plain)
        fill(pool, busy, target)
        target.trigger(request(1, action=TriggerAction.Void()))
        until(lambda: "iii.handler.failures" in seen.metrics())
        (point,) = seen.metrics()["iii.handler.failures"].points
        assert point.attributes == {
            "iii.function.id": "t::f",
            "error.type": "OVERLOADED",
            "iii.error.category": "transient",
        }
        until(lambda: [r for r in caplog.records if r.name == "iii_resilience"])
        (record,) = [r for r in caplog.records if r.name == "iii_resilience"]
        assert record.getMessage() == "t::f: the worker is full, 1 call was refused with OVERLOADED"
        assert record.levelno == logging.WARNING
        assert busy.started == [0]

    def test_many_refusals_are_few_records(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        worker = make()
        serve(engine, worker, busy.plain)
        fill(pool, busy, target)
        since = time.monotonic()
        for _ in range(40):
            with pytest.raises(Exception, match="OVERLOADED"):
                target.trigger(request(1))
        busy.end()
        worker.shutdown()  # what no record has counted yet is logged now
        seconds = time.monotonic() - since
        counts = [
            vars(r)["iii_refused"]
            for r in caplog.records
            if r.name == "iii_resilience" and hasattr(r, "iii_refused")
        ]
        assert counts[0] == 1
        assert sum(counts) == 40
        assert len(counts) <= 3 + seconds  # the first, one a second, and the last

    def test_http_request_is_answered_with_503(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
    ) -> None:
        worker = make()

        def handle(data: Any) -> Any:
            return {"body": busy.plain({"n": data["query_params"].get("n", "none")})}

        serve(engine, worker, handle)
        config = {"api_path": "/f", "http_method": "GET"}
        worker.register_trigger({"type": "http", "function_id": "t::f", "config": config})
        information = {"function_id": "engine::functions::info", "payload": {"function_id": "t::f"}}
        until(lambda: target.trigger(information)["registered_triggers"])

        def get(n: int) -> int:
            with urllib.request.urlopen(f"{engine.http_url}/f?n={n}") as response:
                return int(response.status)

        first = pool.submit(get, 0)
        until(lambda: busy.started)
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(1)
        with caught.value as answer:
            assert answer.code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert json.loads(answer.read())["error"]["code"] == "OVERLOADED"
        # One that passes a request on is a call like others: its error must be one.
        passed_on = {"query_params": {}, "trigger": {"type": "http"}}
        with pytest.raises(Exception, match="invocation_failed"):
            target.trigger({**request(), "payload": passed_on})
        busy.end()
        assert first.result(60) == 200


class TestWaiting:
    @pytest.mark.parametrize("kind", HANDLERS)
    def test_call_is_served_when_place_comes_free_in_time(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
        kind: str,
    ) -> None:
        worker = make(Limit(concurrency=1, wait=10.0))
        serve(engine, worker, getattr(busy, kind))
        fill(pool, busy, target)
        second = pool.submit(target.trigger, request(1))
        until(lambda: worker.health().limits[0].waiting == 1)
        assert busy.started == [0]
        busy.end()
        assert second.result(60) == 1

    def test_it_waits_as_long_as_limit_says(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
    ) -> None:
        serve(engine, make(Limit(concurrency=1, wait=0.3)), busy.coroutine)
        fill(pool, busy, target)
        since = time.monotonic()
        with pytest.raises(Exception, match="OVERLOADED"):
            target.trigger(request(1))
        assert 0.29 < time.monotonic() - since < 5

    @needs_metadata
    def test_caller_that_gave_up_meanwhile_is_not_served(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
    ) -> None:
        serve(engine, make(Limit(concurrency=1, wait=10.0)), busy.coroutine)
        fill(pool, busy, target)
        carried = CallContext(attempt_left=0.2, attempt_deadline_unix=time.time() + 0.2)
        with pytest.raises(Exception, match="invocation_failed") as caught:
            target.trigger(request(1, metadata={METADATA_FIELD: carried.to_wire()}))
        failure = classify(caught.value, function_id="t::f")
        assert failure.inner is not None
        assert failure.inner.code == "DEADLINE_PASSED"
        assert failure.execution is Execution.NOT_EXECUTED
        busy.end()
        assert target.trigger(request(2)) == 2
        assert busy.started == [0, 2]

    @pytest.mark.parametrize("way", ["consumer", "handed over"])
    def test_what_queue_delivers_waits_and_is_never_refused(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
        way: str,
    ) -> None:
        handler: Any = busy.coroutine
        payload: dict[str, Any] = {"n": 1}
        if way == "consumer":
            handler = consumer(parking=MemoryStore())(busy.coroutine)
        else:
            payload[PAYLOAD_FIELD] = CallContext(left=0.0, deadline_unix=1.0).to_wire()
        worker = make()
        serve(engine, worker, handler)
        fill(pool, busy, target)
        second = pool.submit(target.trigger, {**request(), "payload": payload})
        until(lambda: worker.health().limits[0].waiting == 1)
        time.sleep(0.3)
        assert not second.done()
        busy.end()
        assert second.result(60) == 1
        assert worker.health().limits[0].refused == 0

    def test_queue_s_messages_are_all_handled_once(
        self, engine: LoopbackEngine, make: Callable[..., Resilient], target: Any
    ) -> None:
        handled: list[int] = []

        @consumer(parking=MemoryStore())
        async def handle(data: Any) -> None:
            await asyncio.sleep(0.05)
            handled.append(data["n"])

        serve(engine, make(Limit(concurrency=2, wait=0.0)), handle)
        engine.define_queue("jobs")
        for n in range(20):
            target.trigger(request(n, action=TriggerAction.Enqueue(queue="jobs")))
        engine.wait_queue_idle("jobs", timeout=60)
        assert sorted(handled) == list(range(20))


class TestScopes:
    def test_functions_share_limit_of_worker_but_those_with_own(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
    ) -> None:
        worker = make()
        own: dict[str, Any] = {"own": {"limit": ONE}, "free": {"limit": None}}
        for name in ("a", "b", "own", "free"):
            serve(engine, worker, busy.plain, f"t::{name}", **own.get(name, {}))
        fill(pool, busy, target, "t::a")
        with pytest.raises(Exception, match="the limit of 1 handlers at once of this worker is"):
            target.trigger(request(1, "t::b"))
        fill(pool, busy, target, "t::own")
        with pytest.raises(Exception, match="the limit of 1 handlers at once of this function is"):
            target.trigger(request(1, "t::own"))
        fill(pool, busy, target, "t::free")
        fill(pool, busy, target, "t::free")
        uses = {use.function_id: use for use in worker.health().limits}
        assert set(uses) == {None, "t::own"}
        assert (uses[None].limit, uses[None].running, uses[None].refused) == (1, 1, 1)
        assert (uses["t::own"].running, uses["t::own"].refused) == (1, 1)
        busy.end()

    def test_without_limit_everything_runs(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
    ) -> None:
        worker = make(None)
        serve(engine, worker, busy.plain)
        for _ in range(5):
            fill(pool, busy, target)
        assert worker.health().limits == ()
        busy.end()

    def test_what_is_no_limit_is_refused(self, make: Callable[..., Resilient]) -> None:
        with pytest.raises(TypeError, match="limit"):
            make(5)
        worker = make()
        with pytest.raises(TypeError, match="limit must be a Limit or None"):
            worker.register_function("t::f", lambda data: 1, limit=5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="t::f: limit applies to handlers"):
            worker.register_function("t::f", "http", limit=ONE)

    @pytest.mark.parametrize("kind", HANDLERS)
    def test_failed_and_cancelled_handlers_give_their_place_back(
        self, engine: LoopbackEngine, make: Callable[..., Resilient], target: Any, kind: str
    ) -> None:
        def fail(data: Any) -> None:
            raise (ValueError, SystemExit, asyncio.CancelledError)[data["n"] % 3]

        async def fail_async(data: Any) -> None:
            fail(data)

        worker = make()
        serve(engine, worker, fail if kind == "plain" else fail_async)
        for n in range(6):
            with pytest.raises(Exception, match="invocation_failed") as caught:
                target.trigger(request(n))
            assert "OVERLOADED" not in str(caught.value)
        until(lambda: worker.health().limits[0].running == 0)


class TestLateStarts:
    @needs_metadata
    @pytest.mark.parametrize("late_starts", [False, True])
    def test_idempotent_handler_may_start_late(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        target: Any,
        late_starts: bool,
    ) -> None:
        ran: list[int] = []

        @consumer(parking=MemoryStore())  # a decorator around it does not hide it
        @idempotent(MemoryStore(), key="n", late_starts=late_starts)
        def handle(data: Any) -> int:
            ran.append(data["n"])
            return 5

        serve(engine, make(None), handle)
        sent = time.time() - 6
        carried = CallContext(
            left=60.0,
            deadline_unix=sent + 60,
            attempt_left=1.0,
            attempt_deadline_unix=sent + 1,
        )
        late = request(1, metadata={METADATA_FIELD: carried.to_wire()})
        if late_starts:
            assert target.trigger(late) == 5
        else:
            with pytest.raises(Exception, match="its caller's attempt's time was over"):
                target.trigger(late)
        assert ran == [1] * late_starts
        whole = attrs.evolve(carried, left=0.0, deadline_unix=time.time() - 5)
        with pytest.raises(Exception, match="its caller's deadline had passed"):
            target.trigger(request(2, metadata={METADATA_FIELD: whole.to_wire()}))
        assert 2 not in ran

    def test_what_is_no_bool_is_refused(self) -> None:
        with pytest.raises(TypeError, match="late_starts must be True or False"):
            idempotent(MemoryStore(), key="n", late_starts="no")  # type: ignore[arg-type]


class TestDrain:
    def test_waiting_calls_are_answered_before_worker_leaves(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
    ) -> None:
        worker = make(Limit(concurrency=1, wait=10.0))
        serve(engine, worker, busy.plain)
        first = fill(pool, busy, target)
        others = [pool.submit(target.trigger, request(n)) for n in (1, 2, 3)]
        until(lambda: worker.health().limits[0].waiting == 3)
        health = worker.health()
        assert health.in_flight == 1
        assert health.oldest is not None
        assert not health.oldest.waiting
        drained = pool.submit(worker.drain, 60.0)
        until(lambda: not engine.registered("t::f"))
        busy.end()
        assert [future.result(60) for future in (first, *others)] == [0, 1, 2, 3]
        assert drained.result(60).unfinished == ()

    def test_calls_that_still_wait_are_reported(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        busy: Busy,
        target: Any,
        pool: ThreadPoolExecutor,
    ) -> None:
        worker = make(Limit(concurrency=1, wait=20.0))
        serve(engine, worker, busy.coroutine)
        fill(pool, busy, target)
        pool.submit(target.trigger, request(1))
        until(lambda: worker.health().limits[0].waiting == 1)
        assert worker.drain(0.2).unfinished == ("t::f", "t::f")
        busy.end()


class TestOverload:
    @pytest.mark.parametrize(
        "limit",
        [Limit(concurrency=4), Limit(adaptive=True, low=2, high=8)],
        ids=["fixed", "adaptive"],
    )
    async def test_three_times_the_capacity(
        self,
        engine: LoopbackEngine,
        make: Callable[..., Resilient],
        connect: Callable[..., Any],
        limit: Limit,
    ) -> None:
        running, most = 0, 0

        async def handle(_: Any) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.2)
            running -= 1

        worker = make(limit)
        serve(engine, worker, handle)
        client = resilient(connect(), policies=RetryPolicy(attempts=1))

        async def call() -> str:
            try:
                await client.trigger_async(request())
            except Exception as error:
                failure = classify(error, function_id="t::f")
                assert failure.execution is Execution.NOT_EXECUTED
                return failure.inner.code if failure.inner else failure.code
            return "ok"

        tasks = []
        began = time.monotonic()
        for number in range(180):  # 60 a second, of which four places of 0.2 s serve 20
            # Where the loop was late, the next ones follow at once: fewer were no overload.
            await asyncio.sleep(max(0.0, began + number / 60 - time.monotonic()))
            tasks.append(asyncio.create_task(call()))
        ended = Counter(await asyncio.gather(*tasks))
        client.shutdown()
        assert set(ended) == {"ok", "OVERLOADED"}
        assert ended["ok"] > 0.2 * 60
        assert most <= (limit.high or limit.concurrency or 0)
        (use,) = worker.health().limits
        assert use.refused == ended["OVERLOADED"]
