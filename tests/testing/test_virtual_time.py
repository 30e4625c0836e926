"""The event loop in virtual time: it never waits, its timers keep their order, all follow it."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time

import pytest

from iii_resilience import Backoff, Reason, RetryPolicy, iii_retry, report_for
from iii_resilience.core import system_clock
from iii_resilience.testing.virtual_time import VirtualClock, run_in_virtual_time

REAL = time.monotonic


def test_hours_pass_in_no_time() -> None:
    began = REAL()

    async def main() -> float:
        before = asyncio.get_running_loop().time()
        await asyncio.sleep(36_000)
        return asyncio.get_running_loop().time() - before

    assert run_in_virtual_time(main()) == pytest.approx(36_000)
    assert REAL() - began < 5


def test_timers_fire_in_order_and_never_early() -> None:
    pick = random.Random(1)
    delays = [pick.uniform(0, 500) for _ in range(2000)]
    fired: list[tuple[float, float]] = []

    async def one(delay: float) -> None:
        started = time.monotonic()
        await asyncio.sleep(delay)
        fired.append((started + delay, time.monotonic()))

    async def main() -> None:
        await asyncio.gather(*map(one, delays))

    run_in_virtual_time(main())
    assert [due for due, _ in fired] == sorted(due for due, _ in fired)
    assert all(due <= now < due + 1e-6 for due, now in fired)


def test_clocks_follow_loop_and_are_restored() -> None:
    clocks = (time.monotonic, time.time, time.time_ns, time.sleep, system_clock.monotonic)

    async def main() -> None:
        unix, monotonic = time.time(), system_clock.monotonic()
        await asyncio.sleep(5)
        assert time.time() - unix == pytest.approx(5)
        assert time.time_ns() / 1e9 - unix == pytest.approx(5)
        assert system_clock.monotonic() - monotonic == pytest.approx(5)
        assert time.monotonic() == asyncio.get_running_loop().time()
        time.sleep(3)  # noqa: ASYNC251 - what blocks lets time pass too
        assert time.monotonic() - monotonic == pytest.approx(8)

    run_in_virtual_time(main())
    assert (time.monotonic, time.time, time.time_ns, time.sleep, system_clock.monotonic) == clocks


def test_failed_run_restores_clocks() -> None:
    async def main() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_in_virtual_time(main())
    assert time.monotonic is REAL


def test_timeout_cuts_at_its_time() -> None:
    clock = VirtualClock(now=50.0)

    async def main() -> None:
        async with asyncio.timeout(2.5):
            await asyncio.sleep(100)

    with pytest.raises(TimeoutError):
        run_in_virtual_time(main(), clock)
    assert clock.now == pytest.approx(52.5)


def test_wait_without_timer_is_refused_not_endless() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing is scheduled in virtual time"):
        run_in_virtual_time(main())


def test_library_retries_in_virtual_time() -> None:
    policy = RetryPolicy(
        attempts=4, deadline=None, budget=None, attempt_timeout=1.0, backoff=Backoff(jitter="none")
    )
    started: list[float] = []

    @iii_retry(idempotent=True, policy=policy)
    async def hangs() -> None:
        started.append(time.monotonic())
        await asyncio.sleep(1e6)

    async def main() -> None:
        with pytest.raises(TimeoutError) as caught:
            await hangs()
        report = report_for(caught.value)
        assert report is not None
        assert report.reason is Reason.EXHAUSTED
        delays = [attempt.delay for attempt in report.attempts]
        gaps = [later - earlier for earlier, later in itertools.pairwise(started)]
        assert gaps == pytest.approx([1.0 + delay for delay in delays[1:]])
        assert report.elapsed == pytest.approx(4.0 + sum(delays))

    run_in_virtual_time(main())


def test_callbacks_of_threads_still_arrive() -> None:
    async def main() -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(done.set))
        thread.start()
        thread.join()
        await done.wait()

    run_in_virtual_time(main())
