"""Workers and the real engine killed at random, on each store, its server under faults or not.

Needs the programs that `III_ENGINE` and `III_QUEUE_WORKER` name, and minutes: `III_LONG=1`.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from iii import InitOptions, register_worker
from support.postgres_fixtures import PostgresServer, needs_postgres
from support.real_engine import RealEngine
from support.redis_fixtures import RedisServer, needs_redis
from support.sqlite_files import opened
from support.waiting import until
from support.warm_process import WarmProcess

from iii_resilience import discover
from iii_resilience.cli.dead_letter_queue import DeadLetterQueue
from iii_resilience.handling.decorators.parked_message import ParkedMessage
from iii_resilience.stores import PostgresStore, RedisStore, SqliteStore, Store

pytestmark = [
    pytest.mark.engine,
    pytest.mark.long,
    pytest.mark.timeout(int(1800 * float(os.environ.get("III_KILLS_PATIENCE", "1")))),
    pytest.mark.skipif(
        not (os.environ.get("III_ENGINE") and os.environ.get("III_QUEUE_WORKER")),
        reason="needs the engine's and the queue worker's program: III_ENGINE, III_QUEUE_WORKER",
    ),
]

WORKER = Path(__file__).parents[1] / "handling" / "decorators" / "kills_worker.py"
MESSAGES = int(os.environ.get("III_KILLS_MESSAGES", "1000"))
KILLS = int(os.environ.get("III_KILLS_KILLS", "20"))
RESTARTS = int(os.environ.get("III_KILLS_RESTARTS", "5"))
# How many times as long as an idle machine needs everything may take.
PATIENCE = float(os.environ.get("III_KILLS_PATIENCE", "1"))
# A delivery that an engine took with it is delivered again after this, and not before.
TIMEOUT_MS = 20_000
FAULTS = ("stall", "full", "restart")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RealEngine]:
    folder = tmp_path / "engine"
    folder.mkdir()
    made = RealEngine(folder)
    try:
        made.start()
        made.start_queue_worker()
        yield made
    finally:
        made.end()


class World:
    """What is under test, and what it has left."""

    def __init__(self, engine: RealEngine, folder: Path, store_url: str) -> None:
        self.engine = engine
        self.folder = folder
        self.store_url = store_url
        self.client: Any = register_worker(
            engine.url, InitOptions(worker_name="kills-caller", otel={"enabled": False})
        )
        self.store: Store
        if store_url.startswith("redis"):
            self.store = RedisStore(store_url)
        elif store_url:
            self.store = PostgresStore(store_url)
            with psycopg.connect(store_url) as server:
                server.execute("CREATE TABLE effects (n integer)")
        else:
            self.store = SqliteStore(folder / "store.db")
            with opened(folder / "store.db") as connection:
                connection.execute("CREATE TABLE effects (n INTEGER)")
        self._worker: WarmProcess | None = None
        self._events: list[dict[str, Any]] = []
        self._read = 0
        self._reading = threading.Lock()

    def ask(self, function_id: str, **payload: Any) -> Any:
        return self.client.trigger({"function_id": function_id, "payload": payload})

    def start_worker(self) -> None:
        more = [self.store_url] if self.store_url else []
        self._worker = WarmProcess(WORKER, self.engine.url, str(self.folder), "jobs", *more)

    def kill_worker(self) -> None:
        process, self._worker = self._worker, None
        if process is not None:
            process.kill()
            process.communicate()

    def log(self) -> list[dict[str, Any]]:
        path = self.folder / "log.jsonl"
        with self._reading:
            if path.exists():
                with path.open("rb") as file:
                    file.seek(self._read)
                    whole, _, _ = file.read().rpartition(b"\n")
                self._events += map(json.loads, whole.splitlines())
                self._read += len(whole) + bool(whole)
            return list(self._events)

    def ended(self) -> int:
        return len({event["n"] for event in self.log() if event["event"] == "end"})

    def inside(self) -> Counter[int]:
        """How often each effect in the store's transaction is there."""
        if self.store_url.startswith("postgres"):
            with psycopg.connect(self.store_url) as server:
                return Counter(n for (n,) in server.execute("SELECT n FROM effects"))
        if self.store_url:
            client: Any = redis.Redis.from_url(self.store_url, decode_responses=True)
            with client:
                found = client.hgetall("effects")
            return Counter({int(n): int(times) for n, times in found.items()})
        with opened(self.folder / "store.db") as connection:
            return Counter(n for (n,) in connection.execute("SELECT n FROM effects"))

    def parked(self) -> list[tuple[int, str]]:
        """The number and the cause of each parked message."""
        found = map(ParkedMessage.from_record, self.store.records())
        return sorted(
            (one.data()["n"], one.told.code) for one in found if one is not None and one.parked_at
        )

    def dead(self, queue: str) -> list[tuple[int, str | None]]:
        """The number and the cause of each dead letter."""
        letters = DeadLetterQueue(self.client, queue, self.store).letters()
        return sorted((letter.data["n"], letter.code) for letter in letters if not letter.stored)

    def close(self) -> None:
        self.kill_worker()
        self.client.shutdown()
        self.store.close()


def enqueue(world: World) -> dict[str, list[int]]:
    """Of each kind of message its numbers, all of them enqueued."""
    rare = max(4, MESSAGES // 20)
    kinds = ["inside", "outside"] * ((MESSAGES - 2 * rare) // 2)
    kinds += ["refused"] * rare + ["busy"] * rare
    random.shuffle(kinds)
    numbers: dict[str, list[int]] = {}
    for n, kind in enumerate(kinds):
        numbers.setdefault(kind, []).append(n)
        queue = "doomed" if kind == "busy" else "jobs"
        world.client.trigger(
            {
                "function_id": f"jobs::{kind}",
                "payload": {"n": n},
                "action": {"type": "enqueue", "queue": queue},
            }
        )
    return numbers


def disturb(server: RedisServer, world: World, over: threading.Event, seen: Counter[str]) -> None:
    """One fault after the other, with time to work in between, as long as there is work."""
    for fault in itertools.cycle(FAULTS):
        if over.wait(random.uniform(3.0, 6.0)) or world.ended() >= 0.9 * MESSAGES:
            return
        seen[fault] += 1
        if fault == "stall":
            server.stall()
            time.sleep(random.uniform(0.5, 5.0))
            server.go_on()
        elif fault == "full":
            client: Any = redis.Redis.from_url(server.url)
            with client:
                client.config_set("maxmemory", "1")
                time.sleep(random.uniform(1.0, 3.0))
                client.config_set("maxmemory", "0")
        else:
            server.stop()
            time.sleep(random.uniform(0.2, 2.0))
            server.start()


POSTGRES_FAULTS = {"restart": RESTARTS, "kill of the postmaster": 1, "stall": 2}


def disturb_postgres(
    server: PostgresServer, world: World, over: threading.Event, seen: Counter[str]
) -> None:
    """Immediate restarts, a kill of the postmaster, and stalls: all of them, over the work."""
    faults = [fault for fault, times in POSTGRES_FAULTS.items() for _ in range(times)]
    random.shuffle(faults)
    for number, fault in enumerate(faults, 1):
        if not at_share(world, number / (len(faults) + 1), over):
            return
        if fault == "stall":
            server.stall()
            time.sleep(random.uniform(0.5, 8.0))
            server.go_on()
        else:
            if fault != "restart":
                server.kill()
            server.restart()
        seen[fault] += 1


def at_share(world: World, share: float, over: threading.Event) -> bool:
    """Wait until so much is done, but not for ever: the rest may wait for a lease."""
    end = time.monotonic() + 30 * PATIENCE
    while world.ended() < share * MESSAGES and time.monotonic() < end:
        if over.wait(0.05):
            return False
    return True


def patiently(true: Callable[[], bool]) -> Callable[[], bool]:
    """False as long as it cannot be looked at."""

    def ask() -> bool:
        try:
            return true()
        except Exception:
            return False

    return ask


@pytest.mark.parametrize(
    "kind",
    [
        "sqlite",
        pytest.param("redis", marks=needs_redis),
        pytest.param("redis under faults", marks=needs_redis),
        pytest.param("postgres", marks=needs_postgres),
        pytest.param("postgres under faults", marks=needs_postgres),
    ],
)
def test_nothing_is_lost_and_no_effect_inside_comes_twice(
    engine: RealEngine, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    server: Any = None
    if kind != "sqlite":
        server = request.getfixturevalue(f"{kind.split(maxsplit=1)[0]}_server")
    world = World(engine, tmp_path, "" if server is None else server.url)
    over, faults = threading.Event(), Counter[str]()
    does: Any = disturb_postgres if kind.startswith("postgres") else disturb
    disturber = threading.Thread(target=does, args=(server, world, over, faults))
    try:
        assert discover(world.client, "queue::define", timeout=60)
        # The last try of a doomed message comes when the store is there again: a cause that no
        # store could take is not on record.
        for name, retries, backoff in (("jobs", 60, 1), ("doomed", 4, 500)):
            config = {
                "max_retries": retries,
                "backoff_ms": backoff,
                "concurrency": 40,
                "timeout_ms": TIMEOUT_MS,
                "redeliver_on_engine_restart": True,
            }
            until(patiently(lambda: defined(world, name, config)), 60)  # noqa: B023 - at once
        numbers = enqueue(world)
        began = time.monotonic()
        if kind.endswith("under faults"):
            disturber.start()
        struck = strike(world, over)
        assert struck == {"kill": KILLS, "restart": RESTARTS}
        if disturber.ident is not None:
            disturber.join()
            assert faults == POSTGRES_FAULTS or not kind.startswith("postgres")
        wanted = Counter(numbers["inside"])
        parked = [(n, "REFUSED") for n in sorted(numbers["refused"])]
        dead = [(n, "BUSY") for n in sorted(numbers["busy"])]
        until(patiently(lambda: set(world.inside()) == set(wanted)), 400 * PATIENCE)
        until(patiently(lambda: world.parked() == parked), 120 * PATIENCE)
        until(patiently(lambda: world.dead("doomed") == dead), 120 * PATIENCE)
        outside = set(numbers["outside"])
        until(
            lambda: {e["n"] for e in world.log() if e["event"] == "effect"} >= outside,
            120 * PATIENCE,
        )
        time.sleep(1.5 * TIMEOUT_MS / 1000)  # what was delivered twice comes until then
        assert world.inside() == wanted
        assert world.parked() == parked
        assert world.dead("jobs") == []
        assert world.dead("doomed") == dead
        repeated = Counter(e["n"] for e in world.log() if e["event"] == "effect")
        sys.stdout.write(
            f"\n{kind}: {MESSAGES} messages, {struck['kill']} kills, {struck['restart']} engine "
            f"restarts, of its server {dict(faults)}: {len(wanted)} effects inside once each, "
            f"{repeated.total() - len(outside)} of {len(outside)} outside repeated, "
            f"{len(numbers['refused'])} parked, {len(numbers['busy'])} dead letters, "
            f"{time.monotonic() - began:.0f} s\n"
        )
    finally:
        over.set()
        if disturber.ident is not None:
            disturber.join()
        world.close()


def defined(world: World, name: str, config: dict[str, Any]) -> bool:
    """Defined, and still so a moment later: the engine reads its files again."""
    world.ask("queue::define", queue=name, config=config)
    time.sleep(1.0)
    return world.ask("queue::define", queue=name, config=config)["changed"] is False


def strike(world: World, over: threading.Event) -> Counter[str]:
    """Kill workers and engines, spread over the work."""
    disasters = ["kill"] * KILLS + ["restart"] * RESTARTS
    random.shuffle(disasters)
    world.start_worker()
    done: Counter[str] = Counter()
    for number, disaster in enumerate(disasters, 1):
        at_share(world, number / (len(disasters) + 1), over)
        if disaster == "kill":
            world.kill_worker()
            world.start_worker()
        else:
            world.engine.kill()
            time.sleep(random.uniform(0.0, 0.5))
            world.engine.start()
        done[disaster] += 1
    return done
