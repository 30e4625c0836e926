"""Whatever watches a call never changes its outcome, and says once what was wrong."""

from __future__ import annotations

import ast
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from support.observers import ObserverFaults

import iii_resilience
from iii_resilience import (
    Backoff,
    Breaker,
    Budget,
    Bulkhead,
    PermanentError,
    Reason,
    RetryPolicy,
    iii_retry,
    report_for,
    resilient,
    retrying,
)
from iii_resilience.core.observers import IsolatedObserver, logger
from iii_resilience.handling import consumer, reports_errors
from iii_resilience.stores import MemoryStore
from iii_resilience.telemetry import metrics as metrics_of_calls
from iii_resilience.telemetry.spans import current_ids
from iii_resilience.testing import AnswerError, LoopbackEngine

QUICK = RetryPolicy(
    backoff=Backoff(base=0, throttled_base=0),
    budget=None,
    bulkhead=Bulkhead(limit=2),
)


class ObserverError(Exception):
    """What every observer of this file raises."""


def fault(*_: Any, **__: Any) -> Any:
    raise ObserverError


# Observers that raise, each as a program installs it; only for this library, since the SDK in the
# same process logs and traces too, and breaks of it.

OURS = "iii_resilience"
PACKAGE = Path(iii_resilience.__file__).parent


def a_factory_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = logging.getLogRecordFactory()
    logging.setLogRecordFactory(
        lambda name, *args, **kwargs: (fault if name == OURS else plain)(name, *args, **kwargs)
    )


def a_factory_with_the_same_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stamps fields on each record of a program; `extra` must not collide with them."""
    plain = logging.getLogRecordFactory()

    def stamped(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = plain(*args, **kwargs)
        for name in ("trace_id", "span_id", "code", "attempt", "function_id", "reason", "state"):
            setattr(record, name, "stamped")
        return record

    logging.setLogRecordFactory(stamped)


def a_filter_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(OURS), "filters", [fault])


class RaisingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise ObserverError


def a_handler_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(OURS), "handlers", [RaisingHandler()])


@attrs.frozen
class RaisingProcessor(SpanProcessor):
    """Raises at the start or the end of a span."""

    starts: Callable[..., Any] | None = None
    ends: Callable[..., Any] | None = None

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.starts is not None and span.instrumentation_scope.name == OURS:
            self.starts(span)

    def on_end(self, span: Any) -> None:
        if self.ends is not None and span.instrumentation_scope.name == OURS:
            self.ends(span)


def traced(processor: SpanProcessor) -> None:
    provider = TracerProvider()
    provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)


def a_processor_that_raises_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    traced(RaisingProcessor(starts=fault))


def a_processor_that_raises_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    traced(RaisingProcessor(ends=fault))


def a_processor_that_raises_later(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = iter([None, None])  # the spans of the call and of its first attempt

    def third(_: Any) -> None:
        next(starts, fault)
        if next(starts, fault) is fault:
            fault()

    traced(RaisingProcessor(starts=third))


def a_processor_that_cannot_encode(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(span: Any) -> None:
        for value in span.attributes.values():
            str(value).encode("ascii")
        raise UnicodeEncodeError("ascii", "", 0, 1, "as an exporter that writes in on_end")

    traced(RaisingProcessor(ends=encode))


class RaisingTracer(trace.Tracer):
    start_span = fault
    start_as_current_span = fault


class RaisingTracers(trace.TracerProvider):
    def __init__(self, *, late: bool) -> None:
        self._late = late

    def get_tracer(self, instrumenting_module_name: str, *_: Any, **__: Any) -> trace.Tracer:
        if instrumenting_module_name != OURS:
            return trace.NoOpTracer()
        return RaisingTracer() if self._late else fault()


def a_tracer_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    trace.set_tracer_provider(RaisingTracers(late=True))


def a_tracer_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    trace.set_tracer_provider(RaisingTracers(late=False))


class RaisingMeter(metrics.NoOpMeter):
    """Makes instruments that raise, or no instruments at all."""

    def __init__(self, *, late: bool) -> None:
        super().__init__("raises")
        self._late = late

    def _made(self, instrument: Any) -> Any:
        if not self._late:
            raise ObserverError
        instrument.add = instrument.record = fault
        return instrument

    def create_counter(self, *args: Any, **kwargs: Any) -> Any:
        return self._made(super().create_counter(*args, **kwargs))

    def create_histogram(self, *args: Any, **kwargs: Any) -> Any:
        return self._made(super().create_histogram(*args, **kwargs))


class RaisingMeters(metrics.MeterProvider):
    def __init__(self, *, late: bool | None) -> None:
        self._late = late

    def get_meter(self, name: str, *_: Any, **__: Any) -> metrics.Meter:
        if name != OURS:
            return metrics.NoOpMeter(name)
        return fault() if self._late is None else RaisingMeter(late=self._late)


def instruments_that_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics.set_meter_provider(RaisingMeters(late=True))


def instruments_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics.set_meter_provider(RaisingMeters(late=False))


def a_meter_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics.set_meter_provider(RaisingMeters(late=None))


LOGGING = [
    a_factory_that_raises,
    a_filter_that_raises,
    a_handler_that_raises,
]
TRACING = [
    a_processor_that_raises_at_the_start,
    a_processor_that_raises_at_the_end,
    a_processor_that_raises_later,
    a_processor_that_cannot_encode,
    a_tracer_that_raises,
    a_tracer_that_cannot_be_made,
]
MEASURING = [
    instruments_that_raise,
    instruments_that_cannot_be_made,
    a_meter_that_cannot_be_made,
]
OBSERVERS = [*LOGGING, *TRACING, *MEASURING]


@pytest.fixture
def observed(clean_globals: None) -> Iterator[None]:
    """A program that logs everything, and whose observers the test replaces."""
    factory = logging.getLogRecordFactory()
    logging.getLogger(OURS).setLevel(logging.DEBUG)
    yield
    logging.getLogger(OURS).setLevel(logging.NOTSET)
    logging.setLogRecordFactory(factory)


@pytest.fixture(params=OBSERVERS, ids=lambda observer: observer.__name__)
def observer(
    request: pytest.FixtureRequest,
    observed: None,
    monkeypatch: pytest.MonkeyPatch,
    observer_faults: ObserverFaults,
) -> Iterator[ObserverFaults]:
    with monkeypatch.context() as patched:
        request.param(patched)
        yield observer_faults


class TestOutcomes:
    def test_retried_call_returns_its_value(self, observer: ObserverFaults) -> None:
        errors = iter([ConnectionError("1"), ConnectionError("2")])

        @iii_retry(idempotent=True, policy=QUICK)
        def function() -> str:
            for error in errors:
                raise error
            return "done"

        assert function() == "done"
        assert observer.seen()
        assert function() == "done"

    async def test_retried_coroutine_returns_its_value(self, observer: ObserverFaults) -> None:
        errors = iter([ConnectionError("1"), ConnectionError("2")])

        @iii_retry(idempotent=True, policy=QUICK)
        async def function() -> str:
            for error in errors:
                raise error
            return "done"

        assert await function() == "done"
        assert observer.seen()

    def test_abandoned_call_raises_its_own_error(self, observer: ObserverFaults) -> None:
        raised = ConnectionError("the original")
        calls = []

        @iii_retry(idempotent=True, policy=QUICK, breaker=Breaker(min_calls=3, open=60))
        def function() -> None:
            calls.append(1)
            raise raised

        with pytest.raises(ConnectionError) as caught:
            function()
        assert caught.value is raised
        report = report_for(raised)
        assert report is not None
        assert report.reason is Reason.CIRCUIT_OPEN  # a change that is observed too
        assert len(calls) == 3
        assert observer.seen()

    def test_permits_that_are_counted_change_nothing(self, observer: ObserverFaults) -> None:
        errors = iter([ConnectionError("1"), ConnectionError("2")])

        @iii_retry(idempotent=True, policy=QUICK.replace(budget=Budget()))
        def function() -> str:
            for error in errors:
                raise error
            return "done"

        @iii_retry(idempotent=True, policy=QUICK.replace(budget=Budget()))
        def gives_up() -> None:
            raise ConnectionError("the original")

        assert function() == "done"  # its permits are refunded
        with pytest.raises(ConnectionError, match="the original"):  # and here they are wasted
            gives_up()
        assert observer.seen()

    def test_interrupt_passes_through(self, observer: ObserverFaults) -> None:
        @iii_retry(idempotent=True, policy=QUICK)
        def function() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            function()

    def test_loop_ends_as_its_block_does(self, observer: ObserverFaults) -> None:
        tries = []
        for attempt in retrying(idempotent=True, policy=QUICK):
            with attempt:
                tries.append(attempt.number)
                if len(tries) < 3:
                    raise ConnectionError
        assert tries == [1, 2, 3]
        assert observer.seen()

    def test_trigger_returns_what_its_function_does(
        self,
        observer: ObserverFaults,
        engine: LoopbackEngine,
        target: Any,
        connect: Callable[..., Any],
    ) -> None:
        worker = resilient(target)
        caller = resilient(connect("caller"), policies=QUICK)
        worker.register_function("t::f", lambda data: {"done": True})
        engine.wait_registered("t::f")
        engine.inject("t::f", AnswerError("invocation_stopped", "Invocation stopped"), times=2)
        request = {"function_id": "t::f", "payload": {}}
        assert caller.trigger(request, idempotent=True) == {"done": True}
        assert observer.seen()
        assert caller.trigger(request, idempotent=True) == {"done": True}
        engine.inject("t::f", AnswerError("FORBIDDEN", "no"))
        with pytest.raises(Exception, match="FORBIDDEN"):
            caller.trigger(request, idempotent=True)

    def test_message_that_is_parked_is_acknowledged(
        self, observer: ObserverFaults, engine: LoopbackEngine, target: Any
    ) -> None:
        worker = resilient(target)
        parking = MemoryStore()

        @consumer(parking=parking, function_id="t::parks")
        def parks(data: Any) -> None:
            raise ValueError

        worker.register_function("t::parks", parks)
        engine.wait_registered("t::parks")
        answer = target.trigger({"function_id": "t::parks", "payload": {"n": 1}})
        (record,) = parking.records()
        assert record.parked_at is not None
        assert answer["parked"] == record.id

    def test_handler_answers_with_its_own_error(
        self, observer: ObserverFaults, engine: LoopbackEngine, target: Any
    ) -> None:
        worker = resilient(target)

        @reports_errors
        def fails(data: Any) -> None:
            raise PermanentError("the handler's own", code="OUT_OF_STOCK")

        worker.register_function("t::fails", fails)
        engine.wait_registered("t::fails")
        with pytest.raises(Exception, match="OUT_OF_STOCK"):
            target.trigger({"function_id": "t::fails", "payload": {}})


def flaky(times: int) -> Callable[[], str]:
    @iii_retry(idempotent=True, policy=QUICK)
    def function() -> str:
        nonlocal times
        times -= 1
        if times >= 0:
            raise ConnectionError("s3cr3t")
        return "done"

    return function


class RaisingSpan(trace.NonRecordingSpan):
    def get_span_context(self) -> trace.SpanContext:
        raise ObserverError


def test_current_span_that_raises_keeps_no_message_back(observer_faults: ObserverFaults) -> None:
    parking = MemoryStore()

    @consumer(parking=parking, function_id="t::parks")
    def parks(data: Any) -> None:
        raise ValueError

    with trace.use_span(RaisingSpan(trace.INVALID_SPAN_CONTEXT)):
        answer = parks({"n": 1})
    (record,) = parking.records()
    assert answer == {"parked": record.id}
    assert observer_faults.seen()


def test_every_measurement_is_isolated() -> None:
    tree = ast.parse(Path(metrics_of_calls.__file__).read_text("utf-8"))
    isolated = {
        id(call)
        for block in ast.walk(tree)
        if isinstance(block, ast.With) and ast.unparse(block.items[0]) == "_isolated"
        for call in ast.walk(block)
    }
    measured = [
        call
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in {"add", "record", "set"}
        and ast.unparse(call.func.value) != "self._ids"
    ]
    assert len(measured) > 3
    assert [ast.unparse(call) for call in measured if id(call) not in isolated] == []


class TestWhatIsSaid:
    @pytest.mark.parametrize("install", LOGGING, ids=lambda install: install.__name__)
    def test_lost_record_is_said_once_on_stderr(
        self,
        install: Callable[[pytest.MonkeyPatch], None],
        observed: None,
        monkeypatch: pytest.MonkeyPatch,
        observer_faults: ObserverFaults,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        install(monkeypatch)
        flaky(3)()
        flaky(3)()
        said = [line for line in capfd.readouterr().err.splitlines() if "iii_resilience" in line]
        assert len(said) == 1
        assert "lost a log record: ObserverError at test_observer_faults.py:" in said[0]

    @pytest.mark.parametrize(
        "install", [*TRACING, *MEASURING], ids=lambda install: install.__name__
    )
    def test_lost_span_or_measurement_is_logged_once(
        self,
        install: Callable[[pytest.MonkeyPatch], None],
        observed: None,
        monkeypatch: pytest.MonkeyPatch,
        observer_faults: ObserverFaults,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        install(monkeypatch)
        flaky(3)()
        before = self.said(caplog)
        assert before
        flaky(3)()
        flaky(0)()
        assert self.said(caplog) == before
        assert len(set(before)) == len(before)
        lost = "a span" if install in TRACING else "a measurement"
        for line in before:
            assert line.startswith(f"lost {lost}: ")
            assert "Error at test_observer_faults.py:" in line
            assert "s3cr3t" not in line

    @staticmethod
    def said(caplog: pytest.LogCaptureFixture) -> list[str]:
        return [r.getMessage() for r in caplog.records if r.getMessage().startswith("lost ")]

    def test_closed_stderr_changes_nothing(
        self, monkeypatch: pytest.MonkeyPatch, observed: None, observer_faults: ObserverFaults
    ) -> None:
        a_filter_that_raises(monkeypatch)
        monkeypatch.setattr("sys.stderr", None)
        assert flaky(2)() == "done"

    def test_silence_is_kept_where_logging_is_to_raise_nothing(
        self,
        monkeypatch: pytest.MonkeyPatch,
        observed: None,
        observer_faults: ObserverFaults,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        a_filter_that_raises(monkeypatch)
        monkeypatch.setattr(logging, "raiseExceptions", False)
        assert flaky(2)() == "done"
        assert capfd.readouterr().err == ""

    def test_places_that_are_kept_have_end(self, observer_faults: ObserverFaults) -> None:
        observer = IsolatedObserver("a span")
        for number in range(300):
            name = f"Odd{number}Error"
            with observer:
                raise type(name, (Exception,), {})
        assert len(observer_faults.seen()) <= 100


def test_span_that_cannot_be_found_has_no_ids(
    monkeypatch: pytest.MonkeyPatch, observer_faults: ObserverFaults
) -> None:
    def fails() -> Any:
        raise ObserverError

    monkeypatch.setattr(trace, "get_current_span", fails)
    assert current_ids() == (None, None)
    assert len(observer_faults.seen()) == 1


def test_every_record_of_library_is_isolated() -> None:
    """Only one file gets the logger itself; tests and the demo's own program are not watched.

    A simulation silences it: its calls are none of the program's.
    """
    direct = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if "getLogger" in path.read_text("utf-8") and "testing" not in path.parts
    }
    assert direct == {"observers.py", "callers.py", "row_run.py"}


class TestFields:
    def test_fields_of_program_are_left_alone(
        self,
        monkeypatch: pytest.MonkeyPatch,
        observed: None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        a_factory_with_the_same_fields(monkeypatch)
        caplog.set_level(logging.DEBUG, logger="iii_resilience")
        flaky(1)()
        (record,) = [one for one in caplog.records if one.name == "iii_resilience"]
        assert vars(record)["code"] == vars(record)["trace_id"] == "stamped"
        assert vars(record)["iii_code"] == "ConnectionError"
        assert vars(record)["iii_attempt"] == 1

    def test_record_names_line_that_made_it(self, caplog: pytest.LogCaptureFixture) -> None:
        logger.warning("w", extra={"code": "c"})
        logger.log(logging.ERROR, "e")
        try:
            raise ValueError
        except ValueError:
            logger.exception("x")
        assert {record.filename for record in caplog.records} == {"test_observer_faults.py"}
        assert {record.funcName for record in caplog.records} == {
            "test_record_names_line_that_made_it"
        }
        assert vars(caplog.records[0])["iii_code"] == "c"
        assert caplog.records[2].exc_info is not None
