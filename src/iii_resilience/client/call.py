"""One call through the engine: its request, its time limit, and its attempts.

Each attempt waits until it can be sent, sends it, and classifies the result. `retry.run` decides
about a failure; `client.fallback` handles a call whose retries have stopped. Knows nothing of
handlers.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from iii_resilience.client.plan import CallPlan
from iii_resilience.client.readiness import DOUBTFUL, Key, Readiness
from iii_resilience.client.request import Request, carries, carrying, check
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.core.decide import Reason
from iii_resilience.core.errors import DeadlinePassedError, NotConnectedError
from iii_resilience.core.failure import Failure
from iii_resilience.retry.run import RetriedCall, StopRetrying
from iii_resilience.sdk import propagation
from iii_resilience.sdk.connection import Connection
from iii_resilience.sdk.payload_check import size_of
from iii_resilience.sdk.pending_calls import SendRefused
from iii_resilience.sdk.propagation import METADATA_FIELD, CallContext, outgoing

PROVIDER: Key = (None, "engine::queue::enqueue")
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


class TriggerCall:
    """One call: its request, its time, and its run once it has failed.

    Most calls succeed at the first attempt: what they do not need is not made for them.

    Args:
        connection: The client's connection.
        ready: What is known of the functions that are registered.
        request: What is asked for; its payload has been checked unless it is dispatched locally
            (should it not be any longer when it is sent, it is checked then).
        plan: What it has in common with others.
        local: Whether the SDK runs it in this process.
        idempotent: Whether calling twice does what calling once does.

    Attributes:
        accept_enqueued: Whether a receipt may be returned in place of the result.
        idempotency_key: Stands for the call in all its attempts, or None.
        run: What follows the first failure, or None.
    """

    accept_enqueued = False
    idempotency_key: str | None = None
    run: RetriedCall | None = None
    _sent = False
    _held_by: Key | None = None
    _timeout_ms = 0
    _timeout_from = ""

    def __init__(
        self,
        connection: Connection,
        ready: Readiness,
        request: Request,
        plan: CallPlan,
        *,
        local: bool,
        idempotent: bool,
    ) -> None:
        self.connection = connection
        self.ready = ready
        self.request = request
        self.plan = plan
        self.idempotent = idempotent
        self.policy = policy = plan.policy
        self.started = started = time.monotonic()
        deadline = policy.deadline
        if deadline is not None:
            if request.timeout_ms is not None and request.timeout_ms > 1000 * deadline:
                # A timeout that was asked for is longer than the policy's deadline: it was asked.
                deadline = request.timeout_ms / 1000
            deadline += started
        self.deadline_at = deadline
        inbound = propagation.current_inbound()
        self._inherits = False
        if inbound is not None and inbound.deadline_at is not None:
            # What the caller of this handler has left always wins: nobody waits for longer.
            self._inherits = deadline is None or inbound.deadline_at < deadline
            if self._inherits:
                self.deadline_at = inbound.deadline_at
        self._local: bool | None = local  # as it was a moment ago; a retry looks again
        self._key = plan.key
        if request.action is not None or "namespace" in request.fields:
            self._key = self._other_key()
        if idempotent and plan.window is not None:
            plan.window.called(started)

    def _other_key(self) -> Key | None:
        if self.plan.key is None or self.request.action == "enqueue":
            return None
        return self.connection.namespace_of(self.request.fields), self.request.function_id

    def attempt(self) -> Any:
        """One attempt: wait, send, learn."""
        quick = self._goes_at_once()
        until = 0.0
        while True:
            if quick:
                key, generation, local = self._key, self.ready.generation, False
            else:
                key, generation, local = self._prepare()
            self._held_by = None if local else key
            if not (quick or local or self.ready.is_ready(key)):
                until = until or time.monotonic() + self._patience()
                if not self.ready.wait(key, max(0.0, until - time.monotonic())):
                    self._stayed_missing()
                self._waited(until)
            fields, seconds = self._first_fields() if quick else self._next_fields()
            in_flight = self.connection.in_flight
            try:
                result = in_flight.send(fields, seconds=seconds, local=local, send_check=self)
            except SendRefused:
                self._sent = False
                quick = False
                continue
            except Exception as error:
                self._learn_failure(error)
                raise
            self._learn_success(generation)
            return result

    async def attempt_async(self) -> Any:
        """As `attempt`, for coroutines."""
        quick = self._goes_at_once()
        until = 0.0
        while True:
            if quick:
                key, generation, local = self._key, self.ready.generation, False
            else:
                key, generation, local = self._prepare()
            self._held_by = None if local else key
            if not (quick or local or self.ready.is_ready(key)):
                until = until or time.monotonic() + self._patience()
                if not await self.ready.wait_async(key, max(0.0, until - time.monotonic())):
                    self._stayed_missing()
                self._waited(until)
            fields, seconds = self._first_fields() if quick else self._next_fields()
            in_flight = self.connection.in_flight
            try:
                result = await in_flight.send_async(
                    fields, seconds=seconds, local=local, send_check=self
                )
            except SendRefused:
                self._sent = False
                quick = False
                continue
            except Exception as error:
                self._learn_failure(error)
                raise
            self._learn_success(generation)
            return result

    # Asked and told on the SDK's loop: between the look at what is known and the moment of sending
    # other calls may have learned better, and what this one meets is news to them.

    def may_send(self) -> bool:
        """Whether what the call waited for is still there."""
        return self._held_by is None or self.ready.may_send(self._held_by)

    def on_error(self, error: Exception) -> None:
        """What an answer says about the function being there."""
        if self._key is not None and classify(error).code in DOUBTFUL:
            self.ready.invalidate(self._key)

    def failed(self, error: Exception, traceback: TracebackType | None) -> RetriedCall:
        """The first attempt has failed: from now on there is a run."""
        self.run = run = RetriedCall(
            self.policy,
            idempotent=self.idempotent,
            name=self.request.function_id,
            started=self.started,
            window=self.plan.window if self.idempotent else None,
            deadline_at=self.deadline_at,
            function_id=self.request.function_id,
            pauses=self.connection,
            look=self._look,
        )
        if self.request.action == "void" and self._sent:
            run.idempotent = False  # it says nothing about having run: only unsent ones repeat
        run.attempt_failed(error, traceback, sent=self._sent)
        return run

    def left(self) -> float | None:
        """Seconds until the deadline, or None for none."""
        return None if self.deadline_at is None else self.deadline_at - time.monotonic()

    def patience(self) -> float:
        """Seconds to wait for something once the call was given up: what the deadline leaves."""
        left = self.left()
        return self.policy.ready_timeout if left is None else max(0.0, left)

    def timeout_left(self) -> float:
        """Seconds that one more attempt would have."""
        seconds, left = self._timeout()[0] / 1000, self.left()
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
            idempotency_key=self.idempotency_key,
            already_retried=given_up,
        )

    @property
    def timeout_note(self) -> str:
        """Which timeout the last attempt had, and from where: for the note of a TIMEOUT."""
        return f"its timeout was {self._timeout_ms} ms, from {self._timeout_from}"

    # The parts of an attempt.

    def _goes_at_once(self) -> bool:
        """Whether this is a first attempt like most: to a known function, with nothing to wait for.

        The rest of such an attempt costs little beside the call itself.
        """
        if self.run is None and not self._local and not self._inherits:
            key = self._key
            if (key is None or self.ready.may_send(key)) and self.connection.seems_up():
                self._local = None  # a retry looks again
                return True
        return False

    def _first_fields(self) -> tuple[dict[str, Any], float]:
        """As `_next_fields`, for an attempt that `_goes_at_once`: no time has passed yet."""
        request, plan = self.request, self.plan
        if (
            request.timeout_ms is not None
            or request.action is not None
            or "metadata" in request.fields
            or self.idempotency_key is not None
        ):
            return self._next_fields()
        self._sent = True
        timeout, source, left = plan.timeout_ms, plan.timeout_from, plan.policy.deadline
        if left is not None and 1000 * left < timeout:
            timeout, source = 1000 * left, _DEADLINE
        milliseconds = self._timeout_ms = max(1, int(timeout))
        self._timeout_from = source
        fields = {**request.fields, "timeout_ms": milliseconds}
        if plan.carries:
            unix = None if left is None else time.time() + left
            fields["metadata"] = {METADATA_FIELD: outgoing(left, unix, 1, None)}
        return fields, milliseconds / 1000

    def _prepare(self) -> tuple[Key | None, int, bool]:
        """What to wait for, the state of knowledge now, and whether nothing goes over the wire."""
        self.connection.check_usable()
        local, self._local = self._local, None
        if self.run is not None:
            self._sent = False
        elif self._inherits and (self.left() or 0.0) <= 0.0:
            raise DeadlinePassedError(
                "the time that the caller of this handler had left is over; nothing was sent"
            )
        if local is None:
            local = self.connection.client.dispatches_locally(self.request.fields)
        if not local and self.request.bytes is None:  # it was to run in this process a moment ago
            most = self.policy.max_payload_bytes
            check(self.request, self.connection.sdk, most, self.idempotency_key)
        key = self._key
        if self.run is not None and self.request.action == "enqueue":
            key = PROVIDER
        return key, self.ready.generation, local

    def _patience(self) -> float:
        """Seconds the waits before this attempt may take together."""
        patience = self.policy.ready_timeout
        if self.run is not None:
            # Whether the function is still there is asked before a retry even by who never waits.
            patience = max(patience, ANSWER_WITHIN)
        left = self.left()
        if left is not None:
            # The wait leaves the engine time to say itself that the function is missing.
            patience = min(patience, max(left / 2, left - ANSWER_WITHIN))
        return max(0.0, patience)

    def _stayed_missing(self) -> None:
        """A retry is not sent into the hole; a first call is answered by the engine itself."""
        if self.run is not None:
            raise StopRetrying(Reason.NOT_READY)
        self._held_by = None

    def _waited(self, until: float) -> None:
        if time.monotonic() >= until:
            self._held_by = None  # there is no more time to wait in: it goes now

    def _next_fields(self) -> tuple[dict[str, Any], float]:
        """What is sent now, and its timeout in seconds."""
        number = 1
        if self.run is not None:
            late = self.run.too_late()
            if late is not None:
                raise late
            self.run.attempt_sent()
            number = len(self.run.failed) + 1
        self._sent = True
        request, now = self.request, time.monotonic()
        timeout, source = self._timeout()
        left = unix = None
        if self.deadline_at is not None:
            left = self.deadline_at - now
            if 1000 * left < timeout:
                timeout = 1000 * left
                source = _INHERITED if self._inherits else _DEADLINE
        milliseconds = self._timeout_ms = max(1, int(timeout))
        self._timeout_from = source
        fields = {**request.fields, "timeout_ms": milliseconds}
        if self.plan.carries and carries(request):
            if left is not None:
                unix = time.time() + left
            fields["metadata"] = carrying(
                request, outgoing(left, unix, number, self.idempotency_key)
            )
        return fields, milliseconds / 1000

    def _timeout(self) -> tuple[float, str]:
        """An attempt's timeout in milliseconds, whatever is left; and where it is from."""
        if self.request.timeout_ms is not None:
            return self.request.timeout_ms, "the request's timeout_ms"
        return self.plan.timeout_ms, self.plan.timeout_from

    def _learn_success(self, generation: int) -> None:
        if self.request.action is None:
            self.connection.history.answered = True
            if self._key is not None:
                self.ready.mark_known(self._key, generation)

    def _learn_failure(self, error: Exception) -> None:
        if isinstance(error, NotConnectedError):
            self._sent = False
            return
        code = classify(error).code
        if not isinstance(error, ConnectionError) and code not in _UNHEARD:
            self.connection.history.answered = True
        if self.request.action == "void" and self.run is not None:
            self.run.idempotent = False

    def _look(self, failure: Failure) -> Failure:
        """What this call knows about a failure that the error alone does not say."""
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
