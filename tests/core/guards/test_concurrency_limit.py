"""Concurrency limits: their settings, and the calls under them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from iii_resilience.core.guards.bulkhead import Permit
from iii_resilience.core.guards.concurrency_limit import ConcurrencyLimit, Limit, limits_in_use


class TestSettings:
    def test_defaults(self) -> None:
        assert Limit(concurrency=5) == Limit(5, 0.1, False, None, None)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            (
                {},
                (
                    "^Limit needs concurrency=, the number of handlers that may run at once, or "
                    "adaptive=True with low= and high=$"
                ),
            ),
            ({"concurrency": 0}, "Limit.concurrency must be a whole number"),
            ({"concurrency": 2.5}, "Limit.concurrency must be a whole number"),
            ({"concurrency": 5, "wait": -1}, "Limit.wait must be"),
            ({"concurrency": 5, "low": 1}, "^Limit.low and Limit.high need adaptive=True$"),
            ({"concurrency": 5, "high": 1}, "^Limit.low and Limit.high need adaptive=True$"),
            (
                {"adaptive": True, "low": 1},
                r"^Limit\(adaptive=True\) needs both bounds: low= and high=$",
            ),
            (
                {"adaptive": True, "high": 1},
                r"^Limit\(adaptive=True\) needs both bounds: low= and high=$",
            ),
            ({"adaptive": True, "low": 9, "high": 5}, "must be in this order"),
            ({"adaptive": True, "low": 2, "high": 5, "concurrency": 1}, "must be in this order"),
            (
                {"adaptive": True, "low": 2, "high": 5, "concurrency": 6},
                (
                    r"^Limit.low \(2\), Limit.concurrency \(6\) and Limit.high \(5\) "
                    "must be in this order$"
                ),
            ),
        ],
    )
    def test_numbers_that_are_none_are_refused(self, settings: Any, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            Limit(**settings)

    @pytest.mark.parametrize("concurrency", [None, 2])
    def test_bounds_may_be_one_number(self, concurrency: int | None) -> None:
        assert Limit(concurrency, adaptive=True, low=2, high=2).first == 2

    def test_adaptive_is_no_number(self) -> None:
        with pytest.raises(TypeError):
            Limit(adaptive=1, low=1, high=2)  # type: ignore[arg-type]

    @pytest.mark.parametrize(("concurrency", "first"), [(None, 3), (7, 7)])
    def test_where_adaptive_one_begins(self, concurrency: int | None, first: int) -> None:
        limit = Limit(adaptive=True, low=3, high=9, concurrency=concurrency)
        assert ConcurrencyLimit(limit, None, 0.0).limit == first


async def admitted(limit: ConcurrencyLimit, left: float | None = None) -> Permit:
    permit = await limit.admit(left, patient=False)
    assert permit is not None
    return permit


async def test_one_over_it_waits_for_its_turn() -> None:
    limit = ConcurrencyLimit(Limit(concurrency=1, wait=10.0), None, 0.0)
    first = await admitted(limit)
    second = asyncio.ensure_future(admitted(limit))
    await asyncio.sleep(0)
    assert (limit.running, limit.waiting) == (1, 1)
    limit.finished(first, 0.0, 1.0)
    limit.finished(await second, 1.0, 2.0)
    assert (limit.running, limit.waiting) == (0, 0)


@pytest.mark.parametrize(("wait", "left"), [(0.0, None), (0.01, None), (60.0, 0.01), (60.0, 0.0)])
async def test_it_waits_no_longer_than_it_may(wait: float, left: float | None) -> None:
    limit = ConcurrencyLimit(Limit(concurrency=1, wait=wait), None, 0.0)
    permit = await admitted(limit)
    began = time.monotonic()
    assert await limit.admit(left, patient=False) is None
    assert time.monotonic() - began < 30
    assert limit.waiting == 0
    limit.finished(permit, 0.0, 1.0)


async def test_patient_call_waits_longer_than_limit_says() -> None:
    limit = ConcurrencyLimit(Limit(concurrency=1, wait=0.0), None, 0.0)
    first = await admitted(limit)
    second = asyncio.ensure_future(limit.admit(None, patient=True))
    await asyncio.sleep(0.02)
    assert not second.done()
    limit.finished(first, 0.0, 1.0)
    assert await second is not None
    assert await limit.admit(0.01, patient=True) is None  # its own time bounds it all the same


async def test_refusal_says_when_there_will_be_time() -> None:
    limit = ConcurrencyLimit(Limit(concurrency=2, wait=10.0), None, 0.0)
    permits = [await admitted(limit), await admitted(limit)]
    assert limit.refuse() is None
    limit.finished(permits.pop(), 0.0, 4.0)
    assert limit.refuse() == pytest.approx(2.0)
    limit.finished(permits.pop(), 0.0, 0.0, failed=True)  # says nothing of how long others take
    assert limit.refuse() == pytest.approx(2.0)
    limit.finished(await admitted(limit), 0.0, 1e6)
    assert limit.refuse() == 30.0
    assert limit.refused == 4


async def test_each_call_counts_for_tenth_of_mean() -> None:
    limit = ConcurrencyLimit(Limit(concurrency=1, wait=10.0), None, 0.0)
    limit.finished(await admitted(limit), 100.0, 104.0)
    limit.finished(await admitted(limit), 200.0, 208.0)
    assert limit.refuse() == pytest.approx(4.4)


async def test_refused_call_comes_behind_those_that_wait() -> None:
    limit = ConcurrencyLimit(Limit(concurrency=2, wait=10.0), None, 0.0)
    limit.finished(await admitted(limit), 0.0, 4.0)
    permits = [await admitted(limit), await admitted(limit)]
    waiting = [asyncio.ensure_future(admitted(limit)) for _ in range(2)]
    await asyncio.sleep(0)
    assert limit.waiting == 2
    assert limit.refuse() == pytest.approx(6.0)  # three calls, two at a time, of 4 s
    for permit in permits:
        limit.finished(permit, 4.0, 8.0)
    for one in waiting:
        limit.finished(await one, 8.0, 12.0)


async def full_windows(
    limit: ConcurrencyLimit, begin: float, seconds: float, *, failed: bool = False
) -> float:
    """Some seconds of as many calls as may run at once; returns when they have ended."""
    now = begin
    while now < begin + 4.0:
        permits = [await admitted(limit) for _ in range(limit.limit)]
        for permit in permits:
            limit.finished(permit, now, now + seconds, failed=failed)
        now += max(seconds, 0.1)
    return now


async def test_adaptive_limit_grows_though_none_is_refused() -> None:
    limit = ConcurrencyLimit(Limit(adaptive=True, low=2, high=50), None, 0.0)
    await full_windows(limit, 0.0, 0.1)
    assert limit.limit > 10


async def test_quick_failures_say_nothing_about_adaptive_limit() -> None:
    limit = ConcurrencyLimit(Limit(adaptive=True, low=2, high=1000), None, 0.0)
    now = await full_windows(limit, 0.0, 0.1)
    before = limit.limit
    await full_windows(limit, now, 0.001, failed=True)
    assert limit.limit == before


async def test_call_may_wait_after_adaptive_limit_has_changed() -> None:
    limit = ConcurrencyLimit(Limit(adaptive=True, low=2, high=50, wait=10.0), None, 0.0)
    now = await full_windows(limit, 0.0, 0.1)
    permits = [await admitted(limit) for _ in range(limit.limit)]
    late = asyncio.ensure_future(admitted(limit))
    await asyncio.sleep(0)
    assert limit.waiting == 1
    for permit in permits:
        limit.finished(permit, now, now + 0.1)
    limit.finished(await late, now + 0.1, now + 0.2)
    assert (limit.running, limit.waiting) == (0, 0)


async def test_adaptive_limit_lets_more_in_as_it_grows() -> None:
    limit = ConcurrencyLimit(Limit(adaptive=True, low=2, high=50, wait=0.0), None, 0.0)
    now = 0.0
    for _ in range(40):
        permits = [await admitted(limit) for _ in range(limit.limit)]
        assert await limit.admit(None, patient=False) is None
        for permit in permits:
            limit.finished(permit, now, now + 0.1)
        now += 0.1
    assert limit.limit > 10


def test_limits_in_use_are_those_that_someone_holds() -> None:
    limit = ConcurrencyLimit(Limit(concurrency=1), "t::mine", 0.0)
    assert limit in limits_in_use()
    assert "t::mine" in [one.function_id for one in limits_in_use()]
    del limit
    assert "t::mine" not in [one.function_id for one in limits_in_use()]
