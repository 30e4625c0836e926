"""Judges a row by its limits, and says in one sentence what to do about it.

Knows nothing of terminals or of how a row was run.
"""

from __future__ import annotations

import attrs

from iii_resilience.cli.simulation.measurement import Row
from iii_resilience.cli.simulation.scenario import Scenario
from iii_resilience.config.explain import BUILT_IN, Value
from iii_resilience.core.guards.budget import Budget
from iii_resilience.core.policy import RetryPolicy

_USUAL = Budget()
_MUCH = 1.3  # load factor beyond which retries are what to look at first
_SLOWER = 1.5  # times the recovery without retries, beyond which they are too


@attrs.frozen
class Limits:
    """What a policy is held to.

    Attributes:
        load: Attempts a call at most, or None.
        recovery: Seconds until 90 % are answered again at most, or None.
    """

    load: float | None = None
    recovery: float | None = None

    def broken_by(self, row: Row) -> list[str]:
        """Which of them a row breaks, each as a clause."""
        broken = []
        if self.load is not None and row.load > self.load:
            broken.append(f"its load of {row.load:.2f} is above {self.load:g}")
        if self.recovery is not None and (row.recovery is None or row.recovery > self.recovery):
            broken.append(f"it is {recovered(row)}, and {self.recovery:g} s are allowed")
        return broken


def recovered(row: Row) -> str:
    """How long recovery took, in words."""
    if row.recovery is None:
        return "never answering again"
    return f"answering again after {row.recovery:g} s"


@attrs.frozen
class Subject:
    """The policy that is judged.

    Attributes:
        name: Its name.
        policy: The policy.
        values: Its values and where they stand.
    """

    name: str
    policy: RetryPolicy
    values: tuple[Value, ...]

    def where(self, path: str) -> str:
        """A value's file, line and path: ``p.yaml:9 budget.burst``.

        Args:
            path: The value's path; or that of a part, whose first value in a file stands for it.
        """
        for value in self.values:
            inside = value.path == path or value.path.startswith(f"{path}.")
            if inside and value.origin != BUILT_IN:
                return f"{value.origin} {path}"
        return f"{BUILT_IN} {path}"


def advice(subject: Subject, row: Row, without: Row, scenario: Scenario) -> str:
    """One sentence that a person can act on.

    Args:
        subject: The policy.
        row: What it did.
        without: What happens without retries.
        scenario: What happened.
    """
    slow = row.recovery is None or (
        without.recovery is not None and row.recovery > _SLOWER * max(1.0, without.recovery)
    )
    hopeless = without.recovery is None
    if row.load > _MUCH or (slow and not hopeless):
        return _culprit(subject, row, scenario)
    denied = row.given_up.get("budget_exhausted", 0)
    low = row.in_time_during is not None and row.in_time_during < _ENOUGH
    if low and row.circuits:
        opened = _share_of(row, row.given_up.get("circuit_open", 0))
        return (
            f"{subject.where('breaker')}: the circuit opens first after {row.circuits[0]:.0f} s "
            f"and rejects {opened} of the calls that fail; load and recovery are within bounds"
        )
    if low and denied and without.in_time_during is not None and _helps(row, without):
        return (
            f"{subject.where('budget.burst')}: retries help here, and the budget denies "
            f"{denied} of them: raise it if the service has capacity to spare"
        )
    retries = f"adds {100 * (row.load - 1):.0f} % load"
    usual = "" if without.recovery is None else f" ({without.recovery:g} s without retries)"
    return (
        f"{subject.where('attempts')}: nothing to change for {scenario.name}: {subject.name} "
        f"{retries}, {recovered(row)}{usual}"
    )


_ENOUGH = 0.95  # answered in time during the trouble
_HELPED = 0.05  # more answered than without retries


def _helps(row: Row, without: Row) -> bool:
    return (row.in_time_during or 0) - (without.in_time_during or 0) > _HELPED


def _share_of(row: Row, count: int) -> str:
    return f"{100 * count / max(1, sum(row.given_up.values())):.0f} %"


def _culprit(subject: Subject, row: Row, scenario: Scenario) -> str:
    """The value that adds most of the load, with what to put in its place."""
    policy, processes = subject.policy, scenario.calls.processes
    budget = policy.budget
    if budget is None:
        return (
            f"{subject.where('budget')}: nothing limits retries: {policy.attempts} attempts a call "
            f"multiply the load by {row.load:.1f} when the service needs less of it; write "
            "budget: {ratio: 0.1}"
        )
    start, end = scenario.trouble
    # What each number may add in the trouble, were every retry of no use.
    adds = {
        "budget.min_per_second": budget.min_per_second * processes * (end - start),
        "budget.burst": budget.burst * processes,
        "budget.ratio": budget.ratio * scenario.calls.rate * (end - start),
    }
    less = f"lower it, or attempts ({policy.attempts})"
    worst = max(adds, key=lambda path: adds[path])
    said = {
        "budget.min_per_second": f"may send {budget.min_per_second * processes:g} retries/s; "
        + (
            "write 0.005, which is small for a whole fleet too"
            if budget.min_per_second > _USUAL.min_per_second
            else less
        ),
        "budget.burst": f"may send {budget.burst * processes:g} retries at once; {less}",
        "budget.ratio": f"may send {budget.ratio * scenario.calls.rate:g} retries/s for "
        f"{scenario.calls.rate:g} calls/s; "
        + ("write 0.1" if budget.ratio > _USUAL.ratio else less),
    }
    several = "1 process" if processes == 1 else f"{processes} processes"
    return f"{subject.where(worst)}: {several} {said[worst]}"
