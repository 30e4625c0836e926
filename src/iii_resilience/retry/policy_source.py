"""Resolves the policy of a decorator or loop, and starts a call's run after its first failure.

Knows nothing of what is called, nor of how.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Iterable
from typing import Any, TypedDict

import attrs

from iii_resilience.config.default_book import default_book
from iii_resilience.config.policy_set import PolicySet
from iii_resilience.core.backoff import Backoff
from iii_resilience.core.classifiers.registered_exceptions import transient_exceptions
from iii_resilience.core.guards.breaker import Breaker, Circuit
from iii_resilience.core.guards.budget import Budget, PermitBucket
from iii_resilience.core.guards.bulkhead import Bulkhead
from iii_resilience.core.policy import (
    FIELDS,
    GUARDS,
    TRIGGER_FIELDS,
    RetryPolicy,
    Stop,
    Wait,
    with_first_guards,
)
from iii_resilience.core.validators import spelling
from iii_resilience.retry.admission import AttemptGuard, guard_for
from iii_resilience.retry.retry_context import RetryContext
from iii_resilience.telemetry import INLINE, named


class Overrides(TypedDict, total=False):
    """What a decorator or loop may set inline: parts of a policy (see `RetryPolicy`), and more.

    ``transient`` is a class of exceptions, or several, that are transient failures here.
    """

    attempts: int
    backoff: Backoff
    deadline: float | None
    attempt_timeout: float | None
    budget: Budget | None
    breaker: Breaker | None
    bulkhead: Bulkhead | None
    wait: Wait | None
    stop: Stop | None
    transient: type[Exception] | Iterable[type[Exception]]


@attrs.frozen
class ResolvedPolicy:
    """The policy of one decorated function, valid until the default book gets another policy set.

    Attributes:
        policy_set: The content of the default book in which it was found.
        policy: The policy.
        bucket: Its budget's permits, or None where nothing is retried or there is no budget.
        guard: Its breaker and bulkhead, or None.
        plain: Whether an attempt is just a call of the function.
        circuit_alone: Its circuit, where nothing else stands before an attempt; else None.
        context: What its calls have in common, should they fail.
    """

    policy_set: PolicySet
    policy: RetryPolicy
    bucket: PermitBucket | None
    guard: AttemptGuard | None
    plain: bool
    circuit_alone: Circuit | None
    context: RetryContext


class PolicySource:
    """Where a decorator or loop has its policy from, resolved when it is called.

    Attributes:
        idempotent: Whether the user declared its calls idempotent.
        rules: What it says of exception classes; None where it says nothing.
    """

    def __init__(
        self, who: str, policy: Any, overrides: dict[str, Any], *, idempotent: bool
    ) -> None:
        if not (policy is None or isinstance(policy, (str, RetryPolicy))):
            raise TypeError(f"{who}: policy must be a RetryPolicy or a name, got {policy!r}")
        if not isinstance(idempotent, bool):
            raise TypeError(
                f"{who}: idempotent must be True or False, got {type(idempotent).__name__}"
            )
        overrides = dict(overrides)
        self.rules = (
            transient_exceptions(overrides.pop("transient")) if "transient" in overrides else None
        )
        for name in sorted(overrides):
            if name in TRIGGER_FIELDS:
                raise TypeError(
                    f"{who} takes no {name}: it only works in worker.trigger, where it is known "
                    "what was sent; put it into a policy used there"
                )
            if name not in FIELDS:
                allowed = ["idempotent", "policy", "transient", *sorted(FIELDS - TRIGGER_FIELDS)]
                raise TypeError(
                    f"{who} takes no {name}{spelling(allowed, name)} "
                    f"(it takes {', '.join(allowed)})"
                )
        self.idempotent = idempotent
        self._policy = policy
        self._overrides = overrides
        self._no_attempt_timeout: str | None = None
        self._warned = False
        # One attribute, so that another thread never sees one book's policy with another book.
        self._resolved: tuple[PolicySet, str, RetryPolicy, PermitBucket | None] | None = None
        if not isinstance(policy, str):
            # Bad numbers are found where they stand, not at the first call.
            (policy or RetryPolicy()).replace(**overrides)

    def resolve(self, name: str) -> tuple[RetryPolicy, PermitBucket | None]:
        """The policy in force now and its budget's permits.

        Args:
            name: The function. The states of guards are kept for each function.
        """
        book = default_book().policy_set
        resolved = self._resolved
        if resolved is None or resolved[0] is not book or resolved[1] != name:
            policy, called = self._policy, INLINE
            in_code: tuple[str, ...] = GUARDS
            if not isinstance(policy, RetryPolicy):
                called = book.default if policy is None else policy
                policy = book.policy(called)
                in_code = tuple(kind for kind in GUARDS if kind in self._overrides)
            # Around a user's own code a failure proves nothing about what ran before it.
            policy = policy.replace(**self._overrides, retry_unexecuted=False)
            policy = with_first_guards(policy, name, in_code)
            if isinstance(self._policy, str):  # the default policy's is not meant for this call
                self._check_attempt_timeout(policy.attempt_timeout)
            bucket = None
            if policy.budget is not None and self.idempotent:
                # One that is given beside the policy is one bucket for all that are given it.
                shared = "budget" in self._overrides
                bucket = policy.budget.bucket_for(None if shared else name)
                named(bucket, INLINE if shared else called)
            resolved = self._resolved = (book, name, policy, bucket)
        return resolved[2:]

    def resolved(self, name: str) -> ResolvedPolicy:
        """As `resolve`, and what else a decorated function looks up once per policy set.

        Args:
            name: The function.
        """
        # Read first: should the book turn meanwhile, the next call looks again.
        policy_set = default_book().policy_set
        policy, bucket = self.resolve(name)
        guard = guard_for(policy, name, rules=self.rules)
        plain = guard is None and policy.attempt_timeout is None
        context = self.context(name, policy, bucket)
        circuit = None
        if guard is not None and policy.attempt_timeout is None:
            circuit = guard.circuit_alone
        return ResolvedPolicy(policy_set, policy, bucket, guard, plain, circuit, context)

    def context(self, name: str, policy: RetryPolicy, bucket: PermitBucket | None) -> RetryContext:
        """What calls have in common, should they fail.

        Args:
            name: The function, or the loop.
            policy: The policy in force.
            bucket: Its budget's count, or None where there is nothing to count.
        """
        return RetryContext(
            policy=policy,
            name=name,
            bucket=bucket,
            on_blocking=functools.partial(self.warn_blocking, name),
            rules=self.rules,
        )

    def warn_blocking(self, name: str) -> None:
        """A delay is about to stop a running event loop: say so, once."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{name} is synchronous and waits for its retry inside a running event loop, "
                "which stands still meanwhile: make it async, or call it with asyncio.to_thread()",
                RuntimeWarning,
                stacklevel=2,
            )

    @staticmethod
    def check_returned(name: str, value: object) -> None:
        """Warn if a plain function returned an awaitable: that fails after the call has ended.

        Args:
            name: The function.
            value: What it returned.
        """
        if inspect.isawaitable(value):
            warnings.warn(
                f"{name} is a plain function and returned an awaitable ({type(value).__name__}): "
                "what fails when that is awaited is not retried. Decorate an 'async def' "
                "function, or mark this one with inspect.markcoroutinefunction (Python 3.12)",
                RuntimeWarning,
                stacklevel=3,
            )

    def refuse_attempt_timeout(self, why: str) -> None:
        """Attempts cannot be cut here: reject the option if it was given by name."""
        self._no_attempt_timeout = why
        given = self._policy.attempt_timeout if isinstance(self._policy, RetryPolicy) else None
        self._check_attempt_timeout(self._overrides.get("attempt_timeout", given))

    def _check_attempt_timeout(self, given: float | None) -> None:
        if given is not None and self._no_attempt_timeout is not None:
            raise ValueError(f"attempt_timeout cannot be kept here: {self._no_attempt_timeout}")
