"""Codes of iii-compose (``compose::*``), which are wire codes of their own.

The strings are those of ``iii-compose/src/error.rs`` and ``hooks.rs``; docs/engine-notes.md, 15 has
the rule for their categories. Without a known execution, a rejected file or name counts as a check
before the work, and the rest proves nothing. Knows nothing of messages.
"""

from __future__ import annotations

from iii_resilience.core.codes.model import Category, Code
from iii_resilience.core.codes.shorthand import ME, NE, N, P, T, X

_SOURCE = "iii-compose/src/error.rs"


def _row(code: str, category: Category, meaning: str, remedy: str, source: str = _SOURCE) -> Code:
    execution = NE if category in {N, P} else ME
    return Code(code, category, execution, "worker", remedy, meaning, source)


# INVALID_NAMESPACE is in `codes.engine_codes`: one code, one row.
ROWS = (
    _row("REGISTRY_UNREACHABLE", T, "the registry cannot be reached", "check the registry"),
    _row("PACKAGE_DOWNLOAD_FAILED", T, "a package could not be downloaded", "check the network"),
    _row("ENGINE_CALL_FAILED", T, "a call to the engine failed", "inspect the engine log"),
    _row("STARTUP_TIMEOUT", T, "a container was not ready in time", "inspect its log"),
    _row(
        "CONFIG_FETCH_FAILED",
        T,
        "a configuration could not be resolved",
        "check the configuration worker",
    ),
    _row(
        "CONFIG_PUBLISH_FAILED",
        T,
        "a resolved configuration could not be stored",
        "check the configuration worker",
    ),
    _row("PACKAGE_NOT_RESOLVED", N, "no version fits the range", "fix the version range"),
    _row("PACKAGE_NOT_INSTALLED", N, "the package is not installed", "install the package"),
    _row("UNKNOWN_CONTAINER", N, "no such container in the project", "check its name"),
    _row(
        "UNKNOWN_PROJECT",
        N,
        "no such project",
        "check the id; name the compose file on the first call",
    ),
    _row("NO_COMPOSE_FILE", N, "no compose file was named or found", "name the compose file"),
    _row("MISSING_WORKER_DIRECTORY", N, "a worker's directory is missing", "fix its path"),
    _row("MISSING_ENV_FILE", N, "an env_file is missing", "fix its path"),
    _row("INVALID_COMPOSE_FILE", P, "the compose file is not valid", "fix the compose file"),
    _row("EMPTY_CONTAINERS", P, "no container is declared", "declare at least one worker"),
    _row("UNKNOWN_DEPENDENCY", P, "a dependency is not declared", "declare or remove it"),
    _row("SELF_DEPENDENCY", P, "a container depends on itself", "remove the dependency"),
    _row("DEPENDENCY_CYCLE", P, "dependencies form a cycle", "break the cycle"),
    _row(
        "UNSUPPORTED_WORKER_SOURCE",
        P,
        "the worker's source is not supported",
        "use path:// or package://",
    ),
    _row(
        "RUN_NOT_ALLOWED_FOR_PACKAGE",
        P,
        "run is given for a package",
        "remove run, or use a path:// worker",
    ),
    _row(
        "PRE_RUN_TIMEOUT_WITHOUT_PRE_RUN",
        P,
        "pre_run_timeout is given without pre_run",
        "add pre_run or remove its timeout",
    ),
    _row("INVALID_DURATION", P, "a duration is malformed", "write 30s, 500ms or 2m"),
    _row("MISSING_VERSION_FOR_PACKAGE", P, "a package has no version", "give the version"),
    _row("MISSING_START_COMMAND", P, "there is no start command", "add run or scripts.start"),
    _row("INVALID_MANIFEST", P, "a worker's manifest is not valid", "fix iii.worker.yaml"),
    _row("INVALID_WORKER_SPEC", P, "worker= names nothing installable", "fix the worker spec"),
    _row("UNDEFINED_VARIABLE", P, "a variable is not set", "set it or give it a default"),
    _row("UNTERMINATED_REFERENCE", P, "a ${ reference is never closed", "close the reference"),
    _row("INVALID_REFERENCE", P, "a ${} reference names no variable", "fix the reference"),
    _row("RESERVED_ENV_OVERRIDE", P, "a reserved variable is set", "remove the variable"),
    _row("IO_ERROR", X, "a file could not be read or written", "check the path"),
    _row("REGISTRY_NAME_REFUSED", X, "the registry answered with an unusable name", "report it"),
    _row("UNSUPPORTED_PACKAGE_KIND", X, "this kind of worker is not installable", "use another"),
    _row("BUNDLE_NEEDS_A_VM", X, "bundles need a virtual machine", "use a binary build"),
    _row("PROJECT_DID_NOT_START", X, "the project did not start", "inspect the containers"),
    _row(
        "WORKER_SOURCE_CHANGED",
        X,
        "the container is declared with another kind of source",
        "remove the entry first, or use another name",
    ),
    _row("NOT_A_PACKAGE_CONTAINER", X, "only a package can be updated", "edit the compose file"),
    _row("UNSUPPORTED_PLATFORM", X, "no build for this platform", "use a platform it ships for"),
    _row("PACKAGE_DIGEST_MISMATCH", X, "a download does not match its digest", "report it"),
    _row("PACKAGE_ARTIFACT_EMPTY", X, "a package holds no executable", "report it"),
    _row(
        "FUNCTIONS_IN_WRONG_NAMESPACE",
        X,
        "functions were filed in another namespace",
        "restart the container",
    ),
    _row("WORKER_IGNORED_NAMESPACE", X, "a worker ignores III_NAMESPACE", "upgrade its SDK"),
    _row(
        "WORKER_NAME_MISMATCH",
        X,
        "a worker registered under a name of its own",
        "give the container that name",
    ),
    _row(
        "CHILD_EXITED_BEFORE_REGISTRATION",
        X,
        "a container ended before it registered",
        "inspect its log",
    ),
    _row("SPAWN_FAILED", X, "a container could not start", "check its start command"),
    _row("HOOK_SPAWN_FAILED", X, "a hook could not start", "fix the hook", "hooks.rs:51"),
    _row("HOOK_FAILED", X, "a hook failed", "fix the hook", "hooks.rs:52"),
    _row("HOOK_TIMEOUT", X, "a hook ran into its timeout", "fix the hook", "hooks.rs:53"),
    _row(
        "CONTAINER_NAME_TAKEN",
        X,
        "another worker has the container's name",
        "stop the other worker",
    ),
    _row("INVALID_STATE_FILE", X, "the daemon's state is not valid", "inspect the state file"),
    _row("COMPOSE_FILE_UNREADABLE", X, "the compose file is not there", "give an absolute path"),
    _row("DAEMON_ALREADY_SERVING", X, "another compose daemon serves the engine", "use that one"),
    _row("STATE_DIR_UNAVAILABLE", X, "there is no place for the daemon's state", "set a home"),
    _row(
        "WRONG_DAEMON",
        X,
        "the project belongs to another daemon",
        "query that daemon",
        source="iii-compose/src/remote.rs:116",
    ),
)
