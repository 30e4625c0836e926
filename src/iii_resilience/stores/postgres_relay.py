"""The outbox of a `PostgresStore`, its retries that wait, and the session of its active relay.

Knows nothing of how rows are handed over.
"""

from __future__ import annotations

import asyncio
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

from iii_resilience.stores import postgres_statements as sql
from iii_resilience.stores.postgres_connections import (
    PostgresConnections,
    as_store_errors,
    import_psycopg,
)
from iii_resilience.stores.postgres_in_transaction import driver_connection
from iii_resilience.stores.postgres_schema import NEEDED_BY_RELAY, PostgresSchema
from iii_resilience.stores.protocol import Record
from iii_resilience.stores.relaying import Backlog, OutboxRow, checked_message

NOTIFIED: Final = "outbox"
"""What a notification names whose transaction has enqueued something."""
_IN_TRANSACTION: Final = 2  # libpq's PQTRANS_INTRANS


class PostgresRelaying(ABC):
    """The operations of a `RelayedStore`, and `enqueue`."""

    _schema: PostgresSchema
    _operations: PostgresConnections
    _ready_in: int  # the process in which the schema was looked at

    @abstractmethod
    def _connect(self) -> Any:
        """A new connection, in a schema that is there."""

    @abstractmethod
    def watch(self, slot: str) -> Future[float]:
        """A future that is done when a notification names this."""

    # In the user's transaction.

    def enqueue(
        self,
        transaction: Any,
        queue: str,
        function_id: str,
        data: Mapping[str, Any],
        *,
        key: str | None = None,
    ) -> str:
        """Have a message enqueued when a transaction has been committed.

        Args:
            transaction: The handle of a handler's transaction, or what `in_transaction` takes: a
                connection of your own to the same database. You commit.
            queue: The queue.
            function_id: The function that the message is for.
            data: Its payload: a dict that JSON carries.
            key: Its idempotency key, of 1 to 512 characters; None makes one.

        Returns:
            The key.

        Raises:
            TypeError: The payload is none, or no connection is held by `transaction`.
            ValueError: An argument that is empty or too long, or a payload that cannot be sent.
            RuntimeError: The connection commits each statement, and has begun no transaction.
            psycopg.Error: The server's refusal: roll back.
        """
        parameters = _message(queue, function_id, data, key)
        connection = driver_connection(transaction)
        _refuse_autocommit(connection)
        self._look_at_schema()
        statement = self._schema.statement(sql.ENQUEUE)
        with connection.cursor(row_factory=import_psycopg().rows.tuple_row) as cursor:
            cursor.execute(statement, parameters)
        return parameters["key"]

    async def enqueue_async(
        self,
        transaction: Any,
        queue: str,
        function_id: str,
        data: Mapping[str, Any],
        *,
        key: str | None = None,
    ) -> str:
        """As `enqueue`, with a psycopg ``AsyncConnection``, as a coroutine's transaction is."""
        parameters = _message(queue, function_id, data, key)
        psycopg = import_psycopg()
        if not isinstance(transaction, psycopg.AsyncConnection):
            raise TypeError(
                "enqueue_async takes the handle of a coroutine's transaction, or a psycopg "
                f"AsyncConnection, got {type(transaction).__name__}"
            )
        _refuse_autocommit(transaction)
        if self._ready_in != os.getpid():
            await asyncio.to_thread(self._look_at_schema)
        statement = self._schema.statement(sql.ENQUEUE)
        async with transaction.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
            await cursor.execute(statement, parameters)
        return parameters["key"]

    def _look_at_schema(self) -> None:
        """The schema is there from now on: the first connection of a process sees to it."""
        if self._ready_in != os.getpid():
            with self._operations.lent():
                pass

    # For a relay.

    def relay_lock(self) -> SessionLock:
        """See `RelayedStore.relay_lock`."""
        return SessionLock(self._connect, self._schema, self.watch)

    def relayed(self) -> bool:
        """See `RelayedStore.relayed`."""
        return bool(self._found(sql.RELAYED, lock=self._schema.relay_lock)[0])

    def outbox(self, *, without: Collection[str], most: int) -> Sequence[OutboxRow]:
        """See `RelayedStore.outbox`."""
        return [OutboxRow(*row) for row in self._all(sql.OUTBOX, without=list(without), most=most)]

    def handed_over(self, row: int) -> None:
        """See `RelayedStore.handed_over`."""
        with self._operations.lent() as connection:
            self._run(connection, sql.HANDED_OVER, {"row": row})

    def backlog(self) -> Backlog:
        """See `RelayedStore.backlog`."""
        outbox, retries, oldest = self._found(sql.BACKLOG)
        return Backlog(outbox, retries, None if oldest is None else max(0.0, oldest))

    # Retries that wait.

    def arrived(self, message: str, *, keep: float) -> int:
        """See `Postpones.arrived`."""
        found = self._found(sql.ARRIVED, id=message, keep=keep)
        return 0 if found is None else int(found[0])

    def postpone(self, message: str, note: Mapping[str, Any], *, seconds: float) -> None:
        """See `Postpones.postpone`."""
        parameters = {"id": message, "note": json.dumps(dict(note)), "seconds": seconds}
        with self._operations.lent() as connection:
            self._run(connection, sql.POSTPONE, parameters)

    def due(self, *, without: Collection[str], most: int) -> tuple[Sequence[Record], float | None]:
        """See `RelayedStore.due`."""
        rows = self._all(sql.DUE, without=list(without), most=most)
        (left,) = self._found(sql.NEXT_DUE)
        return [record_of(*row) for row in rows], left

    def take(self, message: str, revision: int) -> int | None:
        """See `RelayedStore.take`."""
        found = self._found(sql.TAKE, id=message, revision=revision)
        return None if found is None else int(found[0])

    def sent(self, message: str, revision: int, *, keep: float) -> bool:
        """See `RelayedStore.sent`."""
        return self._found(sql.SENT, id=message, revision=revision, keep=keep) is not None

    def _run(self, connection: Any, statement: str, parameters: Mapping[str, Any]) -> Any:
        return connection.execute(self._schema.statement(statement), parameters)

    def _found(self, statement: str, **parameters: Any) -> Any:
        """The first row of what a statement returns, or None."""
        with self._operations.lent() as connection:
            return self._run(connection, statement, parameters).fetchone()

    def _all(self, statement: str, **parameters: Any) -> list[Any]:
        with self._operations.lent() as connection:
            return list(self._run(connection, statement, parameters).fetchall())


class SessionLock:
    """A `RelayLock` by a session's advisory lock: of a relay that was killed it is free at once.

    Args:
        connect: Makes a connection.
        schema: The store's schema.
        watch: See `PostgresListener.watch`.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        schema: PostgresSchema,
        watch: Callable[[str], Future[float]],
    ) -> None:
        self._connect = connect
        self._schema = schema
        self._watch = watch
        self._session: Any = None
        self._pid = os.getpid()
        self._has = False
        self._idle: bool | None = None

    def active(self) -> bool:
        """See `RelayLock.active`; where it is held, the session is asked whether it lives."""
        try:
            with as_store_errors():
                if self._session is None:
                    self._session = self._connect()
                    self._schema.refuse_lacking(self._session, NEEDED_BY_RELAY)
                query = "SELECT true" if self._has else sql.RELAY_LOCK
                parameters = {"lock": self._schema.relay_lock}
                (self._has,) = self._session.execute(query, parameters).fetchone()
        except BaseException:
            self._close()
            raise
        return self._has

    def watch(self, *, busy: bool) -> Future[float] | None:
        """See `RelayLock.watch`."""
        heard = None if busy else self._watch(NOTIFIED)
        if self._idle is busy or self._idle is None:
            try:
                with as_store_errors():
                    self._session.execute(self._schema.statement(sql.IDLE), {"idle": not busy})
            except BaseException:
                self._close()
                raise
            self._idle = not busy
        return heard

    def release(self) -> None:
        """See `RelayLock.release`."""
        if self._has and self._pid == os.getpid():
            with suppress(Exception):  # its end frees the lock as well, a moment later
                self._session.execute("SELECT pg_advisory_unlock_all()")
        self._close()

    def _close(self) -> None:
        session, self._session = self._session, None
        self._has, self._idle = False, None
        if session is not None and self._pid == os.getpid():
            with suppress(Exception):
                session.close()


def record_of(
    message: str,
    deliveries: int,
    note: str | None,
    first_failed_at: float | None,
    last_failed_at: float | None,
    parked_at: float | None,
    revision: int,
    due_at: float | None,
) -> Record:
    """A message's row, for people and programs."""
    return Record(
        id=message,
        deliveries=deliveries,
        note={} if note is None else json.loads(note),
        first_failed_at=first_failed_at,
        last_failed_at=last_failed_at,
        parked_at=parked_at,
        revision=revision,
        due_at=due_at,
    )


def _message(
    queue: str, function_id: str, data: Mapping[str, Any], key: str | None
) -> dict[str, str]:
    text, key = checked_message(queue, function_id, data, key)
    return {"queue": queue, "function_id": function_id, "data": text, "key": key}


def _refuse_autocommit(connection: Any) -> None:
    if connection.autocommit and connection.pgconn.transaction_status != _IN_TRANSACTION:
        raise RuntimeError(
            "enqueue: the connection commits each statement: begin a transaction first, in which "
            "the message and your rows are committed together"
        )
