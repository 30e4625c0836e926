"""The budgets and bulkheads in use, with the policies and functions that they belong to.

Knows nothing of metrics.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator

from iii_resilience.core.guards.budget import PermitBucket
from iii_resilience.core.guards.bulkhead import Slots
from iii_resilience.core.guards.scopes import Scope, everything

INLINE = "inline"
"""Stands for the policy's name where the policy was given in code."""

_names: weakref.WeakKeyDictionary[PermitBucket, str] = weakref.WeakKeyDictionary()


def named(bucket: PermitBucket, policy: str) -> None:
    """Say which policy a bucket belongs to.

    Args:
        bucket: The bucket.
        policy: The policy's name. One that is shared keeps the first name that it was given.
    """
    if _names.setdefault(bucket, policy) == INLINE:
        _names[bucket] = policy


def buckets() -> Iterator[tuple[str, str | None, PermitBucket]]:
    """Policy, function (None where functions share it) and bucket of every budget in use."""
    for kept in everything():
        for scope, bucket in list(kept.items()):
            if isinstance(bucket, PermitBucket):
                yield _names.get(bucket, INLINE), _function(scope), bucket


def bulkheads() -> Iterator[tuple[str, Slots]]:
    """Function id and places of every bulkhead in use."""
    for kept in everything():
        for scope, slots in list(kept.items()):
            if isinstance(slots, Slots) and (function_id := _function(scope)) is not None:
                yield function_id, slots


def _function(scope: Scope) -> str | None:
    """The function alone: metrics have no namespace, as what they say of calls."""
    return scope[1] if isinstance(scope, tuple) else scope
