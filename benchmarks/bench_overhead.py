"""What the decorator adds to a call: a success, a failure that a retry repairs, and giving up.

Knows nothing of the engine. `peers` says how everybody is set up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import peers
from measure import FULL, Effort, Taken, alternate, alternate_async
from peers import BARE, OURS
from table import Bound, Section, figure

from iii_resilience.core import system_clock

WITHOUT_BUDGET = f"{OURS}, budget off"
WITH_BREAKER = f"{OURS}, budget and breaker"
PLAIN_ERROR = f"{OURS}, ValueError"
SDK_ERROR = f"{OURS}, error of the SDK"

SUCCESSES = 7
"""Calls that succeed for each one that is repaired."""
TENACITY_REPAIRED = 0.5
TENACITY_REPAIRED_ASYNC = 0.4
NOPANIC = 5.0


def sections(effort: Effort) -> Iterator[Section]:
    """All tables."""
    peers.logging_off()
    yield success(effort)
    yield success_async(effort)
    with no_sleep():
        yield repaired(effort)
        yield repaired_async(effort)
        yield give_up(effort)
        yield give_up_async(effort)


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


class FailsOneInEight:
    """One call of it in eight fails, and is to be repeated; the others succeed.

    Args:
        fails: Whether any does; without it a call does the same work and succeeds.
    """

    def __init__(self, *, fails: bool = True) -> None:
        self.calls = 0
        self._failing = 1 if fails else -1

    def __call__(self) -> int:
        """One attempt."""
        self.calls += 1
        if self.calls % (SUCCESSES + 2) == self._failing:  # the retry is an attempt too
            raise ConnectionResetError("reset")
        return 1


def repaired(effort: Effort) -> Section:
    """One failure, then success."""

    def function(*, fails: bool) -> Callable[[], int]:
        script = FailsOneInEight(fails=fails)

        def attempt() -> int:  # a function: what is decorated has a name
            return script()

        return attempt

    decorators = {BARE: peers.bare, OURS: peers.ours(wait=False), **peers.peers(wait=False)}
    calls: dict[str, Callable[[], object]] = {}
    for name, decorate in decorators.items():
        calls[name] = _repeated(decorate(function(fails=True)), SUCCESSES + 1)
        calls[_successes(name)] = _repeated(decorate(function(fails=False)), SUCCESSES)
    taken = _without_successes(alternate(calls, effort), list(decorators))
    bounds = _repaired_bounds(taken, TENACITY_REPAIRED)
    return _section("One failure, then success", _REPAIRED, taken, bounds)


def repaired_async(effort: Effort) -> Section:
    """The same for a coroutine function."""

    def function(*, fails: bool) -> Callable[[], Awaitable[int]]:
        script = FailsOneInEight(fails=fails)

        async def attempt() -> int:
            return script()

        return attempt

    decorators = {
        BARE: peers.bare,
        OURS: peers.ours(wait=False),
        **peers.peers(wait=False, asynchronous=True),
    }
    calls: dict[str, Callable[[], Awaitable[object]]] = {}
    for name, decorate in decorators.items():
        calls[name] = _repeated_async(decorate(function(fails=True)), SUCCESSES + 1)
        calls[_successes(name)] = _repeated_async(decorate(function(fails=False)), SUCCESSES)
    taken = _without_successes(alternate_async(calls, effort), list(decorators))
    text = "As before, for a coroutine function, awaited on one event loop."
    bounds = _repaired_bounds(taken, TENACITY_REPAIRED_ASYNC)
    return _section("One failure, then success, async", text, taken, bounds)


_REPAIRED = (
    "A `ConnectionResetError`, then success, with no delay between them: one call in "
    f"{SUCCESSES + 1}, so that every budget keeps permits. The figures are that one call's: what "
    f"{SUCCESSES} successes cost, measured in the same round, is taken off. `time.sleep` and "
    "`asyncio.sleep` do nothing here, for all candidates: `sleep(0)` gives the processor away, "
    "which costs more than all the rest and depends on what else runs. What ours does beside "
    "retrying, and the peers do not: it says whether the function may have run, counts and logs "
    "the decision, and keeps a report of the attempt."
)


def _successes(name: str) -> str:
    return f"{name}: successes"


def _repeated(call: Callable[[], object], times: int) -> Callable[[], None]:
    def batch() -> None:
        for _ in repeat(None, times):
            call()

    return batch


def _repeated_async(
    call: Callable[[], Awaitable[object]], times: int
) -> Callable[[], Awaitable[None]]:
    async def batch() -> None:
        for _ in repeat(None, times):
            await call()

    return batch


def _without_successes(taken: Taken, names: list[str]) -> Taken:
    rounds = {}
    for name in names:
        pairs = zip(taken.rounds[name], taken.rounds[_successes(name)], strict=True)
        rounds[name] = [max(whole - part, 1e-3) for whole, part in pairs]
    return Taken(rounds)


def _repaired_bounds(taken: Taken, most: float) -> list[Bound]:
    bounds = [Bound("to tenacity's decorator", taken.ratio(OURS, "tenacity"), most)]
    return bounds + _to_nopanic(taken, OURS)


def _to_nopanic(taken: Taken, name: str) -> list[Bound]:
    if "nopanic" not in taken.rounds:
        return []
    return [Bound("to nopanic with a budget", taken.ratio(name, "nopanic"), NOPANIC)]


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

    calls: dict[str, Callable[[], object]] = {
        BARE: caught(peers.bare(fails(_plain))),
        PLAIN_ERROR: caught(peers.ours()(fails(_plain))),
        SDK_ERROR: caught(peers.ours()(fails(InvocationError))),
    }
    for name, decorate in peers.peers().items():
        error = peers.permanent_for_redress if name == "redress" else _plain
        calls[name] = caught(decorate(fails(error)))
    taken = alternate(calls, effort)
    text = (
        "A failure that nothing repairs, caught outside: `ValueError`, and redress's own "
        "`PermanentError`, which is what it recognises. Ours carries a report, a hint and a note "
        "in the traceback afterwards, each made when it is read."
    )
    bounds = _given_up_bounds(taken)
    return _section("Giving up on a permanent failure", text, taken, bounds, to=PLAIN_ERROR)


def give_up_async(effort: Effort) -> Section:
    """The same for a coroutine function."""

    def fails(error: Callable[[], Exception]) -> Callable[[], Awaitable[int]]:
        async def function() -> int:
            raise error()

        return function

    def caught(function: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
        async def call() -> None:
            try:
                await function()
            except Exception:  # noqa: S110 - what is measured is how it is given up
                pass

        return call

    calls: dict[str, Callable[[], Awaitable[object]]] = {
        BARE: caught(peers.bare(fails(_plain))),
        PLAIN_ERROR: caught(peers.ours()(fails(_plain))),
        SDK_ERROR: caught(peers.ours()(fails(InvocationError))),
    }
    for name, decorate in peers.peers(asynchronous=True).items():
        error = peers.permanent_for_redress if name == "redress" else _plain
        calls[name] = caught(decorate(fails(error)))
    taken = alternate_async(calls, effort)
    text = "As before, for a coroutine function, awaited on one event loop."
    bounds = _given_up_bounds(taken)
    return _section("Giving up on a permanent failure, async", text, taken, bounds, to=PLAIN_ERROR)


def _plain() -> Exception:
    return ValueError("x")


def _given_up_bounds(taken: Taken) -> list[Bound]:
    bounds = [Bound("to tenacity's decorator", taken.ratio(PLAIN_ERROR, "tenacity"), 0.6)]
    bounds += _to_nopanic(taken, PLAIN_ERROR)
    if "redress" in taken.rounds:
        bounds += [
            Bound(f"to redress, {name.split(', ')[1]}", taken.ratio(name, "redress"), 1.0)
            for name in (PLAIN_ERROR, SDK_ERROR)
        ]
    return bounds


@contextmanager
def no_sleep() -> Iterator[None]:
    """Whoever sleeps does not."""

    def sleep(_: object) -> None:
        return None

    async def sleep_async(_: object, result: object = None) -> object:
        return result

    real, real_async = time.sleep, asyncio.sleep
    time.sleep = sleep
    asyncio.sleep = sleep_async  # type: ignore[assignment]
    system_clock.sleep = sleep
    try:
        yield
    finally:
        time.sleep = real
        asyncio.sleep = real_async
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
