"""Keys in a transaction of the user's own: a key and the rows beside it are one commit.

The user begins the transaction and ends it. Nothing here commits, and of other calls only what they
have committed is seen. Knows nothing of sessions, models or frameworks.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from iii_resilience.stores import postgres_statements as sql
from iii_resilience.stores.postgres_connections import import_psycopg
from iii_resilience.stores.protocol import (
    State,
    StoreRefusedError,
    StoreUnavailableError,
    digest,
)

_DAY: Final = 86_400.0
_WRAPPED: Final = 4  # objects of a framework around psycopg's connection


class KeysInTransaction:
    """Keys that are committed by the user's own transaction.

    Args:
        connection: A psycopg connection, or what holds one: a connection or session of SQLAlchemy,
            a connection of Django.
        statement: Puts the schema into a statement.
        channel: Where the end of a key is notified.
    """

    def __init__(self, connection: Any, statement: Callable[[str], str], channel: str) -> None:
        self._connection = driver_connection(connection)
        self._statement = statement
        self._channel = channel

    def once(
        self,
        function_id: str,
        key: str | int,
        work: Callable[[], Any],
        *,
        payload: Any = None,
        ttl: float = _DAY,
    ) -> Any:
        """Do something once per key, in this transaction.

        If another transaction has the key and has not ended, this waits for it, as for any row. A
        key that `idempotent` keeps for the same function and key is the same key.

        Args:
            function_id: The function, which scopes the key.
            key: The key: a text or a whole number.
            work: What is done, with this connection. If it raises, what it did is undone.
            payload: What stands beside the key; another one under the same key is refused.
            ttl: Seconds its result is kept.

        Returns:
            What `work` returned; of a key that has run, what JSON kept of that.

        Raises:
            RuntimeError: No transaction is open, and none would be begun.
            ValueError: The key came with another payload before.
            StoreUnavailableError: A handler runs the key now; another try may find its result.
            StoreRefusedError: It has failed for good, and its failure is kept.
            psycopg.Error: The server's refusal: roll back.
        """
        connection = self._connection
        if connection.autocommit and connection.pgconn.transaction_status == 0:
            raise RuntimeError(
                "in_transaction: the connection commits each statement: begin a transaction first, "
                "in which the key and your rows are committed together"
            )
        slot = digest(function_id, json.dumps(key))
        # As handlers' payloads are: theirs and this one may share a key.
        text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
        new = {"slot": slot, "fingerprint": digest(text), "nonce": uuid.uuid4().hex}
        connection.execute("SELECT 1")  # begins it where nothing has yet: below is a savepoint
        with connection.transaction():
            row = self._run(sql.CLAIM, {**new, "lease": ttl, "keep": ttl})
            if row is not None:
                result = work()
                end = {"state": State.DONE.value, "outcome": json.dumps(result), "keep": ttl}
                self._run(sql.FINISH, {"slot": slot, "token": row[0], **end})
                return result
            found = self._run(sql.LOOK, {"slot": slot})
        return _kept(found, new["fingerprint"])

    def _run(self, statement: str, parameters: Mapping[str, Any]) -> Any:
        query = self._statement(statement)
        with self._connection.cursor(row_factory=import_psycopg().rows.tuple_row) as cursor:
            cursor.execute(query, {**parameters, "channel": self._channel})
            return cursor.fetchone()


def _kept(found: Any, fingerprint: str) -> Any:
    """The result of a key that another transaction has committed."""
    if found is None or found[0] == State.RUNNING:
        raise StoreUnavailableError("the same key runs now")
    state, owner, _, _, _, outcome, _ = found
    if owner != fingerprint:
        raise ValueError("this key came with another payload before; a new payload needs a new key")
    if state == State.FAILED:
        raise StoreRefusedError("the key has failed for good before, and its failure is kept")
    return json.loads(outcome)


def driver_connection(connection: Any) -> Any:
    """The psycopg connection that something is, or holds.

    Args:
        connection: Of psycopg, SQLAlchemy or Django.

    Raises:
        TypeError: It holds none.
    """
    psycopg = import_psycopg()
    found = connection
    for _ in range(_WRAPPED):
        if isinstance(found, psycopg.Connection):
            return found
        if (driver := getattr(found, "driver_connection", None)) is not None:  # SQLAlchemy's pool
            found = driver
            continue
        inner = getattr(found, "connection", None)  # Django, SQLAlchemy; a session's is a method
        found = inner() if callable(inner) else inner
    raise TypeError(
        "in_transaction takes a psycopg connection, or an object of SQLAlchemy or Django that "
        f"holds one, got {type(connection).__name__}"
    )
