"""A test clock that moves only when something sleeps, and two switches for retries.

It replaces the time of decorators and loops for the whole process while the context lasts; a user's
own code keeps its clock. It does not affect `worker.trigger`: engine and SDK use real time. Knows
nothing of engines.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol
from unittest.mock import patch

import attrs

from iii_resilience.core import system_clock as clock
from iii_resilience.core.decide import Decision, Reason
from iii_resilience.core.decide import decide as really_decide
from iii_resilience.core.guards.scopes import forget_all
from iii_resilience.retry import retried_call


class FrozenTime(Protocol):
    """What ``freezegun.freeze_time`` gives: time that moves when it is told to."""

    def tick(self, delta: float, /) -> object:
        """Move on by so many seconds."""


@attrs.define
class FakeClock:
    """A clock that moves when the library sleeps, and never otherwise.

    Attributes:
        now: Monotonic time in seconds (without freezegun).
        slept: Every delay the library slept, in seconds, in order.
        frozen: The object of ``freezegun.freeze_time`` that moves along, or None.
    """

    now: float = 1000.0
    slept: list[float] = attrs.field(factory=list)
    frozen: FrozenTime | None = None

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Args:
            seconds: How much; not negative.

        Raises:
            ValueError: Time does not go backwards.
        """
        if seconds < 0:
            raise ValueError(f"a clock moves forwards, not by {seconds:g} s")
        self.now += seconds
        if self.frozen is not None:
            self.frozen.tick(seconds)

    def sleep(self, seconds: float) -> None:
        """What the library's sleeping becomes."""
        self.slept.append(seconds)
        self.advance(max(0.0, seconds))

    async def sleep_async(self, seconds: float) -> None:
        """As `sleep`, for coroutines."""
        self.sleep(seconds)


@contextmanager
def fake_clock(frozen: FrozenTime | None = None) -> Iterator[FakeClock]:
    """Delays take no time, and deadlines, budgets and breakers see them pass all the same.

    Budgets start full, circuits closed and bulkheads empty.

    Args:
        frozen: What ``freeze_time`` gave, where the test uses freezegun: it moves along. Without
            it the library gets a monotonic clock of its own.

    Yields:
        The clock: ``slept`` lists the delays, ``advance`` lets time pass.
    """
    fake = FakeClock(frozen=frozen)
    with ExitStack() as stack:
        stack.enter_context(_sleeping_on(fake))
        if frozen is None:  # else freezegun has the time
            stack.enter_context(patch.object(clock, "monotonic", lambda: fake.now))
        yield fake


@contextmanager
def no_sleep() -> Iterator[FakeClock]:
    """Delays are decided and noted, and not slept; the clock stands where it is.

    Budgets start full, circuits closed and bulkheads empty.

    Yields:
        A clock whose ``slept`` lists the delays.
    """
    fake = FakeClock()
    with _sleeping_on(fake):
        yield fake


@contextmanager
def _sleeping_on(fake: FakeClock) -> Iterator[None]:
    forget_all()  # budgets that an earlier test has emptied, circuits that it has opened
    with (
        patch.object(clock, "sleep", fake.sleep),
        patch.object(clock, "sleep_async", fake.sleep_async),
    ):
        yield


@contextmanager
def retries_off() -> Iterator[None]:
    """Every call has one attempt; failures are classified and reported as ever."""

    def decide(*args: Any, **kwargs: Any) -> Decision:
        decision = really_decide(*args, **kwargs)
        return Decision(Reason.EXHAUSTED) if decision.retry else decision

    with patch.object(retried_call, "decide", decide):
        yield
