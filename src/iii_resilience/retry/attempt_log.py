"""The failed attempts of one call, and the permits of its retries.

Knows nothing of decisions or of how an attempt is made.
"""

from __future__ import annotations

from types import TracebackType

import attrs

from iii_resilience.core.codes.model import Execution
from iii_resilience.core.failure import Failure
from iii_resilience.core.guards.budget import PermitBucket
from iii_resilience.core.report import Attempt, execution_over


@attrs.define
class FailedAttempt:
    """One failed attempt and the exception it raised, with the traceback of the user's code.

    See `core.report.Attempt` for what the first five are.
    """

    number: int
    failure: Failure
    delay: float
    duration: float
    sent: bool
    error: Exception = attrs.field(repr=False)
    traceback: TracebackType | None

    @property
    def attempt(self) -> Attempt:
        """The attempt as reports show it."""
        return Attempt(self.number, self.failure, self.delay, self.duration, self.sent)


class AttemptLog:
    """The attempts of one call, and the permits of its retries.

    Args:
        begun: Monotonic time of the call's start, in seconds.
        bucket: Where the permits come from; None where retries need none.

    Attributes:
        started: Monotonic time of the last attempt's start, in seconds.
        failed: The failed attempts, in order.
        stops: How many of them ended in ``invocation_stopped``.
        delay: Seconds waited before the attempt under way.
        sent: Whether it left this process.
        permit: Whether it holds a permit of the budget.
        spent: Permits of retries that were sent and failed.
    """

    # Most calls fail once: what they do not change is not written for them.
    stops = 0
    delay = 0.0
    sent = True
    permit = False
    spent = 0

    def __init__(self, begun: float, bucket: PermitBucket | None) -> None:
        self.begun = begun
        self.started = begun
        self.bucket = bucket
        self.failed: list[FailedAttempt] = []

    @property
    def execution(self) -> Execution:
        """The strongest over the attempts: whether the function may have run."""
        return execution_over(failed.failure for failed in self.failed)

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
        return self.permit or bucket.was_in_flight(self.started)

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

    def succeeded(self, now: float) -> int:
        """The call has succeeded: the permits of its retries are given back.

        Args:
            now: Monotonic time in seconds.

        Returns:
            How many.
        """
        if self.bucket is None:
            return 0
        permits = self.spent + self.permit  # as `_take_spent`: the permit under way was sent
        self.spent, self.permit = 0, False
        self.bucket.succeeded(now, permits)
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
            if retryable and any(failed.sent for failed in self.failed):
                self.bucket.gave_up(now, permits)
            else:
                self.bucket.abandoned(permits)
        return permits

    def interrupted(self) -> int:
        """The call was cancelled: what was sent is lost, and what was not is given back.

        Returns:
            The permits that are lost.
        """
        permits = self._take_spent(sent=self.sent)
        if self.bucket is not None:
            self.bucket.abandoned(permits)
        return permits

    def _take_spent(self, *, sent: bool) -> int:
        self.settle_permit(sent=sent)
        permits, self.spent = self.spent, 0
        return permits

    def shown(self) -> FailedAttempt:
        """The attempt whose exception the caller sees: the last one that was sent, or the last."""
        for failed in reversed(self.failed):
            if failed.sent:
                return failed
        return self.failed[-1]
