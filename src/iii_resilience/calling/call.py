"""One call through the engine: its request, its time, and what each attempt at it does.

An attempt is: wait until it can be sent, send it, learn from how it ended. What is done about a
failure is decided in `run`; what is done once it is given up, in `fallback`. Knows nothing of
handlers.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import attrs

from iii_resilience import propagate
from iii_resilience.book import Selected
from iii_resilience.calling.ready import DOUBTFUL, Key, Readiness
from iii_resilience.calling.request import ENGINE_OWN, Request, carries, carrying
from iii_resilience.classify import classify
from iii_resilience.codes.model import Category
from iii_resilience.decide import Reason
from iii_resilience.errors import DeadlinePassedError, NotConnectedError
from iii_resilience.failure import Failure
from iii_resilience.guards.budget import BudgetWindow
from iii_resilience.link import Link
from iii_resilience.payloads import size_of
from iii_resilience.policy import RetryPolicy
from iii_resilience.propagate import Carried, outgoing
from iii_resilience.run import CallRun, GiveUp
from iii_resilience.shielded import Shield, shield_for

PROVIDER: Key = (None, "engine::queue::enqueue")
_SDK_TIMEOUT_MS = 30_000  # the SDK's own default (sdk-matrix, section 3)
# What an engine that is not far away needs for an answer of its own, generously (it takes 1 ms).
ANSWER_WITHIN = 0.25

# Python workers before SDK 0.24.5 receive 1 MiB and die of more (engine-observed, section 2).
POISON_BYTES = 1 << 20
# How the death of a worker or of the own connection looks: the engine's words for the one, the
# close codes that escape from the SDK as a number for the other.
_STOPS = frozenset({"invocation_stopped", "1006", "1009"})

# What says nothing of the engine having been heard: the SDK ends these calls itself.
_UNHEARD = frozenset({"TIMEOUT", "SHUTDOWN", "payload_too_large"})


@attrs.frozen
class Options:
    """What one call was asked for beside its request (see `Resilient.trigger`)."""

    idempotent: bool | None = None
    policy: str | RetryPolicy | None = None
    accept_enqueued: bool = False
    idempotency_key: str | None = None


@attrs.frozen
class Plan:
    """What all calls of a function under one policy have in common.

    Args:
        selected: The policy in force.
        function_id: The function.
    """

    selected: Selected
    function_id: str
    scope: str = attrs.field(init=False)
    own: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "scope", f"{self.selected.name}\0{self.function_id}")
        object.__setattr__(self, "own", self.function_id.startswith(ENGINE_OWN))

    @property
    def shield(self) -> Shield | None:
        """The breaker and bulkhead of the function, or None."""
        return shield_for(self.selected.policy, self.function_id, self.scope)


class Call:
    """One call: its request, its time, and its run once it has failed.

    Args:
        link: The client's connection.
        ready: What is known of the functions that are registered.
        request: What is asked for; its payload has been checked unless it is dispatched locally.
        plan: What it has in common with others.
        local: Whether the SDK runs it in this process.
        idempotent: Whether calling twice does what calling once does.
        options: What else was asked for.
    """

    def __init__(
        self,
        link: Link,
        ready: Readiness,
        request: Request,
        plan: Plan,
        *,
        local: bool,
        idempotent: bool,
        options: Options,
    ) -> None:
        self.link = link
        self.ready = ready
        self.request = request
        self.idempotent = idempotent
        self.options = options
        self.policy = policy = plan.selected.policy
        self.run: CallRun | None = None
        self.started = started = time.monotonic()
        self.deadline_at, self._deadline_from = _deadline(policy, request, started)
        self._local: bool | None = local  # as it was a moment ago; a retry looks again
        self._sent = False
        self._timeout = (0, "")
        self._key: Key | None = None
        if not plan.own and request.action != "enqueue":
            self._key = (link.namespace_of(request.fields), request.function_id)
        self._window: BudgetWindow | None = None
        if policy.budget is not None and idempotent:
            self._window = policy.budget.window_for(plan.scope)
            self._window.called(started)

    def attempt(self) -> Any:
        """One attempt: wait, send, learn."""
        key, generation, local = self._prepare()
        if not (local or self.ready.is_ready(key) or self.ready.wait(key, self._patience())):
            self._stayed_missing()
        fields, seconds = self._next_fields()
        try:
            result = self.link.send(fields, seconds=seconds, local=local)
        except Exception as error:
            self._learn_failure(error)
            raise
        self._learn_success(generation)
        return result

    async def attempt_async(self) -> Any:
        """As `attempt`, for coroutines."""
        key, generation, local = self._prepare()
        if not (
            local or self.ready.is_ready(key) or await self.ready.wait_async(key, self._patience())
        ):
            self._stayed_missing()
        fields, seconds = self._next_fields()
        try:
            result = await self.link.send_async(fields, seconds=seconds, local=local)
        except Exception as error:
            self._learn_failure(error)
            raise
        self._learn_success(generation)
        return result

    def failed(self, error: Exception, traceback: TracebackType | None) -> CallRun:
        """The first attempt has failed: from now on there is a run."""
        self.run = run = CallRun(
            self.policy,
            idempotent=self.idempotent,
            name=self.request.function_id,
            started=self.started,
            window=self._window,
            deadline_at=self.deadline_at,
            function_id=self.request.function_id,
            pauses=self.link,
            look=self._look,
        )
        if self.request.action == "void" and self._sent:
            run.idempotent = False  # it says nothing about having run: only unsent ones repeat
        run.fails(error, traceback, sent=self._sent)
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
        seconds, left = self._timeout_ms()[0] / 1000, self.left()
        return seconds if left is None else min(seconds, left)

    def carried(self, attempt: int, *, given_up: bool = False) -> Carried:
        """What travels with the call now.

        Args:
            attempt: The attempt's number.
            given_up: Whether its retries have been given up.
        """
        left = self.left()
        return Carried(
            left=left,
            deadline_unix=None if left is None else time.time() + left,
            attempt=attempt,
            idempotency_key=self.options.idempotency_key,
            already_retried=given_up,
        )

    @property
    def timeout_note(self) -> str:
        """Which timeout the last attempt had, and from where: for the note of a TIMEOUT."""
        return f"its timeout was {self._timeout[0]} ms, from {self._timeout[1]}"

    # The parts of an attempt.

    def _prepare(self) -> tuple[Key | None, int, bool]:
        """What to wait for, the state of knowledge now, and whether nothing goes over the wire."""
        self._sent = False
        self.link.check_usable()
        left = self.left()
        if self.run is None and left is not None and left <= 0:
            raise DeadlinePassedError(
                "the time that the caller of this handler had left is over; nothing was sent"
            )
        local, self._local = self._local, None
        if local is None:
            local = self.link.dispatches_locally(self.request.fields)
        key = self._key
        if self.request.action == "enqueue" and self.run is not None:
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
            raise GiveUp(Reason.NOT_READY)

    def _next_fields(self) -> tuple[dict[str, Any], float]:
        """What is sent now, and its timeout in seconds."""
        number = 1
        if self.run is not None:
            late = self.run.too_late()
            if late is not None:
                raise late
            self.run.sending()
            number = len(self.run.failed) + 1
        self._sent = True
        timeout, source = self._timeout_ms()
        left = self.left()
        if left is not None and 1000 * left < timeout:
            timeout, source = 1000 * left, self._deadline_from
        milliseconds = max(1, int(timeout))
        self._timeout = (milliseconds, source)
        request = self.request
        fields = {**request.fields, "timeout_ms": milliseconds}
        if carries(request, self.link.sdk):
            unix = None if left is None else time.time() + left
            key = self.options.idempotency_key
            fields["metadata"] = carrying(request, outgoing(left, unix, number, key))
        return fields, milliseconds / 1000

    def _timeout_ms(self) -> tuple[float, str]:
        if self.request.timeout_ms is not None:
            return self.request.timeout_ms, "the request's timeout_ms"
        if self.policy.attempt_timeout is not None:
            return self.policy.attempt_timeout * 1000, "the policy's attempt_timeout"
        default = getattr(
            getattr(self.link.client, "_options", None), "invocation_timeout_ms", None
        )
        if isinstance(default, int | float) and default > 0:
            return default, "the SDK's invocation_timeout_ms"
        return _SDK_TIMEOUT_MS, "the SDK's default"

    def _learn_success(self, generation: int) -> None:
        if self.request.action is None:
            self.link.answered = True
            if self._key is not None:
                self.ready.learned(self._key, generation)

    def _learn_failure(self, error: Exception) -> None:
        if isinstance(error, NotConnectedError):
            self._sent = False
            return
        code = classify(error).code
        if not isinstance(error, ConnectionError) and code not in _UNHEARD:
            self.link.answered = True
        if self._key is not None and code in DOUBTFUL:
            self.ready.doubted(self._key)
        if self.request.action == "void" and self.run is not None:
            self.run.idempotent = False

    def _look(self, failure: Failure) -> Failure:
        """What this call knows about a failure that the error alone does not say."""
        if failure.code not in _STOPS or failure.category is not Category.TRANSIENT:
            return failure
        size = self.request.bytes
        if size is None or size * 6 <= POISON_BYTES:
            return failure
        size = size_of(self.request.fields["payload"], compact=self.link.sdk.compact)
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


def _deadline(policy: RetryPolicy, request: Request, started: float) -> tuple[float | None, str]:
    """Monotonic time of the call's deadline in seconds, or None; and where it is from."""
    deadline, source = policy.deadline, "the policy's deadline"
    if deadline is not None and request.timeout_ms is not None:
        # A timeout that was asked for is longer than the policy's deadline: it was asked for.
        deadline = max(deadline, request.timeout_ms / 1000)
    at = None if deadline is None else started + deadline
    inbound = propagate.inherited()
    theirs = None if inbound is None else inbound.deadline_at
    if theirs is not None and (at is None or theirs < at):
        # What the caller of this handler has left always wins: nobody waits for longer.
        return theirs, "what the caller of this handler has left"
    return at, source
