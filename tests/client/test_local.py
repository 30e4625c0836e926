"""Functions that the SDK (0.25) runs in the caller's own process.

Engines confirm local dispatch from 0.25 on; here the SDK's own switch for it is turned.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import pytest
from support.real_sdk import needs

from iii_resilience import Backoff, InvalidPayloadError, NotConnectedError, RetryPolicy
from iii_resilience.client.resilient import Resilient
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
    while caller._connection.connected:
        time.sleep(0.005)
    policy = RetryPolicy(ready_timeout=0.0)
    assert caller.trigger({"function_id": "t::own"}, policy=policy) == "done"
    assert (len(runs), len(engine.calls("t::own"))) == (1, 0)


def test_nothing_is_asked_about_it(
    engine: LoopbackEngine, caller: Resilient, runs: list[Any]
) -> None:
    caller.trigger({"function_id": "t::own"})
    assert engine.calls("engine::functions::info") == ()


def test_whether_retry_stays_here_is_looked_up_again(
    engine: LoopbackEngine, caller: Resilient, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.register_function("t::theirs", lambda data: "done")
    engine.wait_registered("t::theirs")
    caller.trigger({"function_id": "t::theirs"})  # known from here on
    looks: list[object] = []

    class Noted:
        """What this client serves: nothing, and each look is noted."""

        def __contains__(self, function_id: object) -> bool:
            looks.append(function_id)
            return False

    monkeypatch.setattr(caller._connection.client, "local_functions", Noted())
    engine.inject("t::theirs", AnswerError("invocation_stopped", "Invocation stopped"))
    policy = RetryPolicy(backoff=Backoff(base=0.001))
    assert caller.trigger({"function_id": "t::theirs"}, idempotent=True, policy=policy) == "done"
    assert looks == ["t::theirs"] * 2


def test_lost_connection_does_not_concern_it(
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


async def test_nor_one_called_from_coroutine(
    engine: LoopbackEngine, caller: Resilient, runs: list[Any]
) -> None:
    timer = threading.Timer(0.2, engine.disconnect, ["caller"])
    timer.start()
    assert await caller.trigger_async({"function_id": "t::own"}) == "done"
    timer.join()
    assert len(runs) == 1


@pytest.fixture
def moved(
    engine: LoopbackEngine, caller: Resilient, target: Any, monkeypatch: pytest.MonkeyPatch
) -> list[Any]:
    """A function that leaves this process in the moment before it would run here."""
    seen: list[Any] = []
    reference = caller.register_function("t::moved", lambda data: "here")
    engine.wait_registered("t::moved")
    look = caller._connection.client.dispatches_locally

    def moves(fields: dict[str, Any]) -> bool:
        was_here = look(fields)
        if was_here and caller._connection.client.on_loop_thread:
            seen.append("moved")
            reference.unregister()
            return look(fields)
        return was_here

    monkeypatch.setattr(caller._connection.client, "dispatches_locally", moves)
    return seen


def test_one_that_has_left_is_not_queued_while_disconnected(
    engine: LoopbackEngine, caller: Resilient, moved: list[Any]
) -> None:
    engine.stop_listening()
    engine.disconnect()
    while caller._connection.connected:
        time.sleep(0.005)
    policy = RetryPolicy(ready_timeout=0.1)
    with pytest.raises(NotConnectedError, match="nothing was sent"):
        caller.trigger({"function_id": "t::moved"}, policy=policy)
    assert moved == ["moved"]
    engine.listen()
    while not caller._connection.connected:
        time.sleep(0.005)
    time.sleep(0.1)  # in which a call that the SDK had queued would have come
    assert engine.calls("t::moved") == ()


async def test_one_that_has_left_is_checked_before_it_is_sent(
    caller: Resilient, moved: list[Any]
) -> None:
    with pytest.raises(InvalidPayloadError, match="NaN"):
        await caller.trigger_async({"function_id": "t::moved", "payload": {"n": math.nan}})
    assert moved == ["moved"]


@pytest.mark.parametrize("idempotent", [False, True])
def test_cause_is_own_exception_of_handler(
    engine: LoopbackEngine, caller: Resilient, idempotent: bool
) -> None:
    raised: list[Exception] = []

    def fails(data: Any) -> None:
        raised.append(LookupError("nothing there"))
        raise raised[-1]

    caller.register_function("t::fails", fails)
    engine.wait_registered("t::fails")
    with pytest.raises(Exception, match="nothing there") as caught:
        caller.trigger({"function_id": "t::fails"}, idempotent=idempotent)
    assert len(engine.calls("t::fails")) == 0
    assert caught.value.__cause__ is raised[-1]
