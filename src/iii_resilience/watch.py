"""Looking again and again whether something has changed: in a thread, or in a task.

Knows nothing of what is looked at.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from iii_resilience.lazy import later

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = later("asyncio")  # only who watches in a task needs it

logger = logging.getLogger("iii_resilience")

Look = Callable[[], float | None]


class Watch:
    """A daemon thread that looks again and again, until it is closed.

    Args:
        look: Looks once. Returns the seconds until it wants to look again, or None when there is
            nothing left to look at. What it raises is logged, and it goes on.
        every: Seconds until the next look after one that raised.
        name: The thread's name.
    """

    def __init__(self, look: Look, every: float, name: str) -> None:
        self._look = look
        self._every = every
        self._again = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it still looks. In a forked child it does not."""
        return self._thread.is_alive()

    def look_now(self) -> None:
        """Look at once instead of at the next turn. Never blocks; safe in any thread."""
        self._again.set()

    def close(self) -> None:
        """Look no more. Returns when a look that is under way has ended."""
        self._closed = True
        self._again.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closed:
            pause = _looked(self._look, self._every)
            if pause is None:
                return
            self._again.wait(pause)
            self._again.clear()


async def watch_async(look: Look, every: float) -> None:
    """As `Watch`, in a task, until it is cancelled.

    The looks themselves are made in a thread, one after another: reading a file takes time.

    Args:
        look: As for `Watch`.
        every: As for `Watch`.
    """
    pause: float | None = 0.0
    while pause is not None:
        await asyncio.sleep(pause)
        pause = await asyncio.to_thread(_looked, look, every)


def _looked(look: Look, every: float) -> float | None:
    try:
        return look()
    except Exception:
        logger.exception("looking for changes failed; it is tried again")
        return every
