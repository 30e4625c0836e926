"""A guard that takes another one's place: what was counted, and who is inside, stays."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import until

from iii_resilience import Breaker, Budget, Bulkhead
from iii_resilience.core.guards import scopes
from iii_resilience.core.guards.breaker import CircuitState, Rejection, Ticket
from iii_resilience.core.guards.budget import PermitBucket
from iii_resilience.core.guards.scopes import ScopedStates, first_equal


def emptied(budget: Budget, permits: int, scope: str | None = None) -> PermitBucket:
    """A bucket of which so many permits are left."""
    bucket = budget.bucket_for(scope)
    while bucket.available(100.0) > permits:
        assert bucket.reserve(100.0)
    return bucket


class TestBudget:
    """The permits that are left stay, up to the new burst, and the new numbers apply."""

    def test_permits_stay_up_to_new_burst(self) -> None:
        before = Budget(burst=20)
        bucket = emptied(before, 8, "f")
        larger = Budget(burst=50)
        larger.continues(before, 100.0)
        assert larger.bucket_for("f") is bucket
        assert bucket.available(100.0) == 8
        smaller = Budget(burst=3)
        smaller.continues(larger, 100.0)
        assert bucket.available(100.0) == 3
        bucket.release()
        assert bucket.available(100.0) == 3

    def test_successes_and_time_earn_by_new_numbers(self) -> None:
        before = Budget(0.1, min_per_second=0)
        bucket = emptied(before, 0)
        after = Budget(0.5, min_per_second=0.25)
        after.continues(before, 100.0)
        bucket.succeeded(0.0)
        assert bucket.available(100.0) == 0.5
        assert bucket.available(102.0) == 1.0

    def test_time_before_reload_earned_by_old_numbers(self) -> None:
        before = Budget(min_per_second=0)
        bucket = emptied(before, 0)
        after = Budget(min_per_second=1)
        after.continues(before, 105.0)
        assert bucket.available(105.0) == 0.0

    def test_full_bucket_was_full_at_reload(self) -> None:
        before = Budget(burst=1, min_per_second=0)
        bucket = before.bucket_for()
        after = Budget(burst=2, min_per_second=0)
        after.continues(before, 100.0)
        assert bucket.reserve(101.0)
        assert bucket.was_in_flight(99.0)
        assert not bucket.was_in_flight(100.5)

    def test_permit_reserved_before_is_given_back_after(self) -> None:
        before = Budget(ratio=0, burst=2, min_per_second=0)
        bucket = emptied(before, 0)
        after = Budget(ratio=0, burst=1, min_per_second=0)
        after.continues(before, 100.0)
        assert not after.bucket_for().reserve(100.0)
        bucket.release()
        assert after.bucket_for().available(100.0) == 1
        bucket.release()
        assert after.bucket_for().available(100.0) == 1

    def test_equal_numbers_change_nothing(self) -> None:
        before, after = Breaker(), Breaker()
        circuit = before.circuit_for("f")
        ticket = circuit.admit(1.0)
        after.continues(before, 2.0)
        assert after.circuit_for("f").admit(2.0) is ticket

    @given(st.integers(0, 20), st.floats(0, 1), st.floats(1, 30), st.floats(0, 5))
    def test_reload_never_adds_permit(
        self, left: int, ratio: float, burst: float, per_second: float
    ) -> None:
        before = Budget(burst=20, min_per_second=0)
        emptied(before, left)
        after = Budget(ratio, burst=burst, min_per_second=per_second)
        after.continues(before, 100.0)
        assert after.bucket_for().available(100.0) == min(left, burst)

    def test_reloads_beside_threads_lose_no_permit(self) -> None:
        budget = Budget(ratio=0, burst=100, min_per_second=0)
        bucket, ended = budget.bucket_for(), threading.Event()

        def retries() -> int:
            spent = 0
            while not ended.is_set():
                if bucket.reserve(100.0):
                    if spent < 10:
                        spent += 1
                    else:
                        bucket.release()
            return spent

        with ThreadPoolExecutor(4) as threads:
            running = [threads.submit(retries) for _ in range(4)]
            for n in range(300):
                newer = Budget(ratio=0, burst=100, min_per_second=n % 2 * 1e-9)
                newer.continues(budget, 100.0)
                budget = newer
            ended.set()
            spent = sum(each.result() for each in running)
        assert bucket.taken == spent
        assert bucket.available(100.0) == 100 - spent


class TestFirstEqual:
    """Equal guards made anew for each call have one state."""

    def test_first_of_equal_guards_of_function_is_kept(self) -> None:
        first, second = Budget(), Budget()
        assert first_equal(first, "f") is first
        assert first_equal(second, "f") is first
        assert first_equal(second, "g") is second
        assert first_equal(Budget(burst=3), "f") is not first

    def test_guards_of_other_kinds_are_no_equals(self) -> None:
        breaker, bulkhead = Breaker(), Bulkhead(3)
        assert first_equal(breaker, "f") is breaker
        assert first_equal(bulkhead, "f") is bulkhead

    def test_guard_whose_states_were_reloaded_is_replaced(self) -> None:
        before, after = Budget(burst=3), Budget(burst=5)
        assert first_equal(before, "f") is before
        after.continues(before, 1.0)
        anew = Budget(burst=3)
        assert first_equal(anew, "f") is anew
        assert first_equal(Budget(burst=3), "f") is anew

    def test_guards_without_end_do_not_pile_up(self) -> None:
        for number in range(10_050):
            first_equal(Bulkhead(number + 1), "f")
        assert len(scopes._first) == 10_000
        assert first_equal(Bulkhead(10_050), "f") is next(reversed(scopes._first.values()))


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
            old = before.bucket_for("f")
            after.continues(before, 0.0)
            assert after.bucket_for("f") is before.bucket_for("f") is old
        case Breaker(), Breaker():
            circuit = before.circuit_for("f")
            after.continues(before, 0.0)
            assert after.circuit_for("f") is before.circuit_for("f") is circuit
        case Bulkhead(), Bulkhead():
            slots = before.slots_for("f")
            after.continues(before, 0.0)
            assert after.slots_for("f") is before.slots_for("f") is slots


def test_in_child_of_fork_every_state_starts_anew() -> None:
    budget, breaker = Budget(ratio=0.0, burst=1), Breaker(min_calls=1)
    bucket, circuit = budget.bucket_for("f"), breaker.circuit_for("f")
    assert bucket.reserve(1.0)
    ticket = circuit.admit(1.0)
    assert isinstance(ticket, Ticket)
    circuit.failed(ticket, 1.0, 0.1)
    before = budget._states._lock
    scopes._forked()  # what the interpreter calls there
    assert bucket.available(1.0) == 1.0
    assert circuit.state is CircuitState.CLOSED
    assert budget._states._lock is not before
