"""What PostgreSQL drivers raise, provoked on a real server: by each driver, and by SQLAlchemy."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any, Protocol

import attrs
import psycopg
import pytest
from support.postgres_fixtures import PostgresServer, needs_postgres
from support.short_names import ME, NE, A, N, P, T, X
from support.waiting import until

from iii_resilience import Category, Execution, Failure, classify

pytestmark = [pytest.mark.long, pytest.mark.library, needs_postgres]


class Connection(Protocol):
    """One connection, whichever driver has it."""

    def run(self, statement: str) -> Any:
        """The first value of its answer, if it has one."""

    def close(self) -> None: ...


class Psycopg:
    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)

    def run(self, statement: str) -> Any:
        cursor = self._connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]

    def close(self) -> None:
        self._connection.close()


class Psycopg2:
    def __init__(self, url: str) -> None:
        import psycopg2

        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True

    def run(self, statement: str) -> Any:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return row and row[0]

    def close(self) -> None:
        self._connection.close()


class OnLoop:
    """What is common to drivers that need an event loop: each has its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def wait(self, awaitable: Any) -> Any:
        return self._loop.run_until_complete(awaitable)

    def end(self) -> None:
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()


class Asyncpg(OnLoop):
    def __init__(self, url: str) -> None:
        import asyncpg

        super().__init__()
        try:
            self._connection = self.wait(asyncpg.connect(url))
        except BaseException:
            self.end()
            raise

    def run(self, statement: str) -> Any:
        return self.wait(self._connection.fetchval(statement))

    def close(self) -> None:
        self._connection.terminate()
        self.end()


def engine_url(url: str, driver: str) -> str:
    return url.replace("postgresql:", f"postgresql+{driver}:")


class Sqlalchemy:
    driver = "psycopg"

    def __init__(self, url: str) -> None:
        import sqlalchemy

        self._engine = sqlalchemy.create_engine(
            engine_url(url, self.driver), isolation_level="AUTOCOMMIT"
        )
        try:
            self._connection = self._engine.connect()
        except BaseException:
            self._engine.dispose()
            raise

    def run(self, statement: str) -> Any:
        result = self._connection.exec_driver_sql(statement)
        return result.scalar() if result.returns_rows else None

    def close(self) -> None:
        with suppress(Exception):
            self._connection.invalidate()
            self._connection.close()
        self._engine.dispose()


class SqlalchemyPsycopg2(Sqlalchemy):
    driver = "psycopg2"


class SqlalchemyAsyncpg(OnLoop):
    def __init__(self, url: str) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine

        super().__init__()
        self._engine = create_async_engine(engine_url(url, "asyncpg"), isolation_level="AUTOCOMMIT")
        try:
            self._connection = self.wait(self._engine.connect().__aenter__())
        except BaseException:
            self.wait(self._engine.dispose())
            self.end()
            raise

    def run(self, statement: str) -> Any:
        result = self.wait(self._connection.exec_driver_sql(statement))
        return result.scalar() if result.returns_rows else None

    def close(self) -> None:
        with suppress(Exception):
            self.wait(self._connection.invalidate())
            self.wait(self._connection.close())
        self.wait(self._engine.dispose())
        self.end()


DRIVERS: dict[str, Callable[[str], Connection]] = {
    "psycopg": Psycopg,
    "psycopg2": Psycopg2,
    "asyncpg": Asyncpg,
    "sqlalchemy": Sqlalchemy,
    "sqlalchemy-psycopg2": SqlalchemyPsycopg2,
    "sqlalchemy-asyncpg": SqlalchemyAsyncpg,
}


@attrs.frozen
class Database:
    """A database with one table of two rows, and a driver's connections to it.

    Attributes:
        open: Opens one more connection.
        admin: A connection of its own.
        url: The database's URL.
    """

    open: Callable[..., Connection]
    admin: Psycopg
    url: str


@pytest.fixture(params=DRIVERS)
def database(postgres_url: str, request: pytest.FixtureRequest) -> Iterator[Database]:
    made: list[Connection] = []

    def opened(url: str = postgres_url) -> Connection:
        made.append(DRIVERS[request.param](url))
        return made[-1]

    with closing(Psycopg(postgres_url)) as admin:
        admin.run("create table t (id int primary key, x int not null)")
        admin.run("insert into t values (1, 0), (2, 0)")
        try:
            yield Database(opened, admin, postgres_url)
        finally:
            for one in made:
                one.close()


def serialization(database: Database) -> None:
    one, other = database.open(), database.open()
    one.run("begin isolation level repeatable read")
    one.run("select sum(x) from t")
    other.run("update t set x = 1 where id = 1")
    one.run("update t set x = 2 where id = 1")


def deadlock(database: Database) -> None:
    one, other = database.open(), database.open()
    one.run("set deadlock_timeout = '60s'")
    other.run("set deadlock_timeout = '50ms'")
    for connection, row in ((one, 1), (other, 2)):
        connection.run("begin")
        connection.run(f"update t set x = 1 where id = {row}")
    waiting = threading.Thread(target=one.run, args=("update t set x = 1 where id = 2",))
    waiting.start()
    try:
        until_waiting(database, "Lock")
        other.run("update t set x = 1 where id = 1")
    finally:
        waiting.join()


def until_waiting(database: Database, what: str) -> None:
    """Until a connection waits for something, as pg_stat_activity names it."""
    end = time.monotonic() + 30
    waits = f"select count(*) from pg_stat_activity where wait_event_type = '{what}'"
    mine = " and datname = current_database() and pid <> pg_backend_pid() and state = 'active'"
    while not database.admin.run(waits + mine):
        assert time.monotonic() < end
        time.sleep(0.01)


def terminated_at_work(database: Database) -> None:
    one = database.open()
    pid = one.run("select pg_backend_pid()")

    def terminate() -> None:
        until_waiting(database, "Timeout")
        database.admin.run(f"select pg_terminate_backend({pid})")

    ending = threading.Thread(target=terminate)
    ending.start()
    try:
        one.run("select pg_sleep(60)")
    finally:
        ending.join()


def locked(database: Database) -> None:
    database.admin.run("begin")
    database.admin.run("lock table t")
    try:
        one = database.open()
        one.run("set lock_timeout = '20ms'")
        one.run("select sum(x) from t")
    finally:
        database.admin.run("rollback")


def denied(database: Database) -> None:
    one = database.open()
    one.run("do $$ begin create role nobody_else; exception when others then null; end $$")
    one.run("set role nobody_else")
    one.run("select sum(x) from t")


def failed_transaction(database: Database) -> None:
    one = database.open()
    one.run("begin")
    with suppress(Exception):
        one.run("select 1 / 0")
    one.run("select 1")


def after(setting: str, statement: str) -> Callable[[Database], None]:
    """A statement under a setting of its session."""

    def call(database: Database) -> None:
        one = database.open()
        one.run(f"set {setting}")
        one.run(statement)

    return call


def one_statement(statement: str) -> Callable[[Database], None]:
    return lambda database: database.open().run(statement)


Facts = tuple[Category, Execution, bool]

STATEMENTS: dict[str, tuple[Callable[[Database], None], Facts]] = {
    "40001": (serialization, (T, NE, False)),
    "40P01": (deadlock, (T, NE, False)),
    "57P01": (terminated_at_work, (T, ME, False)),
    "55P03": (locked, (T, NE, False)),
    "57014": (after("statement_timeout = '20ms'", "select pg_sleep(60)"), (X, ME, False)),
    "25006": (
        after("default_transaction_read_only = on", "insert into t values (3, 0)"),
        (T, NE, False),
    ),
    "53400": (  # a limit of the configuration
        after(
            "temp_file_limit = '0kB'",
            "select count(*) from (select generate_series(1, 500000) as x order by 1 desc) y",
        ),
        (T, ME, True),
    ),
    "23505": (one_statement("insert into t values (1, 0)"), (P, NE, False)),
    "23502": (one_statement("insert into t values (3, null)"), (P, NE, False)),
    "22012": (one_statement("select 1 / 0"), (P, NE, False)),
    "42P01": (one_statement("select x from missing"), (N, NE, False)),
    "42703": (one_statement("select missing from t"), (X, NE, False)),
    "42601": (one_statement("selec 1"), (X, NE, False)),
    "42501": (denied, (A, NE, False)),
    "25P02": (failed_transaction, (X, ME, False)),
    "P0001": (one_statement("do $$ begin raise 'no'; end $$"), (X, ME, False)),
}  # fmt: skip


def raised(call: Callable[[], Any]) -> tuple[BaseException, Failure]:
    with pytest.raises(Exception) as caught:
        call()
    failure = classify(caught.value)
    assert (failure.system, failure.origin, failure.known) == ("local", "library", True)
    assert not failure.proves_unexecuted
    return caught.value, failure


@pytest.mark.parametrize("state", STATEMENTS)
def test_server_refuses_statement(database: Database, state: str) -> None:
    call, facts = STATEMENTS[state]
    error, failure = raised(lambda: call(database))
    assert (failure.category, failure.execution, failure.throttled) == facts
    driver: Any = getattr(error, "orig", error)  # behind SQLAlchemy's
    said = driver.pgcode if hasattr(driver, "pgcode") else driver.sqlstate
    # asyncpg and psycopg2 may see the end of the connection before what the server said of it.
    assert said == state or (state == "57P01" and said in {"08003", None})
    assert said is None or said in failure.remedy


def test_idle_connection_that_server_ended(database: Database) -> None:
    one = database.open()
    pid = one.run("select pg_backend_pid()")
    database.admin.run(f"select pg_terminate_backend({pid})")
    while database.admin.run(f"select count(*) from pg_stat_activity where pid = {pid}"):
        time.sleep(0.01)
    _, failure = raised(lambda: one.run("select 1"))
    assert (failure.category, failure.throttled) == (T, False)


CONNECTIONS: dict[str, tuple[str, Facts]] = {
    "3D000": ("postgres@/missing", (N, NE, False)),
    "28000": ("unknown@/postgres", (A, NE, False)),
    "53300": ("few@/postgres", (T, NE, True)),
    "42501": ("outsider@/closed", (A, NE, False)),
}


@pytest.mark.parametrize("state", CONNECTIONS)
def test_server_refuses_connection(
    database: Database, postgres_of_session: PostgresServer, state: str
) -> None:
    whom, facts = CONNECTIONS[state]
    for statement in (
        "create role few login connection limit 0",
        "create role outsider login",
        "create database closed",
        "revoke connect on database closed from public",
    ):
        with suppress(psycopg.errors.DuplicateObject, psycopg.errors.DuplicateDatabase):
            database.admin.run(statement)
    url = f"postgresql://{whom}?host={postgres_of_session.folder}"
    _, failure = raised(lambda: database.open(url))
    assert (failure.category, failure.execution, failure.throttled) == facts


@pytest.mark.parametrize("driver", DRIVERS)
def test_server_that_goes_and_is_gone(postgres_server: PostgresServer, driver: str) -> None:
    with (
        closing(DRIVERS[driver](postgres_server.url)) as one,
        closing(psycopg.connect(postgres_server.url, autocommit=True)) as other,
    ):
        one.run("select 1")

        def stop() -> None:
            sleeps = "select 1 from pg_stat_activity where wait_event = 'PgSleep'"
            until(lambda: other.execute(sleeps).fetchone())
            postgres_server.stop()

        postmaster = postgres_server._postmaster
        assert postmaster is not None
        postmaster.send_signal(signal.SIGTERM)  # "smart": who is there may stay
        deadline = time.monotonic() + 30
        failure = None
        while failure is None:
            assert time.monotonic() < deadline
            try:
                DRIVERS[driver](postgres_server.url).close()
            except Exception as error:
                failure = classify(error)
        assert (failure.category, failure.execution, failure.throttled) == (T, NE, False)  # 57P03
        stopping = threading.Thread(target=stop)
        stopping.start()
        _, failure = raised(lambda: one.run("select pg_sleep(60)"))
        stopping.join()
        assert (failure.category, failure.execution) == (T, ME)
        _, failure = raised(lambda: DRIVERS[driver](postgres_server.url))
        assert (failure.category, failure.execution) == (T, NE)
