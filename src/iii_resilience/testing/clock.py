"""A test clock that moves only when something sleeps, and two switches for retries.

It replaces the time of decorators and loops for the whole process while the context lasts; a user's
own code keeps its clock. It does not affect `worker.trigger`: engine and SDK use real time. Knows
nothing of engines.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ContextDecorator, ExitStack
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar
from unittest.mock import patch

import attrs

from iii_resilience.core import system_clock as clock
from iii_resilience.core.decide import Decision, Reason
from iii_resilience.core.decide import decide as really_decide
from iii_resilience.core.guards.scopes import forget_all
from iii_resilience.retry import retried_call

T = TypeVar("T")


class FrozenTime(Protocol):
    """What ``freezegun.freeze_time`` gives: time that moves when `tick` is called."""

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


class Replacement(ContextDecorator, Generic[T]):
    """Patches that last as long as a block, or a decorated function, runs.

    A class, not a ``contextlib.contextmanager``, as in `core.context_scope`.

    Args:
        value: What the block gets.
        *patches: The patches.
    """

    def __init__(self, value: T, *patches: AbstractContextManager[Any]) -> None:
        self._value = value
        self._patches = patches
        self._stack = ExitStack()

    def __enter__(self) -> T:
        for one in self._patches:
            self._stack.enter_context(one)
        return self._value

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)


class _FreshGuards:
    """At its start forgets budgets that were emptied before, and circuits that were opened."""

    def __enter__(self) -> None:
        forget_all()

    def __exit__(self, *_: object) -> None: ...


def fake_clock(frozen: FrozenTime | None = None) -> Replacement[FakeClock]:
    """Delays take no time, and deadlines, budgets and breakers see them pass all the same.

    Budgets start full, circuits closed and bulkheads empty.

    Args:
        frozen: What ``freeze_time`` gave, where the test uses freezegun: it moves along. Without
            it the library gets a monotonic clock of its own.

    Returns:
        A context manager whose block gets the clock: ``slept`` lists the delays, ``advance`` lets
        time pass.
    """
    fake = FakeClock(frozen=frozen)
    patches = _sleeping_on(fake)
    if frozen is None:  # else freezegun has the time
        patches = *patches, patch.object(clock, "monotonic", lambda: fake.now)
    return Replacement(fake, *patches)


def no_sleep() -> Replacement[FakeClock]:
    """Delays are decided and noted, and not slept; the clock stands where it is.

    Budgets start full, circuits closed and bulkheads empty.

    Returns:
        A context manager whose block gets a clock: ``slept`` lists the delays.
    """
    fake = FakeClock()
    return Replacement(fake, *_sleeping_on(fake))


def _sleeping_on(fake: FakeClock) -> tuple[AbstractContextManager[Any], ...]:
    return (
        _FreshGuards(),
        patch.object(clock, "sleep", fake.sleep),
        patch.object(clock, "sleep_async", fake.sleep_async),
    )


def retries_off() -> Replacement[None]:
    """Every call has one attempt; failures are classified and reported as ever.

    Returns:
        A context manager.
    """

    def decide(*args: Any, **kwargs: Any) -> Decision:
        decision = really_decide(*args, **kwargs)
        return Decision(Reason.EXHAUSTED) if decision.retry else decision

    return Replacement(None, patch.object(retried_call, "decide", decide))
