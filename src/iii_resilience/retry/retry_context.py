"""What calls of a function have in common, what each adds to it, and how a call ends.

Knows nothing of attempts or decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import attrs

from iii_resilience.core.classifiers.registered_exceptions import ExceptionRules
from iii_resilience.core.decide import Reason
from iii_resilience.core.effects import Sleeper
from iii_resilience.core.guards.budget import PermitBucket
from iii_resilience.core.policy import RetryPolicy

T = TypeVar("T")


@attrs.frozen(slots=False)  # as `Failure`: made once a call
class CallOutcome(Generic[T]):
    """How a call ended: a value, or the exception to raise.

    The exception is returned instead of being raised here, so that its traceback shows one frame
    of the library, the one that the user called.
    """

    value: T | None = attrs.field(default=None, repr=False)
    error: BaseException | None = attrs.field(default=None, repr=False)


class StopRetrying(Exception):  # noqa: N818 - control flow between an attempt and its call
    """Raised by an attempt that must not be sent: the call ends for this reason."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(reason.value)


@attrs.frozen(kw_only=True)
class RetryContext:
    """What all calls of a function under one policy have in common.

    Attributes:
        policy: The policy.
        name: The function id or the decorated function's name, for log and metrics.
        function_id: The engine function that is called, or None in a decorator.
        bucket: The budget's permits; None without a budget, or where nothing may be retried.
        on_blocking: Called when a delay is about to block a running event loop.
        sleeper: What can end a delay early; None where nothing does.
        reports_end: Whether every call's end is reported, so that its telemetry can be complete.
        rules: What the decorator or loop says of exception classes; None where it says nothing.
    """

    policy: RetryPolicy
    name: str
    function_id: str | None = None
    bucket: PermitBucket | None = None
    on_blocking: Callable[[], object] | None = None
    sleeper: Sleeper | None = None
    reports_end: bool = True
    rules: ExceptionRules | None = None
