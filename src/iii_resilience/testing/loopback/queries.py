"""Queries of tests about an engine: what has happened, what exists, and waits for both.

Knows nothing of ports or faults.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from iii_resilience.core.validators import Number, Text
from iii_resilience.testing.faults import SECONDS
from iii_resilience.testing.loopback.conditions import Conditions
from iii_resilience.testing.loopback.history import Call, Frame
from iii_resilience.testing.loopback.loop_thread import LoopThread
from iii_resilience.testing.loopback.queue import QueueConfig
from iii_resilience.testing.loopback.rbac import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from iii_resilience.testing.loopback.engine_core import Engine
    from iii_resilience.testing.loopback.queue_worker import QueueWorker


class Queries:
    """The questions; `LoopbackEngine` answers them.

    Args:
        thread: The engine's thread.
        watchers: Who waits for something.
        engine: The engine.
        queue_worker: Its queue worker, or None.
    """

    def __init__(
        self,
        thread: LoopThread,
        watchers: Conditions,
        engine: Engine,
        queue_worker: QueueWorker | None,
    ) -> None:
        self._thread = thread
        self._watchers = watchers
        self._engine = engine
        self._queue_worker = queue_worker

    # What has happened.

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The frames that passed, oldest first."""
        return self._thread.call(self._engine.post.frames)

    def calls(self, function_id: str) -> tuple[Call, ...]:
        """The ``invokefunction`` frames the engine received for one function, oldest first."""
        return self._thread.call(lambda: self._engine.post.calls(function_id))

    def workers(self) -> tuple[str, ...]:
        """The names of the workers that are connected, in order of arrival."""
        return self._thread.call(self._names)

    def registered(self, function_id: str, namespace: str = DEFAULT_NAMESPACE) -> bool:
        """Whether a function is registered."""
        return self._thread.call(lambda: self._has(function_id, namespace))

    # Queues.

    def define_queue(self, name: str, **settings: Any) -> None:
        """Defines a queue, as calling ``queue::define`` does.

        Args:
            name: Its name.
            **settings: ``max_retries`` = 3 (after the first delivery), ``concurrency`` = 10,
                ``timeout_ms`` = 1 800 000, ``type`` = ``standard`` or ``fifo``,
                ``message_group_field``, ``backoff_ms`` = 1000, ``poll_interval_ms`` = 100,
                ``redeliver_on_engine_restart`` = False.

        Raises:
            TypeError: A value of a wrong type.
            ValueError: An unknown setting, or a value that is not allowed.
            RuntimeError: The engine has no queue worker.
        """
        Text("the name of a queue").require("name", name)
        config = QueueConfig.read(settings)
        queues = self._queues()
        self._thread.call(lambda: queues.define(name, config))

    def queue_depth(self, name: str) -> int:
        """Messages that are ready or wait for a retry; not those in delivery.

        As ``engine::queue::topic_stats`` counts: a message that waits for its function holds a
        slot of the queue and is not counted.

        Raises:
            ValueError: The queue is not defined.
        """
        queues = self._queues()
        return self._thread.call(lambda: queues.queue(name).depth)

    def dead_letters(self, name: str) -> tuple[dict[str, Any], ...]:
        """The dead letters of a queue, oldest first, as ``engine::queue::dlq_messages`` lists them.

        Raises:
            ValueError: The queue is not defined.
        """
        queues = self._queues()

        def records() -> tuple[dict[str, Any], ...]:
            return tuple(copy.deepcopy(record) for record, _ in queues.queue(name).dead.values())

        return self._thread.call(records)

    def wait_queue_idle(self, name: str, timeout: float = 10.0) -> None:
        """Waits until every message of a queue was delivered or has become a dead letter.

        Args:
            name: The queue.
            timeout: How long to wait, in seconds.

        Raises:
            TimeoutError: Says where the messages stand.
            ValueError: The queue is not defined.
        """
        queues = self._queues()
        SECONDS.require("timeout", timeout)
        queue = self._thread.call(lambda: queues.queue(name))

        def complaint() -> str:
            standing = Counter(message.standing.value for message in queue.messages)
            return f"queue {name!r} still holds {dict(standing)}"

        self._watchers.wait(timeout, lambda: not queue.messages, complaint)

    # Waiting.

    def wait_registered(
        self, *function_ids: str, timeout: float = 10.0, namespace: str = DEFAULT_NAMESPACE
    ) -> None:
        """Waits until functions are registered.

        Args:
            *function_ids: Their ids.
            timeout: How long to wait, in seconds.
            namespace: Where they are looked for.

        Raises:
            TimeoutError: Names what is missing.
        """
        if not function_ids:
            raise ValueError("name at least one function")
        self._wait_for_all(
            function_ids, lambda name: self._has(name, namespace), "not registered", timeout
        )

    def wait_workers(self, *names: str, timeout: float = 10.0) -> None:
        """Waits until workers of these names are connected.

        Raises:
            TimeoutError: Names what is missing.
        """
        if not names:
            raise ValueError("name at least one worker")
        self._wait_for_all(names, lambda name: name in self._names(), "not connected", timeout)

    def wait_calls(self, function_id: str, count: int = 1, timeout: float = 10.0) -> None:
        """Waits until the engine has received so many calls of a function.

        Raises:
            TimeoutError: Says how many there were.
        """
        Number(least=1, integer=True).require("count", count)
        SECONDS.require("timeout", timeout)

        def received() -> int:
            return len(self._engine.post.calls(function_id))

        self._watchers.wait(
            timeout,
            lambda: received() >= count,
            lambda: f"{received()} of {count} calls of {function_id} received",
        )

    def _wait_for_all(
        self, names: Sequence[str], is_there: Callable[[str], bool], complaint: str, timeout: float
    ) -> None:
        SECONDS.require("timeout", timeout)

        def missing() -> list[str]:
            return [name for name in names if not is_there(name)]

        self._watchers.wait(timeout, lambda: not missing(), lambda: f"{complaint}: {missing()}")

    def _queues(self) -> QueueWorker:
        if self._queue_worker is None:
            raise RuntimeError("this engine has no queue worker: LoopbackEngine(queue_worker=True)")
        return self._queue_worker

    def _has(self, function_id: str, namespace: str) -> bool:
        return self._engine.registry.function(function_id, namespace) is not None

    def _names(self) -> tuple[str, ...]:
        workers = self._engine.registry.workers()
        # The queue worker in the engine has no connection.
        return tuple(
            worker.name for worker in workers if worker.name is not None and worker.link is not None
        )
