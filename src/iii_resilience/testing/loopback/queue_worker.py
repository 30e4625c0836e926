"""The queue worker that `Enqueue` needs, built in: delivers, retries, and dead-letters.

It imitates the standalone queue worker 0.21 on engine 0.23 (docs/engine-notes.md, 9). As a worker
of its own it survives a restart of the engine, and so do its messages; a delivery in flight then
stays stuck until its timeout. Knows nothing of connections.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from iii_resilience.testing.loopback.configuration import Configuration
from iii_resilience.testing.loopback.engine_core import Engine
from iii_resilience.testing.loopback.history import BuiltinError, InvocationOutcome
from iii_resilience.testing.loopback.invocations import ENQUEUE
from iii_resilience.testing.loopback.queue import (
    BrokerQueue,
    MessageState,
    QueueConfig,
    QueuedMessage,
    Refusal,
)
from iii_resilience.testing.loopback.rbac import DEFAULT_NAMESPACE
from iii_resilience.testing.loopback.registry import Builtin, BuiltinRequest, Worker
from iii_resilience.testing.loopback.router import Host, Invocation

#: The configuration entry in which the definitions of queues stand.
ENTRY: Final = "queue"
# Seen: 10 to 25 ms between a function's registration and the first delivery to it.
_NOTICE_SECONDS: Final = 0.01
_PAGE: Final = 50


class QueueWorker:
    """The queues of one engine; used on its thread only.

    Args:
        engine: Where it registers its functions and makes its calls.
        host: Runs its timers.
        configuration: Where it keeps its definitions.
        changed: Is called whenever a message has moved.
    """

    def __init__(
        self,
        engine: Engine,
        host: Host,
        configuration: Configuration,
        changed: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._host = host
        self._configuration = configuration
        self._changed = changed
        self._queues: dict[str, BrokerQueue] = {}
        self._worker: Worker | None = None

    def connect(self) -> None:
        """The engine is there: registers everything, goes on with what was waiting."""
        self._worker = self._engine.join("queue")
        for function_id, builtin in self._builtins().items():
            self._engine.add_builtin(function_id, _in_its_words(builtin), self._worker)
        self._configuration.provide(ENTRY, "Queue worker", self._settings(), self._reconfigured)
        for queue in self._queues.values():
            for message in tuple(queue.messages):
                self._rearm(queue, message)
            self._pump(queue)

    def disconnect(self) -> None:
        """The engine is gone; what was in flight is stuck."""
        self._worker = None

    def kill(self) -> None:
        """The queue worker's process ends; its file stays.

        What it had in flight is delivered again when it is back, without an attempt counted,
        beside the handlers that run by then; what waits for a retry goes on waiting, but a fifo
        queue forgets how often it has tried.
        """
        worker, self._worker = self._worker, None
        if worker is None:
            return
        for queue in self._queues.values():
            for message in queue.messages:
                if message.standing is MessageState.BACKOFF:
                    message.turn += 1  # the timer is gone; when it is due stays
                else:
                    message.move(MessageState.READY)
                if queue.config.type == "fifo":
                    message.attempts = 0
        self._engine.leave(worker)

    def queue(self, name: str) -> BrokerQueue:
        """The queue of this name.

        Raises:
            ValueError: It is not defined.
        """
        queue = self._queues.get(name)
        if queue is None:
            raise ValueError(f"queue {name!r} is not defined, only {sorted(self._queues)}")
        return queue

    def define(self, name: str, config: QueueConfig) -> bool:
        """Defines a queue or changes it; returns whether that changed anything.

        What a queue that changes has in flight is delivered again at once, beside the handlers
        that run; the other queues go on.
        """
        name = name.strip()
        queue = self._queues.get(name)
        if queue is not None and queue.defined and queue.config == config:
            return False
        if queue is None:
            self._queues[name] = BrokerQueue(name, config)
        else:
            queue.config, queue.defined = config, True
            self._deliver_again(queue)
        if self._worker is not None:
            self._configuration.provide(ENTRY, "Queue worker", self._settings(), self._reconfigured)
        return True

    def registrations_changed(self) -> None:
        """A function may have come for which a message waits."""
        for queue in self._queues.values():
            for message in queue.messages:
                if message.standing is MessageState.WAITING and self._present(message):
                    self._later(_NOTICE_SECONDS, message, partial(self._start, queue, message))

    # Its functions.

    def _builtins(self) -> dict[str, Builtin]:
        return {
            ENQUEUE: self._enqueue,
            "queue::define": self._define,
            "iii::queue::redrive": self._redrive,
            "iii::queue::redrive_message": self._redrive_message,
            "iii::queue::discard_message": self._discard_message,
            "engine::queue::list_topics": self._list_topics,
            "engine::queue::topic_stats": self._topic_stats,
            "engine::queue::dlq_topics": self._dlq_topics,
            "engine::queue::dlq_messages": self._dlq_messages,
        }

    def _enqueue(self, request: BuiltinRequest) -> dict[str, str]:
        data = request.data
        name = _named(data, "queue").strip()
        if not name:
            raise ValueError("queue is required")
        queue = self._queues.get(name)
        if queue is None or not queue.defined:
            text = f"queue '{name}' is not defined; call queue::define before enqueueing"
            raise ValueError(text)
        if "data" not in data:
            raise _Unreadable("missing field `data`")
        message = QueuedMessage(
            receipt=_named(data, "messageReceiptId"),
            function_id=_named(data, "function_id"),
            data=data["data"],
            namespace=data.get("namespace"),
            traceparent=data.get("traceparent"),
            baggage=data.get("baggage"),
            max_retries=queue.config.max_retries,
            backoff_ms=queue.config.backoff_ms,
        )
        queue.messages.append(message)
        # The receipt goes out before the delivery does.
        self._host.later(0, lambda: self._pump(queue))
        return {"messageReceiptId": message.receipt}

    def _define(self, request: BuiltinRequest) -> dict[str, Any]:
        name = _named(request.data, "queue").strip()
        known = ("queue", "config", "_caller_worker_id")
        for field in request.data:
            if field not in known:
                expected = ", ".join(f"`{one}`" for one in known)
                raise _Unreadable(f"unknown field `{field}`, expected one of {expected}")
        try:
            config = QueueConfig.read(request.data.get("config"))
        except Refusal as refusal:
            raise ValueError(f"queue '{name}' {refusal}") from None
        except (TypeError, ValueError) as error:
            raise _Unreadable(str(error)) from None
        if not name:
            raise ValueError("queue name is required")
        return {"queue": name, "changed": self.define(name, config)}

    def _redrive(self, request: BuiltinRequest) -> dict[str, Any]:
        name = _filled(_named(request.data, "queue", "topic"), "Queue name")
        queue = self._queues.get(name)
        letters = [] if queue is None else list(queue.dead)
        redriven = sum(queue.revive(letter) for letter in letters) if queue is not None else 0
        if queue is not None:
            self._pump(queue)
        return {"queue": name, "redriven": redriven}

    def _redrive_message(self, request: BuiltinRequest) -> dict[str, Any]:
        name, letter = _one_letter(request)
        queue = self._queues.get(name)
        redriven = queue is not None and queue.revive(letter)
        if queue is not None:
            self._pump(queue)
        return {"message_id": letter, "queue": name, "redriven": int(redriven)}

    def _discard_message(self, request: BuiltinRequest) -> dict[str, Any]:
        name, letter = _one_letter(request)
        queue = self._queues.get(name)
        gone = queue is not None and queue.dead.pop(letter, None) is not None
        return {"message_id": letter, "queue": name, "redriven": int(gone)}

    def _list_topics(self, _: BuiltinRequest) -> list[dict[str, Any]]:
        return [
            {"name": name, "broker_type": "builtin", "subscriber_count": 0}
            for name, queue in sorted(self._queues.items())
            if queue.defined
        ]

    def _topic_stats(self, request: BuiltinRequest) -> dict[str, Any]:
        queue = self._queues.get(_filled(_named(request.data, "topic", "queue"), "topic"))
        return {
            "config": None,
            "consumer_count": 0,
            "delivered": 0 if queue is None else queue.delivered,
            "depth": 0 if queue is None else queue.depth,
            "dlq_depth": 0 if queue is None else len(queue.dead),
            "failed": 0 if queue is None else queue.failed,
        }

    def _dlq_topics(self, _: BuiltinRequest) -> list[dict[str, Any]]:
        return [
            {"broker_type": "builtin", "message_count": len(queue.dead), "topic": name}
            for name, queue in sorted(self._queues.items())
            if queue.defined and queue.dead
        ]

    def _dlq_messages(self, request: BuiltinRequest) -> list[dict[str, Any]]:
        queue = self._queues.get(_filled(_named(request.data, "topic", "queue"), "topic"))
        offset = _page_number(request.data, "offset", 0)
        limit = _page_number(request.data, "limit", _PAGE)
        letters = [] if queue is None else [record for record, _ in queue.dead.values()]
        return letters[offset : offset + limit]

    # Deliveries.

    def _settings(self) -> dict[str, Any]:
        configs = {
            name: queue.config.as_dict()
            for name, queue in sorted(self._queues.items())
            if queue.defined
        }
        return {"adapter": {"name": "builtin"}, "queue_configs": configs}

    def _reconfigured(self, value: Any) -> None:
        """Takes new settings; where they change anything, every queue delivers again."""
        configs = value.get("queue_configs") if isinstance(value, dict) else None
        try:
            read = {
                name: QueueConfig.read(settings)
                for name, settings in (configs if isinstance(configs, dict) else {}).items()
            }
        except Refusal:
            return  # its schema lets this through: it says so in its log and goes on as before
        except (TypeError, ValueError) as error:
            message = f"schema validation failed: {error}"
            raise BuiltinError("SCHEMA_INVALID", message) from None
        if read == {name: q.config for name, q in self._queues.items() if q.defined}:
            return
        for name, config in read.items():
            queue = self._queues.setdefault(name, BrokerQueue(name, config))
            queue.config = config
        for name, queue in self._queues.items():
            queue.defined = name in read
            self._deliver_again(queue)

    def _deliver_again(self, queue: BrokerQueue) -> None:
        for message in tuple(queue.messages):
            if message.standing is MessageState.RUNNING:
                message.move(MessageState.READY)
            elif message.standing is MessageState.WAITING:
                self._start(queue, message)  # its function may have come while it was not defined
        self._pump(queue)

    def _rearm(self, queue: BrokerQueue, message: QueuedMessage) -> None:
        left = max(0.0, message.due - time.monotonic())
        if message.standing is MessageState.BACKOFF:
            self._later(left, message, lambda: self._retry(queue, message))
        elif message.standing is MessageState.RUNNING:
            if queue.config.redeliver_on_engine_restart:
                message.move(MessageState.READY)
            else:
                self._later(left, message, lambda: self._fail(queue, message))

    def _pump(self, queue: BrokerQueue) -> None:
        while self._worker is not None and queue.defined:
            message = queue.next_ready()
            if message is None:
                break
            if not queue.deliverable(message):
                self._fail(queue, message)
                continue
            message.move(MessageState.WAITING)
            self._start(queue, message)
        self._changed()

    def _start(self, queue: BrokerQueue, message: QueuedMessage) -> None:
        if self._worker is None or not queue.defined or not self._present(message):
            return
        timeout = queue.config.timeout_ms / 1000
        turn = message.move(MessageState.RUNNING, timeout)
        self._later(timeout, message, lambda: self._fail(queue, message))

        def answered(outcome: InvocationOutcome) -> None:
            # The answer of a delivery that was given up, or made again meanwhile, counts nothing.
            if message.turn != turn:
                return
            if outcome.error is None:
                queue.delivered += 1
                queue.messages.remove(message)
                message.turn += 1
                self._host.later(0, lambda: self._pump(queue))
            else:
                self._fail(queue, message)

        data = message.data
        if isinstance(data, dict):
            data = {**data, "_caller_worker_id": self._worker.worker_id}
        call = Invocation(
            message.function_id,
            data,
            answered,
            namespace=message.namespace,
            traceparent=message.traceparent,
            baggage=None if message.traceparent is None else message.baggage,
            caller=self._worker,
        )
        self._engine.calls.place(call, delivery=True)

    def _fail(self, queue: BrokerQueue, message: QueuedMessage) -> None:
        message.attempts += 1
        if message.attempts > queue.config.max_retries:
            message.turn += 1
            queue.bury(message)
        else:
            delay = message.backoff_ms * 2 ** (message.attempts - 1) / 1000
            message.move(MessageState.BACKOFF, delay)
            self._later(delay, message, lambda: self._retry(queue, message))
        self._host.later(0, lambda: self._pump(queue))

    def _retry(self, queue: BrokerQueue, message: QueuedMessage) -> None:
        message.move(MessageState.READY)
        self._pump(queue)

    def _present(self, message: QueuedMessage) -> bool:
        where = message.namespace or DEFAULT_NAMESPACE
        return self._engine.registry.function(message.function_id, where) is not None

    def _later(self, seconds: float, message: QueuedMessage, action: Callable[[], None]) -> None:
        turn = message.turn

        def act() -> None:
            if message.turn == turn:
                action()

        self._host.later(seconds, act)


def _named(data: Any, *names: str) -> str:
    for name in names:
        value = data.get(name) if isinstance(data, dict) else None
        if value is not None:
            if not isinstance(value, str):
                raise _Unreadable(f"invalid type in `{name}`, expected a string")
            return value
    raise _Unreadable(f"missing field `{names[0]}`")


def _filled(value: str, what: str) -> str:
    if not value:
        raise ValueError(f"{what} is required")
    return value


def _one_letter(request: BuiltinRequest) -> tuple[str, str]:
    name, letter = _named(request.data, "queue", "topic"), _named(request.data, "message_id")
    return _filled(name, "Queue name"), _filled(letter, "Message ID")


def _page_number(data: dict[str, Any], name: str, default: int) -> int:
    value = data.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _Unreadable(f"invalid value in `{name}`, expected a number from 0 on")
    return value


class _Unreadable(Exception):  # noqa: N818 - a request that is not of the function's form
    pass


def _in_its_words(builtin: Builtin) -> Builtin:
    """Errors as the queue worker reports them."""

    def run(request: BuiltinRequest) -> Any:
        try:
            return builtin(request)
        except (_Unreadable, TypeError) as error:
            raise BuiltinError("invocation_failed", f"serialization error: {error}") from None
        except ValueError as error:
            raise BuiltinError("invocation_failed", f"handler error: {error}") from None

    return run
