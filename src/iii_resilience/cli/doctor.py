"""``iii-resilience doctor``: what works between this machine, an engine and a function.

Knows nothing of how it is printed. What an SDK version cannot do is from the SDK matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from iii_resilience.cli.engine_probe import (
    EngineProbe,
    NoListener,
    Refused,
    Unanswered,
    Unreachable,
)
from iii_resilience.config.book import PolicyBook
from iii_resilience.sdk.engine_api import FUNCTIONS_INFO
from iii_resilience.sdk.versions import UNKNOWN, Sdk, installed

_MIB = 1 << 20
_PROVIDER = "engine::queue::enqueue"


@attrs.frozen
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What was looked at.
        told: How it is.
        advice: What to do about it; None where nothing need be done.
        bad: Whether it stops something from working.
    """

    subject: str
    told: str
    advice: str | None = None
    bad: bool = False


def examine(
    url: str,
    function_id: str | None = None,
    *,
    worker: str | None = None,
    namespace: str | None = None,
    book: PolicyBook | None = None,
    timeout: float = 5.0,
) -> list[Finding]:
    """Look at everything.

    Args:
        url: The engine's address.
        function_id: A function that should be there, or None.
        worker: The worker that should own it, or None for any.
        namespace: Where it is looked for; None for the engine's default.
        book: Policies whose limits are shown beside the SDK's; None for the default policy.
        timeout: How long to wait for each answer, in seconds.
    """
    findings = list(_engine(url, function_id, worker, namespace, timeout))
    sdk = installed()
    findings.extend(_sdk(sdk))
    findings.extend(_limits(sdk, book or PolicyBook()))
    return findings


def _engine(
    url: str, function_id: str | None, worker: str | None, namespace: str | None, timeout: float
) -> Iterator[Finding]:
    try:
        with EngineProbe(url, timeout) as visit:
            yield Finding("engine", f"answers at {url}")
            yield Finding("access", "this machine's worker is let in")
            yield from _questions(visit, function_id, worker, namespace)
    except NoListener as finding:
        yield Finding(
            "engine",
            f"{url} answers with {finding}",
            f"Correct the address: {url} is no listener for workers. It may be the port of the "
            "HTTP routes (3111 where it is not configured otherwise); workers connect to the port "
            "of the iii-worker-manager.",
            bad=True,
        )
    except Unreachable as finding:
        yield Finding(
            "engine",
            f"cannot be reached at {url}: {finding}",
            f"Start the engine, or correct the address: nothing answers at {url}.",
            bad=True,
        )
    except Refused as finding:
        yield Finding(
            "access",
            f"refused ({finding})",
            "Fix this worker's access: the engine at that address refuses the connection; check "
            "III_TOKEN and the listener's rbac.auth_function_id.",
            bad=True,
        )


def _questions(
    visit: EngineProbe, function_id: str | None, worker: str | None, namespace: str | None
) -> Iterator[Finding]:
    asked = [_PROVIDER] if function_id is None else [_PROVIDER, function_id]
    try:
        owners = visit.owners(asked, namespace)
    except Unanswered as finding:
        yield _not_answered(finding.code)
        return
    yield Finding("is it registered?", f"{FUNCTIONS_INFO} answers: calls wait for their function")
    yield Finding("kept registrations", "possible: keep_registered=True works here")
    queue = owners.get(_PROVIDER)
    if namespace is not None and queue is None:
        try:
            queue = visit.owners([_PROVIDER], None).get(_PROVIDER)
        except Unanswered:
            queue = None
    yield (
        Finding(
            "queue",
            f"no queue worker provides {_PROVIDER}",
            "Install the queue worker if you want calls handed to a queue (fallback=Enqueue).",
        )
        if queue is None
        else Finding("queue", "provided: fallback=Enqueue works, and waits for its function")
    )
    if function_id is not None:
        yield _function(function_id, owners.get(function_id), worker)


def _not_answered(code: str) -> Finding:
    told = (
        f"{FUNCTIONS_INFO} is not answered ({code}): calls cannot wait, nothing is kept registered"
    )
    if code == "FORBIDDEN":
        return Finding(
            "is it registered?",
            told,
            f"Let workers ask whether a function is registered: add {FUNCTIONS_INFO} to "
            "rbac.expose_functions.",
            bad=True,
        )
    if code == "TIMEOUT":
        return Finding(
            "is it registered?",
            told,
            "Look at the engine: it takes connections and answers nothing.",
            bad=True,
        )
    return Finding(
        "is it registered?",
        told,
        f"Use a newer engine: this one does not answer {FUNCTIONS_INFO} for several ids.",
        bad=True,
    )


def _function(function_id: str, owner: str | None, worker: str | None) -> Finding:
    if owner is None:
        return Finding(
            "function",
            f"{function_id} is not registered",
            f"Start a worker that registers {function_id}, and keep it registered: "
            "resilient(worker, keep_registered=True).",
            bad=True,
        )
    if not owner:
        return Finding(
            "function",
            f"{function_id} is registered and hidden from this worker: calls are FORBIDDEN",
            f"Add {function_id} to rbac.expose_functions.",
            bad=True,
        )
    if worker is not None and owner != worker:
        return Finding(
            "function",
            f"{function_id} is owned by worker {owner}, not by {worker}",
            f"Stop worker {owner}, or let {worker} stand by for it (keep_registered=True on both): "
            "an id has one owner at a time.",
            bad=True,
        )
    return Finding("function", f"{function_id} is owned by worker {owner}")


# Fixed in, what an older one does, what to do while it is in use.
_CANNOT: tuple[tuple[tuple[int, ...], str, str], ...] = (
    ((0, 11, 3), "errors carry no code", "classify() reads their text"),
    (
        (0, 21, 3),
        "no metadata travels: no deadlines, attempts or keys reach a handler",
        "put the idempotency key into the payload",
    ),
    (
        (0, 21, 8),
        "no connection listener: a lost connection is noticed by looking",
        "call through resilient(), which looks every 20 ms",
    ),
    (
        (0, 23, 0),
        "namespaces are ignored, and a refused worker name looks like a connection",
        "give every worker a name of its own (III_WORKER_NAME)",
    ),
    (
        (0, 24, 4),
        "a clean close by the engine, a cancelled call or a bad frame kills the client for good",
        "call through resilient(), and watch health().zombie",
    ),
    (
        (0, 24, 5),
        "messages above 1 MiB cut the connection",
        "pass max_result_bytes=1048576 to resilient() in every worker they call",
    ),
    (
        (0, 25, 0),
        "SystemExit in a handler ends the worker's loop",
        "register handlers through resilient()",
    ),
)


def _sdk(sdk: Sdk) -> Iterator[Finding]:
    if sdk.version == UNKNOWN:
        yield Finding("SDK", "iii-sdk is not installed here", "pip install iii-sdk")
        return
    lacking = [(cannot, advice) for since, cannot, advice in _CANNOT if sdk.version < since]
    yield Finding("SDK", sdk.name, "Upgrade iii-sdk to 0.25.0 or later." if lacking else None)
    for cannot, advice in lacking:
        yield Finding("SDK lacks", cannot, f"Until then: {advice}.")


def _limits(sdk: Sdk, book: PolicyBook) -> Iterator[Finding]:
    if sdk.version == UNKNOWN:
        return
    send = sdk.send_limit
    yield Finding("receives", f"messages of up to {sdk.receive_limit // _MIB} MiB")
    yield Finding(
        "sends",
        f"messages of up to {send // _MIB} MiB"
        + ("" if sdk.version >= (0, 24, 5) else " (beyond that the engine cuts the connection)"),
    )
    for name, policy in sorted(book.policies.items()):
        limit = policy.max_payload_bytes
        if limit is None:
            yield Finding(f"policy {name}", "max_payload_bytes: what the SDK sends")
        elif limit > send:
            yield Finding(
                f"policy {name}",
                f"max_payload_bytes {limit}: more than the SDK sends",
                f"Lower it to {send}: larger payloads fail in the SDK, not in the check.",
            )
        else:
            yield Finding(f"policy {name}", f"max_payload_bytes {limit}")
