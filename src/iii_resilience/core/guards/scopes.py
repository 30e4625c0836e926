"""The states of a guard by scope, and their transfer when a new guard replaces it.

Knows nothing of what a state holds.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import attrs

Scope = str | tuple[str, str] | None
"""What a guard keeps a state for: a function id or a decorated function's qualified name; namespace
and id outside of the default namespace; None for what several functions share."""


class ScopedState(Protocol):
    """What a guard keeps for one scope."""

    def retune(self, now: float, /, *numbers: Any, **more: Any) -> None:
        """Go by other numbers from now on."""

    def forget(self) -> None:
        """Start anew, with a new lock that is free."""


S = TypeVar("S", bound=ScopedState)


class ScopedStates(dict[Scope, S]):
    """The states of one guard by scope, and the numbers that they go by.

    A guard that replaces another one, because a policy file has changed, shares its states. Calls
    that still hold the old guard thereby see the same states, and give back what they reserved.

    Args:
        numbers: What the states go by, as their own class takes them.

    Attributes:
        numbers: What they go by now.
    """

    __slots__ = ("__weakref__", "_lock", "numbers")

    def __init__(self, numbers: tuple[Any, ...]) -> None:
        super().__init__()
        self.numbers = numbers
        # Reentrant: the garbage collector may end a coroutine that retries in the middle of `add`.
        self._lock = threading.RLock()
        _all[id(self)] = self

    def add(self, scope: Scope, make: Callable[..., S]) -> S:
        """The state of a scope, made where there is none yet.

        Args:
            scope: What it is kept for.
            make: Makes one from the numbers.
        """
        with self._lock:
            return self.setdefault(scope, make(*self.numbers))

    def retune(self, now: float, numbers: tuple[Any, ...]) -> None:
        """Let every state go by other numbers; those made later too.

        Args:
            now: Monotonic time in seconds.
            numbers: As for the class.
        """
        with self._lock:
            if numbers == self.numbers:
                return
            self.numbers = numbers
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

    @property
    def is_current(self) -> bool:
        """Whether its states go by its numbers: no reload has given them to another guard."""
        return self._states.numbers == self._numbers()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._settings()), ()

    def _settings(self) -> dict[str, Any]:
        """The arguments of the class."""
        return {
            each.name: getattr(self, each.name) for each in attrs.fields(type(self)) if each.init
        }

    def _numbers(self) -> tuple[Any, ...]:
        """The arguments of a state's class."""
        return tuple(self._settings().values())


G = TypeVar("G", bound=Guard[Any])

_EQUAL_MOST = 10_000  # guards kept; beyond it the oldest ones are forgotten
_first: dict[tuple[str, Guard[Any]], Guard[Any]] = {}


def first_equal(guard: G, function: str) -> G:
    """The first of the equal guards that a function's calls have had.

    A policy that is made anew for each call has new guards each time. Their states would know of
    one call only, so the first guard keeps the state for all that are equal to it.

    Args:
        guard: A guard of a policy that was given in code.
        function: The function's id or qualified name.
    """
    key = (function, guard)
    first = _first.get(key)
    if first is not None and first.is_current:
        return cast("G", first)
    while len(_first) >= _EQUAL_MOST:
        with suppress(KeyError, StopIteration, RuntimeError):  # another thread does it too
            del _first[next(iter(_first))]
    if first is not None:
        _first[key] = guard
    return cast("G", _first.setdefault(key, guard))


def forget_all() -> None:
    """Let every guard of the process start anew: for tests, which must not see one another."""
    _first.clear()
    for kept in everything():
        kept.forget()


# Windows does not fork and has no such function: there a dict is made, and forgotten.
getattr(os, "register_at_fork", dict)(after_in_child=_forked)
