"""The retry budget: its bound, its permits, its window, and that it is shared as it should be."""

from __future__ import annotations

import copy
import pickle
import random
import sys
import threading
from collections import deque
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from iii_resilience import Budget, RetryPolicy
from iii_resilience.core.guards.budget import BudgetWindow

WINDOW = 10.0
RATIO = 0.2
ALLOWANCE = 3.0


class BudgetMachine(RuleBasedStateMachine):
    """A window against the plain record of everything that happened to it."""

    def __init__(self) -> None:
        super().__init__()
        self.window = BudgetWindow(RATIO, ALLOWANCE, WINDOW)
        self.now = 100.0
        self.calls: list[float] = []
        self.sent: list[float] = []
        self.reserved = 0

    def within(self, times: list[float], length: float) -> int:
        return sum(time > self.now - length for time in times)

    @rule(seconds=st.floats(min_value=0, max_value=25))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(min_value=1, max_value=30))
    def called(self, count: int) -> None:
        for _ in range(count):
            self.window.called(self.now)
            self.calls.append(self.now)

    @rule()
    def reserve(self) -> None:
        busy = self.reserved + 1
        allowed = self.window.reserve(self.now)
        if allowed:
            # No more than what the calls of the last window allow …
            most = RATIO * self.within(self.calls, WINDOW) + ALLOWANCE
            assert self.within(self.sent, WINDOW) + busy <= most + 1e-9
            self.reserved += 1
        else:
            # … and no less: what is counted too carefully is one bucket at either end.
            least = RATIO * self.within(self.calls, 0.9 * WINDOW) + ALLOWANCE
            assert self.within(self.sent, 1.1 * WINDOW) + busy > least - 1e-9

    @precondition(lambda self: self.reserved > 0)
    @rule()
    def spend(self) -> None:
        self.window.spend(self.now)
        self.sent.append(self.now)
        self.reserved -= 1

    @precondition(lambda self: self.reserved > 0)
    @rule()
    def release(self) -> None:
        self.window.release()
        self.reserved -= 1

    @invariant()
    def what_is_available_is_never_negative_and_never_too_much(self) -> None:
        available = self.window.available(self.now)
        most = RATIO * self.within(self.calls, WINDOW) + ALLOWANCE
        assert 0.0 <= available <= max(0.0, most - self.reserved) + 1e-9


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = settings(
    max_examples=settings().max_examples * 3 // 5, stateful_step_count=60, deadline=None
)


def test_permit_is_reserved_spent_and_free_again_after_window() -> None:
    window = BudgetWindow(0.0, 1.0, 10.0)
    assert window.reserve(0.0)
    assert not window.reserve(0.0)
    window.spend(0.0)
    assert not window.reserve(9.9)
    assert window.reserve(11.0)


def test_released_permit_is_free_at_once() -> None:
    window = BudgetWindow(0.0, 1.0, 10.0)
    assert window.reserve(0.0)
    window.release()
    assert window.reserve(0.0)


def test_permits_of_retries_that_still_wait_count() -> None:
    window = BudgetWindow(0.0, 10.0, 10.0)
    assert sum(window.reserve(0.0) for _ in range(1_000)) == 10


def test_calls_older_than_window_allow_nothing() -> None:
    window = BudgetWindow(0.2, 0.0, 10.0)
    for _ in range(100):
        window.called(0.0)
    assert window.available(9.0) == 20.0
    assert window.available(10.5) == 0.0
    assert not window.reserve(10.5)


def test_out_of_order_clock_reads_do_no_harm() -> None:
    window = BudgetWindow(1.0, 0.0, 10.0)
    window.called(100.0)
    window.called(93.0)
    assert window.available(100.0) == 2.0


def test_pause_of_any_length_empties_window() -> None:
    window = BudgetWindow(1.0, 0.0, 10.0)
    window.called(1.0)
    assert window.available(1e12) == 0.0


def test_load_at_total_failure_is_bounded() -> None:
    window = Budget().window_for()
    calls, rate, sent, now = 10_000, 100.0, 0, 0.0
    for _ in range(calls):
        now += 1 / rate
        window.called(now)
        for _ in range(3):
            if window.reserve(now):
                window.spend(now)
                sent += 1
    # The minimum starts with a whole window's worth.
    minimum = 10 * (calls / rate + 10)
    assert calls * 0.2 < sent <= calls * 0.2 + minimum


@pytest.mark.parametrize("seed", range(3))
def test_at_five_percent_failures_nobody_is_refused(seed: int) -> None:
    window, draw, now, refused = Budget().window_for(), random.Random(seed), 0.0, 0
    for _ in range(10_000):
        now += 0.01
        window.called(now)
        attempts = 1
        while attempts < 4 and draw.random() < 0.05:
            if not window.reserve(now):
                refused += 1
                break
            window.spend(now)
            attempts += 1
    assert refused / 10_000 <= 0.001


def test_many_threads_never_pass_bound_together() -> None:
    window = BudgetWindow(0.0, 500.0, 1e9)
    won: deque[int] = deque()

    def work() -> None:
        for _ in range(200):
            if window.reserve(0.0):
                window.spend(0.0)
                won.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 500


def test_each_scope_has_its_own_count() -> None:
    budget = Budget()
    assert budget.window_for() is budget.window_for()
    assert budget.window_for("a") is budget.window_for("a")
    assert budget.window_for("a") is not budget.window_for("b")


def test_equal_budgets_have_separate_counts() -> None:
    first, second = Budget(), Budget()
    first.window_for().called(0.0)
    assert first == second
    assert hash(first) == hash(second)
    assert first.window_for() is not second.window_for()
    assert "_states" not in repr(first)


def test_changed_policy_shares_budget_changed_budget_does_not() -> None:
    policy = RetryPolicy()
    assert policy.replace(attempts=9).budget is policy.budget
    assert policy.budget is not None
    changed = attrs.evolve(policy.budget, ratio=0.5)
    assert changed.window_for() is not policy.budget.window_for()


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda budget: pickle.loads(pickle.dumps(budget))]
)
def test_copy_of_used_budget_counts_for_itself(copied: Any) -> None:
    budget = Budget(ratio=0, min_per_second=0.1, window=10)
    assert budget.window_for().reserve(0.0)
    other = copied(budget)
    assert other == budget
    assert other.window_for().reserve(0.0)
    assert not other.window_for().reserve(0.0)
    assert not budget.window_for().reserve(0.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": -0.1}, "Budget.ratio must be a finite number at least 0, got -0.1"),
        ({"min_per_second": float("inf")}, "Budget.min_per_second must be a finite number"),
        ({"window": 0}, "Budget.window must be a finite number of seconds above 0, got 0"),
    ],
)
def test_budget_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**fields)


def test_clock_set_back_by_more_than_window_starts_anew() -> None:
    window = BudgetWindow(ratio=0.0, allowance=1.0, window=10.0)
    assert window.reserve(1e9)
    window.spend(1e9)
    assert not window.reserve(1e9)
    assert window.reserve(50.0)


def test_calls_by_clock_that_was_set_back_count_at_once() -> None:
    window = BudgetWindow(ratio=1.0, allowance=0.0, window=10.0)
    for now in (1e9, 1e9, 50.0):
        window.called(now)
    assert window.available(50.0) == 1.0


@pytest.mark.bare  # counts switches between threads in the code as it stands
def test_no_call_of_many_threads_is_lost() -> None:
    window = BudgetWindow(ratio=1.0, allowance=0.0, window=1e6)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def calls() -> None:
        for _ in range(5_000):
            window.called(1.0)

    try:
        threads = [threading.Thread(target=calls) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert window.available(1.0) == 40_000


def test_permit_may_come_back_in_middle_of_another_call() -> None:
    window = BudgetWindow(ratio=0.0, allowance=1.0, window=10.0)
    assert window.reserve(0.0)
    with window._lock:  # what the garbage collector may do to us
        window.release()
    assert window.reserve(0.0)


def test_counts_for_function_ids_without_end_do_not_pile_up() -> None:
    budget = Budget()
    for number in range(10_050):
        budget.window_for(f"t::{number}")
    assert len(budget._states) == 10_000
    assert "t::10049" in budget._states


def test_copy_of_used_count_has_the_same_numbers() -> None:
    window = BudgetWindow(0.0, 2.0, 10.0)
    again = copy.copy(window)
    assert again.reserve(100.0)
    again.spend(100.0)
    assert again.available(109.0) == 1.0
    assert again.available(112.0) == 2.0
