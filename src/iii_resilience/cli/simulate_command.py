"""The command ``simulate``: a policy against a scenario, in virtual time.

`cli.simulation` does the work. Imported only if typer and rich are installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import attrs
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from iii_resilience.cli.simulation import plots
from iii_resilience.cli.simulation.measurement import Row
from iii_resilience.cli.simulation.report import Report
from iii_resilience.cli.simulation.row_processes import RowFailedError, run_rows
from iii_resilience.cli.simulation.row_run import (
    NO_RETRIES,
    UNLIMITED,
    RowSetting,
    without_budget,
    without_retries,
)
from iii_resilience.cli.simulation.scenario import Scenario
from iii_resilience.cli.simulation.scenario_files import load_scenario
from iii_resilience.cli.simulation.text_chart import chart
from iii_resilience.cli.simulation.verdict import Limits, Subject, advice
from iii_resilience.cli.terminal import console, fail, safe
from iii_resilience.config.book import PolicyBook
from iii_resilience.config.default_book import default_book
from iii_resilience.config.explain import values_of
from iii_resilience.config.load import load_policies
from iii_resilience.core.errors import ConfigError

_TERMINAL = "-"
_NAME = 22  # characters of a row's name on a line of the table


def simulate(
    policies: Annotated[
        list[str] | None,
        typer.Option(
            help="A policy file, or builtin:payments; may be given several times. Without it, the "
            "files in III_RESILIENCE_POLICIES, or the built-in default.",
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="The policy by name; without it the default one.")
    ] = None,
    function: Annotated[
        str | None, typer.Option(help="The policy that the rules choose for this function.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Another policy file to compare with; may be given several times."),
    ] = None,
    scenario: Annotated[
        str, typer.Option(help="brownout, outage, restart, flaky, slow, or a scenario file.")
    ] = "brownout",
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that call, in place of the scenario's.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Calls a second of all processes together.")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of all random numbers: the same seed gives the same result.")
    ] = 1,
    plot: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Draw the curves: an .svg or .png file, or - for here."),
    ] = None,
    max_load: Annotated[
        float | None, typer.Option(help="Exit with 1 above this load factor.")
    ] = None,
    max_recovery: Annotated[
        float | None, typer.Option(help="Exit with 1 if recovery takes longer, in seconds.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a policy does to a service in trouble, beside no retries and unlimited ones.

    The callers are the library's own code, in virtual time; the service is a model.
    """
    picture = _picture(plot)
    if policy is not None and function is not None:
        fail("--policy names the policy and --function lets the rules choose it: give one of them")
    try:
        book = load_policies(policies) if policies else _usual_book()
        others = [(name, load_policies(name)) for name in against or ()]
        happens = _scenario(scenario, book, processes, rate, function)
        chosen = _chosen(book, policy, function)
        settings = list(_settings(book, chosen, policies or [], others, function))
    except ConfigError as error:
        fail(f"nothing was simulated:\n{error}", 1)
    except ValueError as error:
        fail(str(error))
    try:
        with _progress([setting.name for setting in settings]) as progress:
            rows = run_rows(settings, happens, seed, progress)
    except RowFailedError as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    policy_set = book.policy_set
    subject = Subject(chosen, policy_set.policy(chosen), values_of(policy_set, chosen))
    broken = Limits(max_load, max_recovery).broken_by(rows[2])
    said = advice(subject, rows[2], rows[0], happens)
    report = Report(happens, seed, tuple(rows), said, tuple(broken))
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
    else:
        _print(report)
    _draw(report, picture, quiet=as_json)
    if broken:
        raise typer.Exit(1)


def _usual_book() -> PolicyBook:
    """The book of the environment, else the ready-made file, which has lines to be named."""
    book = default_book()
    return load_policies("builtin:default") if book == PolicyBook() else book


def _picture(plot: str | None) -> Path | None:
    """The file of the picture, before anything runs that would be lost without it."""
    if plot is None or plot == _TERMINAL:
        return None if plot is None else Path(plot)
    path = Path(plot)
    if path.suffix not in plots.SUFFIXES:
        fail(f"--plot {plot}: the file must end with {' or '.join(plots.SUFFIXES)}")
    if not path.parent.is_dir():
        fail(f"--plot {plot}: there is no folder {path.parent}")
    return path


def _scenario(
    name: str, book: PolicyBook, processes: int | None, rate: float | None, function: str | None
) -> Scenario:
    found = load_scenario(name, [code.code for code in book.policy_set.codes])
    book.register()  # its codes mean here what they mean in production
    calls = found.calls
    if processes is not None:
        calls = attrs.evolve(calls, processes=processes)
    if rate is not None:
        calls = attrs.evolve(calls, rate=rate)
    found = attrs.evolve(found, calls=calls)
    return found if function is None else found.calling(function)


def _chosen(book: PolicyBook, policy: str | None, function: str | None) -> str:
    """The name of the policy that is judged."""
    policy_set = book.policy_set
    if function is not None:
        return policy_set.for_function(function).name
    name = policy_set.default if policy is None else policy
    policy_set.policy(name)  # an unknown one is refused here
    return name


def _settings(
    book: PolicyBook,
    chosen: str,
    files: Sequence[str],
    others: Sequence[tuple[str, PolicyBook]],
    function: str | None,
) -> Iterator[RowSetting]:
    policy_set = book.policy_set
    yield RowSetting(NO_RETRIES, without_retries(policy_set), chosen)
    yield RowSetting(UNLIMITED, without_budget(policy_set), chosen)
    yield RowSetting(_named(chosen, files), policy_set, chosen)
    for file, other in others:
        theirs = other.policy_set
        name = theirs.default
        if function is not None:
            name = theirs.for_function(function).name
        elif chosen in theirs.policies and theirs.rules:
            name = chosen
        yield RowSetting(_named(name, [file]), theirs, name)


def _named(policy: str, files: Sequence[str]) -> str:
    return f"{policy} ({', '.join(files)})" if files else policy


@contextmanager
def _progress(names: Sequence[str]) -> Iterator[Callable[[int, float], None]]:
    """A bar on a terminal; else a line for each row that is done. Both on standard error."""
    out = Console(stderr=True)
    if not out.is_terminal:
        done = 0

        def line(number: int, part: float) -> None:
            nonlocal done
            if part >= 1.0:
                done += 1
                typer.echo(f"simulated {done} of {len(names)}: {names[number]}", err=True)

        yield line
        return
    parts = [0.0] * len(names)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(f"{len(names)} rows", total=float(len(names)))

        def move(number: int, part: float) -> None:
            parts[number] = part
            bar.update(task, completed=sum(parts))

        yield move


def _print(report: Report) -> None:
    out, scenario = console(), report.scenario
    calls, (start, end) = scenario.calls, scenario.trouble
    out.print(
        f"[bold]{safe(scenario.name)}[/bold]: {calls.processes} processes, {calls.rate:g} calls/s, "
        f"trouble from {start:g} s to {end:g} s of {scenario.duration:g} s, seed {report.seed}",
        soft_wrap=True,
        highlight=False,
    )
    table = Table(box=SIMPLE_HEAD)
    table.add_column("", overflow="fold", min_width=_NAME)
    for heading in ("load", "in time during\n/ after", "wait p50\n/ p99", "again\nafter"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("given up", overflow="fold")
    for row in report.rows:
        table.add_row(*map(safe, _cells(row)))
    out.print(table)
    out.print(safe(report.advice), soft_wrap=True, highlight=False)
    for broken in report.broken:
        out.print(
            f"[bold red]{safe(report.rows[2].name)}: {safe(broken)}[/bold red]", soft_wrap=True
        )


def _cells(row: Row) -> list[str]:
    gone = [f"{count} {reason}" for reason, count in row.given_up.items()]
    gone += [f"{count} {what}" for what, count in row.queued.items()]
    if row.circuits:
        gone.append(f"circuit opened {len(row.circuits)} x, first at {row.circuits[0]:.0f} s")
    return [
        row.name,
        f"{row.load:.2f}",
        f"{_percent(row.in_time_during)} / {_percent(row.in_time_after)} %",
        f"{_seconds(row.wait_p50)} / {_seconds(row.wait_p99)} s",
        "never" if row.recovery is None else f"{row.recovery:.0f} s",
        "\n".join(gone),
    ]


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.1f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _draw(report: Report, picture: Path | None, *, quiet: bool) -> None:
    if picture is None:
        return
    if str(picture) != _TERMINAL and plots.available():
        scenario, calls = report.scenario, report.scenario.calls
        title = f"{scenario.name}: {calls.processes} processes, {calls.rate:g} calls/s"
        try:
            plots.draw(report.rows, scenario, picture, title)
        except OSError as error:
            fail(f"{picture} cannot be written: {error.strerror}", 1)
        return
    if str(picture) != _TERMINAL:
        typer.echo("a picture needs an extra: pip install 'iii-resilience[plots]'", err=True)
    for line in chart(report.rows, report.scenario, console().width):
        typer.echo(line, err=quiet)
