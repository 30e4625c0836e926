"""One call in flight, and how the thread or coroutine that waits for it is woken.

Knows nothing of what is called, or of who removes a call from the pending ones.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from typing import Any

import attrs

from iii_resilience.core.failure import Failure
from iii_resilience.sdk.event_loops import call_soon, settle
from iii_resilience.sdk.send_check import SendCheck


@attrs.define(eq=False)
class InFlightCall(ABC):
    """A call that a thread or coroutine waits for.

    Attributes:
        send_check: What is consulted on the SDK's loop, or None.
        sent: Whether the SDK may have got it.
        task: The SDK's part of it, or None before.
        failure: What the SDK raised, classified; None before, and without a check.
    """

    send_check: SendCheck | None
    sent: bool = attrs.field(default=False, init=False)
    task: asyncio.Task[None] | None = attrs.field(default=None, init=False)
    failure: Failure | None = attrs.field(default=None, init=False)

    @abstractmethod
    def settle(self, answer: Any, error: BaseException | None) -> None:
        """End the wait for it, from any thread; called by what removed it from the pending set."""


@attrs.define(eq=False)
class SyncCall(InFlightCall):
    """A call that a thread waits for.

    Attributes:
        settled: Held until the call is settled.
    """

    answer: Any = attrs.field(default=None, init=False)
    error: BaseException | None = attrs.field(default=None, init=False)
    settled: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def settle(self, answer: Any, error: BaseException | None) -> None:
        """See `InFlightCall.settle`."""
        self.answer = answer
        self.error = error
        self.settled.release()


@attrs.define(eq=False)
class AsyncCall(InFlightCall):
    """A call that a coroutine waits for."""

    _here: asyncio.AbstractEventLoop
    _future: asyncio.Future[Any] | None

    def settle(self, answer: Any, error: BaseException | None) -> None:
        """See `InFlightCall.settle`."""
        # The error's traceback holds frames that hold this object, which must not hold the error.
        future, self._future = self._future, None
        if future is None:
            return
        if asyncio._get_running_loop() is self._here:  # noqa: SLF001 - asyncio exports it
            settle(future, answer, error)
        else:
            call_soon(self._here, settle, future, answer, error)
