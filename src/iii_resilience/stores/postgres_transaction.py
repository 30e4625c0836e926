"""`PostgresTransaction`: a handler's writes and its key as one commit.

The session of the handler's connection holds an advisory lock while the handler runs, and nothing
else: the transaction has neither a snapshot nor a number before the handler's first statement, so
slow work at its beginning holds nothing back. Knows nothing of handlers.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn

from iii_resilience.stores import postgres_statements as sql
from iii_resilience.stores.postgres_connections import (
    PostgresConnections,
    as_store_errors,
    bounded,
    import_psycopg,
    meaning,
)
from iii_resilience.stores.protocol import StoreUnavailableError, TransactionEndedError

_BY_HANDLER: Final = "the handler ended its transaction"
_BY_SERVER: Final = "PostgreSQL refused a statement of the handler's transaction, and it went on"
_CONFLICT: Final = "PostgreSQL rolled the handler's transaction back, for one at the same time"
_ENDS: Final = re.compile(
    r"(?:^|;)\s*(?:commit|abort|prepare\s+transaction|rollback(?!\s+(?:work\s+|transaction\s+)?to\b)"
    r"|end\s*(?:work\b|transaction\b|;|$))",
    re.IGNORECASE,
)
"""A statement that ends a transaction. (ROLLBACK TO SAVEPOINT does not.)"""
_CONFLICTS: Final = {"40001", "40P01"}
_OVER: Final = {"25P02", "55P03", "57014"}  # failed before; a lock or statement timeout


class PostgresTransaction:
    """An open transaction whose effects are committed together with a key.

    Args:
        connections: Where the connection comes from.
        connection: One whose session holds the key's lock.
        statement: Puts the schema into a statement.
        key: The parameters that name the key: ``slot``, ``token``, ``channel``.
        settings: Gives the session back its settings.
        limit: Seconds that a statement of the handler may take.
    """

    exclusive = True

    def __init__(
        self,
        connections: PostgresConnections,
        connection: Any,
        statement: Callable[[str], str],
        key: dict[str, Any],
        settings: Callable[[Any], str],
        limit: float,
    ) -> None:
        self._connections = connections
        self._connection = connection
        self._statement = statement
        self._key = key
        self._settings = settings
        self._limit = limit
        self._pid = os.getpid()
        self._open = True
        self._begin()

    def _begin(self) -> None:
        self._mark = uuid.uuid4().hex
        with as_store_errors():
            # Without a snapshot: SET needs none.
            self._connection.execute(
                f"BEGIN; SET LOCAL iii_resilience.transaction = '{self._mark}'"
            )

    @property
    def handle(self) -> Any:
        """A psycopg connection. It is in a transaction, which it cannot end itself."""
        return _classes()[0](self._connection.pgconn, self._limit)

    @property
    def async_handle(self) -> Any:
        """The same, as an ``AsyncConnection``, for a handler that is a coroutine."""
        return _classes()[1](self._connection.pgconn, self._limit)

    def commit(self, outcome: str, *, keep: float) -> bool:
        """See `Transaction.commit`.

        Raises:
            StoreUnavailableError: Whether it was committed is not known, but it is both or neither.
            TransactionEndedError: The handler ended it, or the server did.
            psycopg.IntegrityError: A deferred constraint of the handler's tables failed; nothing
                was written.
        """
        if self._pid != os.getpid():
            raise _ended("the transaction belongs to the parent of this fork", by_handler=True)
        psycopg = import_psycopg()
        try:
            with as_store_errors():
                self._check_begun()
                mine = self._finish(outcome, keep)
                if mine:
                    self._connection.execute("COMMIT")
        except Exception as error:
            cause = error.__cause__ or error
            if isinstance(cause, psycopg.IntegrityError):
                raise cause from None
            ended = self._ended_by(cause) if isinstance(cause, psycopg.Error) else None
            if ended is not None:
                raise ended from error
            self.rollback()
            raise
        self.rollback()
        return mine

    def restart(self) -> None:
        """Forget the effects and begin anew, with the key's lock held all the while.

        Raises:
            StoreUnavailableError: The session is lost, and the key with it.
        """
        with as_store_errors():
            self._connection.execute("ROLLBACK")
        self._begin()

    def meaning_of(self, error: Exception) -> Exception | None:
        """See `ReadsErrors.meaning_of`: a conflict, a timeout, a server that went away."""
        psycopg = import_psycopg()
        if not isinstance(error, psycopg.Error):
            return None
        return self._ended_by(error) or _unavailable(error)

    def rollback(self) -> None:
        """See `Transaction.rollback`."""
        if not self._open:
            return
        self._open = False
        connection = self._connection
        if self._pid != os.getpid():
            self._connections.leave_to_parent(connection)
            return
        try:
            if connection.pgconn.transaction_status in _IN_TRANSACTION:
                connection.execute("ROLLBACK")
            connection.execute(
                f"{self._settings(connection)}; SELECT pg_advisory_unlock_all(); UNLISTEN *"
            )
        except Exception:  # its session ends with it, and the lock with the session
            connection.close()
        self._connections.give_back(connection)

    def _check_begun(self) -> None:
        """Raise unless the transaction is still the one that was begun."""
        status = self._connection.pgconn.transaction_status
        if status == _FAILED:
            raise _ended(_BY_SERVER, by_handler=False)
        found = self._connection.execute(sql.IS_OURS).fetchone()[0]
        if found != self._mark:
            raise _ended(_BY_HANDLER, by_handler=True)

    def _finish(self, outcome: str, keep: float) -> bool:
        parameters = {**self._key, "state": "done", "outcome": outcome, "keep": keep}
        found = self._connection.execute(self._statement(sql.FINISH), parameters).fetchone()
        return found is not None

    @staticmethod
    def _ended_by(error: Exception) -> TransactionEndedError | None:
        state = getattr(error, "sqlstate", None)
        if state in _CONFLICTS:
            return _ended(f"{_CONFLICT} ({state})", by_handler=False, conflict=True)
        if state in _OVER:
            return _ended(f"{_BY_SERVER} ({state})", by_handler=False)
        return None


_IN_TRANSACTION: Final = (2, 3)  # libpq's PQTRANS_INTRANS and PQTRANS_INERROR
_FAILED: Final = 3


def _unavailable(error: Exception) -> StoreUnavailableError | None:
    said = meaning(error)
    if isinstance(said, StoreUnavailableError) and (
        getattr(error, "sqlstate", None) or type(error).__name__ == "OperationalError"
    ):
        return said
    return None


def _ended(what: str, *, by_handler: bool, conflict: bool = False) -> TransactionEndedError:
    return TransactionEndedError(
        f"{what}; neither its effects nor its key are written",
        by_handler=by_handler,
        conflict=conflict,
    )


def _not_yours(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError(
        "a handler's transaction ends with the handler, together with its key: do not commit it"
    )


def _check(query: Any) -> None:
    text = query.decode("utf-8", "replace") if isinstance(query, bytes) else query
    if isinstance(text, str) and _ENDS.search(text):
        _not_yours()


_made: list[tuple[Any, Any]] = []


def _classes() -> tuple[Any, Any]:
    """The classes of connections that are given to handlers; made once, when psycopg is there."""
    if not _made:
        psycopg = import_psycopg()
        _made.append(
            (
                _guarded(psycopg.Connection, psycopg.Cursor),
                _guarded(psycopg.AsyncConnection, psycopg.AsyncCursor),
            )
        )
    return _made[0]


def _guarded(connection: Any, cursor: Any) -> Any:
    """A class of connections that end no transaction, around a session that is another's."""

    class GuardedCursor(cursor):  # type: ignore[misc]
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            _check(query)
            return super().execute(query, *args, **kwargs)

        def executemany(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            _check(query)
            return super().executemany(query, *args, **kwargs)

    class GuardedConnection(connection):  # type: ignore[misc]
        commit = rollback = close = set_autocommit = tpc_begin = _not_yours

        def __init__(self, pgconn: Any, limit: float) -> None:
            super().__init__(pgconn)
            self.limit = limit
            self.cursor_factory = GuardedCursor
            # The session's own connection has names of its own for what it prepares.
            self.prepare_threshold = None

        def wait(self, steps: Any, *args: Any, **kwargs: Any) -> Any:
            return super().wait(bounded(steps, self.limit), *args, **kwargs)

        def __del__(self) -> None:
            with suppress(AttributeError):
                self._pool = None  # it is not this object's to close

    return GuardedConnection
