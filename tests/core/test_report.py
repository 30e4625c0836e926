"""What is kept beside the exception: report, hint and note, and that nothing else changes."""

from __future__ import annotations

import copy
import pickle
import traceback
from typing import Any

import iii
import pytest

from iii_resilience import (
    Attempt,
    Category,
    ConfigError,
    ConnectionLostError,
    Execution,
    Failure,
    Hint,
    NotConnectedError,
    Reason,
    RetryReport,
    RpcError,
    classify,
    hint_for,
    report_for,
)
from iii_resilience.core.errors import (
    BulkheadFullError,
    CircuitOpenError,
    InvalidPayloadError,
    PayloadTooLargeError,
)
from iii_resilience.core.hints import hint
from iii_resilience.core.report import (
    already_retried,
    amend,
    attach,
    attach_single,
    execution_over,
)

FAILURE = Failure("TIMEOUT", Category.TRANSIENT, Execution.MAYBE_EXECUTED, message="MARKER")
HINT = Hint("enqueue", Reason.EXHAUSTED, "look here", queue="orders")


def report(reason: Reason = Reason.EXHAUSTED, attempts: int = 1) -> RetryReport:
    made = tuple(Attempt(number + 1, FAILURE, 0.0, 0.1) for number in range(attempts))
    return RetryReport(made, reason, Execution.MAYBE_EXECUTED, 1.234)


def attached(error: Any, reason: Reason = Reason.EXHAUSTED, now: float = 5.0) -> Any:
    attach(error, report(reason), HINT, now=now)
    return error


class StubbornError(Exception):
    """Refuses everything."""

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError("no")


class MuteError(Exception):
    """Raises when it is asked."""

    def __getattribute__(self, name: str) -> Any:
        if name == "_iii_resilience":
            raise KeyError(name)
        return super().__getattribute__(name)


def test_unknown_exception_has_neither_report_nor_hint() -> None:
    assert report_for(ValueError()) is None
    assert hint_for(ValueError()) is None


def test_note_says_what_was_tried_in_one_line_without_message() -> None:
    error = ValueError("x")
    attach(error, report(attempts=3), HINT, now=1.0)
    assert "|".join(error.__notes__) == (
        "iii-resilience: 3 attempts in 1.23 s; last: TIMEOUT (transient, maybe_executed); "
        "gave up: exhausted; hint: enqueue to 'orders'; look here"
    )
    wait = Hint("wait", Reason.PUSHBACK, "", seconds=4.998)
    attach(error, report(Reason.PUSHBACK), wait, now=1.0)
    assert "|".join(error.__notes__) == (
        "iii-resilience: 1 attempt in 1.23 s; last: TIMEOUT (transient, maybe_executed); "
        "gave up: pushback; hint: wait 4.998 s"
    )
    assert "gave up: pushback" in "".join(traceback.format_exception(error))


def test_latest_record_replaces_earlier_one_only() -> None:
    error = ValueError("x")
    error.add_note("mine")
    attached(error)
    error.add_note("also mine")
    attached(error, Reason.DEADLINE)
    found = report_for(error)
    assert found is not None
    assert found.reason is Reason.DEADLINE
    ours = [note for note in error.__notes__ if note.startswith("iii-resilience: ")]
    assert len(ours) == 1
    assert [note for note in error.__notes__ if note not in ours] == ["mine", "also mine"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        ConfigError(["a", "b"]),
        NotConnectedError("x"),
        ConnectionLostError("x"),
        PayloadTooLargeError(5, 3),
        InvalidPayloadError("$.a"),
        CircuitOpenError("open", 1.5),
        BulkheadFullError("full"),
        RpcError("C", "m", "expected", "L", "k", 1.0, "s"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    "again", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy], ids=["pickle", "copy"]
)
def test_report_hint_and_note_survive_where_exception_does(error: Exception, again: Any) -> None:
    other = again(attached(error))
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert report_for(other) == report()
    assert hint_for(other) == HINT
    assert other.__notes__ == error.__notes__


def test_exception_that_sdk_raises_again_carries_nothing() -> None:
    error = iii.RegistrationRejectedError("CODE", "ns", "worker", "owner")
    before = dict(vars(error))
    attached(error)
    assert vars(error) == before
    assert report_for(error) is None


def test_exception_that_refuses_attributes_has_report() -> None:
    error = attached(StubbornError("x"))
    assert report_for(error) is not None
    assert already_retried(error, since=0.0)
    assert len(error.__notes__) == 1


def test_exception_that_cannot_be_read_does_no_harm() -> None:
    error = attached(MuteError("x"))
    assert report_for(error) is None
    assert hint_for(error) is None
    assert not already_retried(error, since=0.0)


def test_notes_that_are_no_notes_do_no_harm() -> None:
    error: Any = ValueError("x")
    error.__notes__ = [3]
    attached(error)
    assert report_for(error) == report()


MARKS = {
    Reason.EXHAUSTED,
    Reason.DEADLINE,
    Reason.BUDGET_EXHAUSTED,
    Reason.CIRCUIT_OPEN,
    Reason.PUSHBACK,
    Reason.STOPPED,
    Reason.NOT_READY,
    Reason.ALREADY_RETRIED,
}


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.RETRIED])
def test_only_retry_that_did_what_it_could_marks_exception(reason: Reason) -> None:
    assert already_retried(attached(ValueError(), reason), since=0.0) == (reason in MARKS)


def test_mark_is_found_behind_cause_but_not_context() -> None:
    outer = ValueError("outer")
    outer.__cause__ = KeyError("middle")
    outer.__cause__.__cause__ = attached(ValueError("inner"))
    assert already_retried(outer, since=0.0)
    bare = ValueError("outer")
    bare.__context__ = attached(ValueError("inner"))
    assert not already_retried(bare, since=0.0)


def test_circle_of_causes_ends() -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert not already_retried(first, since=0.0)


def test_mark_from_before_attempt_is_another_calls() -> None:
    error = attached(ValueError(), now=5.0)
    assert already_retried(error, since=5.0)
    assert not already_retried(error, since=5.1)


@pytest.mark.parametrize(
    ("executions", "expected"),
    [
        ([], Execution.NOT_EXECUTED),
        (["not_executed", "not_executed"], Execution.NOT_EXECUTED),
        (["maybe_executed", "not_executed"], Execution.MAYBE_EXECUTED),
        (["not_executed", "executed", "maybe_executed"], Execution.EXECUTED),
    ],
)
def test_strongest_execution_over_all_attempts_counts(
    executions: list[str], expected: Execution
) -> None:
    attempts = [
        Attempt(1, FAILURE.replace(execution=Execution(execution)), 0.0, 0.0)
        for execution in executions
    ]
    assert execution_over(attempts) is expected


def test_no_repr_shows_message() -> None:
    assert "MARKER" not in repr(report())


def test_single_attempt_that_was_refused_was_not_sent() -> None:
    error = ValueError("too large")
    failure = classify("payload_too_large")
    attach_single(error, failure, Reason.NOT_RETRYABLE, hint(failure, Reason.NOT_RETRYABLE))
    report = report_for(error)
    assert report is not None
    assert [attempt.sent for attempt in report.attempts] == [False]
    assert (report.reason, report.execution) == (Reason.NOT_RETRYABLE, failure.execution)


def test_amended_note_stays_one_note_of_ours() -> None:
    error, failure = ValueError("x"), classify("TIMEOUT")
    error.add_note("somebody else's")
    amend(error, "nothing to amend yet")
    attach_single(error, failure, Reason.EXHAUSTED, hint(failure, Reason.EXHAUSTED))
    amend(error, "its timeout was 30 ms")
    theirs, ours = error.__notes__
    assert theirs == "somebody else's"
    assert ours.endswith("; its timeout was 30 ms")
    amend(KeyError(), "no notes at all")


def stopped(number: int, *, sent: bool = True) -> Attempt:
    failure = classify({"code": "invocation_stopped", "message": "m"})
    return Attempt(number, failure, delay=0.0, duration=0.1, sent=sent)


def test_note_names_max_stops_that_ended_it() -> None:
    attempts = (stopped(1), stopped(2), stopped(3))
    record = RetryReport(attempts, Reason.STOPPED, Execution.MAYBE_EXECUTED, 1.0)
    error = ValueError("x")
    attach(error, record, Hint("dead-letter", Reason.STOPPED, ""), now=0.0)
    (note,) = error.__notes__
    assert "3 attempts in 1.00 s;" in note
    assert "gave up: stopped (max_stops=3);" in note


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ((False,), "0 attempts in 1.00 s and 1 that was not sent;"),
        ((True, False, False), "1 attempt in 1.00 s and 2 that were not sent;"),
        ((True, True), "2 attempts in 1.00 s;"),
    ],
)
def test_note_counts_what_was_sent(sent: tuple[bool, ...], words: str) -> None:
    attempts = tuple(stopped(number, sent=one) for number, one in enumerate(sent, 1))
    record = RetryReport(attempts, Reason.EXHAUSTED, Execution.MAYBE_EXECUTED, 1.0)
    error = ValueError("x")
    attach(error, record, Hint("enqueue", Reason.EXHAUSTED, ""), now=0.0)
    assert words in error.__notes__[0]
