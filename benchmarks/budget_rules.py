"""The retry budgets of other libraries, as budgets of a policy: for `bench_fleet`.

Each takes the place of a bucket, so everything else of a call is the library's own. The numbers are
those of docs/engine-notes.md, 14. Knows nothing of services.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs

from iii_resilience.core.guards.budget import Budget, PermitBucket
from iii_resilience.core.guards.scopes import Scope


class OtherRule(PermitBucket):
    """A rule in place of a bucket. Successes are reported to it as to a bucket that is not full."""

    __slots__ = ()

    def __init__(self, *_: float) -> None:
        super().__init__(ratio=0.0, burst=1.0, min_per_second=0.0)

    def forget(self) -> None:
        """See `PermitBucket`. A rule adds its own state."""
        super().forget()
        self.level = 0.0

    def was_in_flight(self, started: float) -> bool:
        """No other rule treats calls that were in flight in another way."""
        del started
        return False


class WindowRule(OtherRule):
    """The budget of version 0.1: Finagle's 20 % of the calls and 10 a second, over 10 s."""

    __slots__ = ("_calls", "_retries")
    RATIO, PER_SECOND, WINDOW = 0.2, 10.0, 10.0

    def forget(self) -> None:
        """See `PermitBucket`."""
        super().forget()
        self._calls: deque[float] = deque()
        self._retries: deque[float] = deque()

    def reserve(self, now: float) -> bool:
        """See `PermitBucket`."""
        for times in (self._calls, self._retries):
            while times and times[0] <= now - self.WINDOW:
                times.popleft()
        most = self.RATIO * (len(self._calls) + 1) + self.PER_SECOND * self.WINDOW
        if len(self._retries) + 1 > most:
            return False
        self._retries.append(now)
        return True

    def succeeded(self, now: float, permits: int = 0) -> None:
        """See `PermitBucket`."""
        del permits
        self._calls.append(now)

    def gave_up(self, now: float, permits: int = 0) -> None:
        """See `PermitBucket`."""
        del permits
        self._calls.append(now)


class QuotaRule(OtherRule):
    """The quota of the AWS SDKs: 500 tokens; a success gives its last retry back, or adds one."""

    __slots__ = ("_tokens",)
    TOKENS, COST = 500, 5

    def forget(self) -> None:
        """See `PermitBucket`."""
        super().forget()
        self._tokens = self.TOKENS

    def reserve(self, now: float) -> bool:
        """See `PermitBucket`."""
        del now
        if self._tokens < self.COST:
            return False
        self._tokens -= self.COST
        return True

    def succeeded(self, now: float, permits: int = 0) -> None:
        """See `PermitBucket`."""
        del now
        self._tokens = min(self.TOKENS, self._tokens + (self.COST if permits else 1))

    def gave_up(self, now: float, permits: int = 0) -> None:
        """See `PermitBucket`."""


class TimeoutQuotaRule(QuotaRule):
    """As `QuotaRule`, where the failures are timeouts: a retry takes twice as much."""

    __slots__ = ()
    COST = 10


class TokenRule(OtherRule):
    """The tokens of gRPC: a failure takes one, a success adds a tenth; retries above half of 10."""

    __slots__ = ("_denied", "_tokens")
    TOKENS, RATIO = 10.0, 0.1

    def forget(self) -> None:
        """See `PermitBucket`."""
        super().forget()
        self._tokens = self.TOKENS
        self._denied = 0

    def reserve(self, now: float) -> bool:
        """See `PermitBucket`."""
        del now
        self._failed()
        allowed = self._tokens > self.TOKENS / 2
        self._denied += not allowed
        return allowed

    def succeeded(self, now: float, permits: int = 0) -> None:
        """See `PermitBucket`."""
        del now, permits
        self._tokens = min(self.TOKENS, self._tokens + self.RATIO)

    def gave_up(self, now: float, permits: int = 0) -> None:
        """See `PermitBucket`."""
        del now, permits
        if self._denied:  # its last failure was counted when its retry was denied
            self._denied -= 1
        else:
            self._failed()

    def _failed(self) -> None:
        self._tokens = max(0.0, self._tokens - 1)


@attrs.frozen
class RuleBudget(Budget):
    """A budget that goes by another rule.

    Args:
        rule: The rule.
    """

    rule: type[OtherRule] = attrs.field(kw_only=True)

    def bucket_for(self, scope: Scope = None) -> PermitBucket:
        """See `Budget`."""
        found = self._states.get(scope)
        return self._states.add(scope, self._make) if found is None else found

    def _make(self, *_: Any) -> PermitBucket:
        return self.rule()
