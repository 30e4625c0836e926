"""The record of a reload says what has changed, in the words of files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from support.waiting import until

from iii_resilience import load_policies
from iii_resilience.config.changes import changes


def between(before: dict[str, Any], after: dict[str, Any]) -> str:
    old, new = [load_policies(dict(given, version=1)).policy_set for given in (before, after)]
    return changes(old, new)


A = {"a": {"attempts": 3, "backoff": {"base_ms": 100}}}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {}, "nothing"),
        ({"policies": A}, {"policies": {"a": {"attempts": 5, "backoff": {"base_ms": 100}}}},
         "policies.a.attempts: 3 -> 5"),
        ({"policies": A}, {"policies": {"a": {"attempts": 3, "backoff": {"base_ms": 250}}}},
         "policies.a.backoff.base_ms: 100 -> 250"),
        ({"policies": A}, {"policies": {"a": {**A["a"], "deadline_ms": None}}},
         "policies.a.deadline_ms: 60000 -> null"),
        ({"policies": A}, {"policies": {"a": {**A["a"], "bulkhead": {"limit": 2}}}},
         "policies.a.bulkhead: null -> bulkhead"),
        ({}, {"policies": A}, "policies.a: added"),
        ({"policies": A}, {}, "policies.a: removed"),
        ({"policies": A}, {"policies": A, "default": "a"}, "default: default -> a"),
        ({"policies": A}, {"policies": A, "rules": [{"function": "f::*", "policy": "a"}]},
         "rules: 0 -> 1, or in another order"),
        ({}, {"codes": {"BUSY": "transient"}}, "codes.BUSY: added"),
        ({"codes": {"BUSY": "transient"}}, {"codes": {"BUSY": "permanent"}},
         "codes.BUSY.category: transient -> permanent"),
        ({}, {"exceptions": {"shop.BusyError": "transient"}}, "exceptions: changed"),
        ({}, {"queues": {"q": {"max_retries": 5}}}, "queues.q: added"),
    ],
)  # fmt: skip
def test_difference_is_named(before: dict[str, Any], after: dict[str, Any], said: str) -> None:
    assert between(before, after).split("; ")[0] == said


def test_many_differences_are_cut() -> None:
    many: dict[str, Any] = {"policies": {f"p{number}": {} for number in range(14)}}
    said = between({}, many).split("; ")
    assert len(said) == 11
    assert said[-1] == "and 4 more"


def test_record_of_reload_names_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("version: 1\npolicies: {a: {attempts: 3}}\n")
    book = load_policies(path)
    with caplog.at_level(logging.INFO, "iii_resilience"), book.watch(every=0.05):
        path.write_text("version: 1\npolicies: {a: {attempts: 7}}\n")
        until(lambda: book.policy_set.policies["a"].attempts == 7)
        until(lambda: "in force" in caplog.text)
    assert "the changed policies are in force (policies.a.attempts: 3 -> 7)" in caplog.text
