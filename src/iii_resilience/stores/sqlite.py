"""`SqliteStore`: one file for all processes of one machine.

The file may hold your own tables too: that makes an effect and its key one commit. Not for network
file systems, where SQLite's locks do not work. Knows nothing of what it stores.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from iii_resilience.stores import transitions
from iii_resilience.stores.base import KEY, LocalStore
from iii_resilience.stores.protocol import Renewal
from iii_resilience.stores.sqlite_connections import SqliteConnections, as_unavailable
from iii_resilience.stores.sqlite_transaction import SqliteTransaction, begin
from iii_resilience.stores.transitions import Change, Row, Rule

T = TypeVar("T")

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS iii_resilience (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    keep_until REAL,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID
"""
_INDEX_NAME: Final = "iii_resilience_keep_until"
_INDEX: Final = f"""
CREATE INDEX IF NOT EXISTS {_INDEX_NAME}
ON iii_resilience (keep_until) WHERE keep_until IS NOT NULL
"""
_GET: Final = (
    "SELECT body FROM iii_resilience "
    "WHERE kind = ? AND id = ? AND (keep_until IS NULL OR keep_until > ?)"
)
_PUT: Final = "INSERT OR REPLACE INTO iii_resilience VALUES (?, ?, ?, ?)"
_DELETE: Final = "DELETE FROM iii_resilience WHERE kind = ? AND id = ?"
ALL_ROWS: Final = (
    "SELECT id, body FROM iii_resilience WHERE kind = ? AND (keep_until IS NULL OR keep_until > ?)"
)
# A few with every write: rows go as fast as they come, and no write ever takes long for it.
_SWEEP: Final = (
    "DELETE FROM iii_resilience WHERE (kind, id) IN "
    "(SELECT kind, id FROM iii_resilience WHERE keep_until <= ? LIMIT 4)"
)


class SqliteStore(LocalStore):
    """Idempotency keys and parked messages in a file; safe for threads and processes.

    Everything survives the end of the process; results and parked messages survive the loss of
    power too.

    Args:
        path: The file; it and its folder are made where they are missing, for their owner only.
            A relative path is resolved now.
        busy_timeout: Seconds an operation waits for another process that writes. A handler that
            takes this store's transaction writes as long as it runs.

    Raises:
        ValueError: A database in memory, which no restart and no other process would see, or a URI.
    """

    blocking = True
    transactions = True

    def __init__(self, path: str | os.PathLike[str], *, busy_timeout: float = 10.0) -> None:
        self._connections = SqliteConnections(
            _checked(path), busy_timeout, schema=(_TABLE, _INDEX), index=_INDEX_NAME
        )

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._connections.close()

    def begin(self, slot: str, token: int) -> SqliteTransaction:
        """Begin effects that are committed together with the key (see `Keys.begin`).

        Until it ends no other process can write to the file: keep such handlers short.

        Raises:
            StoreUnavailableError: The file cannot be written.
        """

        def finish(connection: sqlite3.Connection, outcome: str, keep: float) -> bool:
            # While this connection held the lock, the key could not be claimed. Before that, it
            # could.
            rule = transitions.finish(token, outcome, keep, failed=False)
            return self._apply(connection, KEY, slot, rule)

        with as_unavailable():
            connection = self._connections.take(caches=False)
            try:
                begin(connection)
            except BaseException:
                self._connections.give_back(connection)
                raise
        return SqliteTransaction(self._connections, connection, finish)

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._connections.path)!r})"

    def renew_many(self, renewals: Sequence[Renewal]) -> list[bool]:
        """See `RenewsMany.renew_many`; all of them are one commit."""
        with as_unavailable(), self._connections.lent() as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            answers = [
                self._apply(
                    connection, KEY, one.slot, transitions.renew(one.token, one.lease, one.keep)
                )
                for one in renewals
            ]
            connection.execute("COMMIT")
            return answers

    # Rows.

    def _change(self, kind: str, row_id: str, rule: Rule[T], *, lasting: bool = False) -> T:
        with as_unavailable(), self._connections.lent() as connection:
            # In WAL mode NORMAL survives a process that is killed, FULL a machine as well.
            connection.execute(f"PRAGMA synchronous = {'FULL' if lasting else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            answer = self._apply(connection, kind, row_id, rule)
            connection.execute("COMMIT")
            return answer

    def _apply(self, connection: sqlite3.Connection, kind: str, row_id: str, rule: Rule[T]) -> T:
        now = time.time()  # after the wait for the lock
        found = connection.execute(_GET, (kind, row_id, now)).fetchone()
        change: Change[T] = rule(None if found is None else json.loads(found[0]), now)
        if change.written:
            if change.row is None:
                connection.execute(_DELETE, (kind, row_id))
            else:
                body = json.dumps(change.row)
                connection.execute(_PUT, (kind, row_id, body, change.keep_until))
            connection.execute(_SWEEP, (now,))
        return change.answer

    def _rows(self, kind: str) -> Iterable[tuple[str, Row]]:
        with as_unavailable(), self._connections.lent() as connection:
            found = connection.execute(ALL_ROWS, (kind, time.time())).fetchall()
        return [(row_id, json.loads(body)) for row_id, body in found]


_MEMORY_URI: Final = re.compile(r"file:(:memory:|[^?]*\?.*mode=memory)")


def _checked(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if text in {"", ":memory:"} or _MEMORY_URI.match(text):
        raise ValueError(
            f"SqliteStore({text!r}): a database in memory, or a temporary one, is lost with its "
            "connection. Name a file; for keys that need not outlive the process use MemoryStore()"
        )
    if text.startswith("file:"):
        raise ValueError(f"SqliteStore({text!r}): this takes a path, not a URI; write the path")
    return Path(text).absolute()
