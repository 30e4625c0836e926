"""Explains a pasted error: what it means, and what the default policy would do about it.

Takes text and returns an `Explanation`. Knows nothing of terminals.
"""

from __future__ import annotations

from difflib import get_close_matches

import attrs

from iii_resilience.cli.pasted_error import error_in
from iii_resilience.config.default_book import default_book
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.lookup import ALL, find, user_codes
from iii_resilience.core.codes.model import Code, Execution
from iii_resilience.core.decide import CallSoFar, Decision, decide
from iii_resilience.core.failure import LIBRARY, Failure
from iii_resilience.core.hints import elsewhere, hint
from iii_resilience.core.policy import RetryPolicy


@attrs.frozen
class RetryOutlook:
    """What a policy would do about the first failure of a call.

    Attributes:
        idempotent: Whether the call is declared idempotent.
        decision: What would be decided.
        action: The hint's action where it is given up, else None.
        most: Largest delay before the first retry in seconds, or None.
        attempts: Attempts in all.
    """

    idempotent: bool
    decision: Decision
    action: str | None
    most: float | None
    attempts: int


@attrs.frozen
class Explanation:
    """What is known of a pasted error.

    Attributes:
        failure: The classified error.
        why: Sentences that say how it was recognised.
        outlooks: Without and with idempotency.
        nearest: Known codes that are spelt alike, where the code itself is unknown.
    """

    failure: Failure
    why: tuple[str, ...]
    outlooks: tuple[RetryOutlook, RetryOutlook]
    nearest: tuple[str, ...]


def explain(text: str, function_id: str | None = None) -> Explanation:
    """Explain a code, an error body, a response, a printed exception, a traceback or a log.

    Args:
        text: What was pasted (see `pasted_error`).
        function_id: The function that was called, where it is known.

    Raises:
        ValueError: There is nothing to explain: no text, JSON without an error, or a successful
            response.
    """
    error = error_in(text)
    failure = error if isinstance(error, Failure) else classify(error, function_id=function_id)
    known = [row.code for row in (*ALL, *user_codes())]
    return Explanation(
        failure,
        tuple(_why(failure)),
        (_outlook(failure, idempotent=False), _outlook(failure, idempotent=True)),
        () if failure.known else tuple(_nearest(failure.code, known)),
    )


def _nearest(code: str, known: list[str]) -> list[str]:
    """Codes spelt alike, whatever their case: the commonest mistake is the case."""
    folded: dict[str, list[str]] = {}
    for one in known:
        folded.setdefault(one.lower(), []).append(one)
    near = get_close_matches(code.lower(), folded, n=3, cutoff=0.6)
    return [one for match in near for one in folded[match]]


def _why(failure: Failure) -> list[str]:
    row = find(failure.code)
    lines = []
    if failure.origin == LIBRARY:
        lines.append(f"{failure.code}: what a library raised in the function's own code")
    elif row is None or not failure.known:
        lines.append(
            f"{failure.code} stands in no table; what is unknown is permanent and may have run"
        )
    else:
        lines.append(f"{failure.code}: {row.meaning}")
        if row.category is not failure.category:
            lines.append(f"its table says {row.category}, its message says {failure.category}")
        if row.execution is not failure.execution:
            lines.append(_execution(row, failure))
    inner = failure.inner
    while inner is not None:
        about = find(inner.code)
        meaning = f": {about.meaning}" if about is not None else ""
        lines.append(f"inside: {inner.code} ({inner.category}){meaning}")
        inner = inner.inner
    if place := elsewhere(failure):
        lines.append(place.removeprefix("; "))
    if failure.throttled:
        lines.append("it asks to slow down, so delays start from throttled_base")
    if failure.retry_after is not None:
        lines.append(f"it asks to wait {failure.retry_after:g} s")
    return lines


def _execution(row: Code, failure: Failure) -> str:
    if row.execution is Execution.NOT_EXECUTED:
        return (
            f"its table says {row.execution}, but the message does not prove that of the function "
            f"that was called: {failure.execution}"
        )
    return f"its table says {row.execution}, its message says {failure.execution}"


def _outlook(failure: Failure, *, idempotent: bool) -> RetryOutlook:
    policies = default_book().policy_set
    policy: RetryPolicy = policies.policy(policies.default)
    call = CallSoFar(
        attempts=1,
        idempotent=idempotent,
        deadline_at=policy.deadline,
        unexecuted=failure.proves_unexecuted,
        already_retried=failure.already_retried,
    )
    # The largest delay the schedule allows: what is shown must hold for every call.
    decision = decide(failure, policy, call, now=0.0, random=lambda: 1.0)
    return RetryOutlook(
        idempotent,
        decision,
        None if decision.retry else hint(failure, decision.reason).action,
        decision.delay,
        policy.attempts,
    )
