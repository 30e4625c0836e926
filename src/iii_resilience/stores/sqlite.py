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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar

from iii_resilience.stores import sqlite_outbox, transitions
from iii_resilience.stores.base import KEY, LocalStore
from iii_resilience.stores.protocol import Renewal
from iii_resilience.stores.relaying import Backlog, OutboxRow, checked_message
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
_INDEX: Final = """
CREATE INDEX IF NOT EXISTS iii_resilience_keep_until
ON iii_resilience (keep_until) WHERE keep_until IS NOT NULL
"""
# A row has no column for it: earlier versions write four values a row.
_DUE: Final = "json_extract(body, '$.due_at')"
_WAITS: Final = f"kind = 'message' AND {_DUE} IS NOT NULL"
_DUE_INDEX: Final = f"""
CREATE INDEX IF NOT EXISTS iii_resilience_due_at ON iii_resilience ({_DUE}) WHERE {_WAITS}
"""
_SCHEMA: Final = (_TABLE, _INDEX, _DUE_INDEX, sqlite_outbox.TABLE)
_GET: Final = (
    "SELECT body FROM iii_resilience "
    "WHERE kind = ? AND id = ? AND (keep_until IS NULL OR keep_until > ?)"
)
_PUT: Final = "INSERT OR REPLACE INTO iii_resilience VALUES (?, ?, ?, ?)"
_DELETE: Final = "DELETE FROM iii_resilience WHERE kind = ? AND id = ?"
ALL_ROWS: Final = (
    "SELECT id, body FROM iii_resilience WHERE kind = ? AND (keep_until IS NULL OR keep_until > ?)"
)
_WAITING: Final = f"SELECT id, body FROM iii_resilience WHERE {_WAITS} ORDER BY {_DUE}"  # noqa: S608
_RETRIES: Final = f"SELECT count(*), min({_DUE}) FROM iii_resilience WHERE {_WAITS}"  # noqa: S608
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
            _checked(path), busy_timeout, schema=_SCHEMA, newest=sqlite_outbox.NAME
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

    # The outbox.

    def enqueue(
        self,
        transaction: sqlite3.Connection,
        queue: str,
        function_id: str,
        data: Mapping[str, Any],
        *,
        key: str | None = None,
    ) -> str:
        """Have a message enqueued when a transaction has been committed.

        Args:
            transaction: The handle of a handler's transaction, or a connection of your own to the
                same file. You commit.
            queue: The queue.
            function_id: The function that the message is for.
            data: Its payload: a dict that JSON carries.
            key: Its idempotency key, of 1 to 512 characters; None makes one.

        Returns:
            The key.

        Raises:
            TypeError: The payload is none, or this is no connection of SQLite.
            ValueError: An argument that is empty or too long, a payload that cannot be sent, or a
                connection to another file.
            RuntimeError: The connection commits each statement, and has begun no transaction.
            sqlite3.Error: SQLite's refusal.
        """
        text, key = checked_message(queue, function_id, data, key)
        row = (queue, function_id, text, key, time.time())
        sqlite_outbox.insert(transaction, self._connections.path, _SCHEMA, row)
        return key

    def outbox(self, *, without: Collection[str], most: int) -> Sequence[OutboxRow]:
        """See `RelayedStore.outbox`."""
        with as_unavailable(), self._connections.lent() as connection:
            return sqlite_outbox.rows(connection, without, most)

    def handed_over(self, row: int) -> None:
        """See `RelayedStore.handed_over`."""
        with as_unavailable(), self._connections.lent() as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(sqlite_outbox.DELETE, (row,))

    def backlog(self) -> Backlog:
        """See `RelayedStore.backlog`."""
        with as_unavailable(), self._connections.lent() as connection:
            retries, due = connection.execute(_RETRIES).fetchone()
            rows, since = connection.execute(sqlite_outbox.COUNT).fetchone()
        now = time.time()
        ages = [now - at for at in (due, since) if at is not None and at <= now]
        return Backlog(rows, retries, max(ages, default=None))

    # Rows.

    def _waiting(self) -> Iterator[tuple[str, Row]]:
        with (
            as_unavailable(),
            self._connections.lent() as connection,
            closing(connection.execute(_WAITING)) as found,
        ):
            for row_id, body in found:
                row = json.loads(body)
                if transitions.waits(row):  # an earlier version may have parked it
                    yield row_id, row

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
