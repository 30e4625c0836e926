"""An order that must follow a payment, while everything is killed in turn.

The payment and the message are one transaction, a relay hands the message to the queue, and the
order is written in the transaction that keeps its key. On the loopback engine; at full size on the
engine and the queue worker that `III_ENGINE` and `III_QUEUE_WORKER` name.
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest
from iii import InitOptions, register_worker
from support import payments
from support.payments import is_paid
from support.postgres_fixtures import PostgresServer, needs_postgres
from support.real_engine import RealEngine
from support.waiting import until
from support.warm_process import WarmProcess

from iii_resilience import discover, ensure_queue
from iii_resilience.testing import LoopbackEngine

PROGRAM = Path(payments.__file__)
PATIENCE = float(os.environ.get("III_KILLS_PATIENCE", "1"))
TIMEOUT_MS = 20_000  # a delivery that an engine took with it comes again after this


@attrs.frozen
class Size:
    """How many payments, and how often everything is killed in turn."""

    payments: int
    turns: int


SHORT = Size(payments=30, turns=1)
LONG = Size(payments=int(os.environ.get("III_KILLS_PAYMENTS", "600")), turns=4)
KINDS = ["sqlite", pytest.param("postgres", marks=needs_postgres)]


@attrs.define
class World:
    """The processes, and what they have written."""

    url: str
    address: str
    processes: dict[str, WarmProcess] = attrs.field(factory=dict)

    def start(self, name: str) -> None:
        role, _, size = name.partition(" ")
        more = size if role == "pay" else self.url
        self.processes[name] = WarmProcess(PROGRAM, role, self.address, more)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.communicate()

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def numbers(self, query: str) -> list[int]:
        if self.address.startswith("postgresql"):
            with psycopg.connect(self.address) as server:
                return sorted(n for (n,) in server.execute(query.encode()))
        connection = sqlite3.connect(self.address)
        try:
            return sorted(n for (n,) in connection.execute(query))
        finally:
            connection.close()

    def try_numbers(self, query: str) -> list[int] | None:
        """None as long as the database cannot be looked at."""
        try:
            return self.numbers(query)
        except (psycopg.Error, sqlite3.Error):
            return None

    def ordered(self) -> int:
        return len(set(self.try_numbers(ORDERS) or ()))

    def is_done(self, wanted: list[int]) -> bool:
        dot = "." if self.address.startswith("postgresql") else "_"  # a schema's, or a file's
        outbox = f"SELECT id FROM iii_resilience{dot}outbox"
        found = [self.try_numbers(query) for query in (PAYMENTS, ORDERS, outbox)]
        return found == [wanted, wanted, []]


PAYMENTS, ORDERS = "SELECT id FROM payments", "SELECT id FROM orders"


def prepared(address: str) -> str:
    """The address, with the user's tables there. Nothing keeps an order from coming twice."""
    with payments.open_database(address) as connection:
        connection.execute("CREATE TABLE payments (id integer PRIMARY KEY)")
        connection.execute("CREATE TABLE orders (id integer, paid integer)")
    connection.close()
    return address


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, PostgresServer | None]:
    """The address of a store, and its server."""
    if request.param == "sqlite":
        return prepared(str(tmp_path / "shop.db")), None
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return prepared(server.url), server


def run(world: World, size: Size, kills: dict[str, Callable[[], None]]) -> Counter[str]:
    """Everything is killed in turn, spread over the orders, and starts again at once."""
    pay = f"pay {size.payments}"

    def again(name: str) -> None:
        world.kill(name)
        world.start(name)

    processes: dict[str, Callable[[], None]] = {
        "worker": lambda: again("work"),
        "relay": lambda: again(random.choice(["relay 1", "relay 2"])),
        "payer": lambda: again(pay),
    }
    for name in ("work", "relay 1", "relay 2", pay):
        world.start(name)
    wanted = [n for n in range(size.payments) if is_paid(n)]
    turns = [list((processes | kills).items()) for _ in range(size.turns)]
    for turn in turns:
        random.shuffle(turn)
    disasters = [one for turn in turns for one in turn]
    done: Counter[str] = Counter()
    for number, (name, strike) in enumerate(disasters, 1):
        share = len(wanted) * number / (len(disasters) + 1)
        end = time.monotonic() + 30 * PATIENCE
        while world.ordered() < share and time.monotonic() < end:
            time.sleep(0.02)
        strike()
        done[name] += 1
    until(lambda: world.is_done(wanted), 600 * PATIENCE)
    return done


def check(world: World, size: Size) -> None:
    """As many orders as payments: each once, and each after its payment."""
    wanted = [n for n in range(size.payments) if is_paid(n)]
    assert world.numbers(PAYMENTS) == wanted
    assert world.numbers(ORDERS) == wanted
    assert set(world.numbers("SELECT paid FROM orders")) == {1}


@pytest.mark.parametrize("database", KINDS, indirect=True)
@pytest.mark.timeout(900)
def test_as_many_orders_as_payments(
    database: tuple[str, PostgresServer | None],
) -> None:
    address, server = database
    with LoopbackEngine() as engine:
        engine.define_queue(
            "orders", max_retries=60, backoff_ms=1, redeliver_on_engine_restart=True
        )
        world = World(engine.url, address)
        kills: dict[str, Callable[[], None]] = {
            "provider": lambda: engine.restart_queue_worker(down_for=0.2),
            "engine": lambda: engine.restart(down_for=0.2),
        }
        if server is not None:
            kills["postgres"] = server.restart
        try:
            done = run(world, SHORT, kills)
            engine.wait_queue_idle("orders", timeout=120)
            check(world, SHORT)
            assert engine.dead_letters("orders") == ()
        finally:
            world.close()
        assert done == dict.fromkeys([*kills, "worker", "relay", "payer"], SHORT.turns)


@pytest.mark.engine
@pytest.mark.long
@pytest.mark.timeout(int(1800 * PATIENCE))
@pytest.mark.skipif(
    not (os.environ.get("III_ENGINE") and os.environ.get("III_QUEUE_WORKER")),
    reason="needs the engine's and the queue worker's program: III_ENGINE, III_QUEUE_WORKER",
)
@pytest.mark.parametrize("database", KINDS, indirect=True)
def test_as_many_orders_as_payments_on_real_engine(
    database: tuple[str, PostgresServer | None], tmp_path: Path
) -> None:
    address, server = database
    folder = tmp_path / "engine"
    folder.mkdir()
    engine = RealEngine(folder)
    engine.start()
    engine.start_queue_worker()
    world = World(engine.url, address)
    client: Any = register_worker(
        engine.url, InitOptions(worker_name="payments-test", otel={"enabled": False})
    )

    def lose_provider() -> None:
        engine.kill_queue_worker()
        time.sleep(random.uniform(0.0, 1.0))
        engine.start_queue_worker()

    def lose_engine() -> None:
        engine.kill()
        time.sleep(random.uniform(0.0, 0.5))
        engine.start()

    def lose_postgres() -> None:
        assert server is not None
        if random.random() < 0.5:
            server.kill()
        server.restart()

    kills = {"provider": lose_provider, "engine": lose_engine}
    if server is not None:
        kills["postgres"] = lose_postgres
    began = time.monotonic()
    try:
        assert discover(client, "queue::define", timeout=60)
        ensure_queue(
            client,
            "orders",
            max_retries=60,
            backoff=0.001,
            concurrency=20,
            timeout=TIMEOUT_MS / 1000,
        )
        done = run(world, LONG, kills)
        time.sleep(1.5 * TIMEOUT_MS / 1000)  # what was delivered twice comes until then
        check(world, LONG)
        sys.stdout.write(
            f"\n{LONG.payments} payments, kills {dict(done)}: "
            f"{len(world.numbers(ORDERS))} orders, {time.monotonic() - began:.0f} s\n"
        )
    finally:
        world.close()
        client.shutdown()
        engine.end()
