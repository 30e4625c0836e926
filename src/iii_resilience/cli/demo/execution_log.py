"""The demo's execution log: what the workers did, and the verdict computed from it.

The workers write it into one SQLite file, so a killed worker takes no record with it. Knows nothing
of retries, nor of what a caller saw: only what ran, when, and what was left behind.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import attrs

_SCHEMA = """
CREATE TABLE IF NOT EXISTS executions (order_id TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS effects (order_id TEXT NOT NULL, at REAL NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS keyed ON effects (order_id) WHERE order_id LIKE 'save-%'
    OR order_id LIKE 'ship-%' OR order_id LIKE 'report-%';
"""


class ExecutionLog:
    """The log file, as workers write it and the demo reads it.

    Args:
        path: The file; made at its first use.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)

    def prepare(self) -> None:
        """Make the tables."""
        with self._open() as database, database:
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(_SCHEMA)

    def started(self, order_id: str) -> int:
        """A handler starts to run; how often it has now started for this order."""
        with self._open() as database, database:
            database.execute("INSERT INTO executions VALUES (?, ?)", (order_id, time.time()))
            row = database.execute(
                "SELECT count(*) FROM executions WHERE order_id = ?", (order_id,)
            ).fetchone()
        return int(row[0])

    def keep(self, order_id: str) -> None:
        """An effect that is keyed by its order: writing it twice leaves one."""
        with self._open() as database, database:
            database.execute("INSERT OR IGNORE INTO effects VALUES (?, ?)", (order_id, time.time()))

    def add(self, order_id: str) -> None:
        """An effect that is not keyed: writing it twice leaves two, like charging a card."""
        with self._open() as database, database:
            database.execute("INSERT INTO effects VALUES (?, ?)", (order_id, time.time()))

    def read(self) -> Ledger:
        """Everything that was written so far."""
        with self._open() as database, database:
            executions = database.execute("SELECT order_id, at FROM executions").fetchall()
            effects = database.execute("SELECT order_id FROM effects").fetchall()
        return Ledger(tuple(executions), Counter(order_id for (order_id,) in effects))

    def _open(self) -> closing[sqlite3.Connection]:
        # A connection a use: handlers run on threads of the SDK's, and a killed worker holds none.
        database = sqlite3.connect(self._path, timeout=20.0)
        # A killed process loses nothing that was handed to the kernel; the disk need not know.
        database.execute("PRAGMA synchronous=OFF")
        return closing(database)


@attrs.frozen
class Ledger:
    """What the workers did.

    Attributes:
        executions: (order id, start in Unix time) of every handler that started.
        effects: How many effects each order left.
    """

    executions: tuple[tuple[str, float], ...]
    effects: Counter[str]

    @property
    def starts(self) -> dict[str, list[float]]:
        """When the handler started for each order."""
        starts: dict[str, list[float]] = {}
        for order_id, at in self.executions:
            starts.setdefault(order_id, []).append(at)
        return starts

    @property
    def runs(self) -> Counter[str]:
        """How often the handler started for each order."""
        return Counter(order_id for order_id, _ in self.executions)


@attrs.frozen
class CallReport:
    """What one caller got.

    Attributes:
        order_id: The order.
        kind: What kind of call it was (``save``, ``charge``, ``forbidden`` …).
        idempotent: Whether it was declared so.
        outcome: ``ok``, ``enqueued``, or the code of the exception.
        category: The failure's category, or an empty string.
        decision: Why it was given up, or an empty string.
        attempts: The times (start, end) during which the SDK had this call in hand, once for each
            time it was handed it; the end is infinite where the SDK still has it.
        started: Unix time of the call.
        ended: Unix time of the answer.
        expected: Whether the faults leave a way for it to succeed.
        certain: Whether no fault touches it, so that it must succeed, idempotent or not.
        most: How often the SDK may be handed it at most.
    """

    order_id: str
    kind: str
    idempotent: bool
    outcome: str
    category: str
    decision: str
    attempts: tuple[tuple[float, float], ...]
    started: float
    ended: float
    expected: bool
    certain: bool = False
    most: int = 1

    @property
    def succeeded(self) -> bool:
        """Whether the caller has, or will have, its result."""
        return self.outcome in {"ok", "enqueued"}


@attrs.frozen
class Verdict:
    """What became of the orders, by the workers' own log.

    Attributes:
        lost: Orders whose effect is missing although the caller got success, or although
            an idempotent call could have had it.
        doubled: Orders that were not declared idempotent and ran more than once.
        ghosts: Orders that ran once more than a caller was waiting for: after their attempt had
            ended, or after their caller had got another result.
        never: Calls of forbidden and missing functions that were not attempted exactly once, ended
            otherwise than with that code, or ran.
        too_often: Orders the SDK was handed more often than their policy allows.
        refused: Of the lost ones, those sent in the very moment of a kill and refused by the
            engine before anyone could know; nothing ran, and the caller got that answer.
    """

    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    ghosts: tuple[str, ...]
    never: int
    too_often: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Nothing lost, nothing doubled, no ghosts, and no attempt too many."""
        return not (self.lost or self.doubled or self.ghosts or self.never or self.too_often)


# Callers and workers read one clock, but not in one instant.
_TOLERANCE = 0.1
# How long after the first news of a kill a call may already be on its way.
_GAP = 0.05
_NEVER = {"forbidden": "FORBIDDEN", "missing": "function_not_found"}


def judge(ledger: Ledger, reports: list[CallReport], kills: list[float]) -> Verdict:
    """Compare what the callers got with what the workers did.

    Args:
        ledger: The workers' log, read after everything has settled.
        reports: What each caller got.
        kills: Unix times at which a worker was killed.
    """
    runs = ledger.runs
    missing = [t.order_id for t in reports if _should_have(t) and not _has(t, ledger)]
    by_order = {t.order_id: t for t in reports}
    known = [(kill, _known_at(kill, reports)) for kill in kills]
    refused = [
        order_id
        for order_id in missing
        if not runs[order_id] and _refused(by_order[order_id], known)
    ]
    return Verdict(
        lost=tuple(order_id for order_id in missing if order_id not in refused),
        doubled=tuple(t.order_id for t in reports if not t.idempotent and runs[t.order_id] > 1),
        ghosts=tuple(
            order_id
            for order_id, runs_at in ledger.starts.items()
            if (t := by_order.get(order_id)) is not None and t.outcome != "enqueued"
            for _ in range(_ghosts(t, runs_at))
        ),
        never=sum(
            len(t.attempts) != 1 or t.outcome != _NEVER[t.kind] or bool(runs[t.order_id])
            for t in reports
            if t.kind in _NEVER
        ),
        too_often=tuple(t.order_id for t in reports if len(t.attempts) > t.most),
        refused=tuple(refused),
    )


def _ghosts(report: CallReport, runs_at: list[float]) -> int:
    """Executions that no attempt accounts for: each attempt may start one while it is open."""
    open_ = sorted(report.attempts, key=lambda attempt: attempt[1])
    ghosts = 0
    for at in sorted(runs_at):
        for attempt in open_:
            start, end = attempt[0], min(attempt[1], report.ended)
            if start - _TOLERANCE <= at <= end + _TOLERANCE:
                open_.remove(attempt)
                break
        else:
            ghosts += 1
    return ghosts


def _should_have(report: CallReport) -> bool:
    return report.succeeded or report.certain or (report.expected and report.idempotent)


def _has(report: CallReport, ledger: Ledger) -> bool:
    """Whether the caller has its result; a call without payload leaves no effect."""
    return bool(ledger.effects[report.order_id]) or (report.kind == "empty" and report.succeeded)


def _known_at(kill: float, reports: list[CallReport]) -> float:
    """When the first caller could learn of a kill: its attempt was open then, and ended."""
    ends = [end for t in reports for start, end in t.attempts if start < kill < end < math.inf]
    return min(ends, default=kill)


def _refused(report: CallReport, known: list[tuple[float, float]]) -> bool:
    """Whether this call was sent before anyone could know of a kill, and refused for it."""
    return (
        report.outcome == "function_not_found"
        and len(report.attempts) == 1
        and any(
            kill - _GAP <= report.ended and report.attempts[0][0] <= known_at + _GAP
            for kill, known_at in known
        )
    )
