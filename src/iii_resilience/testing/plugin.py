"""The pytest plugin: a fixture that runs an engine for one test.

Knows nothing of engines until the fixture is used: pytest imports this module in every project
that has the library installed, so its imports stay light.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from iii_resilience.testing.loopback import LoopbackEngine


@pytest.fixture
def loopback_engine() -> Iterator[LoopbackEngine]:
    """An engine on 127.0.0.1 for this test: `iii_resilience.testing.LoopbackEngine`."""
    from iii_resilience.testing.loopback import LoopbackEngine  # noqa: PLC0415 - see above

    with LoopbackEngine() as engine:
        yield engine
