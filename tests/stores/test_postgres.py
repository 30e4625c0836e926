"""What only the PostgreSQL store has to keep: its schema, its sessions, and its server's faults."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support.postgres_fixtures import PostgresServer, listens, needs_postgres
from support.waiting import until

from iii_resilience.handling import PermanentError, TransientError, idempotent
from iii_resilience.handling.decorators import key_pauses
from iii_resilience.stores import (
    PostgresStore,
    State,
    StoreRefusedError,
    StoreUnavailableError,
)
from iii_resilience.stores.postgres_schema import VERSION

pytestmark = needs_postgres
HOUR = 3600.0


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresStore]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE effects (id text)")
    made = PostgresStore(postgres_url)
    yield made
    made.close()


def rows(url: str, query: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def effects(url: str) -> list[str]:
    return sorted(one for (one,) in rows(url, "SELECT id FROM effects"))


def claim(store: PostgresStore, slot: str = "s", nonce: str = "n", lease: float = HOUR) -> Any:
    return store.claim(slot, fingerprint="f", nonce=nonce, lease=lease, keep=HOUR)


def booking(store: PostgresStore, **options: Any) -> Any:
    @idempotent(store, key="id", function_id="f", **options)
    def book(data: Any, transaction: Any) -> str:
        transaction.execute("INSERT INTO effects VALUES (%s)", (str(data["id"]),))
        then = data.get("then")
        if then is not None:
            then(transaction)
        return "booked"

    return book


# The transaction.


def test_effect_and_key_are_one_commit(store: PostgresStore, postgres_url: str) -> None:
    book = booking(store)
    assert book({"id": 1}) == book({"id": 1}) == "booked"
    assert effects(postgres_url) == ["1"]


async def test_coroutine_gets_async_connection(store: PostgresStore, postgres_url: str) -> None:
    @idempotent(store, key="id", function_id="f")
    async def book(data: Any, transaction: psycopg.AsyncConnection[Any]) -> int:
        await transaction.execute("INSERT INTO effects VALUES ('a')")
        async with transaction.transaction():
            cursor = await transaction.execute("SELECT count(*) FROM effects")
        return int((await cursor.fetchone() or [0])[0])

    call: Any = book
    assert await call({"id": 1}) == await call({"id": 1}) == 1
    assert effects(postgres_url) == ["a"]


def test_failed_handler_leaves_neither(store: PostgresStore, postgres_url: str) -> None:
    def fail(_: Any) -> None:
        raise TransientError("busy")

    book = booking(store)
    with pytest.raises(TransientError):
        book({"id": 1, "then": fail})
    assert effects(postgres_url) == []
    assert rows(postgres_url, "SELECT * FROM iii_resilience.keys") == []


def test_savepoints_are_handlers(store: PostgresStore, postgres_url: str) -> None:
    def inner(transaction: Any) -> None:
        with transaction.transaction(force_rollback=True):
            transaction.execute("INSERT INTO effects VALUES ('undone')")
        transaction.execute("SAVEPOINT mine")
        with pytest.raises(psycopg.errors.UndefinedTable):
            transaction.execute("INSERT INTO missing VALUES (1)")
        transaction.execute("ROLLBACK TO SAVEPOINT mine")

    assert booking(store)({"id": 1, "then": inner}) == "booked"
    assert effects(postgres_url) == ["1"]


@pytest.mark.parametrize(
    "end",
    [
        lambda t: t.commit(),
        lambda t: t.rollback(),
        lambda t: t.close(),
        lambda t: t.execute("COMMIT"),
        lambda t: t.execute(b" rollback;"),
        lambda t: t.cursor().execute("SELECT 1; end;"),
        lambda t: setattr(t, "autocommit", True),
    ],
    ids=["commit", "rollback", "close", "COMMIT", "ROLLBACK", "END", "autocommit"],
)
def test_handler_cannot_end_its_transaction(
    store: PostgresStore, postgres_url: str, end: Any
) -> None:
    with pytest.raises(RuntimeError, match="do not commit it"):
        booking(store)({"id": 1, "then": end})
    assert effects(postgres_url) == []


def test_end_that_was_not_seen_is_noticed(store: PostgresStore, postgres_url: str) -> None:
    """From where nothing can refuse it."""

    def end(transaction: Any) -> None:
        transaction.pgconn.exec_(b"ROLLBACK; BEGIN")

    with pytest.raises(PermanentError) as caught:
        booking(store)({"id": 1, "then": end})
    assert caught.value.code == "TRANSACTION_ENDED_BY_HANDLER"
    assert effects(postgres_url) == []


def test_failed_statement_that_is_caught_commits_nothing(
    store: PostgresStore, postgres_url: str
) -> None:
    def fail(transaction: Any) -> None:
        with pytest.raises(psycopg.errors.UndefinedTable):
            transaction.execute("INSERT INTO missing VALUES (1)")

    book = booking(store)
    with pytest.raises(TransientError) as caught:
        book({"id": 1, "then": fail})
    assert caught.value.code == "TRANSACTION_ROLLED_BACK"
    assert effects(postgres_url) == []


def test_deferred_constraint_is_handlers_failure(store: PostgresStore, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE once (id int, UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)")

    def twice(transaction: Any) -> None:
        transaction.execute("INSERT INTO once VALUES (1), (1)")

    with pytest.raises(psycopg.errors.UniqueViolation):
        booking(store)({"id": 1, "then": twice})
    assert effects(postgres_url) == []
    assert claim(store).state is State.CLAIMED, "the store works on"


def test_key_of_dead_session_is_free_at_once(store: PostgresStore, postgres_url: str) -> None:
    first = claim(store)
    transaction = store.begin("s", first.token)
    transaction.handle.execute("INSERT INTO effects VALUES ('lost')")
    assert claim(store, nonce="other").state is State.RUNNING
    rows(postgres_url, f"SELECT pg_terminate_backend({transaction.handle.info.backend_pid})")
    began = time.monotonic()
    again = [claim(store, nonce="o")]

    def claimed() -> bool:
        again.append(claim(store, nonce="o"))
        return again[-1].state is State.CLAIMED

    until(claimed)
    assert time.monotonic() - began < 60, "whatever its lease"
    assert again[-1].token > first.token
    with pytest.raises(StoreUnavailableError):
        transaction.commit("1", keep=HOUR)
    assert effects(postgres_url) == []
    with pytest.raises(StoreUnavailableError, match="the lease was over"):
        store.begin("s", first.token)


def test_stale_token_is_refused_at_commit(store: PostgresStore, postgres_url: str) -> None:
    first = claim(store)
    transaction = store.begin("s", first.token)
    transaction.handle.execute("INSERT INTO effects VALUES ('old')")
    rows(postgres_url, "UPDATE iii_resilience.keys SET token = token + 1 RETURNING 1")
    assert not transaction.commit("1", keep=HOUR)
    assert effects(postgres_url) == []


def test_running_key_outlives_its_lease_with_its_session(store: PostgresStore) -> None:
    first = claim(store, lease=0.05)
    transaction = store.begin("s", first.token)
    time.sleep(0.2)
    assert claim(store, nonce="other").state is State.RUNNING
    assert transaction.commit('"done"', keep=HOUR)
    assert claim(store, nonce="other").outcome == '"done"'


def test_nothing_is_held_back_before_first_statement(
    store: PostgresStore, postgres_url: str
) -> None:
    transaction = store.begin("s", claim(store).token)
    pid = transaction.handle.info.backend_pid
    query = f"SELECT backend_xmin, backend_xid FROM pg_stat_activity WHERE pid = {pid}"
    assert rows(postgres_url, query) == [(None, None)]
    transaction.handle.execute("INSERT INTO effects VALUES ('a')")
    assert rows(postgres_url, query) != [(None, None)], "the query sees it"
    transaction.rollback()


def test_sessions_settings_and_locks_end_with_transaction(store: PostgresStore) -> None:
    transaction = store.begin("s", claim(store, lease=7.0).token)
    handle = transaction.handle
    (most,) = handle.execute(
        "SELECT setting FROM pg_settings WHERE name = 'lock_timeout'"
    ).fetchone()
    assert 5000 <= int(most) <= 7000, "what is left of the lease"
    handle.execute("SET search_path = nowhere")
    handle.execute("SELECT pg_advisory_lock(1)")
    transaction.rollback()
    with store._in_handlers.lent() as connection:
        assert connection.info.backend_pid == handle.info.backend_pid
        assert connection.execute("SHOW search_path").fetchone() != ("nowhere",)
        assert connection.execute("SHOW lock_timeout").fetchone() == ("5s",)
        held = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
        assert connection.execute(held).fetchone() == (0,)


@pytest.mark.parametrize(("set_to", "used"), [("off", "on"), ("local", "local")])
def test_what_is_confirmed_is_on_disk(postgres_url: str, set_to: str, used: str) -> None:
    """Also for a user, or in a database, whose commits do not wait for the disk."""
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        name = owner.info.dbname
        owner.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = {set_to}'.encode())
    store = PostgresStore(postgres_url)
    for _ in range(2):  # a new session, and one that is used again
        transaction = store.begin("s", claim(store).token)
        assert transaction.handle.execute("SHOW synchronous_commit").fetchone() == (used,)
        transaction.rollback()
        assert store.release("s", claim(store).token)
    with store._operations.lent() as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == (used,)
    store.close()


def deadlock(store: PostgresStore, url: str, **options: Any) -> tuple[list[Any], list[int]]:
    """Two handlers that wait for each other: what they end with, and how often each ran."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE counters (id int PRIMARY KEY, n int)")
        connection.execute("INSERT INTO counters VALUES (0, 0), (1, 0)")
    both = threading.Barrier(2)
    ran = [0, 0]
    ends: list[Any] = [None, None]

    @idempotent(store, key="id", function_id="f", **options)
    def count(data: Any, transaction: Any) -> str:
        me = data["id"]
        ran[me] += 1
        add = "UPDATE counters SET n = n + 1 WHERE id = %s"
        transaction.execute(add, (me,))
        if ran[me] == 1:
            both.wait(30)
        transaction.execute(add, (1 - me,))
        return "done"

    def call(me: int) -> None:
        handler: Any = count
        try:
            ends[me] = handler({"id": me})
        except Exception as error:
            ends[me] = error

    threads = [threading.Thread(target=call, args=(me,)) for me in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return ends, ran


def test_deadlock_is_transient_failure_that_frees_key(
    store: PostgresStore, postgres_url: str
) -> None:
    ends, ran = deadlock(store, postgres_url)
    assert ran == [1, 1]
    (error,) = (end for end in ends if end != "done")
    assert isinstance(error, TransientError)
    assert error.code == "TRANSACTION_CONFLICT"
    assert rows(postgres_url, "SELECT n FROM counters") == [(1,), (1,)]
    states = rows(postgres_url, "SELECT state FROM iii_resilience.keys")
    assert states == [("done",)], "the other key is free"


def test_handler_runs_again_after_deadlock_where_it_says_so(
    store: PostgresStore, postgres_url: str
) -> None:
    ends, ran = deadlock(store, postgres_url, rerun=True)
    assert ends == ["done", "done"]
    assert sorted(ran) == [1, 2]
    assert rows(postgres_url, "SELECT n FROM counters") == [(2,), (2,)]


def test_serialization_failure_at_commit_runs_again(
    store: PostgresStore, postgres_url: str
) -> None:
    ran: list[int] = []

    def interfere(transaction: Any) -> None:
        ran.append(1)
        if len(ran) == 1:
            raise psycopg.errors.SerializationFailure("could not serialize access")

    assert booking(store, rerun=True)({"id": 1, "then": interfere}) == "booked"
    assert len(ran) == 2
    assert effects(postgres_url) == ["1"]


def test_rerun_ends_with_time(store: PostgresStore) -> None:
    def conflict(_: Any) -> None:
        raise psycopg.errors.SerializationFailure("could not serialize access")

    began = time.monotonic()
    with pytest.raises(TransientError) as caught:
        booking(store, rerun=True, wait=0.3)({"id": 1, "then": conflict})
    assert caught.value.code == "TRANSACTION_CONFLICT"
    assert 0.3 <= time.monotonic() - began < 5


# Waiting.


def test_end_of_key_wakes_who_waits_for_it(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.migrate()
    monkeypatch.setattr(key_pauses, "_FIRST_LOOK", 20.0)
    monkeypatch.setattr(key_pauses, "_LAST_LOOK", 20.0)
    go_on = threading.Event()
    ended: list[float] = []

    def hold(_: Any) -> None:
        assert go_on.wait(30)

    book, payload = booking(store, wait=30.0), {"id": 1, "then": hold}
    first = threading.Thread(target=book, args=(payload,))
    first.start()
    until(lambda: bool(rows(store._dsn, "SELECT 1 FROM iii_resilience.keys WHERE lock <> 0")))

    def repeat() -> None:
        assert book(payload) == "booked"
        ended.append(time.monotonic())

    second = threading.Thread(target=repeat)
    second.start()
    until(lambda: listens(store._dsn))
    began = time.monotonic()
    go_on.set()
    first.join(30)
    second.join(30)
    assert ended[0] - began < 10, "not at its next look, 20 s later"


def test_nothing_listens_when_nothing_waits(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iii_resilience.stores.postgres_listener._IDLE", 0.1)
    claim(store)
    future = store.watch("s")
    thread = store._listener._thread
    assert thread is not None
    future.cancel()
    thread.join(30)
    assert not thread.is_alive()
    assert store._listener._waiting == {}


# Rows whose time is over.


def test_keys_whose_time_is_over_are_removed(store: PostgresStore, postgres_url: str) -> None:
    for n in range(1000):
        slot = f"k{n}"
        token = store.claim(slot, fingerprint="f", nonce="n", lease=1.0, keep=0.01).token
        store.finish(slot, token, "1", keep=0.01)
    ((left,),) = rows(postgres_url, "SELECT count(*) FROM iii_resilience.keys")
    assert left < 300


def test_claim_holds_though_removing_fails(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iii_resilience.stores.postgres._SWEEP_EVERY", 1)
    monkeypatch.setattr(
        "iii_resilience.stores.postgres_statements.SWEEP_KEYS", "SELECT 1 / 0, %(most)s"
    )
    assert claim(store).state is State.CLAIMED
    assert store.delivered("m", keep=HOUR) == 1


def test_running_transaction_is_not_removed(store: PostgresStore) -> None:
    claimed = store.claim("s", fingerprint="f", nonce="n", lease=0.01, keep=0.01)
    transaction = store.begin("s", claimed.token)
    time.sleep(0.1)
    for n in range(200):
        claim(store, slot=f"k{n}")
    assert transaction.commit("1", keep=HOUR)


# The schema.


def test_user_without_rights_is_told_what_to_do(
    store: PostgresStore, postgres_url: str, postgres_of_session: PostgresServer
) -> None:
    name = f"worker{time.time_ns()}"
    rows(postgres_url, "SELECT 1")
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {name} LOGIN".encode())
        worker = PostgresStore(postgres_url.replace("postgres@", f"{name}@"), create=False)
        with pytest.raises(StoreRefusedError, match=r"has version 0.*migrate\(\)"):
            claim(worker)
        store.migrate()
        with pytest.raises(StoreRefusedError, match="GRANT USAGE"):
            claim(worker)
        owner.execute(f"GRANT USAGE ON SCHEMA iii_resilience TO {name}".encode())
        owner.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA iii_resilience TO {name}".encode())
        with pytest.raises(StoreRefusedError, match=r"may not .*INSERT on keys"):
            claim(worker)
        owner.execute(
            b"GRANT INSERT, UPDATE, DELETE ON iii_resilience.keys, iii_resilience.messages "
            b"TO " + name.encode()
        )
        assert claim(worker).state is State.CLAIMED
        worker.close()


def test_schema_of_newer_library_is_refused(store: PostgresStore, postgres_url: str) -> None:
    store.migrate()
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(
            "UPDATE iii_resilience.version SET version = %s, oldest = %s", (VERSION + 1, VERSION)
        )
    assert claim(store).state is State.CLAIMED, "it still serves this one"
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("UPDATE iii_resilience.version SET oldest = %s", (VERSION + 1,))
    other = PostgresStore(postgres_url)
    with pytest.raises(StoreRefusedError, match="upgrade iii-resilience"):
        claim(other)
    other.close()


def test_schema_is_made_once_by_many(postgres_url: str) -> None:
    stores = [PostgresStore(postgres_url, schema='odd "name') for _ in range(8)]
    threads = [threading.Thread(target=one.migrate) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert rows(postgres_url, 'SELECT * FROM "odd ""name".version') == [(VERSION, 1)]
    assert claim(stores[0]).state is State.CLAIMED
    for one in stores:
        one.close()


# The server, and the way to it.


def test_server_that_restarts_is_used_again_at_once(postgres_server: PostgresServer) -> None:
    store = PostgresStore(postgres_server.url)
    tokens = [claim(store, slot=f"k{n}").token for n in range(3)]
    held = [store._operations.take() for _ in range(5)]
    for connection in held:
        store._operations.give_back(connection)
    postgres_server.stop()
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        claim(store)
    assert time.monotonic() - began < 4, "a server that refuses is not waited for"
    postgres_server.start()
    assert [store.finish(f"k{n}", token, "1", keep=HOUR) for n, token in enumerate(tokens)] == (
        [True] * 3
    ), "none of the dead connections is used"
    store.close()


def test_server_that_dies_under_handler_commits_neither(postgres_server: PostgresServer) -> None:
    postgres_server.execute("CREATE TABLE effects (id text)")
    store = PostgresStore(postgres_server.url)
    book = booking(store)

    def die(transaction: Any) -> None:
        postgres_server.restart()
        transaction.execute("SELECT 1")

    with pytest.raises(TransientError) as caught:
        book({"id": 1, "then": die})
    assert caught.value.code == "STORE_UNAVAILABLE"
    assert postgres_server.execute("SELECT id FROM effects") == []
    assert book({"id": 1}) == "booked"
    assert postgres_server.execute("SELECT id FROM effects") == [("1",)]
    store.close()


@pytest.mark.parametrize("inside", [False, True], ids=["operation", "transaction"])
def test_server_that_stalls_is_not_waited_for(
    postgres_server: PostgresServer, *, inside: bool
) -> None:
    PostgresStore(postgres_server.url).migrate()
    store = PostgresStore(postgres_server.url, timeout=1.0)
    transaction = store.begin("s", claim(store, lease=1.0).token)
    postgres_server.stall()
    began = time.monotonic()
    try:
        if inside:
            with pytest.raises(psycopg.OperationalError, match="does not answer"):
                transaction.handle.execute("SELECT 1")
        with pytest.raises(StoreUnavailableError):
            claim(store, slot="other")
        assert time.monotonic() - began < 30
    finally:
        postgres_server.go_on()
    transaction.rollback()

    def claimed() -> bool:
        try:
            return claim(store, nonce="again").state is State.CLAIMED
        except StoreUnavailableError:  # it has a lot to do, and a second is not much
            return False

    until(claimed)
    store.close()


def test_connections_are_bounded(postgres_url: str) -> None:
    PostgresStore(postgres_url).migrate()
    store = PostgresStore(postgres_url, connections=1, timeout=1.0)
    first = store.begin("a", claim(store, slot="a").token)
    second = claim(store, slot="b").token
    with pytest.raises(StoreUnavailableError, match="all 1 connections were in use"):
        store.begin("b", second)
    first.rollback()
    store.begin("b", second).rollback()
    store.close()


@pytest.mark.parametrize(
    ("dsn", "error"),
    [
        ("postgresql://nobody@{rest}", StoreRefusedError),
        ("postgresql://postgres@/missing{host}", StoreRefusedError),
        ("postgresql://127.0.0.1:1/postgres", StoreUnavailableError),
    ],
)
def test_what_passes_and_what_does_not(
    postgres_of_session: PostgresServer, dsn: str, error: type[Exception]
) -> None:
    rest = postgres_of_session.url.partition("@")[2]
    store = PostgresStore(dsn.format(rest=rest, host="?" + rest.partition("?")[2]))
    with pytest.raises(error):
        claim(store)


def test_dsn_that_is_none_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="is none that libpq takes") as caught:
        PostgresStore("postgres:secret@host")
    assert "secret" not in str(caught.value)


def test_child_of_fork_leaves_parents_sessions_alone(store: PostgresStore) -> None:
    token = claim(store).token
    transaction = store.begin("s", token)

    def child() -> None:
        store.close()
        ok = claim(store, nonce="child").state is State.RUNNING
        transaction.rollback()
        os._exit(0 if ok else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert transaction.commit("1", keep=HOUR)
    assert claim(store, nonce="n2").state is State.DONE


async def test_waiting_coroutines_hold_no_threads(store: PostgresStore) -> None:
    claim(store, slot="x")
    before = threading.active_count()
    futures = [asyncio.wrap_future(store.watch("x")) for _ in range(50)]
    await asyncio.sleep(0.05)
    assert threading.active_count() <= before + 2
    for future in futures:
        future.cancel()
