"""The bucket of a budget: its level, its permits, and what it promises over any time."""

from __future__ import annotations

import copy
import math
import pickle
import random
import sys
import threading
from collections import deque
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from iii_resilience import Budget, RetryPolicy
from iii_resilience.core.guards.budget import PermitBucket

RATIO, BURST, TRICKLE = 0.1, 4.0, 0.05


class BucketMachine(RuleBasedStateMachine):
    """A bucket against the plain record of everything that happened to it."""

    def __init__(self) -> None:
        super().__init__()
        self.bucket = PermitBucket(RATIO, BURST, TRICKLE)
        self.now = 100.0
        self.passed = 0.0
        self.reserved = self.sent = self.ended = self.refunded = self.successes = 0

    @rule(seconds=st.floats(min_value=0, max_value=60))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.passed += seconds

    @rule(seconds=st.floats(min_value=1.5, max_value=1e9))
    def clock_goes_back(self, seconds: float) -> None:
        before = self.bucket.available(self.now)
        self.now -= seconds
        assert self.bucket.available(self.now) == before

    @rule(seconds=st.floats(min_value=0, max_value=1))
    def late_reading_of_clock_adds_nothing(self, seconds: float) -> None:
        before = self.bucket.available(self.now)
        assert self.bucket.available(self.now - seconds) == before
        assert self.bucket.available(self.now) == before

    @rule()
    def reserve(self) -> None:
        before = self.bucket.available(self.now)
        allowed = self.bucket.reserve(self.now)
        assert allowed == (before >= 1.0)
        self.reserved += allowed
        assert self.bucket.available(self.now) == before - allowed

    @precondition(lambda self: self.reserved > 0)
    @rule()
    def send(self) -> None:
        self.reserved -= 1
        self.sent += 1

    @precondition(lambda self: self.reserved > 0)
    @rule()
    def release(self) -> None:
        before = self.bucket.available(self.now)
        self.bucket.release()
        self.reserved -= 1
        assert self.bucket.available(self.now) == min(BURST, before + 1)

    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        permits = data.draw(st.integers(0, self.sent))
        before = self.bucket.available(self.now)
        self.bucket.succeeded(self.now, permits)
        self.sent -= permits
        self.refunded += permits
        self.successes += 1
        assert self.bucket.available(self.now) == pytest.approx(
            min(BURST, before + permits + RATIO)
        )

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        permits = data.draw(st.integers(0, self.sent))
        before = self.bucket.available(self.now)
        self.bucket.gave_up(self.now, permits)
        self.sent -= permits
        self.ended += permits
        assert self.bucket.available(self.now) == pytest.approx(max(0.0, before - 2 * RATIO))

    @precondition(lambda self: self.sent > 0)
    @rule()
    def abandon(self) -> None:
        before = self.bucket.available(self.now)
        self.bucket.abandoned(self.sent)
        self.ended += self.sent
        self.sent = 0
        assert self.bucket.available(self.now) == before

    @invariant()
    def level_stays_between_nothing_and_burst(self) -> None:
        assert 0.0 <= self.bucket.level <= BURST
        assert 0.0 <= self.bucket.available(self.now) <= BURST

    @invariant()
    def permits_not_given_back_stay_within_bound(self) -> None:
        most = BURST + RATIO * self.successes + TRICKLE * self.passed
        assert self.reserved + self.sent + self.ended <= most + 1e-6

    @invariant()
    def each_permit_ends_once(self) -> None:
        bucket = self.bucket
        assert bucket.taken == self.reserved + self.sent + self.ended + self.refunded
        assert (bucket.refunded, bucket.wasted) == (self.refunded, self.ended)

    @invariant()
    def empty_time_counts_only_while_empty(self) -> None:
        empty = self.bucket.empty_for(self.now)
        assert empty >= 0.0
        if self.bucket.level >= 1.0:
            assert empty == 0.0


TestBucketMachine = BucketMachine.TestCase
TestBucketMachine.settings = settings(
    max_examples=settings().max_examples * 3 // 5, stateful_step_count=60, deadline=None
)


def emptied(burst: float = 10.0, now: float = 100.0) -> PermitBucket:
    bucket = PermitBucket(0.1, burst, 0.0)
    while bucket.reserve(now):
        pass
    return bucket


class TestLevel:
    def test_burst_of_retries_then_no_more(self) -> None:
        bucket = PermitBucket(0.1, 10.0, 0.0)
        assert sum(bucket.reserve(0.0) for _ in range(1_000)) == 10

    def test_success_gives_back_what_its_retries_took(self) -> None:
        bucket = PermitBucket(0.0, 2.0, 0.0)
        for _ in range(50):
            assert bucket.reserve(0.0)
            assert bucket.reserve(0.0)
            assert not bucket.reserve(0.0)
            bucket.succeeded(0.0, 2)
        assert (bucket.taken, bucket.refunded, bucket.wasted) == (100, 100, 0)

    def test_calls_that_fail_twice_each_all_succeed(self) -> None:
        bucket = Budget().bucket_for()
        for _ in range(50):
            assert bucket.reserve(0.0)
            assert bucket.reserve(0.0)
            bucket.succeeded(0.0, 2)

    def test_successes_earn_ratio(self) -> None:
        bucket = emptied()
        for _ in range(15):
            bucket.succeeded(0.0)
        assert bucket.available(100.0) == pytest.approx(1.5)

    def test_failed_call_costs_twice_ratio(self) -> None:
        bucket = PermitBucket(0.1, 10.0, 0.0)
        bucket.gave_up(0.0)
        assert bucket.available(0.0) == pytest.approx(9.8)
        for _ in range(100):
            bucket.gave_up(0.0)
        assert bucket.available(0.0) == 0.0

    @pytest.mark.parametrize(("failing", "fills"), [(3, True), (4, False)])
    def test_it_fills_while_two_thirds_succeed(self, failing: int, fills: bool) -> None:
        bucket = emptied()
        for number in range(1_000):
            if number % 10 < failing:
                bucket.gave_up(100.0)
            else:
                bucket.succeeded(0.0)
        assert (bucket.available(100.0) > 5.0) == fills

    def test_time_adds_min_per_second(self) -> None:
        bucket = PermitBucket(0.0, 3.0, 0.005)
        assert sum(bucket.reserve(100.0) for _ in range(5)) == 3
        assert not bucket.reserve(299.0)
        assert bucket.reserve(301.0)
        assert bucket.available(1e6) == 3.0

    def test_unsent_retry_changes_nothing(self) -> None:
        bucket = PermitBucket(0.1, 1.0, 0.0)
        assert bucket.reserve(0.0)
        bucket.release()
        assert (bucket.available(0.0), bucket.taken, bucket.wasted) == (1.0, 0, 0)

    def test_empty_since_first_denial_was_possible(self) -> None:
        bucket = PermitBucket(0.1, 2.0, 0.0)
        assert bucket.reserve(10.0)
        assert bucket.empty_for(15.0) == 0.0
        assert bucket.reserve(20.0)
        assert bucket.empty_for(25.0) == 5.0
        bucket.gave_up(26.0)
        assert bucket.empty_for(30.0) == 10.0
        bucket.succeeded(0.0, 1)
        assert bucket.empty_for(31.0) == 0.0

    @given(
        st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 20)), max_size=300),
        st.floats(0, 1),
        st.floats(1, 50),
        st.floats(0, 0.01),
    )
    def test_with_all_calls_failing_retries_end(
        self, calls: list[tuple[float, int]], ratio: float, burst: float, trickle: float
    ) -> None:
        bucket, now, sent = PermitBucket(ratio, burst, trickle), 0.0, 0
        for pause, attempts in calls:
            now += pause
            permits = sum(bucket.reserve(now) for _ in range(attempts))
            sent += permits
            bucket.gave_up(now, permits)
        assert sent <= burst + trickle * now


class TestInFlight:
    def test_what_started_before_trouble_began_is_in_flight(self) -> None:
        bucket = PermitBucket(0.1, 3.0, 0.0)
        assert bucket.reserve(100.0)
        assert bucket.was_in_flight(99.9)
        assert not bucket.was_in_flight(100.0)
        bucket.gave_up(100.5, 1)
        assert bucket.reserve(101.0)
        assert not bucket.was_in_flight(100.2)

    def test_retry_under_way_before_it_is_no_trouble(self) -> None:
        bucket = PermitBucket(0.1, 4.0, 0.0)
        assert bucket.reserve(10.0)  # of another call, in its delay all the while
        assert [bucket.reserve(20.0) for _ in range(4)] == [True] * 3 + [False]  # of many at once
        assert bucket.was_in_flight(15.0)
        assert not bucket.was_in_flight(20.0)

    def test_many_retries_under_way_are_trouble(self) -> None:
        bucket = PermitBucket(0.1, 4.0, 0.0)
        assert [bucket.reserve(10.0 + second) for second in range(5)] == [True] * 4 + [False]
        assert bucket.was_in_flight(10.5)  # when the second of them failed
        assert not bucket.was_in_flight(11.5)

    def test_cost_of_failed_call_begins_trouble_too(self) -> None:
        bucket = PermitBucket(0.1, 2.0, 0.0)
        bucket.gave_up(50.0)
        bucket.reserve(60.0)
        assert bucket.was_in_flight(49.0)
        assert not bucket.was_in_flight(55.0)

    def test_new_bucket_has_seen_no_trouble(self) -> None:
        assert not PermitBucket(0.1, 2.0, 0.0).was_in_flight(0.0)

    def test_full_again_is_next_event(self) -> None:
        bucket = PermitBucket(0.1, 1.0, 0.0)
        for started in (100.0, 200.0):
            assert bucket.reserve(started)
            assert not bucket.was_in_flight(started)
            assert bucket.was_in_flight(started - 1)
            bucket.succeeded(0.0, 1)

    def test_failures_that_retries_repair_hide_no_trouble(self) -> None:
        bucket = PermitBucket(0.1, 2.0, 0.0)
        assert bucket.reserve(10.0)  # in its delay all the while
        bucket.succeeded(20.0)
        assert bucket.level < bucket.burst
        assert bucket.was_in_flight(19.0)
        assert not bucket.was_in_flight(20.0)

    def test_lost_permits_are_trouble(self) -> None:
        bucket = PermitBucket(0.1, 2.0, 0.0)
        assert bucket.reserve(10.0)
        bucket.gave_up(11.0, 1)
        bucket.succeeded(20.0)
        assert not bucket.was_in_flight(10.0)

    def test_clock_set_back_lets_nobody_start_before_trouble(self) -> None:
        bucket = PermitBucket(0.1, 1.0, 0.0)
        assert bucket.reserve(1e9)
        assert not bucket.reserve(50.0)
        assert not bucket.was_in_flight(50.0)

    def test_time_that_fills_it_ends_event(self) -> None:
        bucket = PermitBucket(0.1, 1.0, 1.0)
        assert bucket.reserve(10.0)
        assert bucket.reserve(20.0)
        assert bucket.was_in_flight(15.0)


class TestSharing:
    def test_one_bucket_for_scope_and_another_for_another(self) -> None:
        budget = Budget()
        assert budget.bucket_for() is budget.bucket_for()
        assert budget.bucket_for("a") is budget.bucket_for("a")
        assert budget.bucket_for("a") is not budget.bucket_for("b")

    def test_equal_budgets_are_equal_whatever_is_left(self) -> None:
        first, second = Budget(), Budget()
        first.bucket_for().reserve(0.0)
        assert first == second
        assert hash(first) == hash(second)
        assert first.bucket_for() is not second.bucket_for()
        assert "_states" not in repr(first)

    def test_changed_policy_shares_budget_changed_budget_does_not(self) -> None:
        policy = RetryPolicy()
        assert policy.replace(attempts=9).budget is policy.budget
        assert policy.budget is not None
        changed = attrs.evolve(policy.budget, ratio=0.5)
        assert changed.bucket_for() is not policy.budget.bucket_for()

    @pytest.mark.parametrize(
        "copied", [copy.deepcopy, lambda budget: pickle.loads(pickle.dumps(budget))]
    )
    def test_copy_of_used_budget_starts_full(self, copied: Any) -> None:
        budget = Budget(0.2, burst=1, min_per_second=0)
        assert budget.bucket_for().reserve(0.0)
        other = copied(budget)
        assert other == budget
        assert other.bucket_for().reserve(0.0)
        assert not other.bucket_for().reserve(0.0)
        assert not budget.bucket_for().reserve(0.0)

    def test_copy_of_used_bucket_has_same_numbers(self) -> None:
        bucket = PermitBucket(0.5, 2.0, 0.25)
        bucket.reserve(0.0)
        again = copy.copy(bucket)
        assert again.available(0.0) == 2.0
        assert again.reserve(0.0)
        assert again.reserve(0.0)
        again.succeeded(0.0)
        assert again.available(2.0) == 1.0

    def test_buckets_for_function_ids_without_end_do_not_pile_up(self) -> None:
        budget = Budget()
        for number in range(10_050):
            budget.bucket_for(f"t::{number}")
        assert len(budget._states) == 10_000
        assert "t::10049" in budget._states


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"ratio": -0.1},
            "Budget.ratio must be a finite number at least 0 and at most 1, got -0.1",
        ),
        ({"ratio": 20}, "Budget.ratio must be a finite number at least 0 and at most 1, got 20"),
        ({"min_per_second": math.inf}, "Budget.min_per_second must be a finite number"),
        ({"burst": 0.5}, "Budget.burst must be a finite number at least 1, got 0.5"),
    ],
)
def test_numbers_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**fields)


def test_window_is_refused_with_remedy() -> None:
    arguments: dict[str, Any] = {"ratio": 0.2, "min_per_second": 10, "window": 10}
    with pytest.raises(TypeError, match=r"Budget\.window: a budget has no window .* give 'burst'"):
        Budget(**arguments)
    with pytest.raises(TypeError, match=r"no field bursts; did you mean burst\?"):
        Budget(bursts=3)  # type: ignore[call-arg]


def test_numbers_in_their_old_places_are_refused() -> None:
    arguments: Any = (0.2, 10.0, 10.0)
    with pytest.raises(TypeError, match="positional"):
        Budget(*arguments)


class TestThreads:
    def test_many_threads_never_pass_burst_together(self) -> None:
        bucket = PermitBucket(0.0, 500.0, 0.0)
        won: deque[int] = deque()

        def work() -> None:
            for _ in range(200):
                if bucket.reserve(0.0):
                    won.append(1)

        run_threads(8, work)
        assert len(won) == 500

    @pytest.mark.bare  # counts switches between threads in the code as it stands
    def test_no_permit_is_lost_between_threads(self) -> None:
        bucket = PermitBucket(0.1, 50.0, 0.0)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)

        def work() -> None:
            draw = random.Random(1)
            for _ in range(3_000):
                if not bucket.reserve(0.0):
                    bucket.succeeded(0.0)
                elif draw.random() < 0.3:
                    bucket.release()
                elif draw.random() < 0.7:
                    bucket.succeeded(0.0, 1)
                else:
                    bucket.gave_up(0.0, 1)

        try:
            run_threads(8, work)
        finally:
            sys.setswitchinterval(interval)
        assert bucket.taken == bucket.refunded + bucket.wasted
        assert 0.0 <= bucket.level <= 50.0

    def test_permit_may_come_back_in_middle_of_another_call(self) -> None:
        bucket = PermitBucket(0.0, 1.0, 0.0)
        assert bucket.reserve(0.0)
        with bucket._lock:  # what the garbage collector may do to us
            bucket.release()
        assert bucket.reserve(0.0)


def run_threads(count: int, work: Any) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
