"""What is left in every retry budget of this process, asked only when metrics are read.

Knows nothing of metrics: budgets are found where `guards` keeps them, so that a call pays nothing
for being looked at.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator

from iii_resilience.guards.budget import BudgetWindow
from iii_resilience.guards.kept import everything

SHARED = "(shared)"
"""Stands for the policy's name where nobody has said it."""

_names: weakref.WeakKeyDictionary[BudgetWindow, str] = weakref.WeakKeyDictionary()


def named(window: BudgetWindow, policy: str) -> None:
    """Say which policy a count belongs to that is kept for a whole policy.

    Args:
        window: The count.
        policy: The policy's name. One that is shared keeps the first name it was given.
    """
    _names.setdefault(window, policy)


def available(now: float) -> Iterator[tuple[str, str | None, float]]:
    """Policy, function id (None for a whole policy) and permits left of every budget in use.

    Args:
        now: Monotonic time in seconds.
    """
    for kept in everything():
        for scope, window in list(kept.items()):
            if isinstance(window, BudgetWindow):
                if scope is None:
                    yield _names.get(window, SHARED), None, window.available(now)
                else:
                    policy, _, function_id = scope.partition("\0")
                    yield policy, function_id or None, window.available(now)
