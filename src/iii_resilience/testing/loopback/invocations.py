"""Accepts invocations from workers: access, kind of call, and the reply to the caller.

Knows nothing of how a call finds its target: `loopback.router` does that.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Final

from iii_resilience.testing.loopback.history import InvocationOutcome, failed
from iii_resilience.testing.loopback.outbox import Outbox
from iii_resilience.testing.loopback.rbac import DEFAULT_NAMESPACE, forbidden_message, matches
from iii_resilience.testing.loopback.registry import Worker
from iii_resilience.testing.loopback.router import Invocation, Router, with_function_id
from iii_resilience.testing.loopback.wire import Message

#: The function that `Enqueue` calls, whichever worker registered it.
ENQUEUE: Final = "engine::queue::enqueue"
_NO_PROVIDER: Final = (
    "No queue provider is installed. `TriggerAction::Enqueue` routes through the "
    "`engine::queue::enqueue` provider, which the standalone queue worker registers. "
    "Add it with `iii worker add queue`."
)


class InvocationFrames:
    """Takes calls in.

    Args:
        post: Sends answers and remembers calls.
        calls: Makes the calls.
        called: Is called whenever a call came in.

    Attributes:
        forbidden: Patterns of functions that callers on the first listener may not call.
    """

    def __init__(self, post: Outbox, calls: Router, called: Callable[[], None]) -> None:
        self.forbidden: list[str] = []
        self._post = post
        self._calls = calls
        self._called = called

    def take(self, worker: Worker, message: Message) -> None:
        """A worker calls a function."""
        self._post.called(worker, message)
        self._called()
        function_id: str = message["function_id"]
        namespace: str | None = message.get("namespace")
        refusal = self._refusal(worker, function_id, namespace, message["data"])
        if refusal is not None:
            # A call without an id is refused too, under an id that its caller has never heard of.
            if message.get("invocation_id") is not None or refusal.error_code == "FORBIDDEN":
                self._answer(worker, message, refusal.outcome)
            return
        action = message.get("action")
        if action is not None and action["type"] == "enqueue":
            self._enqueue(worker, message, action["queue"])
            return
        data = message["data"]
        if isinstance(data, dict):
            data = {**data, "_caller_worker_id": worker.worker_id}
        call = Invocation(
            function_id,
            data,
            lambda outcome: self._answer(worker, message, outcome),
            namespace=namespace,
            metadata=message.get("metadata"),
            traceparent=message.get("traceparent"),
            baggage=message.get("baggage"),
            caller=worker,
        )
        invocation_id = message.get("invocation_id")
        if action is not None or invocation_id is None:
            call.reply = _nobody_listens
        else:
            call.invocation_id = invocation_id
        self._calls.place(call)

    def _refusal(
        self, worker: Worker, function_id: str, namespace: str | None, data: Any
    ) -> _Refusal | None:
        if namespace is not None and not namespace.strip():
            text = "`namespace` is empty: it was named and left blank. Give it a name, or omit it"
            return _Refusal("INVALID_NAMESPACE", f"{text} to use `{DEFAULT_NAMESPACE}`.")
        session = worker.session
        if session is None:
            if any(matches(pattern, function_id) for pattern in self.forbidden):
                return _Refusal("FORBIDDEN", forbidden_message(function_id, denied=True))
            return None
        if not session.allows(function_id, namespace or DEFAULT_NAMESPACE):
            return _Refusal("FORBIDDEN", session.refusal(function_id))
        if function_id == "engine::workers::register" and session.namespaces:
            declared = data.get("namespace") if isinstance(data, dict) else None
            declared = declared if isinstance(declared, str) else DEFAULT_NAMESPACE
            if declared not in session.namespaces:
                permitted = ", ".join(sorted(session.namespaces))
                text = f"namespace '{declared}' not allowed for this session"
                return _Refusal("FORBIDDEN", f"{text} (permitted: {permitted})")
        return None

    def _enqueue(self, worker: Worker, message: Message, queue: str) -> None:
        function_id: str = message["function_id"]
        receipt = str(uuid.uuid4())
        data = {
            "queue": queue,
            "function_id": function_id,
            "data": message["data"],
            "messageReceiptId": receipt,
            "traceparent": message.get("traceparent"),
            "baggage": with_function_id(message.get("baggage"), function_id),
        }
        namespace = message.get("namespace") or DEFAULT_NAMESPACE
        if namespace != DEFAULT_NAMESPACE:
            data["namespace"] = namespace

        def stored(outcome: InvocationOutcome) -> None:
            error = outcome.error
            if error is None:
                answer = InvocationOutcome({"messageReceiptId": receipt})
            elif error.code == "function_not_found":
                answer = failed("enqueue_error", f"{_NO_PROVIDER} (underlying: {error.message})")
            else:
                answer = failed("enqueue_error", str(error))
            if message.get("invocation_id") is not None:
                self._answer(worker, message, answer)

        self._calls.place(Invocation(ENQUEUE, data, stored))

    def _answer(self, worker: Worker, message: Message, outcome: InvocationOutcome) -> None:
        answer: Message = {
            "type": "invocationresult",
            "invocation_id": message.get("invocation_id") or str(uuid.uuid4()),
            "function_id": message["function_id"],
        }
        if outcome.error is not None:
            answer["error"] = outcome.error.as_dict()
        elif outcome.result is not None:
            answer["result"] = outcome.result
        for name in ("traceparent", "baggage"):
            if message.get(name) is not None:
                answer[name] = message[name]
        self._post.send(worker, answer)


class _Refusal:
    def __init__(self, code: str, message: str) -> None:
        self.error_code = code
        self.outcome = failed(code, message)


def _nobody_listens(_: InvocationOutcome) -> None:
    """A call without an id, or a Void call, is not answered."""
