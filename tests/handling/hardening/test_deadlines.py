"""Deadlines by other clocks: believed, unless a clock is visibly off."""

from __future__ import annotations

import attrs
import pytest

from iii_resilience.handling.hardening.deadlines import Arrival, Clocks
from iii_resilience.sdk.propagation import CallContext

NOW = 1_800_000_000.0
LEFT = 5.0


@attrs.define
class Here:
    """A worker's clocks, and calls that arrive at it.

    Attributes:
        now: Its own clock, in seconds since 1970.
    """

    clocks: Clocks = attrs.field(factory=lambda: Clocks(1.0))
    now: float = NOW

    def arrives(
        self, offset: float, *, left: float = LEFT, sender: object = "w1"
    ) -> tuple[bool, float | None]:
        """A call that was sent `offset` seconds ago by its sender's clock.

        Returns:
            Whether it may be started, and how long it may take.
        """
        carried = CallContext(left=left, deadline_unix=self.now - offset + left)
        arrival = self.clocks.arrival(carried, sender, now=0.0, now_unix=self.now)
        deadline = arrival.inbound.deadline_at
        return arrival.late(0.0) is None, None if deadline is None else round(deadline, 3)


@pytest.fixture
def here() -> Here:
    return Here()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of clocks: threads of other tests may have something to say, too."""
    messages = [record.getMessage() for record in caplog.records]
    return [text for text in messages if text.startswith("the clock of worker")]


@pytest.mark.parametrize(
    ("offset", "starts", "may_take"),
    [
        (0.0, True, 5.0),  # at once: all that was left
        (0.5, True, 5.0),  # within the tolerance nobody knows
        (3.0, True, 3.0),
        (5.9, True, 0.1),
        (6.1, False, 0.0),
        (59.0, False, 0.0),
        (-30.0, True, 5.0),  # ahead, within a minute
    ],
)
def test_deadline_counts_by_sender_clock_within_tolerance(
    here: Here, offset: float, starts: bool, may_take: float
) -> None:
    assert here.arrives(offset) == (starts, may_take)


def test_what_was_late_by_how_much(here: Here) -> None:
    carried = CallContext(left=1.0, deadline_unix=NOW - 10)
    arrival = here.clocks.arrival(carried, "w1", now=0.0, now_unix=NOW)
    assert arrival.late(0.0) == pytest.approx(9.0)


def test_nothing_carried_is_no_deadline(here: Here) -> None:
    arrival = here.clocks.arrival(None, "w1", now=0.0, now_unix=NOW)
    assert (arrival.late(1e9), arrival.inbound.deadline_at) == (None, None)


def test_clock_ahead_shows_at_once_and_is_warned_of_once(
    here: Here, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert here.arrives(-90.0) == (True, LEFT)
        here.now += 1
    (text,) = warnings(caplog)
    assert text.startswith("the clock of worker w1 is off by about 90 s (ahead)")


def test_clock_that_is_behind_shows_at_second_message(
    here: Here, caplog: pytest.LogCaptureFixture
) -> None:
    assert not here.arrives(90.0)[0]  # it may as well have been held up
    here.now += 0.2
    assert here.arrives(90.05) == (True, LEFT)
    here.now += 30
    assert here.arrives(90.02) == (True, LEFT)
    (text,) = warnings(caplog)
    assert "off by about 90 s (behind)" in text


def test_messages_held_up_together_are_late_not_off(
    here: Here, caplog: pytest.LogCaptureFixture
) -> None:
    for offset in (90.0, 85.0, 80.0, 61.5):  # a worker that was stopped handles its backlog
        assert not here.arrives(offset)[0]
    assert here.arrives(0.1) == (True, LEFT)
    assert not here.arrives(70.0)[0]  # known to be right: what is late is late
    assert not warnings(caplog)


def test_clock_that_was_set_right_is_believed_again(here: Here) -> None:
    assert here.arrives(-90.0)[0]
    here.now += 10
    assert not here.arrives(20.0)[0]


def test_unknown_sender_is_not_held_to_its_clock(here: Here) -> None:
    for sender in (None, 5):
        assert here.arrives(90.0, sender=sender) == (True, LEFT)
        assert not here.arrives(30.0, sender=sender)[0]


def test_senders_are_not_remembered_for_ever(here: Here) -> None:
    for number in range(3000):
        here.arrives(0.0, sender=f"w{number}")
    assert len(here.clocks._senders) <= 1000


def test_deadline_without_time_left_counts_as_it_is(here: Here) -> None:
    late = CallContext(deadline_unix=NOW - 10)
    assert here.clocks.arrival(late, "w1", now=0.0, now_unix=NOW).late(0.0) is not None
    soon = CallContext(deadline_unix=NOW + 10)
    arrival = here.clocks.arrival(soon, "w1", now=0.0, now_unix=NOW)
    assert arrival.inbound.deadline_at == pytest.approx(11.0)


class TestAttempts:
    """The time of an attempt, beside that of the whole call."""

    def arrival(self, here: Here, offset: float = 0.0, left: float | None = None) -> Arrival:
        """An attempt of 2 s, sent `offset` seconds ago by its sender's clock."""
        sent = here.now - offset
        carried = CallContext(
            left=left,
            deadline_unix=None if left is None else sent + left,
            attempt_left=2.0,
            attempt_deadline_unix=sent + 2.0,
        )
        return here.clocks.arrival(carried, "w1", now=100.0, now_unix=here.now)

    def test_starts_until_its_time_since_arrival_is_over(self, here: Here) -> None:
        arrival = self.arrival(here)
        assert arrival.late(102.0) is None
        assert arrival.late(102.5) == pytest.approx(0.5)
        assert arrival.call_by is None

    @pytest.mark.parametrize(("offset", "late"), [(2.9, None), (3.1, 0.1), (12.0, 9.0)])
    def test_late_by_the_sender_s_clock_and_tolerance(
        self, here: Here, offset: float, late: float | None
    ) -> None:
        found = self.arrival(here, offset).late(100.0)
        assert found == (None if late is None else pytest.approx(late))

    def test_bounds_no_call_of_its_handler(self, here: Here) -> None:
        assert self.arrival(here).inbound.deadline_at is None
        call = self.arrival(here, left=60.0)
        assert call.inbound.deadline_at == 160.0
        assert call.start_by == 102.0

    def test_call_that_ends_first_counts(self, here: Here) -> None:
        arrival = self.arrival(here, left=1.0)
        assert (arrival.start_by, arrival.call_by) == (101.0, 101.0)

    def test_clock_that_is_off_leaves_time_since_arrival(
        self, here: Here, caplog: pytest.LogCaptureFixture
    ) -> None:
        arrival = self.arrival(here, -3600.0)
        assert arrival.late(101.9) is None
        assert arrival.late(102.5) == pytest.approx(0.5)
        assert len(warnings(caplog)) == 1
