"""What a call costs that an open circuit rejects, against one that is sent and fails.

Both go through `resilient` and the real SDK to a LoopbackEngine on 127.0.0.1, alternating in one
run: a service that fails at once, over a connection that takes no time, is the worst case for the
breaker. Prints medians and their ratio.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from iii import InitOptions, register_worker

from iii_resilience import Breaker, CircuitOpenError, RetryPolicy, resilient
from iii_resilience.client.resilient import Resilient
from iii_resilience.testing import AnswerError, LoopbackEngine

CALLS = 500
CLOSED = RetryPolicy(attempts=1, breaker=Breaker(min_calls=10**9))
OPEN = RetryPolicy(attempts=1, breaker=Breaker(min_calls=1, open=1e6))


def seconds(caller: Resilient, policy: RetryPolicy, expected: type[Exception]) -> float:
    """How long one call takes that ends with this exception."""
    started = time.perf_counter()
    try:
        caller.trigger({"function_id": "t::one", "payload": {"n": 1}}, policy=policy)
    except expected:
        return time.perf_counter() - started
    raise AssertionError("the call was to fail")


async def answer(_: Any) -> str:
    """The function that is called; the engine answers for it with the scripted failure."""
    return "done"


def measured(calls: int = CALLS) -> tuple[float, float]:
    """Medians of a failing and of a rejected call, in seconds."""
    with LoopbackEngine() as engine:
        options: dict[str, Any] = {"otel": {"enabled": False}}
        target = register_worker(engine.url, InitOptions(worker_name="target", **options))
        target.register_function("t::one", answer)
        engine.wait_registered("t::one")
        client = register_worker(engine.url, InitOptions(worker_name="caller", **options))
        with resilient(client) as caller:
            engine.inject("t::one", AnswerError("invocation_error", "x"), times=calls + 1)
            seconds(caller, OPEN, Exception)  # this failure opens the circuit for good
            pairs = [
                (seconds(caller, CLOSED, Exception), seconds(caller, OPEN, CircuitOpenError))
                for _ in range(calls)
            ]
        target.shutdown()
    failing, rejected = zip(*pairs, strict=True)
    return statistics.median(failing), statistics.median(rejected)


def main() -> None:
    """Print the two medians and the ratio."""
    failing, rejected = measured()
    print(f"a failing call   {failing * 1e6:8.0f} µs")
    print(f"a rejected call  {rejected * 1e6:8.0f} µs")
    print(f"ratio            {rejected / failing:8.3f}")


if __name__ == "__main__":
    main()
