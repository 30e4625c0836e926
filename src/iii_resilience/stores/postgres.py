"""`PostgresStore`: for many machines, with effects, keys and dead letters in one commit.

Needs the extra ``postgres``, which is imported when a store is made. Times are the server's. It
needs sessions: not behind a pooler in transaction mode. Knows nothing of what it stores.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

import attrs

from iii_resilience.core.validators import number
from iii_resilience.stores import postgres_statements as sql
from iii_resilience.stores.postgres_connections import (
    SLACK,
    PostgresConnections,
    as_store_errors,
    connect,
    import_psycopg,
    refuse_transaction_pooling,
    settings,
)
from iii_resilience.stores.postgres_in_transaction import KeysInTransaction
from iii_resilience.stores.postgres_listener import PostgresListener
from iii_resilience.stores.postgres_relay import PostgresRelaying, record_of
from iii_resilience.stores.postgres_schema import PostgresSchema
from iii_resilience.stores.postgres_transaction import PostgresTransaction
from iii_resilience.stores.protocol import (
    Claim,
    Record,
    Renewal,
    State,
    StoreUnavailableError,
)

_PAGE: Final = 500
_CLAIMS_TRIED: Final = 10
_SWEEP_EVERY: Final = 64  # operations of a process that add rows
_SWEEP_MOST: Final = 256


@attrs.frozen(kw_only=True)
class _PostgresLimits:
    connections: int = attrs.field(validator=number(least=1, integer=True))
    timeout: float = attrs.field(validator=number(above=0, unit="seconds"))


class PostgresStore(PostgresRelaying):
    """Idempotency keys and parked messages in PostgreSQL 14 or later; safe for threads and forks.

    Args:
        dsn: ``postgresql://...``, or as libpq takes it. Of the server itself, or of a pooler that
            keeps a session for each connection.
        schema: The schema of its tables. It is made and upgraded at first use.
        create: Whether it may be. Otherwise it is only looked at: its owner runs `migrate` once.
        connections: How many connections a process has at most for operations, and as many again
            for handlers that take a transaction: each holds one while it runs.
        timeout: Seconds for a connection, and for each statement of the store's own.

    Raises:
        ImportError: The extra is not installed.
        ValueError: A DSN that libpq does not take, or a number that is none.
    """

    blocking = True
    transactions = True

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = "iii_resilience",
        create: bool = True,
        connections: int = 10,
        timeout: float = 5.0,
    ) -> None:
        psycopg = import_psycopg()
        try:
            psycopg.conninfo.conninfo_to_dict(dsn)
        except psycopg.ProgrammingError:
            raise ValueError(
                "PostgresStore: the DSN is none that libpq takes; write postgresql://user@host/name"
            ) from None
        limits = _PostgresLimits(connections=connections, timeout=timeout)
        self._dsn = dsn
        self._timeout = limits.timeout
        self._schema = PostgresSchema(schema)
        self._create = create
        self._ready_in = 0
        self._writes = itertools.count(1)
        self._operations = PostgresConnections(self._connect, limits.connections, timeout)
        self._in_handlers = PostgresConnections(self._connect, limits.connections, timeout)
        self._listener = PostgresListener(lambda: connect(dsn, timeout), schema)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._listener.close()
        self._operations.close()
        self._in_handlers.close()

    def __repr__(self) -> str:
        return f"PostgresStore(schema={self._schema.name!r})"  # the DSN may hold a password

    def migrate(self) -> None:
        """Make the schema, or upgrade it, whatever ``create`` says: for its owner, when deploying.

        Raises:
            StoreUnavailableError: The server cannot be reached.
            StoreRefusedError: This user may not.
        """
        connection = connect(self._dsn, self._timeout)
        try:
            self._prepare(connection, create=True)
        finally:
            connection.close()

    # Keys.

    def claim(self, slot: str, *, fingerprint: str, nonce: str, lease: float, keep: float) -> Claim:
        """See `Keys.claim`."""
        key: dict[str, Any] = {"slot": slot}
        new = {**key, "fingerprint": fingerprint, "nonce": nonce, "lease": lease, "keep": keep}
        with self._operations.lent() as connection:
            for _ in range(_CLAIMS_TRIED):
                won = self._run(connection, sql.CLAIM, new).fetchone()
                if won is not None:
                    self._sweep(connection)
                    return Claim(State.CLAIMED, won[0])
                row = self._run(connection, sql.LOOK, key).fetchone()
                if row is None:
                    continue  # it was freed in between
                state, owner, mine, token, left, outcome, waited = row
                if owner != fingerprint:
                    return Claim(State.OTHER)
                if state != State.RUNNING:
                    return Claim(State(state), token, outcome=outcome)
                if mine == nonce:  # the answer to this very claim was lost on its way
                    return Claim(State.CLAIMED, token)
                if not waited:
                    self._run(connection, sql.WAIT, {**key, "token": token})
                return Claim(State.RUNNING, token, left=max(0.0, left))
        raise StoreUnavailableError("the PostgreSQL store failed: a key changed again and again")

    def renew(self, slot: str, token: int, *, lease: float, keep: float) -> bool:
        """See `Keys.renew`."""
        return self.renew_many([Renewal(slot, token, lease, keep)])[0]

    def renew_many(self, renewals: Sequence[Renewal]) -> list[bool]:
        """See `RenewsMany.renew_many`; all of them are one statement."""
        parameters = {
            "slots": [one.slot for one in renewals],
            "tokens": [one.token for one in renewals],
            "leases": [float(one.lease) for one in renewals],
            "keeps": [float(one.keep) for one in renewals],
        }
        with self._operations.lent() as connection:
            renewed = {slot for (slot,) in self._run(connection, sql.RENEW, parameters)}
        return [one.slot in renewed for one in renewals]

    def finish(
        self, slot: str, token: int, outcome: str, *, failed: bool = False, keep: float
    ) -> bool:
        """See `Keys.finish`."""
        state = (State.FAILED if failed else State.DONE).value
        key = self._key(slot, token)
        return self._found(sql.FINISH, **key, state=state, outcome=outcome, keep=keep) is not None

    def release(self, slot: str, token: int) -> bool:
        """See `Keys.release`."""
        return self._found(sql.RELEASE, **self._key(slot, token)) is not None

    def forget_failure(self, slot: str) -> bool:
        """See `Keys.forget_failure`."""
        return self._found(sql.FORGET_FAILURE, slot=slot) is not None

    def begin(self, slot: str, token: int) -> PostgresTransaction:
        """Begin effects that are committed together with the key (see `Keys.begin`).

        From now on the key runs as long as this session lives, whatever its lease. One statement
        of the handler may take as long as was left of that, and ``timeout`` at least.

        Raises:
            StoreUnavailableError: The server cannot be reached, or the lease is lost already.
        """
        key = self._key(slot, token)
        lock = self._schema.lock_of(slot)
        connection = self._in_handlers.take()
        try:
            with as_store_errors():
                row = self._run(connection, sql.BEGIN, {**key, "lock": lock}).fetchone()
                if row is None:
                    raise StoreUnavailableError(
                        "the PostgreSQL store failed: the lease was over before the transaction "
                        "began"
                    )
                # Its end runs under the same timeout: never less than an operation has.
                most = max(round(self._timeout * 1000), row[0])
                connection.execute(f"SET statement_timeout = {most}; SET lock_timeout = {most}")
            return PostgresTransaction(
                self._in_handlers,
                connection,
                self._schema.statement,
                key,
                self._settings,
                most / 1000 + SLACK,
            )
        except BaseException:
            connection.close()
            self._in_handlers.give_back(connection)
            raise

    def watch(self, slot: str) -> Future[float]:
        """See `Watches.watch`."""
        return self._listener.watch(slot)

    def in_transaction(self, connection: Any) -> KeysInTransaction:
        """Keys that a transaction of your own commits, together with your rows.

        Args:
            connection: A psycopg connection to the same database, or what holds one: a connection
                or session of SQLAlchemy, a connection of Django.

        Raises:
            TypeError: It holds none.
            StoreUnavailableError: The store's schema cannot be looked at.
        """
        self._look_at_schema()
        return KeysInTransaction(connection, self._schema.statement, self._schema.name)

    # Messages.

    def delivered(self, message: str, *, keep: float) -> int:
        """See `Messages.delivered`."""
        with self._operations.lent() as connection:
            parameters = {"id": message, "keep": keep}
            (count,) = self._run(connection, sql.DELIVERED, parameters).fetchone()
            self._sweep(connection)
        return int(count)

    def undelivered(self, message: str, *, keep: float) -> None:
        """See `CountsBack.undelivered`."""
        with self._operations.lent() as connection:
            self._run(connection, sql.UNDELIVERED, {"id": message, "keep": keep})
            self._run(connection, sql.EMPTY, {"id": message})

    def note(self, message: str, note: Mapping[str, Any], *, parked: bool, keep: float) -> None:
        """See `Messages.note`."""
        parameters = {"id": message, "note": json.dumps(dict(note)), "parked": parked}
        with self._operations.lent() as connection:
            self._run(connection, sql.NOTE, {**parameters, "keep": keep})

    def settle(self, message: str) -> None:
        """See `Messages.settle`."""
        with self._operations.lent() as connection:
            self._run(connection, sql.SETTLE, {"id": message})

    def records(self) -> Iterator[Record]:
        """See `Messages.records`."""
        after, page = "", [()]
        while page:
            with self._operations.lent() as connection:
                parameters = {"after": after, "page": _PAGE}
                page = self._run(connection, sql.RECORDS, parameters).fetchall()
            for row in page:
                yield record_of(*row)
                after = row[0]

    def prepare(self, message: str, revision: int) -> int | None:
        """See `Messages.prepare`."""
        found = self._found(sql.PREPARE, id=message, revision=revision)
        return None if found is None else int(found[0])

    def remove(self, message: str, revision: int) -> bool:
        """See `Messages.remove`."""
        return self._found(sql.REMOVE, id=message, revision=revision) is not None

    # How it is asked.

    def _connect(self) -> Any:
        connection = connect(self._dsn, self._timeout)
        if self._ready_in != os.getpid():
            try:
                self._prepare(connection, create=self._create)
            except BaseException:
                connection.close()
                raise
            self._ready_in = os.getpid()
        return connection

    def _prepare(self, connection: Any, *, create: bool) -> None:
        with as_store_errors():
            refuse_transaction_pooling(connection, self._dsn, self._timeout)
            self._schema.ensure(connection, create=create)

    def _settings(self, connection: Any) -> str:
        return settings(connection, self._timeout)

    def _key(self, slot: str, token: int) -> dict[str, Any]:
        return {"slot": slot, "token": token, "channel": self._schema.name}

    def _sweep(self, connection: Any) -> None:
        """Remove a few rows whose time is over, now and then: so it never takes long."""
        if next(self._writes) % _SWEEP_EVERY:
            return
        # What came before it is done: its caller must not hear that it failed.
        with suppress(import_psycopg().Error):
            for statement in (sql.SWEEP_KEYS, sql.SWEEP_MESSAGES):
                self._run(connection, statement, {"most": _SWEEP_MOST})
