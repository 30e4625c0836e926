"""Callers that wait for one event: released in order, a little apart, or refused."""

from __future__ import annotations

from iii_resilience import NotConnectedError
from iii_resilience.sdk.wait_queue import WaitQueue


class TestWaiters:
    def test_first_goes_at_once_and_others_a_little_apart(self) -> None:
        waiters = WaitQueue()
        futures = [waiters.add() for _ in range(20)]
        waiters.release()
        pauses = [future.result(0) for future in futures]
        assert pauses[0] == 0.0
        assert pauses == sorted(pauses)
        assert pauses[-1] > 0.0

    def test_however_many_wait_last_one_goes_within_half_a_second(self) -> None:
        waiters = WaitQueue()
        futures = [waiters.add() for _ in range(5000)]
        waiters.release()
        assert max(future.result(0) for future in futures) <= 0.5

    def test_one_that_left_is_not_released(self) -> None:
        waiters = WaitQueue()
        gone, here = waiters.add(), waiters.add()
        waiters.leave(gone)
        assert len(waiters) == 1
        waiters.release()
        assert gone.cancelled()
        assert here.result(0) == 0.0

    def test_refused_waiters_raise(self) -> None:
        waiters = WaitQueue()
        futures = [waiters.add() for _ in range(2)]
        waiters.refuse(lambda: NotConnectedError("no"))
        errors = [future.exception(0) for future in futures]
        assert {type(error) for error in errors} == {NotConnectedError}
        assert errors[0] is not errors[1], "each caller's own, for its own report"
