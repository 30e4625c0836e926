"""What a queue, its consumers and its operator meet on an engine with a standalone queue worker.

Every queue, topic and function has a name of its own, for the engine may be shared. What restarts
the queue worker needs one that it may kill (`III_QUEUE_WORKER`).
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from iii import InitOptions, register_worker
from support.engine_fixtures import end
from support.paths import ROOT
from support.real_sdk import InvocationError, needs
from support.sqlite_files import opened
from support.waiting import until
from support.warm_process import WarmProcess
from typer.testing import CliRunner

from iii_resilience import (
    Backoff,
    Enqueue,
    Enqueued,
    RetryPolicy,
    discover,
    ensure_queue,
    hint_for,
    resilient,
)
from iii_resilience.cli.app import app
from iii_resilience.handling import PermanentError, TransientError, consumer, idempotent
from iii_resilience.sdk.propagation import PAYLOAD_FIELD
from iii_resilience.stores import MemoryStore, SqliteStore

pytestmark = pytest.mark.engine

POLICY = RetryPolicy(
    attempts=2,
    backoff=Backoff(base=0.02, cap=0.2, throttled_base=0.02),
    deadline=20.0,
    ready_timeout=5.0,
)
KILLS_WORKER = ROOT / "tests" / "handling" / "decorators" / "kills_worker.py"


class World:
    """An engine with a queue worker, one queue, a worker and a caller."""

    def __init__(self, url: str, queues: Any) -> None:
        self.url = url
        self.queues = queues
        self.tag = f"conformance-{uuid.uuid4().hex[:8]}"
        self.queue = f"{self.tag}-jobs"
        self.clients: list[Any] = []
        self.target = self.connect()
        self.caller = resilient(self.connect(), policies=POLICY)

    def connect(self) -> Any:
        name = f"conformance-{uuid.uuid4().hex[:8]}"
        client = register_worker(self.url, InitOptions(worker_name=name, otel={"enabled": False}))
        self.clients.append(client)
        return client

    def close(self) -> None:
        self.caller.shutdown()
        for client in self.clients:
            end(client)

    def ask(self, function_id: str, **payload: Any) -> Any:
        return self.target.trigger({"function_id": function_id, "payload": payload})

    def define(self, **settings: Any) -> None:
        quick: dict[str, Any] = {"max_retries": 1, "backoff": 0.02, "poll_interval": 0.02}
        if self.queues.loopback is not None:
            quick["settle"] = 0  # what takes definitions back is the real engine
        assert ensure_queue(self.target, self.queue, **{**quick, **settings})

    def serve(self, name: str, handler: Callable[..., Any]) -> str:
        function_id = f"{self.tag}::{name}"
        self.target.register_function(function_id, handler)
        assert discover(self.target, function_id)
        return function_id

    def enqueue(self, function_id: str, payload: Any) -> str:
        action = {"type": "enqueue", "queue": self.queue}
        answer = self.caller.trigger(
            {"function_id": function_id, "payload": payload, "action": action}
        )
        receipt = answer["messageReceiptId"]
        assert isinstance(receipt, str)
        return receipt

    def ended(self) -> tuple[int, int]:
        """How many messages were delivered for good, and how many are dead letters."""
        stats = self.ask("engine::queue::topic_stats", topic=self.queue)
        return stats["delivered"], stats["dlq_depth"]

    def wait_for(self, delivered: int, dead: int = 0) -> None:
        until(lambda: self.ended() == (delivered, dead), 60)

    def dead(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("engine::queue::dlq_messages", topic=self.queue)
        return found

    def definitions(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("configuration::get", id="queue")["value"]["queue_configs"]
        return found


@pytest.fixture
def world(engine_url: str, queues: Any) -> Iterator[World]:
    made = World(engine_url, queues)
    yield made
    made.close()


class TestHandOver:
    def test_call_given_up_goes_to_queue_with_its_context(self, world: World) -> None:
        world.define()
        seen: list[Any] = []

        def handler(data: Any) -> str:
            seen.append(data)
            if len(seen) <= 2:
                raise TransientError("busy", code="BUSY")
            return "done"

        function_id = world.serve("busy", handler)
        payload = {"n": 1}
        result = world.caller.trigger(
            {"function_id": function_id, "payload": payload},
            idempotent=True,
            idempotency_key="k1",
            policy=POLICY.replace(fallback=Enqueue(world.queue)),
            accept_enqueued=True,
        )
        assert isinstance(result, Enqueued)
        assert str(uuid.UUID(result.receipt_id)) == result.receipt_id
        world.wait_for(delivered=1)
        assert payload == {"n": 1}
        assert [data["n"] for data in seen] == [1, 1, 1]
        assert seen[2][PAYLOAD_FIELD] == {
            "attempt": 3,
            "idempotency_key": "k1",
            "already_retried": True,
            "function_id": function_id,
            "code": result.failure.code,
        }

    def test_key_that_travelled_makes_it_run_once(self, world: World) -> None:
        world.define()
        seen: list[Any] = []
        store = MemoryStore()

        @idempotent(store)
        def handler(data: Any) -> str:
            seen.append({key: data[key] for key in data if key != "_caller_worker_id"})
            return "done"

        worker = resilient(world.target)
        function_id = f"{world.tag}::once"
        policy = POLICY.replace(ready_timeout=0.2, fallback=Enqueue(world.queue))
        for _ in range(2):
            result = world.caller.trigger(
                {"function_id": function_id, "payload": {"n": 1}},
                idempotency_key="k1",
                policy=policy,
                accept_enqueued=True,
            )
            assert isinstance(result, Enqueued)
        worker.register_function(function_id, handler)
        world.wait_for(delivered=2)
        assert seen == [{"n": 1}], "it ran twice, or saw what is not the caller's"

    def test_message_for_missing_function_waits_for_it(self, world: World) -> None:
        world.define(max_retries=0)
        policy = POLICY.replace(ready_timeout=0.2, fallback=Enqueue(world.queue))
        request = {"function_id": f"{world.tag}::late", "payload": {"n": 1}}
        result = world.caller.trigger(request, policy=policy, accept_enqueued=True)
        assert isinstance(result, Enqueued)
        assert result.failure.code == "function_not_found"
        time.sleep(0.3)
        assert world.ended() == (0, 0), "waiting uses no retries up"
        seen: list[Any] = []
        world.serve("late", seen.append)
        world.wait_for(delivered=1)
        assert [data["n"] for data in seen] == [1]

    def test_missing_queue_keeps_failure_and_says_how_to_define(self, world: World) -> None:
        policy = POLICY.replace(ready_timeout=0.2, fallback=Enqueue(world.queue))
        request = {"function_id": f"{world.tag}::nobody", "payload": {}}
        with pytest.raises(InvocationError) as caught:
            world.caller.trigger(request, policy=policy, accept_enqueued=True)
        assert caught.value.code == "function_not_found"
        (note,) = caught.value.__notes__
        assert "ensure_queue(worker, name)" in note
        hint = hint_for(caught.value)
        assert hint is not None
        assert hint.action == "discover"


class TestEnsureQueue:
    def test_queue_is_defined_once_with_finite_timeout(self, world: World) -> None:
        assert ensure_queue(world.target, world.queue, max_retries=5)
        defined = world.definitions()[world.queue]
        assert (defined["timeout_ms"], defined["max_retries"]) == (300_000, 5)
        assert defined["redeliver_on_engine_restart"] is True
        assert not ensure_queue(world.target, world.queue, max_retries=5)

    def test_queue_with_other_settings_redelivers_nothing(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.define()
        heard: list[Any] = []
        go_on = threading.Event()

        def handler(data: Any) -> None:
            heard.append(data)
            assert go_on.wait(120)

        world.enqueue(world.serve("slow", handler), {"n": 1})
        until(lambda: heard)
        with caplog.at_level(logging.WARNING, "iii_resilience"):
            assert not ensure_queue(world.target, world.queue, max_retries=9)
            # Nor does another queue's definition touch it.
            assert ensure_queue(world.target, f"{world.queue}-2")
        time.sleep(0.3)
        go_on.set()
        world.wait_for(delivered=1)
        assert len(heard) == 1
        assert world.definitions()[world.queue]["max_retries"] == 1
        assert any("is defined already, with another" in one.getMessage() for one in caplog.records)

    def test_what_it_allows_queue_worker_takes(self, world: World) -> None:
        assert ensure_queue(
            world.target,
            world.queue,
            max_retries=0,
            concurrency=1,
            timeout=0.001,
            backoff=0,
            poll_interval=0.001,
            type="fifo",
            message_group_field="order",
        )
        defined = world.definitions()[world.queue]
        assert (defined["type"], defined["message_group_field"]) == ("fifo", "order")

    @needs((0, 23), "sends no namespace")
    def test_from_another_namespace_too(self, world: World) -> None:
        client = register_worker(
            world.url,
            InitOptions(worker_name=world.tag, namespace=world.tag, otel={"enabled": False}),
        )
        world.clients.append(client)
        assert ensure_queue(client, world.queue)
        assert not ensure_queue(client, world.queue)


class TestDiscover:
    def test_function_is_waited_for_and_not_called(self, world: World) -> None:
        function_id = f"{world.tag}::late"
        seen: list[Any] = []
        assert not discover(world.target, function_id, timeout=0)
        timer = threading.Timer(0.3, world.target.register_function, (function_id, seen.append))
        timer.start()
        found = discover(world.caller, function_id, timeout=60)
        timer.join()
        assert found
        assert seen == []
        near = discover(world.caller, f"{world.tag}::lake", timeout=0, near=True)
        assert function_id in near.near


class TestConsumer:
    def test_what_cannot_succeed_is_parked_and_acknowledged(
        self, world: World, tmp_path: Path
    ) -> None:
        world.define(max_retries=3)
        store = SqliteStore(tmp_path / "parking.db")
        heard: list[Any] = []

        @consumer(parking=store, key="n", queue=world.queue, function_id=f"{world.tag}::refused")
        def handler(data: Any) -> None:
            heard.append(data["n"])
            raise PermanentError("declined", code="CARD_DECLINED")

        world.enqueue(world.serve("refused", handler), {"n": 1})
        world.wait_for(delivered=1)
        assert heard == [1]
        (record,) = store.records()
        assert record.parked_at is not None
        assert (record.note["code"], record.note["queue"]) == ("CARD_DECLINED", world.queue)
        assert json.loads(record.note["payload"]) == {"n": 1}

    def test_what_is_transient_is_retried_by_the_queue(self, world: World, tmp_path: Path) -> None:
        world.define(max_retries=3)
        store = SqliteStore(tmp_path / "parking.db")
        heard: list[Any] = []

        @consumer(parking=store, key="n", function_id=f"{world.tag}::shaky")
        def handler(data: Any) -> None:
            heard.append(data["n"])
            if len(heard) < 3:
                raise TransientError("busy", code="BUSY")

        world.enqueue(world.serve("shaky", handler), {"n": 1})
        world.wait_for(delivered=1)
        assert heard == [1, 1, 1]
        until(lambda: list(store.records()) == [])

    def test_after_its_own_number_of_deliveries_it_is_parked(
        self, world: World, tmp_path: Path
    ) -> None:
        world.define(max_retries=9)
        store = SqliteStore(tmp_path / "parking.db")
        heard: list[Any] = []

        @consumer(parking=store, key="n", max_deliveries=2, function_id=f"{world.tag}::never")
        def handler(data: Any) -> None:
            heard.append(data["n"])
            raise TransientError("busy", code="BUSY")

        world.enqueue(world.serve("never", handler), {"n": 1})
        world.wait_for(delivered=1)
        assert heard == [1, 1]
        (record,) = store.records()
        assert (record.parked_at is not None, record.deliveries) == (True, 2)


def test_enqueues_outlive_restart_of_queue_worker(world: World) -> None:
    """What falls into the gap waits for the provider; the bare SDK's caller loses it."""
    world.define(max_retries=9)
    seen: set[int] = set()
    function_id = world.serve("taken", lambda data: seen.add(data["n"]))
    world.enqueue(function_id, {"n": -1})
    ready = world.caller._caller.ready
    until(lambda: ready.provider_seen)
    policy = POLICY.replace(attempts=4, ready_timeout=20.0, deadline=60.0)
    request = {"function_id": function_id, "action": {"type": "enqueue", "queue": world.queue}}
    over = threading.Event()
    failed: list[BaseException] = []
    sent: list[int] = []

    def enqueue(first: int) -> None:
        for n in range(first, 100_000, 8):
            if over.is_set():
                return
            sent.append(n)
            try:
                world.caller.trigger(
                    {**request, "payload": {"n": n}}, idempotent=True, policy=policy
                )
            except Exception as error:
                failed.append(error)
            time.sleep(0.02)

    threads = [threading.Thread(target=enqueue, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    try:
        world.queues.restart()
        time.sleep(0.5)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    print(f"ENQUEUED {len(sent)} LOST {len(failed)}")
    assert failed == []
    until(lambda: seen >= set(sent), 60)


def changed(world: World) -> None:
    config = {**world.definitions()[world.queue], "max_retries": 8}
    assert world.ask("queue::define", queue=world.queue, config=config)["changed"] is True


# The ways in which a queue delivers a message twice at once, but for the engine's own restart.
WAYS: dict[str, Callable[[World], None]] = {
    "timeout": lambda world: None,  # it comes by itself
    "redefinition": changed,
    "queue worker restart": lambda world: world.queues.restart(),
}


@pytest.mark.parametrize("way", WAYS)
def test_delivery_beside_one_that_still_runs_gets_its_answer(
    world: World, tmp_path: Path, way: str
) -> None:
    world.define(max_retries=9, timeout=0.4 if way == "timeout" else 60.0)
    store = SqliteStore(tmp_path / "store.db")
    arrived: list[float] = []
    effects: list[Any] = []
    answers: list[Any] = []
    go_on = threading.Event()
    function_id = f"{world.tag}::once"

    def handler(data: Any) -> str:
        effects.append(data["n"])
        assert go_on.wait(60)
        return "done"

    once = idempotent(store, key="n", function_id=function_id, wait=60.0)(handler)
    parked = consumer(parking=store, key="n", function_id=function_id)(once)

    def delivered(data: Any) -> Any:
        arrived.append(time.monotonic())
        answers.append(parked(data))
        return answers[-1]

    world.serve("once", delivered)
    world.enqueue(function_id, {"n": 1})
    until(lambda: effects)
    WAYS[way](world)
    until(lambda: len(arrived) >= 2, 40)
    go_on.set()
    # Counted from its start on: what the one that was killed had counted is in its file, too.
    world.wait_for(delivered=1)
    until(lambda: len(answers) == len(arrived))
    assert effects == [1]
    assert set(answers) == {"done"}
    until(lambda: list(store.records()) == [])


class TestDeadLetters:
    """`iii-resilience dlq` over the queue's records and what consumers recorded."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "store.db"

    def dlq(self, world: World, file: Path, command: str, *arguments: str, name: str = "") -> str:
        result = CliRunner().invoke(
            app,
            [
                "dlq",
                command,
                name or world.queue,
                *arguments,
                "--engine",
                world.url,
                "--parking",
                str(file),
            ],
        )
        assert result.exit_code == 0, result.output
        return result.stdout

    def listed(self, world: World, file: Path, name: str = "") -> list[tuple[Any, ...]]:
        found = json.loads(self.dlq(world, file, "list", "--json", name=name))
        return sorted((one["source"], one["category"], one["code"] or "") for one in found)

    def test_dead_letters_are_listed_redriven_and_discarded(self, world: World, file: Path) -> None:
        world.define(max_retries=1)
        store = SqliteStore(file)
        heard: list[int] = []
        broken = True
        function_id = f"{world.tag}::orders"

        @consumer(parking=store, key="n", function_id=function_id, queue=world.queue)
        @idempotent(store, key="n", function_id=function_id)
        def handler(data: Any) -> str:
            heard.append(data["n"])
            if not broken:
                return "done"
            if data["n"] < 10:
                raise TransientError("busy", code="BUSY")
            raise PermanentError("secret", code="CARD_DECLINED")

        def bare(data: Any) -> None:
            raise ValueError("secret")

        world.serve("orders", handler)
        for n in (1, 2, 11, 12):
            world.enqueue(function_id, {"n": n, "card": "secret"})
        world.enqueue(world.serve("bare", bare), {"n": 99})
        world.wait_for(delivered=2, dead=3)
        assert self.listed(world, file) == [
            ("parked", "permanent", "CARD_DECLINED"),
            ("parked", "permanent", "CARD_DECLINED"),
            ("queue", "transient", "BUSY"),
            ("queue", "transient", "BUSY"),
            ("queue", "unknown", ""),
        ]
        assert "secret" not in self.dlq(world, file, "list")
        groups = json.loads(self.dlq(world, file, "triage", "--json"))
        assert [(one["code"], one["count"]) for one in groups] == [
            ("BUSY", 2),
            ("CARD_DECLINED", 2),
            (None, 1),
        ]
        (one,) = (d for d in self.dead_ids(world, file) if d["code"] is None)
        assert "secret" not in self.dlq(world, file, "show", one["id"])

        broken = False
        heard.clear()
        assert "would be redriven" in self.dlq(world, file, "redrive")
        assert heard == []
        chosen = ("--category", "transient", "--category", "permanent")
        said = self.dlq(world, file, "redrive", *chosen, "--rate", "100/s", "--execute")
        assert "4 redriven, 0 failed, 1 left" in said
        world.wait_for(delivered=6, dead=1)
        assert sorted(heard) == [1, 2, 11, 12]
        assert "1 discarded, 0 failed, 0 left" in self.dlq(world, file, "discard", "--yes")
        assert self.listed(world, file) == []
        assert world.dead() == []
        assert list(store.records()) == []

    def dead_ids(self, world: World, file: Path) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.dlq(world, file, "list", "--json"))
        return found

    @pytest.fixture
    def bare(self, engine_url: str, started: Any) -> Iterator[World]:
        """Without a queue: topics an engine of its own may have, too."""
        made = World(engine_url, started)
        yield made
        made.close()

    def test_those_of_topic_too(self, bare: World, file: Path) -> None:
        world = bare
        if not discover(world.target, "iii::durable::publish", timeout=0):
            pytest.skip("needs a queue worker with topics: iii::durable::publish")
        store = SqliteStore(file)
        topic = f"{world.tag}-topic"
        heard: list[int] = []
        broken = True
        function_id = f"{world.tag}::hears"

        @consumer(parking=store, key="n", function_id=function_id, queue=topic)
        def handler(data: Any) -> None:
            heard.append(data["n"])
            if broken:
                raise TransientError("busy", code="BUSY")

        world.serve("hears", handler)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from SDK 0.25 on
            world.target.register_trigger(
                {
                    "type": "durable:subscriber",
                    "function_id": function_id,
                    "config": {"topic": topic, "maxRetries": 1, "backoffDelayMs": 20},
                }
            )
        time.sleep(0.5)
        for n in (1, 2):
            world.ask("iii::durable::publish", topic=topic, data={"n": n})
        until(lambda: len(heard) >= 2)
        until(
            lambda: (
                self.listed(world, file, topic) == [("bare", "transient", "BUSY")] * 2
                or self.listed(world, file, topic) == [("topic", "transient", "BUSY")] * 2
            )
        )
        broken = False
        heard.clear()
        said = self.dlq(world, file, "redrive", "--rate", "100/s", "--execute", name=topic)
        assert "2 redriven, 0 failed, 0 left" in said
        until(lambda: sorted(heard) == [1, 2], 40)
        until(lambda: self.listed(world, file, topic) == [])


@pytest.mark.long
def test_workers_killed_and_queue_restarted_lose_nothing(world: World, tmp_path: Path) -> None:
    """The short form of tests/handling/decorators/test_consumer_kills.py."""
    file = tmp_path / "store.db"
    with opened(file) as connection:
        connection.execute("CREATE TABLE effects (n INTEGER)")
    world.define(max_retries=60, concurrency=10, timeout=60.0)
    kinds = {n: ("inside", "outside", "refused")[n % 3] for n in range(60)}
    for n, kind in kinds.items():
        world.enqueue(f"{world.tag}::{kind}", {"n": n})

    def events(kind: str) -> Counter[int]:
        log = tmp_path / "log.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return Counter(one["n"] for one in map(json.loads, lines) if one["event"] == kind)

    def reached(aim: int) -> bool:
        return events("end").total() >= aim

    def start() -> WarmProcess:
        return WarmProcess(KILLS_WORKER, world.url, str(tmp_path), world.tag)

    def kill(process: WarmProcess) -> None:
        process.kill()
        process.communicate()

    worker = start()
    try:
        for aim in (20, 40):
            until(partial(reached, aim), 60)
            kill(worker)
            worker = start()
        if world.queues.loopback is not None or world.queues.command:
            world.queues.restart()
        # What was delivered is counted by a queue that may have been killed before it wrote so.
        until(lambda: world.ask("engine::queue::topic_stats", topic=world.queue)["depth"] == 0)
        until(lambda: set(events("end")) == set(kinds), 60)
        parked = SqliteStore(file)
        until(lambda: sum(one.parked_at is not None for one in parked.records()) == 20, 60)
        until(lambda: all(one.parked_at is not None for one in parked.records()), 60)
    finally:
        kill(worker)
    with opened(file) as connection:
        inside = [n for (n,) in connection.execute("SELECT n FROM effects")]
    assert sorted(inside) == [n for n, kind in kinds.items() if kind == "inside"]
    effects, begun, ended = events("effect"), events("begin"), events("end")
    for n, kind in kinds.items():
        if kind == "outside":
            assert 1 <= effects[n] <= 1 + begun[n] - ended[n], n
    assert world.dead() == []
