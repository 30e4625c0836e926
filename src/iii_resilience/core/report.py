"""The report of a call's attempts, attached to the exception that the caller sees.

The record is one attribute of the exception, so it survives pickling. Report, hint and the note in
the traceback are made from it when they are first read: most exceptions are caught unread. Knows
nothing of how attempts are made.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from iii_resilience.core.class_cache import ClassCache
from iii_resilience.core.codes.model import Execution, strongest
from iii_resilience.core.decide import Reason
from iii_resilience.core.failure import Failure
from iii_resilience.core.hints import Hint, hint, in_consumer

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


AttemptValues = tuple[Failure, float, float, bool]
"""Failure, delay, duration and whether it was sent: an `Attempt` without its number."""


class GivenUp:
    """What is attached to an exception: the ingredients of report and hint.

    Args:
        attempts: Every failed attempt, in order.
        reason: Why the call was given up.
        at: When, as monotonic time in seconds.
        elapsed: Seconds from the call's start until then.
        failure: The failure that the exception stands for.
        queue: The queue that the hint names, or None.
    """

    __slots__ = (
        *("_attempts", "_consumer", "_elapsed", "_failure", "_made", "_queue"),
        *("at", "reason"),
    )

    def __init__(
        self,
        attempts: tuple[AttemptValues, ...],
        reason: Reason,
        at: float,
        elapsed: float,
        failure: Failure,
        queue: str | None,
    ) -> None:
        self.reason = reason
        self.at = at
        self._attempts = attempts
        self._elapsed = elapsed
        self._failure = failure
        self._queue = queue
        self._consumer = in_consumer()
        self._made: tuple[RetryReport, Hint] | None = None

    @property
    def report(self) -> RetryReport:
        """What was tried."""
        return self._read()[0]

    @property
    def hint(self) -> Hint:
        """What to do instead."""
        return self._read()[1]

    def _read(self) -> tuple[RetryReport, Hint]:
        made = self._made
        if made is None:
            attempts = tuple(
                Attempt(number, *values) for number, values in enumerate(self._attempts, 1)
            )
            execution = execution_over(attempt.failure for attempt in attempts)
            report = RetryReport(attempts, self.reason, execution, self._elapsed)
            advice = hint(self._failure, self.reason, queue=self._queue, consumer=self._consumer)
            made = self._made = (report, advice)
        return made


class _Notes(list[str]):
    """The notes of an exception; ours is written when they are first read.

    A list, because that is what Python and users expect there. What reads or changes one writes our
    note first; what is appended before then comes behind it.
    """

    __slots__ = ("record",)

    record: GivenUp | None


def _after_writing(name: str) -> Callable[..., Any]:
    plain = getattr(list, name)

    @functools.wraps(plain)
    def method(self: _Notes, *args: Any, **kwargs: Any) -> Any:
        record = self.record
        if record is not None:
            text = _NOTE + _note(record.report, record.hint)
            # Else another thread has written it meanwhile.
            if self.record is record:  # pragma: no branch - no test can hold a thread here
                self.record = None
                list.insert(self, 0, text)
        return plain(self, *args, **kwargs)

    return method


def _as_list(self: _Notes, _: object = None) -> tuple[Any, ...]:
    return list, (list(self),)


for _name in (
    *("__add__", "__contains__", "__delitem__", "__eq__", "__ge__", "__getitem__", "__gt__"),
    *("__iadd__", "__imul__", "__iter__", "__le__", "__len__", "__lt__", "__mul__", "__ne__"),
    *("__repr__", "__reversed__", "__rmul__", "__setitem__", "clear", "copy", "count", "extend"),
    *("index", "insert", "pop", "remove", "reverse", "sort"),
):
    setattr(_Notes, _name, _after_writing(_name))
_Notes.__reduce_ex__ = _as_list  # type: ignore[assignment, method-assign]
_new_notes = _Notes.__new__

_carrying: ClassCache[bool] = ClassCache()


def execution_over(failures: Iterable[Failure]) -> Execution:
    """The strongest execution over attempts: one that may have run outweighs any that did not.

    An attempt counts as not executed only where its failure proves that of the called function.

    Args:
        failures: The failures of the attempts.
    """
    result = Execution.NOT_EXECUTED
    for failure in failures:
        if not failure.proves_unexecuted:
            result = strongest(result, strongest(Execution.MAYBE_EXECUTED, failure.execution))
    return result


def attach(error: BaseException, record: GivenUp) -> None:
    """Put a record and one note on an exception; an earlier record of ours is replaced.

    Exceptions that the SDK raises again and again as one object carry none: what is true of one
    call would be read on the next.

    Args:
        error: The exception.
        record: The record.
    """
    kind = type(error)
    found = _carrying.kept.get(id(kind))
    if not (_carries(kind) if found is None or found[0]() is not kind else found[1]):
        return
    try:
        before = getattr(error, "__notes__", None)
        # Past a class's own `__setattr__`: a frozen exception keeps its fields, and takes these.
        BaseException.__setattr__(error, _ATTRIBUTE, record)
        if before is None:
            ours = _new_notes(_Notes)
            ours.record = record
            BaseException.__setattr__(error, "__notes__", ours)
            return
        notes = [note for note in before if not note.startswith(_NOTE)]
        notes.append(_NOTE + _note(record.report, record.hint))
        BaseException.__setattr__(error, "__notes__", notes)
    except Exception:  # one that refuses: the caller sees it all the same
        return


def _carries(kind: type) -> bool:
    carries = all(base.__name__ != "RegistrationRejectedError" for base in kind.__mro__)
    _carrying.keep(kind, carries)
    return carries


def attach_single(error: BaseException, failure: Failure, reason: Reason) -> None:
    """As `attach`, for what was refused before anything was sent.

    Args:
        error: The exception.
        failure: What it says.
        reason: Why it ends the call.
    """
    attempts = ((failure, 0.0, 0.0, False),)
    attach(error, GivenUp(attempts, reason, time.monotonic(), 0.0, failure, None))


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
    if (
        error.__cause__ is None
        and _ATTRIBUTE not in error.__dict__
        and not isinstance(error, BaseExceptionGroup)
    ):
        return False  # like most
    causes = [error]
    for _ in range(_CAUSES_LOOKED_AT):
        if not causes:
            return False
        cause = causes.pop()
        record = _record(cause)
        if record is not None and record.at >= since and record.reason in _DONE:
            return True
        if isinstance(cause, BaseExceptionGroup):
            causes.extend(cause.exceptions)
        if cause.__cause__ is not None:
            causes.append(cause.__cause__)
    return False


def _record(error: BaseException) -> GivenUp | None:
    try:
        record = getattr(error, _ATTRIBUTE, None)
    except Exception:  # an exception whose own attributes raise
        return None
    return record if isinstance(record, GivenUp) else None


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
