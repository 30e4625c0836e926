"""A real redis-server on a free port of 127.0.0.1, where one is installed."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from iii_resilience.stores import RedisStore

PROGRAM = shutil.which("redis-server")
MISSING = "redis-server is not installed (Debian: apt-get install redis-server)"
needs_redis = pytest.mark.skipif(PROGRAM is None, reason=MISSING)


class RedisServer:
    """A server of its own that answers only after what it was told stands on the disk.

    Args:
        folder: Where its data are.
        options: More of its settings, as on its command line.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert PROGRAM is not None, MISSING
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
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
        self._process.send_signal(signal.SIGSTOP)

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


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    if PROGRAM is None:
        pytest.skip(MISSING)
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


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
