"""The clock of decorators and loops: monotonic time, and sleeping in threads and coroutines.

Everything that retries a user's own code reads the time here, so that a test replaces it in one
place (`iii_resilience.testing.fake_clock`). The names are those of `time`, which freezegun replaces
in every module that holds them.
"""

from __future__ import annotations

from time import monotonic, sleep

__all__ = ["LONGEST_SECONDS", "monotonic", "sleep", "sleep_async"]

LONGEST_SECONDS = 1e9
"""The longest time that is taken, in seconds: 31 years. `time.sleep` and locks overflow at about
nine times that, and sums of times and of the monotonic clock stay far from it."""


async def sleep_async(seconds: float) -> None:
    """Sleep without blocking the event loop.

    Args:
        seconds: How long.
    """
    import asyncio  # noqa: PLC0415 - a program without coroutines never needs it

    await asyncio.sleep(seconds)
