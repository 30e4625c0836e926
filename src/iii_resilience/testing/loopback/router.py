"""Routes calls: finds a call's target, returns its answer, and applies injected faults.

Knows nothing of connections, of registration, or of what the engine's own functions do.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs

from iii_resilience.testing.faults import (
    AnswerError,
    AnswerResult,
    CutCaller,
    CutTarget,
    Delay,
    Drop,
    DropAnswer,
    Fault,
    FaultPlan,
    RestartEngine,
)
from iii_resilience.testing.loopback.history import BuiltinError, InvocationOutcome, failed
from iii_resilience.testing.loopback.outbox import Outbox
from iii_resilience.testing.loopback.rbac import DEFAULT_NAMESPACE
from iii_resilience.testing.loopback.registry import BuiltinRequest, Function, Registry, Worker
from iii_resilience.testing.loopback.wire import Message

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
Reply = Callable[[InvocationOutcome], None]
STOPPED = failed("invocation_stopped", "Invocation stopped")


class Host(Protocol):
    """What calls need of the engine around them."""

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Runs an action after a delay."""

    def restart(self, down_for: float) -> None:
        """Restarts the engine."""


@attrs.define(eq=False)
class Invocation:
    """One call.

    Attributes:
        function_id: Its target.
        data: The payload.
        reply: Is called with the outcome, at most once.
        namespace: Where the target is looked for; None is the default namespace.
        metadata: What travels beside the payload, or None.
        traceparent: The caller's trace, or None.
        baggage: The caller's baggage, or None.
        caller: Who calls, or None for the engine itself.
        invocation_id: The id the caller gave it, or one of ours.
        target: Who is handling it, once that is known.
    """

    function_id: str
    data: Any
    reply: Reply
    namespace: str | None = None
    metadata: Any = None
    traceparent: str | None = None
    baggage: str | None = None
    caller: Worker | None = None
    invocation_id: str = attrs.field(factory=lambda: str(uuid.uuid4()))
    target: Worker | None = None


def with_function_id(baggage: str | None, function_id: str) -> str:
    """W3C baggage that names the function being called in place of the one that calls."""
    entries = [] if baggage is None else [entry.strip() for entry in baggage.split(",")]
    kept = [entry for entry in entries if entry and entry.split("=")[0] != "iii.function.id"]
    return ",".join([*kept, f"iii.function.id={function_id}"])


def not_found(registry: Registry, function_id: str, namespace: str | None) -> InvocationOutcome:
    """What a caller gets for a function that is not there."""
    spaces = registry.namespaces_of(function_id)
    hint = f" It is registered in namespace(s): {', '.join(spaces)}." if spaces else ""
    where = DEFAULT_NAMESPACE if namespace is None else namespace
    message = f"Function {function_id} not found in namespace {where}.{hint}"
    return failed("function_not_found", message)


class Router:
    """Every call that is waiting for its answer.

    Args:
        registry: Who owns what.
        post: Sends messages.
        faults: What goes wrong with which call.
        host: The engine around it.
    """

    def __init__(self, registry: Registry, post: Outbox, faults: FaultPlan, host: Host) -> None:
        self._registry = registry
        self._post = post
        self._faults = faults
        self._host = host
        self._open: dict[str, Invocation] = {}
        self._epoch = 0

    def clear(self) -> None:
        """Forgets all calls without a word, as an engine does that is killed."""
        self._open.clear()
        self._epoch += 1

    def place(self, call: Invocation, *, delivery: bool = False) -> None:
        """Makes a call that a planned fault may meet.

        Args:
            call: The call.
            delivery: Whether it is a delivery of a queue rather than a caller's call.
        """
        fault = self._faults.next_for(call.function_id, delivery=delivery)
        if fault is None:
            self.connect(call)
        elif getattr(fault, "after_execution", False) or isinstance(fault, DropAnswer):
            answer = call.reply
            call.reply = lambda _: self._strike(fault, call, answer)
            self.connect(call)
        elif isinstance(fault, Delay):
            epoch = self._epoch
            self._host.later(fault.seconds, lambda: self._resume(call, epoch))
        else:
            self._strike(fault, call, call.reply)

    def connect(self, call: Invocation) -> None:
        """Makes a call that no fault affects."""
        where = DEFAULT_NAMESPACE if call.namespace is None else call.namespace
        function = self._registry.function(call.function_id, where)
        if function is None:
            call.reply(self._missing(call, where))
        elif function.builtin is not None:
            call.reply(self._run(function, call))
        elif function.owner is not None:
            self._hand_over(call, function.owner)

    def answered(self, worker: Worker, message: Message) -> None:
        """A worker sent the result of a call; late ones and unknown ones go nowhere."""
        invocation_id: str = message["invocation_id"]
        worker.invocations.pop(invocation_id, None)
        call = self._open.get(invocation_id)
        if call is None:
            return
        error = message.get("error")
        if error is None:
            outcome = InvocationOutcome(message.get("result"))
        else:
            outcome = failed(error["code"], error["message"], error.get("stacktrace"))
        self._finish(call, outcome)

    def left(self, worker: Worker) -> None:
        """A worker has gone: what it was handling ends, what it was waiting for is forgotten."""
        unaccepted = worker.link.unaccepted() if worker.link is not None else frozenset()
        # The engine's order is arbitrary; the recorded one was the latest call first.
        for invocation_id in reversed(tuple(worker.invocations)):
            call = self._open.get(invocation_id)
            if call is None:
                continue
            if invocation_id in unaccepted and call.target is worker:
                self._finish(call, failed("channel_send_failed", "channel closed"))
            else:
                self._finish(call, STOPPED)
        worker.invocations.clear()

    def _resume(self, call: Invocation, epoch: int) -> None:
        if epoch == self._epoch and (call.caller is None or not call.caller.gone):
            self.connect(call)

    def _missing(self, call: Invocation, where: str) -> InvocationOutcome:
        if call.caller is None:
            # The engine's own calls are refused in fewer words (observed on engine 0.23).
            message = f"Function {call.function_id} not found in namespace {where}"
            return failed("function_not_found", message)
        return not_found(self._registry, call.function_id, call.namespace)

    def _run(self, function: Function, call: Invocation) -> InvocationOutcome:
        if function.builtin is None:
            raise AssertionError(function.function_id)
        try:
            return InvocationOutcome(
                function.builtin(BuiltinRequest(call.function_id, call.data, call.caller))
            )
        except BuiltinError as error:
            return failed(error.code, error.message)

    def _hand_over(self, call: Invocation, target: Worker) -> None:
        call.target = target
        older = self._open.get(call.invocation_id)
        self._open[call.invocation_id] = call
        target.invocations[call.invocation_id] = None
        if call.caller is not None:
            call.caller.invocations[call.invocation_id] = None
        if older is not None:
            # The engine knows a call by its id alone: the older one of two is never heard of again.
            older.reply(failed("invocation_error", "channel closed"))
        function_id = call.function_id
        prefix = target.session.prefix if target.session is not None else None
        if prefix is not None:
            function_id = function_id.removeprefix(f"{prefix}::")
        message: Message = {
            "type": "invokefunction",
            "invocation_id": call.invocation_id,
            "function_id": function_id,
            "data": call.data,
        }
        if call.metadata is not None:
            message["metadata"] = call.metadata
        if call.traceparent is not None and _TRACEPARENT.fullmatch(call.traceparent):
            message["traceparent"] = call.traceparent
        if call.traceparent is not None or call.baggage is not None:
            message["baggage"] = with_function_id(call.baggage, call.function_id)
        self._post.send(target, message, call.invocation_id)

    def _finish(self, call: Invocation, outcome: InvocationOutcome) -> None:
        del self._open[call.invocation_id]
        for worker in (call.caller, call.target):
            if worker is not None:
                worker.invocations.pop(call.invocation_id, None)
        call.reply(outcome)

    def _strike(self, fault: Fault, call: Invocation, answer: Reply) -> None:
        if isinstance(fault, AnswerError):
            answer(failed(fault.code, fault.message, fault.stacktrace))
        elif isinstance(fault, AnswerResult):
            answer(InvocationOutcome(fault.value))
        elif isinstance(fault, CutCaller):
            if call.caller is not None and call.caller.link is not None:
                call.caller.link.reset()
        elif isinstance(fault, CutTarget):
            self._cut_target(call, answer)
        elif isinstance(fault, RestartEngine):
            self._host.restart(fault.down_for)
        elif not isinstance(fault, (Drop, DropAnswer)):
            raise TypeError(f"no way to carry out {fault!r}")

    def _cut_target(self, call: Invocation, answer: Reply) -> None:
        where = DEFAULT_NAMESPACE if call.namespace is None else call.namespace
        function = self._registry.function(call.function_id, where)
        target = function.owner if function is not None else None
        if target is None or target.link is None:
            self.connect(attrs.evolve(call, reply=answer))
            return
        target.link.reset()
        answer(STOPPED)
