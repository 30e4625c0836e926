"""`trigger` and `trigger_async` with policies: the SDK's calls, made safe to retry.

Validates the request and makes the first attempt inline. `client.trigger_call` makes an attempt,
`retry.retried_call` handles a failure, and `client.fallback` a call whose retries have stopped.
Knows nothing of handlers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any

from iii_resilience.client.fallback import Handover, handover
from iii_resilience.client.plan import CallPlan
from iii_resilience.client.readiness import Readiness
from iii_resilience.client.request import check, check_key, keyed, read
from iii_resilience.client.trigger_call import CallOptions, TriggerCall
from iii_resilience.config.book import PolicyBook
from iii_resilience.config.default_book import default_book
from iii_resilience.config.policy_set import PolicySet, SelectedPolicy
from iii_resilience.core import system_clock as clock
from iii_resilience.core.classify import classify
from iii_resilience.core.decide import Reason
from iii_resilience.core.effects import drive, drive_async
from iii_resilience.core.errors import InvalidPayloadError, PayloadTooLargeError
from iii_resilience.core.policy import RetryPolicy, with_first_guards
from iii_resilience.core.report import amend, attach_single
from iii_resilience.retry.retry_context import CallOutcome
from iii_resilience.sdk.connection import Connection
from iii_resilience.telemetry import INLINE, meters, refused

_INLINE_MOST = 1_000  # plans of policies that were given to calls
_PLANS_MOST = 10_000  # functions whose plan is kept; a program that calls more makes them anew

_Target = str | tuple[str, str]  # function id; namespace and id where a call names a namespace

# What most calls say about themselves, made once.
_PLAIN, _IDEMPOTENT = CallOptions(idempotent=False), CallOptions(idempotent=True)


class Caller:
    """The caller's side of one client.

    Args:
        connection: The client's connection.
        book: Its policies, or None for the process-wide default book.
    """

    def __init__(self, connection: Connection, book: PolicyBook | None) -> None:
        self._connection = connection
        self._book = book
        # One attribute, so that another thread never sees a policy set with another one's plans.
        self._plans: tuple[PolicySet | None, dict[_Target, CallPlan]] = (None, {})
        self._inline: dict[tuple[_Target, RetryPolicy], CallPlan] = {}
        self.ready = Readiness(connection)

    def trigger(
        self,
        request: Any,
        idempotent: bool | None,
        policy: str | RetryPolicy | None,
        key: str | None,
        accept_enqueued: bool,
    ) -> Any:
        """See `iii_resilience.client.resilient.Resilient.trigger`."""
        client = self._connection.client
        if client.thread_ident in {None, get_ident()} and client.on_loop_thread:
            raise RuntimeError(
                "trigger() was called on the SDK's own thread (an async handler, or a connection "
                "listener), where it would wait for itself; nothing was sent. Use 'await "
                "worker.trigger_async(...)' there"
            )
        call = self._call(request, idempotent, policy, key, accept_enqueued)
        attempt: Callable[[], Any] = call.attempt
        if call.plan.guarded:
            guard = call.plan.guard
            attempt = partial(guard.attempt, attempt, call.deadline_at, call.classified)
        try:
            result = attempt()
        except Exception as error:
            traceback = error.__traceback__
            run = call.failed(error, traceback and traceback.tb_next)
        except BaseException as error:
            meters.passed(call.plan.function_id, call.started, error)
            raise
        else:
            bucket = call.plan.bucket
            if bucket is not None and bucket.level < bucket.burst and call.may_repeat:
                bucket.succeeded(clock.monotonic())
            meters.succeeded(call.plan.function_id, call.started)
            return result
        outcome = run.retry(attempt, sends=False)
        if outcome.error is None:
            return outcome.value
        other = _given_up(call, outcome.error)
        if other is not None:
            taken, result = drive(other.carry_out(outcome.error), self._connection.in_flight.send)
            if taken:
                return result
        try:
            return _raise(outcome)
        finally:  # its traceback holds this frame and the attempt's: neither may hold it
            call.run = None
            del run, outcome, other

    async def trigger_async(
        self,
        request: Any,
        idempotent: bool | None,
        policy: str | RetryPolicy | None,
        key: str | None,
        accept_enqueued: bool,
    ) -> Any:
        """See `iii_resilience.client.resilient.Resilient.trigger_async`."""
        call = self._call(request, idempotent, policy, key, accept_enqueued)
        attempt: Callable[[], Any] = call.attempt_async
        if call.plan.guarded:
            guard = call.plan.guard
            attempt = partial(guard.attempt_async, attempt, call.deadline_at, call.classified)
        try:
            result = await attempt()
        except Exception as error:
            traceback = error.__traceback__
            run = call.failed(error, traceback and traceback.tb_next)
        except BaseException as error:
            meters.passed(call.plan.function_id, call.started, error)
            raise
        else:
            bucket = call.plan.bucket
            if bucket is not None and bucket.level < bucket.burst and call.may_repeat:
                bucket.succeeded(clock.monotonic())
            meters.succeeded(call.plan.function_id, call.started)
            return result
        outcome = await run.retry_async(attempt, sends=False)
        if outcome.error is None:
            return outcome.value
        other = _given_up(call, outcome.error)
        if other is not None:
            taken, result = await drive_async(
                other.carry_out(outcome.error), self._connection.in_flight.send_async
            )
            if taken:
                return result
        try:
            return _raise(outcome)
        finally:  # its traceback holds this frame and the attempt's: neither may hold it
            call.run = None
            del run, outcome, other

    def _call(
        self,
        request: Any,
        idempotent: bool | None,
        policy: str | RetryPolicy | None,
        key: str | None,
        accept_enqueued: bool,
    ) -> TriggerCall:
        if idempotent is not True or policy is not None or accept_enqueued is not False:
            _check_options(idempotent, policy, accept_enqueued)
        function_id, connection = None, self._connection
        try:
            checked = read(request, connection.sdk)
            target: _Target = (function_id := checked.function_id)
            namespace = checked.fields.get("namespace")
            if namespace is not None:
                target = (namespace, function_id)
            policy_set = (self._book if self._book is not None else default_book()).policy_set
            of, plans = self._plans
            plan = plans.get(target) if of is policy_set and policy is None else None
            if plan is None:
                plan = self._plan(policy_set, target, policy)
            if key is not None:
                check_key(key)
                if checked.action == "enqueue":
                    checked = keyed(checked, key)
            client = connection.client
            local = function_id in client.local_functions
            if not (local and client.dispatches_locally(checked.fields)):
                check(checked, connection.sdk, plan.policy.max_payload_bytes, key)
        except (InvalidPayloadError, PayloadTooLargeError) as error:
            _refused(error, function_id)
            raise
        if idempotent is None:  # code wins over a rule in a file
            idempotent = plan.selected.idempotent is True
        if key is None and not accept_enqueued:
            options = _IDEMPOTENT if idempotent else _PLAIN
        else:
            options = CallOptions(idempotent, accept_enqueued, key)
        return TriggerCall(checked, plan, options)

    def _plan(self, book: PolicySet, target: _Target, policy: str | RetryPolicy | None) -> CallPlan:
        if isinstance(policy, RetryPolicy):
            return self._inline_plan(policy, target)
        selected = book.for_function(_function(target))
        if policy is not None:
            named = SelectedPolicy(policy, book.policy(policy), selected.idempotent)
            return self._new_plan(named, target)
        of, plans = self._plans
        if of is not book:
            plans = {}
            self._plans = (book, plans)
        if len(plans) >= _PLANS_MOST:
            plans.clear()
        plan = plans[target] = self._new_plan(selected, target)
        return plan

    def _inline_plan(self, policy: RetryPolicy, target: _Target) -> CallPlan:
        """The plan of a policy that was given to the call, perhaps made anew for it."""
        plans, key = self._inline, (target, policy)
        try:
            plan = plans.get(key)
        except TypeError:  # a `wait` or `stop` of the user's that cannot be hashed
            return self._new_inline(policy, target)
        if plan is None:
            if len(plans) >= _INLINE_MOST:
                plans.clear()
            plan = plans[key] = self._new_inline(policy, target)
        return plan

    def _new_inline(self, policy: RetryPolicy, target: _Target) -> CallPlan:
        selected = SelectedPolicy(INLINE, with_first_guards(policy, _function(target)))
        return self._new_plan(selected, target)

    def _new_plan(self, selected: SelectedPolicy, target: _Target) -> CallPlan:
        namespace = target[0] if isinstance(target, tuple) else None
        return CallPlan(self._connection, self.ready, selected, _function(target), namespace)


def _function(target: _Target) -> str:
    return target[1] if isinstance(target, tuple) else target


def _check_options(idempotent: Any, policy: Any, accept_enqueued: Any) -> None:
    if not (idempotent is None or isinstance(idempotent, bool)):
        # "false" is true in Python, and would repeat what must not be repeated.
        raise TypeError(
            "idempotent must be True, False or None, got "
            f"{type(idempotent).__name__}. Nothing was sent"
        )
    if not isinstance(accept_enqueued, bool):
        raise TypeError(
            f"accept_enqueued must be True or False, got {accept_enqueued!r}. Nothing was sent"
        )
    if not (policy is None or isinstance(policy, str | RetryPolicy)):
        raise TypeError(
            f"policy must be a RetryPolicy, the name of one, or None, got {policy!r}. Nothing "
            "was sent"
        )


def _refused(error: InvalidPayloadError | PayloadTooLargeError, function_id: str | None) -> None:
    """Report a request that was refused here as any other failure that is given up."""
    failure = classify(error, function_id=function_id)
    attach_single(error, failure, Reason.NOT_RETRYABLE)
    refused(function_id or "(none)", failure, error)


def _given_up(call: TriggerCall, error: BaseException) -> Handover | None:
    run = call.run
    if run is not None and run.failure.code == "TIMEOUT":
        amend(error, call.timeout_note)
    other = handover(call)
    if other is None and run is not None:
        run.not_handed_over()
    return other


def _raise(outcome: CallOutcome[Any]) -> Any:
    error = outcome.error
    if error is None:
        return outcome.value
    try:
        raise error
    finally:
        del error, outcome
