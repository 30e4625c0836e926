"""Relays as processes: one is active, and the other takes over when it is killed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.postgres_fixtures import needs_postgres
from support.waiting import until
from support.warm_process import WarmProcess

from iii_resilience import Backoff, resilient
from iii_resilience.handling import consumer, idempotent
from iii_resilience.sdk.propagation import PAYLOAD_FIELD
from iii_resilience.stores import PostgresStore, SqliteStore
from iii_resilience.testing import LoopbackEngine

ID = "orders::save"
PROGRAM = Path(__file__).parent / "relay_process.py"


class RelayProcess:
    """One relay, killed at the end."""

    def __init__(self, *arguments: str, program: Path = PROGRAM) -> None:
        self.process = WarmProcess(program, *arguments)
        self.words: list[str] = []

    def says(self, word: str) -> None:
        """Wait for a word; two threads say them, so others may come before it."""
        while word not in self.words:
            line = self.process.stdout.readline()
            assert line, f"it ended, and never said {word!r}"
            self.words.append(line.strip())
        self.words.remove(word)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., RelayProcess]]:
    started: list[RelayProcess] = []

    def start(*arguments: str, **more: Path) -> RelayProcess:
        started.append(RelayProcess(*arguments, **more))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=needs_postgres)])
def test_killed_between_receipt_and_delete(
    kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    engine: LoopbackEngine,
    connect: Callable[..., Any],
    start: Callable[..., RelayProcess],
) -> None:
    if kind == "sqlite":
        where = str(tmp_path / "store.db")
        store: Any = SqliteStore(where)
        store.backlog()
        mine: Any = sqlite3.connect(where)
    else:
        where = request.getfixturevalue("postgres_url")
        store, mine = PostgresStore(where), psycopg.connect(where)
    ran: list[int] = []

    @idempotent(store)
    def save(data: Any) -> None:
        ran.append(data["n"])

    worker = resilient(connect())
    worker.register_function(ID, save)
    engine.wait_registered(ID)
    engine.define_queue("orders", concurrency=1)
    first = start(engine.url, where, "stuck")
    first.says("standby")
    first.says("active")
    second = start(engine.url, where)
    second.says("standby")
    for number in range(3):
        store.enqueue(mine, "orders", ID, {"n": number}, key=f"k{number}")
    mine.commit()
    first.says("receipt")
    until(lambda: ran == [0], 60)
    time.sleep(0.5)
    assert [call.data["n"] for call in engine.calls(ID) if call.action == "enqueue"] == [0]
    killed_at = time.monotonic()
    first.kill()
    second.says("active")
    took = time.monotonic() - killed_at
    for _ in range(3):
        second.says("receipt")
    until(lambda: store.backlog().outbox == 0, 60)
    engine.wait_queue_idle("orders")
    sent = [call.data for call in engine.calls(ID) if call.action == "enqueue"]
    assert [data["n"] for data in sent] == [0, 0, 1, 2]
    assert [data[PAYLOAD_FIELD]["idempotency_key"] for data in sent] == ["k0", "k0", "k1", "k2"]
    assert ran == [0, 1, 2]
    assert took < 60
    worker.shutdown()
    mine.close()
    store.close()


def test_killed_between_record_and_acknowledgement(
    tmp_path: Path,
    engine: LoopbackEngine,
    connect: Callable[..., Any],
    start: Callable[..., RelayProcess],
) -> None:
    where = str(tmp_path / "store.db")
    store = SqliteStore(where)
    engine.define_queue("orders", backoff_ms=100)
    dies = start(engine.url, where, program=PROGRAM.with_name("waiting_process.py"))
    dies.says("serves")
    engine.wait_registered(ID)
    caller = resilient(connect())
    action = {"type": "enqueue", "queue": "orders"}
    caller.trigger({"function_id": ID, "payload": {"n": 1}, "action": action})
    dies.says("recorded")
    dies.process.wait()
    ran: list[Any] = []

    @consumer(parking=store, key="n", queue="orders", retry_later=Backoff())
    def save(data: Any) -> None:
        ran.append(store.backlog().retries)

    worker: Any = resilient(connect(), relay=store)
    worker.register_function(ID, save)
    engine.wait_queue_idle("orders")
    (record,) = store.records()
    assert (ran, record.deliveries) == ([], 1), "the repeated delivery is acknowledged, not run"
    store.postpone(record.id, record.note, seconds=0.0)  # its time has come
    until(lambda: ran, 60)
    engine.wait_queue_idle("orders")
    until(lambda: store.backlog().retries == 0, 60)
    assert len(ran) == 1, "the retry is one"
    enqueued = [call.data.get(PAYLOAD_FIELD) for call in engine.calls(ID)]
    assert enqueued == [None, {"attempt": 2}]
    assert list(store.records()) == []
    worker.shutdown()
    caller.shutdown()
    store.close()
