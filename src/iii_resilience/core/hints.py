"""Hints: what to do about a failure that is not retried.

The table is written out in docs/hints.md. Knows nothing of how hints reach the caller, and does
nothing of what they advise.
"""

from __future__ import annotations

import contextvars
import re

import attrs

from iii_resilience.core.backoff import Backoff
from iii_resilience.core.codes.model import Category
from iii_resilience.core.context_scope import ContextScope
from iii_resilience.core.decide import Reason
from iii_resilience.core.failure import Failure

ACTIONS = ("enqueue", "dead-letter", "discover", "fix-payload", "fix-access", "wait", "investigate")


@attrs.frozen
class Hint:
    """What to do about a failure that was given up.

    Attributes:
        action: ``enqueue``, ``dead-letter``, ``discover``, ``fix-payload``, ``fix-access``,
            ``wait`` or ``investigate``.
        reason: Why the call was given up.
        remedy: What the code's table advises, in one clause.
        queue: The queue the policy names, for ``enqueue``; else None.
        seconds: How long to wait, for ``wait``: the time the other side asked for; without one,
            the default backoff's first delay for throttled calls.
            None for every other action.
    """

    action: str
    reason: Reason
    remedy: str
    queue: str | None = None
    seconds: float | None = None


# For a failure without a time: a guess, but one that stands in the library only once.
_A_WHILE = Backoff().slow_base

_consuming: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "iii_resilience_consuming", default=False
)


def consuming() -> ContextScope[bool]:
    """While a queue consumer handles a message: what is permanent there belongs with the dead.

    The queue would deliver it again and again whatever it fails with (docs/engine-notes.md, 9).
    """
    return ContextScope(_consuming, True)


in_consumer = _consuming.get
"""Whether the code running now is inside a `consuming` block."""


_BY_CATEGORY = {
    Category.AUTH: "fix-access",
    Category.NOT_FOUND: "discover",
    Category.PAYLOAD: "fix-payload",
    Category.PERMANENT: "investigate",
}


def hint(
    failure: Failure, reason: Reason, *, queue: str | None = None, consumer: bool | None = None
) -> Hint:
    """The hint for a failure that was given up.

    Args:
        failure: The failure the caller sees.
        reason: Why it was given up.
        queue: The queue of the policy's fallback, if it names one.
        consumer: Whether it was given up inside a `consuming` block; None for this moment.

    Returns:
        Exactly one action: the category decides for everything that is not transient; for
        transient failures, what the other side asked for comes before what the caller could do.
    """
    action = _action(failure, reason, consumer=in_consumer() if consumer is None else consumer)
    return Hint(
        action,
        reason,
        failure.remedy + (elsewhere(failure) if action == "discover" else ""),
        queue=queue if action == "enqueue" else None,
        seconds=_seconds(failure) if action == "wait" else None,
    )


# The engine's own words for a function that is registered in other namespaces only.
_NAMESPACES = re.compile(r"It is registered in namespace\(s\): ([\w.:/, -]{1,512}?)\.?$")


def elsewhere(failure: Failure) -> str:
    """The namespaces that ``function_not_found`` names, as a clause; identifiers, no payload.

    Args:
        failure: The failure; its causes are looked at too.
    """
    cause: Failure | None = failure
    while cause is not None:
        if cause.code == "function_not_found":
            found = _NAMESPACES.search(cause.message[-1024:])
            return f"; it is registered in namespace(s): {found[1]}" if found else ""
        cause = cause.inner
    return ""


def _seconds(failure: Failure) -> float:
    return _A_WHILE if failure.retry_after is None else failure.retry_after


def _action(failure: Failure, reason: Reason, *, consumer: bool) -> str:
    if reason is Reason.STOPPED:
        return "dead-letter"
    if failure.category is Category.PERMANENT and consumer:
        return "dead-letter"
    if failure.category is not Category.TRANSIENT:
        return _BY_CATEGORY[failure.category]
    if (
        failure.code == "NOT_CONNECTED"
        and failure.inner
        and failure.inner.category is Category.AUTH
    ):
        return "fix-access"  # the engine takes this worker's connections and closes them at once
    if reason in {Reason.PUSHBACK, Reason.CIRCUIT_OPEN, Reason.BULKHEAD_FULL}:
        return "wait"
    if failure.throttled or failure.retry_after is not None:
        return "wait"
    if reason is Reason.EXHAUSTED and failure.code == "channel_send_failed":
        return "wait"
    if reason is Reason.EXHAUSTED and failure.code == "invocation_error":
        return "investigate"
    return "enqueue"
