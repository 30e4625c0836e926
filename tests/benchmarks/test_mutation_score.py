"""`mutation_score` reads what a mutation run left, and says where too many mutants live."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import mutation_score
import pytest

KILLED, SURVIVED, NO_TESTS, TIMEOUT, UNTRIED = 1, 0, 33, 36, None


def left_by_run(root: Path, module: str, ends: Sequence[int | None]) -> None:
    """Write the end of each mutant of a module, as mutmut does."""
    file = root / f"{module}.meta"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"exit_code_by_key": dict(enumerate(ends))}))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mutation_score, "ROOT", tmp_path)
    return tmp_path


def test_run_without_mutants_fails(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left_by_run(root, "core/errors.py", [])
    assert mutation_score.main() == 1
    assert "run mutmut first" in capsys.readouterr().out


def test_figure_of_each_module_is_printed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left_by_run(root, "core/backoff.py", [KILLED] * 17 + [TIMEOUT] * 2 + [SURVIVED])
    left_by_run(root, "sdk/propagation.py", [KILLED] * 20)
    assert mutation_score.main() == 0
    assert [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()] == [
        ["core/backoff.py", "95.0", "%", "(17 killed, 1 survived, 2 timeout)"],
        ["sdk/propagation.py", "100.0", "%", "(20 killed)"],
        ["all", "97.5", "%", "(37 killed, 1 survived, 2 timeout)"],
    ]


@pytest.mark.parametrize("alive", [SURVIVED, NO_TESTS, UNTRIED])
def test_too_many_alive_in_all_fail(
    root: Path, alive: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    left_by_run(root, "core/backoff.py", [KILLED] * 89 + [alive] * 11)
    assert mutation_score.main() == 1
    assert "all: 89.0 % killed, 90 % are required" in capsys.readouterr().out


def test_module_of_core_counts_with_all_others(root: Path) -> None:
    left_by_run(root, "core/codes/model.py", [KILLED, KILLED, SURVIVED])
    left_by_run(root, "retry/decorator.py", [KILLED] * 97)
    assert mutation_score.main() == 0


def test_module_outside_of_core_does_not_hide_behind_it(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left_by_run(root, "core/backoff.py", [KILLED] * 1000)
    left_by_run(root, "sdk/propagation.py", [KILLED] * 9 + [SURVIVED])
    assert mutation_score.main() == 0
    left_by_run(root, "stores/transitions.py", [KILLED] * 8 + [SURVIVED] * 2)
    assert mutation_score.main() == 1
    (problem,) = [line for line in capsys.readouterr().out.splitlines() if "required" in line]
    assert problem == "stores/transitions.py: 80.0 % killed, 90 % are required"
