"""The report of a call's attempts, attached to the exception that the caller sees.

The record is one attribute of the exception, so it survives pickling; the note in the traceback is
made from it. Knows nothing of how attempts are made.
"""

from __future__ import annotations

import time

import attrs

from iii_resilience.core.codes.model import Execution, strongest
from iii_resilience.core.decide import Reason
from iii_resilience.core.failure import Failure
from iii_resilience.core.hints import Hint

_ATTRIBUTE = "_iii_resilience"
_NOTE = "iii-resilience: "

# An inner retry that gave up for one of these has done what retrying can do: outer retries of the
# same exception would only multiply it.
_DONE = frozenset(
    {
        Reason.EXHAUSTED,
        Reason.DEADLINE,
        Reason.BUDGET_EXHAUSTED,
        Reason.CIRCUIT_OPEN,
        Reason.PUSHBACK,
        Reason.STOPPED,
        Reason.NOT_READY,
        Reason.ALREADY_RETRIED,
    }
)
_CAUSES_LOOKED_AT = 64  # members of groups are causes too


@attrs.frozen
class Attempt:
    """One attempt of a call.

    Attributes:
        number: 1 for the first.
        failure: How it failed.
        delay: Seconds waited before it.
        duration: Seconds it took.
        sent: Whether anything left this process; always True for a user's own function.
    """

    number: int
    failure: Failure
    delay: float
    duration: float
    sent: bool = True


@attrs.frozen
class RetryReport:
    """What was tried before a call was given up.

    Attributes:
        attempts: Every failed attempt, in order.
        reason: Why it was given up.
        execution: The strongest over all attempts: whether the function may have run.
        elapsed: Seconds from the call's start until it was given up.
    """

    attempts: tuple[Attempt, ...]
    reason: Reason
    execution: Execution
    elapsed: float


@attrs.frozen
class _Record:
    report: RetryReport
    hint: Hint
    at: float  # monotonic time in seconds


def execution_over(attempts: tuple[Attempt, ...] | list[Attempt]) -> Execution:
    """The strongest execution over attempts: one that may have run outweighs any that did not.

    An attempt counts as not executed only where its failure proves that of the called function.
    """
    result = Execution.NOT_EXECUTED
    for attempt in attempts:
        result = strongest(result, execution_of(attempt))
    return result


def execution_of(attempt: Attempt) -> Execution:
    """What an attempt says of the called function having run (see `execution_over`)."""
    failure = attempt.failure
    if failure.proves_unexecuted:
        return Execution.NOT_EXECUTED
    return strongest(Execution.MAYBE_EXECUTED, failure.execution)


def attach(error: BaseException, report: RetryReport, hint: Hint, *, now: float) -> None:
    """Put the record and one note on an exception; an earlier record of ours is replaced.

    Exceptions that the SDK raises again and again as one object carry none: what is true of one
    call would be read on the next.

    Args:
        error: The exception.
        report: What was tried.
        hint: What to do instead.
        now: Monotonic time in seconds.
    """
    if any(kind.__name__ == "RegistrationRejectedError" for kind in type(error).__mro__):
        return
    try:
        # Past a class's own `__setattr__`: a frozen exception keeps its fields, and takes these.
        BaseException.__setattr__(error, _ATTRIBUTE, _Record(report, hint, now))
        notes = [n for n in getattr(error, "__notes__", ()) if not n.startswith(_NOTE)]
        notes.append(_NOTE + _note(report, hint))
        BaseException.__setattr__(error, "__notes__", notes)
    except Exception:  # one that refuses: the caller sees it all the same
        return


def attach_single(error: BaseException, failure: Failure, reason: Reason, hint: Hint) -> None:
    """As `attach`, for what was refused before anything was sent.

    Args:
        error: The exception.
        failure: What it says.
        reason: Why it ends the call.
        hint: What to do instead.
    """
    attempt = Attempt(1, failure, delay=0.0, duration=0.0, sent=False)
    report = RetryReport((attempt,), reason, failure.execution, 0.0)
    attach(error, report, hint, now=time.monotonic())


def amend(error: BaseException, text: str) -> None:
    """Add a clause to our note on an exception, if it carries one; it stays one note."""
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list):
        for place, note in enumerate(notes):
            if isinstance(note, str) and note.startswith(_NOTE):
                notes[place] = f"{note}; {text}"


def report_for(error: BaseException) -> RetryReport | None:
    """What was tried before this exception was raised.

    Args:
        error: An exception that came out of a decorated function, a `retrying` loop or
            `worker.trigger`.

    Returns:
        The latest call's report, or None where the library did not see the exception.
    """
    record = _record(error)
    return None if record is None else record.report


def hint_for(error: BaseException) -> Hint | None:
    """What to do instead of retrying.

    Args:
        error: As for `report_for`.

    Returns:
        The latest call's hint, or None where the library did not see the exception.
    """
    record = _record(error)
    return None if record is None else record.hint


def already_retried(error: BaseException, *, since: float) -> bool:
    """Whether an inner retry has given up on this exception, or on what caused it.

    Of a group, as a TaskGroup raises it, one member that was given up is enough: to call the rest
    again would be to call that one again.

    Args:
        error: What the attempt raised.
        since: Monotonic time of the attempt's start in seconds. What was given up before it was
            given up by another call: some programs raise one object again and again.
    """
    causes = [error]
    for _ in range(_CAUSES_LOOKED_AT):
        if not causes:
            return False
        cause = causes.pop()
        record = _record(cause)
        if record is not None and record.at >= since and record.report.reason in _DONE:
            return True
        if isinstance(cause, BaseExceptionGroup):
            causes.extend(cause.exceptions)
        if cause.__cause__ is not None:
            causes.append(cause.__cause__)
    return False


def _record(error: BaseException) -> _Record | None:
    try:
        record = getattr(error, _ATTRIBUTE, None)
    except Exception:  # an exception whose own attributes raise
        return None
    return record if isinstance(record, _Record) else None


def _note(report: RetryReport, hint: Hint) -> str:
    """One line for the traceback; codes and numbers only, never a message or a payload."""
    count = sum(attempt.sent for attempt in report.attempts)
    refused = len(report.attempts) - count
    last = report.attempts[-1].failure
    reason = str(report.reason)
    if report.reason is Reason.STOPPED:
        stops = sum(one.failure.code == "invocation_stopped" for one in report.attempts)
        reason += f" (max_stops={stops})"
    parts = [
        f"{count} attempt{'' if count == 1 else 's'} in {report.elapsed:.2f} s"
        + (f" and {refused} that {'was' if refused == 1 else 'were'} not sent" if refused else ""),
        f"last: {last.code} ({last.category}, {report.execution})",
        f"gave up: {reason}",
        f"hint: {hint.action}"
        + (f" to {hint.queue!r}" if hint.queue else "")
        + (f" {hint.seconds:g} s" if hint.seconds is not None else ""),
    ]
    return "; ".join([*parts, hint.remedy] if hint.remedy else parts)
