"""The schedule of a call's attempts: the range of each delay, and the longest total time.

Takes a policy and returns a `RetrySchedule`. Knows nothing of terminals or files.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from iii_resilience.core.backoff import Backoff
from iii_resilience.core.policy import RetryPolicy

SDK_TIMEOUT = 30.0
"""Seconds after which the SDK itself gives up waiting for an answer (docs/engine-notes.md, 6)."""

_ROWS = 20  # attempts that are listed; what follows is like the last one


@attrs.frozen
class Step:
    """What comes before one attempt; all times are seconds.

    Attributes:
        attempt: Its number, from 1.
        least: Shortest delay before it.
        most: Longest delay before it.
        throttled_most: Longest delay if the failure before it was throttled.
    """

    attempt: int
    least: float
    most: float
    throttled_most: float


@attrs.frozen
class RetrySchedule:
    """The attempts of one call, all of which fail; all times are seconds.

    Attributes:
        steps: The first attempts.
        attempts: How many there are at most.
        delays: The longest all delays can take together; the deadline bounds it.
        throttled_delays: The same if every failure is throttled.
        ends_within: The longest a call through the engine can take: every attempt waits for its
            function, and for its answer until its timeout.
    """

    steps: tuple[Step, ...]
    attempts: int
    delays: float
    throttled_delays: float
    ends_within: float


def timetable(policy: RetryPolicy) -> RetrySchedule:
    """The timetable of a policy's calls.

    Args:
        policy: The policy. Its `wait` and `stop`, which only code can set, are not looked at.
    """
    backoff, attempts = policy.backoff, policy.attempts
    ranges = zip(_ranges(backoff, throttled=False), _ranges(backoff, throttled=True), strict=False)
    steps = [Step(1, 0.0, 0.0, 0.0)]
    for (least, most), (_, throttled) in ranges:
        if len(steps) >= min(attempts, _ROWS):
            break
        steps.append(Step(len(steps) + 1, least, most, throttled))
    longest = float("inf") if policy.deadline is None else policy.deadline
    delays = _sum(backoff, attempts - 1, longest, throttled=False)
    throttled_delays = _sum(backoff, attempts - 1, longest, throttled=True)
    timeout = policy.attempt_timeout if policy.attempt_timeout is not None else SDK_TIMEOUT
    each = attempts * (policy.ready_timeout + timeout)
    return RetrySchedule(
        tuple(steps),
        attempts,
        delays,
        throttled_delays,
        min(longest, each + max(delays, throttled_delays)),
    )


def _ranges(backoff: Backoff, *, throttled: bool) -> Iterator[tuple[float, float]]:
    """The shortest and longest delay before each retry, without end."""
    retry, before = 0, backoff.slow_base if throttled else backoff.base
    while True:
        least = backoff.delay(retry, lambda: 0.0, throttled=throttled, previous=before)
        most = backoff.delay(retry, lambda: 1.0, throttled=throttled, previous=before)
        yield least, most
        retry, before = retry + 1, most


def _sum(backoff: Backoff, retries: int, longest: float, *, throttled: bool) -> float:
    """The longest that a number of delays can take, in a time that does not grow with it."""
    total, before = 0.0, None
    for retry, (_, most) in enumerate(_ranges(backoff, throttled=throttled)):
        if retry >= retries or total >= longest:
            break
        if most == before:  # from here on all are alike
            total += most * (retries - retry)
            break
        total, before = total + most, most
    return min(total, longest)
