"""Admits one attempt through its policy's circuit breaker and bulkhead.

Only transient failures of attempts that were sent count against the circuit. A rejected or unsent
attempt says nothing about the target's health; neither does FORBIDDEN or a bad payload. Knows
nothing of what an attempt is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import attrs

from iii_resilience import telemetry
from iii_resilience.core import system_clock as clock
from iii_resilience.core.classifiers.registered_exceptions import ExceptionRules
from iii_resilience.core.classify import classify
from iii_resilience.core.errors import BulkheadFullError, CircuitOpenError
from iii_resilience.core.failure import Failure
from iii_resilience.core.guards.breaker import Circuit, Rejection, Ticket
from iii_resilience.core.guards.bulkhead import Permit, Slots
from iii_resilience.core.guards.scopes import Scope
from iii_resilience.core.policy import RetryPolicy

T = TypeVar("T")


def guard_for(
    policy: RetryPolicy,
    name: str,
    scope: Scope = None,
    rules: ExceptionRules | None = None,
) -> AttemptGuard | None:
    """The breaker and bulkhead that attempts of a function go through, or None.

    Args:
        policy: The policy in force.
        name: The function id or the decorated function's name, for messages and metrics.
        scope: The scope of the circuit and the slots; None for the name.
        rules: What the decorator or loop says of exception classes; None where it says nothing.
    """
    if policy.breaker is None and policy.bulkhead is None:
        return None
    scope = name if scope is None else scope
    told = partial(telemetry.circuit_changed, name)
    return AttemptGuard(
        name,
        None if policy.breaker is None else policy.breaker.circuit_for(scope, told),
        None if policy.bulkhead is None else policy.bulkhead.slots_for(scope),
        rules,
    )


@attrs.frozen
class AttemptGuard:
    """What stands before the attempts of one function.

    Attributes:
        name: The function, for messages.
        circuit: Its circuit, or None where the policy has no breaker.
        slots: Its slots, or None where the policy has no bulkhead.
        rules: What its decorator or loop says of exception classes; None where it says nothing.
        circuit_alone: Its circuit, where nothing else stands before an attempt; else None.
    """

    name: str
    circuit: Circuit | None
    slots: Slots | None
    rules: ExceptionRules | None = None
    circuit_alone: Circuit | None = attrs.field(
        init=False,
        default=attrs.Factory(
            lambda self: self.circuit if self.slots is None else None, takes_self=True
        ),
    )

    def attempt(
        self, attempt: Callable[[], T], deadline_at: float | None, classified: list[Failure]
    ) -> T:
        """Make one attempt, if it may be made.

        Args:
            attempt: Makes it.
            deadline_at: Monotonic time of the call's deadline in seconds, or None.
            classified: Holds the attempt's failure once it has failed: an attempt that classified
                its own error has put it there, else it is put there now.

        Raises:
            CircuitOpenError: The circuit is open; nothing was sent.
            BulkheadFullError: No place came free in time; nothing was sent.
        """
        circuit = self.circuit_alone
        if circuit is None:
            admission = self.admit(deadline_at)
            try:
                value = attempt()
            except BaseException as error:
                admission.failed(error, classified)
                raise
            admission.release(None)
            return value
        started = clock.monotonic()
        ticket = circuit.phase.ticket or circuit.admit(started)
        if isinstance(ticket, Rejection):
            raise self.open_error(ticket)
        try:
            value = attempt()
        except BaseException as error:
            self.failed(ticket, started, error, classified)
            raise
        ended = clock.monotonic()
        circuit.succeeded(ticket, ended, ended - started)
        return value

    async def attempt_async(
        self,
        attempt: Callable[[], Awaitable[T]],
        deadline_at: float | None,
        classified: list[Failure],
    ) -> T:
        """As `attempt`, for coroutines."""
        admission = await self.admit_async(deadline_at)
        try:
            value = await attempt()
        except BaseException as error:
            admission.failed(error, classified)
            raise
        admission.release(None)
        return value

    def failed(
        self, ticket: Ticket, started: float, error: BaseException, classified: list[Failure]
    ) -> None:
        """An attempt that the circuit alone has admitted has raised.

        Args:
            ticket: What the circuit gave it.
            started: When it started: monotonic time in seconds.
            error: What it raised.
            classified: As for `attempt`.
        """
        Admission(self, ticket, None, started).failed(error, classified)

    def admit(self, deadline_at: float | None) -> Admission:
        """Pass the circuit and take a place; `Admission.release` must follow."""
        ticket = self._admit_circuit()
        try:
            permit = None if self.slots is None else self.slots.acquire(_left(deadline_at))
            return self._admission(ticket, permit)
        except BaseException:
            self._ignore(ticket)
            raise

    async def admit_async(self, deadline_at: float | None) -> Admission:
        """As `admit`, for coroutines."""
        ticket = self._admit_circuit()
        try:
            left = _left(deadline_at)
            permit = None if self.slots is None else await self.slots.acquire_async(left)
            return self._admission(ticket, permit)
        except BaseException:
            self._ignore(ticket)
            raise

    def _admit_circuit(self) -> Ticket | None:
        if self.circuit is None:
            return None
        answer = self.circuit.admit(clock.monotonic())
        if isinstance(answer, Rejection):
            raise self.open_error(answer)
        return answer

    def open_error(self, answer: Rejection) -> CircuitOpenError:
        """The error of an attempt that the circuit rejects.

        Args:
            answer: What the circuit answered.
        """
        return CircuitOpenError(
            f"the circuit of {self.name} is {answer.state.value} ({answer.because}); nothing was "
            "sent",
            answer.retry_after,
        )

    def _ignore(self, ticket: Ticket | None) -> None:
        if self.circuit is not None and ticket is not None:
            self.circuit.ignored(ticket, clock.monotonic())

    def _admission(self, ticket: Ticket | None, permit: Permit | None) -> Admission:
        if self.slots is not None and permit is None:
            raise BulkheadFullError(
                f"no place came free in the bulkhead of {self.name}; nothing was sent"
            )
        return Admission(self, ticket, permit, clock.monotonic())


@attrs.frozen
class Admission:
    """One attempt that its guard has admitted."""

    _guard: AttemptGuard
    _ticket: Ticket | None
    _permit: Permit | None
    _entered: float

    def failed(self, error: BaseException, classified: list[Failure]) -> None:
        """The attempt has raised.

        Args:
            error: What it raised.
            classified: As for `AttemptGuard.attempt`.
        """
        self.release(failure_of(error, classified, self._guard.rules))

    def release(self, outcome: Failure | BaseException | None) -> None:
        """The attempt has ended.

        Args:
            outcome: How it failed, or what interrupted it; None if it succeeded.
        """
        guard = self._guard
        try:
            if guard.circuit is not None and self._ticket is not None:
                now = clock.monotonic()
                if outcome is None:
                    guard.circuit.succeeded(self._ticket, now, now - self._entered)
                elif isinstance(outcome, Failure) and _counts(outcome):
                    guard.circuit.failed(self._ticket, now, now - self._entered)
                else:
                    guard.circuit.ignored(self._ticket, now)
        finally:
            if guard.slots is not None and self._permit is not None:
                guard.slots.release(self._permit)


def failure_of(
    error: BaseException, classified: list[Failure], rules: ExceptionRules | None = None
) -> Failure | BaseException:
    """The failure of an attempt, classified once; an exception without a failure is returned as is.

    Args:
        error: What the attempt raised.
        classified: As for `AttemptGuard.attempt`.
        rules: As for `guard_for`.
    """
    if not isinstance(error, Exception):
        return error
    if not classified:
        classified.append(classify(error, rules=rules))
    return classified[-1]


def _counts(failure: Failure) -> bool:
    # A library's exception proves nothing: the function ran, and its own call was refused.
    unsent = failure.system == "local" and failure.proves_unexecuted
    return failure.retryable and not unsent


def _left(deadline_at: float | None) -> float | None:
    return None if deadline_at is None else max(0.0, deadline_at - clock.monotonic())
