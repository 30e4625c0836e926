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
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from iii_resilience.errors import ConnectionLostError, NotConnectedError
from iii_resilience.eventloops import settle, substitute_loop, tell

T = TypeVar("T")

LOST = (
    "the connection to the engine was lost while the call was in flight: its answer will never "
    "come, and the function may have run"
)
UNSENT = "the connection was lost before the call; nothing was sent"
_ENDED = "this client was shut down; nothing was sent"
_STUCK = (
    "the call did not end within its timeout of {:.3g} s: the SDK could not send it (a blocked "
    "socket), or its event loop stands still; the function may have run"
)
# The SDK's own TIMEOUT says more than this file could: it gets the first word.
_SLACK = 0.25
# A call that reached the SDK's loop in its last moment is never answered.
_LOOK_AFTER_THE_LOOP = 1.0
_MOMENT = 0.001
_GONE = object()


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
        loop: Where the SDK's calls are at home; None for a loop on a thread of this library.
        dispatch: Makes the SDK's own coroutine of a request, on that loop.
        usable: Raises if the client has ended.
        may_cancel: Whether the SDK survives the cancellation of a call.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None,
        dispatch: Callable[..., Coroutine[Any, Any, Any]],
        usable: Callable[[], None],
        *,
        may_cancel: bool,
    ) -> None:
        self._own_loop = loop
        self._usable = usable
        self._dispatch = dispatch
        self._cancellable = dispatch if may_cancel else self._guarded
        # Whoever takes a flight out of its list ends it, and nobody else does.
        self._aboard: dict[_Flight, None] = {}
        self._inside: dict[_Flight, None] = {}  # what runs in this process needs no connection
        self._left: set[asyncio.Task[Any]] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop where the SDK's calls are at home."""
        return self._own_loop or substitute_loop()

    def __len__(self) -> int:
        return len(self._aboard)

    def lose(self) -> None:
        """The connection is gone: every call that is under way ends now."""
        while self._aboard:
            try:
                flight, _ = self._aboard.popitem()
            except KeyError:  # it landed in this very moment
                return
            if flight.departed:
                flight.land(None, ConnectionLostError(LOST))
                tell(self.loop, flight.cancel)
            else:  # and it will not
                flight.land(None, NotConnectedError(UNSENT) if flight.gate is None else Held())

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

        The SDK's own sync ``trigger`` does the same through futures, which cost it one more turn
        of its loop. This one also ends when the connection is lost, or when the SDK does not keep
        the call's timeout.

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
        flight = _Awaited(gate)
        crew = self._inside if local else self._aboard
        crew[flight] = None
        left = seconds + _SLACK
        try:
            self._hand_over(flight, crew, request)
            while not flight.landed.acquire(timeout=min(left, _LOOK_AFTER_THE_LOOP)):
                self._look_after(flight, crew)
                left = max(left - _LOOK_AFTER_THE_LOOP, _MOMENT)
                if left == _MOMENT and crew.pop(flight, _GONE) is None:  # else it lands just now
                    tell(self.loop, flight.cancel)
                    raise ConnectionLostError(_STUCK.format(seconds))
        finally:
            crew.pop(flight, None)
        error, flight.error = flight.error, None  # else they would hold each other
        if error is None:
            return flight.answer
        try:
            raise error
        finally:
            del error

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
        flight = _AwaitedAsync(gate, here, answer)
        crew = self._inside if local else self._aboard
        crew[flight] = None
        bound = here.call_later(seconds + _SLACK, flight.stuck, seconds)
        try:
            if here is self.loop:
                self._depart(flight, crew, request)
            else:
                # Before 0.25 the SDK only works on its own loop: elsewhere it sends the call and
                # then fails to wait for it (sdk-matrix, section 3).
                self._hand_over(flight, crew, request)
            return await answer
        finally:
            bound.cancel()
            if crew.pop(flight, _GONE) is None:  # the caller gave it up
                tell(self.loop, flight.cancel)

    def _hand_over(
        self, flight: _Flight, crew: dict[_Flight, None], request: dict[str, Any]
    ) -> None:
        try:
            self.loop.call_soon_threadsafe(self._depart, flight, crew, request)
        except RuntimeError:  # the loop was closed after the check
            raise NotConnectedError(_ENDED) from None

    def _depart(self, flight: _Flight, crew: dict[_Flight, None], request: dict[str, Any]) -> None:
        # Runs on the SDK's loop. In this order: `lose` first takes a flight out and then looks
        # whether it has departed, so that what it says of it is never less than the truth.
        flight.departed = True
        if flight in crew:
            flight.task = asyncio.get_running_loop().create_task(self._fly(flight, crew, request))

    async def _fly(
        self, flight: _Flight, crew: dict[_Flight, None], request: dict[str, Any]
    ) -> None:
        try:
            answer = await self._cancellable(request, local=crew is self._inside, gate=flight.gate)
        except asyncio.CancelledError:
            if crew.pop(flight, _GONE) is None:  # not by us: the SDK's own end
                flight.land(None, ConnectionLostError(LOST))
            raise
        except BaseException as error:
            if crew.pop(flight, _GONE) is None:
                flight.land(None, error)
            if not isinstance(error, Exception):
                raise
        else:
            if crew.pop(flight, _GONE) is None:
                flight.land(answer, None)

    def _look_after(self, flight: _Flight, crew: dict[_Flight, None]) -> None:
        try:
            self._usable()
        except Exception:
            crew.pop(flight, None)
            if flight.departed:  # what is true of the client is not true of this call
                raise ConnectionLostError(LOST) from None
            raise

    def run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run something on the SDK's loop.

        Raises:
            NotConnectedError: That loop has ended.
        """
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError:  # the loop was closed after the check
            work.close()
            raise NotConnectedError(_ENDED) from None

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
    """A call that somebody waits for.

    Attributes:
        gate: What is asked and told on the SDK's loop, or None.
        departed: Whether the SDK may have got it.
        task: The SDK's part of it, or None before.
    """

    __slots__ = ("departed", "gate", "task")

    def __init__(self, gate: Gate | None) -> None:
        self.gate = gate
        self.departed = False
        self.task: asyncio.Task[None] | None = None

    @abstractmethod
    def land(self, answer: Any, error: BaseException | None) -> None:
        """End the wait for it, from any thread; called once."""

    def cancel(self) -> None:
        """End the SDK's part too; runs on the SDK's loop, after its departure."""
        if self.task is not None:
            self.task.cancel()


class _Awaited(_Flight):
    """A call that a thread waits for."""

    __slots__ = ("answer", "error", "landed")

    def __init__(self, gate: Gate | None) -> None:
        super().__init__(gate)
        self.answer: Any = None
        self.error: BaseException | None = None
        self.landed = threading.Lock()
        self.landed.acquire()

    def land(self, answer: Any, error: BaseException | None) -> None:
        self.answer = answer
        self.error = error
        self.landed.release()


class _AwaitedAsync(_Flight):
    """A call that a coroutine waits for."""

    __slots__ = ("_answer", "_here")

    def __init__(
        self, gate: Gate | None, here: asyncio.AbstractEventLoop, answer: asyncio.Future[Any]
    ) -> None:
        super().__init__(gate)
        self._here = here
        self._answer = answer

    def land(self, answer: Any, error: BaseException | None) -> None:
        if asyncio._get_running_loop() is self._here:  # noqa: SLF001 - asyncio exports it
            settle(self._answer, answer, error)
        else:
            tell(self._here, settle, self._answer, answer, error)

    def stuck(self, seconds: float) -> None:
        settle(self._answer, None, ConnectionLostError(_STUCK.format(seconds)))
