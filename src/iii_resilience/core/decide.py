"""Decides about one failed attempt: retry after a delay, or give up for a reason.

A pure function: no I/O, clock, randomness or state. Knows nothing of exceptions, of tenacity, or of
what carries the decision out. Taking a permit from the budget is a side effect, so the caller does
that after the decision.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import attrs

from iii_resilience.core.codes.model import Category
from iii_resilience.core.failure import Failure
from iii_resilience.core.policy import RetryPolicy

# Rule 1: whatever a policy, a file or a table says, these two are never retried.
NEVER_RETRIED = frozenset({"FORBIDDEN", "function_not_found"})


class Reason(StrEnum):
    """Why a decision was made. All but ``retried`` end the call."""

    RETRIED = "retried"
    EXHAUSTED = "exhausted"
    DEADLINE = "deadline"
    BUDGET_EXHAUSTED = "budget_exhausted"
    NOT_RETRYABLE = "not_retryable"
    NOT_IDEMPOTENT = "not_idempotent"
    ALREADY_RETRIED = "already_retried"
    CIRCUIT_OPEN = "circuit_open"
    BULKHEAD_FULL = "bulkhead_full"
    PUSHBACK = "pushback"
    STOPPED = "stopped"
    NOT_READY = "not_ready"
    HANDED_OFF = "handed_off"


_GUARDED = {
    "CIRCUIT_OPEN": Reason.CIRCUIT_OPEN,
    "BULKHEAD_FULL": Reason.BULKHEAD_FULL,
    "DEADLINE_PASSED": Reason.DEADLINE,
}


@attrs.frozen(slots=False)  # as `Failure`: made once an attempt
class Decision:
    """What to do about a failed attempt.

    Attributes:
        reason: Why.
        delay: Seconds to wait before the retry, or None to give up.
    """

    reason: Reason
    delay: float | None = None

    @property
    def retry(self) -> bool:
        """Whether the call goes on."""
        return self.delay is not None


NOT_RETRYABLE = Decision(Reason.NOT_RETRYABLE)
"""What is decided about every failure that is not transient, unless a retry was asked for."""


@attrs.frozen(slots=False)  # as `Failure`: made once an attempt
class CallSoFar:
    """What a decision needs to know of the call.

    Attributes:
        attempts: Attempts made, the failed one included.
        idempotent: Whether the user declared the call idempotent.
        deadline_at: Monotonic time of the deadline in seconds, or None.
        unexecuted: Whether each failure so far proves that the function did not run.
        stops: Attempts so far that ended in ``invocation_stopped``.
        previous_delay: Seconds waited before the failed attempt, or None.
        asked: Whether the user's own code requested the retry (``tenacity.TryAgain``).
        already_retried: Whether an inner retry has already given this failure up.
        swallowed: Whether the attempt caught a cancellation that was meant to end it, and failed.
    """

    attempts: int
    idempotent: bool
    deadline_at: float | None = None
    unexecuted: bool = False
    stops: int = 0
    previous_delay: float | None = None
    asked: bool = False
    already_retried: bool = False
    swallowed: bool = False


def decide(  # noqa: C901 - one rule after the other, in the order in which they count
    failure: Failure,
    policy: RetryPolicy,
    call: CallSoFar,
    *,
    now: float,
    random: Callable[[], float],
    user_delay: float | None = None,
    user_stop: bool = False,
) -> Decision:
    """Decide about one failed attempt.

    Args:
        failure: The attempt's classified error.
        policy: The policy the call started with.
        call: The call so far.
        now: Monotonic time in seconds.
        random: Returns a number in [0, 1).
        user_delay: The delay of the policy's own ``wait`` in seconds, if it has one.
        user_stop: The verdict of the policy's own ``stop``.

    Returns:
        A retry with its delay, or a reason to give up.
    """
    # Never retry an attempt that swallowed a cancellation.
    may_help = failure.category is Category.TRANSIENT and not call.swallowed
    never = failure.code in NEVER_RETRIED if failure.inner is None else never_retried(failure)
    if never or not (call.asked or may_help):
        return NOT_RETRYABLE
    if call.already_retried and not call.asked:
        return Decision(Reason.ALREADY_RETRIED)
    if failure.system == "local" and failure.code in _GUARDED:
        # Our own guards rejected the attempt: an immediate retry is what they are there to prevent.
        return Decision(_GUARDED[failure.code])
    may_repeat = call.idempotent or (policy.retry_unexecuted and call.unexecuted)
    if not (call.asked or may_repeat):
        return Decision(Reason.NOT_IDEMPOTENT)
    if call.stops >= policy.max_stops:
        return Decision(Reason.STOPPED)
    if call.attempts >= policy.attempts or user_stop:
        return Decision(Reason.EXHAUSTED)

    delay = user_delay
    if delay is None:
        delay = policy.backoff.delay(
            call.attempts - 1,
            random,
            throttled=failure.throttled,
            previous=call.previous_delay,
        )
    pushback = failure.retry_after
    if pushback is not None:
        if pushback > policy.backoff.cap:
            return Decision(Reason.PUSHBACK)
        delay = max(delay, pushback)
    if call.deadline_at is not None and now + delay >= call.deadline_at:
        # Waiting would end past the deadline, so it does not begin.
        past = pushback is not None and now + pushback >= call.deadline_at
        return Decision(Reason.PUSHBACK if past else Reason.DEADLINE)
    return Decision(Reason.RETRIED, max(delay, 0.0))


def never_retried(failure: Failure) -> bool:
    """Whether the failure, or a cause inside it, is FORBIDDEN or function_not_found."""
    cause: Failure | None = failure
    while cause is not None:
        if cause.code in NEVER_RETRIED:
            return True
        cause = cause.inner
    return False
