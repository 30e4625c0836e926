"""The pytest plugin: an engine for one test, and tests of retries that do not wait.

pytest imports this module in every project that has the library installed, so its imports are
light. Knows nothing of engines until a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from iii_resilience.testing.clock import FakeClock
    from iii_resilience.testing.loopback.engine import LoopbackEngine


@pytest.fixture
def loopback_engine() -> Iterator[LoopbackEngine]:
    """An engine on 127.0.0.1 for this test: `iii_resilience.testing.LoopbackEngine`.

    Budgets start full, circuits closed and bulkheads empty.
    """
    from iii_resilience.core.guards.scopes import forget_all  # noqa: PLC0415 - see above
    from iii_resilience.testing.loopback.engine import LoopbackEngine  # noqa: PLC0415 - see above

    forget_all()
    with LoopbackEngine() as engine:
        yield engine


@pytest.fixture
def fake_clock() -> Iterator[FakeClock]:
    """Delays take no time in this test, and deadlines see them pass all the same."""
    from iii_resilience.testing import clock  # noqa: PLC0415 - see above

    with clock.fake_clock() as made:
        yield made


@pytest.fixture
def no_sleep() -> Iterator[FakeClock]:
    """Delays are noted in ``slept`` in this test, and not slept."""
    from iii_resilience.testing import clock  # noqa: PLC0415 - see above

    with clock.no_sleep() as made:
        yield made


@pytest.fixture
def retries_off() -> Iterator[None]:
    """Every call has one attempt in this test."""
    from iii_resilience.testing import clock  # noqa: PLC0415 - see above

    with clock.retries_off():
        yield
