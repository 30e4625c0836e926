"""Refines a code's row by the text of the message, for codes that have two meanings.

Knows nothing of causes inside messages (`classifiers.message_cause`), nor of which function was
called (`classifiers.execution_proof`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from iii_resilience.core.classifiers.text_patterns import (
    FIFO_FIELD,
    LIMIT,
    NO_PROVIDER,
    QUEUE_MISSING,
    QUEUE_WORDS,
    http_status_in,
    retry_after_words,
)
from iii_resilience.core.codes.engine_codes import http_status
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.failure import Failure
from iii_resilience.core.lazy_imports import lazy_module

if TYPE_CHECKING:
    import json
else:
    json = lazy_module("json")  # most programs never see a structured message


def refine(failure: Failure) -> Failure:
    """What the words of a message change in a row, for the codes that stand for two things.

    Args:
        failure: A failure as its row says it, with its message.
    """
    how = _REFINE.get(failure.code)
    message = failure.message
    return how(failure, message[:LIMIT]) if how is not None and message else failure


def _deserialization(failure: Failure, message: str) -> Failure:
    if not message.startswith("Failed to deserialize input"):
        return failure
    return failure.replace(
        category=Category.PAYLOAD,
        execution=Execution.NOT_EXECUTED,
        remedy="fix the payload's shape: the built-in function could not read its input",
    )


def _queue_name(failure: Failure, message: str) -> Failure:
    if message not in {"Queue name is required", "queue is required"}:
        return failure
    return failure.replace(category=Category.PAYLOAD)


def _serialization(failure: Failure, message: str) -> Failure:
    if not message.startswith("Failed to serialize result"):
        return failure
    return failure.replace(execution=Execution.EXECUTED)


# Proof that the request was never sent, in the words of the engine's HTTP client. The URL is cut
# out first: it is the user's and may hold anything.
_URL = re.compile(r"\(https?://\S*\)")
_NO_CONNECTION = re.compile(
    r"\(Connect\)|\bdns error\b|\btls handshake\b|\binvalid peer certificate\b"
    r"|\bcertificate verify failed\b|\bconnection refused\b",
    re.IGNORECASE,
)


def _http_request(failure: Failure, message: str) -> Failure:
    if not _NO_CONNECTION.search(_URL.sub("", message)):
        return failure
    return failure.replace(execution=Execution.NOT_EXECUTED)


def _http_status(failure: Failure, message: str) -> Failure:
    status = http_status_in(message)
    if status is None:
        return failure
    return failure.replace(execution=http_status(status).execution)


def _bridge(failure: Failure, message: str) -> Failure:
    if message.strip() != "iii is not connected":
        return failure
    return failure.replace(execution=Execution.NOT_EXECUTED)


_DEFINE_IT = "define the queue: ensure_queue(worker, name) does so only where it is not defined yet"


def _enqueue(failure: Failure, message: str) -> Failure:
    bare = message.removeprefix("invocation_failed: ").removeprefix("handler error: ")
    if QUEUE_MISSING.match(bare):
        return failure.replace(execution=Execution.NOT_EXECUTED, remedy=_DEFINE_IT)
    if not (bare.startswith(NO_PROVIDER) or bare in QUEUE_WORDS or FIFO_FIELD.match(bare)):
        return failure
    return failure.replace(execution=Execution.NOT_EXECUTED)


# The SDK resolves channel references before it runs the handler; a reference it cannot make
# fails in pydantic's words (Python SDK, `_resolve_channels`). Where there is a stack trace, it
# must not show a handler: one that called a function of its own worker fails in the same words.
_CHANNEL = re.compile(r"\d{1,4} validation errors? for StreamChannelRef\b")


def _channel(failure: Failure, message: str) -> Failure:
    if "StreamChannelRef" not in message or not _CHANNEL.match(message):
        return failure
    trace = (failure.stacktrace or "_resolve_channels")[:LIMIT]
    if "_resolve_channels" not in trace or "_invoke_with_otel_context" in trace:
        return failure
    return failure.replace(
        category=Category.PAYLOAD,
        execution=Execution.NOT_EXECUTED,
        remedy="fix the channel reference in the payload",
    )


_NOT_STARTED = ("DEADLINE_PASSED", "OVERLOADED")


def _handler(failure: Failure, message: str) -> Failure:
    """`_channel`, or a hardened handler that was not started at all.

    The function id distinguishes the called function from one that it called in turn.
    """
    if not message.startswith("{"):
        return _channel(failure, message)
    called = failure.function_id
    if called is None or not any(f'"{code}"' in message for code in _NOT_STARTED):
        return failure
    try:
        body = json.loads(message)
    except (ValueError, RecursionError):
        return failure
    if body.get("function_id") != called or body.get("code") not in _NOT_STARTED:
        return failure
    return failure.replace(execution=Execution.NOT_EXECUTED)


def _pushback(failure: Failure, message: str) -> Failure:
    return failure.replace(retry_after=retry_after_words(message))


_REFINE = {
    "deserialization_error": _deserialization,
    "queue_not_set": _queue_name,
    "serialization_error": _serialization,
    "http_request_failed": _http_request,
    "http_error": _http_status,
    "bridge_error": _bridge,
    "enqueue_error": _enqueue,
    "invocation_failed": _handler,
    "RATE_LIMITED": _pushback,
}


REFINED = frozenset(_REFINE)
"""The codes whose row the words of a message can change."""
