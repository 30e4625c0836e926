"""`SqliteReader`: the parked messages of a `SqliteStore`'s file, read without changing anything.

Works where neither the file nor its folder can be written. Knows nothing of what the records hold.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from iii_resilience.stores import transitions
from iii_resilience.stores.base import MESSAGE
from iii_resilience.stores.protocol import Record
from iii_resilience.stores.sqlite import ALL_ROWS
from iii_resilience.stores.sqlite_connections import as_unavailable

# Two bytes of the header, 2 for write-ahead logging (sqlite.org, "Database File Format", 1.3).
_WAL_HEADER = slice(18, 20)


class SqliteReader:
    """Reads a parking file as it is at this moment.

    Args:
        path: The file.

    Attributes:
        doubt: Why what is read may not be all of it, in one sentence; None where it is.

    Raises:
        StoreUnavailableError: The file is not such a store, or cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path).absolute()
        self.doubt: str | None = None
        with as_unavailable():
            self._connection = self._open()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def records(self) -> Iterator[Record]:
        """See `Messages.records`."""
        with as_unavailable():
            rows = self._connection.execute(ALL_ROWS, (MESSAGE, time.time())).fetchall()
        for message, body in rows:
            yield transitions.record(message, json.loads(body))

    def _open(self) -> sqlite3.Connection:
        wal = self._path.with_name(f"{self._path.name}-wal")
        try:
            with self._path.open("rb") as file:
                in_wal_mode = file.read(20)[_WAL_HEADER] == b"\2\2"
            has_wal = wal.exists() and wal.stat().st_size > 0
        except OSError as error:
            raise sqlite3.OperationalError(error.strerror) from error
        if has_wal:
            try:
                return self._connect("mode=ro")
            except sqlite3.OperationalError:
                # Without write access SQLite cannot make the index that it needs to read the log.
                self.doubt = (
                    f"{wal.name} cannot be read here: what it holds is missing. Copy both files to "
                    "a folder that can be written"
                )
        elif in_wal_mode:
            self.doubt = (
                f"there is no {wal.name} beside it: if this is a copy of a file in use, its latest "
                "messages may be missing. Copy both files"
            )
        return self._connect("immutable=1")

    def _connect(self, how: str) -> sqlite3.Connection:
        connection = sqlite3.connect(f"file:{quote(str(self._path))}?{how}", uri=True)
        try:
            connection.execute("SELECT count(*) FROM iii_resilience").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection
