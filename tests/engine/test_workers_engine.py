"""Workers that come, go and die under callers: the function stays reachable, nothing is doubled.

Needs an engine with `engine::functions::info`; the scenario with a queue needs a queue provider
and a queue that can be defined. `III_LONG=1` runs the long forms, with the real bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
from engine.worker_program import SCHEMA
from iii import InitOptions, register_worker
from support.engine_fixtures import end
from support.waiting import until
from support.warm_process import WarmProcess

from iii_resilience import Enqueue, Enqueued, RetryPolicy, classify, report_for, resilient
from iii_resilience.client.resilient import Resilient

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

PROGRAM = Path(__file__).with_name("worker_program.py")
# The bounds hold on a machine with nothing else to do: that is what the long forms are for.
LONG = bool(os.environ.get("III_LONG"))
LOOSE = 1 if LONG else 5
AWAY_AT_DRAIN, AWAY_AT_KILL = 0.1 if LONG else 5.0, 2.5 * LOOSE
ANSWERED = 1.0 if LONG else 15.0
# A caller waits for its function as long as it may be away.
POLICY = None if LONG else RetryPolicy(ready_timeout=30.0, deadline=120.0)
CALLERS = 5
CALLS_A_SECOND = 50


class World:
    """An engine, one function, and whoever serves it.

    Attributes:
        function_id: The function; a new one for every test, for the engine may be shared.
        url: The engine's address.
        client: A client that asks, and nothing else.
    """

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.tag = uuid.uuid4().hex[:8]
        self.function_id = f"workers-{self.tag}::work"
        self.ledger = home / "ledger.sqlite"
        with closing(sqlite3.connect(self.ledger)) as file:
            file.executescript(SCHEMA)
            file.execute("INSERT INTO total VALUES (0)")
            file.commit()
        self.client = self.connect("asking")
        self.processes: list[WarmProcess] = []
        self._clients: list[Resilient] = []

    def connect(self, name: str) -> Any:
        options = InitOptions(worker_name=f"{name}-{self.tag}", otel={"enabled": False})
        return register_worker(self.url, options)

    def resilient(self, name: str, **options: Any) -> Resilient:
        made = resilient(self.connect(name), **options)
        self._clients.append(made)
        return made

    def start(self, name: str, *, kept: bool = True) -> WarmProcess:
        """A worker process; returns when it has registered its function, or tried to."""
        how = "kept" if kept else "bare"
        full = f"{name}-{self.tag}"
        child = WarmProcess(PROGRAM, self.url, full, self.function_id, str(self.ledger), how)
        self.processes.append(child)
        assert child.stdout.readline() == "ready\n"
        return child

    def owner(self) -> str | None:
        """Who owns the function now."""
        answer = self.client.trigger(
            {
                "function_id": "engine::functions::info",
                "payload": {"function_ids": [self.function_id]},
            }
        )
        (item,) = answer["functions"]
        name = item.get("worker_name")
        return None if item.get("error") else str(name).removesuffix(f"-{self.tag}")

    def effects(self) -> tuple[dict[str, str], int]:
        """Who wrote which key, and how often anything was written."""
        with closing(sqlite3.connect(self.ledger)) as file:
            effects = dict(file.execute("SELECT key, worker FROM effects"))
            (total,) = file.execute("SELECT n FROM total").fetchone()
        return effects, total

    def end(self) -> None:
        for made in self._clients:
            made.shutdown()
            end(made._connection.client._client)
        for child in self.processes:
            child.kill()
            child.communicate()
        self.client.shutdown()


@pytest.fixture
def world(engine_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(engine_url, tmp_path)
    yield made
    made.end()


@attrs.define
class Calls:
    """What callers were told.

    Attributes:
        done: Keys of calls that succeeded or were enqueued.
        failed: When, by whom, and with what.
    """

    done: list[str] = attrs.field(factory=list)
    enqueued: list[str] = attrs.field(factory=list)
    failed: list[tuple[float, int, Exception]] = attrs.field(factory=list)


@contextlib.contextmanager
def calling(world: World, client: Resilient, **options: Any) -> Iterator[Calls]:
    """Calls go on, idempotent, all with keys of their own, until the block ends."""
    calls, stop = Calls(), threading.Event()

    def call(caller: int) -> None:
        for number in itertools.count():
            if stop.wait(CALLERS / CALLS_A_SECOND):
                return
            key = f"{caller}-{number}"
            request = {"function_id": world.function_id, "payload": {"key": key}}
            try:
                result = client.trigger(request, idempotent=True, **options)
            except Exception as error:
                calls.failed.append((time.monotonic(), caller, error))
            else:
                (calls.enqueued if isinstance(result, Enqueued) else calls.done).append(key)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield calls
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


@contextlib.contextmanager
def watching(world: World) -> Iterator[list[float]]:
    """How long the function was away, each time, in seconds."""
    away: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        gone: float | None = None
        while not stop.wait(0.002):
            at = time.monotonic()
            there = world.owner() is not None
            if not there and gone is None:
                gone = at
            if there and gone is not None:
                away.append(time.monotonic() - gone)
                gone = None
        if gone is not None:
            away.append(float("inf") if world.owner() is None else time.monotonic() - gone)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield away
    finally:
        stop.set()
        thread.join(20)


def check_failures(calls: Calls, hand_overs: int) -> None:
    """Only refused first attempts, and no caller more than one of them at a hand-over."""
    for _, _, error in calls.failed:
        assert classify(error).code == "function_not_found", error
        report = report_for(error)
        assert report is not None
        assert len(report.attempts) == 1
    by_caller = Counter(caller for _, caller, _ in calls.failed)
    assert max(by_caller.values(), default=0) <= hand_overs


def check_effects(world: World, calls: Calls) -> None:
    effects, total = world.effects()
    assert total == len(effects)  # nothing twice
    assert set(calls.done) <= set(effects)


def record(name: str, **figures: object) -> None:
    print(f"\n{name}: " + ", ".join(f"{what} {value}" for what, value in figures.items()))


class TestRollingDeploy:
    def test_function_stays_reachable(self, world: World) -> None:
        client = world.resilient("caller", policies=POLICY)
        first = world.start("a")
        until(lambda: world.owner() == "a")
        with calling(world, client) as calls:
            time.sleep(1)
            second = world.start("b")
            time.sleep(2.5)  # until it stands by, and has told so
            with watching(world) as at_drain:
                first.send_signal(signal.SIGTERM)
                first.wait(60)
                until(lambda: world.owner() == "b")
                time.sleep(0.5)
            # The one that left has asked it to take over: it did not notice by itself.
            assert json.loads(first.stdout.readline()) == {world.function_id: f"b-{world.tag}"}
            world.start("c")
            time.sleep(2.5)
            with watching(world) as at_kill:
                second.kill()
                until(lambda: world.owner() == "c", 30)
                time.sleep(0.5)
            time.sleep(0.5)
            until(lambda: len(calls.done) > 100)
            until(lambda: f"c-{world.tag}" in world.effects()[0].values())
        assert first.poll() == 0
        record(
            "rolling deploy",
            calls=len(calls.done),
            failed=len(calls.failed),
            away_at_drain=[round(s, 4) for s in at_drain],
            away_at_kill=[round(s, 3) for s in at_kill],
        )
        assert max(at_drain, default=0.0) <= AWAY_AT_DRAIN
        assert max(at_kill, default=0.0) <= AWAY_AT_KILL
        check_failures(calls, hand_overs=2)
        check_effects(world, calls)
        assert {"a", "b", "c"} == {
            w.removesuffix(f"-{world.tag}") for w in set(world.effects()[0].values())
        }

    @pytest.mark.long
    def test_without_keeper_function_is_lost_for_good(self, world: World) -> None:
        first = world.start("a", kept=False)
        until(lambda: world.owner() == "a")
        world.start("b", kept=False)
        time.sleep(1)
        first.send_signal(signal.SIGTERM)
        first.wait(20)
        time.sleep(4)
        assert world.owner() is None
        client = world.resilient("caller", policies=RetryPolicy(ready_timeout=0.5))
        with pytest.raises(Exception, match="function_not_found"):
            client.trigger(
                {"function_id": world.function_id, "payload": {"key": "k"}}, idempotent=True
            )

    @pytest.mark.long
    def test_with_queue_as_fallback_no_call_fails_or_is_lost(self, world: World) -> None:
        queue = f"workers-{world.tag}"
        if not self.define(world, queue):
            pytest.skip("needs an engine with a queue provider (engine::queue::enqueue)")
        client = world.resilient("caller", policies=RetryPolicy(fallback=Enqueue(queue)))
        first = world.start("a")
        until(lambda: world.owner() == "a")
        with calling(world, client, accept_enqueued=True) as calls:
            second = world.start("b")
            time.sleep(2.5)
            first.send_signal(signal.SIGTERM)
            first.wait(20)
            until(lambda: world.owner() == "b")
            world.start("c")
            time.sleep(2.5)
            second.kill()
            until(lambda: world.owner() == "c", 30)
            time.sleep(0.5)
        record("with a queue", calls=len(calls.done), enqueued=len(calls.enqueued))
        assert calls.failed == []
        until(lambda: set(calls.enqueued) <= set(world.effects()[0]), 60)
        check_effects(world, calls)

    @staticmethod
    def define(world: World, queue: str) -> bool:
        try:
            world.client.trigger(
                {
                    "function_id": "queue::define",
                    "payload": {"queue": queue, "config": {"max_retries": 20, "backoff_ms": 100}},
                }
            )
        except Exception:
            return False
        return True


def kill_in_turn(world: World, kills: int, pause: float) -> None:
    client = world.resilient("caller", policies=POLICY)
    workers = {"a": world.start("a"), "b": world.start("b")}
    until(lambda: world.owner() in workers)
    with calling(world, client) as calls, watching(world) as away:
        for number in range(kills):
            since = time.monotonic()
            name = "ab"[number % 2]
            workers[name].kill()
            workers[name].wait()
            workers[name] = world.start(name)
            time.sleep(max(0.0, pause - (time.monotonic() - since)))
        until(lambda: world.owner() in workers, 30)
        time.sleep(1)
        until(lambda: len(calls.done) > 10 * kills)
    record(
        f"{kills} kills in turn",
        calls=len(calls.done),
        failed=len(calls.failed),
        times_away=len(away),
        longest=round(max(away, default=0.0), 3),
        median=round(sorted(away)[len(away) // 2], 3) if away else 0,
    )
    assert max(away, default=0.0) <= AWAY_AT_KILL
    check_failures(calls, hand_overs=kills)
    check_effects(world, calls)


class TestKilledInTurn:
    def test_twice(self, world: World) -> None:
        kill_in_turn(world, kills=2, pause=3.0)

    @pytest.mark.long
    def test_twenty_times_in_a_minute(self, world: World) -> None:
        kill_in_turn(world, kills=20, pause=3.0)


class TestStandings:
    def test_both_sides_tell_the_same(self, world: World) -> None:
        first = world.resilient("a", keep_registered=True)
        first.register_function(world.function_id, lambda data: "a")
        until(lambda: self.states(first) == ["owner"])
        second = world.resilient("b", keep_registered=True)
        second.register_function(world.function_id, lambda data: "b")
        until(lambda: self.states(second) == ["standby"])
        until(lambda: second.registrations()[0].owner == f"a-{world.tag}")
        first.shutdown()
        until(lambda: self.states(second) == ["owner"])

    @staticmethod
    def states(client: Resilient) -> list[str]:
        return [r.state.value for r in client.registrations()]


def exits() -> Any:
    raise SystemExit(3)


def interrupted() -> Any:
    raise KeyboardInterrupt


def cancelled() -> Any:
    raise asyncio.CancelledError


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "SystemExit": (exits, "permanent"),
    "KeyboardInterrupt": (interrupted, "permanent"),
    "CancelledError": (cancelled, "transient"),
    "NaN": (lambda: float("nan"), "payload"),
    "a set": (lambda: {1}, "payload"),
    "2 MB": (lambda: "x" * 2_000_000, "payload"),
}


class TestHandlers:
    @pytest.mark.parametrize("what", WRONG)
    @pytest.mark.parametrize("coroutine", [False, True], ids=["plain", "coroutine"])
    def test_caller_gets_answer_whatever_handler_does(
        self, world: World, what: str, coroutine: bool
    ) -> None:
        does, category = WRONG[what]

        def plain(data: Any) -> Any:
            return does() if data["wrong"] else "alive"

        async def asynchronous(data: Any) -> Any:
            return plain(data)

        worker = world.resilient("worker", max_result_bytes=1 << 20)
        worker.register_function(world.function_id, asynchronous if coroutine else plain)
        until(lambda: world.owner() == "worker")
        since = time.monotonic()
        with pytest.raises(Exception, match="invocation_failed") as caught:
            self.call(world, wrong=True)
        assert time.monotonic() - since < ANSWERED
        assert classify(caught.value).category == category
        assert self.call(world, wrong=False) == "alive"

    def test_one_that_is_cancelled_from_outside_too(self, world: World) -> None:
        worker = world.resilient("worker")

        async def handler(data: Any) -> Any:
            if not data["wrong"]:
                return "alive"
            task = asyncio.current_task()
            assert task is not None
            task.get_loop().call_later(0.05, task.cancel)
            return await asyncio.sleep(120)

        worker.register_function(world.function_id, handler)
        until(lambda: world.owner() == "worker")
        since = time.monotonic()
        with pytest.raises(Exception, match="HANDLER_CANCELLED"):
            self.call(world, wrong=True)
        assert time.monotonic() - since < ANSWERED
        assert self.call(world, wrong=False) == "alive"

    def test_when_one_closes_own_client_standby_answers_next(self, world: World) -> None:
        first = world.resilient("a", keep_registered=True)
        first.register_function(world.function_id, lambda data: first.shutdown())
        until(lambda: world.owner() == "a")
        second = world.resilient("b", keep_registered=True)
        second.register_function(world.function_id, lambda data: "alive")
        until(lambda: TestStandings.states(second) == ["standby"])
        since = time.monotonic()
        with pytest.raises(Exception, match="invocation_stopped"):
            self.call(world, wrong=True)
        assert time.monotonic() - since < ANSWERED
        until(lambda: world.owner() == "b")
        assert self.call(world, wrong=False) == "alive"

    @staticmethod
    def call(world: World, *, wrong: bool) -> Any:
        return world.client.trigger(
            {"function_id": world.function_id, "payload": {"wrong": wrong}, "timeout_ms": 60_000}
        )


class TestCost:
    @pytest.mark.long
    def test_a_thousand_functions_cost_one_percent_of_a_core(self, world: World) -> None:
        spent = {}
        for kept in (False, True):
            client = world.resilient(f"many-{kept}", keep_registered=kept)
            ids = [f"workers-{world.tag}::{kept}-{number}" for number in range(1000)]
            for function_id in ids:
                client.register_function(function_id, lambda data: None)
            time.sleep(10)
            before = time.process_time()
            time.sleep(20)
            spent[kept] = (time.process_time() - before) / 20
            client.shutdown()
        cost = spent[True] - spent[False]
        record("1000 functions kept", of_a_core=f"{cost:.2%}", idle=f"{spent[False]:.2%}")
        assert cost < 0.01
