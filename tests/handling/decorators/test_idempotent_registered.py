"""`@idempotent` and `@consumer` on handlers that are registered through `resilient(worker)`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from iii_resilience import RetryPolicy, resilient
from iii_resilience.client.resilient import Resilient
from iii_resilience.handling import consumer, idempotent
from iii_resilience.stores import MemoryStore
from iii_resilience.testing import AnswerError, LoopbackEngine

LOST = AnswerError("invocation_stopped", "Invocation stopped", after_execution=True)


@pytest.fixture
def worker(target: Any) -> Iterator[Resilient]:
    made = resilient(target)
    yield made
    made.shutdown()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_call_that_is_repeated_with_its_key_runs_once(
    engine: LoopbackEngine, worker: Resilient, caller: Resilient, asynchronous: bool
) -> None:
    ran: list[Any] = []

    async def charge_async(order: Any) -> Any:
        ran.append(order["n"])
        return {"charged": order["n"]}

    def charge(order: Any) -> Any:
        ran.append(order["n"])
        return {"charged": order["n"]}

    handler: Any = charge_async if asynchronous else charge
    worker.register_function("pay::charge", idempotent(MemoryStore())(handler))
    engine.wait_registered("pay::charge")
    engine.inject("pay::charge", LOST)
    result = caller.trigger(
        {"function_id": "pay::charge", "payload": {"n": 7}},
        idempotent=True,
        idempotency_key="order-7",
    )
    assert result == {"charged": 7}
    assert (ran, len(engine.calls("pay::charge"))) == ([7], 2)


def test_one_key_under_two_functions_is_two_keys(
    engine: LoopbackEngine, worker: Resilient, caller: Resilient
) -> None:
    store, ran = MemoryStore(), []

    def handler(order: Any) -> int:
        ran.append(order["n"])
        return len(ran)

    for function_id in ("pay::charge", "pay::refund"):
        worker.register_function(function_id, idempotent(store, key="n")(handler))
    engine.wait_registered("pay::charge", "pay::refund")
    results = [
        caller.trigger({"function_id": function_id, "payload": {"n": 7}})
        for function_id in ("pay::charge", "pay::refund", "pay::charge")
    ]
    assert results == [1, 2, 1]


def test_handed_over_call_that_ran_does_not_run_again(
    engine: LoopbackEngine, worker: Resilient, caller: Resilient
) -> None:
    from iii_resilience import Enqueue, Enqueued

    store, ran = MemoryStore(), []

    def handler(order: Any) -> str:
        ran.append(order)
        return "done"

    worker.register_function(
        "pay::charge", consumer(parking=store, key="n")(idempotent(store)(handler))
    )
    engine.wait_registered("pay::charge")
    engine.define_queue("later")
    engine.inject("pay::charge", LOST, times=None)
    answer = caller.trigger(
        {"function_id": "pay::charge", "payload": {"n": 7}},
        idempotent=True,
        idempotency_key="order-7",
        accept_enqueued=True,
        policy=RetryPolicy(attempts=2, fallback=Enqueue("later")),
    )
    assert isinstance(answer, Enqueued)
    engine.clear_faults()
    engine.wait_queue_idle("later", timeout=60)
    assert [set(order) - {"_caller_worker_id"} for order in ran] == [{"n"}]
