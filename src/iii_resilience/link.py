"""One client of the iii SDK: whether it is connected, since when, and one question to the engine.

Knows nothing of policies or retries. Works with every SDK from 0.11.3 on by looking at what the
client can do, never by importing ``iii``.

The SDK never fails a call whose connection is lost, queues calls made while disconnected and runs
them later, and hangs after ``shutdown()`` (sdk-matrix, section 0). So this file tells its users
when the connection comes and goes, and refuses to be used after the end.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import attrs

from iii_resilience.errors import ConnectionLostError, NotConnectedError
from iii_resilience.waiters import Waiters

T = TypeVar("T")

QUESTION = "engine::functions::info"
_QUESTION_TIMEOUT_MS = 1000
_POLL = 0.02
# A call that reached the SDK's loop in its last moment is never answered.
_LOOK_AFTER_THE_LOOP = 1.0

_LOST = (
    "the connection to the engine was lost while the call was in flight: its answer will never "
    "come, and the function may have run"
)


_ENDED = "the client was shut down while the call waited; nothing more was sent"


_CANCELS_SAFELY = (0, 24, 4)


@cache
def sdk_version() -> tuple[int, ...]:
    """The installed SDK's version, or (0,) where there is none to be found."""
    try:
        return tuple(int(part) for part in version("iii-sdk").split(".")[:3])
    except (PackageNotFoundError, ValueError):
        return (0,)


@attrs.frozen
class Presence:
    """The engine's answer to the question for one function.

    Attributes:
        there: Whether a call would reach it (or be answered FORBIDDEN).
        owner: Name of the worker that owns it, or None.
    """

    there: bool
    owner: str | None = None


class Link:
    """What is known of one SDK client's connection.

    Args:
        client: What ``iii.register_worker`` returned.

    Raises:
        TypeError: The object is no client of the SDK.
    """

    def __init__(self, client: Any) -> None:
        for needed in ("trigger", "get_connection_state", "shutdown"):
            if not callable(getattr(client, needed, None)):
                raise TypeError(
                    f"resilient() takes what iii.register_worker() returned, got {client!r}, "
                    f"which has no {needed}()"
                )
        self.client = client
        self.closed = False
        self.epoch = 0
        self._losses = 0
        self.connections = Waiters()
        self._pauses = Waiters()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._tickets = itertools.count()
        self._flying: dict[int, Callable[[], object]] = {}
        self._on_change: list[Callable[[], None]] = []
        self._tasks: set[Future[None]] = set()
        self._was_connected = self.connected
        subscribe = getattr(client, "add_connection_state_listener", None)
        self._listens = callable(subscribe)
        self._may_cancel = sdk_version() >= _CANCELS_SAFELY
        if callable(subscribe):
            subscribe(self._state_changed)

    # The connection.

    @property
    def connected(self) -> bool:
        """Whether a call handed to the SDK now would be sent now.

        The state alone is no proof: the SDK learns a moment late that its socket is closing, and
        before 0.24.4 a clean close leaves it "connected" for good (sdk-matrix, section 0).
        """
        if self.client.get_connection_state() != "connected":
            return False
        socket = getattr(getattr(self.client, "_ws", None), "state", None)
        return getattr(socket, "name", "OPEN") == "OPEN"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The SDK's own event loop, where its calls are at home."""
        loop: asyncio.AbstractEventLoop = self.client._loop  # noqa: SLF001 - no public way to it
        return loop

    @property
    def on_loop_thread(self) -> bool:
        """Whether this code runs on the SDK's thread, where a sync call would wait for itself."""
        return threading.current_thread() is getattr(self.client, "_thread", None)

    def check_usable(self) -> None:
        """Refuse use after the end, or in a forked child.

        Raises:
            NotConnectedError: The client was shut down (the SDK would hang), or the SDK has given
                up reconnecting.
            Exception: What the engine refused this worker's registration with; the SDK does not
                come back from that either.
            RuntimeError: The process was forked: the SDK's thread is not here.
        """
        if os.getpid() != self._pid:
            raise RuntimeError(
                "this client belongs to the parent process; its connection and thread did not "
                "survive the fork. Call iii.register_worker() and resilient() in the child"
            )
        if self.closed or not self.loop.is_running():
            raise NotConnectedError(
                "this client was shut down; nothing was sent. Make a new one with "
                "iii.register_worker()"
            )
        if self.client.get_connection_state() == "failed":
            refused = getattr(self.client, "_fatal_error", None)
            if isinstance(refused, Exception):
                raise refused
            raise NotConnectedError(
                "the SDK has given up reconnecting to the engine (state: failed); nothing was "
                "sent. Make a new client with iii.register_worker()"
            )

    def wait_connected(self, seconds: float) -> bool:
        """Wait until the SDK is connected.

        Args:
            seconds: How long at most; 0 only looks.

        Returns:
            Whether it is connected now.

        Raises:
            NotConnectedError: The client was shut down meanwhile.
        """
        until = time.monotonic() + seconds
        while not self.connected:
            self.check_usable()
            left = until - time.monotonic()
            if left <= 0:
                return False
            future = self.connections.add()
            try:
                if self.connected:
                    return True
                # Without a listener nobody releases the future: it is only a way to sleep.
                time.sleep(future.result(left if self._listens else min(left, _POLL)))
            except TimeoutError:
                continue
            finally:
                self.connections.leave(future)
        return True

    async def wait_connected_async(self, seconds: float) -> bool:
        """As `wait_connected`, for coroutines."""
        until = time.monotonic() + seconds
        while not self.connected:
            self.check_usable()
            left = until - time.monotonic()
            if left <= 0:
                return False
            future = self.connections.add()
            try:
                if self.connected:
                    return True
                timeout = left if self._listens else min(left, _POLL)
                await asyncio.sleep(await asyncio.wait_for(asyncio.wrap_future(future), timeout))
            except TimeoutError:
                continue
            finally:
                self.connections.leave(future)
        return True

    def pause(self, seconds: float) -> None:
        """Sleep, unless the client is shut down meanwhile.

        Raises:
            NotConnectedError: The client was shut down.
        """
        self.check_usable()
        future = self._pauses.add()
        try:
            with suppress(TimeoutError):
                future.result(min(seconds, threading.TIMEOUT_MAX))
        finally:
            self._pauses.leave(future)

    async def pause_async(self, seconds: float) -> None:
        """As `pause`, for coroutines."""
        self.check_usable()
        future = self._pauses.add()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.wrap_future(future), seconds)
        finally:
            self._pauses.leave(future)

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back, on the SDK's thread, whenever the connection has come or gone."""
        self._on_change.append(callback)

    def close(self) -> None:
        """Refuse new calls and end every wait; the SDK itself is not touched."""
        self.closed = True
        self.connections.refuse(lambda: NotConnectedError(_ENDED))
        self._pauses.refuse(lambda: NotConnectedError(_ENDED))
        self._changed()
        for task in list(self._tasks):
            task.cancel()

    def closed_down(self) -> None:
        """The SDK has ended: calls that it left without an answer end too."""
        with self._lock:
            lost = list(self._flying.values())
            self._flying.clear()
        for call in lost:
            call()

    def _state_changed(self, state: str) -> None:
        # Runs on the SDK's thread: it sets flags and releases futures, and never sends.
        connected = state == "connected"
        if state == "failed":
            self.connections.release()  # they look again, and learn that nothing will come
        with self._lock:
            if connected == self._was_connected:
                return
            self._was_connected = connected
            self.epoch += 1
            self._losses += not connected
            lost = [] if connected else list(self._flying.values())
            if lost:
                self._flying.clear()
        self._changed()
        if connected:
            self.connections.release()
        for call in lost:
            call()

    def _changed(self) -> None:
        for callback in self._on_change:
            callback()

    # Calls in flight.

    def send(self, request: dict[str, Any], *, local: bool = False) -> Any:
        """Hand a call to the SDK and wait for its answer, from any thread but the SDK's own.

        This is what the SDK's own sync ``trigger`` does, but for one thing: when the connection
        is lost the wait ends at once.

        Args:
            request: What the SDK takes.
            local: Whether the SDK runs it in this process, connected or not.

        Raises:
            NotConnectedError: The connection went before the call; nothing was sent.
            ConnectionLostError: The connection was lost before the answer came.
            Exception: Whatever the SDK raises.
        """
        answer: Future[Any] = Future()
        losses = self._losses
        task = self._submit(self._dispatch(request, local=local))

        def lost() -> None:
            _fail(answer, ConnectionLostError(_LOST))
            self._abandon(task)

        ticket = self._take_off(losses, lost, local=local)
        task.add_done_callback(lambda done: _copy(done, answer))
        try:
            while True:
                try:
                    return answer.result(_LOOK_AFTER_THE_LOOP)
                except TimeoutError:
                    if answer.done():
                        raise  # it is the answer
                    self.check_usable()
        finally:
            self._flying.pop(ticket, None)

    async def send_async(self, request: dict[str, Any], *, local: bool = False) -> Any:
        """As `send`, for coroutines on any event loop.

        Raises:
            ConnectionLostError: The connection was lost before the answer came.
            Exception: Whatever the SDK raises.
        """
        here = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = here.create_future()
        losses = self._losses
        call = self._dispatch(request, local=local)
        if here is self.loop:
            task: Any = here.create_task(call)
            task.add_done_callback(lambda done: _copy_async(done, answer))
        else:
            # Before 0.25 the SDK only works on its own loop: elsewhere it sends the call and then
            # fails to wait for it (sdk-matrix, section 3).
            task = self._submit(call)
            task.add_done_callback(lambda done: _tell(here, _copy_async, done, answer))

        def lost() -> None:
            _tell(here, _fail_async, answer, ConnectionLostError(_LOST))
            self._abandon(task)

        ticket = self._take_off(losses, lost, local=local)
        try:
            return await answer
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        finally:
            self._flying.pop(ticket, None)

    async def _dispatch(self, request: dict[str, Any], *, local: bool) -> Any:
        """The call on the SDK's loop, where the connection cannot change between look and send."""
        if not local and not self.connected:
            raise NotConnectedError("the connection was lost before the call; nothing was sent")
        return await self.client.trigger_async(request)

    def _abandon(self, task: Any) -> None:
        """Nobody waits for this call any longer, and the SDK need not either.

        Before 0.24.4 it is left to end by itself: there a late answer to a cancelled call kills the
        client for good (sdk-matrix, section 0).
        """
        if self._may_cancel:
            task.cancel()

    def _take_off(self, losses: int, lost: Callable[[], object], *, local: bool = False) -> int:
        """Register a call in flight, to be told of a lost connection (a local one need not be)."""
        ticket = next(self._tickets)
        if local:
            return ticket
        with self._lock:
            self._flying[ticket] = lost
            missed = losses != self._losses
        if missed:  # the connection was lost before this ticket was there to be told
            self._flying.pop(ticket, None)
            lost()
        return ticket

    def _submit(self, call: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            return asyncio.run_coroutine_threadsafe(call, self.loop)
        except RuntimeError:  # the loop was closed after the check
            call.close()
            raise NotConnectedError("this client was shut down; nothing was sent") from None

    # The question.

    async def ask(
        self, function_ids: list[str], namespace: str | None
    ) -> dict[str, Presence] | None:
        """Ask the engine which functions are registered. Runs on the SDK's loop.

        Args:
            function_ids: Up to 32 ids.
            namespace: The namespace the calls go to, or None for the default one.

        Returns:
            One answer an id; None where the engine forbids, does not know, or does not answer
            the question within a second.
        """
        payload: dict[str, Any] = {"function_ids": function_ids}
        if namespace is not None:
            payload["namespace"] = namespace
        try:
            result = await self.client.trigger_async(
                {
                    "function_id": QUESTION,
                    "payload": payload,
                    "timeout_ms": _QUESTION_TIMEOUT_MS,
                }
            )
            items = result["functions"]
            wanted = namespace or "default"
            return {
                item["function_id"]: Presence(
                    # A forbidden item counts as there: the call is sent, the engine answers it.
                    item.get("error") in {None, "forbidden"}
                    and item.get("namespace", wanted) == wanted,
                    item.get("worker_name"),
                )
                for item in items
            }
        except Exception:
            # Whatever went wrong, the question was not answered, and no call may fail for it.
            return None

    def start(self, task: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine on the SDK's loop without waiting for it; it ends with the client."""
        running = self._submit(task)
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)

    def namespace_of(self, request: dict[str, Any]) -> str | None:
        """The namespace a call goes to, or None for the engine's default one."""
        explicit = request.get("namespace")
        if isinstance(explicit, str):
            return explicit
        own = getattr(self.client, "_worker_namespace", None)
        inherited = own() if callable(own) else None
        return inherited if isinstance(inherited, str) else None

    def dispatches_locally(self, request: dict[str, Any]) -> bool:
        """Whether the SDK (0.25) would run this call in the process itself."""
        functions = getattr(self.client, "_functions", None)
        prepare = getattr(self.client, "_prepare_call", None)
        if not functions or prepare is None or request.get("function_id") not in functions:
            return False
        try:
            return getattr(prepare(request), "local", None) is not None
        except Exception:
            return False  # when in doubt a call is remote


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[..., object], *arguments: Any) -> None:
    """Run something on a user's event loop, unless that loop has ended: then nobody listens."""
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
            _tell(here, _succeed_async, done)
        else:
            _tell(here, _fail_async, done, error)

    threading.Thread(target=run, name="iii-resilience", daemon=True).start()
    await done


def _fail(answer: Future[Any], error: BaseException) -> None:
    with suppress(InvalidStateError):  # the answer may come in this very moment
        answer.set_exception(error)


def _copy(done: Future[Any], answer: Future[Any]) -> None:
    error: BaseException | None
    try:
        error = done.exception()
    except CancelledError:
        error = ConnectionLostError(_LOST)
    with suppress(InvalidStateError):  # the connection may be lost in this very moment
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(done.result())


def _succeed_async(answer: asyncio.Future[None]) -> None:
    if not answer.done():
        answer.set_result(None)


def _fail_async(answer: asyncio.Future[Any], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)


def _copy_async(done: Any, answer: asyncio.Future[Any]) -> None:
    if done.cancelled():
        _fail_async(answer, ConnectionLostError(_LOST))
        return
    error = done.exception()
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())
