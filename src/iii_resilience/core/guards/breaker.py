"""Circuit breakers: stop sending calls to a function while most of them fail.

The caller decides which results count, and gets a `Ticket` or a `Rejection`, never an exception:
with an open circuit, rejection is the common case and must be cheap. Knows nothing of failures,
policies or telemetry, and has no clock: every method takes the time.
"""

from __future__ import annotations

import enum
import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import attrs

from iii_resilience.core.guards.scopes import Guard, Scope
from iii_resilience.core.guards.sliding_window import SlidingWindow
from iii_resilience.core.observers import logger
from iii_resilience.core.validators import checked_names, number


class CircuitState(enum.Enum):
    """What a circuit does with the next call."""

    CLOSED = "closed"
    """Lets it through."""
    OPEN = "open"
    """Rejects it."""
    HALF_OPEN = "half_open"
    """Lets it through if few enough are on their way: it finds out whether the rest may follow."""


OnTransition = Callable[[CircuitState, CircuitState, float], object]


# Each phase is an object of its own, and a ticket knows the phase it was given out in. This
# identifies a result of an earlier phase without a counter. A transition is one assignment,
# which no other thread and no KeyboardInterrupt can see half done.


@attrs.define(eq=False)
class _Closed:
    outcomes: SlidingWindow
    # Every call of this phase gets the same one: a closed circuit has nothing to remember of it.
    ticket: Ticket = attrs.field(init=False)
    state: ClassVar = CircuitState.CLOSED

    def __attrs_post_init__(self) -> None:
        self.ticket = Ticket(self)


@attrs.define(eq=False)
class _Open:
    until: float
    because: str
    ticket: Ticket | None = attrs.field(default=None, init=False)
    state: ClassVar = CircuitState.OPEN


@attrs.define(eq=False)
class _HalfOpen:
    because: str
    successes: int = 0
    # The probes on their way, oldest first, each with the time when its slot is given to another.
    slots: dict[Ticket, float] = attrs.field(factory=dict)
    ticket: Ticket | None = attrs.field(default=None, init=False)
    state: ClassVar = CircuitState.HALF_OPEN


@attrs.define(eq=False)
class Ticket:
    """Leave to make one call; handed back with what became of it."""

    _phase: _Closed | _HalfOpen = attrs.field(repr=False)
    _reported: bool = attrs.field(default=False, init=False, repr=False)


@attrs.define(eq=False)
class Rejection:
    """The answer to a call that must not be sent.

    Attributes:
        state: Open, or half-open with all its probes on their way.
        retry_after: Seconds until a probe is let through. None in a half-open circuit, which may
            close in the next millisecond: waiting for as long as a probe may take would be waiting
            for the worst case.
        because: What opened the circuit, in words (``14 of 20 calls failed within 30 s``).
    """

    state: CircuitState
    retry_after: float | None
    because: str


class Circuit:
    """One circuit: closed while enough calls succeed, open for a while when they do not.

    - Closed: every call is let through. It opens when at least `min_calls` ended within the
      window and the share of failures among them reaches the rate.
    - Open: nothing is let through for `open_for` seconds.
    - Half-open: at most `probes` calls at once are let through. The first failure opens it again,
      because after an outage a few calls are too small a sample for a rate. It closes after
      `probes` successes: as many as it sends at once, so that one lucky answer does not let
      all callers loose on a function that is still starting.

    A result that arrives after the state has changed says nothing about the new state and is
    dropped. A probe that is never reported (its thread died) loses its slot after `open_for`
    seconds, so that as many probes are sent at most as if each of them had failed; one that is
    only slow still counts when it ends.

    Thread-safe, and safe to share between event loops: nothing in it waits. For each ticket
    exactly one of `succeeded`, `failed` or `ignored` must follow.

    Args:
        failure_rate: Share of failures that opens the circuit, above 0 and at most 1.
        window: Length of the sliding window in seconds.
        min_calls: Results in the window below which the rate means nothing.
        open_for: Seconds during which nothing is sent.
        probes: Calls on their way at once while half-open, and successes that close.
        slow_call: A success that took longer than this many seconds counts as a failure, or None.
        on_transition: Called after each change of state with the state before, the state after and
            the time. It runs in the thread whose call made the change, with no lock held, so that
            two quick changes may be reported in either order. What it raises is logged.

    Attributes:
        phase: Its state. Where ``phase.ticket`` is not None it is what `admit` would return: each
            call reads it there, and saves a frame.
    """

    __slots__ = (
        "_failure_rate",
        "_lock",
        "_min_calls",
        "_on_transition",
        "_open_for",
        "_probes",
        "_slow_call",
        "_window",
        "phase",
    )

    def __init__(
        self,
        failure_rate: float,
        window: float,
        min_calls: int,
        open_for: float,
        probes: int,
        slow_call: float | None = None,
        on_transition: OnTransition | None = None,
    ) -> None:
        self._failure_rate = failure_rate
        self._window = window
        self._min_calls = min_calls
        self._open_for = open_for
        self._probes = probes
        self._slow_call = math.inf if slow_call is None else slow_call
        self._on_transition = on_transition
        self.forget()

    def forget(self) -> None:
        """Start anew: in a forked child what was counted, and who holds the lock, is another's."""
        # Reentrant: a coroutine that is thrown away gives its ticket back wherever the garbage
        # collector happens to find it, and that may be in the middle of one of these methods.
        self._lock = threading.RLock()
        self.phase: _Closed | _Open | _HalfOpen = _Closed(SlidingWindow(self._window))

    @property
    def state(self) -> CircuitState:
        """The state as of the last call: an open circuit turns half-open at the next call."""
        return self.phase.state

    def admit(self, now: float) -> Ticket | Rejection:
        """Request to send one call.

        Args:
            now: Monotonic time in seconds.
        """
        if (ticket := self.phase.ticket) is not None:
            return ticket  # one read: without the lock it is as true as with it
        with self._lock:
            before = phase = self.phase
            if isinstance(phase, _Open):
                # A clock that was set back must not make the wait longer than it was to be.
                phase.until = min(phase.until, now + self._open_for)
                if now < phase.until:
                    return Rejection(phase.state, phase.until - now, phase.because)
                self.phase = phase = _HalfOpen(phase.because)
            elif isinstance(phase, _Closed):
                return phase.ticket
            elif not self._slot_is_free(phase, now):
                return Rejection(phase.state, None, phase.because)
            ticket = Ticket(phase)
            phase.slots[ticket] = now + self._open_for
        if before is not phase:
            self._tell(before.state, phase.state, now)
        return ticket

    def succeeded(self, ticket: Ticket, now: float, duration: float) -> None:
        """The call succeeded.

        Args:
            ticket: What `admit` returned.
            now: Monotonic time in seconds.
            duration: Seconds the call took.
        """
        phase = ticket._phase  # noqa: SLF001 - a ticket is opaque to all but its circuit
        if (
            type(phase) is _Closed
            and not (outcomes := phase.outcomes).failures
            and outcomes.since <= now < outcomes.until
            and duration <= self._slow_call
        ):
            # A success among successes says nothing new, and most are that: they take no lock. No
            # thread can come into this line where one runs at a time; where several do, a success
            # may be lost. One of an earlier phase counts there, where it has no effect.
            outcomes.successes += 1
            return
        self._count(ticket, now, "was slow" if duration > self._slow_call else None)

    def failed(self, ticket: Ticket, now: float, duration: float) -> None:  # noqa: ARG002 - below
        """The call was sent and failed in a way that another call might not (transient).

        Args:
            ticket: What `admit` returned.
            now: Monotonic time in seconds.
            duration: Seconds the call took; a failure counts once, however slow it was.
        """
        self._count(ticket, now, "failed")

    def ignored(self, ticket: Ticket, now: float) -> None:  # noqa: ARG002 - the three are alike
        """The call says nothing about the function's health.

        It was not sent, was cancelled, was forbidden, had a bad payload. A probe's slot is given
        back.

        Args:
            ticket: What `admit` returned.
            now: Monotonic time in seconds.
        """
        phase = ticket._phase  # noqa: SLF001 - a ticket is opaque to all but its circuit
        if isinstance(phase, _HalfOpen):
            with self._lock:
                self._take_back(ticket, phase)

    def retune(
        self,
        _: float,
        failure_rate: float,
        window: float,
        min_calls: int,
        open_for: float,
        probes: int,
        slow_call: float | None,
    ) -> None:
        """Go by other numbers from now on: a closed circuit counts anew, the others stay as is.

        An open circuit stays open until its time, or for `open_for` where that is shorter.

        Args:
            failure_rate: As for the class.
            window: As for the class.
            min_calls: As for the class.
            open_for: As for the class.
            probes: As for the class.
            slow_call: As for the class.
        """
        with self._lock:
            self._failure_rate, self._window, self._min_calls = failure_rate, window, min_calls
            self._open_for, self._probes = open_for, probes
            self._slow_call = math.inf if slow_call is None else slow_call
            if isinstance(self.phase, _Closed):
                self.phase = _Closed(SlidingWindow(window))

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, or the one in another process, has its own counts and no callback.
        slow_call = None if self._slow_call == math.inf else self._slow_call
        numbers = (self._failure_rate, self._window, self._min_calls, self._open_for, self._probes)
        return type(self), (*numbers, slow_call)

    def _count(self, ticket: Ticket, now: float, fault: str | None) -> None:
        phase = ticket._phase  # noqa: SLF001 - a ticket is opaque to all but its circuit
        after: _Closed | _Open
        with self._lock:
            if phase is not self.phase:
                return
            if isinstance(phase, _Closed):
                outcomes = phase.outcomes
                outcomes.add(now, failed=fault is not None)
                calls, failures = outcomes.calls, outcomes.failures
                # Divided, not multiplied: 3 of 30 is exactly what a user writes as 0.1.
                if calls < self._min_calls or failures / calls < self._failure_rate:
                    return
                slow = "" if self._slow_call == math.inf else " or were slow"
                after = self._opened(
                    now, f"{failures} of {calls} calls failed{slow} within {self._window:g} s"
                )
            elif not self._take_back(ticket, phase):
                return
            elif fault is not None:
                after = self._opened(now, f"a probe {fault}")
            else:
                phase.successes += 1
                if phase.successes < self._probes:
                    return
                after = _Closed(SlidingWindow(self._window))
            self.phase = after
        self._tell(phase.state, after.state, now)

    def _opened(self, now: float, because: str) -> _Open:
        return _Open(now + self._open_for, because)

    def _slot_is_free(self, phase: _HalfOpen, now: float) -> bool:
        slots = phase.slots
        if len(slots) < self._probes:
            return True
        for ticket, until in tuple(slots.items()):
            if until <= now:
                slots.pop(ticket, None)
            elif until > now + self._open_for and ticket in slots:
                # As for an open circuit: a clock set back must not hold a slot for longer.
                slots[ticket] = now + self._open_for
        return len(slots) < self._probes

    @staticmethod
    def _take_back(ticket: Ticket, phase: _HalfOpen) -> bool:
        """Free the slot of a probe; whether this is the first that is heard of it."""
        phase.slots.pop(ticket, None)
        first = not ticket._reported  # noqa: SLF001 - a ticket is opaque to all but its circuit
        ticket._reported = True  # noqa: SLF001 - ditto
        return first

    def _tell(self, before: CircuitState, after: CircuitState, now: float) -> None:
        if self._on_transition is None:
            return
        try:
            self._on_transition(before, after, now)
        except Exception:
            logger.exception("on_transition of a circuit breaker failed")


@checked_names
@attrs.frozen
class Breaker(Guard[Circuit]):
    """When calls to a function are no longer sent, and for how long.

    Half of the calls failed is resilience4j's threshold, 30 s Polly's window. 20 calls are enough
    for half of them to mean something: where 10 % of all calls fail, 10 or more do in one sample of
    20 out of 140 000. 10 s and 3 probes are ours: a worker that restarts is back within seconds.

    The object keeps its own circuits, so policies that hold the same object share them.

    Args:
        failure_rate: Share of failures that opens a circuit, above 0 and at most 1.
        window: Length of the sliding window in seconds.
        min_calls: Calls in the window below which the rate means nothing.
        open: Seconds during which nothing is sent.
        probes: Calls on their way at once while half-open, and successes that close.
        slow_call: A success that took longer than this many seconds counts as a failure, or None.

    Raises:
        ValueError: A number out of range.
    """

    failure_rate: float = attrs.field(default=0.5, validator=number(above=0, most=1))
    window: float = attrs.field(default=30.0, validator=number(above=0, unit="seconds"))
    min_calls: int = attrs.field(default=20, validator=number(least=1, integer=True))
    open: float = attrs.field(default=10.0, validator=number(above=0, unit="seconds"))
    probes: int = attrs.field(default=3, validator=number(least=1, integer=True))
    slow_call: float | None = attrs.field(
        default=None, validator=number(above=0, optional=True, unit="seconds")
    )

    def circuit_for(
        self, scope: Scope = None, on_transition: OnTransition | None = None
    ) -> Circuit:
        """The circuit of a scope, made at its first use.

        Args:
            scope: The function (see `Scope`); None for everything under one policy.
            on_transition: Called at every change of state, as in `Circuit`. The first use's stays.
        """
        circuit = self._states.get(scope)
        if circuit is None:
            circuit = self._states.add(scope, partial(Circuit, on_transition=on_transition))
        return circuit
