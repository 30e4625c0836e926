"""The states of a guard by scope, and their transfer when a new guard replaces it.

Knows nothing of what a state holds.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, Self, TypeVar

import attrs


class ScopedState(Protocol):
    """What a guard keeps for one scope."""

    def retune(self, now: float, /, *numbers: Any, **more: Any) -> None:
        """Go by other numbers from now on."""

    def forget(self) -> None:
        """Start anew, with a new lock that is free."""


S = TypeVar("S", bound=ScopedState)


class ScopedStates(dict[str | None, S]):
    """The states of one guard by scope, and the numbers that they go by.

    A guard that replaces another one, because a policy file has changed, shares its states. Calls
    that still hold the old guard thereby see the same states, and give back what they reserved.

    Args:
        numbers: What the states go by, as their own class takes them.
    """

    __slots__ = ("__weakref__", "_lock", "_numbers")

    def __init__(self, numbers: tuple[Any, ...]) -> None:
        super().__init__()
        self._numbers = numbers
        # Reentrant: the garbage collector may end a coroutine that retries in the middle of `add`.
        self._lock = threading.RLock()
        _all[id(self)] = self

    def add(self, scope: str | None, make: Callable[..., S]) -> S:
        """The state of a scope, made where there is none yet.

        Args:
            scope: What it is kept for.
            make: Makes one from the numbers.
        """
        with self._lock:
            return self.setdefault(scope, make(*self._numbers))

    def retune(self, now: float, numbers: tuple[Any, ...]) -> None:
        """Let every state go by other numbers; those made later too.

        Args:
            now: Monotonic time in seconds.
            numbers: As for the class.
        """
        with self._lock:
            if numbers == self._numbers:
                return
            self._numbers = numbers
            states = list(self.values())
        for state in states:  # each has a lock of its own, which is not taken under this one
            state.retune(now, *numbers)

    def forget(self) -> None:
        """Let every state start anew, wherever it is held."""
        self._lock = threading.RLock()
        for state in list(self.values()):
            state.forget()


_all: weakref.WeakValueDictionary[int, ScopedStates[Any]] = weakref.WeakValueDictionary()


def everything() -> list[ScopedStates[Any]]:
    """What every guard of this process keeps."""
    return list(_all.values())


def _forked() -> None:
    """Reset in the child of a fork: it has no holder of the locks, and none of the calls."""
    for kept in everything():
        kept.forget()


@attrs.frozen
class Guard(Generic[S]):
    """A guard's settings, and its states, which a copy or another process does not share."""

    _states: ScopedStates[S] = attrs.field(init=False, repr=False, eq=False, hash=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_states", ScopedStates(self._numbers()))

    def continues(self, before: Self, now: float) -> None:
        """Replace another guard of the same kind: its states go by these numbers now.

        Args:
            before: The guard that stood in the same policy.
            now: Monotonic time in seconds.
        """
        before._states.retune(now, self._numbers())
        object.__setattr__(self, "_states", before._states)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._settings()

    def _settings(self) -> tuple[Any, ...]:
        """The arguments of the class."""
        return tuple(getattr(self, each.name) for each in attrs.fields(type(self)) if each.init)

    def _numbers(self) -> tuple[Any, ...]:
        """The arguments of a state's class."""
        return self._settings()


# Windows does not fork and has no such function: there a dict is made, and forgotten.
getattr(os, "register_at_fork", dict)(after_in_child=_forked)
