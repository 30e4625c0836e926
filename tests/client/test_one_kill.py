"""What was in flight when trouble began is repaired, however many calls it were."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.one_kill import through_decorator, through_trigger

from iii_resilience import RetryPolicy

# Calls, the part of attempts that fails at random, and the part of the calls that may fail for it:
# one retry in 20 fails in its turn, and the next one needs a permit, which it may lack as long as
# the bucket is empty. Of 50 retries up to four do so, of 500 up to 26.
CASES = [(50, 0.0, 0.01), (50, 0.05, 0.1), (500, 0.0, 0.01), (500, 0.05, 0.05)]
CASES_OF_WORKER = [
    pytest.param(*case, marks=[pytest.mark.long] if case[0] > 50 else []) for case in CASES
]


@pytest.mark.parametrize(("calls", "failing", "most"), CASES_OF_WORKER)
def test_calls_on_killed_worker_are_repaired(
    calls: int, failing: float, most: float, tmp_path: Path
) -> None:
    assert through_trigger(calls, tmp_path, failing=failing) <= calls * most


@pytest.mark.parametrize(("calls", "failing", "most"), CASES)
def test_calls_on_restarted_server_are_repaired(calls: int, failing: float, most: float) -> None:
    assert through_decorator(calls, failing=failing) <= calls * most


def test_without_retries_they_all_fail() -> None:
    assert through_decorator(50, RetryPolicy(attempts=1)) == 50
