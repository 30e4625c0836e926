"""The states of a guard by scope, and their transfer when a new guard replaces it.

Knows nothing of what a state holds.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar


class Tunable(Protocol):
    """A state whose numbers can be changed while it is in use."""

    def retune(self, now: float | None, /, *numbers: Any, **more: Any) -> None:
        """Go by other numbers from now on."""

    def forget(self) -> None:
        """Start anew, with a lock that nobody holds."""


S = TypeVar("S", bound=Tunable)


class ScopedStates(dict[str | None, S]):
    """The states of one guard by scope, and the numbers that they go by.

    A guard that replaces another one, because a policy file has changed, shares its states. Calls
    that still hold the old guard thereby see the same states, and give back what they reserved.

    Args:
        numbers: What the states go by, as their own class takes them.
    """

    __slots__ = ("__weakref__", "_lock", "numbers")

    def __init__(self, numbers: tuple[float | None, ...]) -> None:
        super().__init__()
        self.numbers = numbers
        self._lock = threading.Lock()
        _all[id(self)] = self

    def add(self, scope: str | None, make: Callable[..., S]) -> S:
        """The state of a scope, made where there is none yet.

        Args:
            scope: What it is kept for.
            make: Makes one from the numbers.
        """
        numbers = self.numbers
        state = self.setdefault(scope, make(*numbers))  # atomic: two threads get one state
        if self.numbers is not numbers:  # changed meanwhile: `retune` may not have seen this one
            state.retune(None, *self.numbers)
        return state

    def retune(self, now: float, numbers: tuple[float | None, ...]) -> None:
        """Let every state go by other numbers; those made later too.

        Args:
            now: Monotonic time in seconds.
            numbers: As for the class.
        """
        with self._lock:
            if numbers == self.numbers:
                return
            self.numbers = numbers
            for state in list(self.values()):
                state.retune(now, *numbers)

    def forget(self) -> None:
        """Let every state start anew, wherever it is held."""
        self._lock = threading.Lock()
        for state in list(self.values()):
            state.forget()


_all: weakref.WeakValueDictionary[int, ScopedStates[Any]] = weakref.WeakValueDictionary()


def everything() -> list[ScopedStates[Any]]:
    """What every guard of this process keeps."""
    return list(_all.values())


def _forked() -> None:
    """In the child of a fork nobody holds a lock, and what its parent has sent is not its own."""
    for kept in everything():
        kept.forget()


# Windows does not fork and has no such function: there a dict is made, and forgotten.
getattr(os, "register_at_fork", dict)(after_in_child=_forked)
