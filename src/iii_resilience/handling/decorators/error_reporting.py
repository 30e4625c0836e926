"""`@reports_errors`: reports a handler's exceptions to the caller with their category only.

Without it the SDK sends ``str(exception)`` and the stack trace (docs/engine-notes.md, 7). Knows
nothing of how handlers are registered.
"""

from __future__ import annotations

import json
import time
from typing import Any, TypeVar

from iii_resilience.core.classify import classify
from iii_resilience.core.codes.lookup import find
from iii_resilience.core.codes.model import Category
from iii_resilience.core.effects import CallHandler, Steps
from iii_resilience.core.failure import Failure
from iii_resilience.core.report import already_retried
from iii_resilience.handling.decorators.wrapper import F, IncomingCall, wrap
from iii_resilience.handling.handler_errors import (
    AuthError,
    HandlerError,
    NotFoundError,
    PayloadError,
    PermanentError,
    TransientError,
)
from iii_resilience.telemetry import worker_events

T = TypeVar("T", bound=HandlerError)

_KINDS: dict[Category, type[HandlerError]] = {
    Category.TRANSIENT: TransientError,
    Category.AUTH: AuthError,
    Category.NOT_FOUND: NotFoundError,
    Category.PAYLOAD: PayloadError,
    Category.PERMANENT: PermanentError,
}
_DEEP = 8


def reports_errors(handler: F) -> F:
    """Decorate a handler: what it raises becomes one of the five structured errors.

    The five pass as they are. Of everything else the caller learns the category, the code where a
    table knows it, what that code means, how long to wait, and whether it was retried already;
    neither message nor stack trace leave the worker. Where in the handler it was raised goes to
    the log, without what it said.

    Args:
        handler: A plain or asynchronous handler, or method.
    """

    def steps(call: IncomingCall) -> Steps:
        since = time.monotonic()
        try:
            result = yield CallHandler()
        except Exception as raised:
            error = raised
        else:
            if call.outermost:
                worker_events.handler_returned(call.function_id, result)
            return result
        reported = reported_as(error, since=since)
        if not worker_events.told(error, since=since):
            worker_events.handler_failed(
                call.function_id,
                classify({"code": "invocation_failed", "message": str(reported)}),
                error,
                seconds=time.monotonic() - since,
                attempt=1 if call.carried is None else call.carried.attempt,
            )
        worker_events.tell(reported)
        if reported is not error:
            raise reported from None
        raise reported

    return wrap(handler, steps, name="reports_errors")


def reported_as(error: Exception, *, since: float) -> HandlerError:
    """The structured error that stands for an exception; itself, if it is one.

    Args:
        error: What a handler raised.
        since: Monotonic time at which the handler began, in seconds: what had been given up
            before was another call's.
    """
    retried = already_retried(error, since=since)
    if isinstance(error, HandlerError):
        error.already_retried = error.already_retried or retried
        return error
    failure = classify(error)
    known = _known(failure)
    code, meaning = (None, "") if known is None else (known.code, _meaning(known.code))
    said = meaning or f"the handler raised {type(error).__name__}"
    reported = _KINDS[failure.category](said, code=code, retry_after=failure.retry_after)
    reported.already_retried = retried or failure.already_retried
    return reported


def restored(text: str) -> HandlerError:
    """The structured error that travelled, or was stored, as this text."""
    body: dict[str, Any] = json.loads(text)
    wait = body.get("retry_after_ms")
    error = _KINDS[Category(body["type"])](
        body["message"],
        code=body.get("code"),
        retry_after=None if wait is None else wait / 1000,
    )
    error.already_retried = body.get("already_retried") is True
    return error


def _known(failure: Failure) -> Failure | None:
    """The outermost cause whose code a table knows and that says the category."""
    cause: Failure | None = failure
    for _ in range(_DEEP):
        if cause is None:
            return None
        if cause.known and cause.category is failure.category and find(cause.code) is not None:
            inner = cause.inner
            if cause.code != "invocation_failed" or inner is None or not inner.known:
                return cause
        cause = cause.inner
    return None


def _meaning(code: str) -> str:
    row = find(code)
    return "" if row is None else row.meaning
