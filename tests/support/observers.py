"""The faults of observers that a test provokes on purpose."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest

from iii_resilience.core import observers


@attrs.frozen
class ObserverFaults:
    """What was reported of observers during this test."""

    def seen(self) -> set[tuple[str, str]]:
        """What was lost, and where which exception was raised."""
        return set(observers._reported)


@pytest.fixture
def observer_faults() -> Iterator[ObserverFaults]:
    """Marks a test whose observers raise: in any other one that is a mistake of the library's."""
    yield ObserverFaults()
    observers._reported.clear()
