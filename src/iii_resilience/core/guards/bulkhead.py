"""Bulkheads: limit how many calls of a function run at once, and how many wait.

One set of slots serves threads and coroutines of any number of event loops, first come, first
served. A permit is an object with an identity, not a unit of a counter: releasing it twice, after
an interruption, neither loses a slot nor frees two. A permit without a holder releases itself.
Knows nothing of failures or policies, and has no clock: the caller passes the longest wait.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from iii_resilience.core.guards.scopes import Guard, Scope
from iii_resilience.core.lazy_imports import lazy_module
from iii_resilience.core.validators import checked_names, number, seconds

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = lazy_module("asyncio")  # a program without coroutines never needs it


@attrs.define(eq=False)
class Permit:
    """One caller's slot; given back with `Slots.release`."""

    _gate: Slots = attrs.field(repr=False)
    _wake: Callable[[], object] | None = attrs.field(default=None, repr=False)

    def __del__(self) -> None:
        # Ctrl-C may strike in the first moment of `release`, or between `acquire` and the caller's
        # ``try``; a coroutine may be thrown away. The place then comes back with the permit.
        self._gate._lost(self)  # noqa: SLF001 - slots and their permits are one


class Slots:
    """At most `limit` callers inside at once, at most `queue` of them waiting in front.

    Callers are admitted in order: a later one goes to the end of the queue. A caller that is
    cancelled or interrupted while it waits leaves the queue, and a permit that had just been handed
    to it goes to the next one.

    Args:
        limit: Callers inside at once.
        queue: Callers that may wait.
        wait: Seconds each of them may wait.
    """

    __slots__ = ("_inside", "_limit", "_lock", "_queue", "_queued", "_wait")

    def __init__(self, limit: int, queue: int, wait: float) -> None:
        self._limit = limit
        self._queue = queue
        self._wait = min(wait, threading.TIMEOUT_MAX)
        self.forget()

    def forget(self) -> None:
        """Start anew: in a forked child who was inside, and who holds the lock, is not there."""
        # By identity, so that the slots themselves keep no permit alive that its holder has lost.
        self._inside: set[int] = set()
        self._queued: OrderedDict[Permit, None] = OrderedDict()
        # Reentrant: a lost permit gives itself back wherever the garbage collector happens to find
        # it, and that may be in the middle of one of these methods.
        self._lock = threading.RLock()

    @property
    def inside(self) -> int:
        """How many callers are inside."""
        return len(self._inside)

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self._queued)

    def acquire(self, timeout: float | None = None) -> Permit | None:
        """Go in, waiting for a place if need be. Blocks the thread while it waits.

        Args:
            timeout: Seconds the caller has left, None for no bound of its own. The shorter of it
                and the slots' `wait` applies.

        Returns:
            The permit, for which exactly one `release` must follow; None if there was no place in
            the queue, or none came free in time.
        """
        permit = Permit(self)
        try:
            seconds = self._longest(timeout)
            if self._step_in(permit):
                return permit
            if not self._may_wait(seconds):
                return None
            turn = threading.Event()
            if not self._line_up(permit, turn.set):
                return None
            # It may have been let in as it lined up, and woken before it slept.
            turn.wait(seconds)
            return permit if self._was_let_in(permit) else None
        except BaseException:
            self.release(permit)
            raise

    async def acquire_async(self, timeout: float | None = None) -> Permit | None:  # noqa: ASYNC109
        """`acquire` for coroutines: other tasks of the loop go on while it waits.

        The arguments and the result are those of `acquire`.
        """
        # A timeout around this coroutine would be a cancellation: who was let in at that very
        # moment would be sent away. Ours looks once more.
        permit = Permit(self)
        try:
            seconds = self._longest(timeout)
            if self._step_in(permit):
                return permit
            if not self._may_wait(seconds):
                return None
            loop = asyncio.get_running_loop()
            turn: asyncio.Future[None] = loop.create_future()
            if not self._line_up(permit, _Wake(loop, turn)):
                return None
            alarm = loop.call_later(seconds, _settle, turn)
            try:
                await turn
            finally:
                alarm.cancel()
            return permit if self._was_let_in(permit) else None
        except BaseException:
            self.release(permit)
            raise

    def release(self, permit: Permit) -> None:
        """Give a permit back; the first in the queue gets the place.

        Args:
            permit: What `acquire` returned. Giving it back twice does no harm.
        """
        try:
            self._let_go(permit)
        except BaseException:  # Ctrl-C in the middle of it: once more, and then on with it
            self._let_go(permit)
            raise

    def retune(self, _: float, limit: int, queue: int, wait: float) -> None:
        """Use other numbers from now on; callers inside or in the queue stay.

        Args:
            limit: As for the class.
            queue: As for the class.
            wait: As for the class; a caller that already waits keeps its own limit.
        """
        with self._lock:
            self._limit, self._queue = limit, queue
            self._wait = min(wait, threading.TIMEOUT_MAX)
            self._let_in()

    def _longest(self, timeout: float | None) -> float:
        return self._wait if timeout is None else min(self._wait, timeout)

    def _step_in(self, permit: Permit) -> bool:
        with self._lock:
            # This keeps the order: while a caller waits, `_let_in` leaves no place free.
            if len(self._inside) >= self._limit:
                return False
            self._inside.add(id(permit))
            return True

    def _may_wait(self, seconds: float) -> bool:
        # Looked at before anything is made to wait on, which costs more than all the rest.
        return seconds > 0 and len(self._queued) < self._queue

    def _line_up(self, permit: Permit, wake: Callable[[], object]) -> bool:
        with self._lock:
            if len(self._queued) >= self._queue:
                return self._step_in(permit)  # a place may have come free since the first look
            permit._wake = wake  # noqa: SLF001 - a permit is opaque to all but its slots
            self._queued[permit] = None
            self._let_in()
            return True

    def _was_let_in(self, permit: Permit) -> bool:
        with self._lock:
            self._queued.pop(permit, None)
            return id(permit) in self._inside

    def _let_go(self, permit: Permit) -> None:
        with self._lock:
            self._queued.pop(permit, None)
            self._inside.discard(id(permit))
            self._let_in()

    def _lost(self, permit: Permit) -> None:
        if id(permit) in self._inside:  # only the permit's own caller can change that
            self.release(permit)

    def _let_in(self) -> None:
        # In an order in which each step may be interrupted and done again: who is inside and still
        # in the queue may not have been woken yet, and waking twice does no harm.
        while self._queued:
            permit = next(iter(self._queued))
            if id(permit) not in self._inside:
                if len(self._inside) >= self._limit:
                    return
                self._inside.add(id(permit))
            wake = permit._wake  # noqa: SLF001 - a permit is opaque to all but its slots
            try:
                if wake is not None:
                    wake()
            except RuntimeError:  # its event loop is closed: the caller cannot take the place
                self._inside.discard(id(permit))
            self._queued.pop(permit, None)


@checked_names
@attrs.frozen
class Bulkhead(Guard[Slots]):
    """How many calls of a function may run at once, and how many may wait for how long.

    There are no default numbers, because there is no limit that fits two functions: it is what
    the function at the other end can do at once.

    The object keeps its own slots, so policies that hold the same object share them.

    Args:
        limit: Calls at once.
        queue: Calls that may wait for a place.
        wait: Seconds each of them may wait; the deadline of a call bounds it too.

    Raises:
        ValueError: A number is out of range, or only one of `queue` and `wait` is given: then no
            caller could ever wait.
    """

    limit: int = attrs.field(validator=number(least=1, integer=True))
    queue: int = attrs.field(default=0, validator=number(least=0, integer=True))
    wait: float = attrs.field(default=0.0, validator=number(least=0, unit="seconds"))

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if bool(self.queue) != bool(self.wait):
            raise ValueError(
                f"Bulkhead.queue ({self.queue}) and Bulkhead.wait ({seconds(self.wait)}) must be "
                "given together, or neither: with one of them alone no call could ever wait"
            )

    def slots_for(self, scope: Scope = None) -> Slots:
        """The slots of a scope, made at its first use.

        Args:
            scope: The function (see `Scope`); None for everything under one policy.
        """
        slots = self._states.get(scope)
        if slots is None:
            slots = self._states.add(scope, Slots)
        return slots


@attrs.frozen(eq=False)
class _Wake:
    """Wakes a coroutine from any thread.

    Not `asyncio.wrap_future`: that says nothing when the loop is closed, and a permit handed to a
    coroutine of a closed loop would never come back.
    """

    loop: asyncio.AbstractEventLoop
    turn: asyncio.Future[None]

    def __call__(self) -> None:
        self.loop.call_soon_threadsafe(_settle, self.turn)


def _settle(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
