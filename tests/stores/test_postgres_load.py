"""PostgreSQL under many processes, a table that must not grow, and a disk that is full."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.postgres_fixtures import PostgresServer, needs_postgres, server_in
from support.waiting import until
from support.warm_process import WarmProcess

from iii_resilience.handling import TransientError, idempotent
from iii_resilience.stores import PostgresStore, State

pytestmark = needs_postgres
RUNNER = Path(__file__).with_name("postgres_runner.py")


def start(dsn: str, *arguments: str) -> WarmProcess:
    return WarmProcess(RUNNER, dsn, *arguments)


def rows(url: str, query: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def test_of_eight_processes_with_one_key_one_runs(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE effects (id text)")
    running = [start(postgres_url, "same") for _ in range(8)]
    assert [process.wait(100) for process in running] == [0] * 8
    for process in running:
        process.communicate()
    assert rows(postgres_url, "SELECT id FROM effects") == [("one",)]


@pytest.mark.parametrize("statement", ["SELECT 1", "SELECT pg_sleep(600)"])
def test_key_of_a_killed_worker_is_free_at_once(postgres_url: str, statement: str) -> None:
    """Whatever is left of its lease, and though a statement of it still runs."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE effects (id text)")
    store = PostgresStore(postgres_url)

    def claim() -> State:
        return store.claim("s", fingerprint="f", nonce="o", lease=60.0, keep=60.0).state

    worker = start(postgres_url, "hold", statement)
    assert worker.stdout.readline() == "begun\n"
    assert claim() is State.RUNNING
    worker.kill()
    worker.communicate()
    until(lambda: claim() is State.CLAIMED, 30)
    assert rows(postgres_url, "SELECT id FROM effects") == []
    store.close()


@pytest.mark.parametrize(
    ("seconds", "keep"), [(4, 0.5), pytest.param(60, 2.0, marks=pytest.mark.long)]
)
def test_table_of_short_lived_keys_does_not_grow(
    postgres_url: str, seconds: int, keep: float
) -> None:
    PostgresStore(postgres_url).migrate()
    running = [start(postgres_url, "many", str(seconds), str(keep)) for _ in range(2)]
    size = "SELECT count(*), pg_total_relation_size('iii_resilience.keys') FROM iii_resilience.keys"
    seen = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(seconds / 8)
        seen.append(rows(postgres_url, size)[0])
    done = sum(int(process.communicate(timeout=100)[0]) for process in running)
    most = max(count for count, _ in seen)
    # As many as are kept may wait to be removed; what a stalled machine adds is a part of all.
    allowed = (2 * keep / seconds + 0.5) * done + 100
    sys.stdout.write(f"\n{done} keys in {seconds} s, {most} rows at most, sizes {seen}\n")
    assert most < allowed
    if seconds > 30:
        assert seen[-1][1] < 3 * seen[3][1], "its pages are used again"


@pytest.fixture
def small() -> Iterator[tuple[PostgresServer, Path]]:
    """A server whose data are on a disk of 160 MiB, and where that is mounted."""
    disk = Path(tempfile.mkdtemp(prefix="pg-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        with server_in(disk) as server:
            yield server, disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        disk.rmdir()


def test_on_full_disk_nothing_runs_twice(small: tuple[PostgresServer, Path]) -> None:
    server, disk = small
    server.execute("CREATE TABLE effects (id int, ballast text)")
    store = PostgresStore(server.url)
    elsewhere: list[int] = []

    @idempotent(store, key="id", function_id="f", wait=0.5)
    def book(data: Any, transaction: Any) -> str:
        elsewhere.append(data["id"])
        ballast = os.urandom(40_000).hex()
        transaction.execute("INSERT INTO effects VALUES (%s, %s)", (data["id"], ballast))
        return "booked"

    call: Any = book
    assert call({"id": 0}) == "booked"
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        block = bytes(1 << 16)
        try:
            while True:
                file.write(block)
        except OSError:
            pass
    failed = []
    for n in range(1, 40):
        try:
            call({"id": n})
        except TransientError as error:
            failed.append((n, error.code))
    assert failed, "the disk is full"
    assert {code for _, code in failed} <= {"STORE_UNAVAILABLE", "TRANSACTION_ROLLED_BACK"}
    assert call({"id": 0}) == "booked", "what has run is known"
    assert elsewhere.count(0) == 1
    ballast.unlink()
    server.restart()  # it may have stopped itself: its log could not be written
    for n, _ in failed:
        end = time.monotonic() + 60
        while True:
            try:
                assert call({"id": n}) == "booked"
            except TransientError:
                assert time.monotonic() < end
            else:
                break
    found = [n for (n,) in server.execute("SELECT id FROM effects ORDER BY id")]
    assert found == list(range(40))
    store.close()
