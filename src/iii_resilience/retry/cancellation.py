"""Detects cancellations of an async call that an attempt has swallowed.

A retry must not keep a cancelled task alive if its attempt turned the cancellation into an error.
Knows nothing of policies or retries.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from iii_resilience.core.lazy_imports import lazy_module

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = lazy_module("asyncio")  # a program without coroutines never needs it

_CAUSES_LOOKED_AT = 8


class Cancellations:
    """The cancellations of one async call: whether an attempt swallowed one.

    Args:
        before: How many its task had been asked for when the call began. A call may clean up for a
            task that is being cancelled: only what comes later counts.

    Attributes:
        timed_out: Whether the last attempt was to end by its timeout and ended otherwise.
    """

    __slots__ = ("_before", "timed_out")

    def __init__(self, before: int) -> None:
        self._before = before
        self.timed_out = False

    def swallowed(self, error: Exception) -> bool:
        """Whether the attempt that has just failed was to end by a cancellation."""
        if self.timed_out:
            return True
        # The count alone would not do: up to Python 3.12 a TaskGroup whose task failed leaves it
        # one too high.
        return cancellations_asked_for() > self._before and _comes_of_a_cancellation(error)


def cancellations_asked_for() -> int:
    """How many cancellations the running task has been asked for; 0 where there is no task."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a coroutine that is driven by hand
        return 0
    return 0 if task is None else task.cancelling()


def refuse_other_libraries(name: str) -> None:
    """Refuse a coroutine that another library than asyncio runs; one driven by hand may go on.

    Args:
        name: What is called.

    Raises:
        RuntimeError: It runs under trio or the like, where the first delay would fail.
    """
    sniffio = sys.modules.get("sniffio")  # trio sets it; without it there is no other library
    if sniffio is None:
        return
    try:
        library = sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return
    if library != "asyncio":
        raise RuntimeError(
            f"{name} runs under {library}, and its retries need asyncio: nothing was called. Run "
            "it with asyncio, or use tenacity there: "
            "tenacity.AsyncRetrying(**policy.to_tenacity(idempotent=True))"
        ) from None  # asyncio's own error says nothing to a program that does not use it


def _comes_of_a_cancellation(error: BaseException | None) -> bool:
    for _ in range(_CAUSES_LOOKED_AT):
        if error is None or isinstance(error, asyncio.CancelledError):
            return error is not None
        error = error.__cause__ or error.__context__
    return False
