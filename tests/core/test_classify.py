"""What `classify` says of everything that was recorded, and of every SDK's exceptions."""

from __future__ import annotations

import concurrent.futures
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from support.paths import DATA
from support.short_names import EX, ME, NE, A, P, T, X

from iii_resilience.core.classifiers.registered_exceptions import transient_exceptions
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.lookup import ALL, III, Category, Execution
from iii_resilience.core.errors import (
    BulkheadFullError,
    CircuitOpenError,
    ConnectionLostError,
    InvalidPayloadError,
    NotConnectedError,
    PayloadTooLargeError,
    RpcError,
)

RECORDED: list[dict[str, Any]] = json.loads((DATA / "engine-errors.json").read_text())


class InvocationError(Exception):
    """As SDK 0.20 and later have it."""

    def __init__(
        self,
        code: str,
        message: str,
        function_id: str | None = None,
        stacktrace: str | None = None,
        invocation_id: str | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.function_id = function_id
        self.stacktrace = stacktrace
        self.invocation_id = invocation_id


class IIIInvocationError(InvocationError):
    """As SDK 0.11.3 to 0.19 have it."""


class IIIForbiddenError(IIIInvocationError):
    """As SDK 0.11.3 to 0.18 have it."""


class IIITimeoutError(IIIInvocationError):
    """As SDK 0.11.3 to 0.18 have it."""


class IIIRemoteError(Exception):
    """As the iii error codes page documents it (docs/engine-notes.md, 15)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class IIIPayloadTooLarge(ValueError):  # noqa: N818 - the documented name
    """As the iii error codes page documents it (docs/engine-notes.md, 15)."""

    def __init__(self, payload_bytes: int, limit_bytes: int) -> None:
        self.payload_bytes = payload_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            f"Payload {payload_bytes} bytes exceeds invocation limit {limit_bytes} bytes. "
            "For binary blobs use channels: https://iii.dev/docs/how-to/use-channels"
        )


class RegistrationRejectedError(Exception):
    """As SDK 0.23 and later have it."""

    def __init__(self, code: str, namespace: str, worker_name: str, owner: str) -> None:
        super().__init__(f"{code}: worker '{worker_name}' rejected in namespace '{namespace}'")
        self.code = code
        self.namespace = namespace
        self.worker_name = worker_name
        self.owner_worker_id = owner


# --- recorded -----------------------------------------------------------------------------------


@pytest.mark.parametrize("as_exception", [False, True], ids=["body", "exception"])
@pytest.mark.parametrize(
    "seen",
    RECORDED,
    # pytest does not find an id again in which a line ends.
    ids=lambda seen: f"{seen['code']}-{seen['message'].partition(chr(10))[0][:40]}",
)
def test_what_engine_and_sdks_said(seen: dict[str, Any], as_exception: bool) -> None:
    error: object
    if as_exception:
        error = InvocationError(seen["code"], seen["message"], seen["called"])
        failure = classify(error)
    else:
        error = {"code": seen["code"], "message": seen["message"]}
        failure = classify(error, function_id=seen["called"])
    assert failure.code == seen["code"]
    assert failure.known
    assert failure.category == seen["category"]
    assert failure.execution == seen["execution"]
    assert (failure.inner.code if failure.inner else None) == seen["inner"]
    assert failure.throttled is seen.get("throttled", False)
    assert failure.function_id == seen["called"]
    assert failure.message == seen["message"]
    if "sizes" in seen:
        assert [failure.payload_bytes, failure.limit_bytes] == seen["sizes"]
        for size in seen["sizes"]:
            assert str(size) in failure.remedy


def transcript_errors() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for line in (DATA / "engine-transcript.jsonl").read_text().splitlines():
        frame = json.loads(line)
        message = frame.get("msg", {})
        if frame.get("dir") == "from-engine" and isinstance(message.get("error"), dict):
            found.append(message)
    return found


def test_every_error_of_transcript_is_known() -> None:
    frames = transcript_errors()
    assert len(frames) > 10
    told = {(seen["code"], seen["message"]): seen for seen in RECORDED}
    for frame in frames:
        failure = classify(frame)
        body = frame["error"]
        assert failure.code == body["code"]
        assert failure.known
        assert failure.function_id == frame.get("function_id")
        seen = told.get((body["code"], body["message"]))
        if seen and seen["called"] == failure.function_id:
            assert failure.category == seen["category"]
            assert failure.execution == seen["execution"]


# A bare code that stands in two systems is iii's.
ALONE = [row for row in ALL if row.system != "local" or row.code not in III]


def test_bare_code_says_its_row() -> None:
    names = ("code", "category", "execution", "throttled", "remedy", "system", "origin")
    for row in ALONE:
        failure = classify(row.code)
        assert failure.known, row
        said = {name: getattr(failure, name) for name in names}
        assert said == {name: getattr(row, name) for name in names}
        assert failure == classify({"code": row.code}) or row.code == "UNKNOWN", row


def test_dead_letters_rust_debug_text() -> None:
    text = (
        'ErrorBody { code: "invocation_failed", message: "{\\"code\\": \\"TIMEOUT\\", '
        '\\"message\\": \\"caf\\u{e9}\\\\n\\"}", stacktrace: Some("x") }'
    )
    failure = classify(text)
    assert failure.code == "invocation_failed"
    assert failure.inner is not None
    assert failure.inner.code == "TIMEOUT"
    assert failure.inner.message == "café\n"


# --- trust --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["FORBIDDEN", "function_not_found", "function_not_invokable"])
@pytest.mark.parametrize(
    ("message", "called", "execution"),
    [
        ("", "orders::charge", NE),
        ("<no message>", "orders::charge", ME),
        ("you may not call orders::charge.", "orders::charge", NE),
        ("you may not call 'orders::charge'", "orders::charge", NE),
        ("you may not call orders::charge2", "orders::charge", EX),
        ("you may not call pre-orders::charge", "orders::charge", EX),
        ("you may not call orders::charge::card", "orders::charge", EX),
        ("orders::charge called db::read", "orders::charge", ME),
        ("nope", "orders::charge", ME),
        ("you may not call orders::charge", None, ME),
        ("call of f denied", "f", NE),
        ("call of f. Denied", "f", NE),
        ("call of f", "f", NE),
        ("call of ff denied", "f", ME),
        ("call of f.g denied", "f", ME),
        ("function 'f' not allowed (add to rbac.expose_functions)", "f", NE),
        ("function 'g' not allowed (add to rbac.expose_functions)", "f", EX),
        ("namespace 'other' not allowed for this session (permitted: f)", "f", ME),
    ],
)
def test_not_executed_needs_name_of_called_function(
    code: str, message: str, called: str | None, execution: Execution
) -> None:
    for error in (InvocationError(code, message, called), {"code": code, "message": message}):
        failure = classify(error, function_id=called)
        assert failure.execution is execution
        assert failure.category is III[code].category


def test_function_given_wins_over_exceptions_own() -> None:
    error = InvocationError("function_not_found", "Function a::b not found in namespace x.", "a::b")
    assert classify(error).execution is NE
    assert classify(error, function_id="c::d").execution is EX
    assert classify(error, function_id="c::d").function_id == "c::d"


def test_namespace_exception_carries_is_compared() -> None:
    error = InvocationError("FORBIDDEN", "namespace 'pay' not allowed for this session (…)", "a::b")
    assert classify(error).execution is ME
    error.__dict__["namespace"] = "pay"
    assert classify(error).execution is NE
    error.__dict__["namespace"] = "shop"
    assert classify(error).execution is EX


# --- exceptions of the SDKs ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        IIITimeoutError("TIMEOUT", "invocation timed out after 300ms", "f"),
        IIIInvocationError("TIMEOUT", "invocation timed out after 300ms", "f"),
        InvocationError("TIMEOUT", "invocation timed out after 300ms", "f"),
        TimeoutError("Invocation of 'f' timed out after 300ms"),
        TimeoutError("Invocation of 'f' timed out after 0.3s"),
    ],
)
def test_timeout_of_every_version(error: Exception) -> None:
    failure = classify(error)
    assert (failure.code, failure.category, failure.execution) == ("TIMEOUT", T, ME)
    assert failure.function_id == "f"
    assert failure.known


@pytest.mark.parametrize(
    "error",
    [
        IIIForbiddenError("FORBIDDEN", "function 'f' not allowed (add to …)", "f"),
        InvocationError("FORBIDDEN", "function 'f' not allowed (add to …)", "f"),
        IIIRemoteError("FORBIDDEN", "function 'f' not allowed (add to …)"),
        Exception("{'code': 'FORBIDDEN', 'message': \"function 'f' not allowed (add to …)\"}"),
    ],
)
def test_denial_of_every_version(error: Exception) -> None:
    failure = classify(error, function_id="f")
    assert (failure.code, failure.category, failure.execution) == ("FORBIDDEN", A, NE)


def test_class_names_say_code_where_attribute_is_missing() -> None:
    forbidden = type("IIIForbiddenError", (Exception,), {})
    timeout = type("IIITimeoutError", (Exception,), {})
    assert classify(forbidden("no")).code == "FORBIDDEN"
    assert classify(timeout("no")).code == "TIMEOUT"


@pytest.mark.parametrize(
    ("text", "code", "category"),
    [
        (
            "{'code': 'invocation_stopped', 'message': 'Invocation stopped'}",
            "invocation_stopped",
            T,
        ),
        ("{'code': 'X', 'message': 'm', 'stacktrace': None}", "X", X),
        ("{'code': 'invocation_failed', 'message': 'TIMEOUT: x'}", "invocation_failed", T),
        ("iii is shutting down", "SHUTDOWN", T),
    ],
)
def test_plain_exceptions_of_first_versions(text: str, code: str, category: Category) -> None:
    failure = classify(Exception(text))
    assert (failure.code, failure.category) == (code, category)


def test_documented_payload_guard() -> None:
    failure = classify(IIIPayloadTooLarge(17_000_000, 16_777_216))
    assert (failure.code, failure.category, failure.execution) == ("payload_too_large", P, NE)
    assert (failure.payload_bytes, failure.limit_bytes) == (17_000_000, 16_777_216)


@pytest.mark.parametrize(
    "body",
    [
        {"name": "IIIPayloadTooLarge", "message": "m", "payloadBytes": 9, "limitBytes": 5},
        {"payload_bytes": 9, "limit_bytes": 5},
        {"actual": 9, "limit": 5},
        {"PayloadTooLarge": {"actual": 9, "limit": 5}},
        {"code": "payload_too_large", "payloadBytes": 9, "limitBytes": 5},
        {"message": "Payload 9 bytes exceeds invocation limit 5 bytes."},
        {
            "code": "payload_too_large",
            "message": "Serialized JSON envelope is 9 bytes; limit is 5 bytes.",
        },
        ValueError("Payload 9 bytes exceeds invocation limit 5 bytes."),
        RuntimeError("Payload 9 bytes exceeds invocation limit 5 bytes."),
    ],
)
def test_payload_guards_of_every_language(body: object) -> None:
    failure = classify(body)
    assert failure.category is P
    assert (failure.payload_bytes, failure.limit_bytes) == (9, 5)


def test_rejected_registration() -> None:
    failure = classify(RegistrationRejectedError("WORKER_NAMESPACE_CONFLICT", "default", "w", "o"))
    assert (failure.code, failure.category, failure.execution) == (
        "WORKER_NAMESPACE_CONFLICT",
        X,
        NE,
    )


def test_closed_websocket_is_recognised_without_its_code() -> None:
    from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
    from websockets.frames import Close

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for error in (ConnectionClosedError(None, None), ConnectionClosedOK(None, None)):
            failure = classify(error, function_id="f")
            assert (failure.code, failure.category, failure.execution) == (
                type(error).__name__,
                T,
                ME,
            )
            assert failure.known
            assert failure.function_id == "f"
        too_big = classify(ConnectionClosedError(Close(1009, "too big"), None))
    assert too_big.category is P


@pytest.mark.parametrize(
    "error",
    [
        TypeError("Object of type set is not JSON serializable"),
        ValueError("Circular reference detected"),
        ValueError("namespace is empty: TriggerRequest.namespace was set to ' '. Give it a name"),
        ValueError("dispatch must be 'auto' or 'remote', got 'zzz'"),
        KeyError("function_id"),
    ],
)
def test_what_sdk_refuses_before_it_sends(error: Exception) -> None:
    failure = classify(error)
    assert (failure.code, failure.category, failure.execution) == (type(error).__name__, P, NE)
    assert failure.known


def test_the_same_words_from_users_own_code_prove_nothing() -> None:
    with pytest.raises(TypeError) as caught:
        json.dumps({1, 2})
    failure = classify(caught.value)
    assert (failure.category, failure.execution, failure.known) == (P, ME, False)
    missing: dict[str, int] = {}
    with pytest.raises(KeyError) as absent:
        missing["queue"]
    assert classify(absent.value).category is X


def test_call_on_foreign_loop_was_sent() -> None:
    failure = classify(ValueError("The future belongs to a different loop than the one specified"))
    assert (failure.category, failure.execution, failure.known) == (X, ME, False)


def test_sync_call_on_sdks_own_thread_was_not_sent() -> None:
    failure = classify(RuntimeError("Cannot call sync SDK methods from the event loop thread. …"))
    assert (failure.category, failure.execution, failure.known) == (X, NE, True)


@pytest.mark.parametrize(
    ("payload", "code", "category"),
    [
        ({"a": {1, 2}}, "TypeError", P),
        ({"a": "x" * 70_000_000}, "payload_too_large", P),
    ],
)
def test_real_sdk_refuses_before_it_sends(
    payload: object, code: str, category: Category, tmp_path: Path
) -> None:
    script = tmp_path / "probe.py"
    script.write_text(
        "import os, sys, logging\n"
        "logging.disable(logging.CRITICAL)\n"
        "from iii.iii import III\n"
        "from iii_resilience.core.classify import classify\n"
        "client = III('ws://127.0.0.1:9')\n"
        "payload = {'a': {1, 2}} if sys.argv[1] == 'TypeError' else {'a': 'x' * 70_000_000}\n"
        "try:\n"
        "    client.trigger({'function_id': 'a::b', 'payload': payload, 'timeout_ms': 300})\n"
        "except Exception as error:\n"
        "    failure = classify(error)\n"
        "    print(failure.code, failure.category, failure.execution, flush=True)\n"
        "os._exit(0)\n"
    )
    environment = {"OTEL_ENABLED": "false", "HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, str(script), code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment,
    )
    assert done.stdout.split() == [code, category.value, "not_executed"]


def test_exception_of_handler_that_carries_our_form() -> None:
    class CardError(Exception):
        def __init__(self, message: str, code: str) -> None:
            self.code = code
            super().__init__(json.dumps({"type": "transient", "code": code, "message": message}))

    failure = classify(CardError("busy", "LEDGER_BUSY"))
    assert (failure.code, failure.category, failure.known) == ("LEDGER_BUSY", T, False)
    assert classify(CardError("x", "FORBIDDEN")).category is A


# --- the library's own, the standard library's, and mistakes ------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "category", "execution", "throttled"),
    [
        (NotConnectedError("no engine"), "NOT_CONNECTED", T, NE, False),
        (ConnectionLostError("gone"), "CONNECTION_LOST", T, ME, False),
        (CircuitOpenError("open", 2.5), "CIRCUIT_OPEN", T, NE, True),
        (BulkheadFullError("full"), "BULKHEAD_FULL", T, NE, True),
        (PayloadTooLargeError(9, 5), "payload_too_large", P, NE, False),
        (InvalidPayloadError("$.a is NaN"), "invalid_payload", P, NE, False),
    ],
)
def test_our_own(
    error: Exception, code: str, category: Category, execution: Execution, throttled: bool
) -> None:
    failure = classify(error, function_id="f")
    assert (failure.code, failure.category, failure.execution) == (code, category, execution)
    assert (failure.throttled, failure.system, failure.origin) == (throttled, "local", "local")
    assert failure.known
    assert failure.function_id == "f"
    assert failure.message == str(error)


def test_our_own_carry_numbers() -> None:
    assert classify(CircuitOpenError("open", 2.5)).retry_after == 2.5
    failure = classify(PayloadTooLargeError(9, 5))
    assert (failure.payload_bytes, failure.limit_bytes) == (9, 5)


@pytest.mark.parametrize(
    ("error", "execution"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), ME),
        (ConnectionAbortedError(), ME),
        (BrokenPipeError(), ME),
        (ConnectionError("lost"), ME),
        (ConnectionRefusedError(111, "Connection refused"), NE),
        (ConnectionError("Connection to ws://127.0.0.1:9 failed after max retries"), NE),
        (TimeoutError(), ME),
        (concurrent.futures.TimeoutError(), ME),
    ],
)
def test_standard_librarys_families(error: Exception, execution: Execution) -> None:
    failure = classify(error)
    assert (failure.code, failure.category, failure.execution) == (
        type(error).__name__,
        T,
        execution,
    )
    assert failure.known


def test_cancelled_local_handler() -> None:
    failure = classify(concurrent.futures.CancelledError())
    assert (failure.code, failure.category, failure.execution) == ("CancelledError", X, ME)
    assert failure.known


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit("TIMEOUT"), GeneratorExit()])
def test_what_must_pass_is_never_transient(error: BaseException) -> None:
    failure = classify(error)
    assert (failure.code, failure.category) == (type(error).__name__, X)


@pytest.mark.parametrize(
    "error",
    [
        TypeError("bug"),
        KeyError("k"),
        AttributeError("a"),
        NameError("n"),
        ZeroDivisionError(),
        AssertionError(),
        NotImplementedError(),
        ValueError("bad"),
        RuntimeError("anything"),
        type("OrderError", (Exception,), {})("no"),
    ],
)
def test_everything_else_is_permanent_and_unknown(error: Exception) -> None:
    failure = classify(error)
    assert (failure.code, failure.category, failure.execution, failure.known) == (
        type(error).__name__,
        X,
        ME,
        False,
    )
    assert failure.message == str(error)


@pytest.mark.parametrize("error", [None, 5, b"TIMEOUT", [], ["TIMEOUT"], object(), 1.5, {}, set()])
def test_what_is_no_error_at_all(error: object) -> None:
    failure = classify(error)
    assert failure.category is X
    assert failure.execution is ME


# --- causes -------------------------------------------------------------------------------------


def raised(error: BaseException, cause: BaseException | None, context: bool = False) -> Exception:
    try:
        try:
            if cause is not None:
                raise cause
        except BaseException as caught:
            if context:
                raise error  # noqa: B904 - the bare context is what is shown
            raise error from caught
        raise error
    except Exception as outer:
        return outer


def test_exception_without_code_takes_its_causes_category() -> None:
    stopped = InvocationError("invocation_stopped", "Invocation stopped", "a::b")
    failure = classify(raised(RuntimeError("order failed"), stopped))
    assert (failure.code, failure.category, failure.execution) == ("RuntimeError", T, ME)
    assert failure.inner is not None
    assert failure.inner.code == "invocation_stopped"
    denied = InvocationError("FORBIDDEN", "function 'a::b' not allowed (…)", "a::b")
    assert classify(raised(RuntimeError("order failed"), denied)).category is A


def test_causes_slow_down_and_delay_come_along() -> None:
    failure = classify(raised(RuntimeError("x"), CircuitOpenError("open", 2.5)))
    assert (failure.throttled, failure.retry_after) == (True, 2.5)


@pytest.mark.parametrize(
    "error", [TypeError("x"), KeyError("x"), AttributeError("x"), ValueError()]
)
def test_mistake_is_never_transient_whatever_caused_it(error: Exception) -> None:
    stopped = InvocationError("invocation_stopped", "Invocation stopped")
    failure = classify(raised(error, stopped))
    assert failure.category is X
    assert failure.inner is not None


def test_context_may_forbid_but_never_allow() -> None:
    stopped = InvocationError("invocation_stopped", "Invocation stopped")
    denied = InvocationError("FORBIDDEN", "no")
    assert classify(raised(RuntimeError("x"), stopped, context=True)).category is X
    assert classify(raised(ConnectionResetError(), denied, context=True)).category is A
    assert classify(raised(ConnectionResetError(), denied)).category is A
    assert classify(raised(ConnectionResetError(), KeyError("cache"), context=True)).category is T
    assert classify(raised(ConnectionResetError(), stopped, context=True)).category is T
    quiet = raised(ConnectionResetError(), denied, context=True)
    quiet.__suppress_context__ = True
    assert classify(quiet).category is T


def test_exception_with_code_ignores_its_context() -> None:
    denied = InvocationError("FORBIDDEN", "no")
    stopped = InvocationError("invocation_stopped", "Invocation stopped")
    assert classify(raised(stopped, denied, context=True)).category is T


def test_cycles_of_causes_end() -> None:
    first, second = RuntimeError("1"), RuntimeError("2")
    first.__cause__, second.__cause__ = second, first
    assert classify(first).category is X
    first.__cause__ = first
    assert classify(first).category is X


# --- the rest -----------------------------------------------------------------------------------


def test_unknown_codes_are_permanent_and_may_have_run() -> None:
    for error in ("NO_SUCH", {"code": "NO_SUCH", "message": "m"}, InvocationError("NO_SUCH", "m")):
        failure = classify(error, function_id="f")
        assert (failure.code, failure.category, failure.execution) == ("NO_SUCH", X, ME)
        assert not failure.known
        assert failure.function_id == "f"


def test_code_that_is_no_string_is_unknown() -> None:
    for code in (5, None, ["TIMEOUT"], {"a": 1}, b"TIMEOUT", ""):
        assert classify({"code": code, "message": "m"}).code == "UNKNOWN"
    assert classify(InvocationError(1006, "m")).code == "InvocationError"  # type: ignore[arg-type]


def test_stack_traces_are_kept_out_of_repr() -> None:
    error = InvocationError("invocation_failed", "secret", "f", "secret trace")
    failure = classify(error)
    assert failure.stacktrace == "secret trace"
    assert "secret" not in repr(failure)
    json_error = InvocationError("invocation_failed", '{"code":"TIMEOUT","message":"secret"}')
    assert "secret" not in repr(classify(json_error))


def test_error_inside_engines_answer_or_endpoints_body() -> None:
    answer = {
        "type": "invocationresult",
        "function_id": "a::b",
        "error": {
            "code": "function_not_found",
            "message": "Function a::b not found in namespace d.",
        },
    }
    assert classify(answer).execution is NE
    assert classify({"error": {"code": "TIMEOUT", "message": "m"}}).code == "TIMEOUT"


def test_rpc_errors_are_looked_up_in_their_own_system_only() -> None:
    failure = classify(RpcError("TIMEOUT", "custom", layer="expected"))
    assert (failure.system, failure.category, failure.known) == ("rpc", X, False)
    inner = classify({"code": "invocation_failed", "message": "RATE_LIMITED: retry after 4998ms"})
    assert (inner.category, inner.throttled, inner.retry_after) == (T, True, 4.998)


def test_import_is_cheap() -> None:
    code = (
        "import sys\n"
        "import iii_resilience.core.classify\n"
        "print([m for m in ('iii', 'yaml', 'cattrs', 'websockets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("error", [3, object(), "TIMEOUT", {"code": "TIMEOUT"}, ValueError("x")])
def test_function_that_is_no_name_is_no_function(error: object) -> None:
    assert classify(error, function_id=None).function_id is None
    assert classify(3, function_id=3).function_id is None  # type: ignore[arg-type]


def test_refused_worker_is_transient_failure_caused_by_auth() -> None:
    error = NotConnectedError("closed at once")
    assert classify(error).inner is None
    error.refused = True
    failure = classify(error)
    assert (failure.code, failure.category) == ("NOT_CONNECTED", Category.TRANSIENT)
    assert failure.execution is Execution.NOT_EXECUTED
    assert failure.inner is not None
    assert failure.inner.category is Category.AUTH
    assert failure.remedy == failure.inner.remedy


def test_thread_that_cannot_be_started_is_transient() -> None:
    failure = classify(RuntimeError("can't start new thread"))
    assert (failure.category, failure.execution) == (
        Category.TRANSIENT,
        Execution.MAYBE_EXECUTED,
    )


def test_registered_exceptions_keep_their_category() -> None:
    class BusyError(Exception):
        """With a structured message that refuses nothing."""

    rules = transient_exceptions(BusyError)
    text = '{"type": "payload", "code": "TOO_BIG", "message": "no", "retryable": false}'
    assert classify(BusyError(text), rules=rules).category is Category.TRANSIENT
