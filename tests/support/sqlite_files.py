"""SQLite files that a test looks into: `sqlite3`'s own context manager leaves them open."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def opened(path: str | Path) -> Iterator[sqlite3.Connection]:
    """A connection whose changes are committed at the end, when it is closed."""
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection
