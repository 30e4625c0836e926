"""The plain loop, tenacity's state machine and a user's own Retrying decide alike."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import attrs
import tenacity
from hypothesis import given
from hypothesis import strategies as st
from iii import InvocationError

from iii_resilience import Backoff, Budget, Reason, RetryPolicy, iii_retry, report_for, retrying
from iii_resilience.core.guards import scopes

if TYPE_CHECKING:
    from conftest import ClockMaker

ERRORS: dict[str, Callable[[], Exception]] = {
    "stopped": lambda: InvocationError("invocation_stopped", "x"),
    "throttled": lambda: InvocationError("RATE_LIMITED", "retry after 300ms"),
    "long pushback": lambda: InvocationError("RATE_LIMITED", "retry after 999000ms"),
    "forbidden": lambda: InvocationError("FORBIDDEN", "x"),
    "timeout": lambda: InvocationError("TIMEOUT", "x"),
    "own": lambda: ValueError("x"),
    "again": tenacity.TryAgain,
}


@attrs.frozen
class Course:
    """What one call came to."""

    value: str | None
    error: str | None
    reason: Reason | None
    delays: tuple[float, ...]
    slept: tuple[float, ...]


def policies() -> st.SearchStrategy[RetryPolicy]:
    return st.builds(
        RetryPolicy,
        attempts=st.integers(1, 6),
        backoff=st.builds(
            Backoff,
            base=st.sampled_from([0.0, 0.1, 1.0]),
            cap=st.sampled_from([1.0, 5.0]),
            throttled_base=st.sampled_from([0.0, 0.5, 1.0]),
            jitter=st.sampled_from(["full", "equal", "none", "decorrelated"]),
        ),
        deadline=st.sampled_from([None, 0.5, 3.0, 60.0]),
        budget=st.sampled_from([None, Budget(ratio=0.0, burst=2, min_per_second=0)]),
    )


def made(
    make_clock: ClockMaker, call: Callable[[Callable[[], str]], Any], names: list[str]
) -> Course:
    """Make one call whose attempts fail with these errors, on a clock of its own."""
    errors = [ERRORS[name]() for name in names]

    def attempt() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    raised: Exception | None = None
    value = None
    with make_clock() as clock, patch.object(random, "random", random.Random(7).random):
        try:
            value = call(attempt)
        except Exception as error:
            raised = error
    report = None if raised is None else report_for(raised)
    return Course(
        value,
        None if raised is None else type(raised).__name__,
        None if report is None else report.reason,
        () if report is None else tuple(one.delay for one in report.attempts),
        tuple(clock.slept),
    )


def decorated(policy: RetryPolicy) -> Callable[[Callable[[], str]], str]:
    return lambda attempt: iii_retry(idempotent=True, policy=policy)(attempt)()


def decorated_coroutine(policy: RetryPolicy) -> Callable[[Callable[[], str]], str]:
    def call(attempt: Callable[[], str]) -> str:
        @iii_retry(idempotent=True, policy=policy)
        async def coroutine() -> str:
            return attempt()

        return asyncio.run(coroutine())

    return call


def looped(policy: RetryPolicy) -> Callable[[Callable[[], str]], str]:
    def call(attempt: Callable[[], str]) -> str:
        for tried in retrying(idempotent=True, policy=policy):
            with tried:
                return attempt()
        raise AssertionError("the loop ends with the block or an error")

    return call


@given(policies(), st.lists(st.sampled_from(sorted(ERRORS)), max_size=7))
def test_plain_loop_and_tenacity_decide_alike(
    fake_clock: ClockMaker, policy: RetryPolicy, names: list[str]
) -> None:
    def fresh(**more: Any) -> RetryPolicy:  # with a budget of its own
        scopes._first.clear()
        budget = policy.budget and attrs.evolve(policy.budget)
        return policy.replace(budget=budget, **more)

    plain = made(fake_clock, decorated(fresh()), names)
    driven = fresh(stop=tenacity.stop_never)
    assert made(fake_clock, decorated(driven), names) == plain
    for call in (decorated_coroutine, looped):
        assert made(fake_clock, call(fresh()), names) == plain
        assert made(fake_clock, call(fresh(stop=tenacity.stop_never)), names) == plain


@given(policies(), st.lists(st.sampled_from(sorted({*ERRORS} - {"again"})), max_size=7))
def test_users_own_retrying_decides_alike(
    fake_clock: ClockMaker, policy: RetryPolicy, names: list[str]
) -> None:
    policy = policy.replace(budget=None)
    plain = made(fake_clock, decorated(policy), names)
    own = tenacity.Retrying(**policy.to_tenacity(idempotent=True))
    assert made(fake_clock, own, names) == plain
