"""One call in flight, and how the thread or coroutine that waits for it is woken.

Knows nothing of what is called, or of who removes a call from the pending ones.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque
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
    """A call that a coroutine waits for.

    Attributes:
        here: The event loop of that coroutine.
    """

    here: asyncio.AbstractEventLoop
    _future: asyncio.Future[Any] | None

    def settle(self, answer: Any, error: BaseException | None) -> None:
        """See `InFlightCall.settle`."""
        # The error's traceback holds frames that hold this object, which must not hold the error.
        future, self._future = self._future, None
        if future is None:
            return
        if asyncio._get_running_loop() is self.here:  # noqa: SLF001 - asyncio exports it
            settle(future, answer, error)
        else:
            call_soon(self.here, settle, future, answer, error)


Ended = tuple[InFlightCall, Any, BaseException | None]
"""A call that was removed from the pending ones, its answer, and its error."""


def wake_all(ended: deque[Ended]) -> None:
    """Settle calls; each once, however many threads do this at a time.

    Args:
        ended: The calls; it is emptied.
    """
    coroutines: dict[asyncio.AbstractEventLoop, deque[Ended]] = {}
    try:
        while ended:
            try:
                call, answer, error = ended.popleft()
            except IndexError:  # another thread has taken it in this very moment
                return
            if isinstance(call, AsyncCall):
                coroutines.setdefault(call.here, deque()).append((call, answer, error))
            else:
                call.settle(answer, error)
            del call, answer, error  # an error holds the frames below it
    finally:
        for loop, theirs in coroutines.items():
            call_soon(loop, _settle_all, loop, theirs)


def _settle_all(loop: asyncio.AbstractEventLoop, ended: deque[Ended]) -> None:
    """Settle calls of coroutines on their loop; what an interrupt leaves, in its next iteration."""
    try:
        while ended:
            call, answer, error = ended.popleft()
            call.settle(answer, error)
            del call, answer, error
    finally:
        if ended:
            loop.call_soon(_settle_all, loop, ended)
