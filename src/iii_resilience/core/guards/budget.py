"""Retry budgets: a bucket of permits that successful calls refill.

As long as retries help they cost nothing; when they do not, they stop. A permit is reserved before
the delay of a retry, not after it: waiting retries count, so a thousand of them cannot all be sent
when their delays end (docs/engine-notes.md, 14). Knows nothing of failures or policies, and has no
clock: every method that needs the time takes it.
"""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from typing import Any, ClassVar

import attrs

from iii_resilience.core.guards.scopes import Guard, Scope
from iii_resilience.core.validators import checked_names, number

_COST = 2  # a failed call costs what two successes earn: the level rises while over 2/3 succeed
_OTHER_CLOCK = 1.0  # seconds: threads read the clock less than that before one another
# With so many permits left, retries under way are failures at random. With fewer, a service fails,
# and each moment that counts as before that is one more attempt for each call of that moment.
_MOST_LEFT = 0.75
_SCOPES_MOST = 10_000  # buckets kept; beyond it the oldest ones start anew


class PermitBucket:
    """The permits of one function under one policy.

    Thread-safe, and safe to share between event loops: nothing in it waits. All writes are made
    under its lock. `level` and `burst` may be read without it: a caller whose look is outdated
    reports a success that changes nothing, or reports none and leaves the bucket less full.

    For each permit exactly one of `release`, `succeeded`, `gave_up` or `abandoned` must follow.

    Args:
        ratio: Permits that a successful call earns.
        burst: Permits at the start, and at most.
        min_per_second: Permits that time alone adds, a second.

    Attributes:
        level: Permits left, without what time has added since the last change.
        burst: Permits at most.
        refunded: Permits that came back with the success of their call.
        wasted: Permits of retries that were sent for a call that failed all the same.
    """

    __slots__ = (
        "__weakref__",
        "_empty_since",
        "_full_at",
        "_lock",
        "_min_per_second",
        "_out",
        "_ratio",
        "_refilled",
        "burst",
        "level",
        "refunded",
        "wasted",
    )

    def __init__(self, ratio: float, burst: float, min_per_second: float) -> None:
        self._ratio = ratio
        self._min_per_second = min_per_second
        self.burst = burst
        self.forget()

    def forget(self) -> None:
        """Start anew: in a forked child what was taken, and who holds the lock, is another's."""
        self.level = self.burst
        self.refunded = self.wasted = 0
        self._out = 0.0  # reserved, and not yet back or lost
        self._refilled = 0.0
        self._full_at = -math.inf
        self._empty_since: float | None = None
        # Reentrant: a coroutine that the garbage collector ends gives its permit back wherever it
        # is found, and that may be in the middle of one of these methods.
        self._lock = threading.RLock()

    def reserve(self, now: float) -> bool:
        """Reserve the permit for one retry.

        Args:
            now: Monotonic time in seconds.

        Returns:
            Whether there was one.
        """
        with self._lock:
            self._refill(now)
            if self.level < 1.0:
                return False
            level = self.level
            # As in `succeeded` and `_take`, without their frames: each retry comes here.
            if level >= _MOST_LEFT * self.burst and level + self._out >= self.burst:
                self._full_at = max(self._full_at, now)
            self._out += 1.0
            self.level = level = level - 1.0
            if level < 1.0:
                self._empty_since = now
            return True

    def was_in_flight(self, started: float) -> bool:
        """Whether an attempt was in flight when the bucket was last full.

        What was in flight when trouble began is one event, such as the death of a worker: one retry
        of each of these calls needs no permit. What it sends then has started after that moment, so
        it is at most one attempt for each of them. The permits of retries that are under way count
        as there: where a call succeeds, and where one fails while most of the permits are left.

        Args:
            started: Monotonic time of the attempt's start, in seconds.
        """
        return started < self._full_at

    def release(self) -> None:
        """A retry was not sent: its permit is given back."""
        with self._lock:
            self._out -= 1.0
            self._add(1.0)

    def succeeded(self, now: float, permits: int = 0) -> None:
        """A call has succeeded. A call without permits need not report it to a full bucket.

        Args:
            now: Monotonic time in seconds.
            permits: The permits of its retries that were sent; they are given back.
        """
        with self._lock:
            self.refunded += permits
            self._out -= permits
            self._add(permits + self._ratio)
            # Permits that are out may all come back: retries of failures at random, that help,
            # must not hide that nothing is lost.
            if self.level + self._out >= self.burst:
                self._full_at = max(self._full_at, now)

    def gave_up(self, now: float, permits: int = 0) -> None:
        """A call was sent, failed in a way that another call might not, and is given up.

        Args:
            now: Monotonic time in seconds.
            permits: The permits of its retries that were sent; they are lost.
        """
        with self._lock:
            self.wasted += permits
            self._out -= permits
            self._refill(now)
            self._take(_COST * self._ratio, now)

    def abandoned(self, permits: int) -> None:
        """A call ended in a way that says nothing about retries: cancelled, or not retryable.

        Args:
            permits: The permits of its retries that were sent; they are lost.
        """
        with self._lock:
            self.wasted += permits
            self._out -= permits

    @property
    def taken(self) -> int:
        """Permits reserved, without those that were released."""
        with self._lock:
            return int(self._out) + self.refunded + self.wasted

    def available(self, now: float) -> float:
        """Permits left at this moment.

        Args:
            now: Monotonic time in seconds.
        """
        with self._lock:
            self._refill(now)
            return self.level

    def empty_for(self, now: float) -> float:
        """Seconds since there was a permit left; 0 while there is one.

        Args:
            now: Monotonic time in seconds.
        """
        with self._lock:
            self._refill(now)
            since = self._empty_since
            return 0.0 if since is None else max(0.0, now - since)

    def retune(self, now: float, ratio: float, burst: float, min_per_second: float) -> None:
        """Go by other numbers from now on. The permits left stay, up to the new `burst`.

        Args:
            now: Monotonic time in seconds.
            ratio: As for the class.
            burst: As for the class.
            min_per_second: As for the class.
        """
        with self._lock:
            self._refill(now)
            self._ratio, self._min_per_second, self.burst = ratio, min_per_second, burst
            self.level = min(self.level, burst)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, or the one in another process, starts full: locks and permits stay here.
        return type(self), (self._ratio, self.burst, self._min_per_second)

    def _refill(self, now: float) -> None:
        """Add what time has added, and note when the bucket is full."""
        elapsed = now - self._refilled
        if elapsed >= 0.0:
            self._refilled = now
            level = self.level + self._min_per_second * elapsed
            if level >= self.burst:
                level, self._full_at = self.burst, now
            self.level = level
            if level >= 1.0:
                self._empty_since = None
        elif elapsed < -_OTHER_CLOCK:  # another clock than before (freezegun's ended): adds nothing
            self._refilled = now
            self._full_at = min(self._full_at, now)

    def _add(self, permits: float) -> None:
        level = self.level = min(self.burst, self.level + permits)
        if level >= 1.0:
            self._empty_since = None

    def _take(self, permits: float, now: float) -> None:
        level = self.level = max(0.0, self.level - permits)
        if level < 1.0 and self._empty_since is None:
            self._empty_since = now


@checked_names
@attrs.frozen
class Budget(Guard[PermitBucket]):
    """How many retries may be sent: as many as help, and few where they do not.

    A bucket of permits that success refills. A retry takes one permit. A call that succeeds gives
    back what its own retries took, and earns `ratio`. A call that is given up on a retryable
    failure costs twice the `ratio`. Other failures, and calls that were cancelled or never sent,
    change nothing. While more than two thirds of the calls succeed the bucket fills; while fewer
    do, it empties, and retries stop. So retries never keep a service down that they have helped
    to overload. docs/fleet.md has the measurements that the default numbers come from.

    Over any time, the permits that are not given back are at most ``burst + ratio * successes +
    min_per_second * seconds``. With an empty bucket, calls that were in flight when it was last
    full still get one retry.

    The state is kept for each function. The object holds it, so policies that hold the same object
    share it, and a `replace` of a policy shares that of the policy.

    Args:
        ratio: Permits that a successful call earns, at most 1.
        burst: Permits at the start, and at most. All processes of a program have their own: after
            a deployment a fleet may send processes * functions * burst retries at once.
        min_per_second: Permits that time alone adds, a second. Keep it so small that it is small
            for the whole fleet.

    Raises:
        ValueError: A number out of range.
        TypeError: An unknown argument, ``window`` among them.
    """

    REMOVED: ClassVar[dict[str, str]] = {
        "window": "a budget has no window since 0.2: successful calls refill it. Leave it out, and "
        "give 'burst' (permits at most, 10 if left out) in place of min_per_second * window; "
        "min_per_second is 0.005 if left out, because each process of a fleet adds it"
    }

    ratio: float = attrs.field(default=0.1, validator=number(least=0, most=1))
    # By name only: before 0.2 these places were min_per_second and window.
    burst: float = attrs.field(default=10.0, kw_only=True, validator=number(least=1))
    min_per_second: float = attrs.field(default=0.005, kw_only=True, validator=number(least=0))

    def bucket_for(self, scope: Scope = None) -> PermitBucket:
        """The bucket of a scope, made at its first use.

        Args:
            scope: The function (see `Scope`); None for one bucket that several functions share.
        """
        bucket = self._states.get(scope)
        if bucket is None:
            while len(self._states) >= _SCOPES_MOST:
                with suppress(KeyError, StopIteration, RuntimeError):  # another thread does it too
                    del self._states[next(iter(self._states))]
            bucket = self._states.add(scope, PermitBucket)
        return bucket
