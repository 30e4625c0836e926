"""Delay schedules: their ranges, their growth, and that no number of a retry breaks them."""

from __future__ import annotations

import math
import pickle
import random
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_resilience import Backoff
from iii_resilience.core.backoff import JITTERS

SECONDS = st.floats(min_value=0, max_value=1e9, allow_nan=False)
DRAWS = st.floats(min_value=0, max_value=1, exclude_max=True)
RETRIES = st.integers(min_value=0, max_value=10_000)


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    cap = draw(SECONDS)
    below = st.floats(min_value=0, max_value=cap)
    return Backoff(
        base=draw(below),
        throttled_base=draw(below),
        cap=cap,
        factor=draw(st.floats(min_value=1, max_value=1e300)),
        jitter=draw(st.sampled_from(JITTERS)),
    )


@given(backoffs(), RETRIES, DRAWS, st.booleans(), st.none() | SECONDS)
def test_delay_lies_between_0_and_cap(
    backoff: Backoff, retry: int, draw: float, throttled: bool, previous: float | None
) -> None:
    delay = backoff.delay(retry, lambda: draw, throttled=throttled, previous=previous)
    assert 0.0 <= delay <= backoff.cap
    if backoff.jitter != "decorrelated":
        ceiling = backoff.ceiling(retry, throttled=throttled)
        lowest = {"full": 0.0, "equal": ceiling / 2, "none": ceiling}[backoff.jitter]
        assert lowest <= delay <= ceiling <= backoff.cap


@given(backoffs(), st.integers(min_value=0, max_value=9_999))
def test_ceiling_never_falls_from_one_retry_to_next(backoff: Backoff, retry: int) -> None:
    # Once per rounding the logarithm and the power may disagree by the last digits.
    assert backoff.ceiling(retry) <= backoff.ceiling(retry + 1) * (1 + 1e-9)


@pytest.mark.parametrize(
    "backoff",
    [
        Backoff(),
        Backoff(base=1, factor=2, cap=20, throttled_base=1),
        Backoff(base=5e-324, cap=1e9, throttled_base=0),  # cap / base is no float
        Backoff(base=5e-324, cap=20.0),
        Backoff(base=5e-324, factor=2, cap=1e9, throttled_base=0),  # whole numbers overflow too
        Backoff(factor=1e308),
    ],
)
@pytest.mark.parametrize("retry", [1_050, 1_500, 2_000, 10_000])
def test_no_retry_overflows(backoff: Backoff, retry: int) -> None:
    assert 0.0 < backoff.ceiling(retry) <= backoff.cap


def test_ceiling_doubles_from_base_up_to_cap() -> None:
    ceilings = [Backoff().ceiling(retry) for retry in range(9)]
    assert ceilings == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20.0, 20.0])


def test_throttled_failure_starts_from_its_own_base() -> None:
    assert [Backoff().ceiling(n, throttled=True) for n in range(6)] == [1, 2, 4, 8, 16, 20]


def test_factor_of_one_keeps_delay() -> None:
    backoff = Backoff(base=0.5, factor=1, jitter="none")
    assert {backoff.delay(n, random.random) for n in (0, 1, 10_000)} == {0.5}


@pytest.mark.parametrize("base", [0, 0.0])
def test_base_of_zero_never_waits(base: float) -> None:
    assert Backoff(base=base, jitter="none").delay(50, random.random) == 0.0


def test_cap_of_one_second_is_one_second() -> None:
    assert Backoff(base=0.5, cap=1.0).ceiling(9) == 1.0


def test_decorrelated_jitter_uses_throttled_base() -> None:
    backoff = Backoff(base=0.2, throttled_base=1.0, cap=20.0, jitter="decorrelated")
    assert backoff.delay(0, lambda: 0.0, throttled=True) == 1.0
    assert backoff.delay(0, lambda: 1.0, throttled=True) == 3.0


@pytest.mark.parametrize("cap", [0.1, 0, 0.2, 5])
def test_base_that_was_not_given_follows_cap(cap: float) -> None:
    backoff = Backoff(cap=cap)
    assert backoff.base == min(0.2, cap)
    assert backoff.ceiling(9) <= cap
    copied = pickle.loads(pickle.dumps(backoff))
    assert copied == backoff
    for changed in (attrs.evolve(backoff, cap=20.0), attrs.evolve(copied, cap=20.0)):
        assert changed == Backoff()
    assert attrs.evolve(Backoff(), cap=0.05).base == 0.05
    assert repr(Backoff(cap=0.1)).startswith("Backoff(base=0.1, ")


def test_base_that_was_given_does_not_follow() -> None:
    with pytest.raises(ValueError, match=r"^Backoff.base \(0.2 s\) must not be above Backoff.cap"):
        Backoff(base=0.2, cap=0.1)
    with pytest.raises(ValueError, match=r"^Backoff.base \(0.2 s\)"):
        attrs.evolve(Backoff(base=0.2), cap=0.1)


def test_cap_of_zero_never_waits() -> None:
    for jitter in JITTERS:
        backoff = Backoff(base=0, throttled_base=0, cap=0, jitter=jitter)
        assert backoff.delay(50, random.random, throttled=True, previous=9.0) == 0.0


def test_full_jitter_uses_whole_range_evenly() -> None:
    draw = random.Random(1).random
    delays = [Backoff().delay(2, draw) for _ in range(2_000)]
    assert min(delays) < 0.02
    assert max(delays) > 0.78
    assert math.isclose(sum(delays) / len(delays), 0.4, rel_tol=0.05)


def test_equal_jitter_keeps_to_upper_half() -> None:
    backoff = Backoff(jitter="equal")
    assert backoff.delay(2, lambda: 0.0) == pytest.approx(0.4)
    assert backoff.delay(2, lambda: 0.5) == pytest.approx(0.6)


@given(DRAWS, st.floats(min_value=0, max_value=100))
def test_decorrelated_jitter_lies_within_three_times_previous(draw: float, previous: float) -> None:
    backoff = Backoff(jitter="decorrelated")
    delay = backoff.delay(7, lambda: draw, previous=previous)
    assert 0.2 <= delay <= min(20.0, max(0.2, 3 * previous)) + 1e-9


def test_decorrelated_jitter_starts_from_three_times_base() -> None:
    assert Backoff(jitter="decorrelated").delay(0, lambda: 1.0) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base": -1}, "Backoff.base must be a finite number of seconds at least 0, got -1"),
        (
            {"cap": 1.1e9},
            r"Backoff.cap must be .* seconds at least 0 \(at most 1000000000\), got 11",
        ),
        ({"base": 10**400}, "Backoff.base must be a finite number of seconds at least 0"),
        ({"cap": float("nan")}, "Backoff.cap must be a finite number of seconds at least 0"),
        ({"cap": float("inf")}, "Backoff.cap must be a finite number of seconds at least 0"),
        ({"factor": 0.9}, "Backoff.factor must be a finite number at least 1, got 0.9"),
        ({"throttled_base": "1"}, "Backoff.throttled_base must be a finite number of seconds"),
        ({"jitter": "some"}, "Backoff.jitter must be one of full, equal, decorrelated, none"),
        ({"jitter": None}, "Backoff.jitter must be one of full, equal, decorrelated, none"),
        ({"base": 30}, r"Backoff.base \(30 s\) must not be above Backoff.cap \(20 s\)"),
        (
            {"cap": 0.5, "throttled_base": 1},
            r"Backoff.throttled_base \(1 s\) must not be above Backoff.cap \(0.5 s\)",
        ),
    ],
)
def test_schedule_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backoff(**fields)


def test_schedule_is_frozen_value() -> None:
    backoff: Any = Backoff()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        backoff.base = 3
    assert backoff == Backoff()
    assert hash(backoff) == hash(Backoff())


def test_throttled_base_follows_small_cap() -> None:
    small = Backoff(cap=0.5)
    assert (small.throttled_base, small.slow_base) == (None, 0.5)
    assert small.ceiling(0, throttled=True) == 0.5
    assert Backoff().slow_base == 1.0
    assert attrs.evolve(small, cap=30.0).slow_base == 1.0
    with pytest.raises(ValueError, match=r"Backoff\.throttled_base \(1 s\) must not be above"):
        Backoff(cap=0.5, throttled_base=1.0)
