"""Calls in flight: sends them from any thread or event loop, and settles each exactly once.

The SDK ends a call when its answer arrives or its timeout is over. It does not when the connection
is lost, nor when its socket blocks: this module ends it then. Knows nothing of policies, of what is
called, or of how a connection is watched.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from iii_resilience.core.errors import ConnectionLostError, NotConnectedError
from iii_resilience.sdk.event_loops import call_soon, substitute_loop
from iii_resilience.sdk.in_flight_call import AsyncCall, Ended, InFlightCall, SyncCall, wake_all
from iii_resilience.sdk.send_check import SendCheck, unsent

T = TypeVar("T")

LOST = (
    "the connection to the engine was lost while the call was in flight: its answer will never "
    "come, and the function may have run"
)
_SHUT_DOWN = (
    "the client was shut down while the call was in flight: its answer will never come, and the "
    "function may have run"
)
_STUCK = (
    "the call did not end within its timeout of {:.3g} s: the SDK could not send it (a blocked "
    "socket), or its event loop stands still; the function may have run"
)
_ENDED = "this client was shut down; nothing was sent"
_STANDS_STILL = (
    "the SDK's event loop did not take the call within its timeout of {:.3g} s: it is blocked "
    "or overloaded; nothing was sent"
)
# The SDK's own TIMEOUT says more than this file could: it gets the first word.
_SLACK = 0.25
# A thread does not notice that the SDK's loop has ended: it polls. For a coroutine, its own
# loop reports that the time is over.
_LOOK_AFTER_THE_LOOP = 1.0
_GONE = object()
_Pending = dict[InFlightCall, None]

AT_ONCE = 6
"""Calls that leave in one iteration of the loop; answers are read before the next ones leave."""
PART = 32
"""Of many that wait one in so many leaves: six at a time, a thousand would take 170 iterations."""
PACED = 30.0
"""Seconds after the loss of a worker or connection in which calls leave one at a time."""


class InFlightCalls:
    """The calls of one client that have not ended.

    Removing a call from the pending set transfers ownership: only the remover may settle it.

    Args:
        loop: Where the SDK's calls are at home; None for a loop on a thread of this library.
        look: Raises `SendRefused` or NotConnectedError where a call must not be sent now; called
            on that loop, in the step that sends it.
        call: The SDK's own ``trigger_async``.
        usable: Raises if the client has ended, and, unless the call is ``local``, if it
            has no connection any longer.
        may_cancel: Whether the SDK survives the cancellation of a call.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None,
        look: Callable[..., None],
        call: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]],
        usable: Callable[..., None],
        *,
        may_cancel: bool,
    ) -> None:
        self._own_loop = loop
        self._usable = usable
        self._look = look
        self._call = call
        self._may_cancel = may_cancel
        self._remote: _Pending = {}
        self._local: _Pending = {}  # what runs in this process needs no connection
        self._left: set[asyncio.Task[None]] = set()
        # With the context of the caller, in which the SDK finds the trace that a call belongs to.
        self._waiting: deque[tuple[InFlightCall, _Pending, dict[str, Any], contextvars.Context]] = (
            deque()
        )
        self._woken = False  # whether the loop is about to look at those that wait
        # Calls that have ended on the loop, and whose callers still sleep.
        self._ended: deque[Ended] = deque()
        self._paced_until = 0.0

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop where the SDK's calls are at home."""
        return self._own_loop or substitute_loop()

    def __len__(self) -> int:
        return len(self._remote) + len(self._local)

    def connection_lost(self) -> None:
        """The connection is gone: every call that needs it ends now."""
        self.pace()
        self._end(self._remote, LOST)

    def pace(self) -> None:
        """A worker or the connection has gone: for a while calls leave one at a time.

        A restart brings callers into step. When all of them leave in one iteration of the loop, all
        of them meet the next end of that worker before the first answer is read.
        """
        self._paced_until = time.monotonic() + PACED

    def end(self) -> None:
        """The client is gone: every call ends now."""
        self._end(self._remote, _SHUT_DOWN)
        self._end(self._local, _SHUT_DOWN)
        wake_all(self._ended)

    async def cancel_rest(self) -> None:
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
        send_check: SendCheck | None = None,
    ) -> Any:
        """Hand a call to the SDK and wait for its answer, from any thread but the SDK's own.

        The SDK's own sync ``trigger`` does the same through futures, which cost it one more turn
        of its loop. This one also ends when the connection is lost, or when the SDK does not keep
        the call's timeout.

        Args:
            request: What the SDK takes.
            seconds: The call's timeout, as the SDK has it.
            local: Whether the SDK runs it in this process, connected or not.
            send_check: What is consulted on the SDK's loop, or None.

        Raises:
            SendRefused: It was not sent: its send check or the connection has changed.
            NotConnectedError: It was not sent: the client has ended, the SDK's loop did not take
                it, or, without a send check, the connection was lost before.
            ConnectionLostError: The connection or the client went before the answer came, or the
                SDK could not send the call in time.
            Exception: Whatever the SDK raises.
        """
        pending_call = SyncCall(send_check)
        pending_call.settled.acquire()
        pending = self._local if local else self._remote
        left = seconds + _SLACK
        pending[pending_call] = None
        try:
            self._submit(pending_call, pending, request, None)
            while not pending_call.settled.acquire(timeout=min(left, _LOOK_AFTER_THE_LOOP)):
                left -= _LOOK_AFTER_THE_LOOP
                if left <= 0:
                    self._give_up(pending_call, pending, seconds)
                    break
                self._look_after(pending_call, pending)
        finally:
            if pending.pop(pending_call, _GONE) is None:  # the thread was interrupted
                call_soon(self.loop, self._drop, pending_call)
        error, pending_call.error = pending_call.error, None  # else they would hold each other
        if error is None:
            return pending_call.answer
        if send_check is not None and pending_call.failure is not None:
            send_check.classified.append(pending_call.failure)
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
        send_check: SendCheck | None = None,
    ) -> Any:
        """As `send`, for coroutines on any event loop; a cancellation ends it at once."""
        here = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = here.create_future()
        pending_call = AsyncCall(send_check, here, answer)
        pending = self._local if local else self._remote
        bound = here.call_later(seconds + _SLACK, self._out_of_time, pending_call, pending, seconds)
        pending[pending_call] = None
        try:
            # Before 0.25 the SDK only works on its own loop: elsewhere it sends the call and then
            # fails to wait for it (docs/engine-notes.md, 6).
            self._submit(pending_call, pending, request, here)
            return await answer
        except Exception:
            if send_check is not None and pending_call.failure is not None:
                send_check.classified.append(pending_call.failure)
            raise
        finally:
            bound.cancel()
            if pending.pop(pending_call, _GONE) is None:  # the caller gave it up
                call_soon(self.loop, self._drop, pending_call)
            del answer  # it holds the error that it ended in, and that one this frame

    def _submit(
        self,
        pending_call: InFlightCall,
        pending: _Pending,
        request: dict[str, Any],
        here: asyncio.AbstractEventLoop | None,
    ) -> None:
        """Have a call sent on the SDK's loop, in the context of its caller.

        Args:
            pending_call: The call.
            pending: Where it is pending.
            request: What the SDK takes.
            here: The loop that runs on this thread, or None.

        Raises:
            NotConnectedError: That loop has ended.
        """
        self._waiting.append((pending_call, pending, request, contextvars.copy_context()))
        if self._woken:  # to wake another thread's loop costs more than the rest of this
            return
        self._woken = True
        loop = self._own_loop or self.loop
        try:
            if here is loop:
                self._send_waiting()
            else:
                loop.call_soon_threadsafe(self._send_waiting)
        except RuntimeError:  # the loop was closed after the check
            self._woken = False
            self._waiting.clear()
            raise NotConnectedError(_ENDED) from None

    # On the SDK's loop.

    def _send_waiting(self) -> None:
        """Let as many calls leave as may in one iteration of the loop.

        If an answer reports that its worker is gone, the rest are held back.
        """
        waiting = self._waiting
        if not waiting and self._rests():
            return
        loop = asyncio.get_running_loop()
        paced = self._paced_until > time.monotonic()
        most = 1 if paced else max(AT_ONCE, len(waiting) // PART)
        for _ in range(min(len(waiting), most)):
            pending_call, pending, request, context = waiting.popleft()
            if pending_call in pending:
                sending = self._send_now(pending_call, pending, request)
                task = pending_call.task = loop.create_task(sending, context=context)
                if not self._may_cancel:
                    self._left.add(task)
                    task.add_done_callback(self._left.discard)
        # A call that is alone has no other behind it. While they are paced the next one waits for
        # the next iteration all the same.
        alone = not waiting and len(self._remote) + len(self._local) <= 1 < most
        if not (alone and self._rests()):
            loop.call_soon(self._send_waiting)

    def _rests(self) -> bool:
        """No longer look at what waits, unless something has come meanwhile.

        What comes later wakes the loop itself, or is sent at once.
        """
        self._woken = False
        if not self._waiting:
            return True
        self._woken = True
        return False

    async def _send_now(
        self, pending_call: InFlightCall, pending: _Pending, request: dict[str, Any]
    ) -> None:
        # In this order, and in the same step as the sending: the remover of a call reads
        # `sent` afterwards, so its error never claims less than the truth.
        pending_call.sent = True
        if pending_call not in pending:
            return
        send_check = pending_call.send_check
        try:
            self._look(request, local=pending is self._local, send_check=send_check)
            try:
                answer = await self._call(request)
            except Exception as error:
                if pending is self._local:
                    _show_own_cause(error)
                if send_check is not None:
                    pending_call.failure = send_check.classify(error)
                raise
        except BaseException as error:
            # A cancellation that is not ours is the SDK's own end.
            lost = isinstance(error, asyncio.CancelledError)
            if pending.pop(pending_call, _GONE) is None:
                self._settle(pending_call, None, ConnectionLostError(LOST) if lost else error)
            if not isinstance(error, Exception):
                raise
        else:
            if pending.pop(pending_call, _GONE) is None:
                self._settle(pending_call, answer, None)

    def _settle(self, pending_call: InFlightCall, answer: Any, error: BaseException | None) -> None:
        """End the wait for a call that was removed here.

        A thread that wakes takes the interpreter from this loop at its next read or write, and to
        wake another loop costs a write to its pipe. So all callers wake together, after what else
        this iteration of the loop has to do; one that is alone wakes at once, and so does a
        coroutine of this loop.
        """
        loop = asyncio.get_running_loop()
        alone = not (self._remote or self._local or self._ended)
        if alone or (isinstance(pending_call, AsyncCall) and pending_call.here is loop):
            pending_call.settle(answer, error)
        else:
            self._ended.append((pending_call, answer, error))
            if len(self._ended) == 1:
                loop.call_soon(wake_all, self._ended)

    def _drop(self, pending_call: InFlightCall) -> None:
        """The caller no longer waits: end the SDK's part of the call too.

        Before 0.24.4 that is left to end by itself: there a late answer to a cancelled call kills
        the client for good (docs/engine-notes.md, 6).
        """
        if pending_call.task is not None and self._may_cancel:
            pending_call.task.cancel()
        if self._waiting:  # its thread was interrupted, perhaps just before it woke this loop
            self._send_waiting()

    # On any thread, before its answer.

    def _end(self, pending: _Pending, why: str) -> None:
        while pending:
            try:
                pending_call, _ = pending.popitem()
            except KeyError:  # it was settled in this very moment
                return
            error = self._end_of(
                pending_call, ConnectionLostError(why), unsent(pending_call.send_check)
            )
            pending_call.settle(None, error)

    def _out_of_time(self, pending_call: InFlightCall, pending: _Pending, seconds: float) -> None:
        error = self._taken(pending_call, pending, *_stuck(seconds))
        if error is None:
            wake_all(self._ended)  # the SDK's loop may have stopped before it could
        else:
            pending_call.settle(None, error)

    def _give_up(self, pending_call: SyncCall, pending: _Pending, seconds: float) -> None:
        error = self._taken(pending_call, pending, *_stuck(seconds))
        if error is not None:
            raise error
        # It is being settled, unless its remover was interrupted before.
        wake_all(self._ended)
        if not pending_call.settled.acquire(timeout=_SLACK):
            raise ConnectionLostError(LOST)

    def _look_after(self, pending_call: InFlightCall, pending: _Pending) -> None:
        wake_all(self._ended)  # the loop may have stopped before it could
        try:
            self._usable(local=pending is self._local)
        except Exception as unusable:
            # What is true of the client need not be true of this call.
            error = self._taken(pending_call, pending, ConnectionLostError(LOST), unusable)
            if error is not None:
                raise error from None

    def _taken(
        self, pending_call: InFlightCall, pending: _Pending, sent: Exception, never_sent: Exception
    ) -> Exception | None:
        """Remove a call; its error, or None if another thread has removed it."""
        if pending.pop(pending_call, _GONE) is not None:
            return None
        return self._end_of(pending_call, sent, never_sent)

    def _end_of(
        self, pending_call: InFlightCall, sent: Exception, never_sent: Exception
    ) -> Exception:
        """The error for a call that was removed."""
        if not pending_call.sent:  # and it never will
            return never_sent
        call_soon(self.loop, self._drop, pending_call)
        return sent


def _stuck(seconds: float) -> tuple[Exception, Exception]:
    sent = ConnectionLostError(_STUCK.format(seconds))
    return sent, NotConnectedError(_STANDS_STILL.format(seconds))


def _show_own_cause(error: Exception) -> None:
    """The cause of a failed local dispatch is the handler's own exception, as the SDK documents.

    A hardened handler raises what may travel in its place, and keeps it as ``original``.
    """
    original = getattr(error.__cause__, "original", None)
    if isinstance(original, BaseException):
        error.__cause__ = original
