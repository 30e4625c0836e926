"""Connections to one SQLite file: opened, reused, and left alone after a fork.

Knows nothing of what the file stores, except for the table that must be there.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from iii_resilience.core.error_translation import ErrorTranslation
from iii_resilience.core.observers import logger
from iii_resilience.stores.protocol import StoreUnavailableError

_IDLE_MOST: Final = 16
_CACHED: Final = 128  # statements that a connection keeps prepared, as `sqlite3` does by default

# Connections that a fork has brought into a child: not to be used there, nor to be closed.
_of_the_parent: list[sqlite3.Connection] = []
# Closing any descriptor of a file gives up all of this process's locks on it (fcntl(2), POSIX
# locks): no connection may be opened between the creation of a file and the end of its descriptor.
_creating = threading.Lock()


def _new_in_child() -> None:
    global _creating  # noqa: PLW0603 - a thread that is not here may hold it
    _creating = threading.Lock()


# Windows does not fork and has no such function.
getattr(os, "register_at_fork", dict)(after_in_child=_new_in_child)

Identity = tuple[int, int] | None
"""Device and inode of a file; None where there is none."""


class FileConnection(sqlite3.Connection):
    """A connection that knows which file it has open.

    Attributes:
        identity: The file.
        caches: Whether it keeps statements prepared.
    """

    identity: Identity = None
    caches: bool = True


class SqliteConnections:
    """The connections of one store.

    Args:
        path: The file, as an absolute path.
        busy_timeout: Seconds a statement waits for another process that writes.
        schema: Statements that make what the store needs, in a file that lacks `newest`.
        newest: A table or index of the schema; where it exists, all of it does.
    """

    def __init__(
        self, path: Path, busy_timeout: float, *, schema: Iterable[str], newest: str
    ) -> None:
        self.path = path
        self._busy_timeout = busy_timeout
        self._schema = tuple(schema)
        self._newest = newest
        self._identity: Identity = None
        self._new()

    def _new(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[FileConnection] = []
        self._pid = os.getpid()

    def _check_fork(self) -> None:
        if os.getpid() != self._pid:  # the lock may be held by a thread that is not here
            _of_the_parent.extend(self._idle)
            self._new()

    def close(self) -> None:
        """Close the connections that are not in use; in a forked child none is this process's."""
        self._check_fork()
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __del__(self) -> None:
        # A store that was dropped without `close`; from 3.13 on Python warns of open connections.
        with suppress(Exception):  # half made, or at the end of the interpreter
            self.close()

    def take(self, *, caches: bool = True) -> FileConnection:
        """A connection that nothing else uses, until `give_back`.

        Args:
            caches: Whether it may keep statements prepared. A prepared statement is not shown to
                an authorizer again.

        Raises:
            sqlite3.Error: The file cannot be opened.
        """
        self._check_fork()
        self._notice_replacement()
        with self._lock:
            for place, connection in enumerate(self._idle):
                if connection.caches is caches:
                    return self._idle.pop(place)
        return self._open(caches=caches)

    def give_back(self, connection: FileConnection) -> None:
        """Keep a connection for the next operation, with nothing left under way."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()
            return
        with self._lock:
            if len(self._idle) < _IDLE_MOST and connection.identity == self._identity:
                self._idle.append(connection)
                return
        connection.close()

    def leave_to_parent(self, connection: FileConnection) -> None:
        """Keep an inherited connection from being used or closed in this forked child."""
        self._check_fork()
        _of_the_parent.append(connection)

    def lent(self) -> Lent:
        """A connection for one operation, as a context manager."""
        return Lent(self)

    # The file.

    def check_identity(self, connection: FileConnection) -> None:
        """Refuse to go on in a file that is not at the path any longer.

        Raises:
            StoreUnavailableError: It was replaced or removed.
        """
        if connection.identity != self._current():
            raise StoreUnavailableError(
                f"the SQLite store failed: {self.path} was replaced or removed while it was in "
                "use; nothing was written"
            )

    def _notice_replacement(self) -> None:
        if self._identity is None or self._current() == self._identity:
            return
        with self._lock:
            if self._identity is None:  # another thread has noticed
                return
            self._identity = None
            idle, self._idle = self._idle, []
        logger.error(
            "%s was replaced or removed while this store was in use: the keys and messages of the "
            "file before are not in the one that is there now. Replace it while no worker runs",
            self.path,
        )
        for connection in idle:
            connection.close()

    def _current(self) -> Identity:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError:  # it cannot be looked at: SQLite will say why
            return self._identity
        return found.st_dev, found.st_ino

    def _create(self) -> None:
        """Make the file for its owner only; SQLite makes those beside it with the same mode."""
        with _creating, suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    def _open(self, *, caches: bool) -> FileConnection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._create()
        except OSError as error:
            raise sqlite3.OperationalError(error.strerror) from error
        connection = sqlite3.connect(
            self.path,
            timeout=self._busy_timeout,
            isolation_level=None,  # transactions begin and end where they are written
            check_same_thread=False,  # one thread at a time uses it
            factory=FileConnection,
            cached_statements=_CACHED if caches else 0,
        )
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                self._switch_to_wal(connection)
            exists = "SELECT 1 FROM sqlite_master WHERE name = ?"
            if connection.execute(exists, (self._newest,)).fetchone() is None:
                connection.execute("BEGIN IMMEDIATE")
                for statement in self._schema:
                    connection.execute(statement)
                connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        connection.caches = caches
        connection.identity = self._current()
        self._identity = connection.identity
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


class Lent:
    """A connection for one operation; see `SqliteConnections.lent`.

    Args:
        connections: Where it comes from, and goes back to.
    """

    __slots__ = ("_connection", "_connections")

    def __init__(self, connections: SqliteConnections) -> None:
        self._connections = connections
        self._connection: FileConnection | None = None

    def __enter__(self) -> FileConnection:
        self._connection = connection = self._connections.take()
        return connection

    def __exit__(self, *_: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._connections.give_back(connection)


def as_unavailable() -> ErrorTranslation:
    """Raise SQLite's errors as `StoreUnavailableError`."""
    return ErrorTranslation(_translate)


def _translate(error: Exception) -> None:
    # A handler's own tables may refuse its transaction: nothing is wrong with the store then.
    if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
        # SQLite's words name tables and files, never values.
        raise StoreUnavailableError(f"the SQLite store failed: {error}") from error
