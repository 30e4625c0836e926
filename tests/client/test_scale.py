"""Many at once: nothing is lost, nothing is counted twice, and nothing is left behind.

How fast it is, and what it takes beside a peer, `make bench` measures.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import tracemalloc
from collections import Counter
from contextlib import suppress

import pytest

from iii_resilience import Backoff, Breaker, Budget, RetryPolicy, iii_retry

WITHOUT_WAIT = Backoff(base=0.0, throttled_base=0.0, jitter="none")
PLENTY = Budget(burst=1e6)


@pytest.fixture(autouse=True)
def no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pytest keeps every record of a test, and with it what the record tells of."""
    monkeypatch.setattr(logging.getLogger("iii_resilience"), "disabled", True)


def test_a_thousand_calls_wait_each_its_own_delay() -> None:
    backoff = Backoff(base=0.6, jitter="equal")
    policy = RetryPolicy(backoff=backoff, budget=Budget(burst=1e6), deadline=60.0)
    failed: dict[int, float] = {}
    waited: dict[int, float] = {}
    most = 0

    @iii_retry(idempotent=True, policy=policy)
    async def call(number: int) -> int:
        nonlocal most
        await asyncio.sleep(0)
        if number not in failed:
            failed[number] = time.monotonic()
            raise ConnectionResetError
        most = max(most, len(failed) - len(waited))
        waited[number] = time.monotonic() - failed[number]
        return number

    async def main() -> list[int]:
        return await asyncio.gather(*(call(number) for number in range(1_000)))

    assert asyncio.run(main()) == list(range(1_000))
    assert len(waited) == 1_000
    assert min(waited.values()) >= 0.3
    assert most == 1_000


def test_sixty_four_threads_share_budget_and_breaker() -> None:
    budget = Budget(ratio=0.0, burst=100, min_per_second=0.0)
    breaker = Breaker(min_calls=10**9, window=1000.0)
    policy = RetryPolicy(attempts=2, backoff=WITHOUT_WAIT, budget=budget, breaker=breaker)
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    @iii_retry(idempotent=True, policy=policy)
    def call(errors: list[ConnectionResetError]) -> None:
        with lock:
            seen["attempts"] += 1
        if errors:
            raise errors.pop()

    def work() -> None:
        for number in range(50):
            fails = number % 5 == 4
            try:
                call([ConnectionResetError()] if fails else [])
            except ConnectionResetError:
                with lock:
                    seen["refused"] += 1

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (bucket,) = budget._states.values()
    (circuit,) = breaker._states.values()
    retried = 64 * 10 - seen["refused"]
    assert (bucket.taken, bucket.refunded, bucket.wasted) == (retried, retried, 0)
    assert bucket.level == 100
    assert seen["attempts"] == 64 * 50 + retried
    assert circuit.phase.outcomes.calls == seen["attempts"]  # type: ignore[union-attr]
    assert circuit.phase.outcomes.failures == 64 * 10  # type: ignore[union-attr]


def test_thousands_of_functions_have_own_small_circuits() -> None:
    breaker = Breaker(min_calls=1, open=1e6)
    decorate = iii_retry(idempotent=True, attempts=1, breaker=breaker)
    tracemalloc.start()
    many = 2_000
    try:
        functions = []
        for number in range(many):

            def function(error: Exception | None = None) -> str:
                if error is not None:
                    raise error
                return "done"

            function.__qualname__ = f"function_{number}"
            functions.append(decorate(function))
        for function in functions:
            assert function() == "done"
        taken = tracemalloc.get_traced_memory()[0] / many
    finally:
        tracemalloc.stop()
    assert taken < 8_000  # bytes; with its circuit, and the function itself
    with pytest.raises(ConnectionResetError):
        functions[17](ConnectionResetError())
    with pytest.raises(ConnectionError, match=r"circuit of .*function_17 is open"):
        functions[17]()
    assert functions[16]() == functions[18]() == "done"


ENDS = pytest.mark.parametrize(
    "raised",
    [[ConnectionResetError], [ValueError], [ConnectionResetError, ConnectionResetError]],
    ids=["retried", "given up", "exhausted"],
)


@ENDS
def test_failures_leave_nothing_to_garbage_collector(raised: list[type[Exception]]) -> None:
    policy = RetryPolicy(attempts=2, backoff=WITHOUT_WAIT, budget=PLENTY)

    @iii_retry(idempotent=True, policy=policy)
    def call(errors: list[Exception]) -> None:
        if errors:
            raise errors.pop()

    def one() -> None:
        with suppress(ValueError, ConnectionResetError):
            call([error() for error in raised])

    one()
    gc.collect()
    gc.disable()
    try:
        for _ in range(200):
            one()
        assert gc.collect() < 200  # not even one object a call
    finally:
        gc.enable()


@ENDS
async def test_failures_of_coroutines_leave_no_garbage(
    raised: list[type[Exception]],
) -> None:
    policy = RetryPolicy(attempts=2, backoff=WITHOUT_WAIT, budget=PLENTY)

    @iii_retry(idempotent=True, policy=policy)
    async def call(errors: list[Exception]) -> None:
        if errors:
            raise errors.pop()

    async def one() -> None:
        with suppress(ValueError, ConnectionResetError):
            await call([error() for error in raised])

    await one()
    gc.collect()
    gc.disable()
    try:
        for _ in range(200):
            await one()
        assert gc.collect() < 200
    finally:
        gc.enable()


def test_what_is_kept_does_not_grow_with_calls_and_failures() -> None:
    policy = RetryPolicy(attempts=1, breaker=Breaker(min_calls=10**9))

    @iii_retry(idempotent=True, policy=policy)
    def call(fails: bool) -> None:
        if fails:
            raise ConnectionResetError

    def some(number: int) -> None:
        for turn in range(number):
            with suppress(ConnectionResetError):
                call(turn % 2 == 0)

    some(200)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        some(3_000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 50_000  # bytes; twenty a call would be more
