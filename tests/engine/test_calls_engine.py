"""What a caller meets on an engine, and what `resilient(worker)` makes of it.

Every function has an id of its own, for the engine may be shared.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from iii import InitOptions, TriggerAction, register_worker
from support.engine_fixtures import end
from support.processes import Worker, read_log
from support.real_sdk import SDK, InvocationError, needs
from support.waiting import until

from iii_resilience import (
    Backoff,
    Enqueue,
    Enqueued,
    Execution,
    InvalidPayloadError,
    NotConnectedError,
    Reason,
    Reroute,
    RetryPolicy,
    hint_for,
    report_for,
    resilient,
)
from iii_resilience.client.resilient import Resilient

pytestmark = pytest.mark.engine

POLICY = RetryPolicy(
    backoff=Backoff(base=0.02, cap=0.2, throttled_base=0.02), deadline=20.0, ready_timeout=5.0
)
Connect = Callable[..., Any]


@pytest.fixture
def tag() -> str:
    return f"conformance-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def connect(engine_url: str) -> Iterator[Connect]:
    """Makes SDK clients that are shut down at the end."""
    clients: list[Any] = []

    def connect(url: str = engine_url) -> Any:
        name = f"conformance-{uuid.uuid4().hex[:8]}"
        client = register_worker(url, InitOptions(worker_name=name, otel={"enabled": False}))
        clients.append(client)
        return client

    yield connect
    for client in clients:
        end(client)


@pytest.fixture
def target(connect: Connect) -> Any:
    return connect()


@pytest.fixture
def caller(connect: Connect) -> Iterator[Resilient]:
    made = resilient(connect(), policies=POLICY)
    yield made
    made.shutdown()


def serve(target: Any, function_id: str) -> list[Any]:
    """A function that gives back what it was given, and the list of it."""
    seen: list[Any] = []

    def handler(data: Any) -> Any:
        seen.append(data)
        return data

    target.register_function(function_id, handler)
    return seen


def refused(caller: Resilient, request: dict[str, Any], **options: Any) -> Any:
    """The SDK's exception of a call."""
    with pytest.raises(InvocationError) as caught:
        caller.trigger(request, **options)
    return caught.value


class TestResults:
    def test_result_is_returned(self, target: Any, caller: Resilient, tag: str) -> None:
        serve(target, f"{tag}::echo")
        request = {"function_id": f"{tag}::echo", "payload": {"n": 1, "text": "grüße", "x": [1.5]}}
        result = caller.trigger(request)
        result.pop("_caller_worker_id")
        assert result == request["payload"]

    async def test_so_it_is_for_coroutines(self, target: Any, caller: Resilient, tag: str) -> None:
        serve(target, f"{tag}::echo")
        request = {"function_id": f"{tag}::echo", "payload": [1, "two", None]}
        assert await caller.trigger_async(request) == [1, "two", None]

    def test_call_without_payload_is_answered(
        self, target: Any, caller: Resilient, tag: str
    ) -> None:
        seen = serve(target, f"{tag}::echo")
        caller.trigger({"function_id": f"{tag}::echo", "timeout_ms": 5000})
        assert len(seen) == 1

    def test_void_runs(self, target: Any, caller: Resilient, tag: str) -> None:
        seen = serve(target, f"{tag}::echo")
        action = TriggerAction.Void()
        assert caller.trigger({"function_id": f"{tag}::echo", "action": action}) is None
        until(lambda: seen)

    @needs((0, 21, 3), "sends no metadata")
    def test_what_travels_arrives(self, target: Any, caller: Resilient, tag: str) -> None:
        seen: list[Any] = []

        def handler(data: Any, metadata: Any = None) -> None:
            seen.append(metadata)

        target.register_function(f"{tag}::meta", handler)
        request = {"function_id": f"{tag}::meta", "metadata": {"tenant": "a"}}
        caller.trigger(request, idempotency_key="k1")
        assert seen[0]["tenant"] == "a"
        assert seen[0]["iii.resilience"]["idempotency_key"] == "k1"
        assert 0 < seen[0]["iii.resilience"]["left_ms"] <= 20_000

    async def test_three_hundred_calls_do_not_wait_for_each_other(
        self, target: Any, caller: Resilient, tag: str
    ) -> None:
        async def slow(data: Any) -> Any:
            await asyncio.sleep(0.5)
            return data

        target.register_function(f"{tag}::slow", slow)
        request = {"function_id": f"{tag}::slow", "payload": [1]}
        await caller.trigger_async(request)
        began = time.monotonic()
        policy = POLICY.replace(deadline=120.0)
        results = await asyncio.gather(
            *(caller.trigger_async(request, policy=policy) for _ in range(300))
        )
        assert results == [[1]] * 300
        assert time.monotonic() - began < 50, "one after the other they take 150 s"


class TestMissing:
    def test_function_that_is_nowhere_is_attempted_once(self, caller: Resilient, tag: str) -> None:
        request = {"function_id": f"{tag}::nobody"}
        error = refused(caller, request, idempotent=True, policy=POLICY.replace(ready_timeout=0.3))
        assert error.code == "function_not_found"
        report, hint = report_for(error), hint_for(error)
        assert report is not None
        assert (len(report.attempts), report.execution) == (1, Execution.NOT_EXECUTED)
        assert hint is not None
        assert hint.action == "discover"

    def test_one_that_comes_in_time_is_waited_for(
        self, target: Any, caller: Resilient, tag: str
    ) -> None:
        timer = threading.Timer(0.5, serve, (target, f"{tag}::late"))
        timer.start()
        assert caller.trigger({"function_id": f"{tag}::late", "payload": [1]}) == [1]
        timer.join()

    @needs((0, 23), "sends no namespace")
    def test_one_in_another_namespace_is_missing(
        self, target: Any, caller: Resilient, tag: str
    ) -> None:
        serve(target, f"{tag}::echo")
        caller.trigger({"function_id": f"{tag}::echo"})
        request = {"function_id": f"{tag}::echo", "namespace": f"{tag}-elsewhere"}
        error = refused(caller, request, policy=POLICY.replace(ready_timeout=0.3))
        assert error.code == "function_not_found"

    def test_another_one_takes_over(self, target: Any, caller: Resilient, tag: str) -> None:
        serve(target, f"{tag}::other")
        policy = POLICY.replace(ready_timeout=0.3, fallback=Reroute(f"{tag}::other"))
        request = {"function_id": f"{tag}::nobody", "payload": [1]}
        assert caller.trigger(request, policy=policy) == [1]


class TestWorkerGone:
    @pytest.fixture
    def start(self, engine_url: str, tag: str, tmp_path: Path) -> Iterator[Callable[[], Worker]]:
        """Starts worker processes; ``ran`` says which call they have begun with."""
        workers: list[Worker] = []

        def start() -> Worker:
            name = f"{tag}-{len(workers)}"
            worker = Worker(engine_url, name, tmp_path / "log", home=tmp_path, prefix=tag)
            workers.append(worker)
            return worker

        yield start
        for worker in workers:
            worker.end()

    def test_retry_waits_for_next_worker(
        self, start: Callable[[], Worker], caller: Resilient, tag: str, tmp_path: Path
    ) -> None:
        first, second = start().register(), start()

        def restart() -> None:
            until(lambda: read_log(tmp_path / "log"))
            first.kill()
            time.sleep(0.5)
            second.register()

        thread = threading.Thread(target=restart)
        thread.start()
        payload = {"order": "a", "work": 60.0, "at": f"{tag}-0"}  # at the first worker alone
        request = {"function_id": f"{tag}::echo", "payload": payload}
        policy = POLICY.replace(deadline=60.0, ready_timeout=30.0)
        assert caller.trigger(request, idempotent=True, policy=policy) == "a"
        thread.join()
        assert len(read_log(tmp_path / "log")) == 2

    def test_non_idempotent_call_says_that_it_may_have_run(
        self, start: Callable[[], Worker], caller: Resilient, tag: str, tmp_path: Path
    ) -> None:
        first = start().register()

        def kill() -> None:
            until(lambda: read_log(tmp_path / "log"))
            first.kill()

        thread = threading.Thread(target=kill)
        thread.start()
        request = {"function_id": f"{tag}::echo", "payload": {"order": "a", "work": 60.0}}
        error = refused(caller, request)
        thread.join()
        assert error.code == "invocation_stopped"
        report = report_for(error)
        assert report is not None
        assert (report.reason, report.execution) == (
            Reason.NOT_IDEMPOTENT,
            Execution.MAYBE_EXECUTED,
        )

    @pytest.mark.skipif(SDK.receive_limit > 1 << 20, reason="this SDK's workers take 5 MB")
    def test_payload_that_kills_it_is_sent_once(
        self, start: Callable[[], Worker], caller: Resilient, tag: str
    ) -> None:
        start().register()
        payload = {"order": "a", "text": "x" * 5_000_000}
        error = refused(
            caller, {"function_id": f"{tag}::echo", "payload": payload}, idempotent=True
        )
        report = report_for(error)
        assert error.code == "invocation_stopped"
        assert report is not None
        assert [attempt.failure.category for attempt in report.attempts] == ["payload"]
        again = {"function_id": f"{tag}::echo", "payload": {"order": "b"}}
        assert caller.trigger(again, policy=POLICY.replace(ready_timeout=15.0)) == "b"

    @pytest.mark.skipif(SDK.receive_limit <= 1 << 20, reason="this SDK's workers die of 5 MB")
    def test_payload_of_five_megabytes_goes_through(
        self, target: Any, caller: Resilient, tag: str
    ) -> None:
        seen: list[int] = []
        target.register_function(f"{tag}::size", lambda data: seen.append(len(data["text"])))
        caller.trigger({"function_id": f"{tag}::size", "payload": {"text": "x" * 5_000_000}})
        assert seen == [5_000_000]


class TestFailures:
    def test_error_of_handler_is_not_repeated(
        self, target: Any, caller: Resilient, tag: str
    ) -> None:
        runs: list[int] = []

        def broken(data: Any) -> None:
            runs.append(1)
            raise ValueError("no such card")

        target.register_function(f"{tag}::broken", broken)
        error = refused(caller, {"function_id": f"{tag}::broken"}, idempotent=True)
        assert (error.code, error.message, len(runs)) == ("invocation_failed", "no such card", 1)
        report = report_for(error)
        assert report is not None
        assert report.execution is Execution.EXECUTED

    def test_timeout_is_repeated_within_deadline(
        self, target: Any, caller: Resilient, tag: str
    ) -> None:
        runs: list[int] = []
        ended: list[int] = []

        async def slow_at_first(data: Any) -> str:
            runs.append(1)
            await asyncio.sleep(2.0 if len(runs) == 1 else 0.0)
            ended.append(1)
            return "done"

        target.register_function(f"{tag}::slow", slow_at_first)
        request = {"function_id": f"{tag}::slow", "timeout_ms": 1000}
        assert caller.trigger(request, idempotent=True) == "done"
        assert len(runs) >= 2
        until(lambda: len(ended) == len(runs))

    def test_what_engine_would_drop_is_refused_at_once(
        self, target: Any, caller: Resilient, tag: str
    ) -> None:
        seen = serve(target, f"{tag}::echo")
        for payload in ({"x": math.nan}, "\ud800", {"x": 2**70}):
            began = time.monotonic()
            with pytest.raises(InvalidPayloadError):
                caller.trigger({"function_id": f"{tag}::echo", "payload": payload})
            assert time.monotonic() - began < 10, "not after the deadline of 20 s"
        caller.trigger({"function_id": f"{tag}::echo", "payload": [1]})
        assert seen == [[1]]

    def test_after_end_nothing_hangs(self, caller: Resilient, tag: str) -> None:
        caller.shutdown()
        caller.shutdown()
        with pytest.raises(NotConnectedError):
            caller.trigger({"function_id": f"{tag}::echo"})


class TestAccess:
    """Needs a listener that exposes little."""

    @pytest.fixture
    def outside(self, connect: Connect, rbac_url: str) -> Iterator[Resilient]:
        made = resilient(
            connect(rbac_url), policies=POLICY.replace(ready_timeout=60.0, deadline=90.0)
        )
        yield made
        made.shutdown()

    def test_hidden_function_is_attempted_once_and_not_waited_for(
        self, target: Any, outside: Resilient, tag: str
    ) -> None:
        seen = serve(target, f"{tag}::hidden")
        began = time.monotonic()
        error = refused(outside, {"function_id": f"{tag}::hidden"}, idempotent=True)
        assert time.monotonic() - began < 30
        report, hint = report_for(error), hint_for(error)
        assert error.code == "FORBIDDEN"
        assert report is not None
        assert len(report.attempts) == 1
        assert hint is not None
        assert hint.action == "fix-access"
        assert seen == []

    def test_exposed_function_is_called(self, target: Any, outside: Resilient, tag: str) -> None:
        function_id = f"conformance-open-{tag}::echo"
        serve(target, function_id)
        assert outside.trigger({"function_id": function_id, "payload": [1]}) == [1]


class TestQueue:
    """Needs a queue."""

    def test_what_is_enqueued_runs(
        self, target: Any, caller: Resilient, tag: str, queue: str
    ) -> None:
        seen = serve(target, f"{tag}::job")
        action = TriggerAction.Enqueue(queue=queue)
        request = {"function_id": f"{tag}::job", "payload": {"n": 1}, "action": action}
        assert caller.trigger(request)["messageReceiptId"]
        until(lambda: seen)

    def test_what_is_given_up_is_handed_over_and_runs_later(
        self, target: Any, caller: Resilient, tag: str, queue: str
    ) -> None:
        policy = POLICY.replace(ready_timeout=0.3, fallback=Enqueue(queue))
        request = {"function_id": f"{tag}::later", "payload": {"n": 1}}
        result = caller.trigger(request, policy=policy, accept_enqueued=True)
        assert isinstance(result, Enqueued)
        seen = serve(target, f"{tag}::later")
        until(lambda: seen)
        assert seen[0]["n"] == 1
