"""Converts a policy to tenacity's keyword arguments, for users' own ``Retrying`` objects.

The decisions are those of `core.decide`. The state of a call is kept on tenacity's own state of
that call, so one ``Retrying`` may serve many threads. Knows nothing of decorators and loops.
"""

from __future__ import annotations

from typing import Any

import tenacity
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from iii_resilience.core import system_clock as clock
from iii_resilience.core.callables import qualified_name
from iii_resilience.core.decide import Decision
from iii_resilience.core.guards.budget import PermitBucket
from iii_resilience.core.guards.scopes import first_equal
from iii_resilience.core.policy import RetryPolicy
from iii_resilience.retry.retried_call import RetriedCall, deadline_of
from iii_resilience.retry.retry_context import RetryContext
from iii_resilience.retry.user_traceback import user_traceback
from iii_resilience.telemetry.metrics import REFUNDED

_RUN = "_iii_resilience_run"
_EARNED = "_iii_resilience_earned"


def to_tenacity(policy: RetryPolicy, *, idempotent: bool = False) -> dict[str, Any]:
    """See `RetryPolicy.to_tenacity`."""
    calls = _Calls(policy, idempotent=idempotent)
    return {
        "before": calls.before,
        "retry": _Retry(calls),
        "wait": _Wait(calls),
        "stop": _Stop(calls),
        "reraise": True,
    }


class _Calls:
    """The runs of the calls that tenacity makes, each found by tenacity's state of it."""

    def __init__(self, policy: RetryPolicy, *, idempotent: bool) -> None:
        # Around a user's own code a failure proves nothing about what ran before it.
        self.policy = policy.replace(retry_unexecuted=False)
        self._idempotent = idempotent

    def _bucket(self, function: Any) -> PermitBucket | None:
        budget = self.policy.budget
        if budget is None or not self._idempotent:
            return None
        name = "tenacity" if function is None else qualified_name(function)  # None in a loop
        return first_equal(budget, name).bucket_for(name)

    def run(self, state: tenacity.RetryCallState) -> RetriedCall:
        """The run of the call that this state belongs to."""
        run: RetriedCall | None = getattr(state, _RUN, None)
        if run is None:
            context = RetryContext(
                policy=self.policy,
                name=getattr(state.fn, "__qualname__", "tenacity"),
                bucket=self._bucket(state.fn),
                # A `retry` of the user's may end a call without a decision.
                reports_end=False,
            )
            run = RetriedCall(
                context,
                state.start_time,
                idempotent=self._idempotent,
                deadline_at=deadline_of(self.policy, state.start_time),
            )
            setattr(state, _RUN, run)
        return run

    def before(self, state: tenacity.RetryCallState) -> None:
        """An attempt starts."""
        self.run(state).attempt_started(sent=True)

    def decided(self, state: tenacity.RetryCallState) -> Decision | None:
        """The decision about the attempt that just failed; None where there is none to make."""
        error = state.outcome.exception() if state.outcome is not None else None
        run = self.run(state)
        if error is None and not getattr(state, _EARNED, False):  # a `retry` of the user's goes on
            setattr(state, _EARNED, True)
            if permits := run.log.succeeded(clock.monotonic()):
                run.telemetry.permits(REFUNDED, permits)
        if not isinstance(error, Exception):
            return None
        if len(run.log.failed) < state.attempt_number:
            run.attempt_failed(error, user_traceback(error))
        decision = run.decided(state)
        if decision.retry:
            # Whether it is sent is tenacity's business from here: the permit is not held for it.
            run.log.settle_permit(sent=True)
        else:
            run.finish()
        return decision


class _Retry(tenacity.retry_base):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        decision = self._calls.decided(retry_state)
        return decision is not None and decision.retry


class _Wait(wait_base):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        decision = self._calls.decided(retry_state)
        if decision is not None and decision.delay is not None:
            return decision.delay
        # A retry of the user's own overrides the decision: the schedule alone says how long.
        return self._calls.policy.backoff.ceiling(retry_state.attempt_number - 1)


class _Stop(stop_base):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        decision = self._calls.decided(retry_state)
        if decision is not None and decision.retry:
            return False
        outcome = retry_state.outcome
        if outcome is not None and isinstance(outcome.exception(), tenacity.TryAgain):
            return True
        # Overridden: the limits still hold.
        deadline_at = self._calls.run(retry_state).deadline_at
        if retry_state.attempt_number >= self._calls.policy.attempts:
            return True
        ends_at = clock.monotonic() + retry_state.upcoming_sleep
        return deadline_at is not None and ends_at >= deadline_at
