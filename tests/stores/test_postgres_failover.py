"""A primary that is lost, and its standby in its place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.postgres_fixtures import PostgresServer, needs_postgres
from support.waiting import until

from iii_resilience.handling import TransientError, idempotent
from iii_resilience.stores import PostgresStore

pytestmark = needs_postgres


@pytest.fixture
def standby(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """Follows `postgres_server`."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = PostgresServer(folder)
    try:
        postgres_server.execute("CREATE TABLE effects (id int)")
        server.create_standby_of(postgres_server)
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def either(primary: PostgresServer, standby: PostgresServer) -> str:
    """A DSN that leads to that of the two which takes writes."""
    return (
        f"host={primary.folder},{standby.folder} user=postgres dbname=postgres "
        "target_session_attrs=read-write"
    )


def booking(store: PostgresStore) -> Any:
    @idempotent(store, key="id", function_id="f", wait=0.5)
    def book(data: Any, transaction: Any) -> str:
        transaction.execute("INSERT INTO effects VALUES (%s)", (data["id"],))
        return "booked"

    return book


def booked(server: PostgresServer) -> list[int]:
    return [n for (n,) in server.execute("SELECT id FROM effects ORDER BY id")]


def fail_over(primary: PostgresServer, standby: PostgresServer, book: Any) -> None:
    """Lose the primary; what is called before the promotion is not run."""
    primary.kill()
    with pytest.raises(TransientError) as caught:
        book({"id": 1000})
    assert caught.value.code == "STORE_UNAVAILABLE"
    standby.promote()


def test_synchronous_standby_has_all_that_has_run(
    postgres_server: PostgresServer, standby: PostgresServer
) -> None:
    postgres_server.execute(
        "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"
    )
    state = "SELECT sync_state FROM pg_stat_replication"
    until(lambda: postgres_server.execute(state) == [("sync",)])
    store = PostgresStore(either(postgres_server, standby), timeout=10.0)
    book = booking(store)
    for n in range(20):
        assert book({"id": n}) == "booked"
    fail_over(postgres_server, standby, book)
    for n in range(30):
        assert book({"id": n}) == "booked"
    assert booked(standby) == list(range(30)), "what had run did not run again"
    store.close()


def test_asynchronous_standby_lacks_effect_and_key_alike(
    postgres_server: PostgresServer, standby: PostgresServer
) -> None:
    store = PostgresStore(either(postgres_server, standby), timeout=10.0)
    book = booking(store)
    book({"id": 0})
    until(lambda: patient(standby) == [0])
    standby.stop()  # it hears no more
    book({"id": 1})
    postgres_server.kill()
    standby.start()
    standby.promote()
    assert booked(standby) == [0]
    for n in range(2):
        assert book({"id": n}) == "booked"
    assert booked(standby) == [0, 1], "the one that was lost ran again, and once"
    store.close()


def patient(standby: PostgresServer) -> list[int]:
    try:
        return booked(standby)
    except Exception:  # the table is not there yet
        return []
