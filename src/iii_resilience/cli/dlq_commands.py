"""The commands ``iii-resilience dlq``: dead letters and parked messages at the terminal.

Knows only what to prompt for and what to print. Imported only if typer and rich are installed.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from iii_resilience.cli.dead_letter import DeadLetter
from iii_resilience.cli.dead_letter_queue import (
    DeadLetterQueue,
    RedriveOutcome,
    RedriveResult,
    triage,
)
from iii_resilience.cli.engine_probe import Unreachable, connect_to
from iii_resilience.cli.terminal import AsJson, fail, flag, safe
from iii_resilience.cli.terminal_text import address
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.sdk.client_adapter import ClientAdapter, SdkClient
from iii_resilience.stores import (
    PostgresStore,
    RedisStore,
    SqliteStore,
    Store,
    StoreRefusedError,
    StoreUnavailableError,
)
from iii_resilience.stores.sqlite_reader import SqliteReader

app = typer.Typer(
    help="Look at a queue's dead letters and parked messages, send them again, throw them away.",
    no_args_is_help=True,
)

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_UNKNOWN = "unknown"

Queue = Annotated[str, typer.Argument(help="The queue, or topic.")]
EngineUrl = Annotated[
    str, typer.Option("--engine", envvar="III_URL", help="The engine's address (ws://...).")
]
Parking = Annotated[
    str | None,
    typer.Option(
        help="Where consumers park messages: a SQLite file, a redis:// or postgresql:// URL."
    ),
]
Categories = Annotated[
    list[str] | None,
    typer.Option("--category", help="Only this category; `unknown` too. May be repeated."),
]
Ids = Annotated[
    list[str] | None, typer.Option("--id", help="Only this message, or those that begin so.")
]
UnknownQueue = Annotated[
    bool,
    flag(
        "Also what is parked by consumers that do not name their queue: it may be another's.",
        "--unknown-queue",
    ),
]
Offline = Annotated[
    bool,
    flag("Read the --parking file alone, without an engine.", "--offline"),
]
_ENGINE = "ws://127.0.0.1:49134"
_GROUPS_SHOWN = 200  # groups of a triage that fit a table to be read; --json has no such limit


@app.command("list")
def list_(
    queue: Queue,
    engine: EngineUrl = _ENGINE,
    parking: Parking = None,
    category: Categories = None,
    *,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """List what is dead or parked, or waits to be tried again, oldest first; without payloads."""
    with _opened(engine, queue, parking, offline=offline) as dead:
        letters, backlog = _chosen(dead.letters(), category, None), dead.backlog()
    if as_json:
        typer.echo(json.dumps([_summary(letter) for letter in letters], indent=2))
        return
    table = Table(box=SIMPLE_HEAD)
    for heading in ("id", "source", "function", "category", "code", "deliveries", "since", "due"):
        table.add_column(heading, overflow="fold")
    for letter in letters:
        row = _summary(letter)
        if letter.queue_unknown:
            row["source"] += " (queue unknown)"
        cells = (row[name] for name in ("source", "function_id", "category", "code"))
        table.add_row(
            row["id"][:12],
            *map(_cell, cells),
            *(_cell(row[name]) for name in ("deliveries", "since", "due")),
        )
    _console().print(table)
    _console().print(f"{len(letters)} message(s)")
    if backlog is not None:
        _console().print(backlog)


@app.command()
def show(
    queue: Queue,
    message: Annotated[str, typer.Argument(help="The message's id, or how it begins.")],
    engine: EngineUrl = _ENGINE,
    parking: Parking = None,
    *,
    offline: Offline = False,
    payload: Annotated[
        bool, flag("Print the payload and the error's message, too.", "--payload")
    ] = False,
) -> None:
    """Show one message; its payload only with --payload."""
    with _opened(engine, queue, parking, offline=offline) as dead:
        found = _chosen(dead.letters(), None, [message])
    if len(found) != 1:
        fail(f"{len(found)} messages have an id that begins with {message!r}")
    (letter,) = found
    facts: dict[str, Any] = _summary(letter)
    recorded = letter.recorded
    if letter.queue_unknown:
        facts["queue"] = _UNKNOWN
    if recorded is not None:
        facts["trace"] = recorded.trace_id
        facts["span"] = recorded.span_id
        facts["last failed"] = _time(recorded.last_failed_at)
    facts["remedy"] = letter.remedy or None
    if payload:
        facts["message"] = letter.message or None
        facts["payload"] = json.dumps(letter.data, indent=2)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, _cell(value))
    _console().print(table)


@app.command(name="triage")
def triage_(
    queue: Queue,
    engine: EngineUrl = _ENGINE,
    parking: Parking = None,
    *,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Group what is dead or parked by how it failed, and say what to do about it."""
    with _opened(engine, queue, parking, offline=offline) as dead:
        letters, backlog = dead.letters(), dead.backlog()
        groups = triage(letter for letter in letters if not letter.waits)
    if as_json:
        typer.echo(json.dumps([attrs.asdict(group) for group in groups], indent=2))
        return
    table = Table(box=SIMPLE_HEAD)
    for heading in ("category", "code", "function", "count", "oldest", "what to do"):
        table.add_column(heading, overflow="fold")
    for group in groups[:_GROUPS_SHOWN]:
        table.add_row(
            group.category or _UNKNOWN,
            _cell(group.code),
            _cell(group.function_id),
            str(group.count),
            _cell(_time(group.oldest)),
            group.advice,
        )
    _console().print(table if groups else "nothing is dead or parked")
    rest = groups[_GROUPS_SHOWN:]
    if rest:
        count = sum(group.count for group in rest)
        _console().print(
            f"and {len(rest)} more groups of {count} message(s): --json lists them all"
        )
    if backlog is not None:
        _console().print(backlog)


@app.command()
def redrive(
    queue: Queue,
    engine: EngineUrl = _ENGINE,
    parking: Parking = None,
    category: Categories = None,
    ids: Ids = None,
    rate: Annotated[str, typer.Option(help="At most so many: 10/s, 100/m, 50/h.")] = "10/s",
    *,
    unknown_queue: UnknownQueue = False,
    execute: Annotated[
        bool, flag("Send them; without it they are only counted.", "--execute")
    ] = False,
) -> None:
    """Send messages again. A dry run, unless --execute is given."""
    pause = _pause(rate)
    with _opened(engine, queue, parking) as dead:
        everything = dead.letters()
        letters = _to_act_on(everything, category, ids, unknown_queue=unknown_queue)
        if not execute:
            _console().print(
                f"Dry run: {len(letters)} of {len(everything)} message(s) would be redriven "
                f"({_by_category(letters)}). Give --execute to do it."
            )
            return
        _report("redriven", letters, len(everything), dead.redrive(letters, pause=pause))


@app.command()
def discard(
    queue: Queue,
    engine: EngineUrl = _ENGINE,
    parking: Parking = None,
    category: Categories = None,
    ids: Ids = None,
    *,
    unknown_queue: UnknownQueue = False,
    yes: Annotated[bool, flag("Do not ask.", "--yes")] = False,
) -> None:
    """Discard messages, for good. Needs a confirmation, unless --yes is given."""
    with _opened(engine, queue, parking) as dead:
        everything = dead.letters()
        letters = _to_act_on(everything, category, ids, unknown_queue=unknown_queue)
        if letters and not yes:
            typer.confirm(
                f"Throw {len(letters)} of {len(everything)} message(s) away, for good "
                f"({_by_category(letters)})?",
                abort=True,
            )
        _report("discarded", letters, len(everything), dead.discard(letters))


def _report(
    what: str, letters: list[DeadLetter], total: int, dealt: Iterable[RedriveResult]
) -> None:
    """A bar while it goes on, the counts at its end; fails where a message did."""
    counts: Counter[RedriveOutcome] = Counter()
    reasons: Counter[str] = Counter()
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=not console.is_terminal) as progress:
        bar = progress.add_task(what, total=len(letters))
        for one in dealt:
            counts[one.fate] += 1
            if one.fate is RedriveOutcome.FAILED:
                reasons[one.why] += 1
            progress.advance(bar)
    done, gone = counts[RedriveOutcome.DONE], counts[RedriveOutcome.GONE]
    line = f"{done} {what}, {counts[RedriveOutcome.FAILED]} failed, {total - done - gone} left"
    _console().print(line + (f" ({gone} were gone already)" if gone else ""))
    for why, count in reasons.most_common():
        _console().print(f"  {count} failed: {safe(why)}")
    if counts[RedriveOutcome.FAILED]:
        raise typer.Exit(1)


@contextmanager
def _opened(
    engine: str, queue: str, parking: str | None, *, offline: bool = False
) -> Iterator[DeadLetterQueue]:
    """A client and a store, for as long as they are needed."""
    with _reported(engine), ExitStack() as stack:
        if offline:
            yield DeadLetterQueue(None, queue, _reader(parking, stack))
            return
        if (store := _store(parking)) is not None:
            stack.callback(store.close)
        try:
            from iii import InitOptions, register_worker  # noqa: PLC0415 - an extra
        except ImportError:
            fail("this needs the SDK: pip install 'iii-resilience[iii,cli]'")
        _check_reachable(engine)
        client: SdkClient = register_worker(
            engine,
            InitOptions(worker_name=f"iii-resilience-dlq-{os.getpid()}", otel={"enabled": False}),
        )
        stack.callback(ClientAdapter(client).shutdown)
        yield DeadLetterQueue(client, queue, store)


@contextmanager
def _reported(engine: str) -> Iterator[None]:
    """Errors as one line, without a traceback."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except (StoreUnavailableError, StoreRefusedError) as error:
        fail(str(error))
    except Exception as error:
        failure = classify(error)
        fail(f"{failure.code} from {engine}: {failure.remedy}")


def _reader(parking: str | None, stack: ExitStack) -> SqliteReader | Store:
    """The parking to read, without an engine and without writing."""
    if parking is None:
        fail("--offline reads the --parking file: name it")
    if (server := _server(parking)) is not None:
        stack.callback(server.close)
        return server
    reader = SqliteReader(_file(parking))
    stack.callback(reader.close)
    note = Console(stderr=True)
    note.print(
        "offline: parked messages only, without the queue's own dead letters", soft_wrap=True
    )
    if reader.doubt is not None:
        note.print(f"possibly incomplete: {safe(reader.doubt)}", soft_wrap=True)
    return reader


def _check_reachable(engine: str) -> None:
    """Find out at once whether the engine listens, instead of after the SDK's 30 s."""
    try:
        connect_to(engine, 3.0).close()
    except Unreachable as finding:
        fail(f"no engine listens at {address(engine)} ({finding})")


def _store(parking: str | None) -> Store | None:
    if parking is None:
        return None
    if (server := _server(parking)) is not None:
        return server
    return SqliteStore(_file(parking))


def _file(parking: str) -> str:
    """The path of a store that is there."""
    if not Path(parking).is_file():
        fail(f"--parking: there is no file {address(parking)!r}")
    return parking


def _chosen(
    letters: list[DeadLetter], categories: list[str] | None, ids: list[str] | None
) -> list[DeadLetter]:
    allowed = [*(category.value for category in Category), _UNKNOWN]
    for name in categories or ():
        if name not in allowed:
            fail(f"--category {name!r} is none of {', '.join(allowed)}")
    return [
        letter
        for letter in letters
        if (not categories or (letter.category or _UNKNOWN) in categories)
        and (not ids or letter.id.startswith(tuple(ids)))
    ]


def _server(url: str) -> Store | None:
    """The store that a URL names; None where it is the path of a file."""
    try:
        if re.match(r"(rediss?|unix)://", url):
            return RedisStore(url)
        if re.match(r"postgres(ql)?://", url):
            return PostgresStore(url, create=False)
    except (ImportError, ValueError) as error:
        fail(str(error))
    return None


def _to_act_on(
    letters: list[DeadLetter],
    categories: list[str] | None,
    ids: list[str] | None,
    *,
    unknown_queue: bool,
) -> list[DeadLetter]:
    """What is chosen, without what may be another queue's, unless it is named."""
    chosen = _chosen(letters, categories, ids)
    if ids:
        return chosen
    waiting = [letter for letter in chosen if letter.waits]
    if waiting:
        chosen = [letter for letter in chosen if not letter.waits]
        _console().print(
            f"{len(waiting)} message(s) that wait to be tried again are left alone: --id names one"
        )
    if unknown_queue:
        return chosen
    known = [letter for letter in chosen if not letter.queue_unknown]
    if len(known) < len(chosen):
        _console().print(
            f"{len(chosen) - len(known)} parked message(s) are left alone: their consumers do not "
            "name a queue. Give --unknown-queue or --id to include them."
        )
    return known


def _pause(rate: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)/([smh])", rate)
    if found is None or float(found[1]) == 0:
        fail(f"--rate {rate!r} is not a rate: write 10/s, 100/m or 50/h")
    return _SECONDS[found[2]] / float(found[1])


def _summary(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "source": letter.source,
        "function_id": letter.function_id,
        "category": letter.category.value if letter.category is not None else _UNKNOWN,
        "code": letter.code,
        "deliveries": letter.deliveries,
        "since": _time(letter.since),
        "queue": letter.queue,
        "due": _time(letter.due_at),
    }


def _by_category(letters: list[DeadLetter]) -> str:
    counts = Counter(letter.category or _UNKNOWN for letter in letters)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _cell(value: object) -> str:
    return "-" if value is None else safe(value)


def _console() -> Console:
    """The terminal's own width; where there is no terminal, wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=140)
