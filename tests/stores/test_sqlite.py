"""`SqliteStore`: effects and keys as one commit, and a file that cannot be used."""

from __future__ import annotations

import gc
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.sqlite_files import opened

from iii_resilience.stores import SqliteStore, State, StoreUnavailableError

KEEP = 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "store.db"


@pytest.fixture
def store(path: Path) -> SqliteStore:
    return SqliteStore(path, busy_timeout=5.0)


def claim(store: SqliteStore, lease: float = KEEP) -> int:
    found = store.claim("k", fingerprint="f", nonce="n", lease=lease, keep=KEEP)
    assert found.state is State.CLAIMED
    return found.token


def effects(path: Path) -> list[int]:
    with opened(path) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS effects (n INTEGER)")
        return [n for (n,) in connection.execute("SELECT n FROM effects")]


def state(store: SqliteStore) -> State:
    return store.claim(
        "k", fingerprint="f", nonce=str(time.monotonic_ns()), lease=KEEP, keep=KEEP
    ).state


def test_effect_and_key_are_one_commit(store: SqliteStore, path: Path) -> None:
    token = claim(store)
    assert effects(path) == []
    transaction = store.begin("k", token)
    transaction.handle.execute("INSERT INTO effects VALUES (1)")
    assert effects(path) == []
    assert transaction.commit('"done"', keep=KEEP)
    assert effects(path) == [1]
    assert state(store) is State.DONE


def test_rollback_leaves_neither(store: SqliteStore, path: Path) -> None:
    token = claim(store)
    assert effects(path) == []
    transaction = store.begin("k", token)
    transaction.handle.execute("INSERT INTO effects VALUES (1)")
    transaction.rollback()
    transaction.rollback()
    assert effects(path) == []
    assert state(store) is State.RUNNING


def test_who_has_lost_lease_writes_no_effect(store: SqliteStore, path: Path) -> None:
    token = claim(store, lease=0.01)
    assert effects(path) == []
    time.sleep(0.05)
    assert state(store) is State.CLAIMED  # by somebody else
    transaction = store.begin("k", token)
    transaction.handle.execute("INSERT INTO effects VALUES (1)")
    assert not transaction.commit('"done"', keep=KEEP)
    assert effects(path) == []


def test_process_that_dies_in_its_transaction_leaves_neither(
    store: SqliteStore, path: Path
) -> None:
    token = claim(store)
    assert effects(path) == []
    code = (
        "import os, sys\n"
        "from iii_resilience.stores import SqliteStore\n"
        f"transaction = SqliteStore({str(path)!r}).begin('k', {token})\n"
        "transaction.handle.execute('INSERT INTO effects VALUES (1)')\n"
        "os._exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 7
    assert effects(path) == []
    assert state(store) is State.RUNNING


def end_of_with(connection: sqlite3.Connection) -> None:
    with connection:
        connection.execute("INSERT INTO effects VALUES (2)")


@pytest.mark.parametrize(
    "end",
    [
        lambda connection: connection.commit(),
        lambda connection: connection.rollback(),
        lambda connection: connection.execute("COMMIT"),
        lambda connection: connection.executescript("INSERT INTO effects VALUES (2)"),
        end_of_with,
    ],
    ids=["commit", "rollback", "COMMIT", "script", "with"],
)
def test_handler_cannot_end_transaction_itself(
    store: SqliteStore, path: Path, end: Callable[[sqlite3.Connection], Any]
) -> None:
    token = claim(store)
    assert effects(path) == []
    transaction = store.begin("k", token)
    connection = transaction.handle
    connection.execute("INSERT INTO effects VALUES (1)")
    with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
        end(connection)
    assert effects(path) == []
    transaction.rollback()
    assert effects(path) == []


def test_handlers_savepoints_and_row_factory_are_its_own(store: SqliteStore, path: Path) -> None:
    token = claim(store)
    assert effects(path) == []
    transaction = store.begin("k", token)
    transaction.handle.row_factory = sqlite3.Row
    for statement in ("SAVEPOINT a", "INSERT INTO effects VALUES (1)", "ROLLBACK TO a"):
        transaction.handle.execute(statement)
    assert transaction.commit("1", keep=KEEP)
    assert effects(path) == []
    assert state(store) is State.DONE
    store.delivered("m", keep=KEEP)
    assert [record.deliveries for record in store.records()] == [1]


def test_operation_waits_for_who_writes_and_then_refuses(path: Path) -> None:
    patient, hasty = SqliteStore(path, busy_timeout=30.0), SqliteStore(path, busy_timeout=0.05)
    transaction = patient.begin("k", claim(patient))
    with pytest.raises(StoreUnavailableError, match="locked"):
        hasty.delivered("m", keep=KEEP)
    with pytest.raises(StoreUnavailableError, match="locked"):
        hasty.begin("k", 1)
    threading.Timer(0.3, transaction.rollback).start()
    assert patient.delivered("m", keep=KEEP) == 1


@pytest.mark.parametrize("how", ["folder", "rubbish", "below a file"])
def test_unusable_file_is_reported_and_answers_nothing(tmp_path: Path, how: str) -> None:
    place = tmp_path / "it"
    if how == "folder":
        place.mkdir()
    else:
        place.write_bytes(b"rubbish" * 1000)
    if how == "below a file":
        place /= "store.db"
    store = SqliteStore(place, busy_timeout=0.1)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="the SQLite store failed"):
            claim(store)
    with pytest.raises(StoreUnavailableError):
        list(store.records())


def test_store_is_usable_after_fork(store: SqliteStore) -> None:
    token = claim(store)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if store.finish("k", token, "1", keep=KEEP) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert state(store) is State.DONE
    store.close()


def test_rows_whose_time_is_over_leave_file(store: SqliteStore, path: Path) -> None:
    for number in range(20):
        store.delivered(f"m-{number}", keep=0.01)
    time.sleep(0.05)
    for _ in range(10):
        store.delivered("m", keep=KEEP)
    with opened(path) as connection:
        assert connection.execute("SELECT count(*) FROM iii_resilience").fetchone() == (1,)


def test_first_use_waits_for_who_makes_file(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE t (n)")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO t VALUES (1)")  # beside a writer the switch fails at once
    letting_go = threading.Timer(0.3, other.execute, ["COMMIT"])
    letting_go.start()
    try:
        claim(SqliteStore(path, busy_timeout=10.0))
    finally:
        letting_go.join()
        other.close()


def test_what_must_outlast_machine_is_written_through(store: SqliteStore) -> None:
    token = claim(store)
    (connection,) = store._connections._idle
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    assert store.finish("k", token, '"done"', keep=KEEP)
    assert "PRAGMA synchronous = FULL" in statements
    statements.clear()
    store.claim("other", fingerprint="f", nonce="n", lease=KEEP, keep=KEEP)
    assert "PRAGMA synchronous = NORMAL" in statements
    transaction = store.begin("other", 1)
    assert transaction.handle.execute("PRAGMA synchronous").fetchone() == (2,)
    transaction.rollback()


def of_columns(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    """The row factory of `sqlite3`'s own documentation."""
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def test_handlers_factories_do_not_reach_its_key(store: SqliteStore, path: Path) -> None:
    token = claim(store)
    assert effects(path) == []
    transaction = store.begin("k", token)
    transaction.handle.row_factory = of_columns
    transaction.handle.text_factory = lambda text: "x"
    transaction.handle.execute("INSERT INTO effects VALUES (1)")
    assert transaction.commit("1", keep=KEEP)
    assert state(store) is State.DONE
    assert effects(path) == [1]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_handlers_settings_do_not_reach_next_handler(store: SqliteStore, end: str) -> None:
    transaction = store.begin("k", claim(store))
    connection = transaction.handle

    def settings() -> tuple[Any, Any, Any]:
        return connection.row_factory, connection.text_factory, connection.isolation_level

    assert settings() == (None, str, None)
    connection.row_factory = of_columns
    connection.text_factory = bytes
    connection.isolation_level = "EXCLUSIVE"
    if end == "commit":
        assert transaction.commit("1", keep=KEEP)
    else:
        transaction.rollback()
    following = store.begin("other", 1)
    assert following.handle is connection
    assert settings() == (None, str, None)
    following.rollback()


def test_dropped_store_leaves_no_open_connection(path: Path) -> None:
    store = SqliteStore(path)
    assert state(store) is State.CLAIMED
    (connection,) = store._connections._idle
    del store
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
