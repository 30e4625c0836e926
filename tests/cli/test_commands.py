"""The command line: what it prints, where to, and how it ends."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from iii_resilience.cli.app import app
from iii_resilience.core.codes.lookup import ALL


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=stdin)


class TestCodes:
    def test_every_code_is_listed(self) -> None:
        output = run("codes", "--json").stdout
        assert {(row["system"], row["code"]) for row in json.loads(output)} == {
            (row.system, row.code) for row in ALL
        }

    def test_they_can_be_chosen_by_category_and_system(self) -> None:
        rows = json.loads(
            run("codes", "--category", "transient", "--system", "rpc", "--json").stdout
        )
        assert {row["code"] for row in rows} == {"INVOKE_TIMEOUT", "RATE_LIMITED"}

    def test_table_shows_whole_codes(self) -> None:
        output = run("codes", "--category", "auth").stdout
        assert "function_not_found" not in output
        assert "memory" not in output
        assert "FORBIDDEN" in output

    @pytest.mark.parametrize("arguments", [("--system", "x"), ("--category", "x")])
    def test_what_does_not_exist_is_error(self, arguments: tuple[str, str]) -> None:
        assert run("codes", *arguments).exit_code == 2


class TestExplain:
    def test_it_prints_what_default_policy_would_do(self) -> None:
        result = run("explain", "TIMEOUT")
        assert result.exit_code == 0
        assert "given up (not_idempotent)" in result.stdout
        assert "retried after at most 0.2 s" in result.stdout

    @pytest.mark.parametrize("arguments", [(), ("-",)])
    def test_it_reads_standard_input(self, arguments: tuple[str, ...]) -> None:
        body = '{"code": "FORBIDDEN", "message": "no"}'
        result = run("explain", *arguments, stdin=body)
        assert "FORBIDDEN" in result.stdout
        assert "fix-access" in result.stdout

    def test_square_brackets_are_no_markup(self) -> None:
        assert "a[bold]x (unknown)" in run("explain", "a[bold]x").stdout

    def test_misspelt_code_gets_suggestions(self) -> None:
        assert "did you mean" in run("explain", "FORBIDEN").stdout

    def test_json_is_json(self) -> None:
        data = json.loads(run("explain", "TIMEOUT", "--json").stdout)
        assert data["failure"]["category"] == "transient"
        assert [outlook["idempotent"] for outlook in data["outlooks"]] == [False, True]

    def test_nonsense_ends_with_one_line(self) -> None:
        result = run("explain", "{")
        assert result.exit_code == 2
        assert result.stdout == ""
        assert len(result.stderr.strip().splitlines()) == 1


def test_without_arguments_it_shows_help() -> None:
    assert "demo" in run().output


def test_flags_show_no_type_in_help() -> None:
    for command in (["show"], ["check"], ["codes"], ["doctor"], ["dlq", "redrive"]):
        shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "100"}).output
        assert [
            line for line in shown.splitlines() if "<bool>" in line and "--help" not in line
        ] == []
