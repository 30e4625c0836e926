"""The circuit breaker: when it opens, whom it lets through, and what it does not listen to."""

from __future__ import annotations

import copy
import logging
import pickle
import random
import sys
import threading
import tracemalloc
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from iii_resilience.core.guards.breaker import Breaker, Circuit, CircuitState, Rejection, Ticket

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN

# A bucket of the window is one second long.
RATE, WINDOW, LEAST, OPEN_FOR, PROBES, SLOW = 0.5, 10.0, 4, 5.0, 2, 1.0


def a_circuit(**changes: Any) -> Circuit:
    numbers: dict[str, Any] = {
        "failure_rate": RATE,
        "window": WINDOW,
        "min_calls": LEAST,
        "open_for": OPEN_FOR,
        "probes": PROBES,
    }
    return Circuit(**numbers | changes)


def admitted(circuit: Circuit, now: float) -> Ticket:
    ticket = circuit.admit(now)
    assert isinstance(ticket, Ticket)
    return ticket


def rejected(circuit: Circuit, now: float) -> Rejection:
    rejection = circuit.admit(now)
    assert isinstance(rejection, Rejection)
    return rejection


def call(circuit: Circuit, now: float, *, ok: bool, duration: float = 0.0) -> None:
    ticket = admitted(circuit, now)
    (circuit.succeeded if ok else circuit.failed)(ticket, now, duration)


def opened(now: float = 0.0, **changes: Any) -> Circuit:
    """A circuit that has just opened."""
    circuit = a_circuit(**changes)
    for _ in range(LEAST):
        call(circuit, now, ok=False)
    assert circuit.state is OPEN
    return circuit


@attrs.define(eq=False)
class Sent:
    """A call on its way, as the model sees it."""

    ticket: Ticket
    phase: int
    slot_until: float


class BreakerMachine(RuleBasedStateMachine):
    """A circuit against a plain list of what every call of the closed state came to."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[CircuitState, CircuitState, float]] = []
        self.circuit = a_circuit(slow_call=SLOW, on_transition=lambda *args: self.told.append(args))
        self.now = 100.0
        self.state = CLOSED
        self.phase = 0
        self.outcomes: list[tuple[float, bool]] = []
        self.open_until = 0.0
        self.successes = 0
        self.way: list[Sent] = []
        self.expected: list[tuple[CircuitState, CircuitState, float]] = []

    def turn(self, state: CircuitState) -> None:
        self.expected.append((self.state, state, self.now))
        self.state = state
        self.phase += 1
        self.outcomes = []
        self.successes = 0
        if state is OPEN:
            self.open_until = self.now + OPEN_FOR

    def ended(self, sent: Sent, *, ok: bool) -> None:
        if sent.phase != self.phase:
            return
        if self.state is HALF_OPEN:
            self.successes += ok
            if not ok:
                self.turn(OPEN)
            elif self.successes == PROBES:
                self.turn(CLOSED)
            return
        self.outcomes.append((self.now, ok))
        counted = [ok for time, ok in self.outcomes if int(self.now) - int(time) < 10]
        if len(counted) >= LEAST and counted.count(False) >= RATE * len(counted):
            self.turn(OPEN)

    def taken(self, draw: int) -> Sent:
        return self.way.pop(draw % len(self.way))

    @rule(quarters=st.integers(min_value=0, max_value=60))
    def time_passes(self, quarters: int) -> None:
        self.now += quarters / 4

    @rule(count=st.integers(min_value=1, max_value=4))
    def calls_come(self, count: int) -> None:
        for _ in range(count):
            self.one_call_comes()

    def one_call_comes(self) -> None:
        answer = self.circuit.admit(self.now)
        if self.state is OPEN:
            if self.now < self.open_until:
                assert isinstance(answer, Rejection)
                assert answer.retry_after == self.open_until - self.now
                return
            self.turn(HALF_OPEN)
        if self.state is HALF_OPEN:
            out = sum(s.phase == self.phase and s.slot_until > self.now for s in self.way)
            if out >= PROBES:
                assert isinstance(answer, Rejection)
                assert answer.retry_after is None
                return
        assert isinstance(answer, Ticket)
        self.way.append(Sent(answer, self.phase, self.now + OPEN_FOR))

    @precondition(lambda self: self.way)
    @rule(draw=st.integers(min_value=0), duration=st.sampled_from([0.0, SLOW, 1.5]))
    def one_succeeds(self, draw: int, duration: float) -> None:
        sent = self.taken(draw)
        self.circuit.succeeded(sent.ticket, self.now, duration)
        self.ended(sent, ok=duration <= SLOW)

    @precondition(lambda self: self.way)
    @rule(draw=st.integers(min_value=0))
    def one_fails(self, draw: int) -> None:
        sent = self.taken(draw)
        self.circuit.failed(sent.ticket, self.now, 0.0)
        self.ended(sent, ok=False)

    @precondition(lambda self: self.way)
    @rule(draw=st.integers(min_value=0))
    def one_says_nothing(self, draw: int) -> None:
        self.circuit.ignored(self.taken(draw).ticket, self.now)

    @invariant()
    def the_state_and_what_was_told_of_it_are_the_models(self) -> None:
        assert self.circuit.state is self.state
        assert self.told == self.expected


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(stateful_step_count=60, deadline=None)


# Closed.


def test_it_opens_when_rate_is_reached_and_not_before() -> None:
    circuit = a_circuit(min_calls=1, failure_rate=0.5)
    for ok in (True, True, False):
        call(circuit, 0.0, ok=ok)
    assert circuit.state is CLOSED
    call(circuit, 0.0, ok=False)
    assert circuit.state is OPEN


def test_below_minimum_of_calls_nothing_opens_it() -> None:
    circuit = a_circuit(min_calls=20)
    for _ in range(19):
        call(circuit, 0.0, ok=False)
    assert circuit.state is CLOSED


def test_success_that_reaches_minimum_may_open_it() -> None:
    circuit = a_circuit(min_calls=20)
    for _ in range(19):
        call(circuit, 0.0, ok=False)
    call(circuit, 0.0, ok=True)
    assert circuit.state is OPEN


@pytest.mark.parametrize(
    ("rate", "failures", "calls"), [(0.1, 3, 30), (0.07, 7, 100), (0.14, 7, 50), (0.55, 55, 100)]
)
def test_seven_of_100_are_7_percent_despite_binary_fractions(
    rate: float, failures: int, calls: int
) -> None:
    circuit = a_circuit(min_calls=calls, failure_rate=rate)
    for number in range(calls):
        call(circuit, 0.0, ok=number >= failures)
    assert circuit.state is OPEN


def test_failures_older_than_window_do_not_count() -> None:
    circuit = a_circuit()
    for _ in range(3):
        call(circuit, 0.0, ok=False)
    call(circuit, 10.0, ok=False)
    assert circuit.state is CLOSED


def test_failures_count_for_nine_tenths_of_window_at_least() -> None:
    circuit = a_circuit()
    for _ in range(3):
        call(circuit, 0.9, ok=False)
    call(circuit, 9.9, ok=False)
    assert circuit.state is OPEN


def test_pause_of_any_length_empties_window() -> None:
    circuit = a_circuit()
    for _ in range(3):
        call(circuit, 1.0, ok=False)
    for _ in range(3):
        call(circuit, 1e12, ok=False)
    assert circuit.state is CLOSED


def test_what_is_ignored_counts_neither_for_nor_against() -> None:
    circuit = a_circuit()
    for _ in range(3):
        call(circuit, 0.0, ok=False)
    for _ in range(100):
        circuit.ignored(admitted(circuit, 0.0), 0.0)
    assert circuit.state is CLOSED
    call(circuit, 0.0, ok=False)
    assert circuit.state is OPEN


def test_slow_successes_count_as_failures_if_configured() -> None:
    circuit = a_circuit(slow_call=1.0)
    for _ in range(LEAST):
        call(circuit, 0.0, ok=True, duration=1.0)
    assert circuit.state is CLOSED
    for _ in range(LEAST):
        call(circuit, 0.0, ok=True, duration=1.01)
    assert circuit.state is OPEN


def test_slow_successes_count_as_successes_by_default() -> None:
    circuit = a_circuit()
    for _ in range(100):
        call(circuit, 0.0, ok=True, duration=1e9)
    assert circuit.state is CLOSED


# Open.


def test_open_circuit_rejects_with_time_left_and_cause() -> None:
    circuit = opened(100.0)
    rejection = rejected(circuit, 101.5)
    assert rejection.state is OPEN
    assert rejection.retry_after == 3.5
    assert rejection.because == "4 of 4 calls failed within 10 s"
    assert rejected(circuit, 104.999).retry_after == pytest.approx(0.001)


def test_cause_names_slow_calls_only_where_they_count() -> None:
    assert rejected(opened(slow_call=1.0), 0.0).because == (
        "4 of 4 calls failed or were slow within 10 s"
    )


def test_results_of_calls_admitted_before_opening_are_dropped() -> None:
    circuit = a_circuit()
    early = [admitted(circuit, 0.0) for _ in range(10)]
    for _ in range(LEAST):
        call(circuit, 0.0, ok=False)
    for ticket in early[:5]:
        circuit.succeeded(ticket, 4.0, 4.0)
    for ticket in early[5:]:
        circuit.failed(ticket, 4.0, 4.0)
    assert circuit.state is OPEN
    assert rejected(circuit, 4.0).retry_after == 1.0


# Half-open.


def test_half_open_circuit_limits_concurrent_probes() -> None:
    circuit = opened(probes=3)
    for _ in range(3):
        admitted(circuit, 5.0)
    assert circuit.state is HALF_OPEN
    rejection = rejected(circuit, 5.0)
    assert rejection.state is HALF_OPEN
    assert rejection.retry_after is None
    assert rejection.because == "4 of 4 calls failed within 10 s"


def test_it_closes_after_enough_probes_without_history() -> None:
    circuit = opened(probes=3)
    for _ in range(2):
        call(circuit, 5.0, ok=True)
    assert circuit.state is HALF_OPEN
    call(circuit, 5.0, ok=True)
    assert circuit.state is CLOSED
    for _ in range(LEAST - 1):
        call(circuit, 5.0, ok=False)
    assert circuit.state is CLOSED


def test_failed_probe_opens_it_for_whole_time_again() -> None:
    circuit = opened(probes=3)
    call(circuit, 5.0, ok=True)
    call(circuit, 5.0, ok=True)
    call(circuit, 6.0, ok=False)
    rejection = rejected(circuit, 6.0)
    assert rejection.state is OPEN
    assert rejection.retry_after == OPEN_FOR
    assert rejection.because == "a probe failed"


def test_slow_probe_opens_it_again() -> None:
    circuit = opened(slow_call=1.0)
    call(circuit, 5.0, ok=True, duration=2.0)
    assert rejected(circuit, 5.0).because == "a probe was slow"


def test_results_before_opening_do_not_decide_for_probes() -> None:
    circuit = a_circuit(probes=1)
    early = [admitted(circuit, 0.0) for _ in range(2)]
    for _ in range(LEAST):
        call(circuit, 0.0, ok=False)
    probe = admitted(circuit, 5.0)
    circuit.failed(early[0], 5.0, 5.0)
    circuit.succeeded(early[1], 5.0, 5.0)
    assert circuit.state is HALF_OPEN
    circuit.succeeded(probe, 5.0, 0.0)
    assert circuit.state is CLOSED


def test_results_of_earlier_probes_do_not_count() -> None:
    circuit = opened(probes=2)
    early = admitted(circuit, 5.0)
    call(circuit, 5.0, ok=False)
    admitted(circuit, 10.0)
    circuit.failed(early, 10.0, 5.0)
    assert circuit.state is HALF_OPEN
    admitted(circuit, 10.0)
    rejected(circuit, 10.0)


def test_probe_that_says_nothing_gives_its_slot_back() -> None:
    circuit = opened(probes=1)
    for _ in range(10):
        probe = admitted(circuit, 5.0)
        rejected(circuit, 5.0)
        circuit.ignored(probe, 5.0)
    assert circuit.state is HALF_OPEN


def test_lost_probe_does_not_block_forever() -> None:
    circuit = opened(probes=1)
    admitted(circuit, 5.0)
    rejected(circuit, 9.9)
    call(circuit, 10.0, ok=True)
    assert circuit.state is CLOSED


@pytest.mark.parametrize(("ok", "state"), [(True, CLOSED), (False, OPEN)])
def test_probe_that_outlived_its_slot_is_still_heard(ok: bool, state: CircuitState) -> None:
    circuit = opened(probes=1)
    slow = admitted(circuit, 5.0)
    admitted(circuit, 10.0)
    (circuit.succeeded if ok else circuit.failed)(slow, 11.0, 6.0)
    assert circuit.state is state


def test_probe_reported_twice_is_heard_once() -> None:
    circuit = opened(probes=3)
    probe = admitted(circuit, 5.0)
    for _ in range(3):
        circuit.succeeded(probe, 5.0, 0.0)
    circuit.failed(probe, 5.0, 0.0)
    assert circuit.state is HALF_OPEN


def test_discarded_probe_gives_its_slot_back() -> None:
    circuit = opened(probes=1)
    probe = admitted(circuit, 5.0)
    with circuit._lock:  # where the garbage collector may end a coroutine in the same thread
        circuit.ignored(probe, 5.0)
    admitted(circuit, 5.0)


# Clocks.


def test_out_of_order_clock_reads_do_no_harm() -> None:
    circuit = a_circuit()
    for now in (100.0, 99.0, 91.0, 100.0):
        call(circuit, now, ok=False)
    assert circuit.state is OPEN
    assert rejected(circuit, 99.5).retry_after == 5.0


def test_clock_set_back_keeps_counting() -> None:
    circuit = a_circuit()
    for _ in range(3):
        call(circuit, 1e9, ok=False)
    for _ in range(3):
        call(circuit, 50.0, ok=False)
    assert circuit.state is CLOSED
    call(circuit, 59.0, ok=False)
    assert circuit.state is OPEN


def test_success_after_clock_set_back_counts() -> None:
    circuit = a_circuit(min_calls=2, failure_rate=0.5)
    call(circuit, 1e9, ok=True)
    call(circuit, 50.0, ok=True)
    call(circuit, 50.0, ok=False)
    assert circuit.state is OPEN
    assert rejected(circuit, 50.0).because.startswith("1 of 2 calls failed")


def test_clock_set_back_does_not_make_open_time_longer() -> None:
    circuit = opened(1e9)
    assert rejected(circuit, 50.0).retry_after == OPEN_FOR
    assert rejected(circuit, 54.0).retry_after == 1.0
    admitted(circuit, 55.0)


def test_clock_set_back_does_not_extend_lost_probe() -> None:
    circuit = opened(1e9, probes=1)
    admitted(circuit, 1e9 + 5)
    rejected(circuit, 50.0)
    admitted(circuit, 55.0)


@given(
    st.lists(
        st.tuples(
            st.floats(min_value=-1e10, max_value=1e10),
            st.sampled_from(["succeeded", "failed", "ignored", "lost"]),
        ),
        max_size=60,
    )
)
def test_whatever_clock_does_it_opens_and_recovers_afterwards(
    steps: list[tuple[float, str]],
) -> None:
    circuit = a_circuit()
    for now, how in steps:
        answer = circuit.admit(now)
        if isinstance(answer, Rejection):
            assert answer.retry_after is None or 0 < answer.retry_after <= OPEN_FOR
        elif how == "ignored":
            circuit.ignored(answer, now)
        elif how != "lost":
            getattr(circuit, how)(answer, now, 0.0)
    # From here on the clock is a good one.
    now = steps[-1][0] if steps else 0.0
    circuit.admit(now)
    for _ in range(2 * PROBES):
        now += OPEN_FOR
        ticket = circuit.admit(now)
        if isinstance(ticket, Ticket):
            circuit.succeeded(ticket, now, 0.0)
    assert circuit.state is CLOSED
    now += 2 * WINDOW
    for _ in range(LEAST):
        call(circuit, now, ok=False)
    assert circuit.state is OPEN


# Watching.


def test_each_change_of_state_is_told_once_with_its_time() -> None:
    told: list[Any] = []
    circuit = opened(100.0, probes=1, on_transition=lambda *args: told.append(args))
    rejected(circuit, 101.0)
    call(circuit, 105.0, ok=False)
    call(circuit, 110.0, ok=True)
    assert told == [
        (CLOSED, OPEN, 100.0),
        (OPEN, HALF_OPEN, 105.0),
        (HALF_OPEN, OPEN, 105.0),
        (OPEN, HALF_OPEN, 110.0),
        (HALF_OPEN, CLOSED, 110.0),
    ]


def test_who_watches_may_use_circuit() -> None:
    answers: list[object] = []
    circuit: Circuit = a_circuit(on_transition=lambda *_: answers.append(circuit.admit(0.0)))
    for _ in range(LEAST):
        call(circuit, 0.0, ok=False)
    assert isinstance(answers[0], Rejection)


def test_who_watches_cannot_fail_call(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no room on the disk")

    with caplog.at_level(logging.ERROR, "iii_resilience"):
        opened(on_transition=broken)
    told = [one.getMessage() for one in caplog.records if one.name == "iii_resilience"]
    assert told == ["on_transition of a circuit breaker failed"]


def test_who_watches_can_be_interrupted_with_change_made() -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    circuit = a_circuit(min_calls=1, on_transition=interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(circuit, 0.0, ok=False)
    assert circuit.state is OPEN


# Load.


def test_sixteen_threads_lose_no_count() -> None:
    circuit = a_circuit(min_calls=16_000, failure_rate=1.0)

    def work() -> None:
        for _ in range(1_000):
            circuit.failed(admitted(circuit, 0.0), 0.0, 0.0)

    run_together([work] * 16)
    assert circuit.state is OPEN
    assert rejected(circuit, 0.0).because == "16000 of 16000 calls failed within 10 s"


def test_sixteen_threads_never_exceed_the_probes() -> None:
    circuit = opened(probes=3)
    on_their_way, most, passed = set[Ticket](), 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal most, passed
        for _ in range(500):
            ticket = circuit.admit(5.0)
            if isinstance(ticket, Ticket):
                with lock:
                    on_their_way.add(ticket)
                    most = max(most, len(on_their_way))
                    passed += 1
                with lock:
                    on_their_way.remove(ticket)
                circuit.ignored(ticket, 5.0)

    run_together([work] * 16)
    assert most <= 3
    assert passed >= 50  # how many get through is up to the scheduler
    assert circuit.state is HALF_OPEN
    assert len([t for t in (circuit.admit(5.0) for _ in range(10)) if isinstance(t, Ticket)]) == 3


def test_three_of_sixteen_threads_become_probes() -> None:
    circuits = [opened(probes=3) for _ in range(100)]
    together = threading.Barrier(16)
    let_through: list[Circuit] = []

    def work() -> None:
        for circuit in circuits:
            together.wait()
            if isinstance(circuit.admit(5.0), Ticket):
                let_through.append(circuit)

    run_together([work] * 16)
    assert [let_through.count(circuit) for circuit in circuits] == [3] * 100


@pytest.mark.parametrize("seed", range(3))
def test_sixteen_threads_report_each_change_once(seed: int) -> None:
    told: list[tuple[CircuitState, CircuitState]] = []
    circuit = a_circuit(
        open_for=0.5, on_transition=lambda before, after, _: told.append((before, after))
    )
    clock = [100.0]

    def work(number: int) -> None:
        draw = random.Random(seed * 100 + number)
        for _ in range(400):
            clock[0] += 0.01
            ticket = circuit.admit(clock[0])
            if isinstance(ticket, Ticket):
                how = draw.choice([circuit.succeeded, circuit.failed])
                how(ticket, clock[0], 0.0)

    run_together([lambda number=number: work(number) for number in range(16)])
    assert len(told) > 10
    # Told in either order, but each state is entered as often as it is left, or once more.
    for state in CircuitState:
        entered = sum(after is state for _, after in told) + (state is CLOSED)
        left = sum(before is state for before, _ in told)
        assert entered - left == (circuit.state is state)


def run_together(works: list[Any]) -> None:
    """Run functions in threads that change places as often as possible."""
    start = threading.Barrier(len(works))
    errors: list[BaseException] = []

    def run(work: Any) -> None:
        start.wait()
        try:
            work()
        except BaseException as error:
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not errors


@pytest.mark.bare
def test_no_call_rejection_or_lost_probe_costs_memory() -> None:
    circuit = a_circuit(failure_rate=1.0)

    def load(count: int, now: float) -> None:
        for number in range(count):
            call(circuit, now + number / 100, ok=bool(number % 2))
        for _ in range(LEAST * 100):  # until nothing but failures is in the window
            if isinstance(ticket := circuit.admit(now + 1e6), Ticket):
                circuit.failed(ticket, now + 1e6, 0.0)
        for number in range(count):  # half-open, and no probe ever comes back
            circuit.admit(now + 2e6 + number)
        for _ in range(PROBES):
            call(circuit, now + 3e6, ok=True)

    def held() -> int:
        # The guards' own objects: threads that other tests left allocate in this process too.
        guards = tracemalloc.Filter(inclusive=True, filename_pattern="*/core/guards/*")
        return sum(
            trace.size for trace in tracemalloc.take_snapshot().filter_traces([guards]).traces
        )

    load(100, 0.0)
    tracemalloc.start()
    try:
        load(100, 4e6)
        few = held()
        load(20_000, 8e6)
        many = held()
    finally:
        tracemalloc.stop()
    assert many - few < 2_000


# The numbers, and who shares a circuit.


def test_each_scope_has_its_own_circuit() -> None:
    breaker = Breaker()
    assert breaker.circuit_for() is breaker.circuit_for()
    assert breaker.circuit_for("a") is breaker.circuit_for("a")
    assert breaker.circuit_for("a") is not breaker.circuit_for("b")


def test_numbers_reach_circuit() -> None:
    told: list[Any] = []
    breaker = Breaker(failure_rate=0.25, window=1.0, min_calls=8, open=2.0, probes=1, slow_call=0.5)
    circuit = breaker.circuit_for("orders::get", lambda *args: told.append(args))
    for number in range(8):
        call(circuit, 0.0, ok=True, duration=number / 8)  # three of them slow
    assert rejected(circuit, 0.0).retry_after == 2.0
    assert "3 of 8 calls" in rejected(circuit, 0.0).because
    call(circuit, 2.0, ok=True)
    assert circuit.state is CLOSED
    assert len(told) == 3


def test_default_opens_for_ten_seconds_at_half_of_twenty() -> None:
    circuit = Breaker().circuit_for()
    for number in range(20):
        assert circuit.state is CLOSED
        call(circuit, float(number), ok=number < 10)
    assert rejected(circuit, 19.0).retry_after == 10.0
    for _ in range(3):
        assert circuit.state is not CLOSED
        call(circuit, 29.0, ok=True)
    assert circuit.state is CLOSED


def test_equal_breakers_have_separate_circuits() -> None:
    first, second = Breaker(min_calls=1), Breaker(min_calls=1)
    call(first.circuit_for(), 0.0, ok=False)
    assert first == second
    assert hash(first) == hash(second)
    assert first != Breaker(min_calls=2)
    assert second.circuit_for().state is CLOSED
    assert "_states" not in repr(first)


def test_changed_breaker_has_circuits_of_its_own() -> None:
    breaker = Breaker(min_calls=1)
    call(breaker.circuit_for(), 0.0, ok=False)
    assert attrs.evolve(breaker, probes=1).circuit_for().state is CLOSED


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda breaker: pickle.loads(pickle.dumps(breaker))]
)
def test_copy_of_used_breaker_counts_for_itself(copied: Any) -> None:
    breaker = Breaker(min_calls=1, slow_call=1.0)
    call(breaker.circuit_for(on_transition=lambda *_: None), 0.0, ok=False)
    other = copied(breaker)
    assert other == breaker
    assert other.circuit_for().state is CLOSED
    circuit = copied(breaker.circuit_for())
    assert circuit.state is CLOSED
    call(circuit, 0.0, ok=True, duration=1.1)
    assert circuit.state is OPEN


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"failure_rate": 0}, "Breaker.failure_rate must be a finite number above 0 and at most 1"),
        ({"failure_rate": 50}, "Breaker.failure_rate must be a finite number above 0 and at most"),
        ({"window": 0}, "Breaker.window must be a finite number of seconds above 0, got 0"),
        ({"min_calls": 0}, "Breaker.min_calls must be a whole number at least 1, got 0"),
        ({"min_calls": 2.5}, "Breaker.min_calls must be a whole number at least 1, got 2.5"),
        ({"open": -1}, "Breaker.open must be a finite number of seconds above 0, got -1"),
        ({"probes": 0}, "Breaker.probes must be a whole number at least 1, got 0"),
        ({"slow_call": 0}, "Breaker.slow_call must be a finite number of seconds above 0 or None"),
    ],
)
def test_breaker_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Breaker(**fields)


@pytest.mark.parametrize(
    ("slow_call", "state"), [(None, CLOSED), (1.0, OPEN), (3.0, CLOSED)], ids=str
)
def test_retuned_circuit_goes_by_its_new_limit_of_slow_calls(
    slow_call: float | None, state: CircuitState
) -> None:
    circuit = a_circuit(slow_call=2.5)
    circuit.retune(0.0, 1.0, WINDOW, 1, OPEN_FOR, PROBES, slow_call)
    call(circuit, 0.0, ok=True, duration=2.0)
    assert circuit.state is state
