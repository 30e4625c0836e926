"""`trigger` and `trigger_async` with policies: the SDK's calls, made safe to retry.

Knows nothing of handlers. An attempt is: wait until it can be sent, send it, learn from how it
ended. What is done about a failure is decided below, in `run`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

import attrs

from iii_resilience import telemetry
from iii_resilience.book import PolicyBook, Selected, default_book
from iii_resilience.calling.ready import DOUBTFUL, Key, Readiness
from iii_resilience.calling.request import Request, check
from iii_resilience.classify import classify
from iii_resilience.codes.model import Category, Execution
from iii_resilience.decide import Decision, Reason
from iii_resilience.errors import NotConnectedError
from iii_resilience.failure import Failure
from iii_resilience.link import Link
from iii_resilience.policy import Enqueue, Enqueued, RetryPolicy
from iii_resilience.report import amend
from iii_resilience.run import CallRun, GiveUp, Outcome
from iii_resilience.shielded import shield_for

_PROVIDER: Key = (None, "engine::queue::enqueue")
_SDK_TIMEOUT_MS = 30_000  # the SDK's own default (sdk-matrix, section 3)
# A call that used its deadline up must still be able to reach its fallback queue; the enqueue
# itself takes milliseconds.
_HAND_OVER_AT_LEAST = 1.0
# What an engine that is not far away needs for an answer of its own, generously (it takes 1 ms).
_ANSWER_WITHIN = 0.25


class Caller:
    """The caller's door of one client.

    Args:
        link: The client's connection.
        book: Its policies, or None for the process-wide default book.
    """

    def __init__(self, link: Link, book: PolicyBook | None) -> None:
        self._link = link
        self._book = book
        self.ready = Readiness(link)

    def trigger(self, request: Any, options: Options) -> Any:
        """See `iii_resilience.client.Resilient.trigger`."""
        if self._link.on_loop_thread:
            raise RuntimeError(
                "trigger() was called on the SDK's own thread (an async handler, or a connection "
                "listener), where it would wait for itself; nothing was sent. Use 'await "
                "worker.trigger_async(...)' there"
            )
        call = self._call(request, options)
        attempt: Callable[[], Any] = call.attempt
        if call.shield is not None:
            attempt = partial(call.shield.attempt, attempt, call.deadline_at)
        try:
            return attempt()
        except Exception as error:
            run = call.failed(error, _below(error))
        outcome = run.go_on(attempt, sends=False)
        if outcome.error is None:
            return outcome.value
        queue = call.hand_over_to(options)
        if queue is not None:
            handed = self._hand_over(call, queue, outcome.error)
            if handed is not None:
                return handed
        return _raise(outcome)

    async def trigger_async(self, request: Any, options: Options) -> Any:
        """See `iii_resilience.client.Resilient.trigger_async`."""
        call = self._call(request, options)
        attempt: Callable[[], Any] = call.attempt_async
        if call.shield is not None:
            attempt = partial(call.shield.attempt_async, attempt, call.deadline_at)
        try:
            return await attempt()
        except Exception as error:
            run = call.failed(error, _below(error))
        outcome = await run.go_on_async(attempt, sends=False)
        if outcome.error is None:
            return outcome.value
        queue = call.hand_over_to(options)
        if queue is not None:
            handed = await self._hand_over_async(call, queue, outcome.error)
            if handed is not None:
                return handed
        return _raise(outcome)

    def _call(self, request: Any, options: Options) -> _Call:
        checked = check(request)
        selected = self._select(checked.function_id, options.policy)
        idempotent = options.idempotent
        if not (idempotent is None or isinstance(idempotent, bool)):
            # "false" is true in Python, and would repeat what must not be repeated.
            raise TypeError(
                f"idempotent must be True, False or None, got {idempotent!r}. Nothing was sent"
            )
        if not isinstance(options.accept_enqueued, bool):
            raise TypeError(
                f"accept_enqueued must be True or False, got {options.accept_enqueued!r}. Nothing "
                "was sent"
            )
        if idempotent is None:  # code wins over a rule in a file
            idempotent = bool(selected.idempotent)
        return _Call(self._link, self.ready, checked, selected, idempotent=idempotent)

    def _select(self, function_id: str, policy: str | RetryPolicy | None) -> Selected:
        if isinstance(policy, RetryPolicy):
            return Selected("inline", policy)
        if not (policy is None or isinstance(policy, str)):
            raise TypeError(
                f"policy must be a RetryPolicy, the name of one, or None, got {policy!r}. Nothing "
                "was sent"
            )
        book = self._book if self._book is not None else default_book()
        selected = book.for_function(function_id)
        if policy is None:
            return selected
        return Selected(policy, book.policy(policy), selected.idempotent)

    # The fallback.

    def _hand_over(self, call: _Call, queue: str, shown: BaseException) -> Enqueued | None:
        try:
            if not self.ready.wait(call.provider_key(), call.hand_over_patience()):
                return None
            receipt = self._link.send(call.enqueue_request(queue))
            return call.enqueued(queue, receipt)
        except Exception as error:
            call.hand_over_failed(shown, error, queue)
            return None

    async def _hand_over_async(
        self, call: _Call, queue: str, shown: BaseException
    ) -> Enqueued | None:
        try:
            if not await self.ready.wait_async(call.provider_key(), call.hand_over_patience()):
                return None
            receipt = await self._link.send_async(call.enqueue_request(queue))
            return call.enqueued(queue, receipt)
        except Exception as error:
            call.hand_over_failed(shown, error, queue)
            return None


@attrs.frozen
class Options:
    """What one call was asked for beside its request (see `Resilient.trigger`)."""

    idempotent: bool | None = None
    policy: str | RetryPolicy | None = None
    accept_enqueued: bool = False


class _Call:
    """One call: its request, its time, and its run once it has failed."""

    def __init__(
        self,
        link: Link,
        ready: Readiness,
        request: Request,
        selected: Selected,
        *,
        idempotent: bool,
    ) -> None:
        self._link = link
        self._ready = ready
        self._request = request
        self._idempotent = idempotent
        self.policy = policy = selected.policy
        self._started = started = time.monotonic()
        deadline = policy.deadline
        if deadline is not None and request.timeout_ms is not None:
            # A timeout that was asked for is longer than the policy's deadline: it was asked for.
            deadline = max(deadline, request.timeout_ms / 1000)
        self.deadline_at = None if deadline is None else started + deadline
        scope = f"{selected.name}\0{request.function_id}"
        self.shield = shield_for(policy, request.function_id, scope)
        self._run: CallRun | None = None
        self._sent = False
        self._key = self._key_of(request)
        self._window = None
        if policy.budget is not None and idempotent:
            self._window = policy.budget.window_for(scope)
            self._window.called(started)

    def attempt(self) -> Any:
        """One attempt: wait, send, learn."""
        key, generation, local = self._prepare()
        if not local and not self._ready.wait(key, self._patience()):
            self._stayed_missing()
        request = self._next_request()
        try:
            result = self._link.send(request, local=local)
        except Exception as error:
            self._learn_failure(error)
            raise
        if self._key is not None:
            self._ready.learned(self._key, generation)
        return result

    async def attempt_async(self) -> Any:
        """As `attempt`, for coroutines."""
        key, generation, local = self._prepare()
        if not local and not await self._ready.wait_async(key, self._patience()):
            self._stayed_missing()
        request = self._next_request()
        try:
            result = await self._link.send_async(request, local=local)
        except Exception as error:
            self._learn_failure(error)
            raise
        if self._key is not None:
            self._ready.learned(self._key, generation)
        return result

    def failed(self, error: Exception, traceback: TracebackType | None) -> CallRun:
        """The first attempt has failed: from now on there is a run."""
        self._run = run = CallRun(
            self.policy,
            idempotent=self._idempotent,
            name=self._request.function_id,
            started=self._started,
            window=self._window,
            deadline_at=self.deadline_at,
            function_id=self._request.function_id,
            pauses=self._link,
        )
        if self._request.action == "void" and self._sent:
            run.idempotent = False  # it says nothing about having run: only unsent ones repeat
        run.fails(error, traceback, sent=self._sent)
        return run

    # The parts of an attempt.

    def _key_of(self, request: Request) -> Key | None:
        if request.action == "enqueue" or request.function_id.startswith(
            ("engine::", "configuration::")
        ):
            return None
        return self._link.namespace_of(request.fields), request.function_id

    def _prepare(self) -> tuple[Key | None, int, bool]:
        """What to wait for, the state of knowledge now, and whether nothing goes over the wire."""
        self._sent = False
        self._link.check_usable()
        local = self._link.dispatches_locally(self._request.fields)
        key = self._key
        if self._request.action == "enqueue" and self._run is not None:
            key = _PROVIDER
        return key, self._ready.generation, local

    def _patience(self) -> float:
        """Seconds the waits before this attempt may take together."""
        patience = self.policy.ready_timeout
        if self._run is not None:
            # Whether the function is still there is asked before a retry even by who never waits.
            patience = max(patience, _ANSWER_WITHIN)
        if self.deadline_at is not None:
            # The wait leaves the engine time to say itself that the function is missing.
            left = self.deadline_at - time.monotonic()
            patience = min(patience, max(left / 2, left - _ANSWER_WITHIN))
        return max(0.0, patience)

    def _stayed_missing(self) -> None:
        """A retry is not sent into the hole; a first call is answered by the engine itself."""
        if self._run is not None:
            raise GiveUp(Reason.NOT_READY)

    def _next_request(self) -> dict[str, Any]:
        now = time.monotonic()
        if self._run is not None:
            if self.deadline_at is not None and now >= self.deadline_at:
                raise GiveUp(Reason.DEADLINE)
            self._run.sending()
        self._sent = True
        timeout = self._request.timeout_ms
        if timeout is None and self.policy.attempt_timeout is not None:
            timeout = self.policy.attempt_timeout * 1000
        if timeout is None:
            options = getattr(self._link.client, "_options", None)
            timeout = getattr(options, "invocation_timeout_ms", None) or _SDK_TIMEOUT_MS
        if self.deadline_at is not None:
            timeout = min(timeout, 1000 * (self.deadline_at - now))
        return {**self._request.fields, "timeout_ms": max(1, int(timeout))}

    def _learn_failure(self, error: Exception) -> None:
        if self._key is not None and classify(error).code in DOUBTFUL:
            self._ready.doubted(self._key)
        if isinstance(error, NotConnectedError):
            self._sent = False
        elif self._request.action == "void" and self._run is not None:
            self._run.idempotent = False

    # The fallback.

    def hand_over_to(self, options: Options) -> str | None:
        """The queue this call may be handed to, now that it is given up; else None.

        Never for auth, payload and permanent failures, and never for what may have run and is not
        idempotent.
        """
        run, fallback = self._run, self.policy.fallback
        if (
            run is None
            or not isinstance(fallback, Enqueue)
            or not options.accept_enqueued
            or self._request.action is not None
        ):
            return None
        failure = run.failure
        harmless = self._idempotent or run.execution is Execution.NOT_EXECUTED
        missing = failure.code == "function_not_found"
        worthwhile = failure.category is Category.TRANSIENT or missing
        return fallback.queue if harmless and worthwhile else None

    def hand_over_patience(self) -> float:
        """Seconds to wait for the connection and the provider: what the deadline leaves."""
        if self.deadline_at is None:
            return self.policy.ready_timeout
        return max(0.0, self.deadline_at - time.monotonic())

    def provider_key(self) -> Key | None:
        """What has to be there: the standalone queue worker, if the function is missing.

        It waits for the function; the built-in queue of older engines uses its retries up.
        """
        run = self._run
        missing = run is not None and run.failure.category is Category.NOT_FOUND
        return _PROVIDER if missing else None

    def enqueue_request(self, queue: str) -> dict[str, Any]:
        """The request that hands the call over."""
        return {
            **self._request.fields,
            "action": {"type": "enqueue", "queue": queue},
            "timeout_ms": int(1000 * max(_HAND_OVER_AT_LEAST, self.hand_over_patience())),
        }

    def enqueued(self, queue: str, receipt: Any) -> Enqueued | None:
        """The caller's answer, if there is a receipt."""
        run = self._run
        receipt_id = receipt.get("messageReceiptId") if isinstance(receipt, dict) else None
        if run is None or not isinstance(receipt_id, str):
            return None
        self._decided(run.failure, Reason.HANDED_OFF)
        return Enqueued(receipt_id, queue, run.failure)

    def hand_over_failed(self, shown: BaseException, error: Exception, queue: str) -> None:
        """The original exception is what the caller sees; its note says this too."""
        code = classify(error).code
        amend(shown, f"the fallback to queue {queue!r} failed too: {code}")

    def _decided(self, failure: Failure, reason: Reason) -> None:
        run = self._run
        attempt = len(run.failed) if run is not None else 1
        telemetry.decided(
            failure, Decision(reason), attempt=attempt, name=self._request.function_id
        )


def _raise(outcome: Outcome[Any]) -> Any:
    error = outcome.error
    if error is None:
        return outcome.value
    try:
        raise error
    finally:
        del error, outcome


def _below(error: BaseException) -> TracebackType | None:
    return None if error.__traceback__ is None else error.__traceback__.tb_next
