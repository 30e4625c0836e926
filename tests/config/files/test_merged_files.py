"""Several files as one book, and where each of its values comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
import tenacity

from iii_resilience import ConfigError, Enqueue, PolicyBook, RetryPolicy, load_policies
from iii_resilience.config.queue_definition import Queue
from iii_resilience.config.rules import Rule

BASE = """\
version: 1
policies:
  interactive: {attempts: 3, deadline_ms: 5000, backoff: {base_ms: 100, cap_ms: 2000}}
  payments:
    extends: interactive
    attempts: 5
    fallback: {enqueue: payments-retry}
rules:
  - {function: "payments::*", policy: payments}
  - {function: "payments::status", policy: payments, idempotent: true}
default: interactive
queues:
  payments-retry: {max_retries: 5, concurrency: 4}
codes:
  OUT_OF_STOCK: permanent
  CLOSED: permanent
"""
SITE = """\
version: 1
policies:
  interactive: {deadline_ms: 9000}
  payments:
    backoff:
      cap_ms: 3000
rules:
  - {function: "payments::*", policy: interactive, idempotent: false}
default: payments
queues:
  payments-retry: {concurrency: 1}
codes:
  CLOSED: {category: transient, remedy: wait}
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE, encoding="utf-8")
    Path("site.yaml").write_text(SITE, encoding="utf-8")
    return ["base.yaml", "site.yaml"]


def test_later_files_win_key_by_key(files: list[str]) -> None:
    book = load_policies(files)
    payments = book.policy_set.policy("payments")
    assert payments.attempts == 5
    assert payments.deadline == 9.0
    assert (payments.backoff.base, payments.backoff.cap) == (0.1, 3.0)
    assert payments.fallback == Enqueue("payments-retry")
    assert book.policy_set.policy("interactive").backoff.cap == 2.0
    assert book.policy_set.default == "payments"
    assert book.policy_set.queues == {
        "payments-retry": Queue("payments-retry", max_retries=5, concurrency=1)
    }
    assert [(row.code, row.category) for row in book.policy_set.codes] == [
        ("OUT_OF_STOCK", "permanent"),
        ("CLOSED", "transient"),
    ]
    assert book.warnings == ()


def test_rules_of_later_files_come_first(files: list[str]) -> None:
    book = load_policies(files)
    assert book.for_function("payments::charge").name == "interactive"
    assert book.for_function("payments::charge").idempotent is False
    assert book.for_function("payments::status").idempotent is True
    assert load_policies(files[::-1]).for_function("payments::charge").name == "payments"


def test_files_may_refer_to_what_other_files_say(tmp_path: Path) -> None:
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("version: 1\nrules: [{function: f, policy: a}]\ndefault: a\n", "utf-8")
    second.write_text("version: 1\npolicies: {a: {extends: b}, b: {attempts: 7}}\n", "utf-8")
    assert load_policies([first, second]).for_function("f").policy.attempts == 7
    assert load_policies((second, first)).for_function("f").policy.attempts == 7
    assert load_policies(iter([second, first])).for_function("g").policy.attempts == 7


def test_mapping_can_be_laid_over_file(files: list[str]) -> None:
    book = load_policies([files[0], {"version": 1, "policies": {"payments": {"attempts": 9}}}])
    assert book.policy_set.policy("payments").attempts == 9
    assert book.explain("payments::x")["attempts"].origin == "<mapping>"


def test_problems_of_all_files_are_reported_in_order(files: list[str]) -> None:
    Path("base.yaml").write_text("version: 1\npolicies: {a: {attempts: 0}}\n", "utf-8")
    Path("site.yaml").write_text("version: 1\npolicies: {a: {attempts: 5}, b: 1}\n", "utf-8")
    Path("more.yaml").write_text("version: [\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_policies([*files, "more.yaml", "missing.yaml"])
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
        "base.yaml:2:16",
        "site.yaml:2:30",
        "more.yaml:2:1",
        "missing.yaml",
    ]


def test_what_goes_together_is_judged_when_all_is_merged(tmp_path: Path) -> None:
    low, high = tmp_path / "low.yaml", tmp_path / "high.yaml"
    low.write_text("version: 1\npolicies: {a: {backoff: {base_ms: 30000}}}\n", "utf-8")
    high.write_text("version: 1\npolicies: {a: {backoff: {cap_ms: 60000}}}\n", "utf-8")
    assert load_policies([low, high]).policy_set.policy("a").backoff.base == 30.0
    with pytest.raises(ConfigError, match=r"low\.yaml:2:26: policies\.a\.backoff\.base_ms: is"):
        load_policies([low])


class TestExplain:
    def test_every_value_says_its_file_and_line(self, files: list[str]) -> None:
        told = load_policies(files).explain("payments::status")
        assert (told.policy, told.rule, told.idempotent) == ("payments", "payments::status", True)
        assert told.rule_origin == "base.yaml:10"
        origins = {value.path: (value.value, value.origin) for value in told.values}
        assert origins == {
            "attempts": (5, "base.yaml:6"),
            "backoff.base_ms": (100, "base.yaml:3"),
            "backoff.factor": (2.0, "built-in default"),
            "backoff.cap_ms": (3000, "site.yaml:6"),
            "backoff.throttled_base_ms": (None, "built-in default"),
            "backoff.jitter": ("full", "built-in default"),
            "deadline_ms": (9000, "site.yaml:3"),
            "attempt_timeout_ms": (None, "built-in default"),
            "budget.ratio": (0.1, "built-in default"),
            "budget.burst": (10.0, "built-in default"),
            "budget.min_per_second": (0.005, "built-in default"),
            "breaker": (None, "built-in default"),
            "bulkhead": (None, "built-in default"),
            "fallback.enqueue": ("payments-retry", "base.yaml:7"),
            "retry_unexecuted": (False, "built-in default"),
            "ready_timeout_ms": (5000, "built-in default"),
            "max_stops": (3, "built-in default"),
            "max_payload_bytes": (None, "built-in default"),
        }

    def test_rule_that_won_is_named_by_its_own_place(self, files: list[str]) -> None:
        assert load_policies(files).explain("payments::x").rule_origin == "site.yaml:8"
        assert load_policies(files[0]).explain("payments::x").rule_origin == "base.yaml:9"

    def test_without_rule_it_says_what_made_default_one(self, files: list[str]) -> None:
        told = load_policies(files).explain("reports::x")
        assert (told.rule, told.rule_origin, told.idempotent) == (None, "site.yaml:9", None)
        told = load_policies({"version": 1}).explain("reports::x")
        assert (told.policy, told.rule_origin) == ("default", "built-in default")
        assert {value.origin for value in told.values} == {"built-in default"}

    def test_it_can_be_read(self, files: list[str]) -> None:
        lines = str(load_policies(files).explain("payments::status")).splitlines()
        assert lines[0] == (
            "payments::status: policy payments (rule 'payments::status': base.yaml:10)"
        )
        assert lines[1] == "  idempotent: true (base.yaml:10)"
        assert "  deadline_ms: 9000 (site.yaml:3)" in lines
        assert "  breaker: null (built-in default)" in lines

    def test_book_made_in_code_says_so(self) -> None:
        policy = RetryPolicy(deadline=0.0005, wait=tenacity.wait_fixed(1))
        told = PolicyBook({"a": policy}, [Rule("f", "a")]).explain("f")
        assert told.rule_origin == "set in code"
        assert told["deadline_ms"].value == 0.5
        assert told["wait"].value == "wait_fixed"
        with pytest.raises(KeyError):
            told["stop"]
