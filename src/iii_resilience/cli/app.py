"""The commands of ``iii-resilience`` and the tables they print.

Knows nothing of how the work is done. Imported only if typer and rich are installed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Annotated

import attrs
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from iii_resilience import __version__
from iii_resilience.cli import dlq_commands, policy_commands, simulate_command
from iii_resilience.cli.demo.callers import DemoError, WithLibrary, WithTenacity
from iii_resilience.cli.demo.scenarios import Result, run_demo
from iii_resilience.cli.doctor import Finding, examine
from iii_resilience.cli.error_explanation import Explanation, RetryOutlook, explain
from iii_resilience.cli.store_checks import examine_store
from iii_resilience.cli.terminal import AsJson, console, fail, flag, safe
from iii_resilience.config.load import load_policies
from iii_resilience.core.codes.lookup import ALL
from iii_resilience.core.codes.model import Category, Code

app = typer.Typer(
    name="iii-resilience",
    help="Retry and resilience policies for calls through the iii engine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(policy_commands.check)
app.command()(policy_commands.show)
app.command()(policy_commands.init)
app.command()(simulate_command.simulate)
app.add_typer(dlq_commands.app, name="dlq")


@app.callback(invoke_without_command=True)
def _root(
    *,
    version: Annotated[bool, flag("Print the version and exit.", "--version")] = False,
) -> None:
    if version:
        Console().print(__version__)
        raise typer.Exit


@app.command()
def demo(
    engine: Annotated[
        str | None,
        typer.Option(
            help="Address of an engine that is already running (ws://127.0.0.1:49134); the faults "
            "that only the demo's own engine can script are then left out.",
        ),
    ] = None,
    *,
    comparison: Annotated[
        bool, flag("Run the same faults with a plain tenacity decorator too.")
    ] = True,
) -> None:
    """Call real workers through an engine while things break, and check what became of it."""
    out = console()
    try:
        ours = _run(out, WithLibrary, engine)
        theirs = _run(out, WithTenacity, engine) if comparison else None
    except DemoError as error:
        fail(f"demo: {error}")
    except KeyboardInterrupt:
        out.print("interrupted")
        sys.stdout.flush()
        # The SDK's thread is not a daemon. If the interrupt came while a client was being created,
        # the client cannot be shut down, and this process would never exit.
        os._exit(130)
    out.print(_outcomes(ours))
    out.print(_verdicts(ours, theirs))
    for line in ours.left_out:
        out.print(f"Left out: {line}.")
    if ours.verdict.refused:
        count = len(ours.verdict.refused)
        out.print(
            f"{count} call(s) reached the engine in the very moment of a kill: refused on the "
            "first attempt (function_not_found), nothing ran."
        )
    if not ours.verdict.good:
        out.print("[bold red]The verdict fails.[/bold red]")
        raise typer.Exit(1)
    out.print(
        f"[bold green]The verdict holds[/bold green]: {len(ours.reports)} calls, "
        f"{sum(ours.ledger.runs.values())} executions, nothing lost, nothing doubled, no ghosts."
    )


@app.command()
def codes(
    category: Annotated[Category | None, typer.Option(help="Only codes of this category.")] = None,
    system: Annotated[
        str | None, typer.Option(help="Only codes of this system: iii, rpc or local.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Print what is known of every error code."""
    systems = sorted({row.system for row in ALL})
    if system is not None and system not in systems:
        fail(f"--system {system!r} is none of {', '.join(systems)}")
    rows = [
        row
        for row in ALL
        if (category is None or row.category is category)
        and (system is None or row.system == system)
    ]
    if as_json:
        typer.echo(json.dumps([_row(row) for row in rows], indent=2))
        return
    table = Table(box=SIMPLE_HEAD)
    for heading in ("code", "category", "execution", "throttled"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "code")
    for row in rows:
        throttled = "yes" if row.throttled else ""
        table.add_row(row.code, row.category, row.execution, throttled)
    console().print(table)
    console().print(f"{len(rows)} codes; what to do about one: iii-resilience explain CODE")


def _row(row: Code) -> dict[str, object]:
    # A row's source is a place in iii's own repositories, or a note of this project's.
    source = "" if "seed" in row.source else row.source
    return {**attrs.asdict(row), "source": source}


@app.command(name="explain")
def explain_(
    error: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE_OR_JSON",
            help="A code, a wire error body, an RPC response, an exception as it was printed, a "
            "traceback, or lines of a log; without it, standard input is read.",
        ),
    ] = None,
    function: Annotated[
        str | None, typer.Option(help="The function that was called: proves what did not run.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Say what an error means and what the default policy would do about it."""
    text = error if error not in {None, "-"} else _standard_input()
    try:
        explanation = explain(text or "", function)
    except ValueError as problem:
        fail(str(problem))
    if as_json:
        typer.echo(json.dumps(attrs.asdict(explanation), indent=2, default=str))
        return
    _print_explanation(explanation)


def _standard_input() -> str:
    """What was piped in, whatever its bytes are; a process may have no input at all."""
    if sys.stdin is None or sys.stdin.closed:
        fail("there is nothing to explain: standard input is closed; give the error as an argument")
    try:
        return sys.stdin.buffer.read().decode(errors="replace")
    except (OSError, ValueError) as error:
        fail(f"standard input cannot be read: {getattr(error, 'strerror', None) or error}")


@app.command(name="doctor")
def doctor_(
    engine: Annotated[
        str, typer.Option(help="Address of the running engine: ws://127.0.0.1:49134.")
    ],
    function: Annotated[
        str | None, typer.Option(help="A function that should be registered there.")
    ] = None,
    worker: Annotated[
        str | None,
        typer.Option(envvar="III_WORKER_NAME", help="The worker that should own the function."),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(envvar="III_NAMESPACE", help="Where the function is looked for.")
    ] = None,
    policies: Annotated[
        str | None, typer.Option(help="A policy file whose limits are shown beside the SDK's.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="A store to look at, too: postgresql://user@host/name.")
    ] = None,
    *,
    lease: Annotated[
        float, typer.Option(min=0.001, help="The lease of the store's handlers, in seconds.")
    ] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Look at an engine, a function and this machine's SDK, and say what to do about it."""
    try:
        book = None if policies is None else load_policies(policies)
        findings = examine(engine, function, worker=worker, namespace=namespace, book=book)
        if store is not None:
            findings.extend(examine_store(store, lease=lease))
    except (OSError, ValueError) as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        fail(f"the doctor needs {error.name}: pip install 'iii-resilience[iii]'")
    bad = [finding for finding in findings if finding.bad]
    if as_json:
        typer.echo(json.dumps([attrs.asdict(finding) for finding in findings], indent=2))
    else:
        console().print(_findings(findings))
        for finding in bad:
            console().print(f"[bold red]{safe(finding.advice or '')}[/bold red]", soft_wrap=True)
    raise typer.Exit(1 if bad else 0)


def _findings(findings: list[Finding]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for heading in ("", "finding", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        style = "red" if finding.bad else None
        advice = "see below" if finding.bad else finding.advice or ""
        table.add_row(safe(finding.subject), safe(finding.told), safe(advice), style=style)
    return table


def _print_explanation(explanation: Explanation) -> None:
    failure = explanation.failure
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    facts: dict[str, object] = {
        "code": failure.code if failure.known else f"{failure.code} (unknown)",
        "category": failure.category,
        "execution": failure.execution,
        "system, origin": f"{failure.system}, {failure.origin}",
        "remedy": failure.remedy,
        "why": "\n".join(explanation.why),
    }
    if explanation.nearest:
        facts["did you mean"] = ", ".join(explanation.nearest)
    for outlook in explanation.outlooks:
        name = "idempotent" if outlook.idempotent else "not idempotent"
        facts[f"if {name}"] = _say(outlook)
    for name, value in facts.items():
        table.add_row(name, safe(value))
    console().print(table)


def _say(outlook: RetryOutlook) -> str:
    if outlook.decision.retry:
        return (
            f"retried after at most {outlook.most:g} s, {outlook.attempts} attempts in all at most"
        )
    return f"given up ({outlook.decision.reason}); hint: {outlook.action}"


def _run(out: Console, kind: type[WithLibrary | WithTenacity], engine: str | None) -> Result:
    began = time.monotonic()

    def say(line: str) -> None:
        out.print(f"[dim]{time.monotonic() - began:5.1f} s[/dim]  {line}", highlight=False)

    out.rule(f"with {kind.name}", align="left")
    return run_demo(kind, engine, say)


def _outcomes(result: Result) -> Table:
    """Code, category, attempts, decision, outcome, count: one line for each that occurred."""
    table = Table(
        title=f"What the callers got, with {result.name}",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for heading in ("call", "code", "category", "attempts", "decision", "outcome"):
        table.add_column(heading)
    table.add_column("count", justify="right")
    lines = Counter(
        (
            report.kind,
            "" if report.outcome in {"ok", "enqueued"} else report.outcome,
            report.category,
            str(len(report.attempts)),
            report.decision or ("retried" if len(report.attempts) > 1 else ""),
            report.outcome if report.succeeded else "failed",
        )
        for report in result.reports
    )
    for line, count in sorted(lines.items()):
        table.add_row(*line, str(count))
    return table


def _verdicts(ours: Result, theirs: Result | None) -> Table:
    """The verdict of each run, from the workers' own log."""
    table = Table(title="What the workers' own log says", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    results = [ours] if theirs is None else [ours, theirs]
    for result in results:
        table.add_column(result.name, justify="right")
    rows: dict[str, Callable[[Result], object]] = {
        "calls": lambda r: len(r.reports),
        "handed to the SDK": lambda r: sum(len(t.attempts) for t in r.reports),
        "executions": lambda r: sum(r.ledger.runs.values()),
        "effects lost": lambda r: len(r.verdict.lost),
        "effects doubled": lambda r: len(r.verdict.doubled),
        "ghost executions": lambda r: len(r.verdict.ghosts),
        "FORBIDDEN, missing: not exactly one attempt": lambda r: r.verdict.never,
        "attempts beyond the policy": lambda r: len(r.verdict.too_often),
        "seconds": lambda r: f"{r.seconds:.1f}",
    }
    for name, value in rows.items():
        table.add_row(name, *(str(value(result)) for result in results))
    return table
