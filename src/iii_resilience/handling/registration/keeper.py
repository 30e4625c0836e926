"""Keeps functions registered: polls their owners, and registers again what has no owner.

An id has one owner in a namespace. A second worker's registration is rejected without an exception,
and when the owner leaves the function is gone although the second worker lives
(docs/engine-notes.md, 3). One thread serves all clients of a process. It never takes a function
from a living owner. Knows nothing of handlers.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any

from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.core.errors import NotConnectedError
from iii_resilience.core.failure import Failure
from iii_resilience.core.observers import where
from iii_resilience.handling.registration.entries import (
    FunctionEntry,
    RegistrationAttempts,
    RegistrationState,
)
from iii_resilience.handling.registration.ownership import OwnershipPolling
from iii_resilience.handling.registration.registrations import RegistrationTable
from iii_resilience.sdk.connection import Connection
from iii_resilience.sdk.engine_api import FUNCTIONS_INFO, FunctionStatus
from iii_resilience.telemetry import logger

INTERVAL = 1.0
"""Seconds between two questions; each is up to a fifth earlier or later."""

_JITTER = 0.2
# A loop that has not run our question by then does not run at all.
_GIVE_UP_ON_LOOP = 3.0
_SILENT_AFTER = 10.0  # seconds without an answer after which that is logged
_RECONNECTED_LOOK = 0.05  # without a listener the connection is looked at this often, in seconds

# The engine will not answer the availability check on this connection, however often it is sent.
_NO_ANSWER_HERE = frozenset(
    {
        "FORBIDDEN",
        "function_not_found",
        "function_not_invokable",
        "NOT_FOUND",
        "INVALID_ARGUMENTS",
        "deserialization_error",
        "invalid_response",
    }
)

_NOT_KEPT = "functions are not kept registered: the engine does not answer %s (%s); %s"
_ALLOW = "allow it for this worker (rbac.expose_functions), or use an engine that has it"
_ASKED_AGAIN = "the check is repeated every second"


class KeptClient:
    """One client whose functions are kept registered.

    Args:
        connection: Its connection.
        served: Its functions.
        name: Its own name, as the engine knows it.
        standing_by: Is called on the keeper's thread after every answer.

    Attributes:
        asked_at: Monotonic time of the oldest question without an answer, or None.
    """

    def __init__(
        self,
        connection: Connection,
        served: RegistrationTable,
        name: str,
        standing_by: Callable[[], None],
    ) -> None:
        self.connection = connection
        self.asked_at: float | None = None
        self._served = served
        self._standing_by = standing_by
        self.rounds = OwnershipPolling(served, name)
        self._asking: Future[Any] | None = None
        self._asking_since = 0.0
        self._was_connected = connection.connected
        self._refused = False
        self._warned = False
        self.due = time.monotonic()

    def look(self, now: float, tell: Callable[[Future[Any], list[str]], None]) -> None:
        """Send the availability check, if it is due and possible.

        Args:
            now: Monotonic time in seconds.
            tell: Called with the answer, on any thread.
        """
        connected = self.connection.connected
        if connected is not self._was_connected:
            self.connection_changed(now)
        self.due = now + (INTERVAL if connected else _RECONNECTED_LOOK)
        if connected:
            self._tend(now)
        if not connected or self._refused:
            return
        if self.asked_at is not None and now - self.asked_at > _SILENT_AFTER:
            self._warn("TIMEOUT", _ASKED_AGAIN)
        if self._asking is not None and now - self._asking_since < _GIVE_UP_ON_LOOP:
            self.due = self._asking_since + _GIVE_UP_ON_LOOP
            return
        ids = self.rounds.next_ids()
        if not ids:
            return
        self._asking_since = now
        if self.asked_at is None:
            self.asked_at = now
        try:
            asking = self.connection.run(self.ask(ids))
        except NotConnectedError:  # the client has ended
            return
        self._asking = asking
        asking.add_done_callback(lambda done: tell(done, ids))
        self.due = now + _GIVE_UP_ON_LOOP

    async def ask(self, ids: list[str]) -> tuple[dict[str, FunctionStatus], float]:
        """The question. Runs on the SDK's loop, which sends one after the other.

        Returns:
            The answer, and the monotonic time at which it was asked for, in seconds.

        Raises:
            Exception: Whatever the SDK raises.
            LookupError: The answer is not in a form that is known.
        """
        connection, now = self.connection, time.monotonic()
        return await connection.ask_functions_info(ids, connection.client.namespace), now

    def answered(self, done: Future[Any], ids: list[str], now: float) -> None:
        """Learn from an answer, and register functions without an owner again."""
        if done is not self._asking:
            return  # of an earlier connection, or of a loop that was given up
        self._asking = None
        self.due = now + INTERVAL * random.uniform(1 - _JITTER, 1 + _JITTER)
        try:
            answers, asked_at = done.result(0)
        except (CancelledError, TimeoutError):
            return
        except Exception as error:
            self._refuses(error)
            return
        self.asked_at = None
        self._warned = False
        if not self.connection.connected or self.connection.closed:
            return
        orphans, soon = self.rounds.answered(ids, answers, now, asked_at)
        for entry in orphans:
            self.register_again(entry)
        self._standing_by()
        if soon is not None:
            self.due = now + soon
        elif self.rounds.has_urgent:
            self.due = now
        self._tend(now)

    def _tend(self, now: float) -> None:
        """Register and give up triggers, as ownership has it; and look whether that worked."""
        again = self._served.tend(now)
        if again is not None:
            self.due = min(self.due, max(again, now + _RECONNECTED_LOOK))

    def register_again(self, entry: FunctionEntry) -> None:
        """Register a function that has no owner."""
        try:
            self._served.again(entry)
        except Exception as error:
            logger.warning(
                "%s: could not be registered again (%s); it is tried again",
                entry.function_id,
                type(error).__name__,
                extra={"function_id": entry.function_id},
            )

    def look_again(self, now: float) -> None:
        """Something was learned elsewhere: act on it, on this thread."""
        if self.connection.connected:
            self._tend(now)

    def added(self, entry: FunctionEntry) -> None:
        """A function was registered."""
        self.rounds.check_next([entry.function_id])
        self.due = min(self.due, time.monotonic())

    def connection_changed(self, now: float) -> None:
        """The connection has come or gone: what is registered is another question."""
        self._was_connected = connected = self.connection.connected
        self._refused = False
        self._served.by_ownership = True
        self._asking = self.asked_at = None
        self.due = now
        functions = self._served.functions()
        self.rounds.check_next(entry.function_id for entry in functions)
        if connected:
            for entry in (*functions, *self._served.triggers()):
                entry.attempts = RegistrationAttempts(now)
        else:
            self.disconnected()

    def disconnected(self) -> None:
        """A client that is not connected owns nothing, and cannot know who does."""
        if not self.connection.closed:
            for entry in (*self._served.functions(), *self._served.triggers()):
                entry.set_state(RegistrationState.UNKNOWN, code=NotConnectedError.code)

    @property
    def answers(self) -> bool:
        """Whether the engine can be expected to name the owners."""
        silent = self.asked_at is not None and time.monotonic() - self.asked_at > INTERVAL
        return not (self._refused or silent)

    def not_answered(self, error: Exception) -> Failure:
        """The engine has answered with an error, or not at all."""
        failure = classify(error, function_id=FUNCTIONS_INFO)
        if failure.code != "TIMEOUT":
            self.asked_at = None
        return failure

    def _refuses(self, error: Exception) -> None:
        failure = self.not_answered(error)
        if failure.code in _NO_ANSWER_HERE or isinstance(error, LookupError):
            self._refused = True
            # The owners are not known then: each trigger is registered, as without a keeper.
            self._served.by_ownership = False
            self._served.tend(time.monotonic())
            for entry in self._served.functions():
                entry.set_state(RegistrationState.UNKNOWN)
            self._warn(failure.code, _ALLOW)
        elif failure.category is not Category.TRANSIENT:
            self._warn(failure.code, _ASKED_AGAIN)

    def _warn(self, code: str, advice: str) -> None:
        """Log that nothing is kept registered, once until there is an answer again."""
        if not self._warned:
            self._warned = True
            logger.warning(_NOT_KEPT, FUNCTIONS_INFO, code, advice, extra={"code": code})


class Keeper:
    """The thread that keeps the functions of a process registered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[int, KeptClient] = {}
        self._thread: threading.Thread | None = None
        self._warned = False
        self._events: queue.SimpleQueue[Callable[[float], None] | None] = queue.SimpleQueue()

    def add(self, kept: KeptClient) -> None:
        """Keep a client's functions registered from now on."""
        with self._lock:
            self._kept[id(kept)] = kept
            self._start()
        self.do(None)

    def _start(self) -> None:
        """Start the thread where there is none; where that fails, the next event tries again."""
        if self._thread is not None and self._thread.is_alive():
            return
        thread = threading.Thread(target=self._run, name="iii-resilience keeper", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "functions are not kept registered yet: %s; it is tried again", error
                )
            return
        self._thread = thread

    def remove(self, kept: KeptClient) -> None:
        """Do so no longer."""
        with self._lock:
            self._kept.pop(id(kept), None)
        self.do(None)

    def do(self, work: Callable[[float], None] | None) -> None:
        """Do something on the keeper's thread, or only look at what is due.

        May be called on the SDK's thread: it takes no lock.

        Args:
            work: What to do; it is given the monotonic time, in seconds.
        """
        self._events.put(work)
        # Where no thread could be started before: another try, unless a lock would be waited for.
        if self._thread is None and self._kept and self._lock.acquire(blocking=False):
            try:
                self._start()
            finally:
                self._lock.release()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._kept:
                    self._thread = None
                    return
                kept = list(self._kept.values())
            work: Callable[[float], None] | None = None
            pause = min(client.due for client in kept) - time.monotonic()
            with suppress(queue.Empty):
                work = self._events.get(timeout=max(0.0, pause))
            self._safely(work)
            for client in kept:
                if client.due <= time.monotonic():
                    self._safely(lambda now, client=client: self._look(client, now))  # type: ignore[misc]

    def _look(self, client: KeptClient, now: float) -> None:
        def call_soon(done: Future[Any], ids: list[str]) -> None:
            self.do(lambda at: client.answered(done, ids, at))

        client.look(now, call_soon)

    @staticmethod
    def _safely(work: Callable[[float], None] | None) -> None:
        if work is None:
            return
        try:
            work(time.monotonic())
        except Exception as error:  # one client's trouble must not end the keeping of all
            logger.warning("the keeper caught %s; it continues", where(error))


_keeper = Keeper()


def keeper() -> Keeper:
    """The keeper of this process."""
    return _keeper


def _new_in_child() -> None:
    # The thread did not survive the fork, and neither did any client's connection.
    global _keeper  # noqa: PLW0603 - one keeper a process
    _keeper = Keeper()


os.register_at_fork(after_in_child=_new_in_child)
