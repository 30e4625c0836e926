"""The same message delivered again while its handler runs: one effect, both answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.waiting import until

from iii_resilience.client.resilient import Resilient
from iii_resilience.handling import consumer, idempotent
from iii_resilience.stores import SqliteStore
from iii_resilience.testing import LoopbackEngine

ID = "jobs::do"

# The ways in which a queue was seen to deliver twice at once (docs/engine-notes.md, 9).
WAYS: dict[str, Callable[[LoopbackEngine], None]] = {
    "timeout": lambda engine: None,  # it comes by itself
    "redefinition": lambda engine: engine.define_queue("jobs", max_retries=8),
    "queue worker restart": lambda engine: engine.restart_queue_worker(),
    "engine restart": lambda engine: engine.restart(),
}


@pytest.mark.parametrize("way", WAYS)
def test_overlapping_delivery_waits_and_gets_the_same_answer(
    engine: LoopbackEngine, target: Any, caller: Resilient, tmp_path: Path, way: str
) -> None:
    store = SqliteStore(tmp_path / "store.db")
    arrived: list[float] = []
    effects: list[Any] = []
    answers: list[Any] = []
    go_on = threading.Event()

    def handler(data: Any) -> str:
        effects.append(data["n"])
        assert go_on.wait(30)
        return "done"

    once = idempotent(store, key="n", function_id=ID, wait=30.0)(handler)
    parked = consumer(parking=store, key="n", function_id=ID)(once)

    def delivered(data: Any) -> Any:
        arrived.append(time.monotonic())
        answers.append(parked(data))
        return answers[-1]

    engine.define_queue(
        "jobs",
        max_retries=9,
        backoff_ms=1,
        timeout_ms=300 if way == "timeout" else 60_000,
        redeliver_on_engine_restart=True,
    )
    target.register_function(ID, delivered)
    engine.wait_registered(ID)
    request = {"function_id": ID, "payload": {"n": 1}}
    caller.trigger({**request, "action": {"type": "enqueue", "queue": "jobs"}})
    until(lambda: len(effects) == 1)
    WAYS[way](engine)
    until(lambda: len(arrived) >= 2)
    go_on.set()
    engine.wait_queue_idle("jobs", timeout=30)
    until(lambda: len(answers) == len(arrived))
    assert effects == [1]
    assert set(answers) == {"done"}
    assert len(answers) >= 2
    assert engine.dead_letters("jobs") == ()
    until(lambda: list(store.records()) == [])
