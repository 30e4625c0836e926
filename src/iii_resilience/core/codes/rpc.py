"""Codes and labels of the RPC system (docs/engine-notes.md, 13), which does not belong to iii.

Category and execution follow the column "When" of its documentation. The ``layer`` of a response
never changes them: recorded INVOKE_TIMEOUT and RESULT_NOT_SERIALIZABLE responses have the layer
``validation``, and their handlers ran. Knows nothing of responses (`classifiers.rpc_response`).
"""

from __future__ import annotations

from iii_resilience.core.codes.model import Category, Code, Execution
from iii_resilience.core.codes.shorthand import EX, ME, NE, A, N, P, T, X


def _row(
    code: str,
    category: Category,
    execution: Execution,
    remedy: str,
    meaning: str,
    *,
    origin: str = "engine",
    throttled: bool = False,
) -> Code:
    return Code(
        code,
        category,
        execution,
        origin,
        remedy,
        meaning,
        "RPC error codes page",
        system="rpc",
        throttled=throttled,
    )


ROWS = (
    _row(
        "INVALID_FN_KEY",
        P,
        NE,
        "write fnKey as ClassName.methodName, with a . separator",
        "fnKey is missing its . separator",
    ),
    _row(
        "FN_NOT_FOUND",
        N,
        NE,
        "check fnKey against the registry; the message lists the available keys",
        "the key is not present in the registry",
    ),
    _row(
        "WRONG_ARG_COUNT",
        P,
        NE,
        "pass as many args as the entry declares params",
        "args.length differs from the declared params length",
    ),
    _row(
        "INPUT_SCHEMA_INVALID",
        P,
        NE,
        "fix the params so that they match the params JSON Schema",
        "params JSON Schema validation failed before the invoke",
    ),
    _row(
        "RETURN_SCHEMA_INVALID",
        X,
        EX,
        "fix the handler's return value or the return JSON Schema",
        "return JSON Schema validation failed after the invoke",
        origin="handler",
    ),
    _row(
        "HTTP_BRIDGE_NOT_CONFIGURED",
        X,
        NE,
        "configure a bridge spec for this http_synthetic entry",
        "invokeKind is http_synthetic but no bridge spec exists",
    ),
    _row(
        "NOT_A_FUNCTION",
        X,
        NE,
        "fix the class or function entry: its callable is missing",
        "the callable is missing on the class or function entry",
    ),
    _row(
        "NO_INSTANCE",
        X,
        NE,
        "make the instance or method of the class entry resolvable",
        "a class entry has no resolvable instance or method",
    ),
    _row(
        "INVOKE_TIMEOUT",
        T,
        ME,
        "raise the configured invoke timeout, or make the handler faster",
        "the handler exceeded its configured timeout",
        origin="handler",
    ),
    # The layer says validation, yet the handler has returned by then.
    _row(
        "RESULT_NOT_SERIALIZABLE",
        X,
        EX,
        "make the handler return a serializable result",
        "serialization rejected the result value",
        origin="handler",
    ),
    # The only code of all documents that says "slow down" in words.
    _row(
        "RATE_LIMITED",
        T,
        NE,
        "slow down: the token bucket is empty; wait as long as the message says",
        "the token bucket rejected the invoke (transports)",
        throttled=True,
    ),
    _row(
        "UPLOAD_MATERIALIZE_FAILED",
        P,
        NE,
        "upload the file again: its placeholder could not be resolved to bytes",
        "a file placeholder could not be resolved to bytes (transports)",
    ),
    _row(
        "UNEXPECTED_ERROR",
        X,
        ME,
        "inspect the stack: an exception was not caught",
        "uncaught exception path, often with the layer unexpected",
        origin="handler",
    ),
    _row(
        "UNAUTHENTICATED",
        A,
        NE,
        "set isDevelopment: true (or omit secretApiKey in prod) if the QA pipeline must invoke "
        "RPC in that environment",
        "secretApiKey is set in production and a hook rejects every call before the invoke",
    ),
    _row(
        "INVALID_PAYLOAD",
        P,
        NE,
        "send an rpc:call body that is an object with requestId and fnKey",
        "malformed rpc:call body: not an object, or requestId or fnKey missing",
    ),
    _row(
        "KIND_MISMATCH",
        P,
        NE,
        "use kind 'service' for service entries only, and the right kind for the others",
        "kind 'service' was used for a non-service entry, or the converse",
    ),
)

# The remedy of an unknown code, by the layer of its response; the layer decides nothing else.
LAYER_REMEDIES = {
    "validation": "check the arguments against the entry; the code itself is not known",
    "expected": "handle this code where the call is made: the service raised it on purpose",
    "unexpected": "inspect the service's log: an exception was not expected there",
}
