"""`classify`: turns an exception, a wire error, an RPC response or a code into a `Failure`.

Chooses among `classifiers.exceptions`, `classifiers.wire_error` (codes and messages) and
`classifiers.rpc_response`. Knows nothing of retries: decisions about a failure are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iii_resilience.core.classifiers import rpc_response
from iii_resilience.core.classifiers.class_verdicts import looked_up
from iii_resilience.core.classifiers.exceptions import AT_ONCE, from_exception
from iii_resilience.core.classifiers.registered_exceptions import ExceptionRules
from iii_resilience.core.classifiers.text_patterns import rust_debug
from iii_resilience.core.classifiers.wire_error import from_code, from_mapping
from iii_resilience.core.codes.lookup import LONGEST_CODE
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.errors import RpcError
from iii_resilience.core.failure import Failure

__all__ = ["classify"]

_new = object.__new__


def classify(
    error: object, *, function_id: str | None = None, rules: ExceptionRules | None = None
) -> Failure:
    """Say what an error is: its code, category, and whether the called function may have run.

    Never raises, and takes bounded time: of a message only the first few thousand characters
    are looked at.

    Args:
        error: An exception of any SDK version, of this library or of your own code; a wire error
            body ``{"code", "message", "stacktrace"}``; a response of the RPC system
            (docs/engine-notes.md, 13); a bare code, or the Rust debug text of an error body that a
            topic's dead letters hold.
        function_id: The function that was called. Where it is None and the exception carries a
            string ``function_id``, that one. Without it ``FORBIDDEN`` and ``function_not_found``
            with a message do not prove that nothing ran.
        rules: What one decorator says of exception classes, before what is registered for the
            whole process; None for nothing.

    Returns:
        The failure. A code that no table knows is permanent and may have run.
    """
    try:
        if isinstance(error, BaseException):
            # Said in full here: the commonest by far is an SDK's exception whose code says all.
            fields = error.__dict__
            code: Any = fields.get("code")
            if (
                code.__class__ is str
                and len(code) <= LONGEST_CODE
                and (ready := AT_ONCE.get(code)) is not None
                and (message := fields.get("message")).__class__ is str
                and not isinstance(error, RpcError)
            ):
                failure = _new(Failure)
                stamped = failure.__dict__
                stamped.update(ready)
                stamped["message"] = message
                stacktrace = fields.get("stacktrace")
                if stacktrace.__class__ is str:
                    stamped["stacktrace"] = stacktrace
                if function_id is None and (own := fields.get("function_id")).__class__ is str:
                    function_id = own
                stamped["function_id"] = function_id
                return failure
            # A verdict about a class stands for exceptions without a code.
            known = looked_up(error, fields, function_id, rules) if code is None else None
            return from_exception(error, function_id, 0, rules) if known is None else known
        if isinstance(error, str):
            pair = rust_debug(error) if error.startswith("ErrorBody {") else None
            return from_code(*(pair or (error,)), function_id=function_id)
        if isinstance(error, Mapping):
            if rpc_response.is_response(error):
                return rpc_response.from_response(error, function_id)
            return from_mapping(error, function_id)
    except Exception:
        # An error whose own attributes raise must not become a second error.
        return _unreadable(error, function_id)
    return _unreadable(error, function_id)


def _unreadable(error: object, function_id: str | None) -> Failure:
    return Failure(
        type(error).__name__[:128] if isinstance(error, BaseException) else "_OTHER",
        Category.PERMANENT,
        Execution.MAYBE_EXECUTED,
        function_id=function_id if isinstance(function_id, str) else None,
        known=False,
        remedy="this error cannot be read: look at what raised it",
        origin="local",
    )
