"""A worker that is killed again and again: a short form of `make bench-kills`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
from support import kills

from iii_resilience import Enqueue, RetryPolicy

# As many callers as the burst of the default budget: whatever is in flight at a kill is repeated.
SHORT = kills.Setting(seconds=5.0, threads=3, tasks=7, calls=12)
# The benchmark's bound is 1 %; here the machine may be busy with other things. Then every call
# that is on its way when the engine learns of a kill counts: one a caller, of more than twelve.
MOST = 0.1
# The next worker is a new process, which a busy machine takes its time to start.
PATIENT = RetryPolicy(ready_timeout=60.0, deadline=120.0)


def resilient(client: Any) -> kills.Ours:
    return kills.Ours(client, PATIENT)


def with_queue(client: Any) -> kills.Ours:
    return kills.Ours(client, RetryPolicy(fallback=Enqueue(kills.QUEUE)))


def test_only_calls_with_first_attempt_at_kill_fail(
    tmp_path: Path,
) -> None:
    result = kills.run(resilient, SHORT, tmp_path)
    assert result.kills >= 2
    assert {(told.outcome, told.attempts) for told in result.failed} <= {("function_not_found", 1)}
    assert result.share <= MOST, result.codes
    assert result.lost == []


def test_with_queue_as_fallback_no_call_fails_or_is_lost(tmp_path: Path) -> None:
    result = kills.run(with_queue, SHORT, tmp_path)
    assert result.kills >= 2
    assert result.failed == []
    assert result.lost == []


def test_it_is_registered_wait_that_does_it(tmp_path: Path) -> None:
    """This is how the first test fails where the wait is missing."""
    setting = attrs.evolve(SHORT, seconds=3.0)
    result = kills.run(kills.CONTENDERS["resilient, registered wait off"], setting, tmp_path)
    assert result.kills >= 1
    assert result.share > MOST, result.codes
