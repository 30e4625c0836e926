"""What the guards cost around one call, in nanoseconds, best of many runs.

Prints one line for each operation. Nothing is sent and nothing waits: this is what a guarded call
costs on top of itself. Knows nothing of retries.
"""

from __future__ import annotations

import asyncio
import timeit
from collections.abc import Callable

from iii_resilience.core.errors import CircuitOpenError
from iii_resilience.core.guards.breaker import Breaker, Rejection, Ticket
from iii_resilience.core.guards.budget import Budget
from iii_resilience.core.guards.bulkhead import Bulkhead


def nanoseconds(call: Callable[[], object]) -> float:
    """The best of 20 runs, in nanoseconds for one call."""
    timer = timeit.Timer(call)
    number = max(1, timer.autorange()[0] // 10)
    return min(timer.repeat(20, number)) / number * 1e9


def of_the_breaker() -> dict[str, Callable[[], object]]:
    """A closed circuit, and one that a failure has opened for good."""
    closed = Breaker().circuit_for()
    broken = Breaker(min_calls=1, open=1e6).circuit_for()
    ticket = broken.admit(1.0)
    if isinstance(ticket, Ticket):
        broken.failed(ticket, 1.0, 0.01)

    def succeeds() -> None:
        ticket = closed.admit(1.0)
        if isinstance(ticket, Ticket):
            closed.succeeded(ticket, 1.0, 0.01)

    def rejects_and_raises() -> None:
        rejection = broken.admit(2.0)
        try:
            if isinstance(rejection, Rejection):
                raise CircuitOpenError(rejection.because, rejection.retry_after)
        except CircuitOpenError:
            pass

    return {
        "Circuit.admit + succeeded": succeeds,
        "Circuit.admit, rejection": lambda: broken.admit(2.0),
        "Circuit.admit, rejection, CircuitOpenError raised": rejects_and_raises,
    }


def of_the_budget() -> dict[str, Callable[[], object]]:
    """A budget that always has a permit."""
    bucket = Budget(burst=1e9).bucket_for()

    def succeeds() -> None:
        if bucket.level < bucket.burst:
            bucket.succeeded(1.0)

    def retries() -> None:
        if bucket.reserve(1.0):
            bucket.succeeded(1.0, 1)

    return {
        "PermitBucket, a success with a full bucket": succeeds,
        "PermitBucket.reserve + succeeded": retries,
    }


def of_the_bulkhead() -> dict[str, Callable[[], object]]:
    """Slots with a free place, and full ones."""
    free, full = Bulkhead(10).slots_for(), Bulkhead(1).slots_for()
    kept = full.acquire()

    def enters() -> None:
        permit = free.acquire()
        if permit is not None:
            free.release(permit)

    def is_refused() -> bool:
        return kept is not None and full.acquire() is None

    return {"Gate.enter + leave": enters, "Gate.enter, refused": is_refused}


def hand_over() -> float:
    """Nanoseconds from one coroutine's `release` to the next one's start."""
    slots = Bulkhead(1, queue=1_000, wait=60.0).slots_for()

    async def once() -> None:
        permit = await slots.acquire_async()
        if permit is not None:
            slots.release(permit)

    async def wait_all() -> float:
        kept = slots.acquire()
        tasks = [asyncio.create_task(once()) for _ in range(1_000)]
        await asyncio.sleep(0)
        started = timeit.default_timer()
        if kept is not None:
            slots.release(kept)
        await asyncio.gather(*tasks)
        return (timeit.default_timer() - started) / len(tasks) * 1e9

    return min(asyncio.run(wait_all()) for _ in range(10))


def main() -> None:
    """Print the table."""
    operations = of_the_breaker() | of_the_budget() | of_the_bulkhead()
    for name, call in operations.items():
        print(f"{name:52} {nanoseconds(call):8.0f} ns")
    print(f"{'Gate.release, then the next coroutine in the queue':52} {hand_over():8.0f} ns")


if __name__ == "__main__":
    main()
