"""What `classify` says of one example of everything it tells apart, field by field.

The other tests of this room give the reasons; this one sees to it that no field of a Failure, and
no remedy that a user reads, changes unnoticed. Run as a script with ``tests`` on the path it writes
the answers down anew, to be read in the diff.
"""

from __future__ import annotations

import asyncio
import functools
import json
import subprocess
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from support.paths import DATA

from iii_resilience.core.classify import classify
from iii_resilience.core.errors import (
    BulkheadFullError,
    CircuitOpenError,
    ConnectionLostError,
    InvalidPayloadError,
    NotConnectedError,
    PayloadTooLargeError,
    RpcError,
)
from iii_resilience.core.failure import Failure

PINNED = DATA / "classified.json"
CALLED = "orders::save"
GUARD = "Payload 70000000 bytes exceeds invocation limit 67108864 bytes."


class CodedError(Exception):
    """As the SDK's, and as anybody's who gives his exceptions a code."""

    def __init__(self, code: Any, message: Any = "", **more: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        for name, value in more.items():
            setattr(self, name, value)


def of_class(name: str, message: str = "", base: type[Exception] = Exception, **more: Any) -> Any:
    """An exception of a class that is known by its name alone."""
    error = type(name, (base,), {})(message)
    for key, value in more.items():
        setattr(error, key, value)
    return error


def through(*functions: str, error: Exception, module: str = "iii.client") -> Exception:
    """The exception, as it comes out of functions of a module, outermost first."""
    frames: dict[str, Any] = {"__name__": module, "error": error}
    source = "def inner():\n    raise error\n"
    inner = "inner"
    for name in reversed(functions):
        source += f"def {name}():\n    {inner}()\n"
        inner = name
    exec(compile(source, "<frames>", "exec"), frames)
    try:
        frames[inner]()
    except Exception as raised:
        return raised
    raise AssertionError


def because(error: Exception, cause: BaseException | None) -> Exception:
    """The exception with a cause."""
    error.__cause__ = cause
    return error


def while_handling(error: Exception, context: BaseException) -> Exception:
    """The exception with a bare context."""
    error.__context__ = context
    return error


def circle(*, context: bool = False) -> Exception:
    """Two that are each other's cause, or context."""
    link = while_handling if context else because
    first, second = ConnectionError("one"), ConnectionError("two")
    return link(first, link(second, first))


def chained(between: int, *, context: bool = False) -> Exception:
    """A transient one, and a denial so many causes, or contexts and causes, behind it."""
    error: Exception = CodedError("FORBIDDEN", "no")
    for number in range(between):
        link = while_handling if context and number == between - 1 else because
        error = link(ConnectionError("words"), error)
    return error


def body(code: Any, message: Any = "", **more: Any) -> dict[str, Any]:
    return {"code": code, "message": message, **more}


def handled(text: str) -> dict[str, Any]:
    return body("invocation_failed", text)


def structured(**fields: Any) -> dict[str, Any]:
    return handled("handler error: " + json.dumps(fields))


def coded(code: Any, message: Any, **more: Any) -> Callable[[], Exception]:
    return lambda: CodedError(code, message, **more)


def refused(error: Exception, module: str | None) -> Exception:
    """A fresh one like it, raised in a module or made by hand."""
    made = type(error)(*error.args)
    return made if module is None else through("trigger", error=made, module=module)


class Unreadable(Exception):  # noqa: N818 - as bad as it gets
    @property
    def message(self) -> str:
        raise RuntimeError("no")

    def __str__(self) -> str:
        raise RuntimeError("no")


class Hidden(Exception):  # noqa: N818 - it has no fields to look at
    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no")


class Odd(dict[str, object]):
    """A mapping that cannot be read."""

    def get(self, *_: object) -> object:
        raise RuntimeError("no")


class Sides(Exception):  # noqa: N818 - websockets has one of this form
    pass


def connection_closed(received: int | None, sent: int | None) -> Exception:
    closed: type[Exception] = type("ConnectionClosed", (Sides,), {})
    error: Any = type("ConnectionClosedError", (closed,), {})("closed")
    error.rcvd = None if received is None else type("Close", (), {"code": received})()
    error.sent = None if sent is None else type("Close", (), {"code": sent})()
    return error  # type: ignore[no-any-return]


# Each is made anew: an exception carries its traceback and its causes.
CASES: dict[str, Callable[[], Any]] = {
    # Bare codes and bodies.
    "bare code": lambda: "TIMEOUT",
    "bare code of a worker": lambda: "S003",
    "bare code that is doubtful": lambda: "FORBIDDEN",
    "bare code of rpc": lambda: "FN_NOT_FOUND",
    "bare code that is unknown": lambda: "NO_SUCH",
    "code of 128 characters": lambda: "x" * 128,
    "code of 129 characters": lambda: "x" * 129,
    "body": lambda: body("TIMEOUT", "too slow", stacktrace="at x"),
    "body that is unknown": lambda: body("NO_SUCH", "words", stacktrace="at x"),
    "body with a stack trace that is none": lambda: body("NO_SUCH", "words", stacktrace=3),
    "body with a message that is none": lambda: body("TIMEOUT", 3),
    "body of a local code": lambda: body("NOT_CONNECTED", "words"),
    "body of a rpc code with pushback": lambda: body("RATE_LIMITED", "retry after 1500ms"),
    "body under error": lambda: {"error": body("TIMEOUT", "too slow")},
    "body under four errors": lambda: {"error": {"error": {"error": {"error": body("TIMEOUT")}}}},
    "body under five errors": lambda: {
        "error": {"error": {"error": {"error": {"error": body("TIMEOUT")}}}}
    },
    "answer to a call": lambda: {
        "type": "invocationresult",
        "function_id": "its::own",
        "error": body("function_not_found", "Function its::own not found in namespace default"),
    },
    "answer with a function that is none": lambda: {
        "type": "invocationresult",
        "function_id": 3,
        "error": body("TIMEOUT"),
    },
    "another message with a function": lambda: {
        "type": "invoke",
        "function_id": "its::own",
        "error": body("TIMEOUT"),
    },
    "rust's variant": lambda: {"PayloadTooLarge": {"actual": 5, "limit": 4}},
    "node's guard": lambda: {"payloadBytes": 5, "limitBytes": 4, "message": "too large"},
    "python's guard": lambda: {"payload_bytes": 5, "limit_bytes": 4},
    "sizes that are none": lambda: {"payload_bytes": True, "limit_bytes": 4, "message": "m"},
    "body of words": lambda: {"message": "invocation timed out", "stacktrace": "at x"},
    "body of words with a function": lambda: {
        "message": "Invocation of 'a::b' timed out after 300ms"
    },
    "body of a type": lambda: {"type": "auth", "message": "no"},
    "body of an unknown type": lambda: {"type": "what", "message": "no"},
    "body of nothing": dict,
    "body of an empty code": lambda: {"code": "", "message": "words"},
    "body of a code that is a number": lambda: {"code": 1006, "message": "words"},
    "rust's debug text": lambda: 'ErrorBody { code: "TIMEOUT", message: "a \\"b\\" \\n\\u{e4}" }',
    "rust's debug text of nothing": lambda: "ErrorBody { kind: 3 }",
    "rust's escapes": lambda: (
        'ErrorBody { code: "NO_SUCH", message: "\\n\\r\\t\\0\\\\\\q\\u{10ffff}\\u{110000}" }'
    ),
    "a number": lambda: 3,
    "an exception that cannot be read": lambda: Unreadable("x"),
    "an exception without fields": lambda: Hidden("x"),
    "an exception without fields of a very long name": lambda: type("H" * 200, (Hidden,), {})("x"),
    "a mapping that cannot be read": lambda: Odd(code="TIMEOUT"),
    # What words change in a row.
    "deserialization of an input": lambda: body(
        "deserialization_error", "Failed to deserialize input: missing field"
    ),
    "deserialization of anything else": lambda: body("deserialization_error", "expected value"),
    "no queue name": lambda: body("queue_not_set", "Queue name is required"),
    "no queue": lambda: body("queue_not_set", "queue is required"),
    "an unknown queue": lambda: body("queue_not_set", "no such queue"),
    "serialization of a result": lambda: body(
        "serialization_error", "Failed to serialize result: NaN"
    ),
    "serialization of anything else": lambda: body("serialization_error", "NaN"),
    "request refused": lambda: body(
        "http_request_failed", "error sending request: client error (Connect): connection refused"
    ),
    "request that found no host": lambda: body("http_request_failed", "DNS error: no such host"),
    "request to a host of that name": lambda: body(
        "http_request_failed",
        "sending request for url (https://x/(Connect)): connection reset",
    ),
    "request that broke off": lambda: body("http_request_failed", "connection reset"),
    "status 503": lambda: body("http_error", "HTTP 503 Service Unavailable"),
    "status 404": lambda: body("http_error", "HTTP 404"),
    "status 502": lambda: body("http_error", "HTTP 502 Bad Gateway"),
    "status 418": lambda: body("http_error", "HTTP 418 I'm a teapot"),
    "status of no class": lambda: body("http_error", "HTTP 999"),
    "status among digits": lambda: body("http_error", "HTTP 5030"),
    "no status": lambda: body("http_error", "broken"),
    "an endpoint's guard": lambda: body("http_error", GUARD),
    "bridge not connected": lambda: body("bridge_error", " iii is not connected "),
    "bridge that failed": lambda: body("bridge_error", "remote error (TIMEOUT): too slow"),
    "bridge around a failure of nothing": lambda: body("bridge_error", "invocation_failed: boom"),
    "enqueue without a provider": lambda: body(
        "enqueue_error", "No queue provider is installed, add one"
    ),
    "enqueue without a topic": lambda: body(
        "enqueue_error", "invocation_failed: handler error: Topic is not set"
    ),
    "enqueue to a queue that is not defined": lambda: body(
        "enqueue_error", "queue 'q' is not defined; call queue::define before enqueueing"
    ),
    "enqueue to a queue that is not found": lambda: body("enqueue_error", "Queue 'q' not found"),
    "enqueue without the field": lambda: body(
        "enqueue_error", "FIFO queue 'q' requires field 'id' in data, got null"
    ),
    "enqueue with a typed error of the provider": lambda: body(
        "enqueue_error",
        'invocation_failed: {"type": "transient", "code": "BUSY", "retry_after_ms": 500}',
    ),
    "enqueue to a provider that has gone": lambda: body(
        "enqueue_error", "channel_send_failed: channel closed"
    ),
    "an observer rejected with a typed error": lambda: body(
        "OBSERVE_REJECTED", '{"type": "payload", "code": "BAD_DAY", "message": "no such day"}'
    ),
    "enqueue that failed": lambda: body("enqueue_error", "adapter gone"),
    "a channel reference": lambda: body(
        "invocation_failed", "2 validation errors for StreamChannelRef\nchannel_id"
    ),
    "a channel reference with its trace": lambda: body(
        "invocation_failed",
        "1 validation error for StreamChannelRef\nchannel_id",
        stacktrace="in _resolve_channels",
    ),
    "a channel reference in a handler": lambda: body(
        "invocation_failed",
        "1 validation error for StreamChannelRef\nchannel_id",
        stacktrace="in _invoke_with_otel_context in _resolve_channels",
    ),
    "a channel reference elsewhere": lambda: body(
        "invocation_failed",
        "1 validation error for StreamChannelRef\nchannel_id",
        stacktrace="in somebody",
    ),
    # Causes inside messages.
    "a structured cause": lambda: structured(
        type="transient",
        code="MY_OWN",
        message="later",
        retryable=True,
        retry_after_ms=250,
        already_retried=True,
    ),
    "a structured cause of a known code": lambda: structured(
        type="auth", code="RATE_LIMITED", message="retry after 1500ms"
    ),
    "a structured cause with a pushback of its own": lambda: structured(
        code="RATE_LIMITED", message="retry after 1500ms", retry_after_ms=2500
    ),
    "a structured cause with a pushback that is none": lambda: structured(
        code="RATE_LIMITED", message="retry after 1500ms", retry_after_ms=True
    ),
    "a structured cause with a pushback that is no float": lambda: structured(
        code="RATE_LIMITED", message="retry after 1500ms", retry_after_ms=10**400
    ),
    "a structured cause with a pushback of the past": lambda: structured(
        code="RATE_LIMITED", message="retry after 1500ms", retry_after_ms=-1
    ),
    "a structured cause with a pushback of nothing": lambda: structured(
        code="RATE_LIMITED", message="retry after 1500ms", retry_after_ms=0
    ),
    "a structured cause that is not retried": lambda: structured(
        code="TIMEOUT", already_retried="yes"
    ),
    "a structured cause without a code": lambda: structured(type="payload", message="bad"),
    "a structured cause of sizes": lambda: structured(
        payload_bytes=5, limit_bytes=4, message="too large"
    ),
    "a structured cause of words": lambda: structured(message="invocation timed out"),
    "a structured cause of nothing": lambda: structured(message=""),
    "a structured payload cause with sizes": lambda: structured(
        type="payload", code="MY_OWN", payload_bytes=5, limit_bytes=4
    ),
    "a structured cause of other kind with sizes": lambda: structured(
        type="auth", code="MY_OWN", payload_bytes=5, limit_bytes=4
    ),
    "a structured cause of a cause": lambda: structured(
        code="invocation_failed", message="handler error: TIMEOUT: too slow"
    ),
    "a sandbox that ran steps": lambda: structured(
        code="S003", message="during sandbox::run step 2: busy"
    ),
    "a database that rolled back": lambda: structured(code="DRIVER_ERROR", inner_code="40001"),
    "a database that lost the connection": lambda: structured(
        code="DRIVER_ERROR", inner_code="08006"
    ),
    "a database that was locked": lambda: structured(code="DRIVER_ERROR", inner_code="40P01"),
    "a database that found a duplicate": lambda: structured(
        code="DRIVER_ERROR", inner_code="23505"
    ),
    "a database that says no state": lambda: structured(code="DRIVER_ERROR", inner_code=8),
    "another code with a state": lambda: structured(
        type="permanent", code="MY_OWN", inner_code="40001"
    ),
    "json that is cut off": lambda: handled('handler error: {"code": "TIMEO'),
    "json that is a list": lambda: handled("handler error: [1]"),
    "json that is too long": lambda: handled(
        json.dumps({"code": "TIMEOUT", "message": "x" * 8192})
    ),
    "json twice a handler's": lambda: handled('handler error: handler error: {"code": "TIMEOUT"}'),
    "json without a prefix": lambda: handled(' {"code": "TIMEOUT", "message": "m"}'),
    "a python literal": lambda: handled("{'code': 'FORBIDDEN', 'message': 'no \\'way\\''}"),
    "a python literal without a message": lambda: handled("handler error: {'code': 'TIMEOUT'}"),
    "a remote error": lambda: handled("remote error (FORBIDDEN): Function a::b not allowed (x)"),
    "a remote error of an unknown code": lambda: handled("remote error (MY_OWN): words"),
    "a remote error without words": lambda: handled("remote error (TIMEOUT)"),
    "a remote error of no form": lambda: handled("remote error (TIME OUT): x"),
    "a serialization error": lambda: handled("serialization error: NaN"),
    "a code in front": lambda: handled("TIMEOUT: too slow"),
    "an unknown code in front": lambda: handled("MY_OWN: words"),
    "a word in front": lambda: handled("transient: words"),
    "a code of 128 characters in front": lambda: handled("x" * 128 + ": words"),
    "a code with a slash alone": lambda: handled("auth/forbidden"),
    "words": lambda: handled("something broke"),
    "a handler's guard": lambda: handled(GUARD),
    "the sdk's guard": lambda: body(
        "payload_too_large", "Serialized JSON envelope is 70000000 bytes; limit is 67108864 bytes"
    ),
    "the old guard": lambda: body("invocation_failed_payload_too_large", GUARD),
    "a rust timeout": lambda: handled("invocation timed out"),
    "a rust sdk that is not connected": lambda: handled("iii is not connected"),
    "an old timeout": lambda: handled("Invocation of 'a::b' timed out after 300ms"),
    "an old timeout of words": lambda: handled("Invocation of 'a::b' timed out after lunch"),
    "a python literal that is none": lambda: handled("{'code': '\\x', 'message': 'words'}"),
    "a python literal that is cut off": lambda: handled("{'code': 'NO_SUCH', 'message': 'wor"),
    "python literals five deep": lambda: handled(
        "{'code': 'invocation_failed', 'message': \"" + "invocation_failed: " * 3 + 'TIMEOUT: x"}'
    ),
    "words that are too long": lambda: handled("Invocation of '" + "x" * 1100 + "' timed out"),
    "a cause five workers deep": lambda: handled("invocation_failed: " * 5 + "TIMEOUT: x"),
    "a cause three workers deep": lambda: handled("invocation_failed: " * 3 + "TIMEOUT: x"),
    "an http error in a handler": lambda: handled("http_error: HTTP 503 Service Unavailable"),
    "a denial in a handler": lambda: handled("FORBIDDEN: Function 'a::b' not allowed (x)"),
    "a bare denial in a handler": lambda: handled("FORBIDDEN: "),
    # Whether a denial is to be believed.
    "denied as called": lambda: body("FORBIDDEN", f"Function '{CALLED}' not allowed (add to list)"),
    "denied by another": lambda: body("FORBIDDEN", "Function 'a::b' not allowed (add to list)"),
    "not found as called": lambda: body(
        "function_not_found", f"Function {CALLED} not found in namespace default"
    ),
    "not found by another": lambda: body(
        "function_not_found", "Function a::b not found in namespace default"
    ),
    "not found without a name": lambda: body("function_not_found", "no"),
    # Exceptions with a code.
    "an sdk's exception": coded("TIMEOUT", "too slow", function_id="its::own", stacktrace="at x"),
    "an sdk's exception of an unknown code": coded("NO_SUCH", "x", function_id="its::own"),
    "an sdk's denial": coded(
        "FORBIDDEN",
        "namespace 'blue' not allowed for this session",
        function_id="its::own",
        namespace="blue",
    ),
    "an sdk's denial elsewhere": coded(
        "FORBIDDEN", "namespace 'blue' not allowed for this session", namespace="green"
    ),
    "an sdk's denial of a namespace that is none": coded(
        "FORBIDDEN", "namespace 'blue' not allowed for this session", namespace=3
    ),
    "an exception whose message is none": coded("NO_SUCH", 3, function_id=3, stacktrace=3),
    "an exception of an empty code": coded("", "words"),
    "an exception whose code is a number": lambda: CodedError(1006, "words"),
    "an exception whose class has the code": lambda: type("Odd", (Exception,), {"code": "TIMEOUT"})(
        "words"
    ),
    "an exception whose class has everything": lambda: type(
        "Odd",
        (Exception,),
        {"code": "NO_SUCH", "message": "theirs", "stacktrace": "at x", "function_id": "its::own"},
    )("words"),
    "an exception whose class has nothing of use": lambda: type(
        "Odd", (Exception,), {"code": "NO_SUCH", "message": 3, "stacktrace": 3}
    )("words"),
    "an exception whose class has the code of a place": lambda: through(
        "_prepare_json",
        error=type("Odd", (Exception,), {"code": "payload_too_large"})(GUARD),
    ),
    "a coded exception whose text says no category": lambda: of_class(
        "Odd", '{"code": "MY_OWN", "message": "bad", "retry_after_ms": 250}', code="MY_OWN"
    ),
    "a handler's exception": lambda: of_class(
        "PayloadError",
        '{"type": "payload", "code": "MY_OWN", "message": "bad", "retry_after_ms": 250}',
        code="MY_OWN",
        stacktrace="at x",
    ),
    "a handler's exception of another code": lambda: of_class(
        "PayloadError", '{"type": "payload", "code": "MY_OWN"}', code="OTHER"
    ),
    "a text that says a category": lambda: Exception('{"type": "auth", "code": "MY_OWN"}'),
    "a text that says a category of no code": lambda: Exception(
        '{"type": "transient", "retry_after_ms": 250, "already_retried": true}'
    ),
    "a text that says a category and a known code": lambda: Exception(
        '{"type": "auth", "code": "RATE_LIMITED", "message": "retry after 1500ms"}'
    ),
    "a text that says a code only": lambda: Exception('{"code": "TIMEOUT"}'),
    "a mistake that says a category": lambda: KeyError('{"type": "auth", "code": "MY_OWN"}'),
    "a text with the guard's words": lambda: Exception(GUARD),
    "a class that says its code": lambda: of_class("IIIForbiddenError", "no"),
    "another class that says its code": lambda: of_class("IIITimeoutError", "too slow"),
    "a guard of the documentation": lambda: of_class(
        "IIIPayloadTooLarge", GUARD, ValueError, payload_bytes=5, limit_bytes=4
    ),
    "a guard of the documentation without sizes": lambda: of_class(
        "IIIPayloadTooLarge", "too large", ValueError, function_id="its::own"
    ),
    "a guard of the documentation in words": lambda: of_class(
        "IIIPayloadTooLarge", GUARD, ValueError, payload_bytes="5", limit_bytes=4
    ),
    "too large before it was sent": lambda: through(
        "_prepare_json", error=CodedError("payload_too_large", GUARD)
    ),
    "too large after it was sent": lambda: through(
        "trigger", error=CodedError("payload_too_large", GUARD)
    ),
    "too large before it was sent, after many frames": lambda: through(
        *(f"f{n}" for n in range(62)), "_prepare_json", error=CodedError("payload_too_large", GUARD)
    ),
    "too large before it was sent, after too many frames": lambda: through(
        *(f"f{n}" for n in range(70)), "_prepare_json", error=CodedError("payload_too_large", GUARD)
    ),
    "too large elsewhere": lambda: through(
        "_prepare_json", error=CodedError("payload_too_large", GUARD), module="theirs"
    ),
    "too large in the package itself": lambda: through(
        "_prepare_json", error=CodedError("payload_too_large", GUARD), module="iii"
    ),
    "a namespace conflict before it was sent": lambda: through(
        "_prepare_call", error=CodedError("WORKER_NAMESPACE_CONFLICT", "words")
    ),
    "a namespace conflict by hand": coded("WORKER_NAMESPACE_CONFLICT", "words"),
    # Our own.
    "not connected": lambda: NotConnectedError("words"),
    "connection lost": lambda: ConnectionLostError("words"),
    "circuit open": lambda: CircuitOpenError("words", 2.5),
    "bulkhead full": lambda: BulkheadFullError("words"),
    "payload too large": lambda: PayloadTooLargeError(5, 4),
    "payload invalid": lambda: InvalidPayloadError("$.x is NaN"),
    "an rpc error": lambda: RpcError("FN_NOT_FOUND", "no", fn_key="A.b", retry_after=1.5),
    # Exceptions without a code.
    "a timeout": lambda: TimeoutError("words"),
    "an old sdk's timeout": lambda: TimeoutError("Invocation of 'a::b' timed out after 300ms"),
    "a timeout in other words": lambda: TimeoutError("Topic is not set"),
    "a connection refused": lambda: ConnectionRefusedError("words"),
    "a connection reset": lambda: ConnectionResetError("words"),
    "a connection that never was": lambda: ConnectionError("Connection to ws://x failed"),
    "a secure connection that never was": lambda: ConnectionError(
        "Connection to wss://x failed after max retries"
    ),
    "a connection that was": lambda: ConnectionError("Connection to ws://x closed"),
    "a connection of other words": lambda: ConnectionError("something failed"),
    "a cancelled handler": lambda: of_class("CancelledError", "words"),
    "a cancellation": asyncio.CancelledError,
    "an exit": lambda: SystemExit(3),
    "closed": lambda: connection_closed(1006, None),
    "closed because too big": lambda: connection_closed(None, 1009),
    "closed by the other side because too big": lambda: connection_closed(1009, 1009),
    "an sdk shutting down": lambda: Exception("iii is shutting down"),
    "an old sdk's dict": lambda: Exception("{'code': 'FORBIDDEN', 'message': 'no'}"),
    "an old sdk's dict in a subclass": lambda: ValueError("{'code': 'FORBIDDEN'}"),
    "a mistake": lambda: AttributeError("words"),
    "a key error": lambda: KeyError("x"),
    "a subprocess": lambda: subprocess.TimeoutExpired("x", 3),
    "anything": lambda: Exception("words"),
    "a very long class name": lambda: of_class("E" * 200),
    "a very long text": lambda: KeyError("x" * 9000),
    # What the SDK refuses before it sends anything, and the same words elsewhere.
    **{
        f"{type(error).__name__}: {str(error)[:30]}{where}": functools.partial(
            refused, error, module
        )
        for error in (
            TypeError("Object of type set is not JSON serializable"),
            TypeError("keys must be str, int, float, bool or None, not tuple"),
            ValueError("Circular reference detected"),
            ValueError("Out of range float values are not JSON compliant"),
            ValueError("namespace is empty"),
            ValueError("dispatch must be one of"),
            ValueError(GUARD),
            KeyError("function_id"),
            KeyError("queue"),
            RuntimeError("Cannot call sync SDK methods from the loop"),
        )
        for where, module in (("", None), (", in the SDK", "iii.iii"), (", elsewhere", "theirs"))
    },
    "a very long text of the SDK's": lambda: through(
        "trigger", error=TypeError("x" * 9000 + " is not JSON serializable")
    ),
    "a very long text that begins like the SDK's": lambda: through(
        "trigger", error=ValueError("namespace is empty" + "x" * 9000)
    ),
    "a pydantic error of a request": lambda: through(
        "trigger", error=of_class("ValidationError", "1 error for TriggerRequest", ValueError)
    ),
    "a pydantic error of something else": lambda: through(
        "trigger", error=of_class("ValidationError", "1 error for Order", ValueError)
    ),
    # Causes behind exceptions.
    "caused by a known failure": lambda: because(
        Exception("words"), CodedError("RATE_LIMITED", "retry after 1500ms")
    ),
    "caused by a denial": lambda: because(ConnectionError("words"), CodedError("FORBIDDEN", "no")),
    "caused by a timeout": lambda: because(Exception("words"), TimeoutError("words")),
    "a mistake caused by a timeout": lambda: because(KeyError("x"), TimeoutError("words")),
    "a value error caused by a timeout": lambda: because(ValueError("x"), TimeoutError("words")),
    "a value error caused by a denial": lambda: because(
        ValueError("x"), CodedError("FORBIDDEN", "no")
    ),
    "a value error caused by what is too large": lambda: because(
        ValueError("x"), CodedError("payload_too_large", GUARD)
    ),
    "a payload failure caused by a timeout": lambda: because(
        through("trigger", error=TypeError("set is not JSON serializable")), TimeoutError("words")
    ),
    "a payload failure caused by a denial": lambda: because(
        through("trigger", error=TypeError("set is not JSON serializable")),
        CodedError("FORBIDDEN", "no"),
    ),
    "throttled, and caused by a denial": lambda: because(
        Exception('{"type": "transient", "code": "RATE_LIMITED", "retry_after_ms": 250}'),
        CodedError("FORBIDDEN", "no"),
    ),
    "a payload failure of a handler caused by a timeout": lambda: because(
        Exception('{"type": "payload", "code": "MY_OWN"}'), TimeoutError("words")
    ),
    "a known permanent failure caused by a timeout": lambda: because(
        through("trigger", error=RuntimeError("Cannot call sync SDK methods from the loop")),
        TimeoutError("words"),
    ),
    "caused by what was retried already": lambda: because(
        Exception("words"),
        CodedError("invocation_failed", '{"code": "TIMEOUT", "already_retried": true}'),
    ),
    "caused by a cancellation": lambda: because(Exception("words"), asyncio.CancelledError()),
    "while a denial was handled": lambda: while_handling(
        ConnectionError("words"), CodedError("FORBIDDEN", "no")
    ),
    "while a mistake was handled": lambda: while_handling(ConnectionError("words"), KeyError("x")),
    "while a timeout was handled": lambda: while_handling(
        ConnectionError("words"), TimeoutError("words")
    ),
    "anything while a denial was handled": lambda: while_handling(
        Exception("words"), CodedError("FORBIDDEN", "no")
    ),
    "from None while a denial was handled": lambda: because(
        while_handling(ConnectionError("words"), CodedError("FORBIDDEN", "no")), None
    ),
    "caused by itself": circle,
    "while it was handled itself": lambda: circle(context=True),
    "caused by a denial behind eight others": lambda: chained(8),
    "caused by a denial behind nine others": lambda: chained(9),
    "while a denial behind eight others was handled": lambda: chained(8, context=True),
    "while a denial behind nine others was handled": lambda: chained(9, context=True),
    "caused by a denial behind two others": lambda: because(
        ConnectionError("words"), because(Exception("two"), CodedError("FORBIDDEN", "no"))
    ),
}


def written_down(failure: Failure | None) -> dict[str, Any] | None:
    """A failure without the fields that have their defaults."""
    if failure is None:
        return None
    fields = {field.name: getattr(failure, field.name) for field in attrs.fields(Failure)}
    fields["inner"] = written_down(failure.inner)
    # A class of this file is named after it, which has another name when it is run as a script.
    fields["remedy"] = failure.remedy.replace(f"{__name__}.", "")
    if len(failure.message) > 200:
        fields["message"] = f"{failure.message[:20]}… {len(failure.message)}"
    defaults = {field.name: field.default for field in attrs.fields(Failure)}
    return {name: value for name, value in fields.items() if value != defaults[name]}


def answers(make: Callable[[], Any]) -> dict[str, Any]:
    """What is said of it, of a call that is known and of one that is not."""
    called, unknown = classify(make(), function_id=CALLED), classify(make())
    written = {"called": written_down(called)}
    if attrs.evolve(called, function_id=None) != attrs.evolve(unknown, function_id=None):
        written["unknown"] = written_down(unknown)
    else:
        written["own function_id"] = unknown.function_id  # type: ignore[assignment]
    return written


ANSWERS: dict[str, Any] = json.loads(PINNED.read_text()) if PINNED.exists() else {}


@pytest.mark.parametrize("case", CASES)
def test_nothing_that_is_said_of_error_changes_unnoticed(case: str) -> None:
    assert answers(CASES[case]) == ANSWERS[case]


def test_every_answer_has_its_case() -> None:
    assert list(ANSWERS) == list(CASES)


if __name__ == "__main__":
    made = {case: answers(make) for case, make in CASES.items()}
    PINNED.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
