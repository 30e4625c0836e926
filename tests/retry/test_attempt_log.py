"""What becomes of the permits of a call's retries, however the call ends."""

from __future__ import annotations

import pytest

from iii_resilience import Category, Execution, Failure
from iii_resilience.core.guards.budget import PermitBucket
from iii_resilience.retry.attempt_log import AttemptLog, FailedAttempt

FAILURE = Failure("TIMEOUT", Category.TRANSIENT, Execution.MAYBE_EXECUTED)


class Call:
    """A call whose first attempt, and as many retries as are given, were sent and failed."""

    def __init__(self, retries: int = 0, *, sent: bool = True) -> None:
        self.bucket = PermitBucket(ratio=1.0, burst=10.0, min_per_second=0.0)
        self.log = AttemptLog(0.0, self.bucket)
        self.fail(sent=sent)
        for _ in range(retries):
            assert self.log.reserve_permit(1.0)
            self.log.settle_permit(sent=True)
            self.fail()

    def fail(self, *, sent: bool = True) -> None:
        number = len(self.log.failed) + 1
        error = TimeoutError()
        self.log.failed.append(FailedAttempt(number, FAILURE, 0.0, 0.1, sent, error, None))

    @property
    def permits(self) -> tuple[float, int, int, int]:
        """What is left, and what was taken, came back and is lost."""
        bucket = self.bucket
        return bucket.level, bucket.taken, bucket.refunded, bucket.wasted


@pytest.mark.parametrize(("sent", "lost"), [(True, 2), (False, 1)])
def test_interrupted_call_loses_permits_of_what_was_sent(*, sent: bool, lost: int) -> None:
    call = Call(1)
    assert call.log.reserve_permit(1.0)
    if sent:
        call.log.sent = True
    assert call.log.interrupted() == lost
    assert call.permits == (10.0 - lost, lost, 0, lost)
    assert call.log.interrupted() == 0, "they are lost once"
    assert call.permits == (10.0 - lost, lost, 0, lost)


@pytest.mark.parametrize(("started", "retried"), [(4.9, True), (5.0, False)])
def test_attempt_in_flight_as_trouble_began_needs_no_permit(
    *, started: float, retried: bool
) -> None:
    bucket = PermitBucket(ratio=1.0, burst=1.0, min_per_second=0.0)
    assert AttemptLog(5.0, bucket).reserve_permit(5.0), "the last one: it was full until then"
    log = AttemptLog(started, bucket)
    assert log.reserve_permit(6.0) is retried
    assert not log.permit


def test_call_without_retries_has_no_permits_to_lose() -> None:
    call = Call()
    assert (call.log.interrupted(), call.permits) == (0, (10.0, 0, 0, 0))
    unlimited = AttemptLog(0.0, None)
    assert unlimited.reserve_permit(1.0)
    ends = unlimited.interrupted(), unlimited.succeeded(1.0), unlimited.gave_up(1.0, retryable=True)
    assert ends == (0, 0, 0)


@pytest.mark.parametrize(
    ("retryable", "sent", "cost"), [(True, True, 2), (False, True, 0), (True, False, 0)]
)
def test_given_up_call_costs_more_if_another_might_succeed(
    *, retryable: bool, sent: bool, cost: int
) -> None:
    call = Call(sent=sent)
    assert call.log.reserve_permit(1.0), "given back: its retry is never sent"
    assert call.log.gave_up(2.0, retryable=retryable) == 0
    assert call.permits == (10.0 - cost, 0, 0, 0)


@pytest.mark.parametrize(("retryable", "cost"), [(True, 2), (False, 0)])
def test_given_up_call_loses_permits_of_its_retries(*, retryable: bool, cost: int) -> None:
    call = Call(2)
    assert call.log.gave_up(2.0, retryable=retryable) == 2
    assert call.permits == (8.0 - cost, 2, 0, 2)


def test_success_gives_back_permits_of_all_retries() -> None:
    call = Call(2)
    assert call.log.reserve_permit(1.0)
    call.log.sent = True
    assert call.log.succeeded(2.0) == 3
    assert call.permits == (10.0, 3, 3, 0)
    assert call.log.succeeded(2.0) == 0, "they come back once"


def test_shown_attempt_is_last_sent_or_last() -> None:
    call = Call(1)
    call.fail(sent=False)
    assert call.log.shown().number == 2
    unsent = Call(sent=False)
    unsent.fail(sent=False)
    assert unsent.log.shown().number == 2


def test_failed_attempt_becomes_row_of_report() -> None:
    failed = FailedAttempt(2, FAILURE, 0.5, 0.25, False, TimeoutError(), None)
    attempt = failed.attempt
    assert (attempt.number, attempt.failure, attempt.sent) == (2, FAILURE, False)
    assert (attempt.delay, attempt.duration) == (0.5, 0.25)
