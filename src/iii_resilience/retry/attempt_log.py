"""The failed attempts of one call, and the permit of the retry under way.

Knows nothing of decisions or of how an attempt is made.
"""

from __future__ import annotations

from types import TracebackType

import attrs

from iii_resilience.core import system_clock as clock
from iii_resilience.core.codes.model import Execution, strongest
from iii_resilience.core.guards.budget import BudgetWindow
from iii_resilience.core.report import Attempt, execution_of


@attrs.define
class FailedAttempt:
    """One failed attempt and the exception it raised, with the traceback of the user's code."""

    attempt: Attempt
    error: Exception = attrs.field(repr=False)
    traceback: TracebackType | None


@attrs.define
class AttemptLog:
    """The attempts of one call, and the permit of the retry under way.

    Attributes:
        started: Monotonic time of the last attempt's start, in seconds.
        window: The budget's count, or None where the policy has no budget.
        failed: The failed attempts, in order.
        execution: The strongest over them: whether the function may have run.
        stops: How many of them ended in ``invocation_stopped``.
        delay: Seconds waited before the attempt under way.
        sent: Whether it left this process.
        permit: Whether it holds a permit of the budget that is not spent yet.
    """

    started: float
    window: BudgetWindow | None
    failed: list[FailedAttempt] = attrs.field(factory=list)
    execution: Execution = Execution.NOT_EXECUTED
    stops: int = 0
    delay: float = 0.0
    sent: bool = True
    permit: bool = False

    def add(self, failed: FailedAttempt) -> None:
        """One more attempt has failed."""
        self.execution = strongest(self.execution, execution_of(failed.attempt))
        self.failed.append(failed)

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
            if failed.attempt.sent:
                return failed
        return self.failed[-1]
