"""`check`, `show` and `init`: what they print, and how they end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from support.paths import ROOT
from typer.testing import CliRunner, Result

from iii_resilience import load_policies, use_policies
from iii_resilience.cli.app import app
from iii_resilience.config.files import schema


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(GOOD, encoding="utf-8")
    Path("doubtful.yaml").write_text(DOUBTFUL, encoding="utf-8")
    Path("bad.yaml").write_text(BAD, encoding="utf-8")


GOOD = """\
version: 1
policies:
  quick: {attempts: 3, deadline_ms: 2000, backoff: {base_ms: 100, jitter: equal}}
rules:
  - {function: "orders::*", policy: quick, idempotent: true}
"""
DOUBTFUL = "version: 1\nrules: [{function: '*', idempotent: true}]\n"
BAD = """\
version: 1
policies: {quick: {attempts: 0, deadlin_ms: 5}}
rules: [{function: f, policy: x}]
"""


class TestCheck:
    def test_good_files_end_with_nothing_on_standard_output(self) -> None:
        result = run("check", "good.yaml")
        assert (result.exit_code, result.stdout) == (0, "")
        assert (
            result.stderr
            == "good: 2 policies, 1 rules, 0 queues, 0 codes, 0 exceptions, 0 warning(s)\n"
        )

    def test_every_problem_is_line_and_end_is_1(self) -> None:
        result = run("check", "bad.yaml")
        assert result.exit_code == 1
        assert [line.split(": ")[:2] for line in result.stdout.splitlines()] == [
            ["bad.yaml:2:20", "policies.quick.attempts"],
            ["bad.yaml:2:33", "policies.quick.deadlin_ms"],
            ["bad.yaml:3:23", "rules.0.policy"],
        ]
        assert result.stderr == "3 problem(s)\n"

    def test_warnings_alone_end_with_0(self) -> None:
        result = run("check", "doubtful.yaml")
        assert result.exit_code == 0
        assert result.stdout.startswith("warning: doubtful.yaml:2:25: rules.0.idempotent: says of")

    def test_files_are_checked_together(self) -> None:
        assert run("check", "bad.yaml", "good.yaml").exit_code == 1
        Path("more.yaml").write_text("version: 1\npolicies: {x: {extends: quick}}\n", "utf-8")
        assert run("check", "good.yaml", "more.yaml").exit_code == 0
        assert run("check", "more.yaml").exit_code == 1

    def test_json_says_the_same(self) -> None:
        result = run("check", "--json", "bad.yaml")
        assert result.exit_code == 1
        told = json.loads(result.stdout)
        assert told["valid"] is False
        assert told["warnings"] == []
        assert told["problems"][0] == {
            "file": "bad.yaml",
            "line": 2,
            "column": 20,
            "path": "policies.quick.attempts",
            "message": "must be a whole number at least 1, got 0",
        }
        result = run("check", "--json", "doubtful.yaml")
        assert result.exit_code == 0
        told = json.loads(result.stdout)
        assert told["valid"] is True
        assert [each["line"] for each in told["warnings"]] == [2]

    def test_ready_made_files_and_missing_ones(self) -> None:
        assert run("check", "builtin:payments").exit_code == 0
        result = run("check", "nowhere.yaml")
        assert result.exit_code == 1
        assert result.stdout == "nowhere.yaml: cannot be read: No such file or directory\n"

    def test_no_file_is_no_check(self) -> None:
        assert run("check").exit_code == 2


class TestShow:
    def test_values_their_places_and_delays(self) -> None:
        result = run("show", "orders::save", "--policies", "good.yaml")
        assert result.exit_code == 0
        lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
        assert lines[0] == "orders::save: policy quick, rule orders::* (good.yaml:5)"
        assert "Its calls are declared idempotent: transient failures are retried." in lines
        assert "backoff.base_ms 100 good.yaml:3" in lines
        assert "backoff.cap_ms 20000 built-in default" in lines
        assert "2 0.05 to 0.1 s at most 1 s" in lines
        assert "3 0.1 to 0.2 s at most 2 s" in lines
        assert "Delays together: at most 0.3 s (2 s if throttled each time)." in lines
        assert "Worst case: a call through the engine ends within 2 s." in lines

    def test_several_files_are_laid_over_one_another(self) -> None:
        Path("over.yaml").write_text("version: 1\npolicies: {quick: {attempts: 2}}\n", "utf-8")
        result = run("show", "orders::x", "--policies", "good.yaml", "--policies", "over.yaml")
        assert "over.yaml:2" in result.stdout

    def test_json_has_whole_milliseconds(self) -> None:
        told = json.loads(run("show", "orders::x", "--policies", "good.yaml", "--json").stdout)
        assert told["policy"] == "quick"
        assert told["idempotent"] is True
        assert {"path": "attempts", "value": 3, "origin": "good.yaml:3"} in told["values"]
        assert told["attempts"][2] == {
            "attempt": 3,
            "delay_least_ms": 100,
            "delay_most_ms": 200,
            "delay_most_throttled_ms": 2000,
        }
        assert (told["delays_most_ms"], told["ends_within_ms"]) == (300, 2000)

    def test_without_files_it_shows_default_book(self) -> None:
        assert "policy default, no rule covers it (set in code)" in run("show", "f").stdout
        before = use_policies(load_policies("good.yaml"))
        try:
            assert "policy quick" in run("show", "orders::f").stdout
        finally:
            use_policies(before)

    def test_files_that_do_not_validate_are_reported(self) -> None:
        result = run("show", "f", "--policies", "bad.yaml")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "bad.yaml:2:20: policies.quick.attempts" in result.stderr

    def test_ids_and_files_are_no_markup(self) -> None:
        assert "a[bold]x: policy default" in run("show", "a[bold]x").stdout


class TestInit:
    def test_it_writes_file_that_is_good_and_its_schema(self) -> None:
        result = run("init")
        assert result.exit_code == 0
        assert result.stdout == "wrote policies.yaml\nwrote policies.schema.json\n"
        text = Path("policies.yaml").read_text(encoding="utf-8")
        assert text.startswith("# yaml-language-server: $schema=policies.schema.json\n")
        assert Path("policies.schema.json").read_text(encoding="utf-8") == schema.text()
        assert load_policies("policies.yaml").warnings == ()
        assert run("check", "policies.yaml").exit_code == 0
        assert max(len(line) for line in text.splitlines()) <= 100

    def test_file_that_exists_is_never_written_over(self) -> None:
        Path("policies.schema.json").write_text("{}", encoding="utf-8")
        result = run("init", "good.yaml")
        assert result.exit_code == 1
        assert "good.yaml is already there, and was not touched" in result.stderr
        assert Path("good.yaml").read_text(encoding="utf-8") == GOOD
        result = run("init", "new.yaml")
        assert result.exit_code == 0
        assert "policies.schema.json is already there, and was not touched" in result.stdout
        assert Path("policies.schema.json").read_text(encoding="utf-8") == "{}"
        assert "iii-resilience check new.yaml" in Path("new.yaml").read_text(encoding="utf-8")

    def test_link_to_nowhere_is_not_followed(self) -> None:
        Path("link.yaml").symlink_to("elsewhere.yaml")
        assert run("init", "link.yaml").exit_code == 1
        assert not Path("elsewhere.yaml").exists()

    @pytest.mark.parametrize("folder", [".", "/", ".."])
    def test_folder_is_no_file(self, folder: str) -> None:
        result = run("init", folder)
        assert result.exit_code == 1
        assert "is a directory" in result.stderr

    def test_folder_that_is_not_there_is_said(self) -> None:
        result = run("init", "nowhere/p.yaml")
        assert result.exit_code == 1
        assert "cannot be written: No such file or directory" in result.stderr


STORM = "version: 1\npolicies:\n  storm: {attempts: 1000, deadline_ms: null, budget: null}\n"


class TestLint:
    """What a policy does to load is said without a run."""

    @pytest.fixture(autouse=True)
    def storm(self) -> None:
        text = f"{STORM}default: storm\n"
        Path("storm.yaml").write_text(text, encoding="utf-8")

    def test_check_warns_with_place_and_remedy_and_ends_well(self) -> None:
        result = run("check", "storm.yaml")
        assert result.exit_code == 0
        assert [line.split(": ")[:3] for line in result.stdout.splitlines()] == [
            ["warning", "storm.yaml:3:46", "policies.storm.budget"],
            ["warning", "storm.yaml:3:27", "policies.storm.deadline_ms"],
        ]
        assert "1000 times the load of an outage" in result.stdout
        assert result.stderr.endswith("2 warning(s)\n")

    def test_strict_makes_errors_of_warnings(self) -> None:
        result = run("check", "storm.yaml", "--strict")
        assert result.exit_code == 1
        assert result.stdout.startswith("storm.yaml:3:46: policies.storm.budget: ")
        assert result.stderr == "2 problem(s)\n"
        report = json.loads(run("check", "storm.yaml", "--strict", "--json").stdout)
        assert (report["valid"], len(report["problems"]), report["warnings"]) == (False, 2, [])
        assert run("check", "good.yaml", "--strict").exit_code == 0

    def test_strict_counts_the_warnings_of_the_reader_too(self) -> None:
        assert run("check", "doubtful.yaml").exit_code == 0
        assert run("check", "doubtful.yaml", "--strict").exit_code == 1

    def test_show_warns_of_the_policy_in_force(self) -> None:
        result = run("show", "f", "--policies", "storm.yaml")
        assert result.exit_code == 0
        assert result.stdout.count("warning: ") == 2
        strict = run("show", "f", "--policies", "storm.yaml", "--strict")
        assert strict.exit_code == 1
        assert "warning: " not in strict.stdout
        both = ("--policies", "storm.yaml", "--policies", "good.yaml")
        assert "warning" not in run("show", "orders::save", *both).stdout

    def test_hook_of_pre_commit_runs_the_command(self) -> None:
        text = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
        (hook,) = yaml.safe_load(text)
        command: list[str] = [*hook["entry"].split(), *hook["args"]]
        program, arguments = command[0], command[1:]
        assert program == "iii-resilience"
        assert run(*arguments, "good.yaml").exit_code == 0
        assert run(*arguments, "storm.yaml").exit_code == 1
        covered = re.compile(hook["files"])
        assert covered.search("deploy/policies.yaml")
        assert not covered.search("deploy/values.yaml")
