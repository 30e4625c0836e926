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


# What one window changes.

QUICK = 0.125  # exact in binary: sums of it have no rounding error


class Windows:
    """Windows of ten calls that all take as long, one after the other."""

    def __init__(self, low: int, high: int, start: int) -> None:
        self.limit = LatencyGradient(low, high, start, 0.0)
        self.now = 0.0

    def see(self, latency: float, *, times: int = 1, reached: bool = True) -> None:
        for _ in range(times):
            self.limit.started(self.limit.limit if reached else self.limit.limit - 1)
            began = self.now + max(0.5, 4 * latency)
            self.now = began + latency
            changed = [self.limit.finished(began, self.now) for _ in range(10)]
            assert changed == [False] * 9 + [True]

    @property
    def baseline(self) -> float:
        assert self.limit.baseline is not None
        return self.limit.baseline


def test_baseline_moves_fifth_of_way_where_limit_is_not_reached() -> None:
    windows = Windows(2, 100, 16)
    windows.see(0.1, reached=False)
    assert windows.baseline == pytest.approx(0.1)
    windows.see(0.2, reached=False)
    assert windows.baseline == pytest.approx(0.12)
    windows.see(0.02, reached=False)
    assert windows.baseline == pytest.approx(0.10)
    assert windows.limit.limit == 16


def test_baseline_moves_half_way_at_smallest_limit() -> None:
    windows = Windows(16, 16, 16)
    windows.see(0.1)
    windows.see(0.2)
    assert windows.baseline == pytest.approx(0.15)
    windows.see(0.05)
    assert windows.baseline == pytest.approx(0.10)


def test_baseline_follows_downwards_only_at_limit() -> None:
    windows = Windows(2, 16, 16)
    windows.see(0.1)
    windows.see(0.12)
    assert windows.baseline == pytest.approx(0.1)
    windows.see(0.05)
    assert windows.baseline == pytest.approx(0.09)


def test_limit_doubles_until_calls_become_slower_for_first_time() -> None:
    windows, limits = Windows(2, 1_000, 16), []
    for latency in (QUICK, 0.0625, 0.1175, 0.25, 0.05):
        windows.see(latency)
        limits.append(windows.limit.limit)
    # The baseline is 0.125, then 0.1125: 0.1175 is no queue yet, and 0.25 counts as 0.225.
    assert limits == [32, 64, 125, 73, 82]


def test_limit_falls_by_half_at_most_in_one_window() -> None:
    windows = Windows(2, 100, 64)
    windows.see(0.1)
    windows.see(10.0)
    assert windows.limit.limit == 60  # 100 / 2, and its square root


@pytest.mark.parametrize(("latency", "baseline"), [(0.103, 0.1), (0.105, 0.1025)])
def test_baseline_follows_upwards_unless_half_the_limit_is_quicker(
    latency: float, baseline: float
) -> None:
    windows = Windows(2, 20, 20)
    windows.see(0.1, reached=False)
    windows.see(0.13, times=41)
    assert windows.limit.limit == 9, "it runs at half of it"
    windows.see(latency)  # 0.104 is four fifths of 0.13
    assert windows.baseline == pytest.approx(baseline)
    assert windows.limit.limit > 18


@pytest.mark.parametrize(("latency", "baseline"), [(0.18, 0.1), (0.2, 0.15)])
def test_limit_that_has_fallen_by_half_is_look_below_it(latency: float, baseline: float) -> None:
    windows = Windows(2, 20, 20)
    windows.see(0.1)
    windows.see(latency, times=2)
    assert windows.baseline == pytest.approx(0.1)
    windows.see(latency)  # at 12, or at 11, which is 20 / 2 + 1
    assert windows.baseline == pytest.approx(baseline)


def windows_at_limit(windows: Windows) -> int:
    """How many windows run at the limit before one at half of it."""
    limit = windows.limit.limit
    for number in range(100):
        if windows.limit.limit == limit // 2:
            return number
        assert windows.limit.limit == limit
        windows.see(QUICK)
    return 100


def test_looks_below_limit_soon_at_first_and_then_seldom() -> None:
    windows = Windows(10, 20, 20)
    assert windows_at_limit(windows) == 9
    windows.see(QUICK)
    assert windows_at_limit(windows) == 40
    windows.see(QUICK)
    windows.see(QUICK, times=39)
    windows.see(QUICK, reached=False)
    assert windows_at_limit(windows) == 41, "a window below the limit was such a look"


def test_next_look_is_as_far_off_after_limit_has_doubled() -> None:
    windows = Windows(2, 2_048, 4)
    windows.see(QUICK, times=9)
    assert windows.limit.limit == 1_024, "it runs at half of it"
    windows.see(QUICK)
    assert windows_at_limit(windows) == 40


def test_never_looks_below_smallest_limit() -> None:
    windows = Windows(11, 20, 20)
    assert windows_at_limit(windows) == 100


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
