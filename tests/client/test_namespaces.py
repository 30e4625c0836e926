"""One function id in two namespaces is two functions, with guards of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from iii import InitOptions, register_worker
from support.engine_fixtures import QUICK
from support.real_sdk import needs

from iii_resilience import (
    Breaker,
    Budget,
    Bulkhead,
    CircuitOpenError,
    Reason,
    RetryPolicy,
    report_for,
    resilient,
)
from iii_resilience.client.resilient import Resilient
from iii_resilience.handling import TransientError
from iii_resilience.testing import LoopbackEngine

pytestmark = needs((0, 23), "namespaces")
FUNCTION = "t::f"
Make = Callable[..., Resilient]


@pytest.fixture
def make(engine: LoopbackEngine) -> Iterator[Make]:
    """Makes resilient clients of a namespace."""
    made: list[Resilient] = []

    def make(name: str, namespace: str | None, **options: Any) -> Resilient:
        sdk = InitOptions(worker_name=name, namespace=namespace, otel={"enabled": False})
        made.append(resilient(register_worker(engine.url, sdk), **options))
        return made[-1]

    yield make
    for worker in made:
        worker.shutdown()


@pytest.fixture
def functions(engine: LoopbackEngine, make: Make) -> None:
    """The function fails in namespace blue, and succeeds in the default one."""

    def fail(_: Any) -> None:
        raise TransientError("ruined")

    make("blue", "blue").register_function(FUNCTION, fail)
    make("plain", None).register_function(FUNCTION, lambda _: "ok")
    engine.wait_registered(FUNCTION, namespace="blue")
    engine.wait_registered(FUNCTION)


def request(namespace: str | None = None) -> dict[str, Any]:
    named = {} if namespace is None else {"namespace": namespace}
    return {"function_id": FUNCTION, "payload": {}, **named}


def fail_until(
    caller: Resilient, reason: Reason, namespace: str | None = "blue", **options: Any
) -> None:
    """Call the function that fails until its calls are given up for that reason."""
    for _ in range(20):
        with pytest.raises(Exception, match=r"ruined|circuit") as caught:
            caller.trigger(request(namespace), idempotent=True, **options)
        report = report_for(caught.value)
        assert report is not None
        if report.reason is reason:
            return
    pytest.fail(f"no call was given up for {reason}")


def policies() -> list[Any]:
    guarded = QUICK.replace(attempts=2, breaker=Breaker(min_calls=3, open=60.0), budget=None)
    counted = QUICK.replace(budget=Budget(burst=3, min_per_second=0))
    return [
        pytest.param(counted, Reason.BUDGET_EXHAUSTED, id="budget"),
        pytest.param(guarded, Reason.CIRCUIT_OPEN, id="breaker"),
    ]


@pytest.mark.usefixtures("functions")
class TestGuards:
    @pytest.mark.parametrize("given", ["client", "call"])
    @pytest.mark.parametrize(("policy", "reason"), policies())
    def test_failures_in_one_namespace_leave_other_alone(
        self, make: Make, policy: RetryPolicy, reason: Reason, given: str
    ) -> None:
        of_client = policy if given == "client" else QUICK
        options: dict[str, Any] = {} if given == "client" else {"policy": policy}
        caller = make("caller", None, policies=of_client)
        assert caller.trigger(request(), idempotent=True, **options) == "ok"
        fail_until(caller, reason, **options)
        assert caller.trigger(request(), idempotent=True, **options) == "ok"
        bucket = policy.budget.bucket_for(FUNCTION) if policy.budget else None
        assert bucket is None or bucket.level == bucket.burst

    def test_default_namespace_has_one_state_however_named(self, make: Make) -> None:
        policy = QUICK.replace(breaker=Breaker(min_calls=3, open=60.0), budget=None)
        caller = make("caller", "blue", policies=policy)
        fail_until(caller, Reason.CIRCUIT_OPEN, None)  # its own namespace, unnamed
        with pytest.raises(CircuitOpenError):
            caller.trigger(request("blue"), idempotent=True)
        assert caller.trigger(request("default"), idempotent=True) == "ok"

    def test_bulkhead_places_are_of_one_namespace(self, make: Make) -> None:
        policy = QUICK.replace(bulkhead=Bulkhead(1), attempts=1)
        caller = make("caller", None, policies=policy)
        assert caller.trigger(request()) == "ok"
        assert policy.bulkhead is not None
        inside = policy.bulkhead.slots_for(FUNCTION).acquire()
        with pytest.raises(Exception, match="bulkhead"):
            caller.trigger(request())
        with pytest.raises(Exception, match="ruined"):
            caller.trigger(request("blue"))
        assert inside is not None
        policy.bulkhead.slots_for(FUNCTION).release(inside)
