"""Workers killed and queues restarted at random: what is lost, and what happens twice."""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest
from support.sqlite_files import opened
from support.warm_process import WarmProcess

from iii_resilience.cli.dead_letter_queue import DeadLetterQueue
from iii_resilience.client.resilient import Resilient
from iii_resilience.handling.decorators.parked_message import ParkedMessage
from iii_resilience.stores import SqliteStore
from iii_resilience.testing import LoopbackEngine

WORKER = Path(__file__).with_name("kills_worker.py")


@attrs.frozen
class Size:
    """How much of everything."""

    messages: int
    kills: int
    restarts: int


SHORT = Size(messages=60, kills=2, restarts=2)
LONG = Size(messages=1000, kills=20, restarts=5)


@attrs.define
class Workers:
    """The worker process of the moment."""

    url: str
    folder: Path
    process: WarmProcess | None = None

    def start(self) -> None:
        self.process = WarmProcess(WORKER, self.url, str(self.folder))

    def kill(self) -> None:
        process, self.process = self.process, None
        assert process is not None
        process.kill()
        process.communicate()

    def log(self) -> list[dict[str, Any]]:
        path = self.folder / "log.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def wait_for_work(self, deliveries: int) -> None:
        """Waits until so many more have ended; not for ever, for the work may be done."""
        until = time.monotonic() + 15
        aim = self.ended() + deliveries
        while self.ended() < aim and time.monotonic() < until:
            time.sleep(0.02)

    def ended(self) -> int:
        return sum(event["event"] == "end" for event in self.log())


def enqueue(caller: Resilient, size: Size) -> dict[str, list[int]]:
    """Of each kind of message its numbers, all of them enqueued."""
    rare = max(4, size.messages // 20)
    kinds = ["inside", "outside"] * ((size.messages - 2 * rare) // 2)
    kinds += ["refused"] * rare + ["busy"] * rare
    random.shuffle(kinds)
    numbers: dict[str, list[int]] = {kind: [] for kind in dict.fromkeys(kinds)}
    for n, kind in enumerate(kinds):
        numbers[kind].append(n)
        caller.trigger(
            {
                "function_id": f"jobs::{kind}",
                "payload": {"n": n},
                "action": {
                    "type": "enqueue",
                    "queue": "doomed" if kind == "busy" else "jobs",
                },
            }
        )
    return numbers


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "size", [SHORT, pytest.param(LONG, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_only_kill_in_window_repeats_effect_elsewhere(
    engine: LoopbackEngine, caller: Resilient, connect: Any, tmp_path: Path, size: Size
) -> None:
    file = tmp_path / "store.db"
    with opened(file) as connection:
        connection.execute("CREATE TABLE effects (n INTEGER)")
    for name, retries in (("jobs", 60), ("doomed", 1)):
        engine.define_queue(
            name,
            max_retries=retries,
            backoff_ms=1,
            concurrency=40 if name == "jobs" else 2,
            timeout_ms=120_000,
            redeliver_on_engine_restart=True,
        )
    numbers = enqueue(caller, size)

    workers = Workers(engine.url, tmp_path)
    disasters = ["kill"] * size.kills + ["restart"] * size.restarts
    random.shuffle(disasters)
    restarts = 0
    share = size.messages // (len(disasters) + 1)  # so that they are spread over the work
    workers.start()
    try:
        for disaster in disasters:
            workers.wait_for_work(random.randint(share // 2, share))
            if disaster == "kill":
                workers.kill()
                workers.start()
            elif restarts % 2 == 0:
                restarts += 1
                engine.restart_queue_worker(down_for=0.05)
            else:
                restarts += 1
                engine.restart()
        for name in ("jobs", "doomed"):
            engine.wait_queue_idle(name, timeout=400)
    finally:
        workers.kill()

    log = workers.log()
    count = Counter((event["event"], event["n"]) for event in log)
    ended = {event["run"] for event in log if event["event"] == "end"}
    cut = Counter(e["n"] for e in log if e["event"] == "begin" and e["run"] not in ended)
    # In the store's transaction: exactly once.
    with opened(file) as connection:
        effects = [n for (n,) in connection.execute("SELECT n FROM effects")]
    assert sorted(effects) == sorted(numbers["inside"])
    # Elsewhere: never lost, and repeated only where a kill cut a delivery off.
    for n in numbers["outside"]:
        assert 1 <= count["effect", n] <= 1 + cut[n], n
    repeated = sum(count["effect", n] - 1 for n in numbers["outside"])
    # What cannot succeed: parked, each once. What never did: dead letters, each with its cause.
    store = SqliteStore(file)
    found = [ParkedMessage.from_record(record) for record in store.records()]
    parked = [one for one in found if one is not None and one.parked_at is not None]
    assert sorted(one.data()["n"] for one in parked) == sorted(numbers["refused"])
    assert engine.dead_letters("jobs") == ()
    letters = DeadLetterQueue(connect(), "doomed", store).letters()
    dead = [letter for letter in letters if not letter.stored]
    assert sorted(letter.data["n"] for letter in dead) == sorted(numbers["busy"])
    # Of one whose deliveries were all cut off nobody could record why.
    unknown = [one.data["n"] for one in dead if one.code != "BUSY"]
    assert not [n for n in unknown if count["end", n]]
    sys.stdout.write(
        f"\n{size.messages} messages, {size.kills} kills, {restarts} restarts: "
        f"{sum(cut.values())} deliveries cut off, {len(effects)} effects inside once each, "
        f"{repeated} of {len(numbers['outside'])} outside repeated, {len(parked)} parked, "
        f"{len(dead)} dead letters, {len(unknown)} of them without a cause\n"
    )
