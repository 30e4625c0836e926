"""Concurrency limits: how many handlers of a worker run at once, and how long a call waits.

A worker that accepts every call serves each one late, and then calls that no caller waits for
any more. One that refuses what it has no time for serves the rest as fast as ever. Knows nothing
of handlers or engines, and has no clock: every method takes the time.
"""

from __future__ import annotations

import sys
import threading
import weakref
from threading import TIMEOUT_MAX

import attrs

from iii_resilience.core.guards.bulkhead import Permit, Slots
from iii_resilience.core.guards.latency_gradient import LatencyGradient
from iii_resilience.core.validators import number

_WEIGHT = 0.1  # of the latest call in the mean duration
_LONGEST_RETRY_AFTER = 30.0  # seconds; a mean says little about a time beyond


@attrs.frozen
class Limit:
    """How many handlers of a worker may run at once.

    Over it a call waits, at most `wait` seconds, and is then refused with ``OVERLOADED``: its
    caller knows at once that it did not run. Calls that a queue delivers wait as long as it takes.

    A fixed limit has no default, because what a worker can do at once depends on its handlers. An
    adaptive one is found between two bounds, from how long the handlers take: it grows while more
    calls at once do not make each of them slower.

    Args:
        concurrency: Handlers at once. Of an adaptive limit: where it begins, None for `low`.
        wait: Seconds that a call may wait for one of them to end. With a full worker nearly every
            call that is served waited so long: choose no more than a handler takes.
        adaptive: Whether the limit is found.
        low: The smallest adaptive limit.
        high: The largest adaptive limit.

    Raises:
        ValueError: A number out of range, no number at all, or bounds that do not belong together.
    """

    concurrency: int | None = attrs.field(
        default=None, validator=number(least=1, optional=True, integer=True)
    )
    wait: float = attrs.field(default=0.1, validator=number(least=0, unit="seconds"))
    adaptive: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    low: int | None = attrs.field(
        default=None, validator=number(least=1, optional=True, integer=True)
    )
    high: int | None = attrs.field(
        default=None, validator=number(least=1, optional=True, integer=True)
    )

    def __attrs_post_init__(self) -> None:
        if not self.adaptive:
            if self.concurrency is None:
                raise ValueError(
                    "Limit needs concurrency=, the number of handlers that may run at once, or "
                    "adaptive=True with low= and high="
                )
            if self.low is not None or self.high is not None:
                raise ValueError("Limit.low and Limit.high need adaptive=True")
            return
        low, high = self.low, self.high
        if low is None or high is None:
            raise ValueError("Limit(adaptive=True) needs both bounds: low= and high=")
        if not low <= (self.concurrency or low) <= high:
            raise ValueError(
                f"Limit.low ({low}), Limit.concurrency ({self.concurrency}) and Limit.high "
                f"({high}) must be in this order"
            )

    @property
    def first(self) -> int:
        """The limit at the start."""
        return self.concurrency or self.low or 1


class ConcurrencyLimit:
    """The calls under one limit: those that run, and those that wait.

    Thread-safe, and for coroutines of any event loop.

    Args:
        limit: The limit.
        function_id: The function that it is for; None for all functions of a worker.
        now: Monotonic time in seconds.

    Attributes:
        function_id: As above.
        refused: Calls that were refused.
    """

    def __init__(self, limit: Limit, function_id: str | None, now: float) -> None:
        self.function_id = function_id
        self.refused = 0
        self._wait = limit.wait
        self._slots = Slots(limit.first, sys.maxsize, TIMEOUT_MAX)
        self._gradient: LatencyGradient | None = None
        if limit.adaptive and limit.low is not None and limit.high is not None:
            self._gradient = LatencyGradient(limit.low, limit.high, limit.first, now)
        self._limit = limit.first
        self._mean: float | None = None
        self._lock = threading.Lock()
        _all.add(self)

    @property
    def limit(self) -> int:
        """How many may run at once now."""
        return self._limit

    @property
    def running(self) -> int:
        """How many run."""
        return self._slots.inside

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._slots.waiting

    async def admit(self, left: float | None, *, patient: bool) -> Permit | None:
        """Wait until one more handler may run.

        Args:
            left: Seconds that the call has left, or None for no bound of its own.
            patient: Whether it waits as long as it takes.

        Returns:
            The permit, for which exactly one `finished` must follow; None if the time was over.
        """
        if not patient:
            left = self._wait if left is None else min(left, self._wait)
        permit = await self._slots.acquire_async(left)
        if permit is not None and self._gradient is not None:
            with self._lock:
                self._gradient.started(self._slots.inside)
        return permit

    def finished(self, permit: Permit, started: float, now: float, *, failed: bool = False) -> None:
        """A handler has ended: the first call that waits may run.

        Args:
            permit: What `admit` returned.
            started: Monotonic time of the handler's start, in seconds.
            now: Monotonic time in seconds.
            failed: Whether it raised.
        """
        with self._lock:
            if not failed:
                seconds = now - started
                mean = seconds if self._mean is None else self._mean
                self._mean = mean + _WEIGHT * (seconds - mean)
            gradient = self._gradient
            if gradient is not None and gradient.finished(started, now, failed=failed):
                self._limit = gradient.limit
                self._slots.retune(now, self._limit, sys.maxsize, TIMEOUT_MAX)
        self._slots.release(permit)

    def refuse(self) -> float | None:
        """Count a call that is refused.

        Returns:
            Seconds until a call that arrives now would be served, from how long handlers have
            taken so far; None before one has ended.
        """
        with self._lock:
            self.refused += 1
            mean = self._mean
        if mean is None:
            return None
        return min(_LONGEST_RETRY_AFTER, mean * (self.waiting + 1) / self._limit)


_all: weakref.WeakSet[ConcurrencyLimit] = weakref.WeakSet()


def limits_in_use() -> list[ConcurrencyLimit]:
    """The limits of all workers of this process."""
    return list(_all)
