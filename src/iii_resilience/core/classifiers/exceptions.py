"""Classifies an exception of any SDK version, of this library or of a user's code.

It goes by attributes and class names, and never imports the SDK (docs/engine-notes.md, 6). Knows
nothing of mappings or bare codes.
"""

from __future__ import annotations

from iii_resilience.core.classifiers import class_verdicts, registered_exceptions, rpc_response
from iii_resilience.core.classifiers.builtin_exceptions import (
    BUGS,
    SHUTTING_DOWN,
    attribute,
    before_sending,
    by_class,
    closed,
    frames,
    standard,
    text_of,
)
from iii_resilience.core.classifiers.message_cause import (
    ON_PURPOSE,
    from_known_text,
    from_row,
    guard,
    structured,
    too_large,
)
from iii_resilience.core.classifiers.registered_exceptions import ExceptionRules, by_code
from iii_resilience.core.classifiers.text_patterns import LIMIT, legacy
from iii_resilience.core.classifiers.wire_error import PLAIN, READY, from_code
from iii_resilience.core.codes.lookup import III, LOCAL, LONGEST_CODE, NEVER_RETRIED, find
from iii_resilience.core.codes.model import Category, Execution, strongest
from iii_resilience.core.errors import (
    BulkheadFullError,
    CircuitOpenError,
    ConnectionLostError,
    DeadlinePassedError,
    InvalidPayloadError,
    NotConnectedError,
    PayloadTooLargeError,
    RpcError,
)
from iii_resilience.core.failure import LIBRARY, Failure

_CHAIN = 8  # causes of causes that are looked at; it also ends every cycle

_OWN = (
    NotConnectedError,
    ConnectionLostError,
    DeadlinePassedError,
    CircuitOpenError,
    BulkheadFullError,
    PayloadTooLargeError,
    InvalidPayloadError,
)

# Class names that say their code where the attribute is missing (SDK 0.11.3 to 0.18).
_NAMED = {"IIIForbiddenError": "FORBIDDEN", "IIITimeoutError": "TIMEOUT"}


def from_exception(
    error: BaseException,
    function_id: str | None,
    depth: int = 0,
    rules: ExceptionRules | None = None,
) -> Failure:
    """The failure an exception says.

    Args:
        error: The exception.
        function_id: The function that was called; where it is None, the exception's own.
        depth: How many causes lie above it.
        rules: What a decorator says of exception classes, or None.
    """
    fields = error.__dict__
    code = fields.get("code")
    if isinstance(code, str) and code and not isinstance(error, RpcError):
        message, stacktrace = fields.get("message"), fields.get("stacktrace")
        namespace = fields.get("namespace")
        if function_id is None:
            function_id = fields.get("function_id")
        failure = from_code(
            code,
            message if isinstance(message, str) else text_of(error),
            function_id=function_id if isinstance(function_id, str) else None,
            stacktrace=stacktrace if isinstance(stacktrace, str) else None,
            namespace=namespace if isinstance(namespace, str) else None,
        )
        if code in _PLAINLY:
            return failure
        return _coded(failure, error, function_id, depth, rules)
    return _uncommon(error, function_id, depth, rules)


def _coded(
    failure: Failure,
    error: BaseException,
    function_id: str | None,
    depth: int,
    rules: ExceptionRules | None,
) -> Failure:
    if failure.known:
        return _placed(failure, error) if failure.code in _BY_PLACE else failure
    if isinstance(error, Exception) and (known := _by_class(error, rules)) is not None:
        # A code that no table knows, on an exception whose class is known: SQLAlchemy's, a user's.
        known = known.replace(function_id=failure.function_id)
        return _with_chain(known, error, function_id, depth, rules)
    # An exception of our own handlers: its code is the user's, its text says the category.
    cause = structured(text_of(error)[: LIMIT + 1], typed=True)
    if cause is None or cause.code != failure.code:
        return failure
    return cause.replace(
        function_id=failure.function_id,
        stacktrace=failure.stacktrace,
        remedy=cause.remedy if cause.known else ON_PURPOSE,
    )


def _by_class(error: BaseException, rules: ExceptionRules | None) -> Failure | None:
    """The failure of an exception's class: what users say of it, then the table of libraries.

    An exception of the SDK's, or of this library's, goes by its code, whatever is said of it.
    """
    if by_code(type(error)):
        return None
    from iii_resilience.core.classifiers import library_exceptions  # noqa: PLC0415 - a large table

    failure = registered_exceptions.from_registered(
        error, rules, lambda: library_exceptions.from_library(error)
    )
    if failure is None:
        return library_exceptions.from_library(error)
    found = structured(text_of(error)[: LIMIT + 1], typed=True)
    if found is None or not _carries_refusal(found):
        return failure
    return _forbidden(failure, found)


def _carries_refusal(failure: Failure) -> bool:
    cause: Failure | None = failure
    while cause is not None:
        if cause.code in NEVER_RETRIED:
            return True
        cause = cause.inner
    return False


# Two codes stand for a call that was never sent and for one that was. The frames of the
# traceback distinguish them (SDK: `_prepare_call` and `_prepare_json` come before the send).
_BY_PLACE = frozenset({"WORKER_NAMESPACE_CONFLICT", "payload_too_large"})
_PLAINLY = frozenset(III) - _BY_PLACE
AT_ONCE = {code: READY[code] for code in PLAIN - _BY_PLACE}
"""The fields of failures that neither a message nor the exception's frames change."""
_BEFORE_SEND = frozenset({"_prepare_call", "_prepare_json"})


def _placed(failure: Failure, error: BaseException) -> Failure:
    traceback = error.__traceback__
    if traceback is None:  # built by hand: the row stands
        return failure
    before = any(name in _BEFORE_SEND for name in frames(traceback))
    execution = Execution.NOT_EXECUTED if before else Execution.MAYBE_EXECUTED
    return failure.replace(execution=execution)


def _uncommon(
    error: BaseException, function_id: str | None, depth: int, rules: ExceptionRules | None
) -> Failure:
    if not isinstance(error, Exception):  # cancellation and the like; SystemExit has a code
        return by_class(
            error,
            Category.PERMANENT,
            Execution.MAYBE_EXECUTED,
            "let it pass: it is not a failure of a call",
            known=False,
        ).replace(function_id=function_id)
    names = [kind.__name__ for kind in type(error).__mro__]
    if "ConnectionClosed" in names:  # before anything asks for its code, which warns
        return closed(error).replace(function_id=function_id)
    if function_id is None and isinstance(given := attribute(error, "function_id"), str):
        function_id = given
    if isinstance(error, RpcError):
        return rpc_response.from_error(error, function_id)
    if isinstance(error, _OWN):
        return _own(error, function_id)
    code = attribute(error, "code")
    if not isinstance(code, str) or not code:
        code = next((_NAMED[name] for name in names if name in _NAMED), "")
    message = attribute(error, "message")
    message = message if isinstance(message, str) else text_of(error)
    stacktrace = attribute(error, "stacktrace")
    stacktrace = stacktrace if isinstance(stacktrace, str) else None
    if code:
        failure = from_code(code, message, function_id=function_id, stacktrace=stacktrace)
        return _coded(failure, error, function_id, depth, rules)
    if "IIIPayloadTooLarge" in names:
        return _guard(error, message).replace(function_id=function_id)
    known = registered_exceptions.verdicts(rules)  # before the rules are read
    failure = _codeless(error, names, message, function_id, rules)
    class_verdicts.learn(known, error, failure, rules)
    if function_id is not None:
        failure = failure.replace(function_id=function_id)
    return _with_chain(failure, error, function_id, depth, rules)


def _own(error: BaseException, function_id: str | None) -> Failure:
    row = LOCAL[getattr(type(error), "code")]  # noqa: B009 - each of the classes has one
    pushback = error.retry_after if isinstance(error, CircuitOpenError) else None
    failure = from_row(row, text_of(error), function_id=function_id, retry_after=pushback)
    if isinstance(error, NotConnectedError) and error.refused:
        refused = from_row(III["AUTH_ERROR"])
        return failure.replace(remedy=refused.remedy, inner=refused)
    if isinstance(error, PayloadTooLargeError):
        return failure.replace(payload_bytes=error.payload_bytes, limit_bytes=error.limit_bytes)
    return failure


def _guard(error: BaseException, message: str) -> Failure:
    """The documented size check of the SDKs, before the send (docs/engine-notes.md, 15)."""
    actual, limit = attribute(error, "payload_bytes"), attribute(error, "limit_bytes")
    found = from_known_text(message)
    if isinstance(actual, int) and isinstance(limit, int):
        found = too_large(actual, limit, message)
    if found is None or found.code != "payload_too_large":
        found = from_row(III["payload_too_large"], message)
    return found.replace(execution=Execution.NOT_EXECUTED, origin="sdk")


def _codeless(
    error: BaseException,
    names: list[str],
    message: str,
    function_id: str | None,
    rules: ExceptionRules | None,
) -> Failure:
    if (failure := _legacy(error, message, function_id)) is not None:
        return failure
    if (failure := standard(error, names, message)) is not None:
        return failure
    if (failure := _by_class(error, rules)) is not None:
        return failure
    if (failure := before_sending(error, names, message)) is not None:
        return failure
    # Of a text only our handlers' own form and the guards' wording count: any other JSON or word
    # may come from anywhere.
    found = structured(text_of(error)[: LIMIT + 1], typed=True) or guard(message)
    if found is not None and not isinstance(error, BUGS):
        remedy = found.remedy if found.known else ON_PURPOSE
        own = by_class(error, found.category, Execution.MAYBE_EXECUTED, remedy, known=False)
        return own.replace(
            throttled=found.throttled,
            retry_after=found.retry_after,
            inner=found,
            already_retried=found.already_retried,
            payload_bytes=found.payload_bytes,
            limit_bytes=found.limit_bytes,
        )
    return by_class(
        error,
        Category.PERMANENT,
        Execution.MAYBE_EXECUTED,
        "fix the program: this exception is a mistake in it"
        if isinstance(error, BUGS)
        else "look at the exception; where a repeat can help, say so once with "
        f'register_exceptions({{{_qualified(error)}: "transient"}})',
        known=False,
    )


def _qualified(error: BaseException) -> str:
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    return name if len(name) <= LONGEST_CODE else kind.__name__[:LONGEST_CODE]


def _legacy(error: BaseException, message: str, function_id: str | None) -> Failure | None:
    """SDK ≤ 0.11.2: plain exceptions whose text is all there is."""
    if isinstance(error, TimeoutError):
        found = from_known_text(message)
        return found if found is not None and found.code == "TIMEOUT" else None
    if type(error) is not Exception:
        return None
    if message == SHUTTING_DOWN:
        return from_row(III["SHUTDOWN"], message)
    pair = legacy(message)
    return from_code(*pair, function_id=function_id) if pair is not None else None


def _with_chain(
    failure: Failure,
    error: BaseException,
    function_id: str | None,
    depth: int,
    rules: ExceptionRules | None,
) -> Failure:
    if depth >= _CHAIN:
        return failure
    if failure.category is Category.TRANSIENT and isinstance(error, ExceptionGroup):
        for member in error.exceptions[:_CHAIN]:
            failure = _forbidden(failure, from_exception(member, function_id, depth + 1, rules))
    if isinstance(cause := error.__cause__, Exception):
        return _caused(failure, error, from_exception(cause, function_id, depth + 1, rules))
    context = error.__context__
    if (
        failure.category is Category.TRANSIENT
        and error.__cause__ is None
        and not error.__suppress_context__
        and isinstance(context, Exception)
    ):
        return _forbidden(failure, from_exception(context, function_id, depth + 1, rules))
    return failure


def _caused(failure: Failure, error: BaseException, cause: Failure) -> Failure:
    own = failure.origin == LIBRARY and cause.origin == LIBRARY
    failure = failure.replace(
        inner=failure.inner or cause,
        # Below a library's exception lie its own: the uppermost knows what it was doing.
        execution=failure.execution if own else strongest(failure.execution, cause.execution),
        already_retried=failure.already_retried or cause.already_retried,
    )
    if failure.category is Category.TRANSIENT:
        return _forbidden(failure, cause)
    if failure.category is not Category.PERMANENT or failure.known:
        return failure
    if cause.category is Category.TRANSIENT and (
        isinstance(error, BUGS) or type(error) is ValueError
    ):
        return failure
    return failure.replace(
        category=cause.category,
        throttled=cause.throttled,
        retry_after=cause.retry_after,
        remedy=cause.remedy or failure.remedy,
        payload_bytes=cause.payload_bytes,
        limit_bytes=cause.limit_bytes,
    )


def _forbidden(failure: Failure, other: Failure) -> Failure:
    """A transient failure that another one, with a code of the tables, forbids to retry."""
    deepest = other
    while (not deepest.known or deepest.origin == LIBRARY) and deepest.inner is not None:
        deepest = deepest.inner
    if deepest.category is Category.TRANSIENT or find(deepest.code) is None:
        return failure
    return failure.replace(
        category=deepest.category,
        throttled=False,
        retry_after=None,
        remedy=deepest.remedy,
        inner=other,
    )
