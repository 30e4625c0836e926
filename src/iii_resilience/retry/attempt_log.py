"""The failed attempts of one call, and the permits of its retries.

Knows nothing of decisions or of how an attempt is made.
"""

from __future__ import annotations

from types import TracebackType

import attrs

from iii_resilience.core.codes.model import Execution, strongest
from iii_resilience.core.guards.budget import PermitBucket
from iii_resilience.core.report import Attempt, execution_of


@attrs.define
class FailedAttempt:
    """One failed attempt and the exception it raised, with the traceback of the user's code."""

    attempt: Attempt
    error: Exception = attrs.field(repr=False)
    traceback: TracebackType | None


@attrs.define
class AttemptLog:
    """The attempts of one call, and the permits of its retries.

    Attributes:
        started: Monotonic time of the last attempt's start, in seconds.
        bucket: Where the permits come from; None where retries need none.
        failed: The failed attempts, in order.
        execution: The strongest over them: whether the function may have run.
        stops: How many of them ended in ``invocation_stopped``.
        delay: Seconds waited before the attempt under way.
        sent: Whether it left this process.
        permit: Whether it holds a permit of the budget.
        spent: Permits of retries that were sent and failed.
    """

    started: float
    bucket: PermitBucket | None
    failed: list[FailedAttempt] = attrs.field(factory=list)
    execution: Execution = Execution.NOT_EXECUTED
    stops: int = 0
    delay: float = 0.0
    sent: bool = True
    permit: bool = False
    spent: int = 0

    def add(self, failed: FailedAttempt) -> None:
        """One more attempt has failed."""
        self.execution = strongest(self.execution, execution_of(failed.attempt))
        self.failed.append(failed)

    def reserve_permit(self, now: float) -> bool:
        """Whether the next attempt may be sent; its permit is reserved before its delay.

        Args:
            now: Monotonic time in seconds.
        """
        bucket = self.bucket
        if bucket is None:
            return True
        self.permit = bucket.reserve(now)
        self.sent = False  # the attempt that holds it
        return self.permit or (len(self.failed) == 1 and bucket.was_in_flight(self.started))

    def settle_permit(self, *, sent: bool) -> None:
        """The attempt that holds a permit has failed, or will not be made.

        Args:
            sent: Whether it was sent. If not, its permit is given back.
        """
        if self.permit and self.bucket is not None:
            self.permit = False
            if sent:
                self.spent += 1
            else:
                self.bucket.release()

    def succeeded(self) -> int:
        """The call has succeeded: the permits of its retries are given back.

        Returns:
            How many.
        """
        permits = self._take_spent(sent=True)
        if self.bucket is not None:
            self.bucket.succeeded(permits)
        return permits

    def gave_up(self, now: float, *, retryable: bool) -> int:
        """The call has failed: the permits of its retries are lost.

        Args:
            now: Monotonic time in seconds.
            retryable: Whether another call might have succeeded.

        Returns:
            How many.
        """
        permits = self._take_spent(sent=False)
        if self.bucket is not None:
            if retryable and any(failed.attempt.sent for failed in self.failed):
                self.bucket.gave_up(now, permits)
            elif permits:
                self.bucket.abandoned(permits)
        return permits

    def interrupted(self) -> int:
        """The call was cancelled: what was sent is lost, and what was not is given back.

        Returns:
            The permits that are lost.
        """
        permits = self._take_spent(sent=self.sent)
        if permits and self.bucket is not None:
            self.bucket.abandoned(permits)
        return permits

    def _take_spent(self, *, sent: bool) -> int:
        self.settle_permit(sent=sent)
        permits, self.spent = self.spent, 0
        return permits

    def shown(self) -> FailedAttempt:
        """The attempt whose exception the caller sees: the last one that was sent, or the last."""
        for failed in reversed(self.failed):
            if failed.attempt.sent:
                return failed
        return self.failed[-1]
