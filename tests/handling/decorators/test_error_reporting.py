"""`@reports_errors`: callers learn what kind of failure it was, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from iii_resilience import RetryPolicy, classify, hint_for, iii_retry, report_for
from iii_resilience.client.resilient import Resilient
from iii_resilience.handling import (
    AuthError,
    HandlerError,
    NotFoundError,
    PayloadError,
    PermanentError,
    TransientError,
    reports_errors,
)
from iii_resilience.handling.decorators.error_reporting import reported_as, restored
from iii_resilience.testing import LoopbackEngine


class InvocationError(Exception):
    """As the SDK's."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{code}: {message}")


SECRET = "4111-1111"
CASES: list[tuple[Exception, type[HandlerError], str | None, str]] = [
    (ValueError(SECRET), PermanentError, None, "the handler raised ValueError"),
    (KeyError(SECRET), PermanentError, None, "the handler raised KeyError"),
    (ConnectionError(SECRET), TransientError, None, "the handler raised ConnectionError"),
    (InvocationError("FORBIDDEN", SECRET), AuthError, "FORBIDDEN", ""),
    (InvocationError("function_not_found", SECRET), NotFoundError, "function_not_found", ""),
    (InvocationError("payload_too_large", SECRET), PayloadError, "payload_too_large", ""),
    (InvocationError("NO_SUCH_CODE", SECRET), PermanentError, None, "the handler raised Invoc"),
    (
        InvocationError("invocation_failed", f"TIMEOUT: {SECRET}"),
        TransientError,
        "TIMEOUT",
        "",
    ),
]


@pytest.mark.parametrize(("error", "kind", "code", "message"), CASES)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_exception_becomes_structured_error_of_its_category(
    error: Exception,
    kind: type[HandlerError],
    code: str | None,
    message: str,
    asynchronous: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def plain(data: Any) -> None:
        raise error

    async def coroutine(data: Any) -> None:
        raise error

    error.with_traceback(None)  # it is raised in several tests
    handler: Any = reports_errors(coroutine if asynchronous else plain)
    with caplog.at_level(logging.WARNING, "iii_resilience"), pytest.raises(HandlerError) as caught:
        asyncio.run(handler({"card": SECRET})) if asynchronous else handler({"card": SECRET})
    reported = caught.value
    assert type(reported) is kind
    assert reported.code == code
    assert reported.message.startswith(message)
    assert reported.message
    # Neither what it said nor where it came from leaves the worker; where it came from is logged.
    told = "".join(traceback.format_exception(reported))
    assert SECRET not in told + str(reported) + caplog.text
    assert "in plain" not in told
    assert "in coroutine" not in told
    (record,) = (r for r in caplog.records if r.name == "iii_resilience")
    where = "coroutine" if asynchronous else "plain"
    first = record.getMessage().splitlines()[0]
    assert f": {type(error).__name__} at test_error_reporting.py:" in first
    assert first.endswith(f"in {where}")


@pytest.mark.parametrize(
    "kind", [TransientError, AuthError, NotFoundError, PayloadError, PermanentError]
)
def test_five_pass_as_they_are(kind: type[HandlerError], caplog: pytest.LogCaptureFixture) -> None:
    error = kind("as it is", code="CARD_DECLINED", retry_after=1.5)

    @reports_errors
    def handler(data: Any) -> None:
        raise error

    with pytest.raises(kind) as caught:
        handler({})
    assert caught.value is error
    (record,) = (r for r in caplog.records if r.name == "iii_resilience")
    assert (record.iii_code, record.iii_attempt) == ("CARD_DECLINED", 1)  # type: ignore[attr-defined]


def test_result_passes() -> None:
    assert reports_errors(lambda data: data)({"n": 1}) == {"n": 1}


def test_exits_pass() -> None:
    @reports_errors
    def handler(data: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        handler({})


def test_what_was_retried_here_is_not_retried_by_the_caller() -> None:
    @iii_retry(idempotent=True, policy=RetryPolicy(attempts=2), wait=lambda _: 0.0)
    def flaky() -> None:
        raise ConnectionError("gone")

    @reports_errors
    def handler(data: Any) -> None:
        flaky()

    with pytest.raises(TransientError) as caught:
        handler({})
    assert caught.value.already_retried
    assert classify({"code": "invocation_failed", "message": str(caught.value)}).already_retried


def test_time_to_wait_is_kept() -> None:
    error = InvocationError("RATE_LIMITED", "retry after 4998ms")
    reported = reported_as(error, since=0.0)
    assert reported.retry_after == pytest.approx(4.998)


@pytest.mark.parametrize(
    "error",
    [
        TransientError("busy", code="BUSY", retry_after=0.25),
        PayloadError("bad"),
        AuthError("no", retry_after=0.0),
    ],
)
def test_stored_error_comes_back_as_it_was(error: HandlerError) -> None:
    error.already_retried = True
    again = restored(str(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


# The whole hop.


@pytest.fixture
def serve(target: Any, engine: LoopbackEngine) -> Callable[[Any], None]:
    def serve(handler: Any) -> None:
        target.register_function("orders::save", reports_errors(handler))
        engine.wait_registered("orders::save")

    return serve


def test_payload_error_on_worker_b_is_one_to_caller_on_a(
    serve: Callable[[Any], None], caller: Resilient, engine: LoopbackEngine
) -> None:
    def handler(data: Any) -> None:
        raise PayloadError("the amount is negative", code="AMOUNT_NEGATIVE")

    serve(handler)
    with pytest.raises(Exception, match="AMOUNT_NEGATIVE") as caught:
        caller.trigger({"function_id": "orders::save", "payload": {}}, idempotent=True)
    report, hint = report_for(caught.value), hint_for(caught.value)
    assert report is not None
    assert hint is not None
    (attempt,) = report.attempts
    assert attempt.failure.category.value == "payload"
    assert attempt.failure.inner is not None
    assert attempt.failure.inner.code == "AMOUNT_NEGATIVE"
    assert hint.action == "fix-payload"
    assert hint.remedy
    assert len(engine.calls("orders::save")) == 1


def test_pushback_of_worker_b_is_kept_by_the_caller_on_a(
    serve: Callable[[Any], None], caller: Resilient, engine: LoopbackEngine
) -> None:
    ran: list[Any] = []

    def handler(data: Any) -> str:
        ran.append(data)
        if len(ran) == 1:
            raise TransientError("busy", retry_after=0.5)
        return "saved"

    serve(handler)
    policy = RetryPolicy(deadline=30.0)
    request = {"function_id": "orders::save", "payload": {}}
    assert caller.trigger(request, idempotent=True, policy=policy) == "saved"
    first, second = engine.calls("orders::save")
    assert second.at - first.at >= 0.5


def test_error_does_not_leak_internals_to_caller(
    serve: Callable[[Any], None], caller: Resilient
) -> None:
    def handler(data: Any) -> None:
        raise ValueError(SECRET)

    serve(handler)
    with pytest.raises(Exception, match="the handler raised ValueError") as caught:
        caller.trigger({"function_id": "orders::save", "payload": {}}, idempotent=True)
    assert SECRET not in str(caught.value) + str(getattr(caught.value, "stacktrace", ""))
