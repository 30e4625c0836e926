"""Finds the cause inside a message, for the four wire codes that carry another error.

A Python handler cannot choose its code: every error becomes ``invocation_failed`` with
``message = str(exc)``. Bridges, queues and HTTP endpoints put their errors into messages too
(docs/engine-notes.md, 7). Knows nothing of exceptions, of which function was called, or of what is
done about a failure.

Only the first `LIMIT` characters of a message are read, and longer JSON is not parsed: the time is
bounded, whatever a remote side sends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from iii_resilience.core.classifiers import execution_proof
from iii_resilience.core.classifiers.refinements import REFINED, refine
from iii_resilience.core.classifiers.text_patterns import (
    FIFO_FIELD,
    LIMIT,
    QUEUE_WORDS,
    guard_sizes,
    http_status_in,
    legacy,
    retry_after_ms,
    sizes,
)
from iii_resilience.core.codes.engine_codes import http_status
from iii_resilience.core.codes.lookup import III, LOCAL, LONGEST_CODE, find
from iii_resilience.core.codes.model import Category, Code, Execution
from iii_resilience.core.failure import Failure
from iii_resilience.core.lazy_imports import lazy_module

if TYPE_CHECKING:
    import json
else:
    json = lazy_module("json")  # most programs never see a structured message

_LONGEST_WORDS = 1024  # a function id or the name of a queue stands in them, nothing else
_DEPTH = 4  # a worker that calls a worker that calls a worker: deeper causes add nothing
_REMOTE = re.compile(r"remote error \(([^()\s]{1,128})\): ?")
_LEGACY_TIMEOUT = re.compile(r"Invocation of '(.{0,512}?)' timed out after \S{1,32}?m?s$")

# Words that stand alone: the Rust SDK's errors without a code (docs/engine-notes.md, 7) and the
# standalone queue worker's. The row of an engine that is not connected is this library's, but
# here it is an SDK elsewhere that says so.
_EXACT = {
    "invocation timed out": III["TIMEOUT"],
    "iii is not connected": attrs.evolve(LOCAL["NOT_CONNECTED"], system="iii", origin="sdk"),
    **{words: III[code] for words, code in QUEUE_WORDS.items()},
}

ON_PURPOSE = "it was raised on purpose: see its message, and its code where it has one"
"""The remedy of one of our handlers' errors, in the process that raised it."""

_CATEGORIES = {member.value: member for member in Category}

# SQLSTATE classes and states that say "the same statement may work again": connection exceptions
# and transactions the database rolled back itself.
_SQLSTATE_TRANSIENT = re.compile(r"(?:08[0-9A-Z]{3}|40001|40P01)$")


def from_row(
    row: Code,
    message: str = "",
    *,
    function_id: str | None = None,
    stacktrace: str | None = None,
    retry_after: float | None = None,
) -> Failure:
    """A failure that says what its row says.

    Args:
        row: The row of the code.
        message: The remote message.
        function_id: The function that was called, if known.
        stacktrace: The remote stack trace, if any.
        retry_after: The wait that the other side requested, in seconds, if it did.
    """
    return Failure(
        row.code,
        row.category,
        row.execution,
        throttled=row.throttled,
        retry_after=retry_after,
        message=message,
        function_id=function_id,
        remedy=row.remedy,
        system=row.system,
        origin=row.origin,
        stacktrace=stacktrace,
    )


def unknown_failure(
    code: str, message: str = "", *, system: str = "iii", origin: str = "handler"
) -> Failure:
    """A failure whose code no table knows: permanent, and it may have run.

    Args:
        code: The code as it was sent; kept up to `LONGEST_CODE` characters.
        message: The remote message.
        system: The system it came from.
        origin: The source of the code.
    """
    return Failure(
        code[:LONGEST_CODE],
        Category.PERMANENT,
        Execution.MAYBE_EXECUTED,
        message=message,
        known=False,
        remedy="this code is not known: look it up where it was raised, or register it",
        system=system,
        origin=origin,
    )


def cause_in_message(code: str, message: str, depth: int = 0) -> Failure | None:
    """The cause a message carries, for the codes that carry one.

    Args:
        code: The code the message came with.
        message: The message.
        depth: How deep this message lies inside others.

    Returns:
        The cause, with its own cause if it has one, or None.
    """
    if depth >= _DEPTH or not message:
        return None
    if code in CARRIERS:
        return _cause(message, depth)
    if code == "http_error" and (status := http_status_in(message)) is not None:
        return from_row(http_status(status), message)
    return guard(message) if code in _SIZED else None


CARRIERS = frozenset({"invocation_failed", "bridge_error", "enqueue_error", "OBSERVE_REJECTED"})
"""The codes whose message is searched for any of the forms; ``http_error`` has one of its own."""

_SIZED = frozenset({"http_error", "payload_too_large", "invocation_failed_payload_too_large"})

# Kinds of error in the frames of the llm-router's streams: words that any message may begin with.
_WORDS = frozenset({"transient", "permanent"})


_MARKS = ("handler error: ", "{", "remote error (", "serialization error: ")


def _cause(message: str, depth: int) -> Failure | None:
    text = message if len(message) <= LIMIT else message[:LIMIT]
    text = text.strip()
    if text.startswith(_MARKS):
        while text.startswith("handler error: "):
            text = text[15:].lstrip()
        if text.startswith("{"):
            whole = len(message) <= LIMIT
            return structured(text, depth) if whole else _legacy(text, depth)
        if text.startswith("remote error ("):
            found = _REMOTE.match(text)
            return from_code_in_text(found[1], text[found.end() :], depth) if found else None
        if text.startswith("serialization error: "):
            return from_row(III["serialization_error"], text)
    head, colon, _ = text[: LONGEST_CODE + 2].partition(": ")
    if colon and head not in _WORDS and (row := find(head)) is not None:
        return _known(row, text[len(head) + 2 :], depth)
    if "/" in head and (row := find(text)) is not None:
        return from_row(row)  # llm-router: the code may stand alone
    return from_known_text(text)


def from_known_text(text: str) -> Failure | None:
    """The cause in words that stand for a code, without the code.

    Args:
        text: A message, at most `LIMIT` characters of which are looked at.

    Returns:
        The cause, or None where the words are not known.
    """
    text = text[:LIMIT]
    if " bytes" in text and (found := guard(text)) is not None:
        return found
    if len(text) > _LONGEST_WORDS:
        return None
    if (row := _EXACT.get(text)) is not None:
        return refine(from_row(row, text))
    if text.startswith("FIFO") and FIFO_FIELD.match(text):
        return from_row(III["enqueue_error"], text).replace(
            category=Category.PAYLOAD,
            execution=Execution.NOT_EXECUTED,
            remedy="add the field that the fifo queue groups by to the payload",
        )
    if text.startswith("Invocation of") and (timed_out := _LEGACY_TIMEOUT.match(text)):
        return from_row(III["TIMEOUT"], text, function_id=timed_out[1])
    return None


def guard(text: str) -> Failure | None:
    """The payload failure in the wording of a guard against payloads that are too large.

    Args:
        text: A message.
    """
    pair = guard_sizes(text)
    return too_large(*pair, text) if pair is not None else None


def too_large(payload_bytes: int, limit_bytes: int, message: str = "") -> Failure:
    """A payload failure with both sizes.

    Args:
        payload_bytes: Size of the message, in bytes.
        limit_bytes: The limit it exceeds, in bytes.
        message: The remote message.
    """
    row = III["payload_too_large"]
    return from_row(row, message).replace(
        payload_bytes=payload_bytes,
        limit_bytes=limit_bytes,
        remedy=f"{row.remedy} ({payload_bytes} bytes were sent, the limit is {limit_bytes})",
    )


def from_code_in_text(code: str, message: str, depth: int = 0) -> Failure:
    """A cause that names its code, known or not.

    Args:
        code: The code.
        message: The message that came with it.
        depth: How deep this cause lies inside others.
    """
    row = find(code)
    return unknown_failure(code, message) if row is None else _known(row, message, depth)


def _known(row: Code, message: str, depth: int) -> Failure:
    failure = refine(from_row(row, message))
    if row.code in execution_proof.DOUBTFUL and message:
        # The function of a nested call is not known here.
        failure = failure.replace(execution=execution_proof.execution(message, None))
    return with_cause(failure, cause_in_message(row.code, message, depth + 1))


def with_cause(failure: Failure, cause: Failure | None) -> Failure:
    """The failure with its cause, which sets category, throttling and pushback.

    Args:
        failure: The failure whose message or exception held the cause.
        cause: The cause, or None.

    Returns:
        The failure; its execution is its own.
    """
    if cause is None:
        return failure
    # Sizes in the words of the very same code are no cause of their own.
    same = cause.code == "payload_too_large" and failure.code in _SIZED - {"http_error"}
    # "invocation_failed" around nothing says less than what stands around it.
    remedy = failure.remedy if _says_nothing(cause) else cause.remedy or failure.remedy
    return failure.replace(
        category=cause.category,
        throttled=cause.throttled,
        retry_after=cause.retry_after,
        remedy=remedy,
        inner=None if same else cause,
        already_retried=failure.already_retried or cause.already_retried,
        payload_bytes=cause.payload_bytes,
        limit_bytes=cause.limit_bytes,
    )


def _says_nothing(cause: Failure) -> bool:
    return cause.code == "invocation_failed" and cause.inner is None


READS_MESSAGE = CARRIERS | _SIZED | REFINED
"""The codes for which a message can change what their row says."""


def structured(text: str, depth: int = 0, *, typed: bool = False) -> Failure | None:
    """The cause in a JSON object, as sandbox, worker manager, database and our handlers send it.

    Args:
        text: JSON, or the Python literal of SDK ≤ 0.11.2; at most `LIMIT` characters.
        depth: How deep this cause lies inside others.
        typed: Whether only an object whose ``type`` is a category counts, as our handlers send.

    Returns:
        The cause, or None if the text is not an object with a string code or a known type.
    """
    if len(text) > LIMIT or not text.startswith("{"):
        return None
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None if typed else _legacy(text, depth)
    if not isinstance(body, dict) or (typed and _category(body) is None):
        return None
    return from_body(body, depth)


def _category(body: Mapping[str, object]) -> Category | None:
    kind = body.get("type")
    return _CATEGORIES.get(kind) if isinstance(kind, str) else None


def from_body(body: Mapping[str, object], depth: int = 0) -> Failure | None:
    """The cause in a structured error that has been parsed.

    Args:
        body: ``{"type", "code", "message", "retryable", "retry_after_ms", "already_retried"}``;
            everything is optional, but a string ``code`` or a ``type`` that is a category.
        depth: How deep this cause lies inside others.
    """
    code, message = body.get("code"), body.get("message")
    message = message if isinstance(message, str) else ""
    if not isinstance(code, str) or not code:
        if (pair := sizes(body)) is not None:
            return too_large(*pair, message)
        if _category(body) is None:
            return from_known_text(message) if message else None
        code = "_OTHER"
    row = find(code)
    failure = unknown_failure(code, message) if row is None else _known(row, message, depth)
    return annotate(failure, body)


def annotate(failure: Failure, body: Mapping[str, object]) -> Failure:
    """What the other fields of a structured error say about its code.

    Args:
        failure: The failure its code and message say.
        body: The structured error. ``retryable`` is not read: a known code's row decides, and
            for an unknown one only a ``type`` that is a category does.
    """
    category = _category(body)
    if category is not None and not failure.known:
        failure = failure.replace(
            category=category, remedy="its handler raised this error on purpose: see its code"
        )
    if failure.code == "DRIVER_ERROR":
        failure = _sqlstate(failure, body.get("inner_code"))
    if failure.message.startswith("during sandbox::run step"):
        # Earlier steps have run, whatever the inner code says (docs/engine-notes.md, 7).
        failure = failure.replace(execution=Execution.EXECUTED)
    if failure.category is Category.PAYLOAD and (pair := sizes(body)) is not None:
        failure = failure.replace(payload_bytes=pair[0], limit_bytes=pair[1])
    delay = retry_after_ms(body.get("retry_after_ms"))
    if delay is not None:
        failure = failure.replace(retry_after=delay)
    if body.get("already_retried") is True:
        failure = failure.replace(already_retried=True)
    return failure


def _sqlstate(failure: Failure, state: object) -> Failure:
    if not isinstance(state, str) or not _SQLSTATE_TRANSIENT.match(state):
        return failure
    return failure.replace(category=Category.TRANSIENT)


def _legacy(text: str, depth: int) -> Failure | None:
    pair = legacy(text)
    return from_code_in_text(*pair, depth) if pair is not None else None
