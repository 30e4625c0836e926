"""`SqliteTransaction`: a handler's writes and its key as one commit, whatever ends it before.

SQLite ends a transaction itself when the disk is full, on an I/O error, and for ``OR ROLLBACK``
(its documentation, "Response To Errors Within A Transaction"). What a handler writes after that
would be committed at once and alone. So nothing more is prepared then, and the commit looks for
the savepoint that was set when the transaction began. Knows nothing of handlers.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from iii_resilience.stores.protocol import StoreUnavailableError, TransactionEndedError
from iii_resilience.stores.sqlite_connections import (
    FileConnection,
    SqliteConnections,
    as_unavailable,
)

_SAVEPOINT: Final = "iii_resilience"
# Of the primary result codes those that another try may not meet (sqlite.org, "Result Codes").
_CANNOT_WRITE: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
}


_BY_HANDLER: Final = "the handler said COMMIT or ROLLBACK in its transaction"
_BY_SQLITE: Final = (
    "SQLite rolled the handler's transaction back (a full disk, an I/O error, or OR ROLLBACK), "
    "and the handler went on"
)


def _ended(what: str, *, by_handler: bool) -> TransactionEndedError:
    return TransactionEndedError(
        f"{what}; neither its effects nor its key are written", by_handler=by_handler
    )


def begin(connection: FileConnection) -> None:
    """Begin a transaction that its end can be sure of.

    Args:
        connection: One that keeps no statement prepared.
    """
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"SAVEPOINT {_SAVEPOINT}")


def _reset_factories(connection: FileConnection) -> None:
    """Read rows as they are: the handler's own factories make anything of them."""
    connection.row_factory = None
    connection.text_factory = str


class SqliteTransaction:
    """An open connection whose effects are committed together with a key.

    Args:
        connections: Where the connection comes from.
        connection: One on which `begin` was called.
        finish: Writes the key's outcome on a connection; False where the lease was lost.
    """

    exclusive = True

    def __init__(
        self,
        connections: SqliteConnections,
        connection: FileConnection,
        finish: Callable[[sqlite3.Connection, str, float], bool],
    ) -> None:
        self._connections = connections
        self._connection = connection
        self._finish = finish
        self._pid = os.getpid()
        self._open = True
        self._refused = False
        connection.set_authorizer(self._authorize)

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
        if self._pid != os.getpid():
            raise TransactionEndedError(
                "the transaction belongs to the parent of this fork; nothing was written here",
                by_handler=True,
            )
        connection = self._connection
        try:
            with as_unavailable():
                self._check_begun()
                self._connections.check_identity(connection)
                _reset_factories(connection)
                mine = self._finish(connection, outcome, keep)
                connection.execute("COMMIT" if mine else "ROLLBACK")
                return mine
        finally:
            self.rollback()

    def meaning_of(self, error: Exception) -> Exception | None:
        """See `ReadsErrors.meaning_of`: a full disk, an I/O error, and what was refused here."""
        code = getattr(error, "sqlite_errorcode", None)
        primary = code & 0xFF if isinstance(code, int) else None
        if primary in _CANNOT_WRITE:
            return StoreUnavailableError(f"the SQLite store failed: {error}")
        if primary == sqlite3.SQLITE_AUTH:  # a statement after the transaction's end
            with suppress(sqlite3.ProgrammingError):
                if self._refused:
                    return _ended(_BY_HANDLER, by_handler=True)
                if not self._connection.in_transaction:
                    return _ended(_BY_SQLITE, by_handler=False)
        return None

    def rollback(self) -> None:
        """See `Transaction.rollback`."""
        if not self._open:
            return
        self._open = False
        connection = self._connection
        if self._pid != os.getpid():
            self._connections.leave_to_parent(connection)
            return
        with suppress(sqlite3.ProgrammingError):  # the handler has closed it
            connection.set_authorizer(None)
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            _reset_factories(connection)
            connection.isolation_level = None
        self._connections.give_back(connection)

    def _check_begun(self) -> None:
        """Raise unless the transaction is still the one that was begun."""
        if self._refused:
            raise _ended(_BY_HANDLER, by_handler=True)
        try:
            self._connection.set_authorizer(None)
            self._connection.execute(f"RELEASE {_SAVEPOINT}")
        except sqlite3.ProgrammingError:
            what = "the handler closed its transaction's connection"
            raise _ended(what, by_handler=True) from None
        except sqlite3.OperationalError:
            if self._connection.in_transaction:
                what = "the handler began a transaction of its own"
                raise _ended(what, by_handler=True) from None
            raise _ended(_BY_SQLITE, by_handler=False) from None

    def _authorize(self, action: int, _first: object, second: object, *_: Any) -> int:
        # Committed by the handler, the effect would stand without its key.
        if action == sqlite3.SQLITE_TRANSACTION or (
            action == sqlite3.SQLITE_SAVEPOINT and second == _SAVEPOINT
        ):
            self._refused = True
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK if self._connection.in_transaction else sqlite3.SQLITE_DENY
