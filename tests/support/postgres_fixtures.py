"""A real PostgreSQL server on a socket of its own, where one is installed."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.waiting import freeze, until

MISSING = "postgres is not installed (Debian: apt-get install postgresql, as .ci/run does)"


def _programs() -> Path | None:
    """The folder of the server's programs: Debian keeps them off the path."""
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return versions[-1].parent if versions else None


PROGRAMS = _programs()
needs_postgres = pytest.mark.skipif(PROGRAMS is None, reason=MISSING)

# Every commit is on the disk; the rest is small, so that a start takes a moment.
_SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "16MB",
    "max_connections": "80",
    "max_wal_size": "64MB",
    "autovacuum_naptime": "2s",
    "log_min_messages": "fatal",
}
_NO_FSYNC = {"fsync": "off", "full_page_writes": "off"}


class PostgresServer:
    """A server of its own, with trust on its socket. It refuses root, so it runs as `postgres`.

    Args:
        folder: Where its data and its socket are.
        fsync: Whether a commit waits for the disk.
    """

    def __init__(self, folder: Path, *, fsync: bool = True) -> None:
        self.folder = folder
        self._settings = _SETTINGS if fsync else {**_SETTINGS, **_NO_FSYNC}
        self.data = folder / "data"
        self._postmaster: subprocess.Popen[bytes] | None = None
        self._cleared: list[str] = []

    @property
    def url(self) -> str:
        return self._url("postgres")

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def create(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        copy = ["cp", "-a", str(_empty_data()), str(self.data)]
        subprocess.run([*as_postgres(), *copy], cwd=self.folder, check=True)

    def create_standby_of(self, primary: PostgresServer) -> None:
        """A copy that follows the primary, which commits nothing that the copy has not written."""
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        more = (f"-h{primary.folder}", "-Upostgres", "-R", "--checkpoint=fast")
        _run("pg_basebackup", self.data, *more)

    def promote(self) -> None:
        """Make a primary of a standby."""
        self.execute("SELECT pg_promote()")

    def start(self) -> None:
        assert PROGRAMS is not None, MISSING
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        self._postmaster = subprocess.Popen(
            [
                *as_postgres(),
                str(PROGRAMS / "postgres"),
                f"-D{self.data}",
                f"-k{self.folder}",
                *options,
            ],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ends = time.monotonic() + 60
        while not self._answers():
            assert self._postmaster.poll() is None, "postgres ended at once"
            assert time.monotonic() < ends, "postgres does not answer"
            time.sleep(0.02)

    def stop(self) -> None:
        """At once, and without a checkpoint: as `pg_ctl stop -m immediate`."""
        process, self._postmaster = self._postmaster, None
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait()

    def kill(self) -> None:
        """The postmaster alone, as the kernel would; what it had started ends by itself."""
        process, self._postmaster = self._postmaster, None
        assert process is not None
        process.kill()
        process.wait()

    def stall(self) -> None:
        """Answer nothing, with every connection open, until `go_on`."""
        assert self._postmaster is not None
        freeze(self._postmaster.pid)  # first: what it starts later would answer
        children = self._children()
        for process in children:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
        until(lambda: all(map(_stands_still, children)))

    def go_on(self) -> None:
        """Run what has arrived meanwhile."""
        assert self._postmaster is not None
        for process in (self._postmaster.pid, *self._children()):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    def _children(self) -> list[int]:
        assert self._postmaster is not None
        pid = self._postmaster.pid
        return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split())]

    def restart(self) -> None:
        """As `pg_ctl restart -m immediate`; or after `kill`, when the memory it left is free."""
        self.stop()
        ends = time.monotonic() + 60
        while True:
            try:
                self.start()
            except AssertionError:  # a process of the one before still holds its memory
                assert time.monotonic() < ends
                time.sleep(0.2)
            else:
                return

    def execute(self, *statements: str) -> list[Any]:
        """The rows of the last statement."""
        with self._connected() as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def database(self, name: str) -> str:
        """The URL of an empty database: a new one, or one that was cleared, under a new name."""
        with self._connected() as connection:
            if self._cleared:
                old = self._cleared.pop()
                self._disconnect(connection, old)
                connection.execute(f'ALTER DATABASE "{old}" RENAME TO "{name}"'.encode())
            else:
                connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self._url(name)

    def clear(self, name: str) -> None:
        """Empty a database for `database`: to create one takes several times as long."""
        with self._connected(name) as connection:
            self._disconnect(connection, name)
            schemas = connection.execute(
                "SELECT quote_ident(nspname) FROM pg_namespace"
                r" WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\_%'"
            ).fetchall()
            for statement in (
                f'ALTER DATABASE "{name}" RESET ALL',
                *(f"DROP SCHEMA {schema} CASCADE" for (schema,) in schemas),
                "CREATE SCHEMA public",
                "GRANT USAGE ON SCHEMA public TO PUBLIC",
            ):
                connection.execute(statement.encode())
        self._cleared.append(name)

    def _connected(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(self._url(database), autocommit=True)

    @staticmethod
    def _disconnect(connection: psycopg.Connection, name: str) -> None:
        """End what else is connected to a database, and wait until it has gone."""
        ends = time.monotonic() + 60
        query = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = %s AND pid <> pg_backend_pid()"""
        while connection.execute(query, [name]).fetchall():
            assert time.monotonic() < ends, f"something stays connected to {name}"
            time.sleep(0.005)

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


def _stands_still(process: int) -> bool:
    """Whether a signal has stopped a process, or it has ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in {"T", "Z", "X"}


@cache
def _empty_data() -> Path:
    """The data of a new server; to copy them takes a tenth of what it takes to make them."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    more = ("--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8")
    _run("initdb", folder / "data", *more)
    return folder / "data"


def _run(program: str, data: Path, *arguments: str) -> None:
    assert PROGRAMS is not None, MISSING
    subprocess.run(
        [*as_postgres(), str(PROGRAMS / program), f"-D{data}", *arguments],
        cwd=data.parent,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def as_postgres() -> list[str]:
    """What makes a program run as `postgres`, before its own words."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


@contextmanager
def server_in(folder: Path, *, fsync: bool = True) -> Iterator[PostgresServer]:
    """A server with its data in a folder of its own."""
    server = PostgresServer(folder, fsync=fsync)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def _server(*, fsync: bool = True) -> Iterator[PostgresServer]:
    if PROGRAMS is None:
        pytest.skip(MISSING)
    # Not in pytest's folder: a socket's path has 107 bytes at most, and only root may enter that.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        with server_in(folder, fsync=fsync) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def listens(url: str) -> bool:
    """Whether a session in a database has begun to listen: from then on it misses nothing."""
    query = b"""SELECT 1 FROM pg_stat_activity
                WHERE datname = current_database() AND state = 'idle' AND query ~ '^LISTEN'"""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query).fetchone() is not None


@pytest.fixture(scope="session")
def postgres_of_session() -> Iterator[PostgresServer]:
    """One server for all tests that do it no harm."""
    with _server(fsync=False) as server:
        yield server


@pytest.fixture
def postgres_url(
    postgres_of_session: PostgresServer, request: pytest.FixtureRequest
) -> Iterator[str]:
    """A database of its own."""
    name = f"t{abs(hash((request.node.nodeid, time.time_ns())))}"
    yield postgres_of_session.database(name)
    postgres_of_session.clear(name)


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A server that a test may stop, kill and start."""
    with _server() as server:
        yield server
