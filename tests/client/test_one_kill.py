"""What was in flight when trouble began is repaired, however many calls it were."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.one_kill import through_decorator, through_trigger

from iii_resilience import RetryPolicy

SIZES = [50, pytest.param(500, marks=pytest.mark.long)]


# With failures at random one retry in 20 fails in its turn. The next one needs a permit, which it
# may lack as long as the bucket is empty.
AT_RANDOM = [(0.0, 0.01), (0.05, 0.1)]


@pytest.mark.parametrize(("failing", "most"), AT_RANDOM)
@pytest.mark.parametrize("calls", SIZES)
def test_calls_on_killed_worker_are_repaired(
    calls: int, failing: float, most: float, tmp_path: Path
) -> None:
    assert through_trigger(calls, tmp_path, failing=failing) <= calls * most


@pytest.mark.parametrize(("failing", "most"), AT_RANDOM)
@pytest.mark.parametrize("calls", [50, 500])
def test_calls_on_restarted_server_are_repaired(calls: int, failing: float, most: float) -> None:
    assert through_decorator(calls, failing=failing) <= calls * most


def test_without_retries_they_all_fail() -> None:
    assert through_decorator(50, RetryPolicy(attempts=1)) == 50
