"""The plan of a function's calls: what all calls under one policy have in common.

Knows nothing of attempts or results.
"""

from __future__ import annotations

from functools import cached_property
from typing import cast

from iii_resilience.client.readiness import Key, Readiness
from iii_resilience.client.request import ENGINE_OWN
from iii_resilience.config.policy_set import SelectedPolicy
from iii_resilience.core.guards.budget import PermitBucket
from iii_resilience.core.guards.scopes import Scope
from iii_resilience.retry.admission import AttemptGuard, guard_for
from iii_resilience.retry.retry_context import RetryContext
from iii_resilience.sdk.connection import Connection
from iii_resilience.telemetry import named

_DEFAULT_NAMESPACE = "default"  # docs/engine-notes.md, 1
_SDK_TIMEOUT_MS = 30_000  # the SDK's own default (docs/engine-notes.md, 6)


class CallPlan:
    """What all calls of a function under one policy have in common.

    Args:
        connection: The client's connection.
        ready: What is known of the functions that are registered.
        selected: The policy in force.
        function_id: The function.
        namespace: Its namespace, or None for that of the client's calls.

    Attributes:
        guarded: Whether there is a `guard`.
        key: What has to be registered for a call, or None where only the connection matters.
        bucket: The budget's permits, or None where the policy has no budget.
        carries: Whether anything can travel beside the payload.
        timeout_ms: The timeout of an attempt whose request names none.
        timeout_from: Where that is from.
    """

    def __init__(
        self,
        connection: Connection,
        ready: Readiness,
        selected: SelectedPolicy,
        function_id: str,
        namespace: str | None = None,
    ) -> None:
        self.connection = connection
        self.ready = ready
        self.selected = selected
        self.policy = policy = selected.policy
        self.function_id = function_id
        own = function_id.startswith(ENGINE_OWN)
        self.key: Key | None = None
        # The same id in another namespace is another function: it shares no guard with this one.
        self._scope: Scope = function_id
        if not own:
            if namespace is None:
                namespace = connection.client.namespace
            self.key = (namespace, function_id)
            if namespace is not None and namespace != _DEFAULT_NAMESPACE:
                self._scope = (namespace, function_id)
        self.carries = connection.sdk.sends_metadata and not own
        self.guarded = policy.breaker is not None or policy.bulkhead is not None
        self.bucket: PermitBucket | None = None
        if policy.budget is not None:
            self.bucket = policy.budget.bucket_for(self._scope)
            named(self.bucket, selected.name)
        self.timeout_ms: float = _SDK_TIMEOUT_MS
        self.timeout_from = "the SDK's default"
        default = connection.client.default_timeout_ms
        if policy.attempt_timeout is not None:
            self.timeout_ms = policy.attempt_timeout * 1000
            self.timeout_from = "the policy's attempt_timeout"
        elif default is not None:
            self.timeout_ms = default
            self.timeout_from = "the SDK's invocation_timeout_ms"

    @property
    def guard(self) -> AttemptGuard:
        """The breaker and bulkhead of the function; only where it is `guarded`."""
        return cast("AttemptGuard", guard_for(self.policy, self.function_id, self._scope))

    @cached_property
    def context(self) -> RetryContext:
        """What the function's calls have in common, should they fail."""
        return RetryContext(
            policy=self.policy,
            name=self.function_id,
            function_id=self.function_id,
            bucket=self.bucket,
            sleeper=self.connection.sleeps,
        )
