"""Codes that the SDKs make themselves: on the caller's side and around handlers.

A source is one of the documents of docs/engine-notes.md, 15, or a file of the Python SDK 0.25.0
unless another SDK is named. Knows nothing of the engine's own codes (`codes.engine_codes`) or of
messages.
"""

from __future__ import annotations

from iii_resilience.core.codes.model import Code
from iii_resilience.core.codes.shorthand import EX, ME, NE, N, P, T, X

ROWS = (
    # Also the RBAC proxy's. A call made while disconnected stays in the SDK's queue and runs
    # later, hence maybe_executed even then.
    Code(
        "TIMEOUT",
        T,
        ME,
        "sdk",
        "increase the timeout only if the workload is expected to run long; otherwise optimize "
        "or enqueue; check the connection state first; behind an RBAC proxy check the proxy",
        "the caller waited longer than its timeout; also the only sign of an engine that is down, "
        "a refused handshake or a dropped frame; or an RBAC proxy gave up waiting",
        "iii error handling guide",
        queue=True,
    ),
    Code(
        "function_not_invokable",
        X,
        NE,
        "sdk",
        "inspect the registration and the invocation type",
        "the registration exists but has no callable, as an HTTP-invoked function's",
        "iii error handling guide",
    ),
    # Permanent unless the message holds a known cause; executed, because the handler ran in all
    # cases but one (a channel that could not be resolved before it).
    Code(
        "invocation_failed",
        X,
        EX,
        "handler",
        "inspect the handler logs, the stacktrace and the payload validation",
        "the handler of the function raised, or the wrapper around it",
        "iii error handling guide",
    ),
    Code(
        "UNKNOWN",
        X,
        ME,
        "sdk",
        "report the malformed error and upgrade the SDK",
        "the error on the wire had no string code",
        "iii/errors.py:58",
    ),
    # Transient by the table, permanent for this one client: its calls hang after shutdown().
    Code(
        "SHUTDOWN",
        T,
        ME,
        "sdk",
        "make a new client: this one has shut down and answers nothing any more",
        "this client's shutdown() rejected its calls in flight",
        "iii/iii.py:750",
    ),
    # The SDK (own envelope, nothing sent), a target's SDK (result, it ran) and the engine from
    # 0.25 on (own envelope, not delivered) word it alike, so the bare code proves nothing.
    # The documented IIIPayloadTooLarge and its max_message_size were never released.
    Code(
        "payload_too_large",
        P,
        ME,
        "sdk",
        "shrink the payload or move binary data to channels; the SDK's limit is 16 MiB in 0.24.5 "
        "and 0.24.6 and 64 MiB in 0.25 (older documentation, for settings no release has: raise "
        "max_message_size on both sides and keep the two values aligned)",
        "the message, or the function's result, exceeds a size limit",
        "iii error codes page; iii/iii.py:979",
    ),
    Code(
        "trigger_type_not_found",
        N,
        NE,
        "sdk",
        "start the worker that provides the trigger type",
        "the trigger type is not known to that worker",
        "Node, Rust and Go SDK",
    ),
    Code(
        "invalid_request",
        P,
        NE,
        "sdk",
        "fix the payload so that it fits the handler's type",
        "a Go handler's payload could not be decoded into its type",
        "Go SDK, schema.go:76",
    ),
    # Below: codes of the observe API. They turn an observer's state to "error" and are raised
    # where it is awaited or used; no call of a function answers with them, so they prove nothing
    # about one unless the check stands before the call.
    Code(
        "INVALID_OBSERVE_DESCRIPTOR",
        P,
        NE,
        "sdk",
        "fix the observe options of the function's registration",
        "the observe options of a registration contradict each other",
        "iii/iii.py:215",
    ),
    # The observe API and the database worker.
    Code(
        "UNSUPPORTED",
        X,
        NE,
        "sdk",
        "upgrade the engine to one with observe; for database::* choose an operation the driver "
        "supports",
        "the engine has no observe API, or the database driver does not support the operation",
        "iii/iii.py:183; iii-database/src/error.rs",
    ),
    Code(
        "INVALID_FILTER",
        P,
        NE,
        "sdk",
        "fix the observer's filters",
        "the filters of an observer cannot be compiled",
        "iii/observable.py:422",
    ),
    Code(
        "INVALID_ARGS",
        P,
        NE,
        "engine",
        "fix the observer's args",
        "the args of an observer do not match the function's format",
        "iii/observe_types.py:144",
    ),
    Code(
        "NOT_OWNER_DELIVERED",
        X,
        NE,
        "sdk",
        "register the function with delivery='owner' to emit or call from its owner",
        "the function's events are delivered by the engine, not by its owner",
        "iii/observable.py:528",
    ),
    Code(
        "OBSERVER_NOT_ACTIVE",
        N,
        NE,
        "sdk",
        "use an observer that is active",
        "the observer is not active any more",
        "iii/observable.py:602",
    ),
    Code(
        "FILTERS_NOT_MATCHED",
        P,
        NE,
        "sdk",
        "send a payload the observer's filters accept",
        "the observer's filters reject the payload",
        "iii/observable.py:610",
    ),
    Code(
        "OBSERVE_REJECTED",
        X,
        ME,
        "handler",
        "inspect the owner's on_observer_added hook",
        "the owner of the function rejected the observer",
        "iii/observable.py:515",
    ),
    Code(
        "OBSERVE_FAILED",
        X,
        ME,
        "sdk",
        "inspect the observer's error",
        "the observer turned to the state error without a code",
        "iii/observer_handle.py:81",
    ),
    Code(
        "UNOBSERVED",
        X,
        ME,
        "sdk",
        "observe again",
        "the observer was disposed",
        "iii/observer_handle.py:81",
    ),
    Code(
        "OWNER_TIMEOUT",
        T,
        ME,
        "sdk",
        "make the owner's observe hook faster",
        "the owner's observe hook did not return in time",
        "iii/observable.py:510",
    ),
    Code(
        "NOT_OBSERVABLE",
        X,
        NE,
        "engine",
        "observe another function, or let the function's owner allow observers "
        "(ObserveHooks(allow=True))",
        "the function refuses every observer",
        "iii/observe_types.py:147",
    ),
    Code(
        "INVALID_FILTER_PATH",
        P,
        NE,
        "engine",
        "fix the observer's filters: a path starts with input, output, error, caller or metadata",
        "a filter of an observer names a path that events do not have",
        "iii/filter/_errors.py:24",
    ),
    # The next two are examples that the SDK gives for what an owner's on_observer_added raises:
    # the observer was not added, and nothing else ran.
    Code(
        "HTTP_ROUTE_CONFLICT",
        X,
        NE,
        "handler",
        "choose another method and path, or let the observer that has this one go",
        "another observer has the method and path",
        "iii/errors.py:104",
    ),
    Code(
        "INVALID_CRON_EXPRESSION",
        P,
        NE,
        "handler",
        "fix the expression: six fields, seconds first",
        "the owner of a schedule cannot read the expression",
        "iii/errors.py:105",
    ),
)
