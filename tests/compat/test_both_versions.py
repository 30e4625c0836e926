"""Version 0.1.0 and this one side by side: they hand over, and read what the other has written.

Nothing of what both versions share may be named anew: tests/test_stable_names.py says what that
is; this shows that it is enough. `make test-long` runs it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from compat.versions import Start, Version
from iii import InitOptions, register_worker

from iii_resilience import classify, resilient
from iii_resilience.client.resilient import Resilient
from iii_resilience.testing import LoopbackEngine

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

Pair = tuple[Version, Version]
F = "compat::f"
# Seconds from the moment in which nobody has a function to its registration by who stood by.
AFTER_DRAIN = 0.5
AFTER_KILL = 4.0  # it is polled for about once a second


@pytest.fixture
def caller(engine: LoopbackEngine) -> Iterator[Resilient]:
    options = InitOptions(worker_name="caller", otel={"enabled": False})
    client = resilient(register_worker(engine.url, options))
    yield client
    client.shutdown()


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.005)


def call(caller: Resilient, function_id: str, payload: Any = None, **options: Any) -> Any:
    return caller.trigger({"function_id": function_id, "payload": payload or {}}, **options)


def first(engine: LoopbackEngine, kind: str, worker: str, since: float) -> float:
    """When a worker sent the first frame of a kind about the function."""
    for frame in engine.frames:
        told = (frame.conn, frame.message.get("type"), frame.message.get("id"))
        if frame.at >= since and told == (worker, kind, F):
            return frame.at
    raise AssertionError(f"{worker} has sent no {kind}")


def runs(log: Path) -> Counter[str]:
    """How often the handlers ran, by order."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return Counter(line.rpartition(" ")[0] for line in lines)


class TestTakeOver:
    def test_drained_owner_hands_over(
        self, engine: LoopbackEngine, caller: Resilient, start: Start, pair: Pair
    ) -> None:
        owner, standby = pair
        leaving = start(owner, "serve")
        until(lambda: leaving.ask("states") == {F: "owner"})
        staying = start(standby, "serve")
        until(lambda: staying.ask("states") == {F: "standby"})
        engine.wait_calls(f"iii-resilience::keeper::{owner.name}")
        (told,) = engine.calls(f"iii-resilience::keeper::{owner.name}")
        assert told.data.items() >= {"worker": standby.name, "standby": [F]}.items()
        since = time.time()
        drained = leaving.ask("drain")
        away = first(engine, "registerfunction", standby.name, since) - first(
            engine, "unregisterfunction", owner.name, since
        )
        print(f"drain, {owner.name} to {standby.name}: away for {1000 * away:.1f} ms")
        assert drained["handed_over"] == {F: standby.name}
        (asked,) = engine.calls(f"iii-resilience::keeper::{standby.name}")
        assert asked.data["take_over"] == [F]
        assert away < AFTER_DRAIN
        assert call(caller, F, idempotent=True) == standby.name
        until(lambda: staying.ask("states") == {F: "owner"})

    def test_killed_owner_is_followed(
        self, engine: LoopbackEngine, caller: Resilient, start: Start, pair: Pair
    ) -> None:
        owner, standby = pair
        leaving = start(owner, "serve")
        until(lambda: leaving.ask("states") == {F: "owner"})
        staying = start(standby, "serve")
        until(lambda: staying.ask("states") == {F: "standby"})
        since = time.time()
        leaving.kill()
        assert call(caller, F, idempotent=True) == standby.name
        away = first(engine, "registerfunction", standby.name, since) - since
        print(f"SIGKILL, {owner.name} to {standby.name}: away for {away:.2f} s")
        assert away < AFTER_KILL
        until(lambda: staying.ask("states") == {F: "owner"})


class TestIdempotencyKeys:
    @pytest.mark.parametrize("kind", ["pay", "carried"])
    def test_result_is_given_again(
        self,
        engine: LoopbackEngine,
        caller: Resilient,
        start: Start,
        pair: Pair,
        place: str,
        log: Path,
        kind: str,
    ) -> None:
        options = {"idempotency_key": "k"} if kind == "carried" else {}
        for version in pair:
            worker = start(version, "once", place)
            engine.wait_registered(f"compat::{kind}-{version.name}")
            told = call(caller, f"compat::{kind}-{version.name}", {"n": 1}, **options)
            assert told == pair[0].name
            worker.end()
        assert runs(log) == {"1": 1}

    def test_failure_is_given_again(
        self,
        engine: LoopbackEngine,
        caller: Resilient,
        start: Start,
        pair: Pair,
        place: str,
        log: Path,
    ) -> None:
        for version in pair:
            start(version, "once", place)
            engine.wait_registered(f"compat::pay-{version.name}")
            with pytest.raises(Exception, match="CARD_DECLINED") as raised:
                call(caller, f"compat::pay-{version.name}", {"n": 1, "fails": True})
            assert classify(raised.value).category == "permanent"
        assert runs(log) == {"1": 1}

    def test_both_at_once_run_each_key_once(
        self,
        engine: LoopbackEngine,
        caller: Resilient,
        start: Start,
        old: Version,
        new: Version,
        place: str,
        log: Path,
    ) -> None:
        functions = [f"compat::pay-{version.name}" for version in (old, new)]
        for version in (old, new):
            start(version, "once", place)
        engine.wait_registered(*functions)
        orders = [(n, function) for n in range(30) for function in functions]

        def order(one: tuple[int, str]) -> Any:
            return call(caller, one[1], {"n": one[0], "takes": 0.02})

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(order, orders))
        assert results[0::2] == results[1::2]
        assert runs(log) == {str(n): 1 for n in range(30)}
        print(f"keys at once: {dict(Counter(results[0::2]))}")


class TestParkedMessages:
    def test_other_version_lists_and_redrives(
        self,
        engine: LoopbackEngine,
        caller: Resilient,
        start: Start,
        pair: Pair,
        place: str,
        log: Path,
    ) -> None:
        writer, reader = pair
        start(writer, "park", place)
        engine.wait_registered("compat::job")
        engine.define_queue("jobs", max_retries=1, backoff_ms=1)
        where = ("--engine", engine.url, "--parking", place)
        action = {"type": "enqueue", "queue": "jobs"}
        payload = {"n": 1, "card": "4711"}
        caller.trigger({"function_id": "compat::job", "payload": payload, "action": action})
        engine.wait_queue_idle("jobs")
        (listed,) = json.loads(reader.dlq("list", "--json", *where))
        (written,) = json.loads(writer.dlq("list", "--json", *where))
        for one in (listed, written):
            assert one.pop("queue", "jobs") == "jobs"  # 0.1.0 does not list it
        assert listed == written
        assert {**listed, "id": "", "since": ""} == {
            "id": "",
            "source": "parked",
            "function_id": "compat::job",
            "category": "permanent",
            "code": "CARD_DECLINED",
            "deliveries": 1,
            "since": "",
        }
        shown = reader.dlq("show", listed["id"], "--payload", *where)
        assert "declined" in shown
        assert '"card": "4711"' in shown
        Path(f"{log}.mended").touch()
        assert "1 redriven, 0 failed, 0 left" in reader.dlq("redrive", "--execute", *where)
        engine.wait_queue_idle("jobs")
        assert runs(log) == {"1": 2}
        assert json.loads(reader.dlq("list", "--json", *where)) == []
