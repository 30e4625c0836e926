"""What the decorator adds to a call: a success, a failure that a retry repairs, and giving up.

Knows nothing of the engine. `peers` says how everybody is set up.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import peers
from measure import FULL, Effort, Taken, alternate, alternate_async
from peers import BARE, OURS
from table import Bound, Section, figure

from iii_resilience import Budget
from iii_resilience.core import system_clock

WITHOUT_BUDGET = f"{OURS}, budget off"
WITH_BREAKER = f"{OURS}, budget and breaker"
PLAIN_ERROR = f"{OURS}, ValueError"
SDK_ERROR = f"{OURS}, error of the SDK"


def sections(effort: Effort) -> Iterator[Section]:
    """All tables."""
    peers.logging_off()
    yield success(effort)
    yield success_async(effort)
    with no_sleep():
        yield one_failure(effort)
        yield give_up(effort)


def success(effort: Effort) -> Section:
    """A plain function that succeeds at its first attempt."""

    def function() -> int:
        return 1

    calls: dict[str, Callable[[], object]] = {
        BARE: peers.bare(function),
        OURS: peers.ours()(function),
        WITHOUT_BUDGET: peers.ours(budget=None)(function),
        WITH_BREAKER: peers.ours_with_breaker()(function),
    }
    decorated = {name: decorate(function) for name, decorate in peers.peers().items()}
    taken = alternate(calls | decorated, effort)
    bounds = [
        Bound("to a bare try/except", taken.ratio(OURS, BARE), 6.0),
        Bound("to tenacity's decorator", taken.ratio(OURS, "tenacity"), 1 / 20),
        Bound("with the breaker on, to without", taken.ratio(WITH_BREAKER, OURS), 2.0),
        *_faster_than(taken, decorated),
    ]
    return _section("Success at the first attempt", "An empty function.", taken, bounds)


def success_async(effort: Effort) -> Section:
    """The same for a coroutine function."""

    async def function() -> int:
        return 1

    calls: dict[str, Callable[[], Awaitable[object]]] = {
        BARE: peers.bare(function),
        OURS: peers.ours()(function),
        WITHOUT_BUDGET: peers.ours(budget=None)(function),
        WITH_BREAKER: peers.ours_with_breaker()(function),
    }
    decorated = {n: decorate(function) for n, decorate in peers.peers(asynchronous=True).items()}
    taken = alternate_async(calls | decorated, effort)
    bounds = [
        Bound("with the breaker on, to without", taken.ratio(WITH_BREAKER, OURS), 2.0),
        *_faster_than(taken, decorated),
    ]
    text = "An empty coroutine function, awaited on one event loop."
    return _section("Success at the first attempt, async", text, taken, bounds)


class FailsOnce:
    """Every other call of it fails, and the retry succeeds."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        """One attempt."""
        self.calls += 1
        if self.calls % 2:
            raise ConnectionResetError("reset")
        return 1


def one_failure(effort: Effort) -> Section:
    """One failure, then success."""

    def function() -> Callable[[], int]:
        script = FailsOnce()

        def attempt() -> int:  # a function: what is decorated has a name
            return script()

        return attempt

    # So large that it never refuses; what is measured is what asking it costs.
    ours = peers.ours(wait=False, budget=Budget(burst=1e9))
    calls: dict[str, Callable[[], object]] = {BARE: peers.bare(function()), OURS: ours(function())}
    decorated = {name: make(function()) for name, make in peers.peers(wait=False).items()}
    taken = alternate(calls | decorated, effort)
    bounds = [Bound("to tenacity's decorator", taken.ratio(OURS, "tenacity"), 1.0)]
    text = (
        "A `ConnectionResetError`, then success, with no delay between them. `time.sleep` does "
        "nothing here, for everybody: `sleep(0)` gives the processor away, which costs more than "
        "all the rest and depends on who else wants it. What ours does beside retrying, and the "
        "peers do not: it says whether the function may have run, counts and logs the decision, "
        "and keeps a report of the attempt."
    )
    return _section("One failure, then success", text, taken, bounds)


class InvocationError(Exception):
    """The shape of the SDK's exception (0.20 and later)."""

    def __init__(self) -> None:
        super().__init__("invocation_failed: boom")
        self.code = "invocation_failed"
        self.message = "boom"
        self.function_id = "orders::get"
        self.stacktrace = None
        self.invocation_id = None


def give_up(effort: Effort) -> Section:
    """A permanent failure."""

    def fails(error: Callable[[], Exception]) -> Callable[[], int]:
        def function() -> int:
            raise error()

        return function

    def caught(function: Callable[[], object]) -> Callable[[], None]:
        def call() -> None:
            try:
                function()
            except Exception:  # noqa: S110 - what is measured is how it is given up
                pass

        return call

    def plain() -> Exception:
        return ValueError("x")

    calls: dict[str, Callable[[], object]] = {
        BARE: caught(peers.bare(fails(plain))),
        PLAIN_ERROR: caught(peers.ours()(fails(plain))),
        SDK_ERROR: caught(peers.ours()(fails(InvocationError))),
    }
    decorated = {}
    for name, decorate in peers.peers().items():
        error = peers.permanent_for_redress if name == "redress" else plain
        decorated[name] = caught(decorate(fails(error)))
    taken = alternate(calls | decorated, effort)
    bounds = []
    if "redress" in decorated:
        bounds = [
            Bound(f"to redress, {name.split(', ')[1]}", taken.ratio(name, "redress"), 1.0)
            for name in (PLAIN_ERROR, SDK_ERROR)
        ]
    text = (
        "A failure that nothing repairs, caught outside: `ValueError`, and redress's own "
        "`PermanentError`, which is what it recognises. Ours carries a report, a hint and a note "
        "in the traceback afterwards."
    )
    return _section("Giving up on a permanent failure", text, taken, bounds, to=PLAIN_ERROR)


@contextmanager
def no_sleep() -> Iterator[None]:
    """Whoever sleeps does not."""

    def sleep(_: object) -> None:
        return None

    real, time.sleep = time.sleep, sleep
    system_clock.sleep = sleep
    try:
        yield
    finally:
        time.sleep = real
        system_clock.sleep = real


def _faster_than(taken: Taken, decorated: dict[str, Any]) -> list[Bound]:
    if not decorated:
        return []
    best = taken.fastest(list(decorated))
    return [Bound(f"to the fastest peer, {best}", taken.ratio(OURS, best), 1.0)]


def _section(
    title: str, text: str, taken: Taken, bounds: list[Bound], *, to: str = OURS
) -> Section:
    rows = [[name, figure(taken.us(name)), f"{taken.ratio(name, to):.2f}"] for name in taken.rounds]
    return Section(title, text, ["", "µs", f"to {to}"], rows, bounds)


if __name__ == "__main__":
    for section in sections(FULL):
        print(section, end="\n\n")
