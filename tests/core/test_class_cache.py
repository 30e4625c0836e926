"""Values by class: looked up, bounded, and no class kept alive."""

from __future__ import annotations

import gc
import weakref

from iii_resilience.core import class_cache
from iii_resilience.core.class_cache import ClassCache


def made(number: int) -> type:
    return type(f"Made{number}", (), {})


def test_what_is_kept_is_found_for_the_class_itself_only() -> None:
    cache: ClassCache[str] = ClassCache()
    assert cache.get(int) is None
    cache.keep(int, "number")
    assert cache.get(int) == "number"
    assert cache.get(bool) is None
    cache.keep(int, "other")
    assert cache.get(int) == "other"
    assert len(cache) == 1


def test_class_that_is_gone_is_forgotten() -> None:
    cache: ClassCache[int] = ClassCache()
    kind = made(0)
    gone = weakref.ref(kind)
    cache.keep(kind, 1)
    del kind
    gc.collect()
    assert gone() is None
    assert len(cache) == 0


def test_another_class_of_the_same_number_is_not_found() -> None:
    cache: ClassCache[int] = ClassCache()
    kept, other = made(0), made(1)
    cache.keep(kept, 1)
    cache.kept[id(other)] = cache.kept[id(kept)]
    assert cache.get(other) is None


def test_end_of_a_class_leaves_a_later_entry_alone() -> None:
    cache: ClassCache[int] = ClassCache()
    kind = made(0)
    cache.keep(kind, 1)
    (first,) = cache.kept.values()
    cache.keep(kind, 2)
    removal = first[0].__callback__
    assert removal is not None
    removal(first[0])
    assert cache.get(kind) == 2


def test_cache_that_is_gone_is_not_asked() -> None:
    cache: ClassCache[int] = ClassCache()
    kind = made(0)
    cache.keep(kind, 1)
    (reference, _) = cache.kept[id(kind)]
    removal = reference.__callback__
    del cache
    gc.collect()
    assert removal is not None
    removal(reference)


def test_oldest_classes_are_forgotten_beyond_the_bound() -> None:
    cache: ClassCache[int] = ClassCache()
    kinds = [made(number) for number in range(class_cache.MOST + 10)]
    for number, kind in enumerate(kinds):
        cache.keep(kind, number)
    assert len(cache) == class_cache.MOST
    assert cache.get(kinds[9]) is None
    assert cache.get(kinds[10]) == 10
    assert cache.get(kinds[-1]) == len(kinds) - 1
