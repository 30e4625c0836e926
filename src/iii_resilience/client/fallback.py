"""The fallback of an abandoned call: another function, or a queue.

Knows nothing of attempts and waits, except that they have ended. If the fallback fails too, the
original exception stays, with one more clause in its note.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import attrs

from iii_resilience.client.readiness import PROVIDER, Key
from iii_resilience.client.request import Request, check, for_queue
from iii_resilience.client.trigger_call import ANSWER_WITHIN, TriggerCall
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.decide import Decision, Reason
from iii_resilience.core.effects import CallHandler
from iii_resilience.core.policy import Enqueue, Enqueued, Reroute
from iii_resilience.core.report import amend
from iii_resilience.retry.retried_call import RetriedCall
from iii_resilience.sdk.propagation import add_context
from iii_resilience.telemetry.call_events import Fallback

# A call that used its deadline up must still be able to reach its fallback queue; the enqueue
# itself takes milliseconds.
_HAND_OVER_AT_LEAST = 1.0


@attrs.frozen
class Handover:
    """One call to somewhere else, to be made now.

    Attributes:
        call: The call that was given up.
        run: Its run.
        fallback: Where it goes.
        key: What has to be registered for it, or None where only the connection matters.
        patience: Seconds to wait for the connection.
        ready_patience: Seconds of these to wait for the key.
        seconds: The timeout of the call itself.
    """

    call: TriggerCall
    run: RetriedCall
    fallback: Enqueue | Reroute
    key: Key | None
    patience: float
    ready_patience: float
    seconds: float

    @property
    def engine_answers(self) -> bool:
        """Whether it is sent even where the wait was in vain: the engine then says so itself.

        An engine without a provider may have a queue of its own, which uses the retries of a
        message up while its function is missing.
        """
        return isinstance(self.fallback, Reroute) or self.call.plan.ready.provider_seen

    def telemetry(self) -> Fallback:
        """While it is on its way: what it does hangs under a span of its own."""
        if isinstance(self.fallback, Enqueue):
            return self.run.telemetry.fallback("enqueue", self.fallback.queue)
        return self.run.telemetry.fallback("reroute", self.fallback.function_id)

    def carry_out(self, shown: BaseException) -> Generator[Any, Any, tuple[bool, Any]]:
        """Make the call, as effects; its one `CallHandler` sends a request.

        Args:
            shown: The exception that the caller sees if this fails too.

        Returns:
            Whether the call was taken over, and what its caller gets.
        """
        error: Exception | None = None
        try:
            with self.telemetry():
                answer = yield from self._send(time.monotonic() + self.patience)
                taken, result = self.arrived(answer)
                if taken:
                    return True, result
        except Exception as failed:
            error = failed
        self.failed(shown, error)
        return False, None

    def _send(self, until: float) -> Generator[Any, Any, Any]:
        """Wait, and send; once more where a provider that comes back has just gone.

        Args:
            until: Monotonic time at which the waits end, in seconds.

        Returns:
            The answer; None where it was not sent.
        """
        ready = self.call.plan.ready
        for last in (False, True):
            yield from ready.wait(None, max(0.0, until - time.monotonic()))
            if self.key is not None:
                patience = min(self.ready_patience, max(0.0, until - time.monotonic()))
                if not ((yield from ready.wait(self.key, patience)) or self.engine_answers):
                    return None
            try:
                return (yield CallHandler({"request": self.fields(), "seconds": self.seconds}))
            except Exception as error:
                if not isinstance(self.fallback, Enqueue):
                    raise
                failure = classify(error)
                ready.not_enqueued(failure)
                # Nothing has taken it: to send it again cannot make two messages of one.
                if last or not ready.provider_is_away(failure):
                    raise
        return None

    def fields(self) -> dict[str, Any]:
        """The request to send.

        Raises:
            InvalidPayloadError: With what travels along, the message cannot be sent.
            PayloadTooLargeError: The same.
        """
        request, sdk = self.call.request, self.call.plan.connection.sdk
        fields = {**request.fields, "timeout_ms": max(1, int(1000 * self.seconds))}
        carried = self.call.carried(len(self.run.log.failed) + 1, given_up=True)
        if isinstance(self.fallback, Reroute):
            fields["function_id"] = self.fallback.function_id
            if self.fallback.namespace is not None:
                fields["namespace"] = self.fallback.namespace
            if sdk.sends_metadata:
                seconds = fields["timeout_ms"] / 1000
                carried = attrs.evolve(
                    carried, attempt_left=seconds, attempt_deadline_unix=time.time() + seconds
                )
                add_context(fields, carried.to_wire())
            return fields
        carried = attrs.evolve(
            carried.without_times(),  # queued work has time, whatever its caller had left
            function_id=request.function_id,
            code=self.run.log.failed[0].failure.code,
        )
        fields["payload"] = for_queue(fields["payload"], carried)
        fields["action"] = {"type": "enqueue", "queue": self.fallback.queue}
        queued = Request(fields, request.function_id, "enqueue", None)
        return check(queued, sdk, self.call.plan.policy.max_payload_bytes).fields

    def arrived(self, answer: Any) -> tuple[bool, Any]:
        """Whether the call was taken over, and what its caller gets.

        Args:
            answer: What the SDK returned.
        """
        failure, result = self.run.failure, answer
        if isinstance(self.fallback, Enqueue):
            receipt = answer.get("messageReceiptId") if isinstance(answer, dict) else None
            if not isinstance(receipt, str):
                return False, None  # nothing is reported as queued without a receipt
            result = Enqueued(receipt, self.fallback.queue, failure)
            ready = self.call.plan.ready
            ready.enqueued(ready.generation)
        self.run.telemetry.decided(failure, Decision(Reason.HANDED_OFF))
        return True, result

    def failed(self, shown: BaseException, error: Exception | None) -> None:
        """It failed too: say so in the note of the exception that the caller sees.

        Args:
            shown: That exception.
            error: How the hand-over failed; None where it was not taken over.
        """
        failure = None if error is None else classify(error)
        code = "no receipt" if failure is None else failure.code
        if isinstance(self.fallback, Enqueue):
            where = f"queue {self.fallback.queue!r}"
            if failure is not None and code == "enqueue_error":
                code += f" ({failure.remedy})"
        else:
            where = self.fallback.function_id
        self.run.not_handed_over()
        amend(shown, f"the fallback to {where} failed too: {code}")


def handover(call: TriggerCall) -> Handover | None:
    """Where a call goes now that it is given up, or None.

    Never after auth, payload and permanent failures, and never for what may have run and is not
    idempotent.
    """
    run, fallback = call.run, call.plan.policy.fallback
    if run is None or fallback is None or call.request.action is not None:
        return None
    if not (call.options.idempotent or run.log.execution is Execution.NOT_EXECUTED):
        return None
    failure = run.failure
    if isinstance(fallback, Reroute):
        left = call.left()
        if failure.category not in {Category.TRANSIENT, Category.NOT_FOUND} or (
            left is not None and left <= 0
        ):
            return None
        namespace = fallback.namespace or call.plan.connection.namespace_of(call.request.fields)
        return Handover(
            call,
            run,
            fallback,
            (namespace, fallback.function_id),
            min(call.plan.policy.ready_timeout, call.patience()),
            call.plan.policy.ready_timeout,
            call.timeout_left(),
        )
    missing = failure.code == "function_not_found"
    if (
        not call.options.accept_enqueued
        or not isinstance(call.request.fields["payload"], dict)
        or not (failure.category is Category.TRANSIENT or missing)
    ):
        return None
    # The standalone queue worker waits for a missing function; the built-in queue of older
    # engines uses its retries up.
    key = PROVIDER if missing or call.plan.ready.provider_seen else None
    patience = call.patience()
    ready_patience = max(call.plan.policy.ready_timeout, ANSWER_WITHIN)
    return Handover(
        call, run, fallback, key, patience, ready_patience, max(_HAND_OVER_AT_LEAST, patience)
    )
