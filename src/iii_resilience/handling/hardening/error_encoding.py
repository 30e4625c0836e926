"""Encodes the error of a failed handler as one text, without its stack trace.

The SDK sends ``invocation_failed`` with ``str(exception)`` and the formatted traceback
(docs/engine-notes.md, 7), so only the text can be chosen. Knows nothing of how handlers run.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from iii_resilience.core.classifiers.builtin_exceptions import no_thread
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.core.report import already_retried
from iii_resilience.handling.handler_errors import HandlerError

_LONGEST = 100_000  # characters of a message; the rest is cut


class HandlerFailed(Exception):  # noqa: N818 - it stands for the error, which has its own name
    """The failure of a handler as it is handed to the SDK.

    Its traceback begins here: the handler's own files and lines stay in this process. The SDK
    logs it, so a worker's log handlers find the original exception through the record's
    ``exc_info``.

    Args:
        text: What travels.
        original: What the handler raised, or None where it was not started.
        says_its_category: Whether the text is a structured error.
    """

    def __init__(
        self, text: str, original: BaseException | None = None, *, says_its_category: bool = True
    ) -> None:
        self.original = original
        self.says_its_category = says_its_category
        super().__init__(text)


class NotStarted(HandlerFailed):
    """The error of a call whose handler does not start; it has been logged and counted.

    Args:
        text: What travels.
        answer: What is returned instead, where the caller reads results only; or None.
    """

    def __init__(self, text: str, answer: dict[str, Any] | None = None) -> None:
        self.answer = answer
        super().__init__(text)


def encode_error(error: BaseException, *, since: float) -> HandlerFailed:
    """What is handed to the SDK in place of what a handler raised.

    Args:
        error: What the handler raised.
        since: Monotonic time of the handler's start, in seconds: a retry that was given up
            before it was another call's.
    """
    text = _structured(error, since)
    if text is not None:
        return HandlerFailed(text, error)
    return HandlerFailed(_str(error), error, says_its_category=False)


def structured(category: Category, code: str, message: str, **more: Any) -> str:
    """A structured error, as `classify` reads it on the other side.

    Args:
        category: The category it has there.
        code: Its code.
        message: What went wrong, for people.
        **more: Further fields of the JSON object; those that are None are left out.
    """
    body = {"type": category.value, "code": code, "message": message}
    body.update((name, value) for name, value in more.items() if value is not None)
    return json.dumps(body)


def _structured(error: BaseException, since: float) -> str | None:
    if isinstance(error, asyncio.CancelledError):
        message = "the handler was cancelled before it had a result"
        return structured(Category.TRANSIENT, "HANDLER_CANCELLED", message)
    if not isinstance(error, Exception):
        return structured(
            Category.PERMANENT, "HANDLER_EXITED", f"{type(error).__name__}: {_str(error)}"
        )
    if no_thread(error):
        message = "this worker could start no thread for the call"
        return structured(Category.TRANSIENT, "THREAD_UNAVAILABLE", message)
    marked = already_retried(error, since=since)
    if isinstance(error, HandlerError):
        body = _body(error)
        if body is not None:
            return json.dumps({**body, "already_retried": True} if marked else body)
    if not marked:
        return None
    # The mark has no other way over the hop: without it the caller would repeat what was
    # retried here already.
    failure = classify(error)
    seconds = failure.retry_after
    return structured(
        failure.category,
        failure.code,
        _fit(failure.message) or _str(error),
        retry_after_ms=None if seconds is None else round(seconds * 1000),
        already_retried=True,
    )


def _body(error: HandlerError) -> dict[str, Any] | None:
    """The fields that travel, or None where a subclass has words of its own."""
    try:
        body = json.loads(str(error))
    except Exception:
        return None
    if not isinstance(body, dict):
        return None
    message = body.get("message")
    return {**body, "message": _fit(message)} if isinstance(message, str) else body


def _str(error: BaseException) -> str:
    try:
        return _fit(str(error))
    except Exception:  # one that cannot say what it is must still reach the caller
        return type(error).__name__


def _fit(text: str) -> str:
    """Only what arrives: the engine drops lone surrogates, and old callers die of a megabyte."""
    return text[:_LONGEST].encode(errors="replace").decode()
