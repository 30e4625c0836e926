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
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from iii_resilience.core.classifiers.text_patterns import NO_PROVIDER
from iii_resilience.core.effects import Sleep, Wait
from iii_resilience.core.errors import NotConnectedError
from iii_resilience.core.failure import Failure
from iii_resilience.sdk.connection import Connection
from iii_resilience.sdk.connection_state import ConnectionState
from iii_resilience.sdk.engine_api import FunctionStatus, functions_info
from iii_resilience.sdk.wait_queue import WaitQueue

Key = tuple[str | None, str]  # namespace (None: the default one), function id

PROVIDER: Key = (None, "engine::queue::enqueue")
"""What takes enqueued messages (docs/engine-notes.md, 9): a worker's function, as any other."""

# After these it is unknown whether the function (or its worker) is still there.
DOUBTFUL = frozenset(
    {"invocation_stopped", "channel_send_failed", "invocation_error", "function_not_found"}
)

_ASK_AGAIN_FIRST = 0.005
_ASK_AGAIN_MOST = 0.05
_KNOWN_MOST = 10_000  # ids remembered; a program that calls more of them checks again


class Readiness:
    """What is known about functions being registered, on one connection.

    Args:
        connection: The client's connection.

    Attributes:
        known: The functions that are registered, each with its owner.
        unchecked: Whether functions are not checked on this connection: the engine forbids the
            check, does not support it, or does not answer it.
        generation: Counts the moments at which knowledge was lost: what was learned from a call
            that started before such a moment is not believed after it.
        provider_seen: Whether the engine has listed the queue's provider to this client: what was
            there comes back, what was never installed does not.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.known: dict[Key, str | None] = {}
        self._missing_until: dict[Key, float] = {}
        self._asking: dict[Key, _PendingLookup] = {}
        self.unchecked = False
        self._lock = threading.Lock()
        self.generation = 0
        self.provider_seen = False
        self._looks_for_provider = False
        connection.on_change(self._connection_changed)

    def wait(self, key: Key | None, seconds: float) -> Generator[Wait | Sleep, Any, bool]:
        """Wait until a call can be sent, as effects.

        Args:
            key: The function, or None where only the connection matters.
            seconds: How long to wait at most, for both together.

        Returns:
            False if the function stayed missing.

        Raises:
            NotConnectedError: No connection within that time, or the client was shut down.
            RuntimeError: The process was forked.
        """
        connection = self._connection
        until = time.monotonic() + seconds
        while True:
            connection.check_usable()
            if (connection.history.refusals and connection.refused) or not (
                connection.client.connected or (yield from connection.wait_connected(_left(until)))
            ):
                raise _not_connected(connection, seconds)
            if key is None or self.unchecked or key in self.known:
                return True
            left = until - time.monotonic()
            if left <= 0.0 or self._missing_until.get(key, 0.0) > time.monotonic():
                return self._gives_up(key, seconds)
            waiters, future = self._queue_for(key)
            try:
                spread = yield Wait(future, left)
            except BaseException as error:  # one that was released has left already
                waiters.leave(future)
                if not isinstance(error, TimeoutError):
                    raise
                return self._gives_up(key, seconds)
            if spread > 0:
                yield Sleep(min(spread, _left(until)))
            if waiters.there:
                return True

    def mark_known(self, key: Key, generation: int) -> None:
        """A call succeeded: its function is there, unless something was lost since it was sent."""
        if key not in self.known:
            self._remember(key, None, generation)

    def enqueued(self, generation: int) -> None:
        """A message was taken: something took it, which engines before 0.21 are themselves."""
        if self.provider_seen:
            self.mark_known(PROVIDER, generation)
        elif not self._looks_for_provider:
            self._looks_for_provider = True
            with suppress(NotConnectedError):  # shut down since; the message was taken all the same
                self._connection.start(self._look_for_provider)

    def not_enqueued(self, failure: Failure) -> None:
        """A message was not taken: whether its provider is still there may be in doubt."""
        cause = failure.inner or failure
        if cause.code in DOUBTFUL or _names_no_provider(failure):
            self.invalidate(PROVIDER)

    def provider_is_away(self, failure: Failure) -> bool:
        """Whether a failure says that nothing takes messages, where something did before."""
        return self.provider_seen and _names_no_provider(failure)

    async def _look_for_provider(self) -> None:
        """Once, beside the calls: so that the provider is waited for if it ever goes."""
        generation = self.generation
        with suppress(Exception):  # it is only not known then
            answers = await functions_info(
                self._connection.client.call_async, [PROVIDER[1]], PROVIDER[0]
            )
            presence = answers[PROVIDER[1]]
            if presence.there and not presence.forbidden:
                self._remember(PROVIDER, presence.owner, generation)

    def invalidate(self, key: Key) -> None:
        """A call ended in a way that says its worker may be gone: with it all of its functions."""
        self._connection.in_flight.pace()
        with self._lock:
            self.generation += 1
            owner = self.known.pop(key, None)
            if owner is not None:
                for other, known_owner in list(self.known.items()):
                    if known_owner == owner:
                        del self.known[other]

    def _gives_up(self, key: Key, seconds: float) -> bool:
        if not self._missing_until.get(key, 0.0) > time.monotonic():
            if len(self._missing_until) >= _KNOWN_MOST:
                self._missing_until.clear()
            self._missing_until[key] = time.monotonic() + seconds
        return False

    def _remember(self, key: Key, owner: str | None, generation: int) -> None:
        with self._lock:
            if generation == self.generation:
                if len(self.known) >= _KNOWN_MOST:
                    self.known.clear()
                self.known[key] = owner
                self._missing_until.pop(key, None)
                self.provider_seen = self.provider_seen or key == PROVIDER

    # One question at a time for an id, however many wait.

    def _queue_for(self, key: Key) -> tuple[_PendingLookup, Future[float]]:
        with self._lock:
            waiters = self._asking.get(key)
            ask = waiters is None
            if waiters is None:
                waiters = self._asking[key] = _PendingLookup()
            future = waiters.add()
        if ask:
            try:
                self._connection.start(partial(self._ask, key, waiters))
            except NotConnectedError:  # those who have joined look again, and end like this one
                self._let_go(key, waiters, there=False)
                raise
        return waiters, future

    async def _ask(self, key: Key, waiters: _PendingLookup) -> None:
        """Repeat the availability check until the function is there or no caller waits for it."""
        namespace, function_id = key
        pause = _ASK_AGAIN_FIRST
        while self._asking.get(key) is waiters:
            epoch, generation = self._connection.history.epoch, self.generation
            answers = None
            with suppress(Exception):  # the check was not answered, and no call may fail for it
                call = self._connection.client.call_async
                answers = await functions_info(call, [function_id], namespace)
            if epoch != self._connection.history.epoch:
                break  # `_connection_changed` has let them look again
            if answers is None:
                self.unchecked = True
                self._let_go(key, waiters, there=True)
                return
            self._connection.history.answered = True
            presence = answers.get(function_id, FunctionStatus(there=False))
            if presence.there:
                self._remember(key, presence.owner, generation)
                self._let_go(key, waiters, there=True)
                return
            with self._lock:
                if not waiters and self._asking.get(key) is waiters:
                    del self._asking[key]
                    return
            self._connection.in_flight.pace()  # those who wait will leave together
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
            self.known.clear()
            self.unchecked = self._looks_for_provider = False
            self._missing_until.clear()
            asking, self._asking = self._asking, {}
        for waiters in asking.values():
            waiters.release()


class _PendingLookup(WaitQueue):
    """The callers that wait for one function.

    Attributes:
        there: Whether they are released because it is there (else they look again).
    """

    there = False


def _names_no_provider(failure: Failure) -> bool:
    return failure.code == "enqueue_error" and failure.message.startswith(NO_PROVIDER)


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
