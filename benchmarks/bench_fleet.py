"""What the retries of a fleet add to an outage, and what budgets cost when failures are random.

    python benchmarks/bench_fleet.py [--quick] [--write FILE] [--plot FILE] [NAME ...]

The callers are the library's own code in virtual time; the service and the other budgets are
models. Each part goes between two marks of the file. A bound that is missed does not fail the run:
it is said where it stands.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import math
import os
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import bench_limit
import budget_rules
import fleet_live
from table import Bound, Section, write_part

from iii_resilience import Budget, RetryPolicy, iii_retry
from iii_resilience.cli.simulation.measurement import Row
from iii_resilience.cli.simulation.plots import draw
from iii_resilience.cli.simulation.row_run import RowSetting, run_row
from iii_resilience.cli.simulation.scenario import FUNCTION, Calls, Incident, Scenario, Service
from iii_resilience.config.policy_set import PolicySet
from iii_resilience.core.guards.scopes import forget_all
from iii_resilience.testing.virtual_time import run_in_virtual_time

_PATIENCE = 60  # seconds: every call has ended by then
_SHORT, _LONG = 120.0, 300.0  # seconds that a fleet is watched
_SOME, _MANY = 40, 1000  # processes
OURS = "this budget"
WITHOUT = "no retries"
UNLIMITED = "no budget"
WINDOW = "the window of 0.1"
QUOTA = "AWS' quota"
TOKENS = "gRPC's tokens"

BUDGETS: dict[str, Budget | None] = {
    UNLIMITED: None,
    WINDOW: budget_rules.RuleBudget(rule=budget_rules.WindowRule),
    QUOTA: budget_rules.RuleBudget(rule=budget_rules.QuotaRule),
    TOKENS: budget_rules.RuleBudget(rule=budget_rules.TokenRule),
    OURS: Budget(),
}


def policy_of(rule: str, *, timeouts: bool = False) -> RetryPolicy:
    """The default policy with the budget of a rule.

    Args:
        rule: Its name.
        timeouts: Whether the failures are timeouts.
    """
    if rule == WITHOUT:
        return RetryPolicy(attempts=1)
    if rule == QUOTA and timeouts:
        return RetryPolicy(budget=budget_rules.RuleBudget(rule=budget_rules.TimeoutQuotaRule))
    return RetryPolicy(budget=BUDGETS[rule])


@attrs.frozen
class Outage:
    """One run of a fleet against a service that has become slow.

    Attributes:
        rule: The budget.
        processes: How many call.
        seed: Of the random numbers.
        rate: Calls a second of all processes together.
        duration: Seconds in which calls start.
        discipline: How the service works (see `Service`).
    """

    rule: str
    processes: int
    seed: int = 1
    rate: float = 120.0
    duration: float = _SHORT
    discipline: str = "fifo"

    @property
    def scenario(self) -> Scenario:
        """What happens."""
        calls = Calls(rate=self.rate, processes=self.processes, via="decorator", in_time=_PATIENCE)
        service = Service(discipline=self.discipline)
        slow = Incident(30.0, 50.0, capacity=0.2)
        return Scenario("slow", self.duration, calls, {FUNCTION: service}, (slow,))

    def run(self) -> Row:
        """What came of it."""
        policies = PolicySet({"default": policy_of(self.rule, timeouts=True)})
        return run_row(RowSetting(self.rule, policies, "default"), self.scenario, self.seed)


def run(outage: Outage) -> Row:
    """Run one outage, in a process of a pool that may have run others."""
    forget_all()  # equal policies share their budgets
    return outage.run()


def pool() -> ProcessPoolExecutor:
    """As many processes as there are cores."""
    return ProcessPoolExecutor(os.cpu_count())


def rows_of(outages: Sequence[Outage]) -> list[Row]:
    """What came of each, side by side."""
    with pool() as processes:
        return list(processes.map(run, outages))


def seconds(value: float | None) -> str:
    """A time until the service has recovered."""
    return "never" if value is None else f"{value:.0f} s"


def _processes(size: int) -> str:
    return f"{size} processes" if size > 1 else "1 process"


def outage(*, quick: bool) -> Iterator[Section]:
    """A service falls to a fifth of its speed for 20 s."""
    sizes = (1, 10) if quick else (1, 10, 40, 100, 1000)
    seeds = range(1, 2 if quick else 6)
    outages = [Outage(WITHOUT, 1, seed) for seed in seeds]
    others = [rule for rule in BUDGETS if rule != OURS]
    for size in sizes:
        duration = _LONG if size >= _MANY else _SHORT
        outages += [Outage(OURS, size, seed, duration=duration) for seed in seeds]
        outages += [Outage(rule, size, duration=duration) for rule in others]
    measured = dict(zip(outages, rows_of(outages), strict=True))

    def median(rule: str, size: int) -> tuple[float, float | None]:
        found = [measured[one] for one in outages if (one.rule, one.processes) == (rule, size)]
        times = [math.inf if row.recovery is None else row.recovery for row in found]
        again = statistics.median(times)
        return statistics.median(row.load for row in found), None if again == math.inf else again

    plain = median(WITHOUT, 1)
    table = [[WITHOUT, *(f"{plain[0]:.2f}, {seconds(plain[1])}" for _ in sizes)]]
    bounds = []
    for rule in [OURS, *others]:
        cells = [median(rule, size) for size in sizes]
        table.append([rule, *(f"{load:.2f}, {seconds(again)}" for load, again in cells)])
        if rule == OURS:
            for size, (load, again) in zip(sizes, cells, strict=True):
                if size >= _MANY:
                    continue
                ratio = math.inf if again is None else again / (plain[1] or 1.0)
                most = 1.8 if size > _SOME else 1.5
                bounds.append(Bound(f"recovery of {_processes(size)}", ratio, most))
                if size <= _SOME:
                    bounds.append(Bound(f"load of {_processes(size)}", load, 1.2))
    yield Section(
        "A service that becomes slow for 20 s",
        "120 calls/s in all, at random, with a timeout of 1 s; a service of 20 slots and 0.1 s a "
        "call, with a queue without end, that also serves attempts whose caller has given up. From "
        "30 s to 50 s it works at a fifth of its speed. Each cell has the load (attempts a call "
        "from 30 s on) and the time from 50 s on until 90 % of the calls of 5 s are answered. It "
        f"is watched until {_SHORT:.0f} s, with 1000 processes until {_LONG:.0f} s. Medians of "
        f"{len(seeds)} seeds for the first two rows, one seed for the others.",
        ("budget", *(_processes(size) for size in sizes)),
        table,
        bounds,
    )


def sharing(*, quick: bool) -> Iterator[Section]:
    """The same where the service shares its speed between all calls, and is nearly full."""
    minutes = 1 if quick else 25
    sizes = (10,) if quick else (10, 100)
    rules = (OURS,)
    outages = [
        Outage(rule, size, 1, 170.0, 50.0 + 60 * minutes, "sharing")
        for size in sizes
        for rule in rules
    ]
    measured = dict(zip(outages, rows_of(outages), strict=True))

    def answered(row: Row) -> float:
        series = row.curves.series
        end = len(series.calls) - _PATIENCE  # calls start no later
        return sum(series.in_time[end - 60 : end]) / sum(series.calls[end - 60 : end])

    cells = {one: answered(row) for one, row in measured.items()}
    yield Section(
        "A service that shares its speed between all calls",
        "As before, with 170 calls/s (85 % of what the service can do), and all calls share its "
        "20 slots: the more there are, the longer each takes, so that it may stay in the state "
        f"in which no call ends in time. The part of the calls that are answered {minutes} minutes "
        "after the trouble.",
        ("budget", *(f"{size} processes" for size in sizes)),
        [[rule, *(f"{cells[one]:.3f}" for one in outages if one.rule == rule)] for rule in rules],
        [
            Bound(f"not answered with {one.processes} processes", 1 - cells[one], 0.0)
            for one in outages
            if one.rule == OURS and not quick
        ],
    )


@attrs.frozen
class Flaky:
    """One run of calls that fail at random.

    Attributes:
        rule: The budget.
        failing: Share of the attempts that fail.
        processes: How many call.
        rate: Calls a second of each process.
        calls: Calls in all.
    """

    rule: str
    failing: float
    processes: int
    rate: float
    calls: int

    def run(self) -> float:
        """The share of calls that succeed."""
        logging.getLogger("iii_resilience").setLevel(logging.CRITICAL)
        random.seed(7)
        return run_in_virtual_time(self._run())

    async def _run(self) -> float:
        draw = random.Random(self.failing)
        succeeded = 0

        def made(number: int) -> Callable[[], Any]:
            async def attempt() -> None:
                await asyncio.sleep(0.01)
                if draw.random() < self.failing:
                    raise ConnectionResetError

            attempt.__qualname__ = f"process {number}"  # each has a bucket of its own
            return iii_retry(idempotent=True, policy=policy_of(self.rule))(attempt)

        async def one(call: Callable[[], Any]) -> None:
            nonlocal succeeded
            try:
                await call()
            except ConnectionResetError:
                return
            succeeded += 1

        calls = [made(number) for number in range(self.processes)]
        async with asyncio.TaskGroup() as group:
            for number in range(self.calls):
                await asyncio.sleep(1 / (self.rate * self.processes))
                group.create_task(one(calls[number % self.processes]))
        return succeeded / self.calls


def run_flaky(flaky: Flaky) -> float:
    """Run one, in a process of a pool that may have run others."""
    forget_all()
    return flaky.run()


def failures(*, quick: bool) -> Iterator[Section]:
    """Random failures."""
    callers = {"1 at 20/s": (1, 20.0), "1 at 100/s": (1, 100.0), "100 at 1/s": (100, 1.0)}
    shares = (0.05, 0.2) if quick else (0.05, 0.2, 0.3, 0.5)
    runs = [
        Flaky(rule, failing, *callers[caller], 1_000 if quick else 5_000)
        for rule in BUDGETS
        for failing in shares
        for caller in callers
    ]
    with pool() as processes:
        measured = dict(zip(runs, processes.map(run_flaky, runs), strict=True))

    def share(rule: str, failing: float, caller: str) -> float:
        processes, rate = callers[caller]
        return next(
            value
            for one, value in measured.items()
            if (one.rule, one.failing, one.processes, one.rate) == (rule, failing, processes, rate)
        )

    bounds = [
        Bound(
            f"lost at {failing:.0%}, {caller}",
            share(UNLIMITED, failing, caller) - share(OURS, failing, caller),
            most,
        )
        for failing, most in ((0.05, 0.001), (0.2, 0.005))
        for caller in callers
    ]
    yield Section(
        "Failures at random",
        f"Each attempt fails with this probability. The part of {runs[0].calls} calls that succeed "
        "within the default policy's four attempts, for one process with 20 and with 100 calls a "
        "second, and for a hundred processes with one each.",
        ("attempts that fail, processes and calls a second", *BUDGETS),
        [
            [f"{f:.0%}, {caller}", *(f"{share(rule, f, caller):.4f}" for rule in BUDGETS)]
            for f in shares
            for caller in callers
        ],
        bounds,
    )


def sequence(*, quick: bool) -> Iterator[Section]:
    """A process with few calls: each gets the attempts that it needs."""
    del quick  # it takes no time

    async def attempts(calls: int, failing: int) -> tuple[int, int]:
        made = succeeded = 0
        forget_all()

        @iii_retry(idempotent=True, policy=RetryPolicy())
        async def call(before: list[int]) -> None:
            nonlocal made
            made += 1
            before.append(made)
            if len(before) <= failing:
                raise ConnectionResetError

        for _ in range(calls):
            with contextlib.suppress(ConnectionResetError):
                await call([])
                succeeded += 1
        return made, succeeded

    logging.getLogger("iii_resilience").setLevel(logging.CRITICAL)
    rows, bounds = [], []
    for calls, failing in ((1, 3), (1, 4), (50, 2)):
        made, succeeded = run_in_virtual_time(attempts(calls, failing))
        rows.append([str(calls), str(failing), str(made), str(succeeded)])
        if failing < RetryPolicy().attempts:
            what = f"{calls} that fail {failing} times each, failed"
            bounds.append(Bound(what, calls - succeeded, 0.0))
        else:
            missing = RetryPolicy().attempts - made
            bounds.append(Bound("attempts that a call that always fails lacks", missing, 0.0))
    yield Section(
        "Few calls, one after the other",
        "Calls of one process, each of which fails as often as is said before it would succeed.",
        ("calls", "failures of each", "attempts in all", "calls that succeed"),
        rows,
        bounds,
    )


def functions(*, quick: bool) -> Iterator[Section]:
    """A dead function and a healthy one under one policy."""
    calls = 500 if quick else 5_000

    async def shares(*, beside_dead: bool) -> float:
        draw, succeeded = random.Random(1), 0
        policy = RetryPolicy()
        forget_all()

        @iii_retry(idempotent=True, policy=policy)
        async def healthy() -> None:
            if draw.random() < 0.2:
                raise ConnectionResetError

        @iii_retry(idempotent=True, policy=policy)
        async def dead() -> None:
            raise ConnectionResetError

        async def one() -> None:
            nonlocal succeeded
            with contextlib.suppress(ConnectionResetError):
                await healthy()
                succeeded += 1

        async def other() -> None:
            with contextlib.suppress(ConnectionResetError):
                await dead()

        async with asyncio.TaskGroup() as group:
            for _ in range(calls):
                await asyncio.sleep(0.05)
                group.create_task(one())
                if beside_dead:
                    group.create_task(other())
        return succeeded / calls

    logging.getLogger("iii_resilience").setLevel(logging.CRITICAL)
    alone = run_in_virtual_time(shares(beside_dead=False))
    beside = run_in_virtual_time(shares(beside_dead=True))
    yield Section(
        "A dead function beside a healthy one",
        f"Two functions under one policy object: the part of {calls} calls of the healthy one that "
        "succeed where 20 % of its attempts fail, at 20 calls/s.",
        ("", "succeed"),
        [["alone", f"{alone:.4f}"], ["beside a dead function", f"{beside:.4f}"]],
        [Bound("lost beside the dead function", max(0.0, alone - beside), 0.002)],
    )


PARTS: dict[str, Callable[..., Iterator[Section]]] = {
    "outage": outage,
    "sharing": sharing,
    "failures": failures,
    "sequence": sequence,
    "functions": functions,
    "kills": fleet_live.kills,
    "live": fleet_live.live,
    "limit": bench_limit.limits,
}


def main(arguments: list[str]) -> int:
    """Measure, print, and write if that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="reduced, in a minute or two")
    parser.add_argument("--write", type=Path, metavar="FILE", help="where the marks are")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where the picture goes (.svg)")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in PARTS]
    if unknown:
        parser.error(f"no part is named {', '.join(unknown)} (there are: {', '.join(PARTS)})")
    for name in given.names or PARTS:
        text = "\n\n".join(str(section) for section in PARTS[name](quick=given.quick))
        print(text, end="\n\n", flush=True)
        if given.write is not None:
            write_part(given.write, name, text)
    if given.plot is not None:
        fleet = 40
        outages = [Outage(rule, fleet) for rule in (WITHOUT, UNLIMITED, OURS, WINDOW)]
        title = (
            f"{fleet} processes, 120 calls/s; the service works at a fifth of its speed for 20 s"
        )
        draw(rows_of(outages), outages[0].scenario, given.plot, title)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
