"""Delay schedules with jitter: how long to wait before a retry.

Randomness is an argument. Knows nothing of failures, deadlines or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs

from iii_resilience.core.validators import Choice, checked_names, number, seconds

_SLOW = 1.0  # seconds

JITTERS = ("full", "equal", "decorrelated", "none")


class _Default(float):
    """A default that gives way to a smaller cap; a base that was given does not."""


_BASE = _Default(0.2)


@checked_names
@attrs.frozen
class Backoff:
    """An exponential delay schedule, capped and jittered.

    The ceiling of the n-th retry is ``min(cap, base * factor**n)``. Full jitter draws the delay
    from 0 up to that ceiling; at 100 contending clients it halves the calls of un-jittered
    backoff (re-run of the AWS backoff simulator; docs/engine-notes.md, 14).

    Args:
        base: Ceiling of the first delay, in seconds; the default follows a smaller cap.
        factor: Growth from one retry to the next.
        cap: Largest delay, in seconds; also the longest pushback that is waited for.
        throttled_base: ``base`` for failures that say "slow down", in seconds; None for 1 s, or
            the cap where that is less.
        jitter: ``full`` (from 0 to the ceiling), ``equal`` (upper half of it), ``decorrelated``
            (from the base to three times the previous delay) or ``none``.

    Raises:
        ValueError: A number out of range, or an unknown jitter.
    """

    base: float = attrs.field(default=_BASE, validator=number(least=0, unit="seconds"))
    factor: float = attrs.field(default=2.0, validator=number(least=1))
    cap: float = attrs.field(default=20.0, validator=number(least=0, unit="seconds"))
    throttled_base: float | None = attrs.field(
        default=None, validator=number(least=0, optional=True, unit="seconds")
    )
    jitter: str = attrs.field(default="full", validator=Choice(JITTERS))

    def __attrs_post_init__(self) -> None:
        if isinstance(self.base, _Default):
            object.__setattr__(self, "base", _Default(min(_BASE, self.cap)))
        for name in ("base", "throttled_base"):
            value = getattr(self, name)
            if value is not None and value > self.cap:
                raise ValueError(
                    f"Backoff.{name} ({seconds(value)}) must not be above "
                    f"Backoff.cap ({seconds(self.cap)})"
                )

    @property
    def slow_base(self) -> float:
        """``base`` for failures that say "slow down", in seconds."""
        return min(_SLOW, self.cap) if self.throttled_base is None else self.throttled_base

    def ceiling(self, retry: int, *, throttled: bool = False) -> float:
        """The largest delay before a retry.

        Args:
            retry: 0 for the first retry, 1 for the second …
            throttled: Whether the failure said "slow down".

        Returns:
            Seconds. Never overflows, whatever the number of the retry.
        """
        base = self.slow_base if throttled else self.base
        if retry == 0 or base == 0.0:
            return base  # at most the cap
        # Compared as logarithms first: factor**retry itself overflows after about 1000 retries.
        if retry * math.log(self.factor) >= math.log(self.cap / base):
            return self.cap
        try:
            return min(self.cap, base * self.factor**retry)
        except OverflowError:  # where cap / base is beyond what a float holds itself
            return self.cap

    def delay(
        self,
        retry: int,
        random: Callable[[], float],
        *,
        throttled: bool = False,
        previous: float | None = None,
    ) -> float:
        """The delay before a retry.

        Args:
            retry: 0 for the first retry, 1 for the second …
            random: Returns a number in [0, 1).
            throttled: Whether the failure said "slow down".
            previous: The delay before this one in seconds (only ``decorrelated`` looks at it).

        Returns:
            Seconds, between 0 and ``cap``.
        """
        if self.jitter == "decorrelated":
            base = self.slow_base if throttled else self.base
            upper = max(base, 3.0 * (previous if previous is not None else base))
            return min(self.cap, base + random() * (upper - base))
        ceiling = self.ceiling(retry, throttled=throttled)
        if self.jitter == "none":
            return ceiling
        if self.jitter == "equal":
            return ceiling / 2 + random() * ceiling / 2
        return random() * ceiling
