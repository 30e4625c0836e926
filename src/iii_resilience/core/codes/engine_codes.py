"""Codes of the engine's wire: invocation, access, HTTP-invoked functions, built-in workers.

One row per code. Knows nothing of messages: `classifiers.message_cause` and
`classifiers.execution_proof` add what a message says. If a document and the source disagree, the
document decides the category and the source the execution; a comment above the row says so.

The documents are listed in docs/engine-notes.md, 15. Paths are relative to ``engine/src`` of engine
0.23.0-rc.4.
"""

from __future__ import annotations

from iii_resilience.core.codes.model import Category, Code, Execution
from iii_resilience.core.codes.shorthand import EX, ME, NE, A, N, P, T, X

INVOCATION = (
    Code(
        "invocation_stopped",
        T,
        ME,
        "engine",
        "usually transient: retry idempotent calls; if the worker is gone for good, re-route or "
        "fail the upstream caller; treat it as failed work and find out why the worker left",
        "the call in flight was halted: the target's or the caller's connection closed, or the "
        "engine shut down; the handler may have run",
        "iii error codes page",
        queue=True,
    ),
    # No release emits it; before 0.25 the socket is closed instead and the caller meets
    # invocation_stopped or TIMEOUT, later engines answer payload_too_large.
    # max_message_size is a setting of the error codes page only.
    Code(
        "invocation_failed_payload_too_large",
        P,
        ME,
        "engine",
        "shrink the payload or move binary data to channels; the receiving worker's SDK sets the "
        "limit: 1 MiB up to 0.24.4, 64 MiB since 0.24.5 (older documentation, for settings no "
        "release has: raise max_message_size on both the engine config and the SDK InitOptions)",
        "a message exceeded the size limit and the engine closed the connection",
        "iii error codes page",
    ),
    Code(
        "function_not_found",
        N,
        NE,
        "engine",
        "do not repeat the call: check the function id for typos and its namespace, verify that "
        "the worker that owns it is connected (install or start it), discover functions with "
        "engine::functions::list, and look at the trigger type hints",
        "no function is registered under that id in that namespace; also while its worker restarts",
        "iii error handling guide",
        queue=True,
    ),
    # Category by the documents ("Retry"); by the source it is practically unreachable, and failed
    # delivery is channel_send_failed.
    Code(
        "invocation_error",
        T,
        ME,
        "engine",
        "retry if idempotent; if persistent, inspect engine logs for the underlying transport "
        "error, protocol state and worker connectivity",
        "the engine could not route, remember or complete the invocation",
        "iii error codes page",
        queue=True,
    ),
    # The page says "overloaded"; by the source a full channel blocks and only a dead writer
    # fails, so this does not mean: slow down.
    Code(
        "channel_send_failed",
        T,
        NE,
        "engine",
        "usually transient: the worker will reconnect; persistent failures mean it is gone "
        "(older documentation: the worker is overloaded)",
        "the engine could not hand the call to the target's connection, which is closing",
        "iii error codes page",
        queue=True,
    ),
    # One row for two places. "Failed to serialize result" means that a built-in did run.
    Code(
        "serialization_error",
        P,
        NE,
        "engine",
        "inspect the offending field: the payload holds a value that does not round-trip through "
        "JSON; for an HTTP-invoked function inspect the payload for non-JSON-serializable values",
        "the engine could not serialise a payload or response, or the body of a request to an "
        "HTTP-invoked function",
        "iii error codes page",
    ),
    # Bare, the row follows the page: a bridge's answer. In the source it is the input of
    # any built-in function; that message ("Failed to deserialize input") makes it payload,
    # not_executed.
    Code(
        "deserialization_error",
        X,
        ME,
        "worker",
        "align engine versions: likely a version mismatch between bridged engines; from a "
        "built-in function it means the input: fix the payload's shape",
        "a bridge's response, or the input of a built-in function, could not be parsed",
        "iii error codes page",
    ),
    # Emitted by tests only; the real code is trigger_registration_failed.
    Code(
        "registration_failed",
        X,
        NE,
        "engine",
        "check the registration message against the SDK reference and the engine logs for the "
        "rejection reason",
        "a registration of a function or trigger was rejected: duplicate id, malformed format, "
        "or invalid trigger config",
        "iii error codes page",
    ),
    Code(
        "trigger_registration_failed",
        X,
        NE,
        "engine",
        "fix the trigger's config, or start the worker that provides its type",
        "the owner of the trigger type rejected the config, or the type does not exist",
        "engine/mod.rs:1519",
    ),
    Code(
        "unregister_failed",
        X,
        ME,
        "engine",
        "inspect the engine log",
        "a trigger could not be unregistered",
        "workers/engine_fn/mod.rs:2150",
    ),
    # The documents' deadline of the engine does not exist in the source: only a handler or an HTTP
    # endpoint can send this code.
    Code(
        "timeout",
        T,
        ME,
        "engine",
        "treat it as a timeout, though no SDK maps it to a timeout class: raise timeout_ms on the "
        "trigger request or invocation_timeout_ms on InitOptions, split the work, or enqueue it",
        "the invocation exceeded a deadline that was reported over the wire",
        "iii error handling guide",
        queue=True,
    ),
    # Emitted by tests only.
    Code(
        "fail",
        X,
        NE,
        "engine",
        "the handler chose to short-circuit: inspect the condition definition to confirm the "
        "intent",
        "a trigger condition evaluated to fail",
        "iii error codes page",
    ),
    # Permanent if there is no provider or definition, else transient: the row has the first
    # category (docs/engine-notes.md, 15), and an inner code may change it. The enqueue itself may
    # have been stored unless the message says otherwise, hence maybe_executed.
    Code(
        "enqueue_error",
        X,
        ME,
        "engine",
        "install the queue worker (`iii worker add queue`) and define the queue with queue::define",
        "the message could not be handed to a queue",
        "engine/mod.rs:1877",
    ),
)

ACCESS = (
    # Also the code of the RBAC proxy.
    Code(
        "FORBIDDEN",
        A,
        NE,
        "engine",
        "do not retry without changing auth or policy: inspect policy, auth context and allowed "
        "functions (rbac.expose_functions, rbac.forbidden_functions, the auth function's answer); "
        "behind an RBAC proxy inspect the proxy's policy",
        "RBAC denied the action, in the engine or in an RBAC proxy",
        "iii error handling guide",
    ),
    Code(
        "forbidden",
        A,
        NE,
        "engine",
        "do not retry without changing auth or policy: inspect policy and allowed functions",
        "a mark inside the answer of engine::functions::info, never an error's code",
        "workers/engine_fn/mod.rs:1756",
    ),
    Code(
        "not_found",
        N,
        NE,
        "engine",
        "check the function id; start the worker that owns it",
        "a mark inside the answer of engine::functions::info, never an error's code",
        "workers/engine_fn/mod.rs:1756",
    ),
    # Two places, one category and one execution: the engine and iii-compose.
    Code(
        "INVALID_NAMESPACE",
        P,
        NE,
        "engine",
        "fix the namespace: give it a name or leave it unset; in a compose project fix the "
        "project's id",
        "a namespace was present and blank, or a compose project's id cannot be a namespace",
        "protocol.rs:48; iii-compose/src/error.rs",
    ),
    Code(
        "AUTH_ERROR",
        A,
        NE,
        "engine",
        "fix the token or the auth function, then reconnect",
        "the handshake was refused; Python callers see a TIMEOUT instead",
        "workers/worker/rbac_session.rs:113",
    ),
    Code(
        "REGISTRATION_DENIED",
        A,
        NE,
        "worker",
        "allow the trigger registration in the RBAC proxy's policy",
        "the RBAC proxy denied a trigger registration",
        "rbac-proxy",
    ),
    Code(
        "MIDDLEWARE_UNAVAILABLE",
        T,
        NE,
        "worker",
        "start the RBAC proxy's middleware function",
        "the RBAC proxy could not reach its middleware",
        "rbac-proxy",
    ),
    Code(
        "MIDDLEWARE_ERROR",
        X,
        ME,
        "worker",
        "inspect the RBAC proxy's middleware function",
        "the RBAC proxy's middleware failed; it may have called the target",
        "rbac-proxy",
    ),
    # A call already in flight on that connection may have run; a later one was never sent.
    Code(
        "WORKER_NAMESPACE_CONFLICT",
        X,
        NE,
        "engine",
        "stop the other worker or rename this one; this client does not reconnect",
        "another live worker holds this worker's name in the namespace",
        "engine/mod.rs:2885",
    ),
    # No answer to a call (only the SDK's log has it), so it proves nothing about one.
    Code(
        "FUNCTION_NAMESPACE_CONFLICT",
        X,
        ME,
        "engine",
        "rename the function, or stop the worker that owns the id",
        "another live worker exports the same function id in the namespace",
        "engine/mod.rs:2137",
    ),
)

HTTP = (
    # By status where the message has one (HTTP_STATUS below); the row is the rest. The page's
    # advice names no repetition.
    Code(
        "http_error",
        X,
        EX,
        "http",
        "check the remote handler logs; verify the URL and auth config",
        "the HTTP endpoint of a function answered with a status that is not 2xx and no structured "
        "error body",
        "iii error codes page",
    ),
    Code(
        "http_request_failed",
        T,
        ME,
        "engine",
        "confirm reachability from the engine and check the URL",
        "the HTTP request itself failed: connection refused or reset, DNS error, TLS error, "
        "30 s timeout",
        "iii error codes page",
        queue=True,
    ),
    # The per-invocation timeout of the page is not a setting of the engine: its HTTP client
    # waits 30 s.
    Code(
        "http_response_failed",
        T,
        EX,
        "http",
        "retry if idempotent; let the endpoint answer within the engine's 30 s (older "
        "documentation: raise the per-invocation timeout if the remote is slow)",
        "the HTTP endpoint answered, but its response body could not be read",
        "iii error codes page",
    ),
    # The page could be read as payload; the configuration is wrong, not the call's payload.
    Code(
        "url_validation_failed",
        X,
        NE,
        "engine",
        "fix the URL in the function registration: absolute, https and on the allow-list",
        "the URL of an HTTP-invoked function is not valid or not allowed",
        "iii error codes page",
    ),
    # The page says HMAC only; by the source every HTTP invocation.
    Code(
        "timestamp_error",
        X,
        NE,
        "engine",
        "system clock issue on the engine host: confirm that its time is set",
        "the engine could not produce a signing timestamp",
        "iii error codes page",
    ),
    # The page says "declared response schema"; by the source the body is not JSON.
    Code(
        "invalid_response",
        X,
        EX,
        "http",
        "return a JSON body (older documentation: align the remote handler's output with the "
        "registered response_format)",
        "the HTTP endpoint's 2xx body is not JSON",
        "iii error codes page",
    ),
    Code(
        "missing_env_var",
        A,
        NE,
        "engine",
        "set the referenced env var before starting the engine",
        "a function's bearer, HMAC or API-key auth names an environment variable that is not set "
        "on the engine process",
        "iii error codes page",
    ),
    # Page: bearer. Source: HMAC, and at registration.
    Code(
        "secret_not_found",
        A,
        NE,
        "engine",
        "set the env var of the HMAC secret (older documentation: the bearer secret) on the engine",
        "the environment variable of an auth secret is not set on the engine",
        "iii error codes page",
    ),
    # Page: HMAC. Source: bearer, and at registration.
    Code(
        "token_not_found",
        A,
        NE,
        "engine",
        "set the env var of the bearer token (older documentation: the HMAC token) on the engine",
        "the environment variable of an auth token is not set on the engine",
        "iii error codes page",
    ),
    Code(
        "api_key_not_found",
        A,
        NE,
        "engine",
        "set the env var of the API key on the engine",
        "the environment variable of an API key is not set on the engine",
        "iii error codes page",
    ),
    # Below: JSON bodies of the HTTP worker; a caller meets them where an endpoint is itself
    # served by iii, because an endpoint's own code replaces http_error.
    Code(
        "MIDDLEWARE_TIMEOUT",
        T,
        ME,
        "http",
        "raise the middleware's timeout or make it faster",
        "HTTP 504: a middleware of the HTTP worker did not answer",
        "workers/rest_api/views.rs",
    ),
    Code(
        "CONDITION_NOT_MET",
        P,
        NE,
        "http",
        "send a request that meets the route's condition",
        "HTTP 422: the route's condition was not met and its handler was skipped",
        "workers/rest_api/views.rs",
    ),
    # Both are 500 to the client, but say what http_error with a bare 500 does not: the handler
    # raised, or its task died.
    Code(
        "HANDLER_ERROR",
        X,
        EX,
        "http",
        "inspect the handler's logs",
        "HTTP 500: the route's handler failed",
        "workers/rest_api/views.rs",
    ),
    Code(
        "INTERNAL_ERROR",
        X,
        ME,
        "http",
        "inspect the engine's log under the error id of the response",
        "HTTP 500: the HTTP worker's own task failed",
        "workers/rest_api/views.rs",
    ),
    Code(
        "PAYLOAD_TOO_LARGE",
        P,
        NE,
        "http",
        "shrink the request body, or move binary data to channels",
        "HTTP 413: the request body exceeds the HTTP worker's limit",
        "standalone http worker",
    ),
)


def _status(status: int, category: Category, execution: Execution, meaning: str) -> Code:
    slow_down = status in {429, 503}
    return Code(
        f"HTTP {status}",
        category,
        execution,
        "http",
        "slow down: the endpoint is overloaded or unavailable, and its Retry-After is not passed "
        "on; check the remote handler logs"
        if slow_down
        else "check the remote handler logs; verify the URL and auth config",
        meaning,
        "invocation/http_invoker.rs:140",
        throttled=slow_down,
        queue=slow_down,
    )


# What the status in http_error's message says. A status without a row is decided by its class:
# 5xx transient, everything else permanent, both executed.
HTTP_STATUS = {
    400: _status(400, P, EX, "the HTTP endpoint found the request malformed"),
    401: _status(401, A, ME, "the HTTP endpoint wants other credentials"),
    403: _status(403, A, ME, "the HTTP endpoint denied access"),
    404: _status(404, N, ME, "the HTTP endpoint is not at that URL"),
    408: _status(408, T, EX, "the HTTP endpoint gave up waiting for the request"),
    410: _status(410, N, EX, "the HTTP endpoint is gone for good"),
    412: _status(412, P, EX, "a precondition of the request does not hold at the HTTP endpoint"),
    413: _status(413, P, EX, "the HTTP endpoint found the payload too large"),
    415: _status(415, P, EX, "the HTTP endpoint does not take the payload's type"),
    422: _status(422, P, EX, "the HTTP endpoint could not process the payload"),
    425: _status(425, T, ME, "the HTTP endpoint would not risk a request that may be replayed"),
    429: _status(429, T, ME, "the HTTP endpoint asks to slow down"),
    501: _status(501, X, EX, "the HTTP endpoint does not know the method"),
    503: _status(503, T, ME, "the HTTP endpoint is overloaded or unavailable"),
    505: _status(505, X, EX, "the HTTP endpoint does not speak this version of HTTP"),
}
HTTP_5XX = Code(
    "HTTP 5xx",
    T,
    EX,
    "http",
    "check the remote handler logs; retry if idempotent",
    "the HTTP endpoint failed",
    "invocation/http_invoker.rs:140",
)
HTTP_OTHER = Code(
    "HTTP status",
    X,
    EX,
    "http",
    "check the remote handler logs; verify the URL and auth config",
    "the HTTP endpoint answered with another status than 2xx",
    "invocation/http_invoker.rs:140",
)


def http_status(status: int) -> Code:
    """The row for an HTTP status in the message of ``http_error``.

    Args:
        status: The status, as the engine words it after ``HTTP ``.

    Returns:
        The status's own row, else that of its class.
    """
    if (row := HTTP_STATUS.get(status)) is not None:
        return row
    return HTTP_5XX if 500 <= status <= 599 else HTTP_OTHER  # noqa: PLR2004 - the class 5xx


QUEUE = (
    # Queue worker and pub/sub worker. Only for an empty string: a missing field is a
    # deserialization_error.
    Code(
        "topic_not_set",
        P,
        NE,
        "worker",
        "provide topic in the trigger config or the call payload; for pub/sub provide topic in "
        "the call payload",
        "a queue trigger or call, or a pub/sub publish or subscribe call, had an empty topic",
        "iii error codes page",
    ),
    Code(
        "topic_required",
        P,
        NE,
        "worker",
        "pass the target topic",
        "a queue management call (stats, dead letters) had no topic",
        "iii error codes page",
    ),
    # Page: an unknown queue, so not-found. Source: only ever "Queue name is required", which the
    # message turns into payload.
    Code(
        "queue_not_set",
        N,
        NE,
        "worker",
        "verify the queue name and pass it; create the queue via the queue config if missing",
        "an admin call named no queue, or an unknown one",
        "iii error codes page",
    ),
    Code(
        "message_id_not_set",
        P,
        NE,
        "worker",
        "include the message ID",
        "a redrive or discard call had no message_id",
        "iii error codes page",
    ),
    Code(
        "redrive_failed",
        T,
        ME,
        "worker",
        "check the adapter logs (Redis, RabbitMQ, builtin); part may have been redriven",
        "the queue adapter failed to redrive a topic from its dead letters",
        "iii error codes page",
    ),
    Code(
        "redrive_message_failed",
        T,
        ME,
        "worker",
        "inspect the adapter logs",
        "the queue adapter failed to redrive one message",
        "iii error codes page",
    ),
    Code(
        "discard_message_failed",
        T,
        ME,
        "worker",
        "inspect the adapter logs",
        "the queue adapter failed to delete a dead letter",
        "iii error codes page",
    ),
    Code(
        "list_topics_failed",
        T,
        NE,
        "worker",
        "adapter or storage backend issue: check both; reading again is safe",
        "the queue adapter failed to list topics",
        "iii error codes page",
    ),
    Code(
        "topic_stats_failed",
        T,
        NE,
        "worker",
        "adapter or storage backend issue: check both; reading again is safe",
        "the queue adapter failed to read a topic's stats",
        "iii error codes page",
    ),
    Code(
        "dlq_topics_failed",
        T,
        NE,
        "worker",
        "adapter or storage backend issue: check both; reading again is safe",
        "the queue adapter failed to list topics with dead letters",
        "iii error codes page",
    ),
    Code(
        "dlq_messages_failed",
        T,
        NE,
        "worker",
        "adapter or storage backend issue: check both; reading again is safe",
        "the queue adapter failed to read a topic's dead letters",
        "iii error codes page",
    ),
)

BRIDGE = (
    Code(
        "bridge_error",
        T,
        ME,
        "worker",
        "check the remote engine's reachability and the bridge config",
        "an invocation on a remote engine failed",
        "iii error codes page",
        queue=True,
    ),
)


def _store(code: str, what: str, line: str, execution: Execution) -> Code:
    done = "could not read" if execution is NE else "may not have done"
    safe = "; reading again is safe" if execution is NE else ""
    return Code(
        code,
        T,
        execution,
        "worker",
        f"check the store behind the {what.partition(' ')[0]} worker{safe}",
        f"the store {done}: {what}",
        line,
    )


STATE = (
    Code(
        "VALUE_TOO_LARGE",
        P,
        NE,
        "worker",
        "shrink the value",
        "the value exceeds the state worker's limit",
        "workers/state/state.rs:600",
    ),
    _store("SET_ERROR", "state set", "workers/state/state.rs:635", ME),
    _store("DELETE_ERROR", "state delete", "workers/state/state.rs:689", ME),
    _store("UPDATE_ERROR", "state update", "workers/state/state.rs:729", ME),
    _store("GET_ERROR", "state get", "workers/state/state.rs:648", NE),
    _store("LIST_ERROR", "state list", "workers/state/state.rs:744", NE),
    _store("LIST_GROUPS_ERROR", "state list of groups", "workers/state/state.rs:769", NE),
    _store("LIST_KEYS_ERROR", "state list of keys", "standalone state worker", NE),
)


def _update_op(code: str, meaning: str) -> Code:
    return Code(
        code,
        P,
        NE,
        "worker",
        "fix this operation of the update",
        f"{meaning}; stands in the errors of a successful answer of an update",
        "update_ops.rs:24",
    )


UPDATE_OPS = (
    _update_op("merge.path.too_deep", "the merge path has too many segments"),
    _update_op("merge.path.segment_too_long", "a segment of the merge path is too long"),
    _update_op("merge.path.empty_segment", "a segment of the merge path is empty"),
    _update_op("merge.path.proto_polluted", "the merge path names a forbidden key"),
    _update_op("merge.value.too_deep", "the merged value is nested too deep"),
    _update_op("merge.value.too_many_keys", "the merged value has too many keys"),
    _update_op("merge.value.proto_polluted", "the merged value holds a forbidden key"),
    _update_op("merge.value.not_an_object", "the merged value is not an object"),
    _update_op("set.target_not_object", "the target of set is not an object"),
    _update_op("append.target_not_object", "the target of append is not an object"),
    _update_op("append.type_mismatch", "the appended value does not fit the target's type"),
    _update_op("increment.target_not_object", "the target of increment is not an object"),
    _update_op("increment.not_number", "the incremented value is not a number"),
    _update_op("decrement.target_not_object", "the target of decrement is not an object"),
    _update_op("decrement.not_number", "the decremented value is not a number"),
    _update_op("remove.target_not_object", "the target of remove is not an object"),
)

STREAM = (
    _store("STREAM_SET_ERROR", "stream set", "workers/stream/stream.rs:1077", ME),
    _store("STREAM_DELETE_ERROR", "stream delete", "workers/stream/stream.rs:1210", ME),
    _store("STREAM_UPDATE_ERROR", "stream update", "workers/stream/stream.rs:1469", ME),
    _store("STREAM_SEND_ERROR", "stream send", "workers/stream/stream.rs:1370", ME),
    _store("STREAM_GET_ERROR", "stream get", "workers/stream/stream.rs:1126", NE),
    _store("STREAM_GET_GROUP_ERROR", "stream get of a group", "workers/stream/stream.rs:1258", NE),
    _store(
        "STREAM_LIST_GROUPS_ERROR", "stream list of groups", "workers/stream/stream.rs:1311", NE
    ),
    _store("STREAM_LIST_ALL_ERROR", "stream list of all", "workers/stream/stream.rs:1338", NE),
    Code(
        "JSON_ERROR",
        P,
        ME,
        "worker",
        "fix the JSON",
        "a stream's value could not be written or read as JSON",
        "workers/stream/stream.rs:1016",
    ),
    Code(
        "DESERIALIZATION_ERROR",
        X,
        ME,
        "worker",
        "align engine versions",
        "the stream worker's bridge adapter got an answer it could not parse",
        "workers/stream/adapters/bridge.rs:270",
    ),
)

CONFIGURATION = (
    Code(
        "NOT_REGISTERED",
        N,
        NE,
        "worker",
        "register the configuration id with configuration::register",
        "no configuration is registered under that id",
        "workers/configuration/configuration.rs:381",
    ),
    Code(
        "INVALID_ID",
        P,
        NE,
        "worker",
        "fix the configuration id: 1 to 64 of a-z, 0-9, _ and -",
        "the configuration id is malformed",
        "workers/configuration/configuration.rs:381",
    ),
    Code(
        "SCHEMA_INVALID",
        P,
        NE,
        "worker",
        "fix the value so that it matches the configuration's schema",
        "the value does not match the configuration's schema",
        "workers/configuration/configuration.rs:381",
    ),
    Code(
        "SCHEMA_UNAVAILABLE",
        T,
        NE,
        "worker",
        "wait until the configuration's owner has registered it again",
        "the configuration's schema is not known until its owner registers again",
        "workers/configuration/configuration.rs:381",
    ),
    Code(
        "ADAPTER_ERROR",
        T,
        ME,
        "worker",
        "check the configuration worker's store",
        "the configuration worker's store failed",
        "workers/configuration/configuration.rs:381",
    ),
    Code(
        "EXPAND_FAILED",
        X,
        NE,
        "worker",
        "set the environment variable the configuration refers to",
        "a reference to an environment variable in a configuration could not be expanded",
        "workers/configuration/configuration.rs:502",
    ),
)

ENGINE_FUNCTIONS = (
    # Configuration worker, engine functions, and HTTP 404 of the HTTP worker.
    Code(
        "NOT_FOUND",
        N,
        NE,
        "engine",
        "fix the id: of the configuration for configuration::*, of the function, trigger or "
        "worker for engine::*, the path for an HTTP route",
        "no such configuration, no such function, trigger or worker in the engine, or no such "
        "HTTP route",
        "workers/configuration/configuration.rs:527; workers/engine_fn/mod.rs:670; "
        "workers/rest_api/views.rs",
    ),
    Code(
        "INVALID_ARGUMENTS",
        P,
        NE,
        "engine",
        "fix the arguments of the engine function",
        "an engine function got arguments that do not go together",
        "workers/engine_fn/mod.rs:1673",
    ),
)

OBSERVABILITY = (
    # The setting is named by the source's own text; the page's is that of older documentation.
    Code(
        "memory_exporter_not_enabled",
        X,
        NE,
        "worker",
        "set `exporter: memory` or `both` in the observability worker's config (older "
        "documentation: set otel.in_memory_exporter: true in the worker config)",
        "spans or metrics were asked for, but the in-memory exporter is not enabled",
        "iii error codes page",
    ),
    Code(
        "observability_blocking_task_failed",
        T,
        NE,
        "worker",
        "retry: reading again is safe",
        "a read of stored telemetry failed",
        "workers/observability/mod.rs:514",
    ),
    Code(
        "trace_storage_clear_failed",
        T,
        ME,
        "worker",
        "retry if idempotent",
        "stored traces could not be cleared",
        "workers/observability/mod.rs:2653",
    ),
    Code(
        "time_value_overflow",
        P,
        NE,
        "worker",
        "fix the time argument",
        "a time argument is out of range",
        "workers/observability/mod.rs:2823",
    ),
    Code(
        "INVALID_UI_ASSET",
        P,
        NE,
        "worker",
        "fix the asset's name",
        "the name of a user-interface asset is malformed",
        "workers/observability/ui.rs:59",
    ),
    Code(
        "UNKNOWN_UI_ASSET",
        N,
        NE,
        "worker",
        "fix the asset's name",
        "no such user-interface asset",
        "workers/observability/ui.rs:72",
    ),
)

ROWS = (
    *INVOCATION,
    *ACCESS,
    *HTTP,
    *QUEUE,
    *BRIDGE,
    *STATE,
    *UPDATE_OPS,
    *STREAM,
    *CONFIGURATION,
    *ENGINE_FUNCTIONS,
    *OBSERVABILITY,
)
