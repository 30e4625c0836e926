"""An outbox, its relay, and retries that wait, on an engine with a standalone queue worker."""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from iii import InitOptions, register_worker
from support.waiting import until

from iii_resilience import Backoff, discover, ensure_queue, resilient
from iii_resilience.handling import TransientError, consumer, idempotent
from iii_resilience.stores import SqliteStore

pytestmark = pytest.mark.engine


class World:
    """An engine with a queue worker, a store with an outbox, and a worker that relays it."""

    def __init__(self, url: str, queues: Any, file: Path) -> None:
        self.queues = queues
        self.file = file
        self.tag = f"conformance-{uuid.uuid4().hex[:8]}"
        self.function_id = f"{self.tag}::save"
        self.store = SqliteStore(file)
        self.store.backlog()
        client = register_worker(url, InitOptions(worker_name=self.tag, otel={"enabled": False}))
        self.worker: Any = resilient(client, relay=self.store)
        until(lambda: self.worker.health().relay.active, 60)

    def define(self, name: str, **settings: Any) -> str:
        if self.queues.loopback is not None:
            settings["settle"] = 0
        queue = f"{self.tag}-{name}"
        # An answer that comes too fast is lost (docs/engine-notes.md, 1): its message comes again.
        quick: dict[str, Any] = {"poll_interval": 0.02, "timeout": 3.0, "max_retries": 5}
        ensure_queue(self.worker, queue, **{**quick, **settings})
        return queue

    def serve(self, handler: Callable[..., Any]) -> None:
        self.worker.register_function(self.function_id, handler)
        assert discover(self.worker, self.function_id)

    def enqueue(self, queue: str, *numbers: int) -> None:
        with closing(sqlite3.connect(self.file)) as mine:
            for number in numbers:
                data = {"n": number, "group": "a"}
                self.store.enqueue(mine, queue, self.function_id, data, key=f"k{number}")
                mine.commit()


@pytest.fixture
def world(engine_url: str, queues: Any, tmp_path: Path) -> Iterator[World]:
    made = World(engine_url, queues, tmp_path / "store.db")
    yield made
    made.worker.shutdown()
    made.store.close()


def test_rows_arrive_in_order_through_restart_of_queue_worker(world: World) -> None:
    queue = world.define("fifo", type="fifo", message_group_field="group", backoff=0.02)
    seen: list[int] = []

    @idempotent(world.store)
    def save(data: Any) -> None:
        seen.append(data["n"])

    world.serve(save)
    world.enqueue(queue, *range(20))
    until(lambda: len(seen) == 20, 60)
    world.queues.restart()
    world.enqueue(queue, *range(20, 40))
    until(lambda: len(seen) == 40, 60)
    assert seen == list(range(40))
    until(lambda: world.store.backlog().outbox == 0, 60)


def test_undefined_queue_holds_up_its_own_rows(world: World) -> None:
    queue = world.define("jobs")
    seen: list[int] = []
    world.serve(lambda data: seen.append(data["n"]))
    world.enqueue(f"{world.tag}-later", 1)
    world.enqueue(queue, 2)
    until(lambda: seen == [2], 60)
    until(lambda: world.worker.health().relay.waits_for == "enqueue_error", 60)
    world.define("later")
    until(lambda: seen == [2, 1], 60)


def test_retry_waits_for_its_time_and_holds_no_slot(world: World) -> None:
    queue = world.define("jobs", concurrency=1, timeout=30.0)
    times: dict[int, list[float]] = {1: [], 2: []}
    soon = Backoff(base=0.02, cap=0.02)
    both_sent = threading.Event()

    @consumer(parking=world.store, key="n", queue=queue, retry_later=soon)
    def save(data: Any) -> None:
        times[data["n"]].append(time.monotonic())
        if data["n"] == 1 and len(times[1]) == 1:
            assert both_sent.wait(60)
            raise TransientError("busy", retry_after=3.0)

    world.serve(save)
    world.enqueue(queue, 1, 2)
    until(lambda: world.store.backlog().outbox == 0, 60)
    both_sent.set()
    until(lambda: len(times[1]) == 2 and times[2], 60)
    assert times[1][1] - times[1][0] >= 3.0
    assert times[2][0] < times[1][1]
    until(lambda: not list(world.store.records()), 60)
