"""The delays of a call: what is announced is what happens."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.policies_to_write import backoffs

from iii_resilience import Backoff, RetryPolicy
from iii_resilience.cli.retry_schedule import timetable


@given(backoffs(), st.integers(1, 25), st.integers(), st.booleans())
def test_every_delay_is_within_its_range(
    backoff: Backoff, attempts: int, seed: int, throttled: bool
) -> None:
    times = timetable(RetryPolicy(attempts=attempts, backoff=backoff, deadline=None))
    pick, previous, total = random.Random(seed), None, 0.0
    for step in times.steps[1:]:
        previous = backoff.delay(
            step.attempt - 2, pick.random, throttled=throttled, previous=previous
        )
        total += previous
        most = step.throttled_most if throttled else step.most
        assert previous <= most * (1 + 1e-9)
        if not throttled:
            assert previous >= step.least * (1 - 1e-9)
    assert total <= (times.throttled_delays if throttled else times.delays) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("jitter", "ranges"),
    [
        ("full", [(0, 1), (0, 2), (0, 4), (0, 5)]),
        ("equal", [(0.5, 1), (1, 2), (2, 4), (2.5, 5)]),
        ("none", [(1, 1), (2, 2), (4, 4), (5, 5)]),
        ("decorrelated", [(1, 3), (1, 5), (1, 5), (1, 5)]),
    ],
)
def test_ranges_are_those_of_jitter(jitter: str, ranges: list[tuple[float, float]]) -> None:
    policy = RetryPolicy(attempts=5, backoff=Backoff(1, 2, 5, 1, jitter))
    steps = timetable(policy).steps
    assert [(step.least, step.most) for step in steps[1:]] == ranges


def test_policy_of_countless_attempts_is_summed_up_at_once() -> None:
    policy = RetryPolicy(attempts=10**12, backoff=Backoff(1, 2, 4, 1), deadline=None)
    times = timetable(policy)
    assert len(times.steps) == 20
    assert times.delays == 1 + 2 + 4.0 * (10**12 - 3)
    flat = RetryPolicy(attempts=10**12, backoff=Backoff(0, 1, 4, 0), deadline=None)
    assert timetable(flat).delays == 0


def test_deadline_bounds_everything() -> None:
    times = timetable(RetryPolicy(attempts=50, deadline=30.0))
    assert times.delays == times.throttled_delays == times.ends_within == 30.0


def test_without_deadline_each_attempt_may_wait_and_run() -> None:
    policy = RetryPolicy(
        attempts=2, backoff=Backoff(1, 2, 5, 2), deadline=None, ready_timeout=5, attempt_timeout=3
    )
    assert timetable(policy).ends_within == 2 * (5 + 3) + 2
    assert timetable(policy.replace(attempt_timeout=None)).ends_within == 2 * (5 + 30) + 2


def test_one_attempt_has_no_delay() -> None:
    times = timetable(RetryPolicy(attempts=1))
    assert (len(times.steps), times.delays) == (1, 0)
