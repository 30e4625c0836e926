"""Functions that the SDK (0.25) runs in the caller's own process.

Engines confirm local dispatch from 0.25 on; here the SDK's own switch for it is turned.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from real_sdk import needs

from iii_resilience import Backoff, RetryPolicy
from iii_resilience.client import Resilient
from iii_resilience.testing import AnswerError, LoopbackEngine

pytestmark = needs((0, 25), "no local dispatch")


@pytest.fixture(autouse=True)
def confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    from iii.observable import FunctionObservers

    switched_on = property(lambda self: True, lambda self, value: None)
    monkeypatch.setattr(FunctionObservers, "local_dispatch", switched_on, raising=False)


@pytest.fixture
def runs(engine: LoopbackEngine, caller: Resilient) -> list[Any]:
    """A function that the caller itself hosts, and what it was given."""
    seen: list[Any] = []

    def slow(data: Any) -> str:
        seen.append(data)
        time.sleep(0.5)
        return "done"

    caller.register_function("t::own", slow)
    engine.wait_registered("t::own")
    return seen


def test_it_goes_through_while_disconnected(
    engine: LoopbackEngine, caller: Resilient, runs: list[Any]
) -> None:
    engine.stop_listening()
    engine.disconnect()
    while caller._link.connected:
        time.sleep(0.005)
    policy = RetryPolicy(ready_timeout=0.0)
    assert caller.trigger({"function_id": "t::own"}, policy=policy) == "done"
    assert (len(runs), len(engine.calls("t::own"))) == (1, 0)


def test_nothing_is_asked_about_it(
    engine: LoopbackEngine, caller: Resilient, runs: list[Any]
) -> None:
    caller.trigger({"function_id": "t::own"})
    assert engine.calls("engine::functions::info") == ()


def test_whether_a_retry_stays_here_is_looked_up_again(
    engine: LoopbackEngine, caller: Resilient, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.register_function("t::theirs", lambda data: "done")
    engine.wait_registered("t::theirs")
    caller.trigger({"function_id": "t::theirs"})  # known from here on
    looks: list[Any] = []
    look = caller._link.dispatches_locally

    def noted(fields: dict[str, Any]) -> bool:
        looks.append(fields)
        return look(fields)

    monkeypatch.setattr(caller._link, "dispatches_locally", noted)
    engine.inject("t::theirs", AnswerError("invocation_stopped", "Invocation stopped"))
    policy = RetryPolicy(backoff=Backoff(base=0.001))
    assert caller.trigger({"function_id": "t::theirs"}, idempotent=True, policy=policy) == "done"
    assert len(looks) == 2


def test_a_lost_connection_does_not_concern_it(
    engine: LoopbackEngine, caller: Resilient, runs: list[Any]
) -> None:
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(caller.trigger({"function_id": "t::own"}, idempotent=True))
    )
    thread.start()
    while not runs:
        time.sleep(0.005)
    engine.disconnect("caller")
    thread.join()
    assert results == ["done"]
    assert len(runs) == 1


async def test_nor_one_called_from_a_coroutine(
    engine: LoopbackEngine, caller: Resilient, runs: list[Any]
) -> None:
    timer = threading.Timer(0.2, engine.disconnect, ["caller"])
    timer.start()
    assert await caller.trigger_async({"function_id": "t::own"}) == "done"
    timer.join()
    assert len(runs) == 1
