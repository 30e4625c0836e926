"""Keys in the user's own transaction: psycopg's, SQLAlchemy's, Django's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.orm import Session
from support.postgres_fixtures import needs_postgres

from iii_resilience.handling import PermanentError, idempotent
from iii_resilience.stores import PostgresStore, StoreRefusedError, StoreUnavailableError

pytestmark = needs_postgres
INSERT = "INSERT INTO effects VALUES ('a')"


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresStore]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE effects (id text)")
    made = PostgresStore(postgres_url)
    yield made
    made.close()


def effects(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM effects").fetchone()
    return int(row[0]) if row else 0


def test_key_and_rows_are_one_commit(store: PostgresStore, postgres_url: str) -> None:
    def book(connection: Any, *, commit: bool) -> int:
        result = store.in_transaction(connection).once(
            "orders::book", "o-1", lambda: connection.execute(INSERT).rowcount
        )
        connection.commit() if commit else connection.rollback()
        return int(result)

    with psycopg.connect(postgres_url) as connection:
        assert book(connection, commit=False) == 1
        assert effects(postgres_url) == 0
        assert book(connection, commit=True) == 1
        assert book(connection, commit=True) == 1, "this is the kept one"
    assert effects(postgres_url) == 1


def test_work_that_fails_leaves_neither(store: PostgresStore, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        keys = store.in_transaction(connection)

        def fails() -> None:
            connection.execute(INSERT)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            keys.once("f", 1, fails)
        connection.commit()
        assert effects(postgres_url) == 0
        assert keys.once("f", 1, lambda: "done") == "done"


def test_session_of_sqlalchemy(store: PostgresStore, postgres_url: str) -> None:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg" + postgres_url.removeprefix("postgresql")
    )
    for _ in range(2):
        with Session(engine) as session, session.begin():
            work = lambda s=session: bool(s.execute(sqlalchemy.text(INSERT)))  # noqa: E731
            assert store.in_transaction(session).once("f", 1, work) == 1
    with engine.begin() as connection:
        assert store.in_transaction(connection).once("f", 1, lambda: 5) == 1
    engine.dispose()
    assert effects(postgres_url) == 1


def test_connection_of_django_holds_psycopgs(store: PostgresStore, postgres_url: str) -> None:
    """Its wrapper has the connection as an attribute, and atomic() turns autocommit off."""
    with psycopg.connect(postgres_url) as inner:
        wrapper = SimpleNamespace(connection=inner)
        assert store.in_transaction(wrapper).once("f", 1, lambda: 5) == 5


def test_other_things_hold_none(store: PostgresStore) -> None:
    with pytest.raises(TypeError, match="holds one, got SimpleNamespace"):
        store.in_transaction(SimpleNamespace())


def test_without_transaction_it_is_refused(store: PostgresStore, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        keys = store.in_transaction(connection)
        with pytest.raises(RuntimeError, match="begin a transaction first"):
            keys.once("f", 1, lambda: 5)
        with connection.transaction():
            assert keys.once("f", 1, lambda: 5) == 5


def test_two_at_once_run_once(store: PostgresStore, postgres_url: str) -> None:
    ran: list[int] = []

    def work() -> str:
        ran.append(1)
        return "done"

    with psycopg.connect(postgres_url) as first, psycopg.connect(postgres_url) as second:
        store.in_transaction(first).once("f", 1, work)
        answers: list[str] = []
        waits = threading.Thread(
            target=lambda: answers.append(store.in_transaction(second).once("f", 1, work))
        )
        waits.start()
        time.sleep(0.2)
        assert answers == []
        first.commit()
        waits.join(30)
    assert answers == ["done"]
    assert len(ran) == 1


def test_it_shares_keys_with_handlers(store: PostgresStore, postgres_url: str) -> None:
    @idempotent(store, key="id", function_id="f")
    def handler(data: Any) -> str:
        if data["id"] == "bad":
            raise PermanentError("no")
        with psycopg.connect(postgres_url) as inside, pytest.raises(StoreUnavailableError):
            store.in_transaction(inside).once("f", data["id"], lambda: 5, payload=data)
        return "the handler's"

    call: Any = handler
    assert call({"id": "good"}) == "the handler's"
    with pytest.raises(PermanentError):
        call({"id": "bad"})
    with psycopg.connect(postgres_url) as connection:
        keys = store.in_transaction(connection)
        assert keys.once("f", "good", lambda: 5, payload={"id": "good"}) == "the handler's"
        with pytest.raises(ValueError, match="another payload"):
            keys.once("f", "good", lambda: 5, payload={"id": "good", "more": 1})
        with pytest.raises(StoreRefusedError, match="failed for good"):
            keys.once("f", "bad", lambda: 5, payload={"id": "bad"})
