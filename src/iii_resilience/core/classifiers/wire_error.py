"""Classifies a code with its message, as iii's wire carries them.

Every source of a code and a message uses it, whatever object they come from. Knows nothing of
exceptions.
"""

from __future__ import annotations

from collections.abc import Mapping

from iii_resilience.core.classifiers import execution_proof, message_cause
from iii_resilience.core.classifiers.refinements import refine
from iii_resilience.core.classifiers.text_patterns import sizes
from iii_resilience.core.codes.lookup import III, LONGEST_CODE, find
from iii_resilience.core.codes.model import Execution
from iii_resilience.core.failure import Failure

_DEPTH = 4  # mappings inside mappings that are unwrapped

READY = {code: dict(vars(message_cause.from_row(row))) for code, row in III.items()}
"""The rows as fields of failures, to be copied: building a frozen class field by field takes
longer than all the rest of classifying a known code."""
PLAIN = frozenset(III) - message_cause.READS_MESSAGE - execution_proof.DOUBTFUL
"""The codes whose row no message changes."""
_new = object.__new__


def from_code(
    code: str,
    message: str = "",
    *,
    function_id: str | None = None,
    stacktrace: str | None = None,
    namespace: str | None = None,
) -> Failure:
    """The failure a code and its message say.

    Args:
        code: The exact code.
        message: The remote message; empty for a bare code, which then says what its row says.
        function_id: The function that was called, or None where it is not known.
        stacktrace: The remote stack trace, if any.
        namespace: The namespace it was called in, or None where it is not known.
    """
    ready = READY.get(code) if len(code) <= LONGEST_CODE else None
    if ready is None:
        return _other(code, message, function_id, stacktrace)
    failure = _new(Failure)
    fields = failure.__dict__
    fields.update(ready)
    fields["message"] = message
    fields["function_id"] = function_id
    fields["stacktrace"] = stacktrace
    if not message or code in PLAIN:
        return failure
    if code in execution_proof.DOUBTFUL:
        fields["execution"] = execution_proof.execution(message, function_id, namespace)
        return failure
    return message_cause.with_cause(refine(failure), message_cause.cause_in_message(code, message))


def _other(code: str, message: str, function_id: str | None, stacktrace: str | None) -> Failure:
    row = find(code) if len(code) <= LONGEST_CODE else None
    failure = (
        message_cause.unknown_failure(code, message)
        if row is None
        else refine(message_cause.from_row(row, message))
    )
    return failure.replace(function_id=function_id, stacktrace=stacktrace)


def from_mapping(body: Mapping[str, object], function_id: str | None, depth: int = 0) -> Failure:
    """The failure an error body says: ``{"code", "message", "stacktrace"}``.

    Args:
        body: The error body, or a mapping that holds one under ``error``: the engine's answer
            to a call, or the body of an HTTP endpoint.
        function_id: The function that was called, or None where it is not known.
        depth: How many mappings have been unwrapped.
    """
    code, message, stacktrace = body.get("code"), body.get("message"), body.get("stacktrace")
    message = message if isinstance(message, str) else ""
    stacktrace = stacktrace if isinstance(stacktrace, str) else None
    if isinstance(code, str) and code:
        failure = from_code(code, message, function_id=function_id, stacktrace=stacktrace)
        return message_cause.annotate(failure, body)
    given = body.get("function_id")
    if function_id is None and body.get("type") == "invocationresult" and isinstance(given, str):
        function_id = given
    # Rust's variant stands as a key around its fields.
    for key in ("error", "PayloadTooLarge"):
        nested = body.get(key)
        if isinstance(nested, Mapping) and depth < _DEPTH:
            return from_mapping(nested, function_id, depth + 1)
    if (pair := sizes(body)) is not None:
        # A producer-side guard of Node or Rust: raised before the send (docs/engine-notes.md, 15).
        guard = message_cause.too_large(*pair, message)
        return guard.replace(execution=Execution.NOT_EXECUTED, function_id=function_id)
    # The last is what the SDK makes of an error whose code is not a string (iii/errors.py).
    failure = (
        message_cause.from_known_text(message)
        or message_cause.from_body(body)
        or message_cause.from_row(III["UNKNOWN"], message)
    )
    return failure.replace(function_id=function_id or failure.function_id, stacktrace=stacktrace)
