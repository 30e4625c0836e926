"""Faults that can be injected into a call, and the call at which they occur.

Knows nothing of how a fault is carried out: `loopback.router` does that.
"""

from __future__ import annotations

from typing import Any

import attrs


def _a_number(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{attribute.name} is a number of seconds, not {type(value).__name__}")
    if not 0 <= value < float("inf"):
        raise ValueError(f"{attribute.name} is a number of seconds from 0 on, not {value!r}")


def _a_string(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} is a string, not {type(value).__name__}")


def _a_string_or_none(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{attribute.name} is a string or None, not {type(value).__name__}")


@attrs.frozen
class Fault:
    """Something that goes wrong with one call of one function; see its subclasses."""


@attrs.frozen
class AnswerError(Fault):
    """The caller gets this error.

    Attributes:
        code: The exact code, for example ``invocation_stopped``.
        message: The explanation.
        stacktrace: A stack trace, or None.
        after_execution: Whether the handler runs first and its answer is replaced.
    """

    code: str = attrs.field(validator=_a_string)
    message: str = attrs.field(validator=_a_string)
    stacktrace: str | None = attrs.field(default=None, validator=_a_string_or_none)
    after_execution: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class AnswerResult(Fault):
    """The caller gets this result.

    Attributes:
        value: The result; anything JSON can carry.
        after_execution: Whether the handler runs first and its answer is replaced.
    """

    value: Any
    after_execution: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class Drop(Fault):
    """The call is never answered and the handler does not run."""


@attrs.frozen
class DropAnswer(Fault):
    """The handler runs, its answer is lost."""


@attrs.frozen
class Delay(Fault):
    """The call waits in the engine, then goes on as usual.

    A call whose caller has gone by then, or that the engine's restart swept away, does not go on.

    Attributes:
        seconds: How long, in seconds.
    """

    seconds: float = attrs.field(validator=_a_number)


@attrs.frozen
class CutCaller(Fault):
    """The caller's connection ends (a TCP reset).

    Attributes:
        after_execution: Whether the handler runs first and the connection ends in place of the
            answer. Otherwise the handler does not run.
    """

    after_execution: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class CutTarget(Fault):
    """The connection of the worker that owns the function ends (a TCP reset).

    The caller gets ``invocation_stopped``, as the engine answers whenever a target goes away.

    Attributes:
        after_execution: Whether the handler runs first and the connection ends in place of the
            answer. Otherwise the handler does not run.
    """

    after_execution: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class RestartEngine(Fault):
    """The engine restarts: every connection ends, the call is never answered.

    Attributes:
        down_for: How long nobody listens, in seconds.
        after_execution: Whether the handler runs first and the restart comes in place of the
            answer. Otherwise the handler does not run.
    """

    down_for: float = attrs.field(default=0.0, validator=_a_number)
    after_execution: bool = attrs.field(default=False, kw_only=True)


@attrs.define
class _Planned:
    fault: Fault
    skip: int
    left: int | None
    deliveries: bool


class FaultPlan:
    """Which fault meets which call."""

    def __init__(self) -> None:
        self._planned: dict[str, list[_Planned]] = {}

    def add(
        self, function_id: str, fault: Fault, call: int, times: int | None, *, deliveries: bool
    ) -> None:
        """Plans a fault.

        Args:
            function_id: Whose calls it meets.
            fault: What goes wrong.
            call: The first call it meets, counted from now; 1 is the next.
            times: How many calls in a row it meets; None is all of them.
            deliveries: Whether deliveries of a queue count as calls and are met too.

        Raises:
            TypeError: An argument of a wrong type.
            ValueError: A `call` or `times` below 1, or an empty function id.
        """
        if not isinstance(function_id, str):
            raise TypeError(f"function_id is a string, not {type(function_id).__name__}")
        if not function_id:
            raise ValueError("function_id is empty")
        if not isinstance(fault, Fault):
            raise TypeError(f"a fault is wanted (AnswerError(...), Drop(), ...), not {fault!r}")
        for name, value in (("call", call), ("times", times)):
            if name == "times" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} is a whole number, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} counts from 1, not {value}")
        planned = _Planned(fault, call - 1, times, deliveries)
        self._planned.setdefault(function_id, []).append(planned)

    def clear(self, function_id: str | None = None) -> None:
        """Forgets what is planned for one function, or for all of them."""
        if function_id is None:
            self._planned.clear()
        else:
            self._planned.pop(function_id, None)

    def next_for(self, function_id: str, *, delivery: bool) -> Fault | None:
        """Counts one call of a function; the fault that meets it, or None.

        Where several meet the same call, the one planned first does, and it alone is used up.
        """
        planned = self._planned.get(function_id)
        if not planned:
            return None
        chosen: Fault | None = None
        for plan in tuple(planned):
            if delivery and not plan.deliveries:
                continue
            if plan.skip:
                plan.skip -= 1
            elif chosen is None:
                chosen = plan.fault
                if plan.left is not None:
                    plan.left -= 1
                    if not plan.left:
                        planned.remove(plan)
        if not planned:
            del self._planned[function_id]
        return chosen
