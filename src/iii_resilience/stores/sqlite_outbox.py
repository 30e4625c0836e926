"""The outbox of a `SqliteStore`: a table of the same file, written by the user's transaction.

Knows nothing of how rows are handed over.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from iii_resilience.stores.relaying import OutboxRow

# ruff: noqa: S608 - what is put into the statements is written here

NAME: Final = "iii_resilience_outbox"
# AUTOINCREMENT: the number of a row that was deleted is never used again.
TABLE: Final = f"""
CREATE TABLE IF NOT EXISTS {NAME} (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    function_id TEXT NOT NULL,
    data TEXT NOT NULL,
    key TEXT NOT NULL,
    enqueued_at REAL NOT NULL
)
"""
_INSERT: Final = f"INSERT INTO {NAME} VALUES (NULL, ?, ?, ?, ?, ?)"
DELETE: Final = f"DELETE FROM {NAME} WHERE id = ?"
COUNT: Final = f"SELECT count(*), (SELECT enqueued_at FROM {NAME} ORDER BY id LIMIT 1) FROM {NAME}"


def insert(
    connection: sqlite3.Connection, path: Path, schema: Iterable[str], row: tuple[Any, ...]
) -> None:
    """Write a row in the transaction of a connection.

    Args:
        connection: The connection.
        path: The store's file.
        schema: The statements that make what a store needs, where it is not there yet.
        row: Queue, function, payload, key, and the time in seconds since 1970.

    Raises:
        TypeError: It is no connection.
        ValueError: It is one to another file.
        RuntimeError: It commits each statement, and has begun no transaction.
        sqlite3.Error: SQLite's refusal.
    """
    if not isinstance(connection, sqlite3.Connection):
        raise TypeError(
            "enqueue takes the handle of a handler's transaction, or a sqlite3 connection to the "
            f"store's file, got {type(connection).__name__}"
        )
    commits = connection.isolation_level is None or getattr(connection, "autocommit", None) is True
    if commits and not connection.in_transaction:
        raise RuntimeError(
            "enqueue: the connection commits each statement: begin a transaction first, in which "
            "the message and your rows are committed together"
        )
    with closing(connection.cursor()) as cursor:
        cursor.row_factory = None  # the user's own makes anything of a row
        _check_file(cursor, path)
        try:
            cursor.execute(_INSERT, row)
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            # No store has opened the file yet. What is made is part of this transaction: another
            # connection would wait for it.
            for statement in schema:
                cursor.execute(statement)
            cursor.execute(_INSERT, row)


def _check_file(cursor: sqlite3.Cursor, path: Path) -> None:
    files = cursor.execute("PRAGMA database_list").fetchall()
    # Its texts are what the user's connection makes of them.
    main = next((os.fsdecode(file) for _, name, file in files if os.fsdecode(name) == "main"), "")
    try:
        same = bool(main) and path.samefile(main)
    except OSError:
        same = False
    if not same:
        raise ValueError(
            "enqueue: the connection is to another file than the store's: what it commits would "
            "not be in this outbox"
        )


def rows(connection: sqlite3.Connection, without: Collection[str], most: int) -> list[OutboxRow]:
    """Committed rows, the first enqueued first.

    Args:
        connection: The store's.
        without: Queues whose rows are left out.
        most: How many at most.
    """
    marks = ", ".join("?" * len(without))
    query = (
        f"SELECT id, queue, function_id, data, key FROM {NAME} "
        f"WHERE queue NOT IN ({marks}) ORDER BY id LIMIT ?"
    )
    return [OutboxRow(*row) for row in connection.execute(query, (*without, most))]
