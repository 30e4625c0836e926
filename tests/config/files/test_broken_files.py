"""Broken policy files are refused in exactly the words of the table."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.broken_policy_files import BROKEN

from iii_resilience import ConfigError, load_policies


def problems(path: Path, text: str | bytes) -> list[str]:
    """The problems of a file, each with the file's name cut off."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load_policies(path)
    assert str(caught.value) == "\n".join(caught.value.problems)
    found = []
    for problem in caught.value.problems:
        assert problem.startswith(f"{path}:")
        found.append(problem.removeprefix(f"{path}:").strip())
    return found


@pytest.mark.parametrize(
    ("text", "expected"), [case[1:] for case in BROKEN], ids=[name for name, _, _ in BROKEN]
)
def test_broken_file_is_refused_in_exactly_these_words(
    tmp_path: Path, text: str | bytes, expected: list[str]
) -> None:
    assert problems(tmp_path / "p.yaml", text) == expected


def test_table_is_long() -> None:
    assert len(BROKEN) >= 120
    assert len({name for name, _, _ in BROKEN}) == len(BROKEN)


EVERYTHING = """\
version: 3
extra: 1
policies:
  a: {attempts: 0, max_stops: 0, backoff: {factor: 0, jitter: x}}
  b: {wait: 1, backoff: {base_ms: 9, cap_ms: 8, throttled_base_ms: 1}}
rules: [5, {function: f, policy: c}]
default: x
queues: {q: {concurrency: 0}}
codes: {FORBIDDEN: transient}
"""


def test_all_problems_are_reported_in_order_of_file(tmp_path: Path) -> None:
    found = [problem.split(": ")[:2] for problem in problems(tmp_path / "p.yaml", EVERYTHING)]
    assert found == [
        ["1:1", "version"],
        ["2:1", "extra"],
        ["4:7", "policies.a.attempts"],
        ["4:20", "policies.a.max_stops"],
        ["4:44", "policies.a.backoff.factor"],
        ["4:55", "policies.a.backoff.jitter"],
        ["5:7", "policies.b.wait"],
        ["5:26", "policies.b.backoff.base_ms"],
        ["6:9", "rules.0"],
        ["6:26", "rules.1.policy"],
        ["7:1", "default"],
        ["8:14", "queues.q.concurrency"],
        ["9:9", "codes.FORBIDDEN"],
    ]


def test_name_cannot_make_problem_look_like_two(tmp_path: Path) -> None:
    text = 'version: 1\npolicies: {"a\\nb": {extends: "a\\nb"}}\ndefault: x'
    found = problems(tmp_path / "p.yaml", text)
    assert len(found) == 2
    assert not any("\n" in problem for problem in found)


def test_key_cannot_make_problem_look_like_two(tmp_path: Path) -> None:
    (found,) = problems(tmp_path / "p.yaml", 'version: 1\n"a\\nb": 1')
    assert found.startswith(r"2:1: 'a\nb': is not a key of a policy file")
