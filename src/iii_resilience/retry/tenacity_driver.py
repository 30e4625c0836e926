"""Tenacity's state machine for calls whose policy has a ``wait`` or ``stop`` of the user's.

Those two see tenacity's own state of the call, as in `tenacity.Retrying`; the decision stays that
of `core.decide`. Knows nothing of attempts, or of why something is decided.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from functools import cache
from typing import Any, Protocol

import tenacity

from iii_resilience.core.decide import Decision


class DrivenCall(Protocol):
    """The call, as far as tenacity needs it."""

    @abstractmethod
    def decided(self, state: tenacity.RetryCallState | None) -> Decision:
        """The decision about the attempt that just failed, made when it is first needed."""


class TenacityDriver(tenacity.RetryCallState):
    """Tenacity's state of one call, from the outcome of its first attempt on.

    `tenacity.Retrying` would make the first attempt itself, and be made anew for every call. What
    it decides with has no state but this one, so a few of them serve all calls, each for a step at
    a time. The loop around the steps is the one of `tenacity.Retrying.__call__`; an attempt follows
    every sleep there too.

    Args:
        call: The call; its first attempt has just failed.
        name: What it calls.
        started: Monotonic time of its start in seconds: a user's ``stop_after_delay`` counts from
            there.
    """

    def __init__(self, call: DrivenCall, name: str, started: float) -> None:
        super().__init__(_shown_to_users(), None, (), {})
        self.start_time = started
        self.call = call
        self._name = name

    def __repr__(self) -> str:  # tenacity's shows what the attempt raised
        return f"<{type(self).__name__} of {self._name}: attempt {self.attempt_number}>"

    def attempt_failed(self, error: Exception) -> None:
        """The attempt has failed."""
        self.set_exception((type(error), error, error.__traceback__))

    def next_delay(self) -> float | None:
        """Seconds until the next attempt; None if the call is given up."""
        try:
            retrying = _idle.pop()
        except IndexError:  # the first one, or another call is in the middle of a step
            retrying = tenacity.Retrying(
                retry=_retry,
                wait=_wait,
                stop=_stop,
                retry_error_callback=_given_up,
            )
        try:
            if not retrying.statistics:  # each thread has its own
                retrying.begin()
            step = retrying.iter(self)
        finally:
            _idle.append(retrying)
        if not isinstance(step, tenacity.DoSleep):
            return None
        self.prepare_for_next_attempt()
        return float(step)


_idle: list[tenacity.Retrying] = []


@cache
def _shown_to_users() -> tenacity.Retrying:
    """The ``retry_object`` that a user's ``wait`` or ``stop`` finds on the state."""
    return tenacity.Retrying()


def _retry(state: Any) -> bool:
    driver: TenacityDriver = state
    driver.call.decided(driver)
    return True  # `_stop` says whether it is given up


def _wait(state: Any) -> float:
    driver: TenacityDriver = state
    return driver.call.decided(driver).delay or 0.0


def _stop(state: Any) -> bool:
    driver: TenacityDriver = state
    return driver.call.decided(driver).delay is None


def _given_up(_: Any) -> None:
    """The call that made the step raises its own exception."""


def finite_delay(value: Any) -> float:
    """What a user's ``wait`` returned, as seconds that can be slept."""
    seconds = float(value)
    # An endless wait must not become none; above the limit time.sleep() raises.
    return min(seconds, threading.TIMEOUT_MAX) if seconds > 0 else 0.0
