"""Which row of the table of libraries' exceptions an exception has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from iii_resilience import Failure, classify
from iii_resilience.core.classifiers.library_exceptions import ROWS

_BY_CLASS = {f"{row.module}.{row.name.rpartition('.')[2]}": row for row in ROWS} | {
    row.name: row for row in ROWS
}


def row_names(libraries: Iterable[str]) -> list[str]:
    """The names of the rows of some libraries.

    Args:
        libraries: The first parts of the names of their modules.
    """
    wanted = set(libraries)
    return [row.name for row in ROWS if row.module.partition(".")[0] in wanted]


def check_provoked(name: str, call: Callable[[], Any]) -> Failure:
    """That a call raises what the row of a name, and none before it, knows; returns the failure."""
    with pytest.raises(Exception) as caught:
        call()
    found = [_BY_CLASS.get(f"{kind.__module__}.{kind.__qualname__}") for kind in _mro(caught.value)]
    first = next((row for row in found if row is not None), None)
    assert first is not None, type(caught.value)
    assert first.name == name, type(caught.value)
    failure = classify(caught.value)
    assert (failure.system, failure.origin, failure.known) == ("local", "library", True)
    assert not failure.proves_unexecuted
    if first.detail is None and first.cause is None:
        expected = (first.category, first.execution, first.throttled)
        assert (failure.category, failure.execution, failure.throttled) == expected
    return failure


def _mro(error: BaseException) -> tuple[type, ...]:
    return type(error).__mro__
