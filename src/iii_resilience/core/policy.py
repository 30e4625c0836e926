"""`RetryPolicy` and its parts, as data; all times are seconds.

Knows nothing of failures or of how a policy is carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import tenacity

from iii_resilience.core.backoff import Backoff
from iii_resilience.core.failure import Failure
from iii_resilience.core.guards.breaker import Breaker
from iii_resilience.core.guards.budget import Budget
from iii_resilience.core.guards.bulkhead import Bulkhead
from iii_resilience.core.guards.scopes import first_equal
from iii_resilience.core.validators import Part, Text, checked_names, number, seconds, spelling

GUARDS = ("budget", "breaker", "bulkhead")
"""The parts of a policy that keep a state."""

Wait = Callable[[tenacity.RetryCallState], float]
Stop = Callable[[tenacity.RetryCallState], bool]


@checked_names
@attrs.frozen
class Enqueue:
    """Fallback of `worker.trigger`: hand the call to a queue once retrying has failed.

    Carried out only for calls made with ``accept_enqueued=True``, because the return type
    changes; otherwise the original exception is raised with the hint ``enqueue``.

    Args:
        queue: Name of a queue that is defined in the engine.
    """

    queue: str = attrs.field(validator=Text("the name of a queue"))


@checked_names
@attrs.frozen
class Reroute:
    """Fallback of `worker.trigger`: call another function once retrying has failed.

    One call, within the same deadline, after a transient or not-found failure of a call that is
    idempotent or provably did not run. The result has the same shape only if both functions see to
    it. Never after ``FORBIDDEN``.

    Args:
        function_id: The function to call instead.
        namespace: Its namespace, or None for that of the call.
    """

    function_id: str = attrs.field(validator=Text("the id of a function"))
    namespace: str | None = attrs.field(default=None, validator=Text("a name", optional=True))


@attrs.frozen
class Enqueued:
    """What `worker.trigger` returns when the call was handed to a queue.

    Attributes:
        receipt_id: The engine's receipt for the queued message.
        queue: The queue's name.
        failure: Why the call itself was given up.
    """

    receipt_id: str
    queue: str
    failure: Failure


def _callable_or_none(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    # A class is callable too: wait_none in place of wait_none() would fail at the first failure.
    if value is not None and (isinstance(value, type) or not callable(value)):
        kind = f"a tenacity {attribute.name}_* object"
        raise TypeError(f"{type(instance).__name__}.{attribute.name} must be {kind}, got {value!r}")


@checked_names
@attrs.frozen
class RetryPolicy:
    """How a call is retried.

    Args:
        attempts: Attempts in all, the first one included; 1 never retries.
        backoff: The delays between them.
        deadline: Seconds from the call's start past which no retry starts and no delay is slept;
            None for none. It never cuts a running attempt.
        attempt_timeout: Seconds one attempt of an async function may take, or one attempt of
            ``worker.trigger`` whose request has no ``timeout_ms``; None for no limit.
        budget: How many retries may be sent; None for no limit.
        breaker: When calls are no longer sent for a while; None for never.
        bulkhead: How many calls may run at once; None for no limit.
        wait: A tenacity ``wait_*`` that replaces the backoff (a server's pushback is the least
            delay).
        stop: A tenacity ``stop_*``, OR-ed with ``attempts`` and ``deadline``.
        fallback: In `worker.trigger` only: where the call goes when it is given up.
        retry_unexecuted: In `worker.trigger` only: retry calls that are not idempotent too, as
            long as each failure so far proves that the function did not run.
        ready_timeout: In `worker.trigger` only: seconds to wait for the connection and for the
            function to be registered before a call is sent; 0 fails at once.
        max_stops: In `worker.trigger` only: attempts that may end in ``invocation_stopped``
            before the call is suspected of killing its worker and given up.
        max_payload_bytes: In `worker.trigger` only: largest message that is sent, in bytes of
            UTF-8; None for the SDK's own limit alone. Set it below what the workers can receive:
            1 MiB while some run on an SDK before 0.24.5.

    Raises:
        ValueError: A number out of range. The message names the field and what is allowed.
        TypeError: A part of the wrong type.
    """

    attempts: int = attrs.field(default=4, validator=number(least=1, integer=True))
    backoff: Backoff = attrs.field(
        factory=Backoff, validator=Part((Backoff,), "Backoff(base=0.2, cap=20)")
    )
    deadline: float | None = attrs.field(
        default=60.0, validator=number(above=0, optional=True, unit="seconds")
    )
    attempt_timeout: float | None = attrs.field(
        default=None, validator=number(above=0, optional=True, unit="seconds")
    )
    budget: Budget | None = attrs.field(
        factory=Budget, validator=Part((Budget,), "Budget(ratio=0.1)", optional=True)
    )
    breaker: Breaker | None = attrs.field(
        default=None, validator=Part((Breaker,), "Breaker(failure_rate=0.5)", optional=True)
    )
    bulkhead: Bulkhead | None = attrs.field(
        default=None, validator=Part((Bulkhead,), "Bulkhead(limit=10)", optional=True)
    )
    wait: Wait | None = attrs.field(default=None, validator=_callable_or_none)
    stop: Stop | None = attrs.field(default=None, validator=_callable_or_none)
    fallback: Enqueue | Reroute | None = attrs.field(
        default=None,
        validator=Part((Enqueue, Reroute), 'Enqueue("orders")', optional=True),
    )
    retry_unexecuted: bool = attrs.field(default=False, validator=Part((bool,), "True"))
    ready_timeout: float = attrs.field(default=5.0, validator=number(least=0, unit="seconds"))
    max_stops: int = attrs.field(default=3, validator=number(least=1, integer=True))
    max_payload_bytes: int | None = attrs.field(
        default=None, validator=number(least=1, optional=True, integer=True, unit="bytes")
    )

    def __attrs_post_init__(self) -> None:
        if (
            self.deadline is not None
            and self.attempt_timeout is not None
            and self.attempt_timeout > self.deadline
        ):
            raise ValueError(
                f"RetryPolicy.attempt_timeout ({seconds(self.attempt_timeout)}) must not be above "
                f"RetryPolicy.deadline ({seconds(self.deadline)}): one attempt would outlast the "
                "call"
            )

    def replace(self, **changes: Any) -> RetryPolicy:
        """A changed copy. It shares this policy's budget unless it is given another one.

        Raises:
            TypeError: An unknown field.
            ValueError: A value out of range.
        """
        unknown = changes.keys() - FIELDS
        if unknown:
            first = min(unknown)
            raise TypeError(
                f"RetryPolicy has no field {', '.join(sorted(unknown))}{spelling(FIELDS, first)} "
                f"(it has {', '.join(sorted(FIELDS))})"
            )
        return attrs.evolve(self, **changes)

    def to_tenacity(self, *, idempotent: bool = False) -> dict[str, Any]:
        """This policy as keyword arguments for your own ``tenacity.Retrying``.

        ``tenacity.Retrying(**policy.to_tenacity(idempotent=True))`` makes the same decisions as
        ``@iii_retry(idempotent=True, policy=policy)``. What you combine them with counts too: a
        ``retry_*`` of your own OR-ed to ``retry`` can repeat what this library never would. That
        is possible here, and only here.

        Args:
            idempotent: Whether calling twice does what calling once does.

        Returns:
            ``before``, ``retry``, ``wait``, ``stop`` and ``reraise``.
        """
        # The one arrow that points up: the method belongs to the policy, what it needs above it.
        from iii_resilience.retry.tenacity_adapter import to_tenacity  # noqa: PLC0415

        return to_tenacity(self, idempotent=idempotent)


def with_first_guards(
    policy: RetryPolicy, function: str, kinds: Iterable[str] = GUARDS
) -> RetryPolicy:
    """A policy that was given in code, with the guards that keep the states of its calls.

    Args:
        policy: The policy.
        function: The function's id or qualified name.
        kinds: The guards that were given in code; others have their own object in a book.
    """
    changes = {}
    for kind in kinds:
        guard = getattr(policy, kind)
        if guard is not None and (first := first_equal(guard, function)) is not guard:
            changes[kind] = first
    return policy.replace(**changes) if changes else policy


FIELDS = frozenset(field.name for field in attrs.fields(RetryPolicy))

# What only means something where there is a connection and an engine: `worker.trigger`.
TRIGGER_FIELDS = frozenset(
    {"fallback", "retry_unexecuted", "ready_timeout", "max_stops", "max_payload_bytes"}
)
