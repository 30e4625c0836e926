"""The log: one record for every decision, with the same fields in each."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import iii
import pytest
import tenacity
from opentelemetry import trace
from support.telemetry_fixtures import Seen, id_of

from iii_resilience import (
    Backoff,
    Category,
    Decision,
    Execution,
    Failure,
    Reason,
    RetryPolicy,
    RpcError,
    __version__,
    check_rpc,
    hint_for,
    iii_retry,
    report_for,
)
from iii_resilience.core.observers import where
from iii_resilience.telemetry.logs import decided, heard

QUICK = RetryPolicy(backoff=Backoff(base=0, throttled_base=0), budget=None, attempts=2)
MARKER = "s3cr3t"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="iii_resilience")
    return caplog


def test_there_is_one_record_for_each_decision(log: pytest.LogCaptureFixture) -> None:
    @iii_retry(idempotent=True, policy=QUICK)
    def function() -> None:
        raise iii.InvocationError("invocation_stopped", "m")

    with pytest.raises(Exception, match="invocation_stopped"):
        function()
    fields = [
        (r.levelname, r.iii_attempt, r.iii_code, r.iii_category, r.iii_reason, r.iii_delay)  # type: ignore[attr-defined]
        for r in log.records
    ]
    assert fields == [
        ("INFO", 1, "invocation_stopped", "transient", "retried", 0.0),
        ("WARNING", 2, "invocation_stopped", "transient", "exhausted", None),
    ]
    name = f"{__name__}.{function.__qualname__}"
    assert {r.iii_function_id for r in log.records} == {name}  # type: ignore[attr-defined]
    assert log.records[0].getMessage() == (
        f"{name}: attempt 1 failed with invocation_stopped (transient): retry in 0.000 s (retried)"
    )
    assert log.records[1].getMessage() == (
        f"{name}: attempt 2 failed with invocation_stopped (transient): give up (exhausted)"
    )
    assert {r.name for r in log.records} == {"iii_resilience"}


def test_success_says_nothing(log: pytest.LogCaptureFixture) -> None:
    iii_retry(idempotent=True)(lambda: 1)()
    assert records(log) == []


def test_program_without_logging_hears_nothing() -> None:
    code = """
        from iii_resilience import iii_retry
        @iii_retry
        def function(): raise ConnectionError
        try: function()
        except ConnectionError: pass
    """
    ran = run(code)
    assert (ran.stdout, ran.stderr) == ("", "")


class CauseError(ConnectionError):
    pass


def remote(kind: str) -> Any:
    message = f"token {MARKER} and card {MARKER}"
    if kind == "rpc":
        return check_rpc(
            {
                "status": "error",
                "label": "RATE_LIMITED",
                "error": {"code": "RATE_LIMITED", "message": message, "stack": MARKER},
            }
        )
    if kind == "again":
        raise tenacity.TryAgain(MARKER) from ValueError(message)
    if kind == "caused":
        raise CauseError(message) from ValueError(message)
    if kind == "json":
        text = json.dumps({"code": "TIMEOUT", "message": message, "type": "x", "retryable": True})
        raise iii.InvocationError("invocation_failed", f"handler error: {text}")
    if kind == "rpc object":
        raise RpcError("TIMEOUT", message, stack=MARKER)
    raise iii.InvocationError(kind, message, function_id="f", stacktrace=MARKER)


@pytest.mark.parametrize(
    "kind",
    [
        "invocation_stopped",
        "invocation_failed",
        "FORBIDDEN",
        "function_not_found",
        "http_error",
        "no_such_code",
        "rpc",
        "rpc object",
        "again",
        "caused",
        "json",
    ],
)
def test_neither_messages_nor_arguments_appear_anywhere(
    kind: str, log: pytest.LogCaptureFixture
) -> None:
    @iii_retry(idempotent=True, policy=QUICK)
    def function(payload: Any, **more: Any) -> None:
        remote(kind)

    with pytest.raises(Exception, match=rf"{MARKER}|{kind}") as caught:
        function({"card": MARKER}, token=MARKER)
    error = caught.value
    assert log.records
    seen = [json.dumps(vars(r), default=repr) for r in log.records]
    seen += [r.getMessage() for r in log.records]
    seen += [repr(report_for(error)), repr(hint_for(error)), *error.__notes__]
    assert [text for text in seen if MARKER in text] == []


def test_message_can_be_read_as_attribute() -> None:
    @iii_retry
    def function() -> None:
        remote("invocation_failed")

    with pytest.raises(Exception, match=MARKER) as caught:
        function()
    report = report_for(caught.value)
    assert report is not None
    assert MARKER in report.attempts[0].failure.message


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_decisions_are_counted_by_provider_set_after_import() -> None:
    # In a process of its own: a meter provider can be set once.
    code = """
        import json
        import warnings
        import tenacity
        from iii_resilience import Backoff, RetryPolicy, iii_retry
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from opentelemetry import metrics
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader]))
        policy = RetryPolicy(backoff=Backoff(base=0, throttled_base=0), attempts=3)
        class Odd(Exception): pass
        def fail(error, idempotent):
            @iii_retry(idempotent=idempotent, policy=policy)
            def function(): raise error
            try: function()
            except Exception: pass
        fail(ConnectionError("s3cr3t"), True)
        fail(ConnectionError("s3cr3t"), False)
        fail(Odd("s3cr3t"), True)
        (resource,) = reader.get_metrics_data().resource_metrics
        (scope,) = resource.scope_metrics
        (metric,) = [m for m in scope.metrics if m.name == "iii.retry.decisions"]
        print(json.dumps([scope.scope.name, scope.scope.version, metric.name, metric.unit]))
        points = [[dict(p.attributes), p.value] for p in metric.data.data_points]
        print(json.dumps(points))
    """
    ran = run(code)
    assert ran.stderr == ""
    head, points = map(json.loads, ran.stdout.splitlines())
    assert head == ["iii_resilience", __version__, "iii.retry.decisions", "{decision}"]
    assert MARKER not in ran.stdout
    counted = {
        (
            attributes["error.type"],
            attributes["iii.error.category"],
            attributes["iii.retry.decision"],
        ): value
        for attributes, value in points
    }
    assert counted == {
        ("ConnectionError", "transient", "retried"): 2,
        ("ConnectionError", "transient", "exhausted"): 1,
        ("ConnectionError", "transient", "not_idempotent"): 1,
        ("_OTHER", "permanent", "not_retryable"): 1,
    }
    assert all(a["iii.function.id"] == "__main__.fail.<locals>.function" for a, _ in points)
    assert all(len(a) == 4 for a, _ in points)  # no attempt numbers: they would be a series each


FIELDS = {
    "iii_function_id",
    "iii_code",
    "iii_category",
    "iii_reason",
    "iii_attempt",
    "iii_delay",
    "iii_invocation_id",
    "iii_trace_id",
    "iii_span_id",
}


def records(log: pytest.LogCaptureFixture) -> list[Any]:
    return [one for one in log.records if one.name == "iii_resilience"]


def fail() -> None:
    raise ConnectionError


def test_every_record_has_every_field(log: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConnectionError):
        iii_retry(idempotent=True, policy=QUICK)(fail)()
    plain = set(vars(logging.makeLogRecord({}))) | {"message", "taskName"}
    assert [set(vars(record)) - plain for record in log.records] == [FIELDS, FIELDS]
    ids = [(r.iii_invocation_id, r.iii_trace_id, r.iii_span_id) for r in records(log)]
    assert ids == [(None, None, None)] * 2


def test_ids_are_those_of_attempt(log: pytest.LogCaptureFixture, seen: Seen) -> None:
    with pytest.raises(ConnectionError):
        iii_retry(idempotent=True, policy=QUICK)(fail)()
    ((call, attempts),) = seen.calls().values()
    context: Any = call.get_span_context()
    assert [(r.iii_trace_id, r.iii_span_id) for r in records(log)] == [
        (f"{context.trace_id:032x}", f"{id_of(span):016x}") for span in attempts
    ]


def test_without_spans_they_are_those_of_span_around(
    log: pytest.LogCaptureFixture, clean_globals: None
) -> None:
    around = trace.NonRecordingSpan(trace.SpanContext(7, 9, is_remote=True))
    with trace.use_span(around), pytest.raises(ConnectionError):
        iii_retry(idempotent=True, policy=QUICK)(fail)()
    assert {(r.iii_trace_id, r.iii_span_id) for r in records(log)} == {
        ("0" * 31 + "7", "0" * 15 + "9")
    }


def with_id(value: Any) -> Exception:
    error: Exception = iii.InvocationError("TIMEOUT", "m", invocation_id=value)
    return error


class HostileError(ConnectionError):
    @property
    def invocation_id(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (iii.InvocationError("TIMEOUT", "m", invocation_id="an-id"), "an-id"),
        (iii.InvocationError("TIMEOUT", "m"), None),
        (iii.InvocationError("TIMEOUT", "m", invocation_id="x" * 65), None),
        (with_id(7), None),
        (HostileError(), None),
    ],
)
def test_invocation_id_is_one_of_sdks_exception(
    error: Any, told: str | None, log: pytest.LogCaptureFixture
) -> None:
    @iii_retry
    def function() -> None:
        raise error

    with pytest.raises(type(error)):
        function()
    (record,) = records(log)
    assert record.iii_invocation_id == told


def test_exception_is_told_by_its_type_and_place() -> None:
    assert where(ValueError(MARKER)) == "ValueError"
    with pytest.raises(ConnectionError) as caught:
        fail()
    told = where(caught.value)
    assert told.startswith("ConnectionError at test_logs.py:")
    assert told.endswith(" in fail")


@pytest.mark.parametrize("level", [logging.CRITICAL, logging.DEBUG])
def test_record_is_only_made_where_somebody_listens(
    level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, logger="iii_resilience")
    failure = Failure("TIMEOUT", Category.TRANSIENT, Execution.MAYBE_EXECUTED)
    decided(failure, Decision(Reason.RETRIED, 1.25), attempt=1, name="f")
    assert len(records(caplog)) == (level == logging.DEBUG)


@contextmanager
def unheard() -> Iterator[logging.Logger]:
    """The library's logger where nobody listens, not even pytest."""
    logger = logging.getLogger("iii_resilience")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logger, "propagate", False)
        patch.setattr(logger, "handlers", [logging.NullHandler()])
        yield logger


def test_record_that_reaches_nobody_is_not_made() -> None:
    with unheard() as logger, monitored(logger) as made:
        assert not heard(logging.WARNING)
        give_up()
    assert made == []


def test_it_is_made_for_handler_of_logger() -> None:
    with unheard() as logger, monitored(logger) as made:
        logger.handlers.append(logging.Handler(logging.CRITICAL))
        give_up()
    assert len(made) == 1


def test_it_is_made_for_handler_above_logger() -> None:
    with unheard() as logger, monitored(logger) as made:
        logger.propagate = True  # pytest itself listens up there
        give_up()
    assert len(made) == 1


def test_it_is_made_for_filter_of_logger() -> None:
    seen: list[logging.LogRecord] = []

    class Keeps(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            seen.append(record)
            return True

    with unheard() as logger:
        logger.addFilter(keeps := Keeps())
        try:
            give_up()
        finally:
            logger.removeFilter(keeps)
    assert len(seen) == 1


def give_up() -> None:
    @iii_retry(idempotent=True)
    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fails()


@contextmanager
def monitored(logger: logging.Logger) -> Iterator[list[object]]:
    """The records that a logger makes."""
    made: list[object] = []
    make = logger.makeRecord
    with pytest.MonkeyPatch.context() as patch:

        def noted(*args: Any, **more: Any) -> logging.LogRecord:
            made.append(args)
            return make(*args, **more)

        patch.setattr(logger, "makeRecord", noted)
        yield made
