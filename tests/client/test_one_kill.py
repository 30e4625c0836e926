"""What was in flight when trouble began is repaired, however many calls it were."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.one_kill import through_decorator, through_trigger

from iii_resilience import RetryPolicy

SIZES = [50, pytest.param(500, marks=pytest.mark.long)]


@pytest.mark.parametrize("calls", SIZES)
def test_calls_on_killed_worker_are_repaired(calls: int, tmp_path: Path) -> None:
    assert through_trigger(calls, tmp_path) <= calls // 100


@pytest.mark.parametrize("calls", [50, 500])
def test_calls_on_restarted_server_are_repaired(calls: int) -> None:
    assert through_decorator(calls) <= calls // 100


def test_without_retries_they_all_fail() -> None:
    assert through_decorator(50, RetryPolicy(attempts=1)) == 50
