"""Faults that can be injected into a call, and the call at which they occur.

Knows nothing of how a fault is carried out: `loopback.router` does that.
"""

from __future__ import annotations

from typing import Any

import attrs
from attrs.validators import instance_of, optional

from iii_resilience.core.validators import Number, Text

SECONDS = Number(least=0, unit="seconds")
_COUNT = Number(least=1, integer=True)
_STRING = instance_of(str)


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

    code: str = attrs.field(validator=_STRING)
    message: str = attrs.field(validator=_STRING)
    stacktrace: str | None = attrs.field(default=None, validator=optional(_STRING))
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

    seconds: float = attrs.field(validator=SECONDS)


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
        down_for: How long the port is closed, in seconds.
        after_execution: Whether the handler runs first and the restart comes in place of the
            answer. Otherwise the handler does not run.
    """

    down_for: float = attrs.field(default=0.0, validator=SECONDS)
    after_execution: bool = attrs.field(default=False, kw_only=True)


@attrs.define
class _Planned:
    fault: Fault
    skip: int
    left: int | None
    deliveries: bool


class FaultPlan:
    """Which fault applies to which call."""

    def __init__(self) -> None:
        self._planned: dict[str, list[_Planned]] = {}

    def add(
        self, function_id: str, fault: Fault, call: int, times: int | None, *, deliveries: bool
    ) -> None:
        """Plans a fault.

        Args:
            function_id: The function whose calls are affected.
            fault: What goes wrong.
            call: The first affected call, counted from now; 1 is the next.
            times: How many calls in a row are affected; None is all of them.
            deliveries: Whether deliveries of a queue count as calls and are affected too.

        Raises:
            TypeError: The fault is none.
            ValueError: A `call` or `times` that is not a whole number from 1 on, or a function id
                that is not a text or is empty.
        """
        Text("a function id").require("function_id", function_id)
        if not isinstance(fault, Fault):
            raise TypeError(f"a fault is wanted (AnswerError(...), Drop(), ...), not {fault!r}")
        _COUNT.require("call", call)
        if times is not None:
            _COUNT.require("times", times)
        planned = _Planned(fault, call - 1, times, deliveries)
        self._planned.setdefault(function_id, []).append(planned)

    def clear(self, function_id: str | None = None) -> None:
        """Forgets what is planned for one function, or for all of them."""
        if function_id is None:
            self._planned.clear()
        else:
            self._planned.pop(function_id, None)

    def next_for(self, function_id: str, *, delivery: bool) -> Fault | None:
        """Counts one call of a function; the fault that applies to it, or None.

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
