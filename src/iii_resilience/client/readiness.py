"""Waits before a call: until the SDK is connected and the function is registered.

``function_not_found`` must never be retried, yet callers see it for a moment when the target
starts, restarts or is deployed. So the wait comes before the call. The availability check costs
about 1 ms, and is skipped for functions known to be registered. Knows nothing of policies or
retries.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future

from iii_resilience.core.errors import NotConnectedError
from iii_resilience.sdk.connection import Connection
from iii_resilience.sdk.connection_state import ConnectionState
from iii_resilience.sdk.engine_api import FunctionStatus
from iii_resilience.sdk.wait_queue import WaitQueue

Key = tuple[str | None, str]  # namespace (None: the default one), function id

# After these, nobody knows whether the function is still there (or its worker).
DOUBTFUL = frozenset(
    {"invocation_stopped", "channel_send_failed", "invocation_error", "function_not_found"}
)

_ASK_AGAIN_FIRST = 0.005
_ASK_AGAIN_MOST = 0.05
_KNOWN_MOST = 10_000  # ids remembered; a program that calls more of them asks again


class Readiness:
    """What is known about functions being registered, on one connection.

    Args:
        connection: The client's connection.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[Key, str | None] = {}
        self._missing_until: dict[Key, float] = {}
        self._asking: dict[Key, _PendingLookup] = {}
        self._unanswered_epoch: int | None = None
        self._lock = threading.Lock()
        # Counts the moments at which knowledge was lost: what was learned from a call that
        # started before such a moment is not believed after it.
        self.generation = 0
        connection.on_change(self._connection_changed)

    def is_ready(self, key: Key | None) -> bool:
        """Whether a call can be sent without any wait or question.

        Args:
            key: As for `wait`.
        """
        connection = self._connection
        return (
            connection.connected and not connection.refused and (key is None or self.may_send(key))
        )

    def wait(self, key: Key | None, seconds: float) -> bool:
        """Wait until a call can be sent.

        Args:
            key: The function, or None where only the connection matters.
            seconds: How long to wait at most, for both together.

        Returns:
            False if the function stayed missing.

        Raises:
            NotConnectedError: No connection within that time, or the client was shut down.
            RuntimeError: The process was forked.
        """
        until = time.monotonic() + seconds
        while True:
            self._connection.check_usable()
            if self._connection.refused or not (
                self._connection.connected or self._connection.wait_connected(_left(until))
            ):
                raise _not_connected(self._connection, seconds)
            if key is None or self.may_send(key):
                return True
            if self._stayed_missing(key) or _left(until) == 0.0:
                return self._gives_up(key, seconds)
            waiters, future = self._queue_for(key)
            try:
                pause = future.result(_left(until))
            except TimeoutError:
                return self._gives_up(key, seconds)
            finally:
                waiters.leave(future)
            if pause > 0:
                time.sleep(min(pause, _left(until)))
            if waiters.there:
                return True

    async def wait_async(self, key: Key | None, seconds: float) -> bool:
        """As `wait`, for coroutines."""
        until = time.monotonic() + seconds
        while True:
            self._connection.check_usable()
            if self._connection.refused or not (
                self._connection.connected
                or await self._connection.wait_connected_async(_left(until))
            ):
                raise _not_connected(self._connection, seconds)
            if key is None or self.may_send(key):
                return True
            if self._stayed_missing(key) or _left(until) == 0.0:
                return self._gives_up(key, seconds)
            waiters, future = self._queue_for(key)
            try:
                pause = await asyncio.wait_for(asyncio.wrap_future(future), _left(until))
            except TimeoutError:
                return self._gives_up(key, seconds)
            finally:
                waiters.leave(future)
            if pause > 0:
                await asyncio.sleep(min(pause, _left(until)))
            if waiters.there:
                return True

    def mark_known(self, key: Key, generation: int) -> None:
        """A call succeeded: its function is there, unless something was lost since it was sent."""
        if key not in self._known:
            self._remember(key, None, generation)

    def invalidate(self, key: Key) -> None:
        """A call ended in a way that says its worker may be gone: with it all of its functions."""
        with self._lock:
            self.generation += 1
            owner = self._known.pop(key, None)
            if owner is not None:
                for other in [k for k, o in self._known.items() if o == owner]:
                    del self._known[other]

    def may_send(self, key: Key) -> bool:
        """Whether a function is known, or nobody on this connection can tell."""
        return key in self._known or self._unanswered_epoch == self._connection.epoch

    def _stayed_missing(self, key: Key) -> bool:
        return self._missing_until.get(key, 0.0) > time.monotonic()

    def _gives_up(self, key: Key, seconds: float) -> bool:
        if not self._stayed_missing(key):
            if len(self._missing_until) >= _KNOWN_MOST:
                self._missing_until.clear()
            self._missing_until[key] = time.monotonic() + seconds
        return False

    def _remember(self, key: Key, owner: str | None, generation: int) -> None:
        with self._lock:
            if generation == self.generation:
                if len(self._known) >= _KNOWN_MOST:
                    self._known.clear()
                self._known[key] = owner
                self._missing_until.pop(key, None)

    # One question at a time for an id, however many wait.

    def _queue_for(self, key: Key) -> tuple[_PendingLookup, Future[float]]:
        with self._lock:
            waiters = self._asking.get(key)
            ask = waiters is None
            if waiters is None:
                waiters = self._asking[key] = _PendingLookup()
            future = waiters.add()
        if ask:
            self._connection.start(self._ask(key, waiters))
        return waiters, future

    async def _ask(self, key: Key, waiters: _PendingLookup) -> None:
        """Ask, and ask again, until the function is there or nobody waits for it any longer."""
        namespace, function_id = key
        pause = _ASK_AGAIN_FIRST
        while self._asking.get(key) is waiters:
            epoch, generation = self._connection.epoch, self.generation
            answers = await self._connection.functions_info([function_id], namespace)
            if epoch != self._connection.epoch:
                break  # `_connection_changed` has let them look again
            if answers is None:
                self._unanswered_epoch = epoch
                self._let_go(key, waiters, there=True)
                return
            presence = answers.get(function_id, FunctionStatus(there=False))
            if presence.there:
                self._remember(key, presence.owner, generation)
                self._let_go(key, waiters, there=True)
                return
            with self._lock:
                if not waiters and self._asking.get(key) is waiters:
                    del self._asking[key]
                    return
            await asyncio.sleep(pause)
            pause = min(_ASK_AGAIN_MOST, 1.5 * pause)
        self._let_go(key, waiters, there=False)

    def _let_go(self, key: Key, waiters: _PendingLookup, *, there: bool) -> None:
        with self._lock:
            if self._asking.get(key) is waiters:
                del self._asking[key]
        waiters.there = there
        waiters.release()

    def _connection_changed(self) -> None:
        with self._lock:
            self.generation += 1
            self._known.clear()
            self._missing_until.clear()
            asking, self._asking = self._asking, {}
        for waiters in asking.values():
            waiters.release()


class _PendingLookup(WaitQueue):
    """The callers that wait for one function.

    Attributes:
        there: Whether they are let go because it is there (else they look again).
    """

    def __init__(self) -> None:
        super().__init__()
        self.there = False


def _left(until: float) -> float:
    return max(0.0, until - time.monotonic())


def _not_connected(connection: Connection, seconds: float) -> NotConnectedError:
    state = connection.state
    if state is ConnectionState.REFUSED_ONCE:
        error = NotConnectedError(
            "the engine took this worker's connection and closed it within a second, unanswered: "
            f"it seems to refuse the worker, and {connection.sdk.name} does not open another one. "
            "Nothing was sent. Check the worker's token (III_TOKEN, headers) and the engine's "
            "auth function, then make a new client with iii.register_worker()"
        )
        error.refused = True
        return error
    if state is ConnectionState.REFUSED:
        error = NotConnectedError(
            "the engine takes this worker's connections and closes each of them within a second, "
            "unanswered: it seems to refuse the worker. Nothing was sent. Check the worker's "
            "token (III_TOKEN, headers) and the engine's auth function"
        )
        error.refused = True
        return error
    if state in {ConnectionState.STALE, ConnectionState.DEAD}:
        return NotConnectedError(
            f"the engine closed the connection; {connection.sdk.name} does not open another one "
            "though it says it is connected; nothing was sent. Make a new client with "
            "iii.register_worker(), or use iii-sdk 0.24.4 or later"
        )
    return NotConnectedError(
        f"not connected to the engine (state: {connection.client.state}), waited "
        f"{seconds:.3g} s; nothing was sent. Is the engine running at the worker's address?"
    )
