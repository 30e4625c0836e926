"""Retry budgets: limit the load that retries add to the calls.

A permit is reserved before the delay of a retry, not after it: waiting retries count, so a thousand
of them cannot all pass when their delays end (docs/engine-notes.md, 14). Knows nothing of failures
or policies, and has no clock: every method takes the time.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import attrs

from iii_resilience.core.guards.scopes import Guard
from iii_resilience.core.validators import checked_names, number

_BUCKETS = 10
_SCOPES_MOST = 10_000  # counts kept; beyond it the oldest ones start anew


class BudgetWindow:
    """What one budget has seen in its sliding window: calls, retries sent, permits reserved.

    Thread-safe, and safe to share between event loops: nothing in it waits.

    Args:
        ratio: Retries allowed for each call in the window.
        allowance: Retries allowed in the window whatever the number of calls.
        window: Length of the window in seconds.
    """

    __slots__ = (
        "__weakref__",
        "_allowance",
        "_calls",
        "_lock",
        "_newest",
        "_place",
        "_ratio",
        "_reserved",
        "_retries",
        "_since",
        "_until",
        "_width",
    )

    def __init__(self, ratio: float, allowance: float, window: float) -> None:
        self._ratio = ratio
        self._allowance = allowance
        self._width = window / _BUCKETS
        self.forget()

    def forget(self) -> None:
        """Start anew: in a forked child what was counted, and who holds the lock, is another's."""
        self._clear()
        self._reserved = 0
        # Reentrant: a coroutine that the garbage collector ends gives its permit back wherever it
        # is found, and that may be in the middle of one of these methods.
        self._lock = threading.RLock()

    def called(self, now: float) -> None:
        """Count one call (its first attempt).

        Args:
            now: Monotonic time in seconds.
        """
        # Every call comes here, and most find the current bucket: those take no lock. No thread
        # can come between the next two lines where one runs at a time; where several do, a call
        # may be lost, which makes the budget smaller and never larger.
        if self._since <= now < self._until:
            self._calls[self._place] += 1
            return
        with self._lock:
            self._calls[self._advance(now)] += 1

    def reserve(self, now: float) -> bool:
        """Reserve the permit for one retry.

        Args:
            now: Monotonic time in seconds.

        Returns:
            Whether the budget allows it. If so, exactly one of `spend` or `release` must follow.
        """
        with self._lock:
            if not self._since <= now < self._until:
                self._advance(now)
            if self._free() < 1.0:
                return False
            self._reserved += 1
            return True

    def spend(self, now: float) -> None:
        """The retry is being sent: the permit becomes a retry in the window."""
        with self._lock:
            current = self._since <= now < self._until
            self._retries[self._place if current else self._advance(now)] += 1
            self._reserved -= 1

    def release(self) -> None:
        """The retry will not be sent: the permit is given back."""
        with self._lock:
            self._reserved -= 1

    def available(self, now: float) -> float:
        """Permits left at this moment (never negative)."""
        with self._lock:
            self._advance(now)
            return max(0.0, self._free())

    def retune(self, now: float, ratio: float, allowance: float, window: float) -> None:
        """Go by other numbers from now on; permits that are reserved or spent stay so.

        In a window of another length the retries count as sent now, and calls are counted anew.

        Args:
            now: Monotonic time in seconds.
            ratio: As for the class.
            allowance: As for the class.
            window: As for the class.
        """
        with self._lock:
            self._ratio, self._allowance = ratio, allowance
            if window / _BUCKETS != self._width:
                self._advance(now)
                spent = sum(self._retries)
                self._clear()
                self._width = window / _BUCKETS
                self._retries[self._advance(now)] = spent

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, or the one in another process, counts for itself: locks and permits stay here.
        return type(self), (self._ratio, self._allowance, self._width * _BUCKETS)

    def _clear(self) -> None:
        self._place, self._since, self._until = 0, 0.0, 0.0  # no time lies between them
        self._newest: int | None = None
        # One bucket more than the window is long, because the oldest one is only partly in it:
        # retries count while a part of their bucket does, calls only while all of it does, so
        # that never more retries pass than the window allows.
        self._calls = [0] * (_BUCKETS + 1)
        self._retries = [0] * (_BUCKETS + 1)

    def _free(self) -> float:
        oldest = 0 if self._newest is None else (self._newest + 1) % (_BUCKETS + 1)
        allowed = self._ratio * (sum(self._calls) - self._calls[oldest]) + self._allowance
        return allowed - sum(self._retries) - self._reserved

    def _advance(self, now: float) -> int:
        """Forget the buckets that have left the window; the index of the current one."""
        tick = int(now / self._width)
        newest = self._newest
        size = _BUCKETS + 1
        if newest is not None and tick < newest - size:
            newest = None  # another clock than before (freezegun's ended): nothing is known of it
        if newest is None or tick > newest:
            for gone in range(size if newest is None else min(tick - newest, size)):
                self._calls[(tick - gone) % size] = self._retries[(tick - gone) % size] = 0
            self._until = self._since  # no time lies between them until all are those of the tick
            self._newest = newest = tick
            self._place = tick % size
            self._since = tick * self._width
            self._until = (tick + 1) * self._width
        # A clock read before another thread's later one must not reach back into the past.
        return newest % size


@checked_names
@attrs.frozen
class Budget(Guard[BudgetWindow]):
    """How many retries may be sent beside the calls: a ratio of them, plus a minimum.

    In any window the retries sent stay at or below ``ratio * calls + min_per_second * window``.
    20 % and 10 a second over 10 s are Finagle's numbers (docs/engine-notes.md, 14). At total
    failure the load is 1.2 times the calls, and a program that calls seldom still gets its
    retries.

    The object keeps its own count, so policies that hold the same object share it.

    Args:
        ratio: Retries allowed for each call.
        min_per_second: Retries a second allowed whatever the number of calls.
        window: Length of the sliding window in seconds.

    Raises:
        ValueError: A number out of range.
    """

    ratio: float = attrs.field(default=0.2, validator=number(least=0))
    min_per_second: float = attrs.field(default=10.0, validator=number(least=0))
    window: float = attrs.field(default=10.0, validator=number(above=0, unit="seconds"))

    def window_for(self, scope: str | None = None) -> BudgetWindow:
        """The count kept for a scope, made at its first use.

        Args:
            scope: A function id in `worker.trigger`; None for everything under one policy.
        """
        window = self._states.get(scope)
        if window is None:
            while len(self._states) >= _SCOPES_MOST:
                with suppress(KeyError, StopIteration, RuntimeError):  # another thread does it too
                    del self._states[next(iter(self._states))]
            window = self._states.add(scope, BudgetWindow)
        return window

    def _numbers(self) -> tuple[float, float, float]:
        return self.ratio, self.min_per_second * self.window, self.window
