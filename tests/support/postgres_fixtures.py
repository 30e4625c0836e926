"""A real PostgreSQL server on a socket of its own, where one is installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

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


class PostgresServer:
    """A server of its own, with trust on its socket. It refuses root, so it runs as `postgres`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._postmaster: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.folder}"

    def create(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        self._run("initdb", "--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8")

    def create_standby_of(self, primary: PostgresServer) -> None:
        """A copy that follows the primary, which commits nothing that the copy has not written."""
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        self._run("pg_basebackup", f"-h{primary.folder}", "-Upostgres", "-R", "--checkpoint=fast")

    def promote(self) -> None:
        """Make a primary of a standby."""
        self.execute("SELECT pg_promote()")

    def start(self) -> None:
        assert PROGRAMS is not None, MISSING
        options = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
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
        until = time.monotonic() + 60
        while not self._answers():
            assert self._postmaster.poll() is None, "postgres ended at once"
            assert time.monotonic() < until, "postgres does not answer"
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
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Run what has arrived meanwhile."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._postmaster is not None
        pid = self._postmaster.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
        for process in (pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def restart(self) -> None:
        """As `pg_ctl restart -m immediate`; or after `kill`, when the memory it left is free."""
        self.stop()
        until = time.monotonic() + 60
        while True:
            try:
                self.start()
            except AssertionError:  # a process of the one before still holds its memory
                assert time.monotonic() < until
                time.sleep(0.2)
            else:
                return

    def execute(self, *statements: str) -> list[Any]:
        """The rows of the last statement."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def database(self, name: str) -> str:
        """The URL of a new, empty database."""
        self.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        assert PROGRAMS is not None, MISSING
        subprocess.run(
            [*as_postgres(), str(PROGRAMS / program), f"-D{self.data}", *arguments],
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )


def as_postgres() -> list[str]:
    """What makes a program run as `postgres`, before its own words."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


@contextmanager
def server_in(folder: Path) -> Iterator[PostgresServer]:
    """A server with its data in a folder of its own."""
    server = PostgresServer(folder)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def _server() -> Iterator[PostgresServer]:
    if PROGRAMS is None:
        pytest.skip(MISSING)
    # Not in pytest's folder: a socket's path has 107 bytes at most, and only root may enter that.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        with server_in(folder) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_of_session() -> Iterator[PostgresServer]:
    """One server for all tests that do it no harm."""
    with _server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_of_session: PostgresServer, request: pytest.FixtureRequest) -> str:
    """A database of its own."""
    return postgres_of_session.database(f"t{abs(hash((request.node.nodeid, time.time_ns())))}")


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A server that a test may stop, kill and start."""
    with _server() as server:
        yield server
