"""The schema of a `PostgresStore`: its versions, how it is made, and what a user needs of it.

Each version is a list of statements that lead there from the one before. They run once, in one
transaction, under an advisory lock. Knows nothing of connections and of what is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from iii_resilience.stores.protocol import StoreRefusedError

# Rows are short-lived: their space is to be used again at once, not after a fifth of the table.
_VACUUMED: Final = (
    "WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, "
    "autovacuum_vacuum_insert_scale_factor = 0.1)"
)

_FIRST: Final = (
    """CREATE TABLE {schema}.keys (
        slot text PRIMARY KEY,
        state text NOT NULL,
        fingerprint text NOT NULL,
        nonce text NOT NULL,
        token bigint NOT NULL,
        lease_until timestamptz NOT NULL,
        keep_until timestamptz NOT NULL,
        lock bigint,
        waited boolean NOT NULL DEFAULT false,
        outcome text
    ) """
    + _VACUUMED,
    "CREATE INDEX keys_keep_until ON {schema}.keys (keep_until)",
    """CREATE TABLE {schema}.messages (
        id text PRIMARY KEY,
        deliveries integer NOT NULL,
        note text,
        first_failed_at timestamptz,
        last_failed_at timestamptz,
        parked_at timestamptz,
        revision integer NOT NULL DEFAULT 0,
        keep_until timestamptz
    ) """
    + _VACUUMED,
    """CREATE INDEX messages_keep_until ON {schema}.messages (keep_until)
        WHERE keep_until IS NOT NULL""",
)
# Messages that wait to be tried again, and the outbox. Its one row says whether the relay waits for
# a notification.
_SECOND: Final = (
    """ALTER TABLE {schema}.messages
        ADD COLUMN due_at timestamptz, ADD COLUMN handing boolean NOT NULL DEFAULT false""",
    "CREATE INDEX messages_due_at ON {schema}.messages (due_at) WHERE due_at IS NOT NULL",
    """CREATE TABLE {schema}.outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        queue text NOT NULL CHECK (queue <> ''),
        function_id text NOT NULL CHECK (function_id <> ''),
        data text NOT NULL,
        key text NOT NULL CHECK (length(key) BETWEEN 1 AND 512),
        enqueued_at timestamptz NOT NULL DEFAULT clock_timestamp()
    ) """
    + _VACUUMED,
    "CREATE TABLE {schema}.relay (idle boolean NOT NULL)",
    "INSERT INTO {schema}.relay VALUES (true)",
    """CREATE FUNCTION {schema}.enqueue(
        queue text, function_id text, data jsonb, key text DEFAULT NULL
    ) RETURNS text LANGUAGE plpgsql AS $enqueue$
    DECLARE
        made text := coalesce(enqueue.key, replace(gen_random_uuid()::text, '-', ''));
    BEGIN
        IF jsonb_typeof(enqueue.data) IS DISTINCT FROM 'object' THEN
            RAISE invalid_parameter_value USING MESSAGE = 'enqueue: data must be a JSON object, '
                'because the idempotency key travels inside it';
        END IF;
        PERFORM set_config('synchronous_commit', 'on', true)
            WHERE current_setting('synchronous_commit') = 'off';
        INSERT INTO {schema}.outbox (queue, function_id, data, key)
        VALUES (enqueue.queue, enqueue.function_id, enqueue.data::text, made);
        PERFORM pg_notify({channel}, 'outbox') FROM {schema}.relay WHERE idle;
        RETURN made;
    END
    $enqueue$""",
)


@attrs.frozen
class _Version:
    """One version.

    Attributes:
        statements: What leads there from the version before.
        oldest: The oldest version whose library still works on it: workers are deployed one after
            the other.
    """

    statements: tuple[str, ...]
    oldest: int


_VERSIONS: Final = (_Version(_FIRST, oldest=1), _Version(_SECOND, oldest=1))
VERSION: Final = len(_VERSIONS)
TABLES: Final = ("keys", "messages")
_ALL: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
NEEDED: Final[Mapping[str, Sequence[str]]] = dict.fromkeys(TABLES, _ALL)
"""What a store's user needs, by table."""
NEEDED_BY_RELAY: Final = {"outbox": ("SELECT", "DELETE"), "relay": ("SELECT", "UPDATE")}
"""What the user of a relay needs beside that."""

# Not by to_regclass: that may remember, inside a transaction, that there was none.
_EXISTS: Final = """
SELECT has_schema_privilege(n.oid, 'USAGE') FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = 'version'
"""
_SET_VERSION: Final = "UPDATE {schema}.version SET version = %d, oldest = %d"
_FOUND: Final = "SELECT version, oldest FROM {schema}.version"
_PRIVILEGES: Final = """
SELECT n.table, n.privilege FROM unnest(%(tables)s::text[], %(privileges)s::text[])
    AS n ("table", privilege)
WHERE NOT has_table_privilege({literal} || n.table, n.privilege)
"""


class PostgresSchema:
    """One schema, by its name.

    Args:
        name: Its name, as it is; it is quoted where it has to be.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.quoted = '"' + name.replace('"', '""') + '"'
        # Two stores that make the schema at once: one makes it, the other waits and finds it.
        self._lock = _signed(f"iii-resilience schema {name}")

    def statement(self, text: str) -> str:
        """A statement in which ``{schema}``, ``{literal}`` and ``{channel}`` stand for this one."""
        return text.format(
            schema=self.quoted, literal=_quoted(f"{self.quoted}."), channel=_quoted(self.name)
        )

    def lock_of(self, slot: str) -> int:
        """The number of the advisory lock that a running transaction of a key holds."""
        return _signed(f"{self.name}\0{slot}")

    @property
    def relay_lock(self) -> int:
        """The number of the advisory lock that the session of the active relay holds."""
        return _signed(f"iii-resilience relay {self.name}")

    def ddl(self, since: int = 0) -> list[str]:
        """The statements that lead from a version to the latest one."""
        statements = []
        if since == 0:
            statements += [
                "CREATE SCHEMA IF NOT EXISTS {schema}",
                "CREATE TABLE {schema}.version (version integer NOT NULL, oldest integer NOT NULL)",
                "INSERT INTO {schema}.version VALUES (0, 0)",
            ]
        for version in _VERSIONS[since:]:
            statements += version.statements
        oldest = _VERSIONS[-1].oldest
        statements.append(_SET_VERSION % (VERSION, oldest))
        return [self.statement(one) for one in statements]

    def found(self, connection: Any) -> tuple[int, int]:
        """Its version, and the oldest one whose library works on it; zeros where it is not there.

        Args:
            connection: A connection that commits each statement.

        Raises:
            StoreRefusedError: The user may not use it.
        """
        usable = connection.execute(_EXISTS, (self.name,)).fetchone()
        if usable is None:
            return 0, 0
        if not usable[0]:
            raise StoreRefusedError(
                f"the PostgreSQL user may not use the schema {self.quoted}: let its owner GRANT "
                "USAGE on it, SELECT on its table version, and SELECT, INSERT, UPDATE, DELETE on "
                f"{' and '.join(TABLES)}"
            )
        version, oldest = connection.execute(self.statement(_FOUND)).fetchone()
        return int(version), int(oldest)

    def ensure(self, connection: Any, *, create: bool) -> None:
        """Make the schema, or upgrade it, where it is missing or old.

        Args:
            connection: A connection that commits each statement.
            create: Whether it may; otherwise it is only looked at.

        Raises:
            StoreRefusedError: It is missing or old and may not be made, it is newer than this
                library, or the user lacks a privilege.
        """
        version, oldest = self.found(connection)
        if version < VERSION:
            if not create:
                raise StoreRefusedError(
                    f"the PostgreSQL schema {self.quoted} has version {version}, and this library "
                    f"needs {VERSION}. Let its owner run PostgresStore(dsn).migrate() once"
                )
            self._upgrade(connection)
        elif oldest > VERSION:
            raise StoreRefusedError(
                f"the PostgreSQL schema {self.quoted} has version {version}, which this library "
                f"(version {VERSION}) does not know: upgrade iii-resilience"
            )
        self.refuse_lacking(connection, NEEDED)

    def refuse_lacking(self, connection: Any, needed: Mapping[str, Sequence[str]]) -> None:
        """Refuse a user that lacks a privilege.

        Args:
            connection: A connection of the user.
            needed: The privileges, by table.

        Raises:
            StoreRefusedError: It lacks one.
        """
        lacking = self.lacking(connection, needed)
        if lacking:
            raise StoreRefusedError(
                f"the PostgreSQL user may not {', '.join(lacking)}: let the owner of the schema "
                f"{self.quoted} grant it"
            )

    def lacking(self, connection: Any, needed: Mapping[str, Sequence[str]]) -> list[str]:
        """The privileges that the user of a connection lacks, as SQL names them.

        Args:
            connection: The connection.
            needed: The privileges, by table.
        """
        pairs = [(table, privilege) for table in needed for privilege in needed[table]]
        wanted = {
            "tables": [table for table, _ in pairs],
            "privileges": [privilege for _, privilege in pairs],
        }
        rows = connection.execute(self.statement(_PRIVILEGES), wanted).fetchall()
        return [f"{privilege} on {table}" for table, privilege in rows]

    def _upgrade(self, connection: Any) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (self._lock,))
            version, _ = self.found(connection)  # another process may have been faster
            if version < VERSION:
                for statement in self.ddl(version):
                    connection.execute(statement)


def _quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _signed(text: str) -> int:
    """A number for an advisory lock: 64 bits, signed."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
