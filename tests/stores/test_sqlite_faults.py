"""`SqliteStore` under faults: transactions that SQLite ends, forks, replaced files."""

from __future__ import annotations

import gc
import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.sqlite_files import opened

from iii_resilience.handling import PermanentError, TransientError, consumer, idempotent
from iii_resilience.stores import (
    SqliteStore,
    State,
    StoreUnavailableError,
    TransactionEndedError,
)

KEEP = 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "store.db"
    with opened(file) as connection:
        connection.execute("CREATE TABLE effects (n INTEGER PRIMARY KEY, more BLOB)")
        connection.execute("INSERT INTO effects VALUES (0, NULL)")
        connection.execute("CREATE TABLE guarded (n INTEGER)")
        connection.execute(
            "CREATE TRIGGER guard BEFORE INSERT ON guarded BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
        )
    return file


@pytest.fixture
def store(path: Path) -> SqliteStore:
    return SqliteStore(path, busy_timeout=5.0)


def effects(path: Path) -> list[int]:
    with opened(path) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM effects WHERE n > 0")]


def claim(store: SqliteStore, nonce: str = "n") -> Any:
    return store.claim("k", fingerprint="f", nonce=nonce, lease=KEEP, keep=KEEP)


# What ends a transaction before its handler does.


def conflict(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT OR ROLLBACK INTO effects VALUES (0, NULL)")


def full(connection: sqlite3.Connection) -> None:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    try:
        connection.execute("INSERT INTO effects VALUES (5, randomblob(1000000))")
    finally:
        connection.execute("PRAGMA max_page_count = 1000000")


def raised_by_trigger(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO guarded VALUES (1)")


ENDS: dict[str, Callable[[sqlite3.Connection], None]] = {
    "conflict": conflict,
    "full": full,
    "trigger": raised_by_trigger,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_transaction_that_sqlite_ended_commits_neither(
    store: SqliteStore, path: Path, end: Callable[[sqlite3.Connection], None]
) -> None:
    broken = True

    @idempotent(store, key="id", function_id="f")
    def book(data: Any, transaction: sqlite3.Connection) -> str:
        transaction.execute("INSERT INTO effects VALUES (1, NULL)")
        if broken:
            with suppress(sqlite3.Error):
                end(transaction)
        return "booked"

    handler: Any = book
    with pytest.raises(TransientError) as caught:
        handler({"id": 1})
    assert caught.value.code == "TRANSACTION_ROLLED_BACK"
    assert "SQLite rolled the handler's transaction back" in caught.value.message
    assert effects(path) == []
    broken = False
    assert handler({"id": 1}) == handler({"id": 1}) == "booked"
    assert effects(path) == [1]


def exactly_full(connection: sqlite3.Connection) -> None:
    try:
        full(connection)
    except sqlite3.DatabaseError as error:  # the statement in its `finally` is refused
        raise (error.__context__ or error) from None


@pytest.mark.parametrize(
    ("end", "code"),
    [(exactly_full, "STORE_UNAVAILABLE"), (full, "TRANSACTION_ROLLED_BACK")],
    ids=["the error itself", "that of the next statement"],
)
def test_full_disk_that_handler_raises_is_transient(
    store: SqliteStore, path: Path, end: Callable[[sqlite3.Connection], None], code: str
) -> None:
    """It is the store's failure: stored as the handler's, it would be the answer for a day."""
    broken = True

    @idempotent(store, key="id", function_id="f")
    def book(data: Any, transaction: sqlite3.Connection) -> str:
        transaction.execute("INSERT INTO effects VALUES (1, NULL)")
        if broken:
            end(transaction)
        return "booked"

    @consumer(parking=store, key="id", function_id="f")
    def consumed(data: Any) -> str:
        return str(book(data))

    handler: Any = consumed
    with pytest.raises(TransientError) as caught:
        handler({"id": 1})
    assert caught.value.code == code
    assert effects(path) == []
    assert [one.parked_at for one in store.records()] == [None]
    broken = False
    assert handler({"id": 1}) == "booked"
    assert effects(path) == [1]


def test_commit_that_handler_does_not_catch_is_named(store: SqliteStore) -> None:
    @idempotent(store, key="id", function_id="f")
    def book(data: Any, transaction: sqlite3.Connection) -> None:
        transaction.execute("COMMIT")

    handler: Any = book
    for _ in range(2):
        with pytest.raises(PermanentError) as caught:
            handler({"id": 1})
        assert caught.value.code == "TRANSACTION_ENDED_BY_HANDLER"


def test_handlers_own_sqlite_error_stays_its_own(store: SqliteStore) -> None:
    @idempotent(store, key="id", function_id="f")
    def book(data: Any, transaction: sqlite3.Connection) -> None:
        transaction.execute("INSERT INTO missing VALUES (1)")

    handler: Any = book
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        handler({"id": 1})


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_rows_written_after_such_end_do_not_stay(
    store: SqliteStore, path: Path, end: Callable[[sqlite3.Connection], None]
) -> None:
    insert = "INSERT INTO effects VALUES (?, NULL)"

    @idempotent(store, key="id", function_id="f")
    def book(data: Any, transaction: sqlite3.Connection) -> None:
        transaction.execute(insert, (1,))
        with suppress(sqlite3.Error):
            end(transaction)
        for n in (2, 3):  # a statement that was prepared before, too
            with suppress(sqlite3.Error):
                transaction.execute(insert, (n,))
        with suppress(sqlite3.Error):
            transaction.executemany(insert, [(4,), (5,)])
        raise ValueError

    handler: Any = book
    with pytest.raises(ValueError):
        handler({"id": 1})
    assert effects(path) == []


@pytest.mark.parametrize("word", ["COMMIT", "ROLLBACK", "END", "RELEASE iii_resilience"])
def test_handler_that_ends_its_transaction_is_refused(
    store: SqliteStore, path: Path, word: str
) -> None:
    @idempotent(store, key="id", function_id="f")
    def book(data: Any, transaction: sqlite3.Connection) -> str:
        transaction.execute("INSERT INTO effects VALUES (1, NULL)")
        with suppress(sqlite3.Error):
            transaction.execute(word)
        return "booked"

    handler: Any = book
    for _ in range(2):
        with pytest.raises(PermanentError) as caught:
            handler({"id": 1})
        assert caught.value.code == "TRANSACTION_ENDED_BY_HANDLER"
    assert effects(path) == []


def reopened(connection: sqlite3.Connection) -> None:
    connection.set_authorizer(None)
    connection.execute("ROLLBACK")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO effects VALUES (2, NULL)")


def closed(connection: sqlite3.Connection) -> None:
    connection.close()


@pytest.mark.parametrize("how", [reopened, closed])
def test_other_transaction_in_its_place_is_noticed(
    store: SqliteStore, path: Path, how: Callable[[sqlite3.Connection], None]
) -> None:
    token = claim(store).token
    transaction = store.begin("k", token)
    transaction.handle.execute("INSERT INTO effects VALUES (1, NULL)")
    how(transaction.handle)
    with pytest.raises(TransactionEndedError):
        transaction.commit("1", keep=KEEP)
    assert effects(path) == []
    assert claim(store, "other").state is State.RUNNING


# What is no file that lasts.


@pytest.mark.parametrize(
    "where",
    ["", ":memory:", Path(":memory:"), "file::memory:", "file:x?mode=memory&cache=shared"],
)
def test_database_in_memory_is_refused_with_what_to_use(where: Any) -> None:
    with pytest.raises(ValueError, match=r"MemoryStore\(\)"):
        SqliteStore(where)


def test_uri_is_refused_with_what_to_write() -> None:
    with pytest.raises(ValueError, match="a path, not a URI"):
        SqliteStore("file:orders.db?mode=rw")


def test_file_is_made_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        store = SqliteStore(tmp_path / "store.db")
        claim(store)
        modes = {
            file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("store.db*")
        }
        store.close()
    finally:
        os.umask(before)
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}


def test_file_that_user_made_keeps_its_mode(path: Path) -> None:
    path.chmod(0o664)
    claim(SqliteStore(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


def test_relative_path_is_that_of_moment_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    store = SqliteStore("store.db")
    claim(store)
    store.close()
    monkeypatch.chdir(tmp_path / "b")
    assert claim(store, "other").state is State.RUNNING
    assert list((tmp_path / "b").iterdir()) == []


# Forks.


def in_child(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_first_close_in_child_leaves_parents_connections(store: SqliteStore, path: Path) -> None:
    token = claim(store).token
    (mine,) = store._connections._idle
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with store._connections._lock:
            held.set()
            go_on.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(30)

    def close() -> None:
        import signal

        signal.alarm(20)  # a lock that a thread of the parent holds is never free here
        store.close()
        gc.collect()
        assert mine in _inherited()  # beside those of earlier tests, if they were collected here
        assert not mine.in_transaction

    try:
        assert in_child(close) == 0
    finally:
        go_on.set()
        holder.join()
    assert store.finish("k", token, "1", keep=KEEP)


def test_store_that_is_dropped_in_child_closes_nothing_there(path: Path) -> None:
    store = SqliteStore(path)
    token = claim(store).token
    (mine,) = store._connections._idle
    stores = [store]

    def drop() -> None:
        stores.clear()
        gc.collect()
        assert mine in _inherited()
        mine.execute("SELECT 1")

    del store
    assert in_child(drop) == 0
    assert stores[0].finish("k", token, "1", keep=KEEP)


def _inherited() -> list[sqlite3.Connection]:
    import iii_resilience.stores.sqlite_connections

    return iii_resilience.stores.sqlite_connections._of_the_parent


def test_transaction_is_parents_after_fork(store: SqliteStore, path: Path) -> None:
    token = claim(store).token
    transaction = store.begin("k", token)
    transaction.handle.execute("INSERT INTO effects VALUES (1, NULL)")

    def child() -> None:
        with pytest.raises(TransactionEndedError, match="fork"):
            transaction.commit('"child"', keep=KEEP)
        transaction.rollback()

    assert in_child(child) == 0
    assert transaction.commit('"parent"', keep=KEEP)
    assert effects(path) == [1]
    assert claim(store, "other").outcome == '"parent"'


# Another file in its place.


def replace(path: Path) -> None:
    other = path.with_name("other.db")
    with opened(other) as connection:
        connection.execute("CREATE TABLE effects (n INTEGER PRIMARY KEY, more BLOB)")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    other.replace(path)


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_replaced_file_is_noticed_and_reported(
    store: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    claim(store)
    if how == "replaced":
        replace(path)
    else:
        for file in path.parent.glob("store.db*"):
            file.unlink()
    with caplog.at_level(logging.ERROR, "iii_resilience"):
        assert claim(store, "other").state is State.CLAIMED
        claim(store, "third")
    (record,) = [one for one in caplog.records if one.name == "iii_resilience"]
    assert f"{path} was replaced or removed" in record.getMessage()
    with opened(path) as connection:
        assert connection.execute("SELECT count(*) FROM iii_resilience").fetchone() == (1,)


def test_transaction_in_replaced_file_is_not_committed(store: SqliteStore, path: Path) -> None:
    transaction = store.begin("k", claim(store).token)
    transaction.handle.execute("INSERT INTO effects VALUES (1, NULL)")
    replace(path)
    with pytest.raises(StoreUnavailableError, match="replaced or removed"):
        transaction.commit("1", keep=KEEP)
    assert effects(path) == []
