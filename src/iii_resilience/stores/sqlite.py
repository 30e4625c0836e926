"""`SqliteStore`: one file for all processes of one machine.

The file may hold your own tables too: that makes an effect and its key one commit. Not for network
file systems, where SQLite's locks do not work. Knows nothing of what it stores.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from iii_resilience.stores import transitions
from iii_resilience.stores.base import KEY, LocalStore
from iii_resilience.stores.protocol import StoreUnavailableError
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
_GET: Final = (
    "SELECT body FROM iii_resilience "
    "WHERE kind = ? AND id = ? AND (keep_until IS NULL OR keep_until > ?)"
)
_PUT: Final = "INSERT OR REPLACE INTO iii_resilience VALUES (?, ?, ?, ?)"
_DELETE: Final = "DELETE FROM iii_resilience WHERE kind = ? AND id = ?"
_ALL: Final = (
    "SELECT id, body FROM iii_resilience WHERE kind = ? AND (keep_until IS NULL OR keep_until > ?)"
)
# A few with every write: rows go as fast as they come, and no write ever takes long for it.
_SWEEP: Final = (
    "DELETE FROM iii_resilience WHERE (kind, id) IN "
    "(SELECT kind, id FROM iii_resilience WHERE keep_until <= ? LIMIT 4)"
)
_IDLE_MOST: Final = 16

# Connections that a fork has brought into a child: not to be used there, nor to be closed.
_of_the_parent: list[sqlite3.Connection] = []


class SqliteStore(LocalStore):
    """Idempotency keys and parked messages in a file; safe for threads and processes.

    Everything survives the end of the process; results and parked messages survive the loss of
    power too.

    Args:
        path: The file; it and its folder are made where they are missing.
        busy_timeout: Seconds an operation waits for another process that writes. A handler that
            takes this store's transaction writes as long as it runs.
    """

    blocking = True
    transactions = True

    def __init__(self, path: str | os.PathLike[str], *, busy_timeout: float = 10.0) -> None:
        self._path = Path(path)
        self._busy_timeout = busy_timeout
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._pid = os.getpid()

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        if os.getpid() == self._pid:
            for connection in idle:
                connection.close()

    def begin(self, slot: str, token: int) -> SqliteTransaction:
        """Begin effects that are committed together with the key (see `Keys.begin`).

        Until its end nobody else writes to the file: keep such handlers short.

        Raises:
            StoreUnavailableError: The file cannot be written.
        """
        connection = self._take()
        try:
            with _as_unavailable():
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._give_back(connection)
            raise
        return SqliteTransaction(self, connection, slot, token)

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._path)!r})"

    # Rows.

    def _change(self, kind: str, row_id: str, rule: Rule[T], *, lasting: bool = False) -> T:
        with _as_unavailable(), self._connection() as connection:
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
        with _as_unavailable(), self._connection() as connection:
            found = connection.execute(_ALL, (kind, time.time())).fetchall()
        return [(row_id, json.loads(body)) for row_id, body in found]

    # Connections.

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection = self._take()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def _take(self) -> sqlite3.Connection:
        if os.getpid() != self._pid:  # forked: the lock may be held by a thread that is not here
            _of_the_parent.extend(self._idle)
            self._idle, self._lock, self._pid = [], threading.Lock(), os.getpid()
        with self._lock:
            if self._idle:
                return self._idle.pop()
        with _as_unavailable():
            return self._open()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        """Keep a connection for the next operation, with nothing left under way."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()
            return
        with self._lock:
            if len(self._idle) < _IDLE_MOST:
                self._idle.append(connection)
                return
        connection.close()

    def _open(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise sqlite3.OperationalError(error.strerror) from error
        connection = sqlite3.connect(
            self._path,
            timeout=self._busy_timeout,
            isolation_level=None,  # transactions begin and end where they are written
            check_same_thread=False,  # one thread at a time uses it
        )
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                self._switch_to_wal(connection)
            exists = "SELECT 1 FROM sqlite_master WHERE name = 'iii_resilience_keep_until'"
            if connection.execute(exists).fetchone() is None:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(_TABLE)
                connection.execute(_INDEX)
                connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _switch_to_wal(self, connection: sqlite3.Connection) -> None:
        """Of several processes that make the file at once one switches, the others wait for it."""
        until = time.monotonic() + self._busy_timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.01)  # this one statement does not wait by itself
            else:
                return


class SqliteTransaction:
    """An open connection whose effects are committed together with a key."""

    def __init__(
        self, store: SqliteStore, connection: sqlite3.Connection, slot: str, token: int
    ) -> None:
        self._store = store
        self._connection = connection
        self._slot = slot
        self._token = token
        self._open = True
        connection.set_authorizer(_no_end_of_transaction)

    exclusive = True

    @property
    def handle(self) -> sqlite3.Connection:
        """The connection. It is in a transaction, which it cannot end itself."""
        return self._connection

    def commit(self, outcome: str, *, keep: float) -> bool:
        """See `Transaction.commit`.

        Raises:
            StoreUnavailableError: The commit failed; nothing was written.
            sqlite3.IntegrityError: A deferred constraint of the handler's tables failed; nothing
                was written.
        """
        connection = self._connection
        try:
            with _as_unavailable():
                connection.set_authorizer(None)
                rule = transitions.finish(self._token, outcome, keep, failed=False)
                # Nobody else could claim the key while this connection held the lock; but before
                # it did, somebody could.
                mine = self._store._apply(connection, KEY, self._slot, rule)  # noqa: SLF001 - its own store
                connection.execute("COMMIT" if mine else "ROLLBACK")
                return mine
        finally:
            self.rollback()

    def rollback(self) -> None:
        """See `Transaction.rollback`."""
        if not self._open:
            return
        self._open = False
        connection = self._connection
        connection.set_authorizer(None)
        connection.row_factory = None
        connection.text_factory = str
        self._store._give_back(connection)  # noqa: SLF001 - its own store


def _no_end_of_transaction(action: int, *_: Any) -> int:
    # Committed by the handler, the effect would stand without its key.
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK


@contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError:
        raise  # a handler's own tables refuse its transaction: nothing is wrong with the store
    except sqlite3.Error as error:
        # SQLite's words name tables and files, never values.
        raise StoreUnavailableError(f"the SQLite store failed: {error}") from error
