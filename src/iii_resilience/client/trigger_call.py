"""One call through the engine: its request, its time limit, and its attempts.

Each attempt waits until it can be sent, sends it, and classifies the result.
`retry.retried_call` decides about a failure; `client.fallback` handles a call whose retries have
stopped. Knows nothing of handlers.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import attrs

from iii_resilience.client.plan import CallPlan
from iii_resilience.client.readiness import DOUBTFUL, PROVIDER, Key
from iii_resilience.client.request import Request, check
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.core.decide import Reason
from iii_resilience.core.effects import drive, drive_async
from iii_resilience.core.errors import DeadlinePassedError, NotConnectedError
from iii_resilience.core.failure import Failure
from iii_resilience.retry.retried_call import RetriedCall
from iii_resilience.retry.retry_context import StopRetrying
from iii_resilience.sdk import propagation
from iii_resilience.sdk.payload_check import size_of
from iii_resilience.sdk.propagation import METADATA_FIELD, CallContext, add_context, outgoing
from iii_resilience.sdk.send_check import SendRefused

_PROVIDER_AWAY = "the queue worker was there and has gone: start it again; a retry waits for it"
_REQUEST = "the request's timeout_ms"
_DEADLINE = "the policy's deadline"
_INHERITED = "what the caller of this handler has left"
# What an engine that is not far away needs for an answer of its own, generously (it takes 1 ms).
ANSWER_WITHIN = 0.25

# Python workers before SDK 0.24.5 receive 1 MiB and die of more (docs/engine-notes.md, 2).
POISON_BYTES = 1 << 20
# How the death of a worker or of the own connection looks: the engine's words for the one, the
# close codes that escape from the SDK as a number for the other.
_STOPS = frozenset({"invocation_stopped", "1006", "1009"})

# What says nothing of the engine having been heard: the SDK ends these calls itself.
_UNHEARD = frozenset({"TIMEOUT", "SHUTDOWN", "payload_too_large"})


@attrs.frozen
class CallOptions:
    """What a call says about itself.

    Attributes:
        idempotent: Whether calling twice does what calling once does.
        accept_enqueued: Whether a receipt may be returned in place of the result.
        idempotency_key: Stands for the call in all its attempts, or None.
    """

    idempotent: bool
    accept_enqueued: bool = False
    idempotency_key: str | None = attrs.field(default=None, repr=False)


class TriggerCall:
    """One call: its request, its time, and its retries once it has failed.

    Most calls succeed at the first attempt: what they do not need is not made for them.

    Args:
        request: What is asked for; its payload has been checked unless it is dispatched locally
            (if it no longer is when it is sent, it is checked then).
        plan: What it has in common with others.
        options: What it says about itself.

    Attributes:
        run: What follows the first failure, or None.
        classified: The failure of the attempt that has just ended.
    """

    run: RetriedCall | None = None
    _sent = False
    _waited_for: Key | None = None
    _timeout: tuple[int, str] = (0, "")

    def __init__(self, request: Request, plan: CallPlan, options: CallOptions) -> None:
        self.request = request
        self.plan = plan
        self.options = options
        self.started = started = time.monotonic()
        self.classified: list[Failure] = []
        deadline = plan.policy.deadline
        if deadline is not None:
            if request.timeout_ms is not None and request.timeout_ms > 1000 * deadline:
                # An explicit timeout longer than the policy's deadline extends the deadline.
                deadline = request.timeout_ms / 1000
            deadline += started
        self.deadline_at = deadline
        inbound = propagation.current_inbound()
        self._inherits = False
        if inbound is not None and inbound.deadline_at is not None:
            # What the caller of this handler has left always wins: it waits no longer.
            self._inherits = deadline is None or inbound.deadline_at < deadline
            if self._inherits:
                self.deadline_at = inbound.deadline_at
        self._key = plan.key
        if request.action == "enqueue":
            self._key = self._provider_key()

    def _provider_key(self) -> Key | None:
        return PROVIDER if self.plan.ready.provider_seen else None

    def attempt(self) -> Any:
        """One attempt: wait, send, learn."""
        plan, until = self.plan, 0.0
        first = self._first_fields() if self.run is None else None
        while True:
            if first is not None:
                key, generation, local = self._key, plan.ready.generation, False
            else:
                key, generation, local = self._prepare()
            self._waited_for = None if local else key
            if first is None and not local:
                until = until or time.monotonic() + self._patience()
                if not drive(plan.ready.wait(key, max(0.0, until - time.monotonic()))):
                    self._stayed_missing()
                if time.monotonic() >= until:
                    self._waited_for = None  # there is no more time to wait in: it goes now
            fields, seconds = self._next_fields() if first is None else first
            try:
                result = plan.connection.in_flight.send(
                    fields, seconds=seconds, local=local, send_check=self
                )
            except SendRefused:
                self._sent, first = False, None
            except Exception as error:
                self._learn_failure(error)
                raise
            else:
                self._learn_success(generation)
                return result

    async def attempt_async(self) -> Any:
        """As `attempt`, for coroutines."""
        plan, until = self.plan, 0.0
        first = self._first_fields() if self.run is None else None
        while True:
            if first is not None:
                key, generation, local = self._key, plan.ready.generation, False
            else:
                key, generation, local = self._prepare()
            self._waited_for = None if local else key
            if first is None and not local:
                until = until or time.monotonic() + self._patience()
                seconds = max(0.0, until - time.monotonic())
                if not await drive_async(plan.ready.wait(key, seconds)):
                    self._stayed_missing()
                if time.monotonic() >= until:
                    self._waited_for = None  # there is no more time to wait in: it goes now
            fields, seconds = self._next_fields() if first is None else first
            try:
                result = await plan.connection.in_flight.send_async(
                    fields, seconds=seconds, local=local, send_check=self
                )
            except SendRefused:
                self._sent, first = False, None
            except Exception as error:
                self._learn_failure(error)
                raise
            else:
                self._learn_success(generation)
                return result

    # Called on the SDK's loop: between the check of what is known and the moment of sending other
    # calls may have learned more, and what this one learns is news to them.

    def may_send(self) -> bool:
        """Whether what the call waited for is still there."""
        key, ready = self._waited_for, self.plan.ready
        return key is None or ready.unchecked or key in ready.known

    def classify(self, error: Exception) -> Failure:
        """What an answer says, and what that says about the function being there."""
        failure = classify(error, function_id=self.request.function_id)
        if self.request.action == "enqueue":
            self.plan.ready.not_enqueued(failure)
        elif self._key is not None and failure.code in DOUBTFUL:
            self.plan.ready.invalidate(self._key)
        return failure

    def failed(self, error: Exception, traceback: TracebackType | None) -> RetriedCall:
        """The first attempt has failed: from now on there is a retried call."""
        plan = self.plan
        # A Void call's answer says nothing about having run: only unsent ones are repeated.
        idempotent = self.options.idempotent and not (self.request.action == "void" and self._sent)
        self.run = run = RetriedCall(
            plan.context,
            self.started,
            idempotent=idempotent,
            deadline_at=self.deadline_at,
            classified=self.classified,
        )
        run.attempt_failed(error, traceback, sent=self._sent)
        return run

    @property
    def may_repeat(self) -> bool:
        """Whether a failure of the call can be followed by a retry."""
        return self.options.idempotent or self.plan.policy.retry_unexecuted

    def left(self) -> float | None:
        """Seconds until the deadline, or None for none."""
        return None if self.deadline_at is None else self.deadline_at - time.monotonic()

    def patience(self) -> float:
        """Seconds to wait for something once the call was given up: what the deadline leaves."""
        left = self.left()
        return self.plan.policy.ready_timeout if left is None else max(0.0, left)

    def timeout_left(self) -> float:
        """Seconds that one more attempt would have."""
        seconds, left = self._full_timeout()[0] / 1000, self.left()
        return seconds if left is None else min(seconds, left)

    def carried(self, attempt: int, *, given_up: bool = False) -> CallContext:
        """What travels with the call now.

        Args:
            attempt: The attempt's number.
            given_up: Whether its retries have been given up.
        """
        left = self.left()
        return CallContext(
            left=left,
            deadline_unix=None if left is None else time.time() + left,
            attempt=attempt,
            idempotency_key=self.options.idempotency_key,
            already_retried=given_up,
        )

    @property
    def timeout_note(self) -> str:
        """Which timeout the last attempt had, and from where: for the note of a TIMEOUT."""
        milliseconds, source = self._timeout
        return f"its timeout was {milliseconds} ms, from {source}"

    # The parts of an attempt.

    def _first_fields(self) -> tuple[dict[str, Any], float] | None:
        """As `_next_fields`, for a first attempt like most; else None.

        It goes to a known function, with nothing to wait for, and no time has passed yet. The rest
        of such an attempt costs little beside the call itself.
        """
        request, plan, options = self.request, self.plan, self.options
        key, ready = self._key, plan.ready
        if (
            request.bytes is None
            or self._inherits
            or not (key is None or ready.unchecked or key in ready.known)
            or not plan.connection.seems_up()
        ):
            return None
        if (
            request.action is not None
            or "metadata" in request.fields
            or options.idempotency_key is not None
        ):
            return self._next_fields()
        self._sent = True
        timeout, source, left = plan.timeout_ms, plan.timeout_from, plan.policy.deadline
        if request.timeout_ms is not None:
            timeout, source = request.timeout_ms, _REQUEST
            if left is not None:
                left = max(left, timeout / 1000)  # it extends the deadline
        elif left is not None and 1000 * left < timeout:
            timeout, source = 1000 * left, _DEADLINE
        milliseconds = max(1, int(timeout))
        self._timeout = (milliseconds, source)
        fields = {**request.fields, "timeout_ms": milliseconds}
        if plan.carries:
            unix, seconds = time.time(), milliseconds / 1000
            deadline = None if left is None else unix + left
            wire = outgoing(left, deadline, 1, None, seconds, unix + seconds)
            fields["metadata"] = {METADATA_FIELD: wire}
        return fields, milliseconds / 1000

    def _prepare(self) -> tuple[Key | None, int, bool]:
        """What to wait for, the state of knowledge now, and whether nothing goes over the wire."""
        connection = self.plan.connection
        if self.run is not None:
            self._sent = False
        elif self._inherits and (self.left() or 0.0) <= 0.0:
            raise DeadlinePassedError(
                "the time that the caller of this handler had left is over; nothing was sent"
            )
        client = connection.client
        local = self.request.function_id in client.local_functions and client.dispatches_locally(
            self.request.fields
        )
        if local:
            connection.check_usable()  # else the wait does it
        if not local and self.request.bytes is None:  # it was to run in this process a moment ago
            most = self.plan.policy.max_payload_bytes
            check(self.request, connection.sdk, most, self.options.idempotency_key)
        key = self._key
        if self.request.action == "enqueue":
            # Other calls may have learned of the provider since; a retry is not sent into a hole.
            key = PROVIDER if self.run is not None else self._provider_key()
        return key, self.plan.ready.generation, local

    def _patience(self) -> float:
        """Seconds the waits before this attempt may take together."""
        patience = self.plan.policy.ready_timeout
        if self.run is not None:
            # Before a retry the readiness is checked, even with a `ready_timeout` of 0.
            patience = max(patience, ANSWER_WITHIN)
        if self.deadline_at is not None:
            left = self.deadline_at - time.monotonic()
            # The wait leaves the engine time to say itself that the function is missing.
            patience = min(patience, max(left / 2, left - ANSWER_WITHIN))
        return max(0.0, patience)

    def _stayed_missing(self) -> None:
        """A retry is not sent into the hole; a first call is answered by the engine itself."""
        if self.run is not None:
            raise StopRetrying(Reason.NOT_READY)
        self._waited_for = None

    def _next_fields(self) -> tuple[dict[str, Any], float]:
        """What is sent now, and its timeout in seconds."""
        number = 1
        if self.run is not None:
            if self.deadline_at is not None and time.monotonic() >= self.deadline_at:
                raise StopRetrying(Reason.DEADLINE)
            log = self.run.log
            log.sent = True
            if self.run.observer is not None:
                self.run.attempt_sent()
            number = len(log.failed) + 1
        self._sent = True
        request, now = self.request, time.monotonic()
        timeout, source = self._full_timeout()
        left = deadline = gives_up = None
        if self.deadline_at is not None:
            left = self.deadline_at - now
            if 1000 * left < timeout:
                timeout = 1000 * left
                source = _INHERITED if self._inherits else _DEADLINE
        milliseconds = max(1, int(timeout))
        self._timeout = (milliseconds, source)
        fields, seconds = {**request.fields, "timeout_ms": milliseconds}, milliseconds / 1000
        if self.plan.carries and request.action != "enqueue":
            unix, attempt_left = time.time(), None
            if left is not None:
                deadline = unix + left
            if request.action is None:  # nothing waits for the answer to a Void call
                attempt_left, gives_up = seconds, unix + seconds
            key = self.options.idempotency_key
            wire = outgoing(left, deadline, number, key, attempt_left, gives_up)
            add_context(fields, wire)
        return fields, seconds

    def _full_timeout(self) -> tuple[float, str]:
        """An attempt's timeout in milliseconds, whatever is left; and where it is from."""
        if self.request.timeout_ms is not None:
            return self.request.timeout_ms, _REQUEST
        return self.plan.timeout_ms, self.plan.timeout_from

    def _learn_success(self, generation: int) -> None:
        if self.request.action is None:
            self.plan.connection.history.answered = True
            key, ready = self._key, self.plan.ready
            if key is not None and key not in ready.known:
                ready.mark_known(key, generation)
        elif self.request.action == "enqueue":
            self.plan.connection.history.answered = True
            self.plan.ready.enqueued(generation)

    def _learn_failure(self, error: Exception) -> None:
        connection = self.plan.connection
        if isinstance(error, NotConnectedError):
            self._sent = False
            return
        classified = self.classified
        if not classified:
            classified.append(classify(error, function_id=self.request.function_id))
        failure = classified[0] = self._refine(classified[0])
        if not isinstance(error, ConnectionError) and failure.code not in _UNHEARD:
            connection.history.answered = True
        if self.request.action == "void" and self.run is not None:
            self.run.idempotent = False

    def _refine(self, failure: Failure) -> Failure:
        """What this call knows about a failure that the error alone does not say."""
        ready = self.plan.ready
        if ready.provider_seen and ready.provider_is_away(failure):
            return failure.replace(category=Category.TRANSIENT, remedy=_PROVIDER_AWAY)
        if failure.code not in _STOPS or failure.category is not Category.TRANSIENT:
            return failure
        most = self.request.bytes
        if most is None or most <= POISON_BYTES:
            return failure
        # However this SDK wrote the payload out, the engine writes it anew for the worker: compact.
        size = size_of(self.request.fields["payload"])
        if size <= POISON_BYTES:
            return failure
        return failure.replace(
            category=Category.PAYLOAD,
            payload_bytes=size,
            limit_bytes=POISON_BYTES,
            remedy=(
                f"shrink the payload of {size} bytes or move it to channels: a Python worker on an "
                f"SDK before 0.24.5 dies of more than {POISON_BYTES}, and would again"
            ),
        )
