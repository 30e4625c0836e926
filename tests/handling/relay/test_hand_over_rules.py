"""What becomes of a message that could not be enqueued."""

from __future__ import annotations

import pytest

from iii_resilience import classify
from iii_resilience.core.errors import (
    ConnectionLostError,
    InvalidPayloadError,
    NotConnectedError,
    PayloadTooLargeError,
)
from iii_resilience.handling.relay.hand_over import NotEnqueuedError
from iii_resilience.handling.relay.hand_over_rules import (
    TRIES_MOST,
    AfterFailure,
    QueuePauses,
    after_failure,
)


def enqueue_error(message: str) -> dict[str, str]:
    return {"code": "enqueue_error", "message": message}


UNDEFINED = "queue 'orders' is not defined; call queue::define before enqueueing"

CASES = [
    (NotConnectedError("no"), AfterFailure.ALL_WAIT),
    (ConnectionLostError("no"), AfterFailure.ALL_WAIT),
    (enqueue_error("No queue provider is installed. Run it"), AfterFailure.ALL_WAIT),
    (enqueue_error(UNDEFINED), AfterFailure.QUEUE_WAITS),
    (enqueue_error(f"invocation_failed: handler error: {UNDEFINED}"), AfterFailure.QUEUE_WAITS),
    (enqueue_error("channel_send_failed: channel closed"), AfterFailure.QUEUE_WAITS),
    (enqueue_error("words of a broker"), AfterFailure.QUEUE_WAITS),
    (enqueue_error("function_not_found: Function x not found"), AfterFailure.QUEUE_WAITS),
    (enqueue_error("FIFO queue 'a' requires field 'b' in data"), AfterFailure.PARK),
    ({"code": "TIMEOUT", "message": "late"}, AfterFailure.QUEUE_WAITS),
    ({"code": "FORBIDDEN", "message": "function 'a::b' not allowed"}, AfterFailure.PARK),
    ({"code": "no_such_code", "message": "?"}, AfterFailure.PARK),
    (InvalidPayloadError("NaN"), AfterFailure.PARK),
    (PayloadTooLargeError(2, 1), AfterFailure.PARK),
]


@pytest.mark.parametrize(("error", "what"), CASES, ids=lambda case: str(case)[:40])
def test_verdict(error: object, what: AfterFailure) -> None:
    assert after_failure(classify(error), 1) is what


def test_unknown_words_are_believed_after_many_tries() -> None:
    for error in (enqueue_error("words of a broker"), enqueue_error(UNDEFINED)):
        failure = classify(error)
        known = failure.message == UNDEFINED
        assert after_failure(failure, TRIES_MOST - 1) is AfterFailure.QUEUE_WAITS
        last = after_failure(failure, TRIES_MOST)
        assert last is (AfterFailure.QUEUE_WAITS if known else AfterFailure.PARK)


def test_no_receipt_is_tried_again() -> None:
    failure = NotEnqueuedError().failure
    assert after_failure(failure, 1) is AfterFailure.QUEUE_WAITS
    assert after_failure(failure, TRIES_MOST) is AfterFailure.PARK


def test_queue_waits_longer_each_time_and_alone() -> None:
    pauses = QueuePauses(lambda: 0.0)  # half of the ceiling
    for tries, seconds in enumerate((0.125, 0.25, 0.5, 1.0, 2.0, 2.5, 2.5), 1):
        assert pauses.failed("a") == tries
        pauses.wait("a", 100.0)
        assert pauses.held(100.0 + seconds - 0.01) == {"a"}
        assert pauses.held(100.0 + seconds) == frozenset()
    assert pauses.left(100.0) == 0.0
    assert pauses.next_end(102.0) == 0.5
    pauses.worked("a")
    pauses.worked("a")
    assert pauses.failed("a") == 1
    assert pauses.next_end(100.0) is None


def test_all_wait_at_once() -> None:
    pauses = QueuePauses(lambda: 0.0)
    pauses.failed(None)
    pauses.wait(None, 100.0)
    assert pauses.left(100.0) == 0.125
    assert pauses.left(101.0) == 0.0
    assert pauses.held(100.0) == frozenset()
    assert pauses.next_end(100.0) == 0.125
    for _ in range(9):
        pauses.failed(None)
    pauses.wait(None, 100.0)
    assert pauses.left(100.0) == 1.0
    pauses.worked(None)
    assert pauses.left(100.0) == 0.0
