"""A guard that takes another one's place: what was counted, and who is inside, stays."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import until

import iii_resilience.core.guards.scopes as kept_room
from iii_resilience import Breaker, Budget, Bulkhead
from iii_resilience.core.guards.breaker import CircuitState, Rejection, Ticket
from iii_resilience.core.guards.budget import BudgetWindow
from iii_resilience.core.guards.scopes import ScopedStates


class TestBudget:
    """What is spent within the window stays spent, and the new limits apply."""

    @staticmethod
    def used(window: BudgetWindow, retries: int, now: float = 100.0) -> None:
        for _ in range(retries):
            assert window.reserve(now)
            window.spend(now)

    def test_retries_sent_before_count_against_new_limit(self) -> None:
        before = Budget(ratio=0, min_per_second=2, window=10)
        self.used(before.window_for("f"), 15)
        after = Budget(ratio=0, min_per_second=8, window=10)
        after.continues(before, 100.0)
        assert after.window_for("f").available(100.0) == 65
        smaller = Budget(ratio=0, min_per_second=1, window=10)
        smaller.continues(after, 100.0)
        assert smaller.window_for("f").available(100.0) == 0
        assert smaller.window_for("f").available(111.0) == 10

    def test_calls_made_before_earn_by_new_ratio(self) -> None:
        before = Budget(ratio=0.1, min_per_second=0, window=10)
        for _ in range(100):
            before.window_for().called(100.0)
        after = Budget(ratio=0.3, min_per_second=0, window=10)
        after.continues(before, 100.0)
        assert after.window_for().available(100.0) == pytest.approx(30)

    def test_other_window_keeps_retries_for_its_length(self) -> None:
        before = Budget(ratio=1, min_per_second=1, window=10)
        before.window_for().called(100.0)
        self.used(before.window_for(), 10, now=100.0)
        after = Budget(ratio=1, min_per_second=1, window=100)
        after.continues(before, 105.0)
        window = after.window_for()
        assert window.available(105.0) == 90
        assert window.available(195.0) == 90
        assert window.available(216.0) == 100
        window.called(216.0)
        assert window.available(216.0) == 101

    def test_retries_outside_old_window_do_not_come_back(self) -> None:
        before = Budget(ratio=0, min_per_second=1, window=10)
        self.used(before.window_for(), 10, now=100.0)
        after = Budget(ratio=0, min_per_second=1, window=1000)
        after.continues(before, 150.0)
        assert after.window_for().available(150.0) == 1000

    def test_permits_reserved_before_are_given_back_after(self) -> None:
        before = Budget(ratio=0, min_per_second=0.2, window=10)
        window = before.window_for()
        assert window.reserve(100.0)
        assert window.reserve(100.0)
        after = Budget(ratio=0, min_per_second=0.1, window=20)
        after.continues(before, 100.0)
        assert not after.window_for().reserve(100.0)
        window.release()
        assert after.window_for().available(100.0) == 1
        window.spend(100.0)
        assert after.window_for().available(100.0) == 1
        assert after.window_for().available(122.0) == 2

    def test_equal_numbers_change_nothing(self) -> None:
        before, after = Breaker(), Breaker()
        circuit = before.circuit_for("f")
        ticket = circuit.admit(1.0)
        after.continues(before, 2.0)
        assert after.circuit_for("f").admit(2.0) is ticket

    @given(
        st.lists(st.sampled_from(["call", "retry", "reserve"]), max_size=40),
        st.floats(0, 2),
        st.floats(0, 20),
        st.floats(0.1, 100),
    )
    def test_reload_never_frees_what_is_spent_or_reserved(
        self, events: list[str], ratio: float, per_second: float, length: float
    ) -> None:
        before = Budget(ratio=0.3, min_per_second=1, window=10)
        window = before.window_for()
        calls = spent = reserved = 0
        for event in events:
            if event == "call":
                window.called(100.0)
                calls += 1
            elif window.reserve(100.0) and event == "retry":
                window.spend(100.0)
                spent += 1
            else:
                reserved = window._reserved
        after = Budget(ratio=ratio, min_per_second=per_second, window=length)
        after.continues(before, 100.0)
        limit = per_second * length + (ratio * calls if length == 10 else 0)
        assert window.available(100.0) == pytest.approx(max(0, limit - spent - reserved), abs=1e-6)
        for _ in range(reserved):
            window.release()
        assert window.available(100.0) == pytest.approx(max(0, limit - spent), abs=1e-6)

    def test_reloads_beside_threads_lose_no_permit(self) -> None:
        budget = Budget(ratio=0, min_per_second=100, window=10)
        window, ended = budget.window_for(), threading.Event()

        def retries() -> int:
            spent = 0
            while not ended.is_set():
                if window.reserve(100.0):
                    if spent < 100:
                        window.spend(100.0)
                        spent += 1
                    else:
                        window.release()
            return spent

        with ThreadPoolExecutor(4) as threads:
            running = [threads.submit(retries) for _ in range(4)]
            for n in range(300):
                newer = Budget(ratio=0, min_per_second=100, window=10 + n % 2)
                newer.continues(budget, 100.0)
                budget = newer
            ended.set()
            spent = sum(each.result() for each in running)
        assert window._reserved == 0
        assert window.available(100.0) == 100 * budget.window - spent


class TestBreaker:
    def test_open_circuit_stays_open_for_shorter_of_both_times(self) -> None:
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

    def test_half_open_circuit_stays_so_with_new_probes(self) -> None:
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

    def test_closed_circuit_counts_anew(self) -> None:
        before = Breaker(min_calls=2)
        circuit = before.circuit_for()
        old = circuit.admit(100.0)
        assert isinstance(old, Ticket)
        circuit.failed(old, 100.0, 0.1)
        after = Breaker(min_calls=2, window=60)
        after.continues(before, 101.0)
        circuit.failed(old, 101.0, 0.1)  # sent before the change
        for state in (CircuitState.CLOSED, CircuitState.OPEN):
            ticket = circuit.admit(101.0)
            assert isinstance(ticket, Ticket)
            circuit.failed(ticket, 101.0, 0.1)
            assert circuit.state is state

    def test_first_one_to_be_told_of_changes_still_is(self) -> None:
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
    def test_who_is_inside_counts_for_new_limit(self) -> None:
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

    def test_waiter_is_admitted_when_limit_grows(self) -> None:
        before = Bulkhead(1, queue=1, wait=30.0)
        slots = before.slots_for()
        held = slots.acquire()
        entered: list[object] = []
        waiter = threading.Thread(target=lambda: entered.append(slots.acquire()))
        waiter.start()
        until(lambda: slots.waiting)
        after = Bulkhead(2, queue=1, wait=30.0)
        after.continues(before, 0.0)
        waiter.join(10)
        assert held is not None
        assert entered[0] is not None


def test_state_made_while_numbers_change_goes_by_new_ones() -> None:
    made: list[tuple[float, ...]] = []

    class Counted:
        def __init__(self, *numbers: float) -> None:
            made.append(numbers)
            changes.start()  # another thread changes the numbers in this very moment

        def retune(self, now: float, /, *numbers: float) -> None:
            assert now == 3.0
            made.append(numbers)

        def forget(self) -> None:
            """Another test may fork while this one is still remembered."""

    states = ScopedStates[Counted]((1.0,))
    changes = threading.Thread(target=lambda: states.retune(3.0, (2.0,)))
    assert isinstance(states.add("f", Counted), Counted)
    changes.join()
    assert made == [(1.0,), (2.0,)]


@pytest.mark.parametrize(
    ("before", "after"),
    [(Budget(), Budget(0.5)), (Breaker(), Breaker(0.1)), (Bulkhead(1), Bulkhead(2))],
)
def test_states_are_the_same_objects_for_old_and_new_holders(before: object, after: object) -> None:
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


def test_in_child_of_fork_every_state_starts_anew() -> None:
    budget, breaker = Budget(ratio=0.0, min_per_second=0.1, window=10.0), Breaker(min_calls=1)
    window, circuit = budget.window_for("f"), breaker.circuit_for("f")
    assert window.reserve(1.0)
    ticket = circuit.admit(1.0)
    assert isinstance(ticket, Ticket)
    circuit.failed(ticket, 1.0, 0.1)
    before = budget._states._lock
    kept_room._forked()  # what the interpreter calls there
    assert window.available(1.0) == 1.0
    assert circuit.state is CircuitState.CLOSED
    assert budget._states._lock is not before
