"""A guard that takes another one's place: what was counted, and who is inside, stays."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import iii_resilience.core.guards.scopes as kept_room
from iii_resilience import Breaker, Budget, Bulkhead
from iii_resilience.core.guards.breaker import CircuitState, Rejection, Ticket
from iii_resilience.core.guards.budget import BudgetWindow
from iii_resilience.core.guards.scopes import ScopedStates


class TestBudget:
    """A budget stays as full as it was."""

    @staticmethod
    def used(window: BudgetWindow, retries: int, now: float = 100.0) -> None:
        for _ in range(retries):
            assert window.reserve(now)
            window.spend(now)

    def test_a_budget_that_is_used_to_three_quarters_stays_so(self) -> None:
        before = Budget(ratio=0, min_per_second=2, window=10)
        self.used(before.window_for("f"), 15)
        after = Budget(ratio=0, min_per_second=8, window=10)
        after.continues(before, 100.0)
        assert after.window_for("f").available(100.0) == pytest.approx(20)

    def test_an_empty_budget_stays_empty_until_its_window_has_passed(self) -> None:
        before = Budget(ratio=0, min_per_second=1, window=10)
        self.used(before.window_for(), 10)
        after = Budget(ratio=0, min_per_second=100, window=10)
        after.continues(before, 100.0)
        assert not after.window_for().reserve(101.0)
        assert after.window_for().available(111.0) == 1000

    def test_a_fresh_budget_gets_all_of_its_new_permits(self) -> None:
        before = Budget(ratio=0, min_per_second=1, window=10)
        before.window_for()
        after = Budget(ratio=0, min_per_second=3, window=10)
        after.continues(before, 100.0)
        assert after.window_for().available(100.0) == 30

    def test_calls_count_on_at_their_rate_when_the_window_grows(self) -> None:
        before = Budget(ratio=0.1, min_per_second=0, window=10)
        for _ in range(100):
            before.window_for().called(100.0)
        after = Budget(ratio=0.1, min_per_second=0, window=20)
        after.continues(before, 100.0)
        assert after.window_for().available(100.0) == pytest.approx(20)

    def test_what_had_left_the_window_does_not_come_back_with_a_longer_one(self) -> None:
        before = Budget(ratio=0, min_per_second=1, window=10)
        self.used(before.window_for(), 10, now=100.0)
        after = Budget(ratio=0, min_per_second=1, window=1000)
        after.continues(before, 150.0)
        assert after.window_for().available(150.0) == 1000

    def test_what_is_in_the_window_leaves_it_in_time_when_it_has_another_length(self) -> None:
        before = Budget(ratio=0, min_per_second=1, window=10)
        self.used(before.window_for(), 10, now=100.0)
        after = Budget(ratio=0, min_per_second=1, window=100)
        after.continues(before, 100.0)
        assert not after.window_for().reserve(190.0)
        assert after.window_for().available(211.0) == 100

    def test_permits_reserved_before_are_given_back_after(self) -> None:
        before = Budget(ratio=0, min_per_second=0.2, window=10)
        window = before.window_for()
        assert window.reserve(100.0)
        assert window.reserve(100.0)
        after = Budget(ratio=0, min_per_second=0.1, window=10)
        after.continues(before, 100.0)
        assert not after.window_for().reserve(100.0)
        window.release()
        window.release()
        assert after.window_for().available(100.0) == 1

    def test_equal_numbers_change_nothing_at_all(self) -> None:
        before, after = Budget(), Budget()
        window = before.window_for("f")
        window.called(1.0)
        after.continues(before, 2.0)
        assert after.window_for("f") is window
        assert window._calls.count(1) == 1

    def test_a_budget_of_nothing_is_neither_full_nor_a_division_by_zero(self) -> None:
        before = Budget(ratio=0, min_per_second=0)
        before.window_for().called(1.0)
        after = Budget(ratio=0, min_per_second=1)
        after.continues(before, 1.0)
        assert after.window_for().available(1.0) == 10
        nothing = Budget(ratio=0, min_per_second=0)
        nothing.continues(after, 1.0)
        assert not nothing.window_for().reserve(1.0)

    @given(
        st.lists(st.sampled_from(["call", "retry", "reserve"]), max_size=40),
        st.floats(0, 2),
        st.floats(0, 20),
        st.floats(0.1, 100),
    )
    def test_whatever_has_happened_the_share_that_is_used_is_kept(
        self, events: list[str], ratio: float, per_second: float, length: float
    ) -> None:
        before = Budget(ratio=0.3, min_per_second=1, window=10)
        window = before.window_for()
        for event in events:
            if event == "call":
                window.called(100.0)
            elif window.reserve(100.0) and event == "retry":
                window.spend(100.0)

        def share() -> float:
            allowed = window._allowed()
            return (allowed - window._free()) / allowed if allowed else 0.0

        full, held = share(), window._reserved
        after = Budget(ratio=ratio, min_per_second=per_second, window=length)
        after.continues(before, 100.0)
        allowed = window._allowed()
        if allowed > 1e-300:  # below, a share of it is no number
            # Permits on their way are not taken back, even where they are more than the share.
            assert share() == pytest.approx(max(full, held / allowed), abs=1e-6)
        assert window._reserved == held


class TestBreaker:
    def test_an_open_circuit_stays_open_and_no_longer_than_it_is_now_to_be(self) -> None:
        before = Breaker(min_calls=1, open=60)
        circuit = before.circuit_for("f")
        ticket = circuit.admit(100.0)
        assert isinstance(ticket, Ticket)
        circuit.failed(ticket, 100.0, 0.1)
        after = Breaker(min_calls=50, open=20)
        after.continues(before, 101.0)
        rejection = after.circuit_for("f").admit(101.0)
        assert isinstance(rejection, Rejection)
        assert rejection.retry_after == 20
        longer = Breaker(open=500)
        longer.continues(after, 101.0)
        rejection = longer.circuit_for("f").admit(101.0)
        assert isinstance(rejection, Rejection)
        assert rejection.retry_after == 20

    def test_a_half_open_circuit_stays_so_and_closes_after_the_new_number_of_probes(self) -> None:
        before = Breaker(min_calls=1, open=1, probes=3)
        circuit = before.circuit_for()
        ticket = circuit.admit(100.0)
        assert isinstance(ticket, Ticket)
        circuit.failed(ticket, 100.0, 0.1)
        probe = circuit.admit(102.0)
        assert isinstance(probe, Ticket)
        after = Breaker(min_calls=1, open=1, probes=1)
        after.continues(before, 102.0)
        assert isinstance(after.circuit_for().admit(102.0), Rejection)
        assert circuit.state.value == "half_open"
        circuit.succeeded(probe, 102.1, 0.1)
        assert circuit.state.value == "closed"

    def test_failures_counted_before_open_it_after(self) -> None:
        before = Breaker(min_calls=20, window=30)
        circuit = before.circuit_for()
        for _ in range(9):
            ticket = circuit.admit(100.0)
            assert isinstance(ticket, Ticket)
            circuit.failed(ticket, 100.0, 0.1)
        in_flight = circuit.admit(100.0)
        assert isinstance(in_flight, Ticket)
        after = Breaker(min_calls=10, window=60)
        after.continues(before, 101.0)
        assert circuit.state.value == "closed"
        circuit.failed(in_flight, 101.0, 0.1)
        assert circuit.state.value == "open"

    def test_what_had_left_the_window_does_not_come_back_with_a_longer_one(self) -> None:
        before = Breaker(min_calls=2, window=10)
        circuit = before.circuit_for()
        ticket = circuit.admit(100.0)
        assert isinstance(ticket, Ticket)
        circuit.failed(ticket, 100.0, 0.1)
        after = Breaker(min_calls=2, window=1000)
        after.continues(before, 150.0)
        circuit.failed(ticket, 150.0, 0.1)
        assert circuit.state.value == "closed"

    def test_the_first_one_to_be_told_of_changes_still_is(self) -> None:
        told: list[CircuitState] = []
        before = Breaker(min_calls=20)
        before.circuit_for("f", lambda _, state, __: told.append(state))
        after = Breaker(min_calls=1)
        after.continues(before, 1.0)
        circuit = after.circuit_for("f")
        ticket = circuit.admit(1.0)
        assert isinstance(ticket, Ticket)
        circuit.failed(ticket, 1.0, 0.1)
        assert told == [CircuitState.OPEN]


class TestBulkhead:
    def test_who_is_inside_counts_for_the_new_limit(self) -> None:
        before = Bulkhead(2)
        slots = before.slots_for("f")
        first, second = slots.acquire(), slots.acquire()
        assert first is not None
        assert second is not None
        after = Bulkhead(1)
        after.continues(before, 0.0)
        assert after.slots_for("f").acquire() is None
        slots.release(first)
        assert after.slots_for("f").acquire() is None
        slots.release(second)
        assert after.slots_for("f").acquire() is not None

    def test_who_waits_is_let_in_at_once_when_there_is_more_room(self) -> None:
        before = Bulkhead(1, queue=1, wait=30.0)
        slots = before.slots_for()
        held = slots.acquire()
        entered: list[object] = []
        waiter = threading.Thread(target=lambda: entered.append(slots.acquire()))
        waiter.start()
        while not slots.waiting:
            time.sleep(0.001)
        after = Bulkhead(2, queue=1, wait=30.0)
        after.continues(before, 0.0)
        waiter.join(10)
        assert held is not None
        assert entered[0] is not None


def test_a_state_made_while_the_numbers_change_goes_by_the_new_ones() -> None:
    made: list[tuple[object, ...]] = []

    class State:
        def __init__(self, *numbers: object) -> None:
            made.append(numbers)
            if len(made) == 1:  # another thread changes the numbers in this very moment
                kept.retune(0.0, (2.0,))

        def retune(self, now: float | None, *numbers: object) -> None:
            assert now is None
            made.append(numbers)

        def forget(self) -> None:
            """Another test may fork while this one is still remembered."""

    kept = ScopedStates[State]((1.0,))
    assert isinstance(kept.add("f", State), State)
    assert made == [(1.0,), (2.0,)]


@pytest.mark.parametrize(
    ("before", "after"),
    [(Budget(), Budget(0.5)), (Breaker(), Breaker(0.1)), (Bulkhead(1), Bulkhead(2))],
)
def test_the_states_are_the_same_objects_for_old_and_new_holders(
    before: object, after: object
) -> None:
    match before, after:
        case Budget(), Budget():
            old = before.window_for("f")
            after.continues(before, 0.0)
            assert after.window_for("f") is before.window_for("f") is old
        case Breaker(), Breaker():
            circuit = before.circuit_for("f")
            after.continues(before, 0.0)
            assert after.circuit_for("f") is before.circuit_for("f") is circuit
        case Bulkhead(), Bulkhead():
            slots = before.slots_for("f")
            after.continues(before, 0.0)
            assert after.slots_for("f") is before.slots_for("f") is slots


def test_in_the_child_of_a_fork_every_state_starts_anew() -> None:
    budget, breaker = Budget(ratio=0.0, min_per_second=0.1, window=10.0), Breaker(min_calls=1)
    window, circuit = budget.window_for("f"), breaker.circuit_for("f")
    assert window.reserve(1.0)
    ticket = circuit.admit(1.0)
    assert isinstance(ticket, Ticket)
    circuit.failed(ticket, 1.0, 0.1)
    before = budget._windows._lock
    kept_room._forked()  # what the interpreter calls there
    assert window.available(1.0) == 1.0
    assert circuit.state is CircuitState.CLOSED
    assert budget._windows._lock is not before


def test_an_unused_budget_goes_by_its_new_numbers_at_once() -> None:
    window = BudgetWindow(0.0, 10.0, 10.0)
    window.retune(None, 0.0, 30.0, 60.0)
    assert window.available(1.0) == 30.0


def test_an_unused_circuit_goes_by_its_new_numbers_at_once() -> None:
    circuit = Breaker(min_calls=20).circuit_for("f")
    circuit.retune(None, 0.5, 60.0, 1, 10.0, 1, None)
    ticket = circuit.admit(1.0)
    assert isinstance(ticket, Ticket)
    circuit.failed(ticket, 1.0, 0.1)
    assert circuit.state is CircuitState.OPEN, "one call is enough now"
