"""What is kept beside the exception: report, hint and note, and that nothing else changes."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import time
import traceback
from pathlib import Path
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
from iii_resilience.core.hints import consuming
from iii_resilience.core.report import (
    GivenUp,
    already_retried,
    amend,
    attach,
    attach_single,
    execution_over,
)

FAILURE = Failure(
    "TIMEOUT", Category.TRANSIENT, Execution.MAYBE_EXECUTED, message="MARKER", remedy="look here"
)
HINT = Hint("enqueue", Reason.EXHAUSTED, "look here", queue="orders")


def report(reason: Reason = Reason.EXHAUSTED, attempts: int = 1) -> RetryReport:
    made = tuple(Attempt(number + 1, FAILURE, 0.0, 0.1) for number in range(attempts))
    return RetryReport(made, reason, Execution.MAYBE_EXECUTED, 1.234)


def record(
    reason: Reason = Reason.EXHAUSTED,
    attempts: int = 1,
    now: float = 5.0,
    failure: Failure = FAILURE,
) -> GivenUp:
    tried = ((failure, 0.0, 0.1, True),) * attempts
    return GivenUp(tried, reason, now, 1.234, failure, "orders")


def attached(error: Any, reason: Reason = Reason.EXHAUSTED, now: float = 5.0) -> Any:
    attach(error, record(reason, now=now))
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
    attach(error, record(attempts=3))
    assert "|".join(error.__notes__) == (
        "iii-resilience: 3 attempts in 1.23 s; last: TIMEOUT (transient, maybe_executed); "
        "gave up: exhausted; hint: enqueue to 'orders'; look here"
    )
    attach(error, record(Reason.PUSHBACK, failure=FAILURE.replace(retry_after=4.998, remedy="")))
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


@pytest.mark.parametrize("inside", [0, 1, 2])
def test_one_member_of_group_that_was_given_up_is_enough(inside: int) -> None:
    members = [ValueError("a"), KeyError("b"), OSError("c")]
    group = ExceptionGroup("outer", [ExceptionGroup("inner", members[:2]), members[2]])
    assert not already_retried(group, since=0.0)
    attached(members[inside])
    assert already_retried(group, since=0.0)
    outer = ValueError("around it")
    outer.__cause__ = group
    assert already_retried(outer, since=0.0)


def test_attribute_of_that_name_that_is_not_ours_counts_for_nothing() -> None:
    error: Any = ValueError("x")
    error._iii_resilience = "theirs"
    assert report_for(error) is None
    assert hint_for(error) is None
    assert not already_retried(error, since=0.0)


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
    failures = [FAILURE.replace(execution=Execution(execution)) for execution in executions]
    assert execution_over(failures) is expected


def test_no_repr_shows_message() -> None:
    assert "MARKER" not in repr(report())


def test_single_attempt_that_was_refused_was_not_sent() -> None:
    error = ValueError("too large")
    failure = classify("payload_too_large")
    attach_single(error, failure, Reason.NOT_RETRYABLE)
    report = report_for(error)
    assert report is not None
    assert [attempt.sent for attempt in report.attempts] == [False]
    assert (report.reason, report.execution) == (Reason.NOT_RETRYABLE, failure.execution)


def test_single_attempt_took_no_time_and_is_of_now() -> None:
    error, failure = ValueError("too large"), classify("payload_too_large")
    before = time.monotonic()
    attach_single(error, failure, Reason.CIRCUIT_OPEN)
    report = report_for(error)
    assert report is not None
    assert report == RetryReport(
        (Attempt(1, failure, 0.0, 0.0, sent=False),), Reason.CIRCUIT_OPEN, failure.execution, 0.0
    )
    assert already_retried(error, since=before)
    assert not already_retried(error, since=time.monotonic() + 60.0)


def test_amended_note_stays_one_note_of_ours() -> None:
    error, failure = ValueError("x"), classify("TIMEOUT")
    error.add_note("somebody else's")
    amend(error, "nothing to amend yet")
    attach_single(error, failure, Reason.EXHAUSTED)
    amend(error, "its timeout was 30 ms")
    theirs, ours = error.__notes__
    assert theirs == "somebody else's"
    assert ours.endswith("; its timeout was 30 ms")
    amend(KeyError(), "no notes at all")


STOPPED = classify({"code": "invocation_stopped", "message": "m"})


def test_note_names_max_stops_that_ended_it() -> None:
    error = ValueError("x")
    attach(
        error, GivenUp(((STOPPED, 0.0, 0.1, True),) * 3, Reason.STOPPED, 0.0, 1.0, STOPPED, None)
    )
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
    attempts = tuple((STOPPED, 0.0, 0.1, one) for one in sent)
    error = ValueError("x")
    attach(error, GivenUp(attempts, Reason.EXHAUSTED, 0.0, 1.0, STOPPED, None))
    assert words in error.__notes__[0]


# Report, hint and note are made when they are read.


def notes(error: Any) -> list[str]:
    """The notes, unread."""
    return error.__notes__  # type: ignore[no-any-return]


OURS = (
    "iii-resilience: 1 attempt in 1.23 s; last: TIMEOUT (transient, maybe_executed); "
    "gave up: exhausted; hint: enqueue to 'orders'; look here"
)


@pytest.mark.parametrize(
    "read",
    [
        lambda error: list(notes(error)),
        lambda error: [*notes(error)],
        lambda error: "\n".join(notes(error)).split("\n"),
        lambda error: [notes(error)[0]],
        lambda error: notes(error)[:],
        lambda error: notes(error).copy(),
        lambda error: notes(error) * 1,
        lambda error: [note for note in notes(error) if note in notes(error)],
        lambda error: [notes(error).pop()] * len(notes(attached(ValueError()))),
        lambda error: list(reversed(notes(error))),
        lambda error: pickle.loads(pickle.dumps(notes(error))),
        lambda error: copy.deepcopy(notes(error)),
        lambda error: pickle.loads(pickle.dumps(error)).__notes__,
        lambda error: traceback.TracebackException.from_exception(error).__notes__,
        lambda error: traceback.format_exception_only(error)[1:][0].splitlines(),
        lambda error: ExceptionGroup("g", [error]).exceptions[0].__notes__,
    ],
)
def test_notes_are_there_however_they_are_read(read: Any) -> None:
    assert read(attached(ValueError("x"))) == [OURS]


def test_unread_notes_compare_and_show_as_list_they_are() -> None:
    assert notes(attached(ValueError())) == [OURS]
    assert notes(attached(ValueError())) == [OURS]
    assert notes(attached(ValueError())) != []
    assert repr(notes(attached(ValueError()))) == repr([OURS])
    assert bool(notes(attached(ValueError())))
    assert type(pickle.loads(pickle.dumps(notes(attached(ValueError()))))) is list


def test_note_that_is_added_unread_comes_behind_ours() -> None:
    error = attached(ValueError())
    error.add_note("later")
    assert error.__notes__ == [OURS, "later"]
    error = attached(ValueError())
    error.__notes__ += ["later"]
    assert error.__notes__ == [OURS, "later"]


def test_group_that_is_split_keeps_unread_note() -> None:
    group = attached(ExceptionGroup("g", [ValueError(), KeyError()]))
    _, rest = group.split(ValueError)
    assert rest.__notes__ == [OURS]


def test_uncaught_exception_shows_unread_note(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from iii_resilience import iii_retry\n"
        "@iii_retry\n"
        "def function():\n"
        "    raise ValueError('x')\n"
        "function()\n",
        encoding="utf-8",
    )
    ran = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, check=False
    )
    lines = ran.stderr.splitlines()
    assert lines[-2] == "ValueError: x"
    assert lines[-1].startswith("iii-resilience: 1 attempt in ")


def test_every_method_of_list_writes_note_first() -> None:
    own = {name for name in vars(list) if callable(getattr(list, name))}
    written = {name for name in vars(type(notes(attached(ValueError())))) if name in own}
    # What is made, appended to or measured needs no content.
    rest = {"__class_getitem__", "__getattribute__", "__init__", "__new__", "__sizeof__"}
    assert own - written - {"__hash__"} == rest | {"append"}


def test_hint_is_that_of_moment_it_was_given_up() -> None:
    failure = classify(ValueError("x"))
    with consuming():
        inside = GivenUp((), Reason.NOT_RETRYABLE, 0.0, 0.0, failure, None)
    outside = GivenUp((), Reason.NOT_RETRYABLE, 0.0, 0.0, failure, None)
    with consuming():
        assert outside.hint.action == "investigate"
    assert inside.hint.action == "dead-letter"


def test_what_was_read_once_is_the_same_object() -> None:
    error = attached(ValueError())
    assert report_for(error) is report_for(error)
    assert hint_for(error) is hint_for(error)
