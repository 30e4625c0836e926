"""The messages between the keepers of two workers: hot standby, and "take over".

Each keeper has a private function whose id holds its worker's name. A standby registers with the
owner; an owner that shuts down requests its standbys to take its functions over at once. A lost
message costs only time: a standby also polls, and notices about a second later. Knows nothing of
how functions are registered.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from iii_resilience.core.errors import NotConnectedError
from iii_resilience.handling.registration.entries import FunctionEntry, RegistrationState
from iii_resilience.handling.registration.keeper import KeptClient
from iii_resilience.handling.registration.registrations import RegistrationTable
from iii_resilience.sdk.connection import Connection

_PRIVATE = "iii-resilience::keeper::"
_TIMEOUT_MS = 1000
# A standby that takes longer than this is skipped: the next one is called, too.
_TAKE_OVER_MS = 250
# An owner that was restarted does not know its standbys: they announce themselves again.
_TELL_AGAIN = 10.0
_BELIEVE = 3 * _TELL_AGAIN


def private_id(worker_name: str) -> str:
    """The private function id of a worker's keeper."""
    return f"{_PRIVATE}{worker_name}"


class Standby:
    """One worker's side of the conversation.

    Args:
        connection: Its connection.
        served: Its functions.
        name: Its own name, as the engine knows it.
        do: Runs work on the keeper's thread.
    """

    def __init__(
        self,
        connection: Connection,
        served: RegistrationTable,
        name: str,
        do: Callable[[Callable[[float], None]], None],
    ) -> None:
        self._connection = connection
        self._served = served
        self._name = name
        self._do = do
        self._kept: KeptClient | None = None
        self._lock = threading.Lock()
        # The standbys for our functions, and until when that is believed.
        self._others: dict[str, tuple[frozenset[str], float]] = {}
        self._told: dict[str, tuple[frozenset[str], float]] = {}  # owner: what it knows, until

    def register(self, kept: KeptClient) -> None:
        """Register the private function.

        Args:
            kept: What registers functions again.
        """
        self._kept = kept
        with suppress(ValueError):  # another object around the same client has it already
            self._connection.client.register_function(
                private_id(self._name), self._asked, metadata={"internal": True}
            )

    # Standing by.

    def tell_owners(self) -> None:
        """Announce the functions served here to their owners. Runs on the keeper's thread."""
        mine: dict[str, set[str]] = {}
        for entry in self._served.functions():
            if entry.state is RegistrationState.STANDBY and entry.owner is not None:
                mine.setdefault(entry.owner, set()).add(entry.function_id)
        now = time.monotonic()
        self._told = {owner: told for owner, told in self._told.items() if owner in mine}
        for owner, functions in mine.items():
            told, until = self._told.get(owner, (frozenset(), 0.0))
            if told == functions and now < until:
                continue
            again = now + _TELL_AGAIN * random.uniform(0.8, 1.2)
            self._told[owner] = frozenset(functions), again
            payload = {"worker": self._name, "standby": sorted(functions)}
            with suppress(NotConnectedError):  # the client has just ended
                self._connection.start(partial(self._tell, owner, payload))

    async def _tell(self, owner: str, payload: dict[str, Any]) -> None:
        try:
            await self._connection.client.call_async(_message(owner, payload))
        except Exception:
            # The owner has no keeper, may not be called, or has just gone: try again later.
            return

    async def _asked(self, data: Any) -> Any:
        """The private function. Runs on the SDK's loop."""
        if not isinstance(data, dict):
            return {}
        worker, standby = data.get("worker"), data.get("standby")
        if isinstance(worker, str) and isinstance(standby, list):
            self._told_by(worker, frozenset(i for i in standby if isinstance(i, str)))
        take_over = data.get("take_over")
        if not isinstance(take_over, list):
            return {}
        done: Future[list[str]] = Future()
        took: list[str] = []

        def work(_: float) -> None:
            try:
                self._take_over(take_over, took)
            finally:
                done.set_result(took)

        self._do(work)
        return {"took_over": await asyncio.wait_for(asyncio.wrap_future(done), _TIMEOUT_MS / 1000)}

    def _told_by(self, worker: str, functions: frozenset[str]) -> None:
        now = time.monotonic()
        with self._lock:
            self._others = {w: told for w, told in self._others.items() if told[1] > now}
            self._others[worker] = functions, now + _BELIEVE

    def _take_over(self, function_ids: list[Any], took: list[str]) -> None:
        """Register what another worker has just given up. Runs on the keeper's thread."""
        kept = self._kept
        if kept is None or self._connection.closed or self._served.leaving:
            return
        for function_id in function_ids:
            entry = self._served.function(function_id) if isinstance(function_id, str) else None
            if entry is not None and entry.state is not RegistrationState.OWNER:
                kept.register_again(entry)
                self._served.adopt(entry.function_id, time.monotonic())
                took.append(entry.function_id)
        kept.rounds.check_next(took)
        kept.due = time.monotonic()

    # Leaving.

    @property
    def has_others(self) -> bool:
        """Whether a worker is known that stands by for this one."""
        with self._lock:
            return any(until > time.monotonic() for _, until in self._others.values())

    def hand_over(self, entries: Iterable[FunctionEntry], until: float) -> dict[str, str]:
        """Request the standbys to take functions over that were released just now.

        Args:
            entries: The functions.
            until: Monotonic time at which to give up asking, in seconds.

        Returns:
            Which standby has taken which function over.
        """
        left = {entry.function_id for entry in entries}
        taken: dict[str, str] = {}
        now = time.monotonic()
        with self._lock:
            others = [(w, ids, believed) for w, (ids, believed) in self._others.items()]
        for worker, functions, believed in sorted(others, key=lambda other: -other[2]):
            asked = sorted(left & functions) if believed > now else []
            timeout_ms = int(min(_TAKE_OVER_MS, 1000 * (until - time.monotonic())))
            if not asked or timeout_ms <= 0:
                continue
            took = left & self._ask(worker, asked, timeout_ms)
            taken.update(dict.fromkeys(took, worker))
            left -= took
        return taken

    def _ask(self, worker: str, function_ids: list[str], timeout_ms: int) -> set[str]:
        message = _message(worker, {"take_over": function_ids})
        try:
            result = self._connection.in_flight.send(
                {**message, "timeout_ms": timeout_ms}, seconds=timeout_ms / 1000
            )
            return {i for i in result["took_over"] if isinstance(i, str)}
        except Exception:  # it has gone too, or does not answer: try the next one
            return set()


def _message(worker: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {"function_id": private_id(worker), "payload": payload, "timeout_ms": _TIMEOUT_MS}
