"""What drivers of databases say beyond their classes, without a database."""

from __future__ import annotations

import sqlite3
from typing import Any

import asyncpg
import psycopg
import psycopg2
import psycopg2.pool
import pytest
import sqlalchemy.exc
from support.short_names import ME, NE, A, P, T, X

from iii_resilience import Category, classify
from iii_resilience.core.classifiers.database_details import invalidated, of_state
from iii_resilience.core.failure import Failure

AGAIN = "repeat the call only if it is idempotent"
CLIENT = "fix the program: it uses the client in a way that the library refuses"
SLOWER = "slow down: the other side is overloaded or limits its callers"
ACCESS = "fix the credentials or the rights that the call is made with"
UP = "check that the database is up and can be reached"


# Connections that were lost before

LOST = [
    asyncpg.InterfaceError("connection is closed"),
    asyncpg.InterfaceError("cannot call Connection.fetch(): connection is closed"),
    psycopg2.InterfaceError("connection already closed"),
]


@pytest.mark.parametrize("error", LOST, ids=repr)
def test_use_of_lost_connection_never_ran_and_may_be_repeated(error: Exception) -> None:
    failure = classify(error)
    assert (failure.category, failure.execution, failure.throttled) == (T, NE, False)
    assert (failure.remedy, failure.message) == (AGAIN, str(error))


MISUSED = [
    asyncpg.InterfaceError("cannot perform operation: another operation is in progress"),
    asyncpg.InterfaceError("the server expects 1 argument for this query, 2 were passed"),
    psycopg2.InterfaceError("cursor already closed"),
    psycopg2.pool.PoolError("trying to put unkeyed connection"),
    psycopg2.pool.PoolError("connection pool is closed"),
]


@pytest.mark.parametrize("error", MISUSED, ids=repr)
def test_wrong_use_of_driver_stays_wrong(error: Exception) -> None:
    failure = classify(error)
    assert (failure.category, failure.execution, failure.throttled) == (X, NE, False)
    assert failure.remedy == CLIENT


def test_exhausted_pool_never_ran_and_wants_fewer_calls() -> None:
    failure = classify(psycopg2.pool.PoolError("connection pool exhausted"))
    assert (failure.category, failure.execution, failure.throttled) == (T, NE, True)
    assert failure.remedy == SLOWER


# Errors of connecting, which have words but no SQLSTATE

FATAL = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: FATAL:  '


@pytest.mark.parametrize("kind", [psycopg.OperationalError, psycopg2.OperationalError])
@pytest.mark.parametrize(
    ("words", "category", "throttled", "remedy"),
    [
        (FATAL + 'password authentication failed for user "x"', A, False, ACCESS),
        (FATAL + 'role "x" does not exist', A, False, ACCESS),
        (FATAL + 'no pg_hba.conf entry for host "10.0.0.1"', A, False, ACCESS),
        (FATAL + "sorry, too many clients already", T, True, SLOWER),
        (FATAL + "remaining connection slots are reserved for superusers", T, True, SLOWER),
        (FATAL + "the database system is starting up", T, False, UP),
        ("connection to server on socket failed: No such file or directory", T, False, UP),
        ("could not translate host name to address", T, False, UP),
        ("connection timeout expired", T, False, UP),
    ],
)
def test_words_of_refused_connection_say_why(
    kind: Any, words: str, category: Category, *, throttled: bool, remedy: str
) -> None:
    failure = classify(kind(words))
    assert (failure.category, failure.execution, failure.throttled) == (category, NE, throttled)
    assert failure.remedy == remedy


@pytest.mark.parametrize("kind", [psycopg.OperationalError, psycopg2.OperationalError])
def test_connection_lost_under_statement_may_have_run(kind: Any) -> None:
    words = "consuming input failed: server closed the connection; too many clients"
    failure = classify(kind(words))
    assert (failure.category, failure.execution, failure.throttled) == (T, ME, False)


# States


@pytest.mark.parametrize(
    ("state", "shown"), [("57P03", "57P03"), ("57P03-and-more", "57P03"), ("99", "99")]
)
def test_remedy_names_state_in_five_characters(state: str, shown: str) -> None:
    row = Failure("a.B", X, ME, remedy="as the row says")
    assert of_state(state, row).remedy.endswith(f" (SQLSTATE {shown})")


class DeadlockOfPsycopg2(psycopg2.OperationalError):  # type: ignore[misc]
    """As psycopg2 raises it: the state is in a field of another name."""

    pgcode = "40P01"


def test_state_of_psycopg2_outranks_words() -> None:
    failure = classify(DeadlockOfPsycopg2("connection to server failed: permission denied"))
    assert (failure.category, failure.execution) == (T, NE)
    assert failure.remedy == f"{AGAIN} (SQLSTATE 40P01)"


# SQLite: the extended codes have the plain one in their low byte


@pytest.mark.parametrize("code", [5, 6, 5 | (2 << 8), 6 | (1 << 8)])
def test_busy_sqlite_never_ran(code: int) -> None:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = code
    failure = classify(error)
    assert (failure.category, failure.execution, failure.remedy) == (T, NE, AGAIN)


@pytest.mark.parametrize("code", [1, 4, 7, 10, None])
def test_other_fault_of_sqlite_is_unknown(code: int | None) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    if code is not None:
        error.sqlite_errorcode = code
    assert not classify(error).known


# SQLAlchemy, around a driver


def around(orig: BaseException, *, dead: bool = False) -> sqlalchemy.exc.DBAPIError:
    return sqlalchemy.exc.DBAPIError("select 1", {}, orig, connection_invalidated=dead)


def test_sqlalchemy_says_what_its_driver_says() -> None:
    driver = psycopg.errors.lookup("23505")("words")
    failure = classify(around(driver))
    inner = classify(driver)
    assert failure.inner == inner
    assert failure.code == "sqlalchemy.exc.DBAPIError"
    assert (failure.category, failure.execution, failure.remedy) == (P, NE, inner.remedy)


@pytest.mark.parametrize("orig", [ValueError("words"), psycopg.errors.lookup("XX000")("words")])
def test_connection_found_dead_may_have_run(orig: Exception) -> None:
    failure = classify(around(orig, dead=True))
    assert (failure.category, failure.execution, failure.remedy) == (T, ME, AGAIN)
    assert classify(around(orig)).category is X


def test_dead_connection_keeps_what_driver_proves() -> None:
    failure = classify(around(psycopg.errors.lookup("57P03")("words"), dead=True))
    assert (failure.category, failure.execution) == (T, NE)
    assert failure.remedy.endswith("(SQLSTATE 57P03)")


@pytest.mark.parametrize("mark", [1, "yes", None])
def test_only_true_says_that_connection_is_dead(mark: object) -> None:
    error = around(ValueError("words"))
    error.connection_invalidated = mark  # type: ignore[assignment]
    row = Failure("a.B", X, ME, remedy="as the row says")
    assert invalidated(error, row) == row


def test_statement_that_failed_before_it_was_sent_has_no_driver() -> None:
    error = sqlalchemy.exc.StatementError("words", "select 1", {}, ValueError("words"))
    failure = classify(error)
    assert (failure.category, failure.execution, failure.inner) == (X, ME, None)


def test_driver_of_asyncio_is_found_behind_its_adapter() -> None:
    adapted = type("Error", (Exception,), {})
    adapted.__module__ = "sqlalchemy.dialects.postgresql.asyncpg"
    adapted.__qualname__ = "AsyncAdapt_asyncpg_dbapi.Error"
    middle = adapted("words")
    middle.__cause__ = asyncpg.SerializationError("words")
    failure = classify(around(middle))
    assert (failure.category, failure.execution) == (T, NE)
    assert failure.inner is not None
    assert failure.inner.inner is not None
    assert failure.inner.inner.code == "asyncpg.exceptions.SerializationError"
