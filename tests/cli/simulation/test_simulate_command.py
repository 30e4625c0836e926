"""The command `simulate`: its table, JSON, sentence, limits, pictures and refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from iii_resilience import PolicyBook, use_policies
from iii_resilience.cli import simulate_command
from iii_resilience.cli.app import app
from iii_resilience.cli.simulation import plots
from iii_resilience.cli.simulation.measurement import Row
from iii_resilience.cli.simulation.row_run import RowSetting, run_row
from iii_resilience.cli.simulation.scenario import Scenario

SCENARIO = """\
version: 1
duration_ms: 14000
calls: {rate: 20, processes: 2}
services:
  orders::save: {slots: 3, service_time_ms: 100}
timetable:
  - {start_ms: 3000, end_ms: 6000, capacity: 0.1}
"""
POLICIES = """\
version: 1
policies:
  calm: {attempts: 2}
  storm:
    attempts: 4
    budget: {burst: 1000, ratio: 0.1}
rules:
  - {function: "orders::*", policy: calm}
default: storm
"""


_ran: dict[str, Row] = {}  # most tests here are about what is made of the same rows


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["simulate", "--scenario", "s.yaml", *arguments])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(SCENARIO, encoding="utf-8")
    Path("p.yaml").write_text(POLICIES, encoding="utf-8")

    def in_this_process(
        settings: Sequence[RowSetting],
        scenario: Scenario,
        seed: int,
        progress: Callable[[int, float], object],
    ) -> list[Row]:
        rows = []
        for number, setting in enumerate(settings):
            key = repr((setting.name, setting.policy, setting.policy_set, scenario, seed))
            if key not in _ran:
                _ran[key] = run_row(setting, scenario, seed)
            rows.append(_ran[key])
            progress(number, 1.0)
        return rows

    # Processes have a test of their own; starting them for each of these takes long.
    monkeypatch.setattr(simulate_command, "run_rows", in_this_process)


def report(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_table_has_row_for_each_and_one_sentence() -> None:
    result = run("--policies", "p.yaml", "--against", "builtin:interactive")
    assert result.exit_code == 0
    out = result.stdout
    assert "s: 2 processes, 20 calls/s, trouble from 3 s to 6 s of 14 s, seed 1" in out
    for row in ("no retries", "4 attempts, no budget", "storm (p.yaml)", "interactive"):
        assert row in out
    assert re.search(r"p\.yaml:6 budget\.burst: 2 processes may send 2000 retries at once", out)
    assert result.stderr.splitlines() == [
        "simulated 1 of 4: no retries",
        "simulated 2 of 4: 4 attempts, no budget",
        "simulated 3 of 4: storm (p.yaml)",
        "simulated 4 of 4: interactive (builtin:interactive)",
    ]


def test_policy_is_default_one_named_one_or_that_of_rules() -> None:
    names = [
        report("--policies", "p.yaml", *choice)["rows"][2]["name"]
        for choice in ((), ("--policy", "calm"), ("--function", "orders::list"))
    ]
    assert names == ["storm (p.yaml)", "calm (p.yaml)", "calm (p.yaml)"]


def test_processes_rate_and_seed_replace_those_of_scenario() -> None:
    found = report("--processes", "5", "--rate", "7", "--seed", "3")
    assert (found["processes"], found["calls_per_second"], found["seed"]) == (5, 7, 3)
    assert found["rows"][0]["calls"] < 0.5 * report()["rows"][0]["calls"]


def test_limits_decide_exit_code_and_are_named() -> None:
    assert run("--policies", "p.yaml", "--policy", "calm", "--max-load", "1.5").exit_code == 0
    result = run("--policies", "p.yaml", "--max-load", "1.2", "--max-recovery", "1")
    assert result.exit_code == 1
    assert re.search(r"storm \(p\.yaml\): its load of \d\.\d\d is above 1\.2", result.stdout)
    assert re.search(r"it is (never answering again|answering again after)", result.stdout)
    as_json = run("--policies", "p.yaml", "--max-load", "1.2", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["holds"] is False


def test_without_files_ready_made_default_is_named_by_line() -> None:
    found = report()
    assert found["rows"][2]["name"] == "default"
    assert found["advice"].startswith("builtin:default:")


def test_policies_of_process_are_used_where_no_file_is_named() -> None:
    before = use_policies(PolicyBook(default="mine", policies={"mine": simulate_policy()}))
    try:
        assert report()["rows"][2]["name"] == "mine"
    finally:
        use_policies(before)


def simulate_policy() -> Any:
    from iii_resilience import RetryPolicy

    return RetryPolicy(attempts=2)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_picture_is_written(suffix: str) -> None:
    path = Path(f"out{suffix}")
    assert run("--plot", str(path)).exit_code == 0
    assert path.read_bytes().startswith(b"<?xml" if suffix == ".svg" else b"\x89PNG")


def test_same_run_draws_the_same_picture() -> None:
    for name in ("a.svg", "b.svg"):
        assert run("--plot", name).exit_code == 0
    assert Path("a.svg").read_bytes() == Path("b.svg").read_bytes()


def test_without_extra_characters_show_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    result = run("--plot", "out.svg")
    assert result.exit_code == 0
    assert "pip install 'iii-resilience[plots]'" in result.stderr
    assert not Path("out.svg").exists()
    assert_chart(result.stdout)
    assert_chart(run("--plot", "-").stdout)


def assert_chart(out: str) -> None:
    lines = out.splitlines()
    (heading,) = [number for number, line in enumerate(lines) if line.startswith("attempts/s")]
    chart = lines[heading:]
    assert [line.split("  ")[-1].split(" ")[-1][:1] for line in chart[1:4]]
    assert sum("█" in line for line in chart) >= 2
    assert any(re.fullmatch(r" *trouble -+x+-+", line) for line in chart)
    assert len({len(line) for line in chart[1:4]}) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--plot", "out.pdf"), 2, "must end with .svg or .png"),
        (("--plot", "nowhere/out.svg"), 2, "there is no folder nowhere"),
        (("--policy", "a", "--function", "b"), 2, "give one of them"),
        (("--policies", "p.yaml", "--policy", "clam"), 2, "did you mean 'calm'?"),
        (("--policies", "missing.yaml"), 1, "missing.yaml: cannot be read"),
        (("--against", "missing.yaml"), 1, "missing.yaml: cannot be read"),
        (("--scenario", "brownot"), 1, "did you mean 'brownout'?"),
        (("--rate", "0"), 2, "rate must be a finite number above 0"),
        (("--processes", "100000"), 2, "processes must be a whole number"),
    ],
)
def test_what_cannot_be_simulated_is_refused_before(
    arguments: tuple[str, ...], code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_reached(*_: Any) -> list[Row]:
        raise AssertionError

    monkeypatch.setattr(simulate_command, "run_rows", not_reached)
    result = run(*arguments)
    assert result.exit_code == code
    assert says in result.stderr.replace("\n", " ")


def test_against_takes_policy_of_function_there() -> None:
    Path("other.yaml").write_text(POLICIES.replace("calm", "meek"), encoding="utf-8")
    rows = report("--policies", "p.yaml", "--function", "orders::x", "--against", "other.yaml")
    assert [row["name"] for row in rows["rows"][2:]] == ["calm (p.yaml)", "meek (other.yaml)"]
