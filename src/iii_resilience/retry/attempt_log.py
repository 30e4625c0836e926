"""The failed attempts of one call, and the permit of the retry under way.

Knows nothing of decisions or of how an attempt is made.
"""

from __future__ import annotations

from types import TracebackType

import attrs

from iii_resilience.core import system_clock as clock
from iii_resilience.core.codes.model import Execution
from iii_resilience.core.failure import Failure
from iii_resilience.core.guards.budget import BudgetWindow
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
    """The attempts of one call, and the permit of the retry under way.

    Args:
        begun: Monotonic time of the call's start, in seconds.
        window: The budget's count, or None where the policy has no budget.

    Attributes:
        started: Monotonic time of the last attempt's start, in seconds.
        failed: The failed attempts, in order.
        stops: How many of them ended in ``invocation_stopped``.
        delay: Seconds waited before the attempt under way.
        sent: Whether it left this process.
        permit: Whether it holds a permit of the budget that is not spent yet.
    """

    # Most calls fail once: what they do not change is not written for them.
    stops = 0
    delay = 0.0
    sent = True
    permit = False

    def __init__(self, begun: float, window: BudgetWindow | None) -> None:
        self.begun = begun
        self.started = begun
        self.window = window
        self.failed: list[FailedAttempt] = []

    @property
    def execution(self) -> Execution:
        """The strongest over the attempts: whether the function may have run."""
        return execution_over(failed.failure for failed in self.failed)

    def spend_permit(self) -> None:
        """The retry is sent: its permit is spent."""
        if self.permit and self.window is not None:
            self.permit = False
            self.window.spend(clock.monotonic())

    def return_permit(self) -> None:
        """The retry was not sent: its permit is given back."""
        if self.permit and self.window is not None:
            self.permit = False
            self.window.release()

    def shown(self) -> FailedAttempt:
        """The attempt whose exception the caller sees: the last one that was sent, or the last."""
        for failed in reversed(self.failed):
            if failed.sent:
                return failed
        return self.failed[-1]
