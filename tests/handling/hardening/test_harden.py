"""Hardened handlers: an answer for every call, and a worker that lives."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from support.telemetry_fixtures import Seen
from support.waiting import until

from iii_resilience import Category, Execution, RetryPolicy, classify, resilient
from iii_resilience.client.resilient import Resilient
from iii_resilience.handling import PayloadError, TransientError, reports_errors
from iii_resilience.handling.hardening.result_check import result_limit
from iii_resilience.sdk.propagation import (
    METADATA_FIELD,
    PAYLOAD_FIELD,
    CallContext,
    current_inbound,
)
from iii_resilience.sdk.versions import installed
from iii_resilience.testing import LoopbackEngine

METADATA = installed().version >= (0, 21, 3)
needs_metadata = pytest.mark.skipif(not METADATA, reason="SDK before 0.21.3 carries no metadata")

Serve = Callable[..., None]
LARGEST = result_limit(1 << 20, "t::f")


@pytest.fixture
def worker(connect: Callable[..., Any]) -> Iterator[Resilient]:
    made = resilient(connect("worker"), max_result_bytes=1 << 20)
    yield made
    made.shutdown()


@pytest.fixture
def serve(engine: LoopbackEngine, worker: Resilient) -> Serve:
    def serve(handler: Callable[..., Any], function_id: str = "t::f", **options: Any) -> None:
        worker.register_function(function_id, handler, **options)
        engine.wait_registered(function_id)

    return serve


def call(client: Any, payload: Any = None, function_id: str = "t::f", **more: Any) -> Any:
    return client.trigger(
        {"function_id": function_id, "payload": payload or {}, "timeout_ms": 60_000, **more}
    )


def failure_of(client: Any, **options: Any) -> Any:
    """How a call ends, which must be soon."""
    since = time.monotonic()
    with pytest.raises(Exception, match="invocation_failed") as caught:
        call(client, **options)
    assert time.monotonic() - since < 15
    return classify(caught.value)


def both_ways(function: Callable[[], Any]) -> list[Callable[..., Any]]:
    def plain(data: Any) -> Any:
        return function()

    async def coroutine(data: Any) -> Any:
        await asyncio.sleep(0)
        return function()

    return [plain, coroutine]


def nested(depth: int, core: Any = 0) -> Any:
    for _ in range(depth):
        core = [core]
    return core


def leave() -> Any:
    raise SystemExit(3)


def interrupt() -> Any:
    raise KeyboardInterrupt


def cancel() -> Any:
    raise asyncio.CancelledError


def stop() -> Any:
    raise StopIteration


EXITS = [
    pytest.param(handler, category, words, id=f"{function.__name__}-{handler.__name__}")
    for function, category, words in [
        (leave, Category.PERMANENT, "SystemExit: 3"),
        (interrupt, Category.PERMANENT, "KeyboardInterrupt: "),
        (cancel, Category.TRANSIENT, "the handler was cancelled before it had a result"),
    ]
    for handler in both_ways(function)
]


class TestWhateverAHandlerDoes:
    @pytest.mark.parametrize(("handler", "category", "words"), EXITS)
    def test_exit_is_error_of_that_call_and_worker_answers_next(
        self, serve: Serve, target: Any, handler: Any, category: Category, words: str
    ) -> None:
        serve(handler)
        serve(lambda data: "alive", "t::next")
        failure = failure_of(target)
        assert failure.category is category
        assert failure.execution is Execution.EXECUTED
        assert failure.inner.message == words
        assert call(target, function_id="t::next") == "alive"

    @pytest.mark.parametrize("handler", both_ways(stop), ids=["plain", "coroutine"])
    def test_stop_iteration_is_answered(self, serve: Serve, target: Any, handler: Any) -> None:
        serve(handler)
        failure_of(target)

    @pytest.mark.parametrize(
        ("result", "words"),
        [
            ({"x": float("nan")}, "the result cannot be sent: $.x is NaN"),
            ({1, 2}, "the result cannot be sent: $ is of type set, which JSON does not know"),
            ("\ud800", "the result cannot be sent: $ holds a lone surrogate"),
            (nested(121), "nested deeper than 120"),
            (nested(9999), "is nested deeper than 120 levels"),
            ({(1, 2): 3}, "$[key 0] has a key of type tuple, which JSON does not know"),
        ],
        ids=["nan", "set", "surrogate", "deep", "deeper", "key"],
    )
    @pytest.mark.parametrize("way", [0, 1], ids=["plain", "coroutine"])
    def test_result_that_cannot_be_sent_is_payload_error(
        self, serve: Serve, target: Any, way: int, result: Any, words: str
    ) -> None:
        serve(both_ways(lambda: result)[way])
        failure = failure_of(target)
        assert failure.category is Category.PAYLOAD
        assert words in failure.inner.message
        assert failure.inner.code == "invalid_payload"

    def test_result_above_limit_is_payload_error_with_both_sizes(
        self, serve: Serve, target: Any
    ) -> None:
        serve(lambda data: "x" * (2 << 20))
        failure = failure_of(target)
        assert failure.category is Category.PAYLOAD
        assert failure.inner.code == "payload_too_large"
        assert (failure.payload_bytes, failure.limit_bytes) == ((2 << 20) + 2, LARGEST)

    @pytest.mark.parametrize(
        ("size", "fits"), [(LARGEST - 3, True), (LARGEST - 2, True), (LARGEST - 1, False)]
    )
    def test_limit_is_exact(self, serve: Serve, target: Any, size: int, fits: bool) -> None:
        serve(lambda data: "x" * size)
        if fits:
            assert len(call(target)) == size
        else:
            assert failure_of(target).limit_bytes == LARGEST

    def test_nesting_up_to_limit_and_brackets_in_texts_are_fine(
        self, serve: Serve, target: Any
    ) -> None:
        deep = nested(119, ['"[[[\\"' * 100])
        serve(lambda data: deep)
        assert call(target) == deep

    def test_models_and_dataclasses_are_results_as_with_bare_sdk(
        self, serve: Serve, target: Any
    ) -> None:
        from pydantic import BaseModel

        class Model(BaseModel):
            n: int

        serve(lambda data: Model(n=1))
        assert call(target) == {"n": 1}

    def test_exception_arrives_as_with_bare_sdk(self, serve: Serve, target: Any) -> None:
        def handler(data: Any) -> None:
            raise KeyError("k")

        serve(handler)
        assert failure_of(target).message == "'k'"

    def test_exception_that_cannot_say_what_it_is_arrives(self, serve: Serve, target: Any) -> None:
        class MuteError(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        def handler(data: Any) -> None:
            raise MuteError

        serve(handler)
        assert failure_of(target).message == "MuteError"

    @pytest.mark.parametrize("words", ["\ud800", "x" * (3 << 20)], ids=["surrogate", "long"])
    @pytest.mark.parametrize("kind", [ValueError, TransientError])
    def test_error_whose_text_cannot_be_sent_arrives(
        self, serve: Serve, target: Any, kind: type[Exception], words: str
    ) -> None:
        def handler(data: Any) -> None:
            raise kind(words)

        serve(handler)
        assert len(failure_of(target).message) < 200_000

    def test_one_of_ours_with_words_of_its_own_arrives(self, serve: Serve, target: Any) -> None:
        class OwnWordsError(TransientError):
            def __str__(self) -> str:
                return "own words"

        def handler(data: Any) -> None:
            raise OwnWordsError("m")

        serve(handler)
        assert failure_of(target).message == "own words"

    def test_structured_error_keeps_its_category(self, serve: Serve, target: Any) -> None:
        def handler(data: Any) -> None:
            raise PayloadError("no amount", code="NO_AMOUNT")

        serve(handler)
        failure = failure_of(target)
        assert (failure.category, failure.inner.code) == (Category.PAYLOAD, "NO_AMOUNT")

    @pytest.mark.parametrize("way", [0, 1], ids=["plain", "coroutine"])
    def test_handler_cancelled_from_outside_answers_and_ends(
        self, serve: Serve, worker: Resilient, target: Any, way: int
    ) -> None:
        started, ended = threading.Event(), threading.Event()

        def plain(data: Any) -> None:
            started.set()
            ended.wait(120)

        async def coroutine(data: Any) -> None:
            started.set()
            try:
                await asyncio.sleep(120)
            finally:
                ended.set()

        serve([plain, coroutine][way])
        serve(lambda data: "alive", "t::next")

        def cancel() -> None:
            started.wait(60)
            loop = worker._loop
            loop.call_soon_threadsafe(
                lambda: [
                    task.cancel()
                    for task in asyncio.all_tasks(loop)
                    if "_handle_invoke" in repr(task.get_coro())
                ]
            )

        canceller = threading.Thread(target=cancel)
        canceller.start()
        failure = failure_of(target)
        canceller.join()
        assert failure.inner.code == "HANDLER_CANCELLED"
        assert failure.category is Category.TRANSIENT
        if way == 1:
            assert ended.wait(60)
        assert call(target, function_id="t::next") == "alive"
        ended.set()

    def test_handler_that_closes_own_client_answers_with_error(
        self, serve: Serve, worker: Resilient, target: Any
    ) -> None:
        serve(lambda data: worker.shutdown())
        since = time.monotonic()
        with pytest.raises(Exception, match="invocation_stopped"):
            call(target)
        assert time.monotonic() - since < 15

    async def test_coroutine_that_does_so_too(
        self, serve: Serve, worker: Resilient, target: Any
    ) -> None:
        async def handler(data: Any) -> None:
            await worker.shutdown_async()

        serve(handler)
        with pytest.raises(Exception, match="invocation_stopped"):
            await asyncio.to_thread(call, target)


class TestWhatIsSent:
    def errors(self, engine: LoopbackEngine) -> list[dict[str, Any]]:
        return [
            frame.message["error"]
            for frame in engine.frames
            if (frame.conn, frame.direction) == ("worker", "to-engine")
            and frame.message.get("error")
        ]

    @pytest.mark.parametrize("way", [0, 1], ids=["plain", "coroutine"])
    def test_stack_of_handler_stays_here(
        self, engine: LoopbackEngine, serve: Serve, target: Any, way: int
    ) -> None:
        def fail() -> None:
            try:
                raise KeyError("inner")
            except KeyError as error:
                raise ValueError("boom") from error

        serve(both_ways(fail)[way])
        failure_of(target)
        (error,) = self.errors(engine)
        assert "test_harden" not in error["stacktrace"]
        assert "KeyError" not in error["stacktrace"]
        assert error["message"] == "boom"

    def test_it_is_sent_where_it_is_asked_for(
        self, engine: LoopbackEngine, connect: Callable[..., Any], target: Any
    ) -> None:
        def fail(data: Any) -> None:
            raise ValueError("boom")

        worker = resilient(connect("worker"), send_stack_traces=True)
        worker.register_function("t::f", fail)
        worker.register_function("t::g", lambda data: leave())
        engine.wait_registered("t::f", "t::g")
        failure_of(target)
        failure_of(target, function_id="t::g")
        first, second = self.errors(engine)
        assert "test_harden" in first["stacktrace"]
        assert first["message"] == "boom"
        assert "SystemExit: 3" in second["stacktrace"]
        worker.shutdown()

    def test_what_inner_retry_gave_up_on_crosses_hop_marked(
        self, serve: Serve, worker: Resilient, target: Any, caller: Resilient
    ) -> None:
        calls = []

        def broken(data: Any) -> None:
            calls.append(1)
            raise TransientError("busy", code="BUSY", retry_after=0.01)

        policy = RetryPolicy(attempts=2, ready_timeout=1)

        def handler(data: Any) -> Any:
            return worker.trigger(
                {"function_id": "t::broken", "payload": {}}, idempotent=True, policy=policy
            )

        serve(broken, "t::broken")
        serve(handler)
        failure = failure_of(target)
        assert failure.already_retried
        assert failure.category is Category.TRANSIENT
        with pytest.raises(Exception, match="BUSY"):
            caller.trigger({"function_id": "t::f", "payload": {}}, idempotent=True)
        assert len(calls) == 2 * 2

    def test_what_was_not_retried_is_not_marked(
        self, serve: Serve, worker: Resilient, target: Any
    ) -> None:
        policy = RetryPolicy(ready_timeout=0.1)
        serve(lambda data: worker.trigger({"function_id": "t::nobody"}, policy=policy))
        failure = failure_of(target)
        assert not failure.already_retried
        assert failure.category is Category.NOT_FOUND

    def test_structured_error_is_marked_too(self, serve: Serve, target: Any) -> None:
        from iii_resilience import iii_retry

        @iii_retry(idempotent=True, attempts=2, wait=lambda state: 0.0)
        def work() -> None:
            raise TransientError("busy")

        serve(lambda data: work())
        assert failure_of(target).already_retried


class TestMetadata:
    @needs_metadata
    @pytest.mark.parametrize("keyword", [False, True])
    @pytest.mark.parametrize("coroutine", [False, True])
    def test_handlers_that_take_metadata_are_given_it(
        self, serve: Serve, target: Any, keyword: bool, coroutine: bool
    ) -> None:
        def positional(data: Any, metadata: Any = None) -> Any:
            return metadata

        def by_keyword(data: Any, *, metadata: Any = None) -> Any:
            return metadata

        async def positional_async(data: Any, metadata: Any) -> Any:
            return metadata

        async def by_keyword_async(data: Any, *, metadata: Any) -> Any:
            return metadata

        handlers = [positional, by_keyword, positional_async, by_keyword_async]
        serve(handlers[2 * coroutine + keyword])
        assert call(target, metadata={"a": 1}) == {"a": 1}

    @pytest.mark.parametrize(
        "handler",
        [
            lambda data, other=None: other,
            lambda data, other=None, metadata=7: metadata,
            lambda data, *rest, **more: [*rest, *more],
            functools.partial(lambda first, data: None, 1),
        ],
        ids=["other", "third", "variadic", "partial"],
    )
    def test_handlers_that_do_not_are_called_as_before(
        self, serve: Serve, target: Any, handler: Any
    ) -> None:
        serve(handler)
        assert call(target, metadata={"a": 1}) in (None, 7, [])

    def test_callable_object_and_method_serve_too(self, serve: Serve, target: Any) -> None:
        class Plain:
            def __call__(self, data: Any) -> str:
                return "plain"

            def method(self, data: Any) -> str:
                return "method"

        class Coroutine:
            async def __call__(self, data: Any) -> str:
                return "coroutine"

        serve(Plain(), "t::plain")
        serve(Plain().method, "t::method")
        serve(Coroutine(), "t::coroutine")
        for name in ("plain", "method", "coroutine"):
            assert call(target, function_id=f"t::{name}") == name


class TestRegistering:
    def message(self, engine: LoopbackEngine, function_id: str) -> dict[str, Any]:
        (message,) = [
            frame.message
            for frame in engine.frames
            if frame.message["type"] == "registerfunction" and frame.message["id"] == function_id
        ]
        return {name: value for name, value in message.items() if name != "id"}

    def test_engine_is_told_the_same_as_by_the_bare_sdk(
        self, engine: LoopbackEngine, serve: Serve, target: Any
    ) -> None:
        def handler(order: dict[str, int], metadata: Any = None) -> list[str]:
            """Does it."""
            return []

        options = {"description": "d", "metadata": {"m": 1}}
        serve(handler, "t::ours", **options)
        target.register_function("t::bare", handler, **options)
        engine.wait_registered("t::bare")
        ours = self.message(engine, "t::ours")
        assert ours == self.message(engine, "t::bare")
        assert ours["request_format"]["additionalProperties"] == {"type": "integer"}
        assert ours["response_format"]["type"] == "array"

    def test_untyped_handlers_have_no_formats(self, engine: LoopbackEngine, serve: Serve) -> None:
        serve(lambda data: None)
        assert "request_format" not in self.message(engine, "t::f")
        assert "response_format" not in self.message(engine, "t::f")

    def test_what_sdk_refuses_is_refused_in_its_words(self, worker: Resilient) -> None:
        with pytest.raises(TypeError, match="function_id must be str"):
            worker.register_function(5, lambda data: 1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be callable"):
            worker.register_function("t::f", "no")
        with pytest.raises(TypeError, match="nonsense"):
            worker.register_function("t::f", lambda data: 1, nonsense=1)

    def test_wrapper_looks_like_handler(self, worker: Resilient) -> None:
        def handler(data: Any) -> None:
            """Does it."""

        made = worker._handlers._hardener.harden("t::f", handler)
        assert (made.__name__, made.__doc__) == ("handler", "Does it.")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"max_result_bytes": 0}, "max_result_bytes must be a whole number"),
            ({"clock_tolerance": -1}, "clock_tolerance must be a finite number"),
        ],
    )
    def test_limits_that_are_none_are_refused(
        self, connect: Callable[..., Any], options: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(ValueError, match=words):
            resilient(connect(), **options)


def sent(left: float, ago: float = 0.0, clock: float = 0.0, **more: Any) -> dict[str, Any]:
    """Metadata of a call with so much time left, sent so long ago, by a clock that is ahead."""
    carried = CallContext(left=left, deadline_unix=time.time() - ago + clock + left, **more)
    return {METADATA_FIELD: carried.to_wire()}


@needs_metadata
class TestDeadlines:
    def test_call_whose_time_is_over_is_not_started(
        self, serve: Serve, target: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        ran = []
        serve(lambda data: ran.append(1))
        failure = failure_of(target, metadata=sent(1.0, ago=5.0))
        assert ran == []
        assert failure.category is Category.TRANSIENT
        assert failure.execution is Execution.NOT_EXECUTED
        assert failure.inner.code == "DEADLINE_PASSED"
        assert failure.inner.message.startswith("Function t::f was not started")
        (record,) = [r for r in caplog.records if r.name == "iii_resilience"]
        assert record.iii_code == "DEADLINE_PASSED"  # type: ignore[attr-defined]

    def test_nested_refusal_proves_nothing_about_called_function(
        self, serve: Serve, worker: Resilient, target: Any
    ) -> None:
        serve(lambda data: None, "t::inner")
        late = sent(1.0, ago=5.0)
        serve(lambda data: call_inner(worker, late))
        failure = failure_of(target)
        assert failure.execution is Execution.EXECUTED

    def test_within_tolerance_it_is_started(
        self, engine: LoopbackEngine, connect: Callable[..., Any], target: Any
    ) -> None:
        worker = resilient(connect("worker"), clock_tolerance=40.0)
        worker.register_function("t::f", lambda data: "ran")
        engine.wait_registered("t::f")
        assert call(target, metadata=sent(30.0, ago=35.0)) == "ran"
        worker.shutdown()

    @pytest.mark.parametrize("coroutine", [False, True])
    def test_own_calls_inherit_what_is_left_and_what_travelled(
        self, serve: Serve, target: Any, coroutine: bool
    ) -> None:
        def look() -> list[Any]:
            inbound = current_inbound()
            assert inbound is not None
            assert inbound.deadline_at is not None
            carried = inbound.carried
            left = inbound.deadline_at - time.monotonic()
            return [left, carried.attempt, carried.idempotency_key]

        serve(both_ways(look)[coroutine])
        metadata = sent(30.0, ago=10.0, attempt=3, idempotency_key="k")
        left, attempt, key = call(target, metadata=metadata)
        assert 10 < left <= 21
        assert (attempt, key) == (3, "k")
        assert current_inbound() is None

    def test_without_anything_carried_there_is_no_deadline(self, serve: Serve, target: Any) -> None:
        serve(lambda data: repr(attrs.asdict(current_inbound())))  # type: ignore[arg-type]
        assert "'deadline_at': None" in call(target)


def call_inner(worker: Resilient, metadata: dict[str, Any]) -> Any:
    # With the bare client: the hop to the inner function is the SDK's own.
    return worker._connection.client.call(
        {"function_id": "t::inner", "payload": {}, "metadata": metadata}
    )


class TestQueued:
    def test_reserved_field_is_removed_and_deadline_ignored(
        self, serve: Serve, target: Any
    ) -> None:
        def look(data: Any) -> list[Any]:
            inbound = current_inbound()
            assert inbound is not None
            return [sorted(data), inbound.carried.idempotency_key, inbound.deadline_at]

        serve(look)
        wire = sent(1.0, ago=500.0, idempotency_key="k")[METADATA_FIELD]
        names, key, deadline = call(target, {"n": 1, PAYLOAD_FIELD: wire})
        assert "n" in names
        assert PAYLOAD_FIELD not in names
        assert (key, deadline) == ("k", None)


class TestSeen:
    MARKER = "s3cr3t"

    @pytest.fixture(autouse=True)
    def log(self, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
        caplog.set_level(logging.DEBUG, logger="iii_resilience")
        return caplog

    def records(self, log: pytest.LogCaptureFixture) -> list[Any]:
        return [record for record in log.records if record.name == "iii_resilience"]

    @pytest.mark.parametrize("way", [0, 1], ids=["plain", "coroutine"])
    def test_one_record_tells_where_and_nothing_of_what(
        self, serve: Serve, target: Any, log: pytest.LogCaptureFixture, way: int
    ) -> None:
        def fail() -> None:
            try:
                raise KeyError(self.MARKER)
            except KeyError as error:
                raise ValueError(self.MARKER + "!") from error

        serve(both_ways(fail)[way])
        failure_of(target, payload={"x": self.MARKER})
        (record,) = self.records(log)
        assert record.iii_function_id == "t::f"
        assert record.iii_code == "ValueError"
        assert record.iii_category == "permanent"
        assert record.iii_exception == "ValueError from KeyError"
        text = logging.Formatter("%(message)s").format(record)
        assert "ValueError from KeyError at test_harden.py:" in text
        assert "in fail" in text
        assert self.MARKER not in text
        assert self.MARKER not in repr(vars(record))

    def test_original_is_reachable_from_record_of_sdk(
        self, serve: Serve, target: Any, log: pytest.LogCaptureFixture
    ) -> None:
        error = ValueError("boom")

        def fail(data: Any) -> None:
            raise error

        serve(fail)
        failure_of(target)

        def originals() -> Iterator[Any]:
            """Of all records of the SDK: what earlier tests have left may be logged now, too."""
            for record in log.records:
                if record.name.startswith("iii.") and record.exc_info:
                    chain: Any = record.exc_info[1]
                    while chain is not None:
                        yield getattr(chain, "original", None)
                        chain = chain.__cause__

        until(lambda: error in list(originals()))  # the SDK answers first, then it logs

    def test_void_call_that_fails_is_seen(
        self, serve: Serve, target: Any, log: pytest.LogCaptureFixture, seen: Seen
    ) -> None:
        done = threading.Event()

        def fail(data: Any) -> None:
            done.set()
            raise TransientError("busy", code="BUSY")

        serve(fail)
        call(target, action={"type": "void"})
        assert done.wait(60)
        until(lambda: self.records(log))
        (record,) = self.records(log)
        assert (record.iii_code, record.iii_category) == ("BUSY", "transient")
        metric = seen.metrics()["iii.handler.failures"]
        assert metric.total(iii__function__id="t::f", error__type="_OTHER") == 1

    def test_reported_failure_is_one_record_and_one_count(
        self, serve: Serve, target: Any, log: pytest.LogCaptureFixture, seen: Seen
    ) -> None:
        error = PayloadError(self.MARKER)
        errors = [error, error, ValueError(self.MARKER)]  # one object, raised again

        @reports_errors
        def fail(data: Any) -> None:
            raise errors.pop(0)

        serve(fail)
        for number in (1, 2, 3):
            failure_of(target)
            assert len(self.records(log)) == number
            assert seen.metrics()["iii.handler.failures"].total() == number
        last = self.records(log)[-1]
        assert "ValueError at test_harden.py:" in last.getMessage()
        assert "in fail" in last.getMessage()
        assert "steps.py" not in last.getMessage()

    def test_record_names_call_and_its_trace(
        self,
        serve: Serve,
        target: Any,
        engine: LoopbackEngine,
        log: pytest.LogCaptureFixture,
        seen: Seen,
    ) -> None:
        serve(lambda data: leave())
        with seen.tracer.start_as_current_span("the caller's"):
            failure_of(target)
        (record,) = self.records(log)
        (made,) = engine.calls("t::f")
        tells = installed().version >= (0, 25)
        assert record.iii_invocation_id == (made.invocation_id if tells else None)
        assert len(record.iii_span_id) == 16
        (around,) = [s for s in seen.exporter.get_finished_spans() if s.name == "the caller's"]
        context: Any = around.get_span_context()
        assert record.iii_trace_id == f"{context.trace_id:032x}"
        assert (record.iii_reason, record.iii_delay, record.iii_attempt) == (None, None, 1)

    def test_each_failure_counts_once(self, serve: Serve, target: Any, seen: Seen) -> None:
        serve(lambda data: leave())
        serve(lambda data: {1}, "t::g")
        failure_of(target)
        failure_of(target)
        failure_of(target, function_id="t::g")
        metric = seen.metrics()["iii.handler.failures"]
        points = {
            (point.attributes["iii.function.id"], point.attributes["error.type"]): (
                point.value,
                point.attributes["iii.error.category"],
            )
            for point in metric.points
        }
        assert points == {
            ("t::f", "HANDLER_EXITED"): (2, "permanent"),
            ("t::g", "invalid_payload"): (1, "payload"),
        }

    def test_large_result_is_warned_of_once(
        self, engine: LoopbackEngine, connect: Callable[..., Any], log: pytest.LogCaptureFixture
    ) -> None:
        worker = resilient(connect("worker"))
        worker.register_function("t::f", lambda data: "x" * (2 << 20))
        engine.wait_registered("t::f")
        caller = resilient(connect("caller"))
        for _ in range(2):
            if installed().version >= (0, 24, 5):
                assert len(call(caller)) == 2 << 20
        if installed().version >= (0, 24, 5):
            (record,) = self.records(log)
            assert "pass max_result_bytes=1048576" in record.getMessage()
        worker.shutdown()
        caller.shutdown()


async def test_handlers_of_thread_see_context_of_call(serve: Serve, target: Any) -> None:
    names: list[str] = []
    serve(lambda data: names.append(threading.current_thread().name))
    await asyncio.to_thread(call, target)
    assert names == ["iii-resilience t::f"]
