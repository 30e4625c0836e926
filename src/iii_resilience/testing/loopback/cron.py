"""The trigger type `cron`: calls a function at each time that an expression names.

As on engine 0.23: times are UTC, an expression has six fields (seconds first) and perhaps a year,
each registered trigger fires by itself, and a trigger waits for its call before the next tick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import attrs

from iii_resilience.testing.loopback.history import InvocationOutcome
from iii_resilience.testing.loopback.router import Invocation, Router
from iii_resilience.testing.loopback.triggers import Trigger

_MONTHS: Final = (
    *("jan", "feb", "mar", "apr", "may", "jun"),
    *("jul", "aug", "sep", "oct", "nov", "dec"),
)
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_YEARS_AHEAD: Final = 8  # a 29th of February is never further away than this
#: Name, lowest and highest value, and the names that stand for values from the lowest on.
_FIELDS: Final[tuple[tuple[str, int, int, tuple[str, ...]], ...]] = (
    ("Seconds", 0, 59, ()),
    ("Minutes", 0, 59, ()),
    ("Hours", 0, 23, ()),
    ("Days of Month", 1, 31, ()),
    ("Months", 1, 12, _MONTHS),
    ("Days of Week", 1, 7, _DAYS),
    ("Years", 1970, 2100, ()),
)
_SHORTHAND: Final = {
    "@yearly": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 1",
    "@daily": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}


@attrs.frozen
class Schedule:
    """The times that one expression names.

    Attributes:
        fields: The values of each field, in the expression's order; the year is always there.
    """

    fields: tuple[frozenset[int], ...]

    @classmethod
    def parse(cls, expression: str) -> Schedule:
        """Reads an expression.

        Raises:
            ValueError: It has another number of fields, or a value that its field cannot have.
        """
        parts = _SHORTHAND.get(expression, expression).split()
        if len(parts) == len(_FIELDS) - 1:
            parts.append("*")
        if len(parts) != len(_FIELDS):
            raise ValueError(f"{len(parts)} fields instead of 6 or 7")
        return cls(
            tuple(
                frozenset(_values(part, *field)) for part, field in zip(parts, _FIELDS, strict=True)
            )
        )

    def after(self, now: datetime) -> datetime | None:
        """The first time after another, or None where there is none.

        Args:
            now: A time in UTC.
        """
        seconds, minutes, hours, days, months, weekdays, years = self.fields
        start = now.replace(microsecond=0) + timedelta(seconds=1)
        day = start.replace(hour=0, minute=0, second=0)
        for _ in range(366 * _YEARS_AHEAD):
            matches = day.month in months and day.day in days and day.year in years
            if matches and day.isoweekday() % 7 + 1 in weekdays:
                for hour in sorted(hours):
                    for minute in sorted(minutes):
                        if day.replace(hour=hour, minute=minute, second=59) < start:
                            continue
                        for second in sorted(seconds):
                            at = day.replace(hour=hour, minute=minute, second=second)
                            if at >= start:
                                return at
            day += timedelta(days=1)
        return None


class Cron:
    """All cron triggers of one engine.

    Args:
        calls: Makes the calls.
        later: Runs an action on the engine's thread after a delay in seconds.
    """

    def __init__(self, calls: Router, later: Callable[[float, Callable[[], None]], None]) -> None:
        self._calls = calls
        self._later = later
        self._jobs: dict[str, Schedule] = {}

    def register(self, trigger: Trigger) -> None:
        """Starts to fire.

        Raises:
            ValueError: In the engine's words.
        """
        config = trigger.config if isinstance(trigger.config, dict) else {}
        expression = config.get("expression")
        if not isinstance(expression, str) or not expression:
            raise ValueError("Cron expression is required")
        try:
            schedule = Schedule.parse(expression)
        except ValueError as problem:
            raise ValueError(f"Invalid cron expression '{expression}': {problem}") from None
        self._jobs[trigger.trigger_id] = schedule
        self._wait(trigger, schedule)

    def unregister(self, trigger: Trigger) -> None:
        """Fires no longer."""
        self._jobs.pop(trigger.trigger_id, None)

    def _wait(self, trigger: Trigger, schedule: Schedule) -> None:
        now = datetime.now(UTC)
        at = schedule.after(now)
        if at is not None:
            self._later((at - now).total_seconds(), lambda: self._fire(trigger, schedule, at))

    def _fire(self, trigger: Trigger, schedule: Schedule, at: datetime) -> None:
        if self._jobs.get(trigger.trigger_id) is not schedule:
            return
        data = {
            "trigger": "cron",
            "job_id": trigger.trigger_id,
            "scheduled_time": at.isoformat(),
            "actual_time": datetime.now(UTC).isoformat(),
        }
        condition = trigger.config.get("condition_function_id")

        def call(_: InvocationOutcome | None = None) -> None:
            self._place(trigger, trigger.function_id, data, trigger.metadata, done)

        def checked(outcome: InvocationOutcome) -> None:
            # A condition that fails or says no ends the job (observed in the engine's source).
            if outcome.error is None and outcome.result is not False:
                call()

        def done(_: InvocationOutcome) -> None:
            if self._jobs.get(trigger.trigger_id) is schedule:
                self._wait(trigger, schedule)

        if isinstance(condition, str):
            self._place(trigger, condition, data, None, checked)
        else:
            call()

    def _place(
        self,
        trigger: Trigger,
        function_id: str,
        data: Any,
        metadata: Any,
        reply: Callable[[InvocationOutcome], None],
    ) -> None:
        self._calls.place(
            Invocation(function_id, data, reply, namespace=trigger.namespace, metadata=metadata)
        )


def _values(part: str, name: str, low: int, high: int, names: tuple[str, ...]) -> Iterator[int]:
    for item in part.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        if span in {"*", "?"}:
            begin, end = low, high
        else:
            begin = _value(first, name, low, high, names)
            end = _value(last, name, low, high, names) if last else (high if step else begin)
        if end < begin or (step and not (step.isdigit() and int(step) > 0)):
            raise ValueError(f"The '{name}' field does not support '{item}'.")
        yield from range(begin, end + 1, int(step or 1))


def _value(text: str, name: str, low: int, high: int, names: tuple[str, ...]) -> int:
    if text.isdigit() and low <= int(text) <= high:
        return int(text)
    short = text.lower()[:3]
    if text.isalpha() and short in names:
        return low + names.index(short)
    raise ValueError(f"The '{name}' field does not support '{text}'.")
