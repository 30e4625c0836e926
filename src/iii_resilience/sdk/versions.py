"""What the versions of the SDK do differently: one table, and one frozen record per version.

docs/engine-notes.md, 6 shows the table. Knows nothing of any client: what a client shows itself
(such as an existing method) is not here.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import attrs

MIB = 1 << 20
OLD_RECEIVE_LIMIT = MIB
"""Bytes; clients before 0.24.5 lose their connection to a larger message (`RECEIVES_1_MIB`)."""
UNKNOWN = (0,)
"""The version of an SDK that is not installed as a package."""

_NOTES = "docs/engine-notes.md, {}"
_SECTION = re.compile(r"docs/engine-notes\.md, (\d+)")


@attrs.frozen
class Quirk:
    """A behaviour of some versions of the SDK.

    Attributes:
        name: The behaviour.
        since: The first version that has it; None for the oldest one on.
        until: The first version that no longer has it; None where there is none so far.
        why: Why it matters: what this library does because of it.
        observed: Where it was observed.
        remedy: What a user does about it, for ``iii-resilience doctor``; None for nothing.
        assumed: Whether an unknown version is taken to have it. To be wrong with it costs less
            than to be wrong without it.
    """

    name: str
    since: tuple[int, ...] | None
    until: tuple[int, ...] | None
    why: str
    observed: str = _NOTES.format(6)
    remedy: str | None = None
    assumed: bool = False

    def applies(self, number: tuple[int, ...]) -> bool:
        """Whether a version has it.

        Args:
            number: ``(0, 24, 6)``, or `UNKNOWN`.
        """
        if number == UNKNOWN:
            return self.assumed
        begun = self.since is None or number >= self.since
        return begun and (self.until is None or number < self.until)


_WATCHED = "call through resilient(), and watch health().zombie"

CANCELLED_CALL = Quirk(
    "the late answer to a cancelled `trigger_async` kills the client",
    None,
    (0, 24, 4),
    "a call that is given up is left to end by itself",
    remedy=_WATCHED,
    assumed=True,
)
CLEAN_CLOSE = Quirk(
    'a close with code 1000 or 1001 leaves the client "connected" and dead',
    None,
    (0, 24, 4),
    "the socket is polled; after 1 s of it no call waits for a connection",
    remedy=_WATCHED,
    assumed=True,
)
NO_METADATA = Quirk(
    "`metadata` does not reach the handler",
    None,
    (0, 21, 3),
    "no deadline, attempt or key travels with a call",
    remedy="put the idempotency key into the payload",
)
NO_NAMESPACE = Quirk(
    "`namespace` is dropped; the call runs in the default one",
    None,
    (0, 23, 0),
    "a call with another namespace is rejected",
    _NOTES.format(1),
)
OWN_NAMESPACE_OF_CONFIGURATION = Quirk(
    "a client with a namespace looks for `configuration::*` in it, where they are not",
    (0, 23, 0),
    (0, 24, 5),
    "the library's own calls name the default namespace",
    _NOTES.format(6),
)
SPACED_JSON = Quirk(
    "messages are written as `json.dumps` writes by default",
    None,
    (0, 25, 0),
    "their size is measured so; later versions write compact UTF-8",
    "tests/client/test_request.py",
    assumed=True,
)
CUT_ABOVE_16_MIB = Quirk(
    "messages of any size are sent; the engine cuts the connection above 16 MiB",
    None,
    (0, 24, 5),
    "larger payloads are rejected",
    _NOTES.format(2),
    assumed=True,
)
REJECTED_ABOVE_16_MIB = Quirk(
    "`payload_too_large` above 16 MiB",
    (0, 24, 5),
    (0, 25, 0),
    "larger payloads are rejected before",
    _NOTES.format(2),
)
RECEIVES_1_MIB = Quirk(
    "a message above 1 MiB cuts the connection of its receiver",
    None,
    (0, 24, 5),
    "such a call is not retried; results can be limited",
    _NOTES.format(2),
    "pass max_result_bytes=1048576 to resilient() in every worker they call",
    assumed=True,
)

QUIRKS: tuple[Quirk, ...] = (
    Quirk(
        "wire errors are a plain `Exception` whose text is the `repr` of a dict; timeouts are the "
        "built-in `TimeoutError`",
        (0, 3, 0),
        (0, 11, 3),
        "their text is parsed",
        remedy="classify() reads their text",
    ),
    Quirk(
        "`IIIInvocationError` with `code`",
        (0, 11, 3),
        (0, 20, 0),
        "errors are classified by `code`, not by class",
    ),
    Quirk(
        "its subclasses `IIIForbiddenError` and `IIITimeoutError`",
        (0, 11, 3),
        (0, 19, 0),
        "the same",
    ),
    Quirk("`InvocationError`", (0, 20, 0), None, "the same"),
    Quirk(
        "`RegistrationRejectedError` for a worker name that is taken",
        (0, 23, 0),
        None,
        "raised instead of waiting; nothing is sent",
    ),
    Quirk(
        'a worker name that is taken looks like a connection: state "connected", every call '
        "`TIMEOUT`",
        None,
        (0, 23, 0),
        "it cannot be seen from the client",
        _NOTES.format(3),
        "give every worker a name of its own (III_WORKER_NAME)",
    ),
    Quirk("`trigger_async`", (0, 10, 0), None, "all calls go through it"),
    Quirk(
        "`trigger_async` on a foreign event loop raises `ValueError` after it has sent the call",
        (0, 10, 0),
        (0, 25, 0),
        "calls are handed to the SDK's own loop",
    ),
    Quirk(
        "`call` and `call_async` in place of `trigger` and `trigger_async`",
        (0, 26, 0),
        None,
        "a client is called by the names it has",
        "announced for 0.26, not observed",
    ),
    CANCELLED_CALL,
    CLEAN_CLOSE,
    Quirk(
        "a frame that is not a JSON object kills the client",
        None,
        (0, 24, 4),
        "`health().zombie` reports that nothing reads from the connection",
        remedy=_WATCHED,
    ),
    Quirk(
        "a payload that JSON cannot hold, sent while disconnected, kills the client after the "
        "reconnect",
        None,
        (0, 24, 4),
        "payloads are checked, and nothing is sent while disconnected",
    ),
    NO_METADATA,
    Quirk(
        "no `add_connection_state_listener`, and no `reattach`",
        None,
        (0, 21, 8),
        "the connection is polled every 20 ms",
        remedy="call through resilient(), which polls the connection every 20 ms",
    ),
    NO_NAMESPACE,
    OWN_NAMESPACE_OF_CONFIGURATION,
    Quirk(
        "a clean close does not reach the state listener",
        (0, 21, 8),
        (0, 24, 4),
        "the connection is polled as well",
    ),
    CUT_ABOVE_16_MIB,
    REJECTED_ABOVE_16_MIB,
    Quirk(
        "`payload_too_large` above 64 MiB",
        (0, 25, 0),
        None,
        "larger payloads are rejected before",
        _NOTES.format(2),
    ),
    RECEIVES_1_MIB,
    SPACED_JSON,
    Quirk(
        "`III_TOKEN` is sent as a bearer token",
        (0, 24, 6),
        None,
        "`iii-resilience doctor` does the same",
    ),
    Quirk(
        "`SystemExit` in a handler ends the worker's event loop, and its socket stays open",
        None,
        (0, 25, 0),
        "hardened handlers turn it into an error of the call",
        _NOTES.format(1),
        "register handlers through resilient()",
    ),
    Quirk(
        'a call to a function of the same worker runs in the process ("local dispatch")',
        (0, 25, 0),
        None,
        "it waits for no connection, and its payload is not checked",
    ),
    Quirk(
        "`register_trigger` warns that it is deprecated",
        (0, 25, 0),
        None,
        "the user's call warns at the user's line; the library's own use of it is silent",
    ),
    Quirk(
        "a call does not end when the connection is lost",
        None,
        None,
        "the library ends it",
        _NOTES.format(4),
    ),
    Quirk(
        "a call made while disconnected is sent after the reconnect",
        None,
        None,
        "no call is handed to a disconnected SDK",
        _NOTES.format(5),
    ),
    Quirk(
        "a call or a second `shutdown()` after `shutdown()` hangs",
        (0, 9, 0),
        None,
        "the call is rejected; the second `shutdown()` returns",
        _NOTES.format(5),
    ),
    Quirk(
        "`timeout_ms` does not bound the send",
        (0, 9, 0),
        None,
        "the library ends a call 0.25 s after its timeout",
    ),
)
"""Every version-specific behaviour that this library relies on or works around."""


def quirks_table() -> str:
    """The rows as a Markdown table, as docs/engine-notes.md, 6 shows it."""
    lines = [
        "| Behaviour | since | gone in | What this library does | Observed |",
        "|---|---|---|---|---|",
    ]
    for quirk in QUIRKS:
        section = _SECTION.fullmatch(quirk.observed)
        seen = quirk.observed if section is None else f"section {section[1]}"
        since, until = (_dotted(number) for number in (quirk.since, quirk.until))
        lines.append(f"| {quirk.name} | {since} | {until} | {quirk.why} | {seen} |")
    return "\n".join(lines)


def _dotted(number: tuple[int, ...] | None) -> str:
    return "-" if number is None else ".".join(map(str, number))


@attrs.frozen
class Sdk:
    """One version of the SDK.

    Attributes:
        version: ``(0, 25, 0)``; `UNKNOWN` where there is none to be found.
        cancels_safely: Whether a call may be cancelled inside the SDK (`CANCELLED_CALL`).
        survives_clean_close: Whether it reconnects after the engine closed with 1000 or 1001
            (`CLEAN_CLOSE`).
        sends_metadata: Whether ``metadata`` reaches the handler (`NO_METADATA`).
        sends_namespace: Whether ``namespace`` is sent (`NO_NAMESPACE`).
        compact: Whether messages are written as compact UTF-8 (`SPACED_JSON`).
        send_limit: Largest message that can be sent, in bytes (`CUT_ABOVE_16_MIB`,
            `REJECTED_ABOVE_16_MIB`).
        receive_limit: Largest message it can receive, in bytes (`RECEIVES_1_MIB`).
    """

    version: tuple[int, ...]
    cancels_safely: bool
    survives_clean_close: bool
    sends_metadata: bool
    sends_namespace: bool
    compact: bool
    send_limit: int
    receive_limit: int

    @property
    def name(self) -> str:
        """``iii-sdk 0.25.0``."""
        if self.version == UNKNOWN:
            return "iii-sdk (unknown version)"
        return f"iii-sdk {_dotted(self.version)}"

    def has(self, quirk: Quirk) -> bool:
        """Whether this version has a quirk."""
        return quirk.applies(self.version)


def sdk_of(number: tuple[int, ...]) -> Sdk:
    """What a version does.

    Args:
        number: ``(0, 24, 6)``. Of an unknown one nothing is assumed that could do damage.
    """
    at_most_16 = CUT_ABOVE_16_MIB.applies(number) or REJECTED_ABOVE_16_MIB.applies(number)
    return Sdk(
        number,
        cancels_safely=not CANCELLED_CALL.applies(number),
        survives_clean_close=not CLEAN_CLOSE.applies(number),
        sends_metadata=not NO_METADATA.applies(number),
        sends_namespace=not NO_NAMESPACE.applies(number),
        compact=not SPACED_JSON.applies(number),
        send_limit=(16 if at_most_16 else 64) * MIB,
        receive_limit=OLD_RECEIVE_LIMIT if RECEIVES_1_MIB.applies(number) else 64 * MIB,
    )


@cache
def installed() -> Sdk:
    """The SDK that is installed."""
    try:
        return sdk_of(tuple(int(part) for part in version("iii-sdk").split(".")[:3]))
    except (PackageNotFoundError, ValueError):
        return sdk_of(UNKNOWN)
