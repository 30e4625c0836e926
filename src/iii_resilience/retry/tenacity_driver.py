"""Drives tenacity: after each failed attempt it passes the run's decision to it.

Knows nothing of attempts, or of the reason for a decision: the run of the call makes it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Protocol

import tenacity

from iii_resilience.core.decide import Decision


class DrivenCall(Protocol):
    """The run of a call, as far as tenacity has to do with it."""

    name: str
    started: float

    @abstractmethod
    def decided(self, state: tenacity.RetryCallState | None) -> Decision:
        """The decision about the attempt that just failed; made for the first that asks."""


def hooks(run: DrivenCall) -> dict[str, Any]:
    """Tenacity's keyword arguments for the run of one call (all but ``sleep``).

    Tenacity asks them in an order that depends on how an attempt ended, and not always all.
    """
    return {
        "before": partial(_before, run),
        "retry": partial(_retry, run),
        "wait": partial(_wait, run),
        "stop": partial(_stop, run),
        "retry_error_callback": lambda _: run,
    }


def _before(run: DrivenCall, state: tenacity.RetryCallState) -> None:
    # Tenacity came in after the first failure; a user's stop_after_delay counts from the call's
    # start.
    state.start_time = run.started


def _retry(run: DrivenCall, state: tenacity.RetryCallState) -> bool:
    if state.outcome is None or not state.outcome.failed:
        return False
    run.decided(state)
    return True  # whether it is given up is what `_stop` answers


def _wait(run: DrivenCall, state: tenacity.RetryCallState) -> float:
    return run.decided(state).delay or 0.0


def _stop(run: DrivenCall, state: tenacity.RetryCallState) -> bool:
    return not run.decided(state).retry


class CallState(tenacity.RetryCallState):
    """Tenacity's state of one call, from the outcome of its first attempt on.

    `tenacity.Retrying` would make the first attempt itself, and be made anew for every call. What
    it decides with has no state but this one, so a few of them serve all calls, each for a step at
    a time. The loop around the steps is the one of `tenacity.Retrying.__call__`; an attempt follows
    every sleep there too.

    Args:
        run: The call's attempts and decisions; its first attempt has just failed.
        error: What that attempt raised.
        attempt: What makes an attempt, for whoever looks at the state.
    """

    def __init__(self, run: DrivenCall, error: Exception, attempt: Callable[[], Any]) -> None:
        super().__init__(_shown_to_users(), attempt, (), {})
        self.start_time = run.started  # a user's stop_after_delay counts from the call's start
        self.run = run
        self.failed_with(error)

    def __repr__(self) -> str:  # tenacity's shows what the attempt raised
        return f"<{type(self).__name__} of {self.run.name}: attempt {self.attempt_number}>"

    def failed_with(self, error: Exception) -> None:
        """The attempt has failed."""
        self.set_exception((type(error), error, error.__traceback__))

    def next_step(self) -> Any:
        """What tenacity says about the attempt that has just failed: a sleep, or nothing more."""
        try:
            retrying = _idle.pop()
        except IndexError:  # the first one, or another call is in the middle of a step
            retrying = tenacity.Retrying(
                retry=_step(_retry),
                wait=_step(_wait),
                stop=_step(_stop),
                retry_error_callback=_given_up,
            )
        try:
            if not retrying.statistics:  # each thread has its own
                retrying.begin()
            return retrying.iter(self)
        finally:
            _idle.append(retrying)


_idle: list[tenacity.Retrying] = []


@cache
def _shown_to_users() -> tenacity.Retrying:
    """The ``retry_object`` that a user's ``wait`` or ``stop`` finds on the state."""
    return tenacity.Retrying()


def _step(hook: Callable[[DrivenCall, Any], Any]) -> Callable[[Any], Any]:
    return lambda state: hook(state.run, state)


def _given_up(_: Any) -> None:
    """Whoever made the step ends the call."""
