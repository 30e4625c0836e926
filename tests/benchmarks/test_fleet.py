"""`bench_fleet`: other libraries' budgets do what they do there, and a fleet is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_fleet import BUDGETS, OURS, UNLIMITED, Flaky, Outage, run, run_flaky
from budget_rules import QuotaRule, RuleBudget, TimeoutQuotaRule, TokenRule, WindowRule
from table import write_part

from iii_resilience import Budget
from iii_resilience.testing.virtual_time import VirtualClock


class TestRules:
    def test_quota_ends_and_success_gives_it_back(self) -> None:
        rule, of_timeouts = QuotaRule(), TimeoutQuotaRule()
        assert sum(rule.reserve(0.0) for _ in range(1_000)) == 100
        assert sum(of_timeouts.reserve(0.0) for _ in range(1_000)) == 50
        rule.succeeded(0.0, 2)  # the last retry of the call, as the SDKs do
        assert rule.reserve(0.0)
        assert not rule.reserve(0.0)
        for _ in range(5):
            assert not rule.reserve(0.0)
            rule.succeeded(0.0)
        assert rule.reserve(0.0)

    def test_tokens_allow_no_retry_at_half(self) -> None:
        rule = TokenRule()
        assert [rule.reserve(0.0) for _ in range(6)] == [True] * 4 + [False] * 2
        for _ in range(2):
            rule.gave_up(0.0)  # the two that were denied have been counted
        for _ in range(31):
            rule.succeeded(0.0)
        assert rule.reserve(0.0)  # 4 + 3.1 - 1
        rule.gave_up(0.0)
        assert not rule.reserve(0.0)

    def test_window_allows_a_part_of_calls_and_a_minimum(self) -> None:
        clock = VirtualClock()
        with clock.installed():
            rule = WindowRule()
            assert sum(rule.reserve(clock.now) for _ in range(1_000)) == 100
            for _ in range(50):
                rule.succeeded(clock.now)
            assert sum(rule.reserve(clock.now) for _ in range(1_000)) == 10
            clock.advance(11)
            assert sum(rule.reserve(clock.now) for _ in range(1_000)) == 100

    def test_rule_is_told_of_every_success(self) -> None:
        bucket = RuleBudget(rule=TokenRule).bucket_for("f")
        assert isinstance(bucket, TokenRule)
        assert bucket.level < bucket.burst
        assert RuleBudget(rule=TokenRule).bucket_for("f") is not bucket
        assert isinstance(RuleBudget(rule=TokenRule), Budget)


@pytest.mark.parametrize(("rule", "least", "most"), [(OURS, 1.0, 1.2), (UNLIMITED, 2.0, 4.0)])
def test_fleet_of_ten_is_measured(rule: str, least: float, most: float) -> None:
    row = Outage(rule, 10, rate=80.0, duration=45.0).run()
    assert least < row.load <= most


def test_run_leaves_no_state_to_next_one() -> None:
    outage = Outage(OURS, 10, rate=80.0, duration=45.0)
    first = run(outage)
    assert run(outage) == first
    for rule in BUDGETS:
        flaky = Flaky(rule, 0.3, 1, 20.0, 200)
        assert run_flaky(flaky) == run_flaky(flaky)


def test_part_is_written_between_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "fleet.md"
    begin, end = "<!-- a, made by `make bench-fleet` -->", "<!-- end of a -->"
    path.write_text(f"before\n{begin}\nold\n{end}\nafter\n", "utf-8")
    for _ in range(2):
        write_part(path, "a", "new")
    assert path.read_text("utf-8") == f"before\n{begin}\n\nnew\n\n{end}\nafter\n"
    with pytest.raises(ValueError, match="put them where to write"):
        write_part(path, "b", "new")
