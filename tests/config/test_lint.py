"""What `config.lint` warns of: each kind, its place, its remedy, and what it leaves alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.paths import ROOT

from iii_resilience import PolicyBook, RetryPolicy, load_policies
from iii_resilience.config.lint import lint

YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def warnings(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "p.yaml"
    file.write_text(f"version: 1\n{text}", encoding="utf-8")
    found = lint(load_policies(file).policy_set)
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in found]


CASES = {
    "no budget": (
        "policies: {a: {attempts: 1000, deadline_ms: 60000, budget: null}}",
        "p.yaml:2:52: policies.a.budget: limits no retries: 1000 attempts make 1000 times the load",
        "leave budget out for the usual one",
    ),
    "no deadline": (
        "policies: {a: {attempts: 1000, deadline_ms: null}}",
        "p.yaml:2:32: policies.a.deadline_ms: is null, and 1000 attempts may wait",
        "set deadline_ms to what a caller waits",
    ),
    "deadline below first delay": (
        "policies: {a: {deadline_ms: 5, backoff: {base_ms: 100}}}",
        (
            "p.yaml:2:16: policies.a.deadline_ms: leaves no time for a retry: the delay before it "
            "is up to 100 ms"
        ),
        "raise deadline_ms",
    ),
    "attempt timeout fills deadline": (
        "policies: {a: {deadline_ms: 1000, attempt_timeout_ms: 1000}}",
        "p.yaml:2:35: policies.a.attempt_timeout_ms: leaves no time for a retry: 1000 ms and",
        "raise deadline_ms",
    ),
    "trickle of a fleet": (
        "policies: {a: {budget: {min_per_second: 10}}}",
        (
            "p.yaml:2:25: policies.a.budget.min_per_second: is for each process: 100 processes may "
            "send 1000 retries a second"
        ),
        "leave it out",
    ),
    "no delays": (
        "policies: {a: {backoff: {base_ms: 0}}}",
        "p.yaml:2:16: policies.a.backoff: has no delays",
        "leave base_ms and cap_ms out",
    ),
    "no jitter": (
        "policies: {a: {backoff: {jitter: none}}}",
        "p.yaml:2:26: policies.a.backoff.jitter: is none: callers that fail together retry",
        "write jitter: full",
    ),
    "dots in a pattern": (
        'rules: [{function: "orders.*", idempotent: true}]',
        "p.yaml:2:9: rules.0.function: covers no id such as orders::save",
        "write 'orders::*'",
    ),
    "space after an id": (
        'rules: [{function: "orders::save ", idempotent: true}]',
        "p.yaml:2:9: rules.0.function: can never match",
        "remove the space",
    ),
    "empty rule": (
        'rules: [{function: "orders::*"}]',
        "p.yaml:2:9: rules.0.function: says nothing",
        "remove the rule",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind_has_place_and_remedy(tmp_path: Path, name: str) -> None:
    text, begins, remedy = CASES[name]
    (warning,) = warnings(tmp_path, text)
    assert warning.startswith(begins)
    assert remedy in warning[warning.index("(") :]


@pytest.mark.parametrize(
    "text",
    [
        "policies: {a: {attempts: 2, budget: null}}",
        "policies: {a: {attempts: 1, budget: null, deadline_ms: 5, backoff: {base_ms: 0}}}",
        "policies: {a: {deadline_ms: 5000, attempt_timeout_ms: 1000}}",
        "policies: {a: {attempts: 3, deadline_ms: null}}",
        'rules: [{function: "*", policy: default}, {function: ping, policy: default}]',
    ],
)
def test_what_does_no_damage_is_left_alone(tmp_path: Path, text: str) -> None:
    assert warnings(tmp_path, text) == []


def test_inherited_value_is_named_once_where_it_stands(tmp_path: Path) -> None:
    found = warnings(
        tmp_path, "policies: {a: {attempts: 9, budget: null}, b: {extends: a, ready_timeout_ms: 1}}"
    )
    assert [warning.split(": ")[1] for warning in found] == ["policies.a.budget"]


def test_one_policy_can_be_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    bad = "{attempts: 9, budget: null}"
    file.write_text(f"version: 1\npolicies: {{a: {bad}, b: {bad}}}\n", encoding="utf-8")
    (found,) = lint(load_policies(file).policy_set, "b")
    assert found.path == "policies.b.budget"


def test_policies_of_code_have_no_place_and_no_warnings() -> None:
    book = PolicyBook({"a": RetryPolicy(attempts=1000, budget=None, deadline=None)})
    assert lint(book.policy_set) == ()


@pytest.mark.parametrize("path", sorted(ROOT.glob("policies/*.yaml")), ids=lambda path: path.stem)
def test_ready_made_policies_give_no_warning(path: Path) -> None:
    assert lint(load_policies(path).policy_set) == ()


def test_documented_examples_give_no_warning(tmp_path: Path) -> None:
    """Whoever copies from the documents starts with a clean file."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for block in YAML_BLOCK.findall(page.read_text(encoding="utf-8")):
            if "policies:" in block and "duration_ms" not in block:
                file = tmp_path / "p.yaml"
                file.write_text(block, encoding="utf-8")
                assert lint(load_policies(file).policy_set) == (), page.name
