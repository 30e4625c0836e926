"""The checks of ``iii-resilience doctor``, from this machine to an engine and a function.

What an SDK version cannot do is in docs/engine-notes.md, 6. Knows nothing of how results are
printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import attrs

from iii_resilience.cli.engine_probe import (
    EngineProbe,
    Frozen,
    NoListener,
    Refused,
    Unanswered,
    Unreachable,
)
from iii_resilience.cli.terminal_text import address
from iii_resilience.config.book import PolicyBook
from iii_resilience.sdk.engine_api import FUNCTIONS_INFO, FunctionStatus
from iii_resilience.sdk.versions import CUT_ABOVE_16_MIB, MIB, QUIRKS, UNKNOWN, Sdk, installed

_PROVIDER = "engine::queue::enqueue"


@attrs.frozen
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What was looked at.
        told: The result of the check.
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
    shown = address(url)
    try:
        with EngineProbe(url, timeout) as visit:
            yield Finding("engine", f"answers at {shown}")
            yield Finding("access", "this machine's worker is let in")
            yield from _questions(visit, function_id, worker, namespace)
    except NoListener as finding:
        yield Finding(
            "engine",
            f"{shown} answers with {finding}",
            f"Correct the address: {shown} is not a listener for workers. It may be the port of "
            "the HTTP routes (3111 where it is not configured otherwise); workers connect to the "
            "port of the iii-worker-manager.",
            bad=True,
        )
    except Frozen as finding:
        yield Finding(
            "engine",
            f"takes connections at {shown} and does not answer them: {finding}",
            f"Look at the process that listens at {shown}: it is frozen (stopped, suspended, or "
            "out of memory), or it is not an engine. Let it go on, or start the engine again.",
            bad=True,
        )
    except Unreachable as finding:
        yield Finding(
            "engine",
            f"cannot be reached at {shown}: {finding}",
            f"Start the engine, or correct the address: nothing answers at {shown}.",
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
        owners = visit.functions_info(asked, namespace)
    except Unanswered as finding:
        yield _not_answered(finding.code)
        return
    yield Finding("is it registered?", f"{FUNCTIONS_INFO} answers: calls wait for their function")
    yield Finding("kept registrations", "possible: keep_registered=True works here")
    missing = FunctionStatus(there=False)
    queue = owners.get(_PROVIDER, missing)
    if namespace is not None and not queue.there:
        with suppress(Unanswered):
            queue = visit.functions_info([_PROVIDER], None).get(_PROVIDER, missing)
    yield (
        Finding(
            "queue",
            f"no queue worker provides {_PROVIDER}",
            "Install the queue worker if you want calls handed to a queue (fallback=Enqueue).",
        )
        if not queue.there
        else Finding("queue", "provided: fallback=Enqueue works, and waits for its function")
    )
    if function_id is not None:
        yield _function(function_id, owners.get(function_id, missing), worker, namespace)


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


def _function(
    function_id: str, status: FunctionStatus, worker: str | None, namespace: str | None
) -> Finding:
    if not status.there:
        where = "" if namespace is None else f" in namespace {namespace}"
        return Finding(
            "function",
            f"{function_id} is not registered{where}",
            f"Start a worker that registers {function_id}, and keep it registered: "
            "resilient(worker, keep_registered=True).",
            bad=True,
        )
    if status.forbidden:
        return Finding(
            "function",
            f"{function_id} is registered and hidden from this worker: calls are FORBIDDEN",
            f"Add {function_id} to rbac.expose_functions.",
            bad=True,
        )
    owner = status.owner
    if worker is not None and owner != worker:
        return Finding(
            "function",
            f"{function_id} is owned by worker {owner}, not by {worker}",
            f"Stop worker {owner}, or let {worker} stand by for it (keep_registered=True on both): "
            "an id has one owner at a time.",
            bad=True,
        )
    return Finding("function", f"{function_id} is owned by worker {owner}")


def _sdk(sdk: Sdk) -> Iterator[Finding]:
    if sdk.version == UNKNOWN:
        yield Finding("SDK", "iii-sdk is not installed here", "pip install iii-sdk")
        return
    lacking: dict[str, list[str]] = {}  # what, by the advice about it
    for quirk in QUIRKS:
        if quirk.remedy is not None and sdk.has(quirk):
            lacking.setdefault(quirk.remedy, []).append(quirk.name.replace("`", ""))
    yield Finding("SDK", sdk.name, "Upgrade iii-sdk to 0.25.0 or later." if lacking else None)
    for advice, cannot in lacking.items():
        yield Finding("SDK lacks", "; ".join(cannot), f"Until then: {advice}.")


def _limits(sdk: Sdk, book: PolicyBook) -> Iterator[Finding]:
    if sdk.version == UNKNOWN:
        return
    send = sdk.send_limit
    yield Finding("receives", f"messages of up to {sdk.receive_limit // MIB} MiB")
    yield Finding(
        "sends",
        f"messages of up to {send // MIB} MiB"
        + (" (beyond that the engine cuts the connection)" if sdk.has(CUT_ABOVE_16_MIB) else ""),
    )
    for name, policy in sorted(book.policy_set.policies.items()):
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
