"""Calls that were handed to the SDK: sent from any thread or loop, and ended when they must be.

The SDK ends a call when its answer comes or its timeout is over. It does not when the connection
is lost, nor when its socket takes no more bytes: then only this file does. Knows nothing of
policies, of what is called, or of how a connection is watched.
"""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from iii_resilience.errors import ConnectionLostError, NotConnectedError

T = TypeVar("T")

LOST = (
    "the connection to the engine was lost while the call was in flight: its answer will never "
    "come, and the function may have run"
)
_STUCK = (
    "the call did not end within its timeout of {:.3g} s: the SDK could not send it (a blocked "
    "socket), or its event loop stands still; the function may have run"
)
# The SDK's own TIMEOUT says more than this file could: it gets the first word.
_SLACK = 0.25
# A call that reached the SDK's loop in its last moment is never answered.
_LOOK_AFTER_THE_LOOP = 1.0


class Gate(Protocol):
    """What a call knows better than its connection; used on the SDK's loop only."""

    @abstractmethod
    def may_go(self) -> bool:
        """Whether it may be sent now."""

    @abstractmethod
    def met(self, error: Exception) -> None:
        """It has ended in this; its caller will know a moment later."""


class Held(Exception):  # noqa: N818 - control flow between a call and its gate, no error
    """Raised for a call that was not sent, because something has changed since it was let go."""


class Flights:
    """The calls of one client that have not ended.

    Args:
        loop: Where the SDK's calls are at home; asked anew for each call.
        dispatch: Makes the SDK's own coroutine of a request, on that loop.
        usable: Raises if the client has ended.
        may_cancel: Whether the SDK survives the cancellation of a call.
    """

    def __init__(
        self,
        loop: Callable[[], asyncio.AbstractEventLoop],
        dispatch: Callable[..., Coroutine[Any, Any, Any]],
        usable: Callable[[], None],
        *,
        may_cancel: bool,
    ) -> None:
        self._loop = loop
        self._dispatch = dispatch
        self._usable = usable
        self._cancellable = dispatch if may_cancel else self._guarded
        self._aboard: dict[_Flight | _AsyncFlight, None] = {}
        self._left: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._aboard)

    def lose(self) -> None:
        """The connection is gone: every call that is under way ends now."""
        while self._aboard:
            try:
                flight, _ = self._aboard.popitem()
            except KeyError:  # it landed in this very moment
                return
            flight.lost()

    async def abandon(self) -> None:
        """The client ends now: cancel what was left to the SDK to end by itself.

        Runs on the SDK's loop; after that loop's end these tasks would be complained of.
        """
        left = list(self._left)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def send(
        self,
        request: dict[str, Any],
        *,
        seconds: float,
        local: bool = False,
        gate: Gate | None = None,
    ) -> Any:
        """Hand a call to the SDK and wait for its answer, from any thread but the SDK's own.

        This is what the SDK's own sync ``trigger`` does, but for two things: when the connection
        is lost, or the SDK does not keep the call's timeout, the wait ends.

        Args:
            request: What the SDK takes.
            seconds: The call's timeout, which the SDK was told.
            local: Whether the SDK runs it in this process, connected or not.
            gate: What is asked and told on the SDK's loop, or None.

        Raises:
            Held: The gate did not let it go, or the connection went before; nothing was sent.
            NotConnectedError: The connection went before the call, which has no gate.
            ConnectionLostError: The connection was lost before the answer came, or the SDK could
                not send the call in time.
            Exception: Whatever the SDK raises.
        """
        # Everything is made ready before the SDK's thread wakes: whatever this thread does after
        # that makes the other one wait for the interpreter.
        flight = _Flight()
        left = seconds + _SLACK
        if not local:
            self._aboard[flight] = None
        try:
            task = self.run(self._cancellable(request, local=local, gate=gate))
            flight.departs(task)
            while True:
                try:
                    return task.result(min(left, _LOOK_AFTER_THE_LOOP))
                except TimeoutError:
                    if task.done():
                        raise  # it is the answer
                    self._usable()
                    left -= _LOOK_AFTER_THE_LOOP
                    if left <= 0:
                        task.cancel()
                        raise ConnectionLostError(_STUCK.format(seconds)) from None
        except CancelledError:
            raise ConnectionLostError(LOST) from None
        finally:
            self._aboard.pop(flight, None)

    async def send_async(
        self,
        request: dict[str, Any],
        *,
        seconds: float,
        local: bool = False,
        gate: Gate | None = None,
    ) -> Any:
        """As `send`, for coroutines on any event loop; a cancellation ends it at once."""
        here = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = here.create_future()
        flight = _AsyncFlight(here, answer)
        if not local:
            self._aboard[flight] = None
        bound = here.call_later(seconds + _SLACK, flight.stuck, seconds)
        task: Any = None
        try:
            if here is self._loop():
                task = here.create_task(self._cancellable(request, local=local, gate=gate))
                task.add_done_callback(flight.arrived)
            else:
                # Before 0.25 the SDK only works on its own loop: elsewhere it sends the call and
                # then fails to wait for it (sdk-matrix, section 3).
                task = self.run(self._cancellable(request, local=local, gate=gate))
                task.add_done_callback(flight.arrived_elsewhere)
            return await answer
        finally:
            bound.cancel()
            if task is not None and not task.done():
                task.cancel()
            self._aboard.pop(flight, None)

    def run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run something on the SDK's loop.

        Raises:
            NotConnectedError: That loop has ended.
        """
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop())
        except RuntimeError:  # the loop was closed after the check
            work.close()
            raise NotConnectedError("this client was shut down; nothing was sent") from None

    async def _guarded(self, request: dict[str, Any], *, local: bool, gate: Gate | None) -> Any:
        """The call, in a form that may be cancelled.

        Before 0.24.4 the SDK's part of it is left to end by itself: there a late answer to a
        cancelled call kills the client for good (sdk-matrix, section 0).
        """
        task = asyncio.ensure_future(self._dispatch(request, local=local, gate=gate))
        self._left.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may wait for it any longer: asyncio need not complain


class _Flight:
    """A call that a thread waits for."""

    __slots__ = ("_is_lost", "_task")

    def __init__(self) -> None:
        self._task: Future[Any] | None = None
        self._is_lost = False

    def departs(self, task: Future[Any]) -> None:
        self._task = task
        if self._is_lost:  # in the moment between being registered and being handed over
            task.cancel()

    def lost(self) -> None:
        self._is_lost = True
        if self._task is not None:
            self._task.cancel()


class _AsyncFlight:
    """A call that a coroutine waits for."""

    __slots__ = ("_answer", "_here")

    def __init__(self, here: asyncio.AbstractEventLoop, answer: asyncio.Future[Any]) -> None:
        self._here = here
        self._answer = answer

    def lost(self) -> None:
        tell(self._here, fail, self._answer, ConnectionLostError(LOST))

    def stuck(self, seconds: float) -> None:
        fail(self._answer, ConnectionLostError(_STUCK.format(seconds)))

    def arrived(self, task: Any) -> None:
        _copy(task, self._answer)

    def arrived_elsewhere(self, task: Any) -> None:
        tell(self._here, _copy, task, self._answer)


def tell(loop: asyncio.AbstractEventLoop, what: Callable[..., object], *arguments: Any) -> None:
    """Run something on an event loop, unless that loop has ended: then nobody listens."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(what, *arguments)


async def in_thread(work: Callable[[], None]) -> None:
    """Run what blocks on a thread of our own, and wait for it.

    Not in asyncio's default executor: that belongs to the user, and may be full.
    """
    here = asyncio.get_running_loop()
    done: asyncio.Future[None] = here.create_future()

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # handed to the waiting coroutine
            error = raised
        if error is None:
            tell(here, _succeed, done)
        else:
            tell(here, fail, done, error)

    threading.Thread(target=run, name="iii-resilience", daemon=True).start()
    await done


def _succeed(answer: asyncio.Future[None]) -> None:
    with suppress(InvalidStateError, asyncio.InvalidStateError):
        answer.set_result(None)


def fail(answer: asyncio.Future[Any], error: BaseException) -> None:
    """Fail a future that may have its answer already."""
    if not answer.done():
        answer.set_exception(error)


def _copy(done: Any, answer: asyncio.Future[Any]) -> None:
    if done.cancelled():
        fail(answer, ConnectionLostError(LOST))
        return
    error = done.exception()
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())
