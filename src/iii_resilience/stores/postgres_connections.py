"""Connections to a PostgreSQL server: bounded, renewed when they are dead, left alone after a fork.

Not psycopg_pool's: that connects on threads of its own, and waits 1, 2, 4 s between its attempts.
So a server that refuses is seen as a pool that is empty, and one that is back is not used for a
while. Here the thread that needs a connection makes it, and hears what is wrong with it. Knows
nothing of what is stored.
"""

from __future__ import annotations

import os
import re
import select
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, Final

from iii_resilience.core.error_translation import ErrorTranslation
from iii_resilience.stores.protocol import StoreRefusedError, StoreUnavailableError

# Connections that a fork has brought into a child: not to be used there, nor to be closed.
_of_the_parent: list[Any] = []

_PASSES: Final = (
    "08",  # the connection broke
    "25006",  # a standby: the primary has moved
    "40",  # rolled back: a deadlock, or a serialization failure
    "53",  # a full disk, no memory, no connection left
    "55P03",  # a lock timeout
    "57",  # shut down, starting up, or a statement timeout
    "58",  # an I/O error
)
"""How the SQLSTATE of what may not be so a moment later begins (PostgreSQL, appendix A)."""
_NEVER: Final = re.compile(
    r"authentication failed|no pg_hba.conf entry|(role|database) .{0,64} does not exist"
)
_TEXT: Final = 500  # characters of an error's text that are looked at


def import_psycopg() -> Any:
    """The extra.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import psycopg  # noqa: PLC0415 - an extra
    except ImportError:
        raise ImportError(
            "a PostgresStore needs psycopg: pip install 'iii-resilience[postgres]'"
        ) from None
    return psycopg


def meaning(error: Exception) -> StoreUnavailableError | StoreRefusedError:
    """What an error of psycopg says of the store.

    Args:
        error: The error. Its class and SQLSTATE are shown; its text may hold what was sent.
    """
    state = getattr(error, "sqlstate", None)
    said = type(error).__name__ + (f" ({state})" if state else "")
    passes = (
        state.startswith(_PASSES)
        if state
        # Errors of connecting have no state, only words.
        else not _NEVER.search(str(error)[:_TEXT])
    )
    if passes:
        return StoreUnavailableError(f"the PostgreSQL store failed: {said}")
    return StoreRefusedError(
        f"the PostgreSQL store refuses: {said}. It would again: look at the user, the password, "
        "the database, and at what this user may do"
    )


class PostgresConnections:
    """The connections of one store.

    Args:
        connect: Makes a connection that commits each statement.
        most: How many there are at most at one time.
        timeout: Seconds that is waited for one of them.
    """

    def __init__(self, connect: Callable[[], Any], most: int, timeout: float) -> None:
        self._connect = connect
        self._most = most
        self._timeout = timeout
        self._new()

    def _new(self) -> None:
        self._free = threading.BoundedSemaphore(self._most)
        self._idle: list[Any] = []
        self._pid = os.getpid()

    def _check_fork(self) -> None:
        if os.getpid() != self._pid:
            _of_the_parent.extend(self._idle)
            self._new()

    def close(self) -> None:
        """Close the connections that are not in use; in a forked child none is this process's."""
        self._check_fork()
        while (connection := self._pop()) is not None:
            connection.close()

    def _pop(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def take(self) -> Any:
        """A connection that nothing else uses, until `give_back`.

        Raises:
            StoreUnavailableError: The server cannot be reached, or all connections are in use.
            StoreRefusedError: The server refuses this user, and would again.
        """
        self._check_fork()
        free = self._free
        if not free.acquire(timeout=self._timeout):
            raise StoreUnavailableError(
                f"the PostgreSQL store failed: all {self._most} connections were in use for "
                f"{self._timeout:g} s (connections=)"
            )
        try:
            while (connection := self._pop()) is not None:
                if _lives(connection):
                    return connection
            return self._connect()
        except BaseException:
            free.release()
            raise

    def give_back(self, connection: Any) -> None:
        """Keep a connection for the next operation, if it is as it was."""
        if not connection.closed and connection.pgconn.transaction_status == _IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        self._free.release()

    def leave_to_parent(self, connection: Any) -> None:
        """Keep an inherited connection from being used or closed in this forked child."""
        self._check_fork()
        _of_the_parent.append(connection)

    def lent(self) -> LentPostgres:
        """A connection for one operation, whose errors become those of stores.

        The context manager raises:
            StoreUnavailableError: See `take`; or the operation failed, and may not another time.
            StoreRefusedError: The server refuses the operation, and would again.
        """
        return LentPostgres(self)


class LentPostgres:
    """A connection for one operation; see `PostgresConnections.lent`.

    A class, not a ``contextlib.contextmanager``, as in `core.context_scope`.

    Args:
        connections: Where it comes from, and goes back to.
    """

    __slots__ = ("_connection", "_connections")

    def __init__(self, connections: PostgresConnections) -> None:
        self._connections = connections
        self._connection: Any = None

    def __enter__(self) -> Any:
        self._connection = connection = self._connections.take()
        return connection

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        connection, self._connection = self._connection, None
        try:
            if isinstance(error, Exception):
                _translate(error)
        finally:
            self._connections.give_back(connection)


_IDLE: Final = 0  # libpq's PQTRANS_IDLE: connected, and nothing is under way


def as_store_errors() -> ErrorTranslation:
    """Raise psycopg's errors as those of stores."""
    return ErrorTranslation(_translate)


def _translate(error: Exception) -> None:
    psycopg = import_psycopg()
    # A value that PostgreSQL does not take says nothing of the store.
    if isinstance(error, psycopg.Error) and not isinstance(error, psycopg.DataError):
        raise meaning(error) from error


def _lives(connection: Any) -> bool:
    """Whether an idle connection can be used: of one that the server ended there is its last word.

    Nothing is sent where nothing has come: a look at the socket is enough.
    """
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        try:
            connection.execute("")
        except Exception:
            connection.close()
            return False
    return True


def connect(dsn: str, timeout: float) -> Any:
    """A connection that commits each statement, with the settings of a store.

    Args:
        dsn: As libpq takes it.
        timeout: Seconds for a connection, and for each statement.

    Raises:
        StoreUnavailableError: The server cannot be reached.
        StoreRefusedError: It refuses this user.
    """
    whole = max(2, round(timeout))  # libpq takes whole seconds, and makes 2 of 1
    with as_store_errors():
        connection = _connection_class().connect(
            dsn,
            autocommit=True,
            connect_timeout=whole,
            fallback_application_name="iii-resilience",
            keepalives_idle=whole,
            keepalives_interval=whole,
            keepalives_count=2,
            tcp_user_timeout=2 * whole * 1000,
        )
        connection.limit = timeout + SLACK
        try:
            try:
                connection.execute(settings(connection, timeout))
            except import_psycopg().errors.InvalidParameterValue:
                connection.checked = False  # the server's system cannot look at a connection
                connection.execute(settings(connection, timeout))
        except BaseException:
            connection.close()
            raise
    return connection


SLACK: Final = 1.0  # seconds: the server's own timeout comes first, where it still works


def bounded(steps: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
    """What psycopg waits for, for so long: a server that is stalled answers nothing at all.

    Args:
        steps: One of psycopg's generators, which are resumed every 0.1 s at the latest.
        seconds: How long.

    Raises:
        psycopg.OperationalError: The time is over. The connection is of no more use.
    """
    until = time.monotonic() + seconds
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() >= until:
                raise import_psycopg().OperationalError("the server does not answer")
            wanted = steps.send(ready)
    except StopIteration as end:
        return end.value


_made: list[Any] = []


def _connection_class() -> Any:
    """The class of a store's connections; made once, when psycopg is there."""
    if not _made:
        psycopg = import_psycopg()

        class BoundedConnection(psycopg.Connection):  # type: ignore[misc, name-defined]
            _pool = None  # as psycopg_pool marks its own: they may end with the program
            checked = True  # whether the server can look whether its client is still there
            limit = 60.0  # seconds, until the settings of the store are known

            def wait(self, steps: Any, *args: Any, **kwargs: Any) -> Any:
                return super().wait(bounded(steps, self.limit), *args, **kwargs)

        _made.append(BoundedConnection)
    return _made[0]


def settings(connection: Any, timeout: float) -> str:
    """The statements that give a session its settings, whatever it had before.

    Args:
        connection: The session's connection.
        timeout: Seconds for each statement.
    """
    milliseconds, seconds = max(1, round(timeout * 1000)), max(1, round(timeout))
    wanted = {
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        # A server that does not hear of its client's end would hold its locks for two hours.
        "tcp_keepalives_idle": seconds,
        "tcp_keepalives_interval": seconds,
        "tcp_keepalives_count": 2,
    }
    if connection.checked:  # also while a statement runs: the end of its client ends it
        wanted["client_connection_check_interval"] = 1000
    steps = ["RESET ALL", *(f"SET {name} = {value}" for name, value in wanted.items())]
    return "; ".join([*steps, _DURABLE])


# What is confirmed is acknowledged, or sent: a server that is killed must not forget it.
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') = 'off'"
)


def refuse_transaction_pooling(connection: Any, dsn: str, timeout: float) -> None:
    """Refuse a pooler that gives each transaction another session.

    Args:
        connection: A connection of the store.
        dsn: Where another one leads to the same pooler.
        timeout: Seconds for each step.

    Raises:
        StoreRefusedError: There is such a pooler.
    """
    mine = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
    # A pooler gives each client a number of its own in place of the session's.
    if mine == connection.info.backend_pid:
        return
    until = time.monotonic() + timeout
    for _ in range(_LOOKS):
        other = connect(dsn, timeout)
        try:
            theirs = other.execute("SELECT pg_backend_pid()").fetchone()[0]
            again = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
        finally:
            other.close()
        if theirs == mine or again != mine:
            raise StoreRefusedError(
                "a pooler (PgBouncer) in transaction mode stands before the PostgreSQL server: "
                "the lock that says that a key runs belongs to a session, and there each "
                "transaction may get another one. Connect to the server itself, or use pool_mode "
                "= session"
            )
        if time.monotonic() >= until:
            return


_LOOKS: Final = 3
