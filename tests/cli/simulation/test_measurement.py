"""What is counted: percentiles, the seconds of the series, load and recovery."""

from __future__ import annotations

import sys

import pytest

from iii_resilience.cli.simulation.measurement import Histogram, Recorder


class Story:
    """A recorder on a clock that the test sets."""

    def __init__(self, duration: float = 60.0, trouble: tuple[float, float] = (20.0, 30.0)) -> None:
        self.now = 0.0
        self.recorder = Recorder(duration, trouble, 5.0, lambda: self.now)

    def call(self, start: float, end: float, *, answered: bool = True, attempts: int = 1) -> None:
        self.now = start
        started = self.recorder.called()
        for number in range(attempts):
            self.recorder.attempt("a::f", number, 0.25)
        self.now = end
        if answered:
            self.recorder.answered(started)
        else:
            self.recorder.failed(started, "exhausted")


def test_percentiles_are_within_resolution() -> None:
    histogram = Histogram()
    assert histogram.percentile(0.5) is None
    for number in range(1, 1001):
        histogram.add(number / 100)
    assert histogram.percentile(0.5) == pytest.approx(5.0, rel=0.02)
    assert histogram.percentile(0.99) == pytest.approx(9.9, rel=0.02)
    assert sum(count for _, count in histogram.pairs()) == 1000


def test_memory_does_not_grow_with_calls() -> None:
    histogram = Histogram()
    sizes = []
    for count in (1000, 100_000):
        for number in range(count):
            histogram.add(0.001 * (1 + number % 5000))
        sizes.append(sys.getsizeof(histogram._counts))
    assert sizes[1] < 3 * sizes[0]


def test_load_counts_from_start_of_trouble() -> None:
    story = Story()
    story.call(5.0, 5.1, attempts=9)  # before
    story.call(25.0, 25.1, attempts=3)
    story.call(40.0, 40.1)
    row = story.recorder.measured("row")
    assert (row.calls, row.load) == (2, 2.0)


def test_shares_are_of_calls_that_started_then() -> None:
    story = Story()
    story.call(25.0, 29.0)  # in time
    story.call(25.5, 35.0)  # answered, and too late
    story.call(40.0, 41.0, answered=False)
    story.call(41.0, 42.0)
    row = story.recorder.measured("row")
    assert (row.in_time_during, row.in_time_after) == (0.5, 0.5)
    assert row.given_up == {"exhausted": 1}
    assert sum(row.curves.series.answers) == 3
    assert sum(row.curves.series.in_time) == 2


@pytest.mark.parametrize("first_good", [0, 7, 25])
def test_recovery_is_first_window_of_ninety_percent(first_good: int) -> None:
    story = Story(trouble=(20.0, 30.5))
    for second in range(28):
        for place in range(20):
            at = 30.5 + second + place / 20
            story.call(at, at + 0.1, answered=second >= first_good or place < 5)
    row = story.recorder.measured("row")
    assert row.recovery == (first_good if first_good <= 24 else None)


def test_seconds_begin_at_the_end_of_trouble() -> None:
    story = Story(duration=40.0, trouble=(20.0, 30.5))
    story.call(30.49, 30.5)
    story.call(30.51, 30.6)
    curves = story.recorder.measured("row").curves
    assert curves.first == -0.5
    assert [curves.series.calls[second] for second in (30, 31)] == [1, 1]


def test_highest_load_of_all_services_counts() -> None:
    story = Story()
    story.now = 25.0
    story.recorder.called()
    story.recorder.attempt("a::f", 0, 0.0)
    for number in range(5):
        story.recorder.attempt("b::g", number, 0.0)
    assert story.recorder.measured("row").load == 5.0


def test_nothing_called_is_no_division() -> None:
    row = Story().recorder.measured("row")
    assert (row.load, row.in_time_after, row.recovery, row.wait_p50) == (0.0, None, None, None)
