"""What is known of a class, looked up instead of computed again: bounded, and keeps no class alive.

Knows nothing of what is kept.
"""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

T = TypeVar("T")

MOST = 1024
"""Classes that one cache knows; beyond it the oldest ones are computed anew."""


class ClassCache(Generic[T]):
    """Values by class.

    A class is found by its ``id``, which a dict compares fastest; its weak reference removes it
    before that number can be another's. Safe to use from several threads: each step is one of a
    dict's own.

    Attributes:
        kept: Reference and value by ``id``; read directly where a frame counts.
    """

    __slots__ = ("__weakref__", "kept")

    def __init__(self) -> None:
        self.kept: dict[int, tuple[weakref.ref[type], T]] = {}

    def __len__(self) -> int:
        return len(self.kept)

    def get(self, kind: type) -> T | None:
        """What is kept for a class, or None.

        Args:
            kind: The class.
        """
        found = self.kept.get(id(kind))
        return None if found is None or found[0]() is not kind else found[1]

    def keep(self, kind: type, value: T) -> None:
        """Keep a value for a class as long as the class lives.

        Args:
            kind: The class.
            value: The value; it must not hold the class.
        """
        kept, number = self.kept, id(kind)
        for oldest in list(kept)[: max(0, len(kept) + 1 - MOST)]:
            kept.pop(oldest, None)  # another thread may have done it
        kept[number] = (weakref.ref(kind, _Removal(self, number)), value)


class _Removal:
    """Removes what a cache keeps of a class, once the class is gone."""

    __slots__ = ("_cache", "_number")

    def __init__(self, cache: ClassCache[T], number: int) -> None:
        self._cache = weakref.ref(cache)
        self._number = number

    def __call__(self, gone: weakref.ref[type]) -> None:
        cache = self._cache()
        if cache is None:
            return
        found = cache.kept.get(self._number)
        if found is not None and found[0] is gone:
            cache.kept.pop(self._number, None)
