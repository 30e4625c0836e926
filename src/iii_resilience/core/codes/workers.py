"""Codes of the official workers: sandbox, worker manager, shell, coder, database, storage, router.

Most arrive inside the message of ``invocation_failed`` (`classifiers.message_cause` finds them).
The execution of a row concerns the worker's own operation. The sources name files of the workers'
repositories; docs/engine-notes.md, 15 has the rule for their categories. Knows nothing of messages.
"""

from __future__ import annotations

from iii_resilience.core.codes.model import Category, Code, Execution
from iii_resilience.core.codes.shorthand import EX, ME, NE, A, N, P, T, X


def _row(
    source: str,
    code: str,
    category: Category,
    execution: Execution,
    meaning: str,
    remedy: str,
    *,
    throttled: bool = False,
) -> Code:
    return Code(code, category, execution, "worker", remedy, meaning, source, throttled=throttled)


_SANDBOX = "iii-worker/src/sandbox_daemon/errors.rs"
# The shell worker's file functions send S210 to S219 as wire codes of their own.
_SHELL = f"{_SANDBOX}; shell/src/fs/error.rs"

SANDBOX = (
    _row(_SANDBOX, "S001", P, NE, "invalid request to the sandbox", "fix the payload"),
    _row(_SANDBOX, "S002", N, NE, "sandbox not found", "create the sandbox first"),
    _row(
        _SANDBOX,
        "S003",
        T,
        NE,
        "the sandbox runs as many commands at once as it may",
        "wait until a running command has ended, then retry",
        throttled=True,
    ),
    _row(_SANDBOX, "S004", N, NE, "the sandbox has already stopped", "create a new sandbox"),
    _row(
        _SANDBOX,
        "S100",
        X,
        NE,
        "the image is not in the catalog",
        "use 'python' or 'node', or add a custom image in the worker's config",
    ),
    _row(
        _SANDBOX,
        "S101",
        X,
        NE,
        "the image's root file system is missing on disk",
        "install it with `iii worker add <image-ref>`",
    ),
    _row(_SANDBOX, "S102", T, NE, "automatic installation of the image failed", "retry"),
    # The payload says retryable: false, so only an idempotent command may run again.
    _row(
        _SANDBOX,
        "S200",
        T,
        EX,
        "the command ran into its timeout",
        "raise the timeout; repeat the command only if it is idempotent",
    ),
    _row(_SHELL, "S210", P, NE, "invalid file request (sandbox, shell)", "fix the request"),
    _row(
        _SHELL,
        "S211",
        N,
        NE,
        "file or parent directory not found (sandbox, shell)",
        "fix the path, or ask for its parents to be made where the error's fix says so",
    ),
    _row(_SHELL, "S212", P, NE, "wrong file type (sandbox, shell)", "fix the path"),
    _row(_SHELL, "S213", X, NE, "already exists (sandbox, shell)", "use another path"),
    _row(
        _SHELL, "S214", X, NE, "directory not empty (sandbox, shell)", "empty the directory first"
    ),
    _row(_SHELL, "S215", A, NE, "permission denied (sandbox, shell)", "fix the file's permissions"),
    _row(
        _SHELL,
        "S216",
        T,
        ME,
        "input/output error (sandbox, shell)",
        "retry if idempotent; check the disk",
    ),
    _row(_SHELL, "S217", P, NE, "invalid regular expression (sandbox, shell)", "fix the pattern"),
    _row(
        _SHELL,
        "S218",
        T,
        ME,
        "the file channel was aborted (sandbox, shell)",
        "retry if idempotent",
    ),
    _row(
        _SHELL,
        "S219",
        X,
        NE,
        "file operation not supported by this supervisor (sandbox, shell)",
        "upgrade iii-worker",
    ),
    _row(
        _SANDBOX,
        "S300",
        T,
        ME,
        "the virtual machine failed to boot, or its shell became unreachable",
        "check the host's virtualisation support",
    ),
    _row(
        _SANDBOX,
        "S400",
        T,
        NE,
        "too many sandboxes at once",
        "raise the limit (max_concurrent_sandboxes) or wait until a sandbox has ended",
        throttled=True,
    ),
)

_MANAGER = "iii-worker/src/core/error.rs"

WORKER_MANAGER = (
    _row(_MANAGER, "W100", P, NE, "invalid worker name", "fix the worker's name"),
    _row(_MANAGER, "W101", P, NE, "invalid worker source", "fix the worker's source"),
    _row(
        _MANAGER,
        "W102",
        P,
        NE,
        "a local path is not allowed over the wire",
        "name a package instead of a path",
    ),
    _row(_MANAGER, "W103", P, NE, "the operation has no target", "name the worker"),
    _row(
        _MANAGER,
        "W104",
        A,
        NE,
        "the operation wants consent",
        "confirm the operation with yes: true",
    ),
    _row(_MANAGER, "W105", P, NE, "malformed request", "fix the payload"),
    _row(_MANAGER, "W110", N, NE, "worker not found", "check the worker's name"),
    _row(_MANAGER, "W111", X, NE, "worker exists already", "use the one there or another name"),
    _row(_MANAGER, "W112", N, NE, "worker not installed", "install the worker"),
    _row(_MANAGER, "W113", N, NE, "worker not running", "start the worker"),
    _row(_MANAGER, "W114", X, NE, "worker runs already", "use the running worker"),
    _row(
        _MANAGER,
        "W120",
        T,
        NE,
        "another worker operation holds the project's lock",
        "wait until that operation has ended, then retry; do not end the process that holds it",
        throttled=True,
    ),
    _row(_MANAGER, "W121", T, ME, "the lock file could not be used", "check the disk"),
    _row(_MANAGER, "W130", X, ME, "the config could not be read or written", "check the file"),
    _row(_MANAGER, "W131", X, ME, "the config could not be parsed", "fix the config file"),
    _row(_MANAGER, "W140", T, ME, "registry error", "check that the registry is reachable"),
    _row(_MANAGER, "W141", T, ME, "an image could not be pulled", "check the image registry"),
    _row(_MANAGER, "W142", T, ME, "a download failed", "check the network"),
    _row(_MANAGER, "W150", X, ME, "lock file mismatch", "update the lock file"),
    # Permanent or transient: the row has the first (docs/engine-notes.md, 15).
    _row(_MANAGER, "W160", X, ME, "the worker could not be spawned", "inspect the worker's log"),
    _row(_MANAGER, "W161", T, ME, "the worker did not start in time", "inspect its log"),
    _row(_MANAGER, "W162", T, ME, "the worker did not stop in time", "inspect its log"),
    _row(_MANAGER, "W170", T, ME, "the operation was cancelled", "retry if idempotent"),
    _row(_MANAGER, "W180", X, NE, "bundle manifest rejected", "fix the bundle's manifest"),
    _row(_MANAGER, "W181", X, NE, "unsafe entry in a bundle", "rebuild the bundle"),
    _row(_MANAGER, "W182", X, NE, "a bundle's resources were clamped", "lower what it asks for"),
    _row(_MANAGER, "W183", X, NE, "too many dependencies in a bundle", "reduce them"),
    _row(_MANAGER, "W184", X, NE, "invalid dependency graph", "fix the dependencies"),
    _row(_MANAGER, "W900", X, ME, "internal error", "inspect the worker manager's log"),
)

_CODER = "shell/src/code/error.rs"

# The codes mirror the S2xx scheme of the shell's file functions, as the source says. The earlier
# coder worker said C213 for what is C218 now, and C217 for what is C213 (coder/src/error.rs).
CODER = (
    _row(_CODER, "C210", P, NE, "malformed input to coder", "fix the input"),
    _row(
        _CODER,
        "C211",
        N,
        NE,
        "path not found or not accessible (one code for both)",
        "verify the path",
    ),
    _row(
        _CODER,
        "C213",
        X,
        NE,
        "the file exists already; in the earlier coder worker, it exceeds a size limit",
        "overwrite it or use another path; in the earlier coder worker, read or write less",
    ),
    _row(_CODER, "C215", A, NE, "the path leaves every allowed root", "use a path inside a root"),
    _row(_CODER, "C216", T, ME, "input/output error", "retry if idempotent; check the disk"),
    _row("coder/src/error.rs", "C217", X, NE, "the file exists already", "use another path"),
    _row(_CODER, "C218", P, NE, "the file exceeds a size limit", "read or write less at once"),
    _row(
        _CODER,
        "C220",
        A,
        NE,
        "the path lies outside the session's directory",
        "use a path inside the session's directory",
    ),
)

_DATABASE = "iii-database/src/error.rs"

DATABASE = (
    _row(
        _DATABASE,
        "POOL_TIMEOUT",
        T,
        NE,
        "no database connection became free in time",
        "slow down, raise pool.max or shorten the longest query",
        throttled=True,
    ),
    _row(
        _DATABASE,
        "QUERY_TIMEOUT",
        T,
        ME,
        "the query ran into its timeout",
        "raise the query's timeout, or make it faster",
    ),
    # "permanent, or transient by SQLSTATE": the first stands for the bare code.
    _row(
        _DATABASE,
        "DRIVER_ERROR",
        X,
        ME,
        "the database driver reported an error",
        "look at inner_code, the database's own code",
    ),
    _row(
        _DATABASE,
        "STATEMENT_NOT_FOUND",
        N,
        NE,
        "the prepared statement's handle is unknown or has expired",
        "prepare the statement again",
    ),
    _row(
        _DATABASE,
        "TRANSACTION_NOT_FOUND",
        N,
        NE,
        "the transaction is unknown or has expired",
        "begin a new transaction",
    ),
    _row(_DATABASE, "UNKNOWN_DB", N, NE, "no such database", "check the database's name"),
    _row(_DATABASE, "MISSING_DB", N, NE, "no database was named", "name the database"),
    _row(_DATABASE, "INVALID_PARAM", P, NE, "invalid query parameter", "fix the parameter"),
    _row(
        _DATABASE,
        "REPLICATION_SLOT_EXISTS",
        X,
        NE,
        "the replication slot is in use",
        "use another slot",
    ),
    # The database and the storage worker.
    _row(
        f"{_DATABASE}; storage",
        "CONFIG_ERROR",
        X,
        NE,
        "the database or storage worker's config is wrong",
        "fix the config of the database worker for database::*, of the storage worker for "
        "storage::*",
    ),
)

_STORAGE = "storage"

STORAGE = (
    _row(_STORAGE, "UNKNOWN_BUCKET", N, NE, "no such bucket", "check the bucket's name"),
    _row(_STORAGE, "OBJECT_NOT_FOUND", N, NE, "no such object", "check the object's key"),
    _row(_STORAGE, "BODY_TOO_LARGE", P, NE, "the body is too large", "shrink it or presign"),
    _row(_STORAGE, "OBJECT_TOO_LARGE", P, NE, "the object is too large", "shrink it or presign"),
    _row(_STORAGE, "INVALID_BASE64", P, NE, "the body is not base64", "fix the body's encoding"),
    _row(_STORAGE, "INVALID_PRESIGN_PARAMS", P, NE, "invalid presign request", "fix its params"),
    _row(
        _STORAGE,
        "PRESIGN_UNSUPPORTED",
        X,
        NE,
        "the backend cannot presign",
        "send the body with the call, or use another backend",
    ),
    _row(
        _STORAGE,
        "LOCAL_BACKEND_BIN_NOT_FOUND",
        X,
        NE,
        "the local backend's program is missing",
        "install the local backend",
    ),
    _row(
        _STORAGE,
        "LOCAL_BACKEND_BOOT_FAILED",
        X,
        NE,
        "the local backend did not start",
        "inspect the storage worker's log",
    ),
    _row(
        _STORAGE,
        "LOCAL_BACKEND_DOWN",
        T,
        ME,
        "the local backend is down",
        "wait until the storage worker has restarted it",
    ),
    _row(
        _STORAGE,
        "PROVIDER_ERROR",
        T,
        ME,
        "the storage provider reported an error",
        "look at inner_code, the provider's own code",
    ),
    _row(
        _STORAGE,
        "PROVIDER_AUTH_FAILED",
        A,
        NE,
        "the storage provider refused the credentials",
        "fix the provider's credentials",
    ),
    _row(
        _STORAGE,
        "CF_QUEUE_AUTH_FAILED",
        A,
        NE,
        "the provider's queue refused the credentials",
        "fix the queue's credentials",
    ),
    _row(
        _STORAGE,
        "TRIGGER_DISPATCH_TIMEOUT",
        T,
        ME,
        "a storage trigger's function did not answer in time",
        "make the trigger's function faster",
    ),
)

_ROUTER = "llm-router"

# Without a known execution, payload and not-found failures are checks before the provider is
# called; the others prove nothing (docs/engine-notes.md, 15).
ROUTER = (
    _row(_ROUTER, "router/invalid_request", P, NE, "invalid request", "fix the request"),
    _row(_ROUTER, "router/unknown_provider", N, NE, "no such provider", "check its name"),
    _row(
        _ROUTER,
        "router/no_provider_for_model",
        N,
        NE,
        "no provider offers the model",
        "check the model's name, or configure a provider for it",
    ),
    _row(
        _ROUTER,
        "router/ambiguous_model",
        P,
        NE,
        "several providers offer the model",
        "name the provider",
    ),
    _row(
        _ROUTER,
        "router/provider_unavailable",
        T,
        ME,
        "the provider is not available",
        "wait, or name another provider",
    ),
    _row(_ROUTER, "router/not_configured", X, ME, "the router is not configured", "configure it"),
    _row(
        _ROUTER,
        "router/structured_output_unsupported",
        X,
        ME,
        "the model gives no structured output",
        "choose another model",
    ),
    _row(
        _ROUTER,
        "router/registration_rejected",
        X,
        ME,
        "the provider's registration was rejected",
        "fix the provider's registration",
    ),
    # Kinds of error in the frames of a stream, not codes of an error body.
    _row(_ROUTER, "auth_expired", A, ME, "the provider's credentials expired", "renew them"),
    _row(
        _ROUTER,
        "rate_limited",
        T,
        ME,
        "the provider limits the rate; it says no delay",
        "slow down",
        throttled=True,
    ),
    _row(_ROUTER, "context_overflow", P, ME, "the model's context is full", "shorten the input"),
    _row(_ROUTER, "transient", T, ME, "the provider failed for a moment", "retry if idempotent"),
    _row(_ROUTER, "permanent", X, ME, "the provider failed for good", "inspect the message"),
)

_GATE = "approval-gate"

APPROVAL = (
    _row(_GATE, "approval/invalid_payload", P, NE, "invalid payload", "fix the payload"),
    _row(
        _GATE,
        "approval/state_unavailable",
        T,
        ME,
        "the gate's state is not available",
        "check the state worker",
    ),
    _row(
        _GATE,
        "approval/harness_unavailable",
        T,
        ME,
        "the gate's harness is not available",
        "check the harness worker",
    ),
)

ROWS = (
    *SANDBOX,
    *WORKER_MANAGER,
    *CODER,
    *DATABASE,
    *STORAGE,
    *ROUTER,
    *APPROVAL,
)
