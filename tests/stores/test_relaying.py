"""What every store promises a relay, and what the outboxes of SQLite and PostgreSQL do."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from support.postgres_fixtures import listens, needs_postgres
from support.waiting import until

from iii_resilience.stores import (
    PostgresStore,
    Record,
    SqliteStore,
    Store,
    StoreRefusedError,
    StoreUnavailableError,
)
from iii_resilience.stores.protocol import digest
from iii_resilience.stores.relaying import Backlog, LeaseLock, OutboxRow

FOREVER = 3600.0
NOTE = {"queue": "orders", "n": 1}


@pytest.fixture
def waiting(store: Store) -> Any:
    """A store, as a relay sees it."""
    return store


def only(store: Any) -> Record:
    (record,) = store.records()
    assert isinstance(record, Record)
    return record


def due(store: Any, **more: Any) -> list[str]:
    found, _ = store.due(**{"without": (), "most": 100, **more})
    return [record.id for record in found]


class TestRetries:
    def test_message_waits_for_its_time(self, waiting: Any) -> None:
        assert waiting.arrived("m", keep=FOREVER) == 1
        before = time.time()
        waiting.postpone("m", NOTE, seconds=FOREVER)
        record = only(waiting)
        assert record.due_at is not None
        assert before + FOREVER - 0.1 <= record.due_at <= time.time() + FOREVER + 1
        assert (record.note, record.deliveries, record.parked_at) == (NOTE, 1, None)
        assert None not in {record.first_failed_at, record.last_failed_at}
        found, left = waiting.due(without=(), most=10)
        assert not found
        assert 0 < left <= FOREVER

    def test_message_is_due_when_its_time_has_come(self, waiting: Any) -> None:
        began = time.monotonic()
        waiting.postpone("m", NOTE, seconds=0.4)
        until(lambda: due(waiting))
        assert time.monotonic() - began >= 0.39
        assert waiting.due(without=(), most=10) == ([only(waiting)], None)

    def test_delivery_of_what_waits_is_not_counted(self, waiting: Any) -> None:
        waiting.arrived("m", keep=FOREVER)
        waiting.postpone("m", NOTE, seconds=FOREVER)
        assert waiting.arrived("m", keep=FOREVER) == 0
        assert only(waiting).deliveries == 1

    def test_waiting_twice_is_one_retry(self, waiting: Any) -> None:
        waiting.postpone("m", NOTE, seconds=0.0)
        first = only(waiting)
        waiting.postpone("m", {**NOTE, "n": 2}, seconds=FOREVER)
        second = only(waiting)
        assert second.note["n"] == 2
        assert second.revision > first.revision
        assert due(waiting) == []
        assert waiting.backlog() == Backlog(retries=1)
        assert waiting.take("m", first.revision) is None

    def test_hand_over_ends_wait(self, waiting: Any) -> None:
        waiting.arrived("m", keep=FOREVER)
        waiting.postpone("m", NOTE, seconds=0.0)
        revision = waiting.take("m", only(waiting).revision)
        assert revision is not None
        assert waiting.arrived("m", keep=FOREVER) == 2, "it may be delivered before the receipt"
        assert due(waiting) == ["m"], "a relay that is killed now is followed by another one"
        assert waiting.sent("m", revision, keep=FOREVER)
        assert not waiting.sent("m", revision, keep=FOREVER)
        assert due(waiting) == []
        assert (only(waiting).due_at, only(waiting).deliveries) == (None, 2)
        assert waiting.arrived("m", keep=FOREVER) == 3
        assert waiting.take("m", revision) is None

    def test_failure_during_hand_over_waits_anew(self, waiting: Any) -> None:
        waiting.postpone("m", NOTE, seconds=0.0)
        revision = waiting.take("m", only(waiting).revision)
        waiting.arrived("m", keep=FOREVER)
        waiting.postpone("m", NOTE, seconds=FOREVER)
        assert not waiting.sent("m", revision, keep=FOREVER)
        assert waiting.arrived("m", keep=FOREVER) == 0
        assert only(waiting).due_at is not None

    def test_what_is_handled_waits_no_longer(self, waiting: Any) -> None:
        waiting.postpone("m", NOTE, seconds=0.0)
        revision = waiting.take("m", only(waiting).revision)
        waiting.settle("m")
        assert not waiting.sent("m", revision, keep=FOREVER)
        assert (due(waiting), list(waiting.records())) == ([], [])
        assert waiting.backlog() == Backlog()

    def test_parked_message_does_not_wait(self, waiting: Any) -> None:
        waiting.postpone("m", NOTE, seconds=0.0)
        waiting.note("m", NOTE, parked=True, keep=FOREVER)
        assert due(waiting) == []
        assert only(waiting).due_at is None
        assert waiting.arrived("m", keep=FOREVER) == 1
        waiting.postpone("m", NOTE, seconds=0.0)
        assert only(waiting).parked_at is None
        assert due(waiting) == ["m"]

    def test_what_waits_is_kept_without_end(self, waiting: Any) -> None:
        waiting.arrived("m", keep=0.1)
        waiting.postpone("m", NOTE, seconds=FOREVER)
        waiting.note("m", NOTE, parked=False, keep=0.1)
        waiting.delivered("m", keep=0.1)
        waiting.undelivered("m", keep=0.1)
        time.sleep(0.3)
        assert only(waiting).due_at is not None

    def test_what_was_handed_over_goes_with_time(self, waiting: Any) -> None:
        waiting.postpone("m", NOTE, seconds=0.0)
        waiting.sent("m", waiting.take("m", only(waiting).revision), keep=0.1)
        time.sleep(0.3)
        assert list(waiting.records()) == []

    def test_removed_message_does_not_wait(self, waiting: Any) -> None:
        waiting.postpone("m", NOTE, seconds=0.0)
        assert waiting.remove("m", only(waiting).revision)
        assert due(waiting) == []

    def test_longest_due_comes_first(self, waiting: Any) -> None:
        waiting.postpone("later", NOTE, seconds=FOREVER)
        for name in ("b", "c", "a"):
            waiting.postpone(name, NOTE, seconds=0.0)
            time.sleep(0.03)
        assert due(waiting) == ["b", "c", "a"]
        assert due(waiting, most=2) == ["b", "c"]
        backlog = waiting.backlog()
        assert (backlog.outbox, backlog.retries) == (0, 4)
        assert 0.05 < backlog.oldest < 100

    def test_queue_is_left_out(self, waiting: Any) -> None:
        for number in range(250):
            waiting.postpone(f"m-{number}", {"queue": "held"}, seconds=0.0)
        time.sleep(0.01)
        waiting.postpone("last", NOTE, seconds=0.0)
        time.sleep(0.01)
        assert due(waiting, without={"held"}) == ["last"]
        assert due(waiting, without={"held", "orders"}) == []

    def test_older_version_may_settle_or_park_what_waits(self, waiting: Any) -> None:
        """It knows nothing of the set of Redis, nor of the field of the others."""
        prefix = getattr(waiting, "_prefix", None)
        if prefix is None:
            pytest.skip("its rows are all there is")
        waiting.postpone("gone", NOTE, seconds=0.0)
        waiting.postpone("parked", NOTE, seconds=0.0)
        waiting.postpone("kept", NOTE, seconds=0.0)
        client = waiting._client
        client.delete(f"{prefix}:message:gone")
        client.hset(f"{prefix}:message:parked", "parked_at", 1)
        time.sleep(0.01)
        assert due(waiting) == ["kept"]
        assert client.zrange(f"{prefix}:waiting", 0, -1) == ["kept"]


class TestRelayLock:
    def test_one_relay_is_active(self, waiting: Any) -> None:
        first, second = waiting.relay_lock(), waiting.relay_lock()
        assert not waiting.relayed()
        assert first.active()
        assert first.active()
        assert waiting.relayed()
        assert not second.active()
        first.release()
        first.release()
        assert not waiting.relayed()
        assert second.active()
        assert not first.active()
        second.release()

    def test_rows_show_no_lock(self, waiting: Any) -> None:
        lock = waiting.relay_lock()
        lock.active()
        assert list(waiting.records()) == []
        lock.release()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Rows:
    """Leases that are away now and then."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.renewed = 0
        self.away = False

    def claim(self, slot: str, **more: Any) -> Any:
        return self.store.claim(slot, **more)

    def release(self, slot: str, token: int) -> bool:
        return bool(self.store.release(slot, token))

    def renew(self, slot: str, token: int, **more: Any) -> bool:
        if self.away:
            raise StoreUnavailableError("away")
        self.renewed += 1
        return bool(self.store.renew(slot, token, **more))


class TestLease:
    def test_lease_is_renewed_in_time(self, tmp_path: Path) -> None:
        rows, clock = Rows(SqliteStore(tmp_path / "s.db")), Clock()
        lock = LeaseLock(rows, clock, lease=9.0)
        assert lock.active()
        clock.now += 2.9
        assert lock.active()
        assert rows.renewed == 0
        clock.now += 0.2
        assert lock.active()
        assert rows.renewed == 1
        rows.store.close()

    def test_lock_survives_store_that_is_away(self, tmp_path: Path) -> None:
        rows, clock = Rows(SqliteStore(tmp_path / "s.db")), Clock()
        lock = LeaseLock(rows, clock, lease=9.0)
        assert lock.active()
        clock.now += 5
        rows.away = True
        with pytest.raises(StoreUnavailableError):
            lock.active()
        rows.away = False
        assert lock.active()
        rows.store.close()

    def test_lost_lease_is_noticed(self, tmp_path: Path) -> None:
        rows, clock = Rows(SqliteStore(tmp_path / "s.db")), Clock()
        lock = LeaseLock(rows, clock, lease=0.1)
        assert lock.active()
        time.sleep(0.15)
        other = LeaseLock(rows, lease=60.0)
        assert other.active()
        clock.now += 10
        assert not lock.active()
        assert not lock.active()
        assert other.active()
        rows.store.close()


# The outbox, in SQLite.


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Any]:
    store = SqliteStore(tmp_path / "store.db")
    yield store
    store.close()


def keys(store: Any, **more: Any) -> list[str]:
    return [row.key for row in store.outbox(**{"without": (), "most": 100, **more})]


def test_sqlite_row_is_committed_with_transaction(file: Any, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "store.db")) as mine:
        mine.execute("CREATE TABLE payments (id)")
        mine.execute("INSERT INTO payments VALUES (1)")
        assert file.enqueue(mine, "q", "a::b", {"n": 1, "t": "é"}, key="k") == "k"
        mine.rollback()
        assert keys(file) == []
        mine.execute("INSERT INTO payments VALUES (1)")
        file.enqueue(mine, "q", "a::b", {"n": 1, "t": "é"}, key="k")
        mine.commit()
    (row,) = file.outbox(without=(), most=1)
    assert row == OutboxRow(row.id, "q", "a::b", '{"n": 1, "t": "é"}', "k")
    assert file.backlog().outbox == 1
    assert 0 <= file.backlog().oldest < 60
    file.handed_over(row.id)
    assert file.backlog() == Backlog()


def test_sqlite_handlers_transaction_holds_row(file: Any) -> None:
    for commit in (False, True):
        token = file.claim("s", fingerprint="f", nonce="n", lease=60, keep=60).token
        transaction = file.begin("s", token)
        made = file.enqueue(transaction.handle, "q", "a::b", {})
        assert len(made) == 32
        if commit:
            assert transaction.commit("1", keep=60)
        else:
            transaction.rollback()
        assert keys(file) == ([made] if commit else [])


def test_sqlite_outbox_is_made_by_users_transaction(file: Any, tmp_path: Path) -> None:
    """The store has not opened the file, and could not while the user's transaction runs."""
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as mine:
        mine.row_factory = lambda *_: None
        mine.execute("BEGIN IMMEDIATE")
        file.enqueue(mine, "q", "a::b", {}, key="k")
        mine.execute("COMMIT")
    assert keys(file) == ["k"]
    assert file.arrived("m", keep=1.0) == 1, "all the rest of the schema is there"


def test_sqlite_refuses_other_files_and_autocommit(file: Any, tmp_path: Path) -> None:
    keys(file)
    for other in (":memory:", tmp_path / "other.db"):
        with closing(sqlite3.connect(other)) as mine, pytest.raises(ValueError, match="another"):
            file.enqueue(mine, "q", "a::b", {})
    with (
        closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as mine,
        pytest.raises(RuntimeError, match="commits each statement"),
    ):
        file.enqueue(mine, "q", "a::b", {})
    with pytest.raises(TypeError, match="sqlite3 connection"):
        file.enqueue(object(), "q", "a::b", {})
    assert keys(file) == []


def test_sqlite_file_of_older_version_is_upgraded(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as old:
        old.execute("PRAGMA journal_mode = WAL")
        old.execute(
            "CREATE TABLE iii_resilience (kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT "
            "NULL, keep_until REAL, PRIMARY KEY (kind, id)) WITHOUT ROWID"
        )
        old.execute(
            "CREATE INDEX iii_resilience_keep_until ON iii_resilience (keep_until) "
            "WHERE keep_until IS NOT NULL"
        )
        store = SqliteStore(tmp_path / "store.db")
        store.postpone("m", NOTE, seconds=0.0)
        assert due(store) == ["m"]
        # It goes on beside the new one.
        old.execute("INSERT OR REPLACE INTO iii_resilience VALUES ('message', 'm', '{}', NULL)")
        assert store.backlog() == Backlog()
        store.close()


class TestOrder:
    def test_sqlite(self, file: Any, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "store.db")) as mine:
            self.check(file, mine)

    @needs_postgres
    def test_postgres(self, postgres_url: str) -> None:
        store = PostgresStore(postgres_url)
        with psycopg.connect(postgres_url) as mine:
            self.check(store, mine)
        store.close()

    @staticmethod
    def check(store: Any, mine: Any) -> None:
        for number in range(6):
            store.enqueue(mine, f"q{number % 2}", "a::b", {"n": number}, key=str(number))
            mine.commit()
        assert keys(store) == ["0", "1", "2", "3", "4", "5"]
        assert keys(store, without={"q0"}) == ["1", "3", "5"]
        assert keys(store, most=2) == ["0", "1"]
        store.handed_over(store.outbox(without=(), most=1)[0].id)
        assert keys(store) == ["1", "2", "3", "4", "5"]


class TestArguments:
    @pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs_postgres)], name="where")
    def opened(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
        if request.param == "sqlite":
            store: Any = SqliteStore(tmp_path / "store.db")
            keys(store)
            mine: Any = sqlite3.connect(tmp_path / "store.db")
        else:
            url = request.getfixturevalue("postgres_url")
            store, mine = PostgresStore(url), psycopg.connect(url)
        yield store, mine
        mine.close()
        store.close()

    def test_refused_before_anything_is_written(self, where: Any) -> None:
        store, mine = where
        ring: dict[str, Any] = {}
        ring["ring"] = ring
        for error, data in (
            (TypeError, [1]),
            (TypeError, {"a": object()}),
            (ValueError, {"a": float("nan")}),
            (ValueError, {"a": "\ud800"}),
            (ValueError, ring),
        ):
            with pytest.raises(error):
                store.enqueue(mine, "q", "a::b", data)
        for queue, function_id, key in (
            ("", "a::b", None),
            ("q", "", None),
            ("q", "a::b", ""),
            ("q", "a::b", "k" * 513),
            ("q", "a::b", 1),
        ):
            with pytest.raises(ValueError, match="enqueue: "):
                store.enqueue(mine, queue, function_id, {}, key=key)
        mine.commit()
        assert keys(store) == []

    def test_payload_comes_back_as_it_was(self, where: Any) -> None:
        store, mine = where
        data = {"z": "\u0000 é \U0001f600 ' % -- {}", "a": [1.5, 2**63, None, True]}
        store.enqueue(mine, "q' %s", "a::b{}", data, key="k" * 512)
        mine.commit()
        (row,) = store.outbox(without=(), most=1)
        assert json.loads(row.data) == data
        assert (row.queue, row.function_id, row.key) == ("q' %s", "a::b{}", "k" * 512)
        assert "é" not in repr(row)


# The outbox, in PostgreSQL.


@needs_postgres
class TestPostgres:
    @pytest.fixture
    def store(self, postgres_url: str) -> Iterator[PostgresStore]:
        made = PostgresStore(postgres_url, schema="my\"outbox's")
        yield made
        made.close()

    @pytest.fixture
    def mine(self, postgres_url: str) -> Iterator[Any]:
        with psycopg.connect(postgres_url) as connection:
            yield connection

    def test_row_is_committed_with_transaction(self, store: Any, mine: Any) -> None:
        mine.row_factory = dict_row
        store.enqueue(mine, "q", "a::b", {"n": 1}, key="k")
        mine.rollback()
        assert keys(store) == []
        store.enqueue(mine, "q", "a::b", {"n": 1}, key="k")
        mine.commit()
        assert keys(store) == ["k"]

    def test_handlers_transaction_holds_row(self, store: Any) -> None:
        token = store.claim("s", fingerprint="f", nonce="n", lease=60, keep=60).token
        transaction = store.begin("s", token)
        made = store.enqueue(transaction.handle, "q", "a::b", {})
        assert keys(store) == []
        assert transaction.commit("1", keep=60)
        assert keys(store) == [made]

    def test_coroutines_transaction_holds_row(self, store: Any) -> None:
        token = store.claim("s", fingerprint="f", nonce="n", lease=60, keep=60).token
        transaction = store.begin("s", token)

        async def handler() -> str:
            made = await store.enqueue_async(transaction.async_handle, "q", "a::b", {})
            with pytest.raises(TypeError, match="psycopg connection"):
                store.enqueue(transaction.async_handle, "q", "a::b", {})
            with pytest.raises(TypeError, match="AsyncConnection"):
                await store.enqueue_async(transaction.handle, "q", "a::b", {})
            return str(made)

        made = asyncio.run(handler())
        assert transaction.commit("1", keep=60)
        assert keys(store) == [made]

    def test_connection_that_commits_is_refused(self, store: Any, postgres_url: str) -> None:
        with psycopg.connect(postgres_url, autocommit=True) as mine:
            with pytest.raises(RuntimeError, match="commits each statement"):
                store.enqueue(mine, "q", "a::b", {})
            with mine.transaction():
                store.enqueue(mine, "q", "a::b", {}, key="k")
        assert keys(store) == ["k"]

    def test_function_of_other_languages(self, store: Any, mine: Any) -> None:
        keys(store)
        call = """SELECT "my""outbox's".enqueue('q', 'a::b', '{"n": 1.50}'"""
        (made,) = mine.execute(f"{call}, 'k')").fetchone()
        (random,) = mine.execute(f"{call})").fetchone()
        mine.commit()
        assert made == "k"
        assert keys(store) == ["k", random]
        (row, _) = store.outbox(without=(), most=2)
        assert (row.queue, row.function_id, row.data) == ("q", "a::b", '{"n": 1.50}')
        for data in ("'[1]'", "NULL", "'1'"):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="JSON object"):
                mine.execute(f"""SELECT "my""outbox's".enqueue('q', 'a::b', {data})""")
            mine.rollback()
        with pytest.raises(psycopg.errors.CheckViolation):
            mine.execute("""SELECT "my""outbox's".enqueue('', 'a::b', '{}')""")

    @pytest.mark.parametrize("by_function", [False, True], ids=["enqueue", "SQL function"])
    @pytest.mark.parametrize(("set_to", "used"), [("off", "on"), ("local", "local")])
    def test_commit_that_is_seen_is_on_disk(
        self, store: Any, mine: Any, set_to: str, used: str, *, by_function: bool
    ) -> None:
        """Else a server that is killed forgets what the message, which is sent, belongs to."""
        keys(store)
        mine.execute(f"SET synchronous_commit = {set_to}")
        mine.commit()
        if by_function:
            mine.execute("""SELECT "my""outbox's".enqueue('q', 'a::b', '{}')""")
        else:
            store.enqueue(mine, "q", "a::b", {})
        assert mine.execute("SHOW synchronous_commit").fetchone() == (used,)
        mine.commit()
        assert mine.execute("SHOW synchronous_commit").fetchone() == (set_to,)
        assert len(keys(store)) == 1

    def test_commit_wakes_idle_relay_and_no_busy_one(
        self, store: Any, mine: Any, postgres_url: str
    ) -> None:
        lock = store.relay_lock()
        assert lock.active()
        heard = lock.watch(busy=False)
        assert heard is not None
        until(lambda: listens(postgres_url))
        store.enqueue(mine, "q", "a::b", {})
        mine.commit()
        assert heard.result(10) == 0.0
        assert lock.watch(busy=True) is None
        (idle,) = mine.execute('SELECT idle FROM "my""outbox\'s".relay').fetchone()
        assert idle is False
        mine.rollback()
        lock.release()

    def test_session_that_ends_gives_lock_back(self, store: Any, mine: Any) -> None:
        first, second = store.relay_lock(), store.relay_lock()
        assert first.active()
        assert not second.active()
        mine.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        )
        mine.rollback()
        until(second.active)
        with pytest.raises(StoreUnavailableError):
            first.active()
        assert not first.active()
        second.release()
        assert first.active()
        first.release()

    def test_least_privilege(self, postgres_url: str) -> None:
        PostgresStore(postgres_url).migrate()
        role = f"r{digest(postgres_url)[:12]}"
        with psycopg.connect(postgres_url, autocommit=True) as owner:
            owner.execute(f"CREATE ROLE {role} LOGIN".encode())
            for grant in (
                "USAGE ON SCHEMA iii_resilience",
                "SELECT ON iii_resilience.version",
                "SELECT, INSERT, UPDATE, DELETE ON iii_resilience.keys, iii_resilience.messages",
            ):
                owner.execute(f"GRANT {grant} TO {role}".encode())
            url = postgres_url.replace("postgres@", f"{role}@")
            store: Any = PostgresStore(url, create=False)
            assert store.arrived("m", keep=1.0) == 1, "who uses no outbox needs no more"
            with pytest.raises(StoreRefusedError, match=r"SELECT on outbox, .*UPDATE on relay"):
                store.relay_lock().active()
            with psycopg.connect(url) as mine:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    store.enqueue(mine, "q", "a::b", {})
                mine.rollback()
                owner.execute(f"GRANT INSERT ON iii_resilience.outbox TO {role}".encode())
                owner.execute(f"GRANT SELECT ON iii_resilience.relay TO {role}".encode())
                store.enqueue(mine, "q", "a::b", {})
                mine.execute("SELECT iii_resilience.enqueue('q', 'a::b', '{}')")
                mine.commit()
            owner.execute(f"GRANT SELECT, DELETE ON iii_resilience.outbox TO {role}".encode())
            owner.execute(f"GRANT UPDATE ON iii_resilience.relay TO {role}".encode())
            lock = store.relay_lock()
            assert lock.active()
            lock.release()
            assert len(keys(store)) == 2
            store.close()
            owner.execute(f"DROP OWNED BY {role}".encode())
            owner.execute(f"DROP ROLE {role}".encode())

    def test_schema_of_version_one_is_upgraded(self, postgres_url: str) -> None:
        PostgresStore(postgres_url).migrate()
        with psycopg.connect(postgres_url, autocommit=True) as owner:
            for statement in (
                "DROP FUNCTION iii_resilience.enqueue",
                "DROP TABLE iii_resilience.outbox, iii_resilience.relay",
                "ALTER TABLE iii_resilience.messages DROP COLUMN due_at, DROP COLUMN handing",
                "UPDATE iii_resilience.version SET version = 1",
                "INSERT INTO iii_resilience.messages (id, deliveries) VALUES ('old', 3)",
            ):
                owner.execute(statement.encode())
            with pytest.raises(StoreRefusedError, match=r"has version 1, .* needs 2"):
                PostgresStore(postgres_url, create=False).settle("x")
            store: Any = PostgresStore(postgres_url)
            assert store.arrived("old", keep=1.0) == 4
            store.postpone("old", NOTE, seconds=0.0)
            assert due(store) == ["old"]
            store.close()
