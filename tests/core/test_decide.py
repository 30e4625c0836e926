"""The decision about one failed attempt: rules that nothing overrides, limits, and delays."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_resilience import Backoff, Category, Execution, Failure, Reason, RetryPolicy
from iii_resilience.core.decide import NEVER_RETRIED, CallSoFar, Decision, decide, never_retried

NEVER = sorted(NEVER_RETRIED)
NOW = 100.0


def failure(code: str = "TIMEOUT", category: Category = Category.TRANSIENT, **more: Any) -> Failure:
    return Failure(code, category, more.pop("execution", Execution.MAYBE_EXECUTED), **more)


def decided(
    failed: Failure | None = None, policy: RetryPolicy | None = None, **call: Any
) -> Decision:
    user = {name: call.pop(name) for name in ("user_delay", "user_stop") if name in call}
    so_far = CallSoFar(**{"attempts": 1, "idempotent": True, **call})
    return decide(
        failed or failure(), policy or RetryPolicy(), so_far, now=NOW, random=lambda: 0.5, **user
    )


FAILURES = st.builds(
    Failure,
    code=st.sampled_from(["TIMEOUT", "invocation_stopped", "x", *NEVER]),
    category=st.sampled_from(Category),
    execution=st.sampled_from(Execution),
    throttled=st.booleans(),
    retry_after=st.none() | st.floats(allow_nan=True, allow_infinity=True),
    inner=st.none()
    | st.builds(
        Failure,
        code=st.sampled_from(["TIMEOUT", *NEVER]),
        category=st.sampled_from(Category),
        execution=st.sampled_from(Execution),
    ),
)
POLICIES = st.builds(
    RetryPolicy,
    attempts=st.integers(min_value=1, max_value=10_000),
    backoff=st.builds(Backoff, jitter=st.sampled_from(["full", "equal", "decorrelated", "none"])),
    retry_unexecuted=st.booleans(),
    max_stops=st.integers(min_value=1, max_value=5),
)
CALLS = st.builds(
    CallSoFar,
    attempts=st.integers(min_value=1, max_value=10_001),
    idempotent=st.booleans(),
    deadline_at=st.none() | st.floats(min_value=NOW - 10, max_value=NOW + 100),
    unexecuted=st.booleans(),
    stops=st.integers(min_value=0, max_value=5),
    previous_delay=st.none() | st.floats(min_value=0, max_value=1e9),
    asked=st.booleans(),
    already_retried=st.booleans(),
    swallowed=st.booleans(),
)


@given(
    FAILURES,
    POLICIES,
    CALLS,
    st.floats(min_value=0, max_value=1, exclude_max=True),
    st.none() | st.floats(min_value=0, max_value=1e9),
    st.booleans(),
)
def test_no_policy_and_no_call_overrides_rules(
    failed: Failure,
    policy: RetryPolicy,
    call: CallSoFar,
    draw: float,
    user_delay: float | None,
    user_stop: bool,
) -> None:
    decision = decide(
        failed,
        policy,
        call,
        now=NOW,
        random=lambda: draw,
        user_delay=user_delay,
        user_stop=user_stop,
    )
    assert decision.retry == (decision.reason is Reason.RETRIED)
    if not decision.retry:
        assert decision.delay is None
        return
    assert not {failed.code, failed.inner.code if failed.inner else ""} & NEVER_RETRIED
    assert call.asked or failed.category is Category.TRANSIENT
    assert call.asked or call.idempotent or (policy.retry_unexecuted and call.unexecuted)
    assert call.asked or not call.already_retried
    assert call.asked or not call.swallowed
    assert not user_stop
    assert call.attempts < policy.attempts
    assert call.stops < policy.max_stops
    delay = decision.delay
    assert delay is not None
    assert math.isfinite(delay)
    assert delay >= 0.0
    assert call.deadline_at is None or NOW + delay < call.deadline_at
    if user_delay is None:
        assert delay <= policy.backoff.cap
    if failed.retry_after is not None and not math.isnan(failed.retry_after):
        assert failed.retry_after <= delay


def test_transient_idempotent_failure_is_retried_with_delay() -> None:
    assert decided().reason is Reason.RETRIED
    assert decided().delay == pytest.approx(0.1)
    assert decided(attempts=3).delay == pytest.approx(0.4)


def test_throttled_failure_waits_longer() -> None:
    assert decided(failure(throttled=True)).delay == pytest.approx(0.5)


@pytest.mark.parametrize("code", NEVER)
@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_denials_are_never_retried_however_deep(code: str, asked: bool, depth: int) -> None:
    failed = failure(code)  # transient, as only a broken table would say
    for _ in range(depth):
        failed = failure(inner=failed)
    policy = RetryPolicy(retry_unexecuted=True, attempts=100)
    decision = decided(failed, policy, asked=asked, unexecuted=True)
    assert decision == Decision(Reason.NOT_RETRYABLE)


@pytest.mark.parametrize("category", [c for c in Category if c is not Category.TRANSIENT])
def test_what_is_not_transient_is_never_retried(category: Category) -> None:
    assert decided(failure("x", category)) == Decision(Reason.NOT_RETRYABLE)
    assert decided(failure("x", category), idempotent=False) == Decision(Reason.NOT_RETRYABLE)


def test_without_idempotent_nothing_is_retried() -> None:
    assert decided(idempotent=False) == Decision(Reason.NOT_IDEMPOTENT)


@pytest.mark.parametrize("unexecuted", [False, True])
@pytest.mark.parametrize("allowed", [False, True])
def test_not_executed_is_retried_only_if_policy_allows(unexecuted: bool, allowed: bool) -> None:
    policy = RetryPolicy(retry_unexecuted=allowed)
    decision = decided(policy=policy, idempotent=False, unexecuted=unexecuted)
    assert decision.retry == (unexecuted and allowed)


def test_try_again_needs_neither_transience_nor_idempotence() -> None:
    assert decided(failure("x", Category.PERMANENT), idempotent=False, asked=True).retry
    assert decided(idempotent=False, asked=True, attempts=4).reason is Reason.EXHAUSTED


def test_what_inner_retry_has_given_up_is_not_retried() -> None:
    assert decided(already_retried=True) == Decision(Reason.ALREADY_RETRIED)


def test_swallowed_cancellation_is_retried_only_by_try_again() -> None:
    assert decided(swallowed=True) == Decision(Reason.NOT_RETRYABLE)
    assert decided(swallowed=True, asked=True).retry


def test_limit_of_attempts_counts_first() -> None:
    assert decided(attempts=3).retry
    assert decided(attempts=4) == Decision(Reason.EXHAUSTED)
    assert decided(policy=RetryPolicy(attempts=1)) == Decision(Reason.EXHAUSTED)


def test_users_stop_is_or_ed_with_limits() -> None:
    assert decided(user_stop=True) == Decision(Reason.EXHAUSTED)


def test_users_wait_replaces_backoff_beyond_its_cap_too() -> None:
    assert decided(user_delay=33.0) == Decision(Reason.RETRIED, 33.0)
    assert decided(user_delay=0.0) == Decision(Reason.RETRIED, 0.0)


def test_third_stop_of_one_call_is_suspicious() -> None:
    assert decided(stops=2, policy=RetryPolicy(attempts=9)).retry
    assert decided(stops=3, policy=RetryPolicy(attempts=9)) == Decision(Reason.STOPPED)
    assert decided(stops=3, attempts=4) == Decision(Reason.STOPPED)


def test_delay_that_reaches_deadline_does_not_begin() -> None:
    assert decided(user_delay=5.0, deadline_at=NOW + 5.001).retry
    assert decided(user_delay=5.0, deadline_at=NOW + 5.0) == Decision(Reason.DEADLINE)
    assert decided(deadline_at=NOW - 1) == Decision(Reason.DEADLINE)


def test_pushback_is_floor_for_every_kind_of_delay() -> None:
    assert decided(failure(retry_after=3.0)) == Decision(Reason.RETRIED, 3.0)
    assert decided(failure(retry_after=3.0), user_delay=0.0).delay == 3.0
    assert decided(failure(retry_after=3.0), user_delay=4.0).delay == 4.0
    assert decided(failure(retry_after=0.0)).delay == pytest.approx(0.1)


def test_pushback_past_cap_or_deadline_gives_up() -> None:
    assert decided(failure(retry_after=20.0)).retry
    assert decided(failure(retry_after=20.1)) == Decision(Reason.PUSHBACK)
    assert decided(failure(retry_after=9.0), deadline_at=NOW + 9) == Decision(Reason.PUSHBACK)
    late = decided(failure(retry_after=1.0), deadline_at=NOW + 2, user_delay=3.0)
    assert late == Decision(Reason.DEADLINE)  # not for the server's sake


def test_reasons_are_documented_words() -> None:
    assert " ".join(Reason) == (
        "retried exhausted deadline budget_exhausted not_retryable not_idempotent already_retried "
        "circuit_open bulkhead_full pushback stopped not_ready handed_off"
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("CIRCUIT_OPEN", Reason.CIRCUIT_OPEN),
        ("BULKHEAD_FULL", Reason.BULKHEAD_FULL),
        ("DEADLINE_PASSED", Reason.DEADLINE),
    ],
)
def test_refusal_of_own_guard_ends_call_another_process_s_does_not(
    code: str, reason: Reason
) -> None:
    assert decided(failure(code, system="local")) == Decision(reason)
    assert decided(failure(code, system="local"), idempotent=False) == Decision(reason)
    assert decided(failure(code)).retry
    assert decided(failure("TIMEOUT", system="local")).retry


@pytest.mark.parametrize(("previous", "delay"), [(None, 2.0), (1.0, 2.0), (4.0, 6.5), (20.0, 20.0)])
def test_decorrelated_delay_grows_from_one_before_it(previous: float | None, delay: float) -> None:
    policy = RetryPolicy(backoff=Backoff(base=1.0, cap=20.0, jitter="decorrelated"))
    assert decided(policy=policy, previous_delay=previous).delay == delay


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_denial_is_found_at_any_depth_and_nothing_else_is(depth: int) -> None:
    for code, found in (("TIMEOUT", False), *((code, True) for code in NEVER)):
        failed = failure(code)
        for _ in range(depth):
            failed = failure("OUTER", inner=failed)
        assert never_retried(failed) is found
