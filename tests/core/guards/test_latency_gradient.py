"""The adaptive limit, in virtual time: it finds what a worker can do, and follows it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served_pool import Pool, Served

from iii_resilience.core.guards.latency_gradient import LatencyGradient

SIZE, SECONDS = 20, 0.1
CAPACITY = SIZE / SECONDS


def quantile(served: list[Served], part: float) -> float:
    return sorted(one.latency for one in served)[int(part * len(served))]


def rate(served: list[Served], since: float, until: float) -> float:
    return sum(since <= one.at < until for one in served) / (until - since)


@pytest.mark.parametrize("low", [2, 5])
def test_three_times_capacity_for_30_s(low: int) -> None:
    alone = Pool(SIZE, lambda _: SECONDS).run(LatencyGradient(low, 200, 20, 0.0), 20, 60)
    served = Pool(SIZE, lambda _: SECONDS).run(
        LatencyGradient(low, 200, low, 0.0), 3 * CAPACITY, 30
    )
    assert rate(served, 0, 30) > 0.9 * CAPACITY
    assert quantile(served, 0.99) < 3 * quantile(alone, 0.99)


def test_stays_near_capacity_under_overload_without_end() -> None:
    limit = LatencyGradient(5, 200, 5, 0.0)
    served = Pool(SIZE, lambda _: SECONDS).run(limit, 3 * CAPACITY, 300)
    assert rate(served, 240, 300) > 0.9 * CAPACITY
    assert limit.baseline == pytest.approx(SECONDS, rel=0.2)
    assert SIZE <= limit.limit <= 2 * SIZE


def test_below_capacity_everything_is_served() -> None:
    limit = LatencyGradient(5, 200, 5, 0.0)
    served = Pool(SIZE, lambda _: SECONDS).run(limit, 0.75 * CAPACITY, 60)
    assert rate(served, 20, 60) > 0.97 * 0.75 * CAPACITY


@pytest.mark.parametrize("slower", [2, 5])
def test_follows_handlers_that_become_slower_and_quick_again(slower: int) -> None:
    limit = LatencyGradient(5, 200, 5, 0.0)

    def seconds(now: float) -> float:
        return SECONDS * slower if 60 < now < 260 else SECONDS

    served = Pool(SIZE, seconds).run(limit, 3 * CAPACITY, 400)
    assert rate(served, 160, 260) > 0.8 * CAPACITY / slower
    assert rate(served, 265, 300) > 0.9 * CAPACITY
    assert limit.limit <= 3 * SIZE


def test_learns_what_it_began_with_too_high() -> None:
    limit = LatencyGradient(5, 200, 100, 0.0)
    Pool(SIZE, lambda _: SECONDS).run(limit, 3 * CAPACITY, 300)
    assert limit.limit <= 2 * SIZE


def test_keeps_to_its_bounds() -> None:
    tight = LatencyGradient(2, 8, 2, 0.0)
    served = Pool(SIZE, lambda _: SECONDS).run(tight, 3 * CAPACITY, 30)
    assert tight.limit == 8
    assert rate(served, 10, 30) == pytest.approx(8 / SECONDS, rel=0.1)
    wide = LatencyGradient(50, 80, 60, 0.0)
    Pool(SIZE, lambda _: SECONDS).run(wide, 3 * CAPACITY, 60)
    assert 50 <= wide.limit <= 80


def test_does_not_grow_where_it_is_not_reached() -> None:
    limit = LatencyGradient(5, 200, 10, 0.0)
    Pool(SIZE, lambda _: SECONDS).run(limit, 20, 60)
    assert limit.limit == 10


def one_window(limit: LatencyGradient, since: float, seconds: float, *, failed: bool) -> None:
    for number in range(20):
        limit.started(limit.limit)
        began = since + number
        limit.finished(began, began + seconds, failed=failed)


def test_quick_failures_say_nothing_and_slow_ones_do() -> None:
    limit = LatencyGradient(2, 100, 16, 0.0)
    one_window(limit, 0.0, 0.1, failed=True)
    assert limit.baseline is None
    one_window(limit, 30.0, 0.1, failed=False)
    before, baseline = limit.limit, limit.baseline
    one_window(limit, 60.0, 0.01, failed=True)
    assert (limit.limit, limit.baseline) == (before, baseline)
    one_window(limit, 90.0, 5.0, failed=True)
    assert limit.limit < before


def test_calls_from_before_window_do_not_count() -> None:
    limit = LatencyGradient(2, 100, 16, 50.0)
    for _ in range(100):
        assert not limit.finished(10.0, 60.0)
    assert limit.baseline is None


@given(
    low=st.integers(1, 20),
    more=st.integers(0, 100),
    calls=st.lists(
        st.tuples(
            st.floats(0, 30), st.floats(0, 100), st.integers(0, 200), st.booleans(), st.booleans()
        ),
        max_size=200,
    ),
)
def test_any_history_stays_within_bounds(
    low: int, more: int, calls: list[tuple[float, float, int, bool, bool]]
) -> None:
    limit = LatencyGradient(low, low + more, low, 0.0)
    now = 0.0
    for gap, seconds, running, failed, back in calls:
        now += -gap if back else gap
        limit.started(running)
        limit.finished(now - seconds, now, failed=failed)
        assert low <= limit.limit <= low + more
        assert limit.baseline is None or math.isfinite(limit.baseline)
