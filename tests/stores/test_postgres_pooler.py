"""Behind a real PgBouncer: refused where each transaction may get another session."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.ports import reserved_port
from support.postgres_fixtures import PostgresServer, as_postgres, needs_postgres

from iii_resilience.stores import PostgresStore, State, StoreRefusedError

PROGRAM = shutil.which("pgbouncer")
pytestmark = [
    needs_postgres,
    pytest.mark.skipif(
        PROGRAM is None, reason="pgbouncer is not installed (Debian: apt-get install pgbouncer)"
    ),
]


@pytest.fixture
def pooled(postgres_of_session: PostgresServer) -> Iterator[Callable[[str], str]]:
    """Starts a pooler in a mode; what its URL is for the database of the given one."""
    folder = Path(tempfile.mkdtemp(prefix="pgb-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    running: list[subprocess.Popen[bytes]] = []

    def start(mode: str) -> str:
        assert PROGRAM is not None
        port = reserved_port()
        (folder / "users").write_text('"postgres" ""\n', "utf-8")
        (folder / "ini").write_text(
            f"[databases]\n* = host={postgres_of_session.folder} user=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n"
            f"auth_file = {folder}/users\nunix_socket_dir =\npool_mode = {mode}\n",
            "utf-8",
        )
        process = subprocess.Popen(
            [*as_postgres(), PROGRAM, "-q", str(folder / "ini")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        running.append(process)
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                assert process.poll() is None, "pgbouncer ended at once"
                assert time.monotonic() < until
                time.sleep(0.05)
            else:
                return f"127.0.0.1:{port}"

    yield start
    for process in running:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def store_behind(address: str, url: str) -> PostgresStore:
    name = url.partition("@/")[2].partition("?")[0]
    return PostgresStore(f"postgresql://postgres@{address}/{name}")


def claim(store: PostgresStore, nonce: str = "n") -> Any:
    return store.claim("s", fingerprint="f", nonce=nonce, lease=60.0, keep=60.0)


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_pooler_of_transactions_is_refused(
    pooled: Callable[[str], str], postgres_url: str, mode: str
) -> None:
    store = store_behind(pooled(mode), postgres_url)
    with pytest.raises(StoreRefusedError, match="pool_mode = session") as caught:
        claim(store)
    assert "in transaction mode" in str(caught.value)
    store.close()


def test_pooler_of_sessions_works(pooled: Callable[[str], str], postgres_url: str) -> None:
    store = store_behind(pooled("session"), postgres_url)
    transaction = store.begin("s", claim(store).token)
    assert claim(store, nonce="other").state is State.RUNNING
    assert transaction.commit("1", keep=60.0)
    store.close()
