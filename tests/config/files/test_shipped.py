"""The ready-made policy files: what they do, and that they are there wherever the library is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

from iii_resilience import (
    ConfigError,
    PolicyBook,
    Reason,
    RetryPolicy,
    iii_retry,
    load_policies,
    report_for,
    retrying,
)

Clocks = Callable[[], AbstractContextManager[Any]]
FILES = {path.stem: path for path in sorted((ROOT / "policies").glob("*.yaml"))}


def test_there_are_four() -> None:
    assert list(FILES) == ["background", "default", "interactive", "payments"]


def test_shipped_default_is_built_in_policy() -> None:
    book = load_policies(FILES["default"])
    assert book == PolicyBook({"default": RetryPolicy()})
    assert book.explain("f")["attempts"].origin.endswith("default.yaml:13")


@pytest.mark.parametrize("name", FILES)
def test_each_is_found_by_name_from_any_directory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    book = load_policies(f"builtin:{name}")
    assert book == load_policies(FILES[name])
    assert book.policy_set.default == name
    assert book.warnings == ()


def test_name_that_is_none_is_answered_with_those_there_are() -> None:
    message = (
        r"^builtin:payment: is not a ready-made policy file \(allowed: background, default, "
        r"interactive, payments; did you mean 'payments'\?\)$"
    )
    with pytest.raises(ConfigError, match=message):
        load_policies("builtin:payment")
    with pytest.raises(ConfigError, match="is not a ready-made policy file"):
        load_policies("builtin:../pyproject")


def test_they_can_stand_below_file_of_ones_own() -> None:
    own = {"version": 1, "policies": {"payments": {"attempts": 2}}, "default": "interactive"}
    book = load_policies([*(f"builtin:{name}" for name in FILES), own])
    assert book.policy_set.policy("payments").attempts == 2
    assert book.policy_set.policy("payments").breaker is not None
    assert book.policy_set.default == "interactive"


@pytest.mark.parametrize("name", FILES)
def test_each_says_for_whom_it_is_and_why(name: str) -> None:
    text = FILES[name].read_text(encoding="utf-8")
    comment = [line for line in text.splitlines()[1:] if line.startswith("#")]
    assert len(" ".join(comment)) > 250
    assert any("or calls" in line or "For work" in line for line in comment)


@pytest.mark.parametrize("name", FILES)
def test_none_repeats_what_is_not_declared_idempotent(name: str) -> None:
    for policy in load_policies(FILES[name]).policy_set.policies.values():
        assert not policy.retry_unexecuted


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("works_at", [2, 3])
def test_each_rides_over_short_trouble(name: str, works_at: int, fake_clock: Clocks) -> None:
    policy = load_policies(FILES[name]).policy_set.policy(name)
    made = 0
    with fake_clock():
        for attempt in retrying(idempotent=True, policy=policy):
            with attempt:
                made = attempt.number
                if attempt.number < works_at:
                    raise ConnectionResetError
        assert made == works_at


@pytest.mark.parametrize("name", FILES)
def test_each_ends_within_its_deadline(name: str, fake_clock: Clocks) -> None:
    policy = load_policies(FILES[name]).policy_set.policy(name)
    assert policy.deadline is not None

    @iii_retry(idempotent=True, policy=policy)
    def fails() -> None:
        raise ConnectionResetError

    with fake_clock() as clock:
        started = clock.now
        with pytest.raises(ConnectionResetError) as caught:
            fails()
        assert clock.now - started <= policy.deadline
        assert len(clock.slept) == policy.attempts - 1
    report = report_for(caught.value)
    assert report is not None
    assert report.reason is Reason.EXHAUSTED
