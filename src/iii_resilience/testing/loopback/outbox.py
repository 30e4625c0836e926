"""Sends messages to workers, and records every frame and call of a run.

Knows nothing of what a message means or why it is sent.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Literal

import attrs

from iii_resilience.testing.loopback.history import Call, Frame
from iii_resilience.testing.loopback.registry import Worker
from iii_resilience.testing.loopback.wire import Message, encode


@attrs.frozen(eq=False)
class _Passed:
    worker: Worker
    direction: Literal["to-engine", "from-engine"]
    message: Any
    at: float
    dropped: str | None


@attrs.frozen(eq=False)
class _Called:
    worker: Worker
    message: Message
    at: float


class Outbox:
    """What passed through the engine, oldest first.

    Args:
        keep: How many frames, and how many calls, are remembered.
    """

    def __init__(self, keep: int) -> None:
        self._frames: deque[_Passed] = deque(maxlen=keep)
        self._calls: deque[_Called] = deque(maxlen=keep)

    def send(self, worker: Worker, message: Message, ticket: str | None = None) -> None:
        """Sends a message to a worker; to one that has gone: nothing."""
        if worker.gone or worker.link is None:
            return
        self._frames.append(_Passed(worker, "from-engine", message, time.time(), None))
        worker.link.send(encode(message), ticket)

    def received(self, worker: Worker, message: Any, dropped: str | None = None) -> None:
        """Remembers a frame from a worker."""
        self._frames.append(_Passed(worker, "to-engine", message, time.time(), dropped))

    def called(self, worker: Worker, message: Message) -> None:
        """Remembers a call that a worker made."""
        self._calls.append(_Called(worker, message, time.time()))

    def frames(self) -> tuple[Frame, ...]:
        """The frames that are remembered."""
        # Names are looked up now: a worker's first frames come in before it says its name.
        return tuple(
            Frame(passed.worker.label, passed.direction, passed.message, passed.at, passed.dropped)
            for passed in self._frames
        )

    def calls(self, function_id: str) -> tuple[Call, ...]:
        """The calls of one function that are remembered."""
        return tuple(
            _call(called) for called in self._calls if called.message["function_id"] == function_id
        )


def _call(called: _Called) -> Call:
    message = called.message
    action = message.get("action")
    return Call(
        function_id=message["function_id"],
        at=called.at,
        caller=called.worker.label,
        invocation_id=message.get("invocation_id"),
        action="call" if action is None else action["type"],
        queue=None if action is None else action.get("queue"),
        metadata=message.get("metadata"),
        data=message["data"],
        namespace=message.get("namespace"),
    )
