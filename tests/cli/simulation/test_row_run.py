"""One row: the shipped code runs in virtual time, each process for itself, alike each time."""

from __future__ import annotations

import json
import random
from typing import Any

import attrs
import pytest

from iii_resilience import PolicyBook, RetryPolicy, load_policies
from iii_resilience.cli.simulation.measurement import Row
from iii_resilience.cli.simulation.report import Report
from iii_resilience.cli.simulation.row_run import (
    RowSetting,
    run_row,
    without_budget,
    without_retries,
)
from iii_resilience.cli.simulation.scenario import Calls, Incident, Scenario, Service
from iii_resilience.core.guards.breaker import Breaker
from iii_resilience.core.policy import Enqueue

F = "orders::save"


def scenario(
    *timetable: Incident, services: Any = None, duration: float = 20.0, **calls: Any
) -> Scenario:
    return Scenario(
        "test",
        duration,
        Calls(**{"rate": 30.0, "processes": 3, **calls}),
        services or {F: Service(slots=6, service_time=0.1)},
        timetable,
    )


def run(policy: RetryPolicy, happens: Scenario, seed: int = 1, **more: Any) -> Row:
    policy_set = PolicyBook({"default": policy, **more.pop("others", {})}, **more).policy_set
    return run_row(RowSetting("row", policy_set, "default"), happens, seed)


ONCE = RetryPolicy(attempts=1, budget=None)
FREELY = RetryPolicy(budget=None)
FLAKY = Incident(5.0, 15.0, error_rate=0.3)
KINDS = pytest.mark.parametrize("via", ["trigger", "decorator"])


@KINDS
def test_without_trouble_each_call_is_one_attempt(via: str) -> None:
    row = run(FREELY, scenario(via=via))
    assert row.load == 1.0
    assert row.in_time_during == 1.0
    assert row.given_up == {}
    assert row.wait_p50 == pytest.approx(0.1, rel=0.05)
    assert 30 * 20 * 0.8 < row.calls < 30 * 20 * 1.2


@KINDS
def test_retries_repair_random_failures_at_their_price(via: str) -> None:
    without, with_retries = (run(policy, scenario(FLAKY, via=via)) for policy in (ONCE, FREELY))
    assert without.load == 1.0
    assert without.in_time_during == pytest.approx(0.7, abs=0.08)
    assert without.given_up["exhausted"] > 50
    assert with_retries.in_time_during is not None
    assert with_retries.in_time_during > 0.97
    # 1 + 0.3 + 0.09 + 0.027 attempts a call during ten of the fifteen seconds that are watched.
    assert with_retries.load == pytest.approx(1 + 0.417 * 10 / 15, abs=0.06)
    assert sum(count for _, count in with_retries.curves.delays) > 50


def test_rows_see_the_same_calls() -> None:
    rows = [run(policy, scenario(FLAKY)) for policy in (ONCE, FREELY, RetryPolicy())]
    assert len({tuple(row.curves.series.calls) for row in rows}) == 1


@KINDS
def test_same_seed_gives_the_same_result(via: str) -> None:
    policy = RetryPolicy(breaker=Breaker(min_calls=5, open=2.0))
    happens = scenario(FLAKY, Incident(8.0, 9.0, down="worker"), via=via)

    def report(seed: int) -> str:
        row = run(policy, happens, seed)
        return json.dumps(Report(happens, seed, (row,), "", ()).as_json())

    assert report(1) == report(1)
    assert report(1) != report(2)


def test_random_numbers_of_others_are_left_alone() -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    run(FREELY, scenario(FLAKY))
    assert random.random() == expected


@KINDS
def test_processes_have_guards_of_their_own(via: str) -> None:
    """All fail: each process opens its own circuit, after as many calls as one needs."""
    policy = RetryPolicy(attempts=1, breaker=Breaker(min_calls=5, open=100.0, window=100.0))
    row = run(policy, scenario(Incident(0.0, 20.0, error_rate=1.0), processes=4, via=via))
    assert len(row.circuits) == 4
    assert sum(row.curves.series.attempts) == pytest.approx(4 * 5, abs=4 * 3)  # some in flight
    assert row.given_up["circuit_open"] > 400


def test_restarted_worker_is_waited_for() -> None:
    """`ready_timeout` means what it means in production: no retry goes into the hole."""
    happens = scenario(Incident(5.0, 7.0, down="worker"))
    waits = run(FREELY, happens)
    assert waits.in_time_during is not None
    assert waits.in_time_during > 0.9
    impatient = run(FREELY.replace(ready_timeout=0.1), happens)
    assert impatient.in_time_during is not None
    assert impatient.in_time_during < 0.3
    assert impatient.given_up["not_retryable"] > 20  # function_not_found, as the engine answers


def test_lost_engine_ends_calls_and_comes_back() -> None:
    happens = scenario(Incident(5.0, 7.0, down="engine"))
    row = run(FREELY, happens)
    series, first = row.curves.series, -round(row.curves.first)
    assert series.attempts[first + 6] == 0
    assert row.in_time_during is not None
    assert row.in_time_during > 0.9
    assert run(FREELY.replace(ready_timeout=0.1), happens).given_up["exhausted"] > 5


def test_rules_choose_the_policy_where_none_is_named() -> None:
    policy_set = load_policies(
        {
            "version": 1,
            "policies": {"once": {"attempts": 1}},
            "rules": [{"function": F, "policy": "once"}],
        }
    ).policy_set
    happens = scenario(FLAKY)
    assert run_row(RowSetting("row", policy_set, None), happens, 1).load == 1.0
    assert run_row(RowSetting("row", policy_set, "default"), happens, 1).load > 1.0


def test_calls_that_are_not_idempotent_are_not_repeated() -> None:
    row = run(FREELY, scenario(FLAKY, idempotent=False))
    assert row.load == 1.0
    assert row.given_up["not_idempotent"] > 50


def test_attempt_timeout_of_the_policy_wins() -> None:
    slow = {F: Service(slots=100, service_time=0.5)}
    assert run(ONCE, scenario(services=slow, timeout=1.0)).given_up == {}
    cut = run(ONCE.replace(attempt_timeout=0.2), scenario(services=slow, timeout=1.0))
    assert cut.wait_p99 == pytest.approx(0.2, rel=0.05)
    assert cut.given_up["exhausted"] == cut.calls


def test_abandoned_attempts_are_served_all_the_same() -> None:
    """What nobody waits for any longer keeps a queue full, unless the worker skips it."""
    service = Service(slots=6, service_time=0.1)
    incident = Incident(5.0, 15.0, capacity=0.1)
    serves, skips = (
        run(ONCE, scenario(incident, services={F: each}, duration=40.0)).recovery
        for each in (service, attrs.evolve(service, skip_abandoned=True))
    )
    assert serves is not None
    assert skips is not None
    assert serves > 5
    assert skips <= 1


def chain(**incident: Any) -> Scenario:
    services = {
        F: Service(slots=50, service_time=0.01, calls="stock::take"),
        "stock::take": Service(slots=50, service_time=0.01, calls="db::write"),
        "db::write": Service(slots=50, service_time=0.01),
    }
    # Each caller waits longer than the retries of the next one take.
    timetable = Incident(5.0, 15.0, service="db::write", **incident)
    return scenario(timetable, services=services, timeout=10.0)


def test_nested_callers_do_not_multiply_retries() -> None:
    """What the innermost caller has given up its callers do not repeat: 4 attempts, not 64."""
    row = run(FREELY, chain(error_rate=1.0))
    assert row.load == pytest.approx(1 + 3 * 10 / 15, abs=0.2)
    assert row.given_up.keys() == {"already_retried"}


def test_nested_call_inherits_the_time_of_its_caller() -> None:
    happens = chain(capacity=0.0)
    row = run(FREELY.replace(deadline=2.0, attempt_timeout=0.5), happens)
    assert row.wait_p99 is not None
    assert row.wait_p99 < 2.6


def test_each_caller_of_a_chain_has_its_own_policy() -> None:
    policy_set = load_policies(
        {
            "version": 1,
            "policies": {"default": {"budget": None}, "twice": {"attempts": 2, "budget": None}},
            "rules": [{"function": "db::write", "policy": "twice"}],
        }
    ).policy_set
    row = run_row(RowSetting("row", policy_set, None), chain(error_rate=1.0), 1)
    # Two attempts of the innermost caller, and what it has given up is not repeated outside.
    assert row.load == pytest.approx(1 + 10 / 15, abs=0.1)
    assert row.given_up.keys() == {"already_retried"}


def test_given_up_calls_go_to_the_queue_and_are_delivered() -> None:
    policy_set = load_policies(
        {
            "version": 1,
            "policies": {"default": {"attempts": 1, "fallback": {"enqueue": "later"}}},
            "queues": {"later": {"max_retries": 6, "backoff_ms": 1000}},
        }
    ).policy_set
    happens = scenario(Incident(5.0, 8.0, error_rate=1.0), accept_enqueued=True)
    row = run_row(RowSetting("row", policy_set, "default"), happens, 1)
    assert row.given_up["handed_off"] == row.queued["queued"] > 50
    assert row.queued["delivered"] == row.queued["queued"]
    never = scenario(Incident(0.0, 20.0, error_rate=1.0), accept_enqueued=True)
    policy_set.queues["later"] = attrs.evolve(policy_set.queues["later"], max_retries=0)
    dead = run_row(RowSetting("row", policy_set, "default"), never, 1).queued
    assert dead["dead_lettered"] > 0.9 * dead["queued"]


def test_enqueue_is_used_only_where_the_caller_accepts_it() -> None:
    policy = RetryPolicy(attempts=1, fallback=Enqueue("later"))
    assert run(policy, scenario(FLAKY)).queued == {}


def test_plain_tenacity_is_a_row_too() -> None:
    setting = RowSetting("tenacity", PolicyBook().policy_set, "default", tenacity=True)
    services = {F: Service(slots=100, service_time=0.1)}
    happens = scenario(Incident(5.0, 15.0, error_rate=1.0), services=services)
    row = run_row(setting, happens, 1)
    assert row == run_row(setting, happens, 1)
    assert row.load == pytest.approx(1 + 3 * 10 / 15, abs=0.2)


def test_variants_keep_timeouts_and_drop_what_holds_back() -> None:
    policy = RetryPolicy(
        attempts=7, attempt_timeout=0.3, breaker=Breaker(), fallback=Enqueue("q"), deadline=9.0
    )
    policy_set = PolicyBook({"default": policy}).policy_set
    once = without_retries(policy_set).policies["default"]
    freely = without_budget(policy_set).policies["default"]
    for made in (once, freely):
        assert (made.attempt_timeout, made.deadline) == (0.3, 9.0)
        assert (made.budget, made.breaker, made.fallback) == (None, None, None)
    assert (once.attempts, freely.attempts) == (1, 4)


def test_progress_goes_from_nothing_to_all() -> None:
    seen: list[float] = []
    setting = RowSetting("row", PolicyBook().policy_set, "default")
    run_row(setting, scenario(duration=5.0), 1, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
