"""The clock of decorators and loops: monotonic time, and sleeping in threads and coroutines.

Everything that retries a user's own code reads the time here, so that a test replaces it in one
place (`iii_resilience.testing.fake_clock`). The names are those of `time`, which freezegun replaces
in every module that holds them.
"""

from __future__ import annotations

from time import monotonic, sleep

__all__ = ["monotonic", "sleep", "sleep_async"]


async def sleep_async(seconds: float) -> None:
    """Sleep without blocking the event loop.

    Args:
        seconds: How long.
    """
    import asyncio  # noqa: PLC0415 - a program without coroutines never needs it

    await asyncio.sleep(seconds)
