"""A real redis-server on a free port of 127.0.0.1, where one is installed."""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from support.ports import reserved_port
from support.waiting import freeze

from iii_resilience.stores import RedisStore

PROGRAM = shutil.which("redis-server")
MISSING = "redis-server is not installed (Debian: apt-get install redis-server)"
needs_redis = pytest.mark.skipif(PROGRAM is None, reason=MISSING)


_DATABASES = 10_000  # of one server; each test takes the next one
_numbers = itertools.count()


class RedisServer:
    """A server of its own that writes each change to its file before it answers.

    Args:
        folder: Where its file is.
        options: More of its settings, as on its command line.
        fsync: Whether an answer waits for the disk too.
    """

    def __init__(self, folder: Path, *options: str, fsync: bool = True) -> None:
        self._folder = folder
        self._fsync = "always" if fsync else "no"
        self._options = options
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def database(self) -> str:
        """The URL of an empty database."""
        return f"redis://127.0.0.1:{self.port}/{next(_numbers) % _DATABASES}"

    def start(self) -> None:
        assert PROGRAM is not None, MISSING
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "databases": str(_DATABASES),
        }
        self._process = subprocess.Popen(
            [
                PROGRAM,
                *(part for name, value in settings.items() for part in (f"--{name}", value)),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended at once"
            assert time.monotonic() < until, "redis-server does not answer"
            time.sleep(0.02)

    def stop(self) -> None:
        """As a machine that goes away: without a word."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stall(self) -> None:
        """Answer nothing, with every connection open, until `go_on`."""
        assert self._process is not None
        freeze(self._process.pid)

    def go_on(self) -> None:
        """Run what has arrived meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.settimeout(1)
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _free_port() -> int:
    # A node of a cluster also listens 10 000 above its port, or does not start.
    while (port := reserved_port()) > 55_535:
        pass
    return port


@contextmanager
def _server(folder: Path, *, fsync: bool = True) -> Iterator[RedisServer]:
    if PROGRAM is None:
        pytest.skip(MISSING)
    server = RedisServer(folder, fsync=fsync)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_of_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests that do it no harm."""
    with _server(tmp_path_factory.mktemp("redis"), fsync=False) as server:
        yield server


@pytest.fixture
def redis_url(redis_of_session: RedisServer) -> str:
    """A database of its own."""
    return redis_of_session.database()


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that a test may configure, stop and start."""
    with _server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[RedisStore]:
    """A store on the server."""
    made = RedisStore(redis_server.url, timeout=2.0)
    yield made
    made.close()


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Any]:
    """A client of redis-py on the server, for what a test looks at or breaks."""
    made: Any = redis.Redis.from_url(redis_server.url, decode_responses=True)
    yield made
    made.close()
