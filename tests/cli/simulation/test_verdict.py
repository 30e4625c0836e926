"""The verdict on a row: its limits, and the sentence that names file, line and remedy."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from iii_resilience import load_policies
from iii_resilience.cli.simulation.measurement import Curves, Row, Series
from iii_resilience.cli.simulation.scenario import Calls, Incident, Scenario, Service
from iii_resilience.cli.simulation.verdict import Limits, Subject, advice
from iii_resilience.config.explain import values_of

GOOD = Row(
    name="p",
    calls=1000,
    load=1.05,
    in_time_during=0.5,
    in_time_after=0.9,
    wait_p50=0.1,
    wait_p99=1.0,
    recovery=20.0,
    given_up={"budget_exhausted": 10},
    circuits=(),
    queued={},
    curves=Curves(0.0, Series([], [], [], []), ()),
)
WITHOUT = attrs.evolve(GOOD, name="no retries", load=1.0, recovery=18.0)
BROWNOUT = Scenario(
    "brownout",
    110.0,
    Calls(processes=40, rate=120),
    {"orders::save": Service()},
    (Incident(30.0, 50.0, capacity=0.2),),
)


def subject(tmp_path: Path, policy: str) -> Subject:
    file = tmp_path / "p.yaml"
    file.write_text(f"version: 1\npolicies:\n  p:\n    {policy}\n", encoding="utf-8")
    policy_set = load_policies(file).policy_set
    return Subject("p", policy_set.policy("p"), values_of(policy_set, "p"))


def said(tmp_path: Path, policy: str, row: Row, without: Row = WITHOUT) -> str:
    return advice(subject(tmp_path, policy), row, without, BROWNOUT).removeprefix(f"{tmp_path}/")


@pytest.mark.parametrize(
    ("limits", "row", "broken"),
    [
        (Limits(), attrs.evolve(GOOD, load=9.0, recovery=None), []),
        (Limits(1.05, 20.0), GOOD, []),
        (Limits(load=1.04), GOOD, ["its load of 1.05 is above 1.04"]),
        (Limits(recovery=19.0), GOOD, ["it is answering again after 20 s, and 19 s are allowed"]),
        (
            Limits(recovery=40.0),
            attrs.evolve(GOOD, recovery=None),
            ["it is never answering again, and 40 s are allowed"],
        ),
    ],
)
def test_limits(limits: Limits, row: Row, broken: list[str]) -> None:
    assert limits.broken_by(row) == broken


@pytest.mark.parametrize(
    ("policy", "begins"),
    [
        (
            "budget: {min_per_second: 10}",
            "p.yaml:4 budget.min_per_second: 40 processes may send 400 retries/s; write 0.005",
        ),
        (
            "budget: {burst: 100}",
            "p.yaml:4 budget.burst: 40 processes may send 4000 retries at once; lower it",
        ),
        (
            "budget: {ratio: 1}",
            "p.yaml:4 budget.ratio: 40 processes may send 120 retries/s for 120 calls/s; write 0.1",
        ),
        (
            "budget: {ratio: 0.1, burst: 1}",
            "p.yaml:4 budget.ratio: 40 processes may send 12 retries/s for 120 calls/s; lower it",
        ),
        (
            "budget: null",
            "p.yaml:4 budget: nothing limits retries: 4 attempts a call multiply the load by 3.9",
        ),
        ("attempts: 4", "built-in default budget.burst: 40 processes may send 400 retries at once"),
    ],
)
def test_storm_names_value_to_change(tmp_path: Path, policy: str, begins: str) -> None:
    storm = attrs.evolve(GOOD, load=3.9, recovery=None)
    assert said(tmp_path, policy, storm).startswith(begins)


def test_slow_recovery_is_blamed_on_budget_too(tmp_path: Path) -> None:
    slow = attrs.evolve(GOOD, recovery=60.0)
    assert "budget.burst" in said(tmp_path, "attempts: 4", slow)


def test_service_that_never_recovers_by_itself_blames_nothing(tmp_path: Path) -> None:
    dead = attrs.evolve(GOOD, recovery=None)
    found = said(tmp_path, "attempts: 4", dead, attrs.evolve(WITHOUT, recovery=None))
    assert found.startswith("p.yaml:4 attempts: nothing to change for brownout")


def test_good_policy_is_said_to_be_good(tmp_path: Path) -> None:
    assert said(tmp_path, "attempts: 4", GOOD) == (
        "p.yaml:4 attempts: nothing to change for brownout: p adds 5 % load, answering again "
        "after 20 s (18 s without retries)"
    )


def test_denied_retries_that_would_have_helped(tmp_path: Path) -> None:
    helped = attrs.evolve(GOOD, in_time_during=0.9, given_up={"budget_exhausted": 77})
    found = said(tmp_path, "budget: {burst: 5}", helped)
    assert found.startswith("p.yaml:4 budget.burst: retries help here, and the budget denies 77")


def test_circuit_that_opens_is_named(tmp_path: Path) -> None:
    opened = attrs.evolve(
        GOOD, circuits=(41.0, 43.0), given_up={"circuit_open": 30, "exhausted": 10}
    )
    found = said(tmp_path, "breaker: {min_calls: 5}", opened)
    assert found.startswith("p.yaml:4 breaker: the circuit opens first after 41 s and rejects 75 %")
