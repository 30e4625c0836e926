"""The commands for policy files: ``check``, ``show`` and ``init``.

Knows nothing of how files are read or policies chosen. Imported only if typer and rich are
installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from iii_resilience.cli.policy_template import starter
from iii_resilience.cli.retry_schedule import RetrySchedule, timetable
from iii_resilience.cli.terminal import AsJson, console, fail, flag, safe
from iii_resilience.cli.terminal_text import plain
from iii_resilience.config.default_book import default_book
from iii_resilience.config.explain import Provenance
from iii_resilience.config.files.file_source import Files
from iii_resilience.config.files.nodes import Problem, shown
from iii_resilience.config.files.schema import text as schema_text
from iii_resilience.config.lint import lint
from iii_resilience.config.load import load_policies
from iii_resilience.core.errors import ConfigError

_SCHEMA = "policies.schema.json"
_STRICT = "Take warnings for errors: end with 1 if there are any."


def check(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES...",
            help="Policy files that are used together, in their order; or builtin:payments.",
        ),
    ],
    *,
    strict: Annotated[bool, flag(_STRICT, "--strict")] = False,
    as_json: AsJson = False,
) -> None:
    """Check policy files and print everything that is wrong with them.

    Ends with 1 if something is wrong, and with 0 if there are only warnings.
    """
    result = Files.of(files).read().validate()
    problems, warnings = [*result.problems], [*result.warnings]
    if result.policy_set is not None:
        warnings += lint(result.policy_set)
    if strict:
        problems, warnings = [*problems, *warnings], []
    if as_json:
        report = {
            "valid": not problems,
            "problems": [_problem(problem) for problem in problems],
            "warnings": [_problem(warning) for warning in warnings],
        }
        typer.echo(json.dumps(report, indent=2))
    else:
        for problem in problems:
            typer.echo(plain(str(problem)))
        for warning in warnings:
            typer.echo(plain(f"warning: {warning}"))
    if problems or result.policy_set is None:
        if not as_json:
            typer.echo(f"{len(problems)} problem(s)", err=True)
        raise typer.Exit(1)
    if not as_json:
        policy_set = result.policy_set
        typer.echo(
            f"good: {len(policy_set.policies)} policies, {len(policy_set.rules)} rules, "
            f"{len(policy_set.queues)} queues, {len(policy_set.codes)} codes, "
            f"{len(policy_set.exceptions)} exceptions, "
            f"{len(warnings)} warning(s)",
            err=True,
        )


def show(
    function_id: Annotated[str, typer.Argument(help="The function that is called.")],
    policies: Annotated[
        list[str] | None,
        typer.Option(
            help="A policy file; may be given several times. Without it, the files in "
            "III_RESILIENCE_POLICIES, or the built-in default.",
        ),
    ] = None,
    *,
    strict: Annotated[bool, flag(_STRICT, "--strict")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the policy a function has, where each value comes from, and its delays."""
    try:
        book = load_policies(policies) if policies else default_book()
    except ConfigError as error:
        fail(f"the policies cannot be used:\n{error}", 1)
    provenance = book.explain(function_id)
    times = timetable(book.for_function(function_id).policy)
    warnings = [*book.warnings, *map(str, lint(book.policy_set, provenance.policy))]
    if as_json:
        report = {**attrs.asdict(provenance), **_milliseconds(times), "warnings": warnings}
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(provenance, times)
        for warning in warnings:
            said = f"warning: {warning}"
            console().print(safe(warning if strict else said), soft_wrap=True, highlight=False)
    if strict and warnings:
        raise typer.Exit(1)


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("policies.yaml"),
) -> None:
    """Write a commented policy file to start from, and its JSON Schema for the editor beside it.

    A file that exists is never written over.
    """
    if path.is_dir():
        fail(f"{path} is a directory: name the file to write", 1)
    beside = path.with_name(_SCHEMA)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(starter(path.name, beside.name))
    except FileExistsError:
        fail(f"{path} is already there, and was not touched", 1)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}", 1)
    typer.echo(f"wrote {path}")
    try:
        with beside.open("x", encoding="utf-8") as file:
            file.write(schema_text())
    except FileExistsError:
        typer.echo(f"{beside} is already there, and was not touched")
    except OSError as error:
        fail(f"{beside} cannot be written: {error.strerror}", 1)
    else:
        typer.echo(f"wrote {beside}")


def _problem(problem: Problem) -> dict[str, Any]:
    mark = problem.mark
    return {
        "file": mark.file,
        "line": mark.line,
        "column": mark.column,
        "path": problem.path,
        "message": problem.what,
    }


def _milliseconds(times: RetrySchedule) -> dict[str, Any]:
    def whole(seconds: float) -> int:
        return round(seconds * 1000)

    return {
        "attempts": [
            {
                "attempt": step.attempt,
                "delay_least_ms": whole(step.least),
                "delay_most_ms": whole(step.most),
                "delay_most_throttled_ms": whole(step.throttled_most),
            }
            for step in times.steps
        ],
        "attempts_most": times.attempts,
        "delays_most_ms": whole(times.delays),
        "delays_most_throttled_ms": whole(times.throttled_delays),
        "ends_within_ms": whole(times.ends_within),
    }


def _print(provenance: Provenance, times: RetrySchedule) -> None:
    out = console()
    rule = (
        f"no rule covers it ({provenance.rule_origin})"
        if provenance.rule is None
        else f"rule {provenance.rule} ({provenance.rule_origin})"
    )
    out.print(
        f"[bold]{safe(provenance.function_id)}[/bold]: policy "
        f"[bold]{safe(provenance.policy)}[/bold], {safe(rule)}",
        soft_wrap=True,
    )
    out.print(_REPEATED[provenance.idempotent])
    values = Table(box=SIMPLE_HEAD)
    values.add_column("value")
    values.add_column("", overflow="fold")
    values.add_column("comes from", overflow="fold")
    for value in provenance.values:
        values.add_row(value.path, safe(shown(value.value)), safe(value.origin))
    out.print(values)
    out.print(_delays(times))
    for line in _totals(times):
        out.print(line)


_REPEATED = {
    True: "Its calls are declared idempotent: transient failures are retried.",
    False: "Its calls are declared not idempotent: retried only where code says otherwise.",
    None: "Whether its calls may be repeated is for code to say: without that, never retried.",
}


def _delays(times: RetrySchedule) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for heading in ("attempt", "delay before it", "if throttled"):
        table.add_column(heading, justify="right")
    for step in times.steps:
        if step.attempt == 1:
            table.add_row("1", "none", "none")
        else:
            table.add_row(
                str(step.attempt),
                f"{step.least:g} to {step.most:g} s",
                f"at most {step.throttled_most:g} s",
            )
    if times.attempts > len(times.steps):
        table.add_row(f"… {times.attempts}", "", "")
    return table


def _totals(times: RetrySchedule) -> list[str]:
    slowed = f"{times.throttled_delays:g} s if throttled each time"
    return [
        f"Delays together: at most {times.delays:g} s ({slowed}).",
        f"Worst case: a call through the engine ends within {times.ends_within:g} s.",
    ]
