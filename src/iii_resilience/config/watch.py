"""Follows the source of a policy book by polling, in a thread or a task.

A file may be read while it is being written, so a change takes effect only when two polls in a row,
a while apart, find the same content. Knows nothing of files or engines: a `Source` reads them.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from iii_resilience.config.changes import changes
from iii_resilience.config.policy_set import Book, Snapshot, Source
from iii_resilience.core.errors import ConfigError
from iii_resilience.core.event_count import refused_reloads
from iii_resilience.core.lazy_imports import lazy_module
from iii_resilience.core.observers import logger
from iii_resilience.core.validators import number

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = lazy_module("asyncio")  # only a watch in a task needs it


Check = Callable[[], float | None]


class Watch:
    """A daemon thread that looks again and again, until it is closed.

    Args:
        check: Looks once. Returns the seconds until it wants to look again, or None when there is
            nothing left to look at. What it raises is logged, and it goes on.
        every: Seconds until the next look after one that raised.
        name: The thread's name.
    """

    def __init__(self, check: Check, every: float, name: str) -> None:
        self._check = check
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
            pause = _checked(self._check, self._every)
            if pause is None:
                return
            self._again.wait(pause)
            self._again.clear()


async def watch_async(check: Check, every: float) -> None:
    """As `Watch`, in a task, until it is cancelled.

    The looks themselves are made in a thread, one after another: reading a file takes time.

    Args:
        check: As for `Watch`.
        every: As for `Watch`.
    """
    pause: float | None = 0.0
    while pause is not None:
        await asyncio.sleep(pause)
        pause = await asyncio.to_thread(_checked, check, every)


def _checked(check: Check, every: float) -> float | None:
    try:
        return check()
    except Exception:
        logger.exception("looking for changes failed; it is tried again")
        return every


_SETTLES_AFTER = 0.1  # seconds between the two looks; a program writes a policy file in less


class SourceCheck:
    """Looks whether the source of a book has changed, and lets the book follow it.

    What does not validate is logged once as an error, and the book stays as it is.

    Args:
        book: The book. The watch ends when the book is no longer referenced elsewhere.
        source: Where its policies come from.
        every: Seconds between two polls while nothing changes.
        clock: The monotonic time in seconds.

    Raises:
        ValueError: `every` is not a number above 0.
    """

    def __init__(
        self,
        book: Book,
        source: Source,
        every: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        number(above=0, unit="seconds").require("every", every)
        self._book = weakref.ref(book)
        self._source = source
        self._every = every
        self._settle = min(every, _SETTLES_AFTER)
        self._clock = clock
        self._seen: bytes | None = None
        self._settled_at = 0.0
        self._refused: bytes | None = None

    def __call__(self) -> float | None:
        """Look once; the seconds until the next look, or None when there is no book any more."""
        book = self._book()
        if book is None:
            return None
        snapshot = self._source.read()
        digest = snapshot.digest
        if digest == book.policy_set.digest:
            self._refused = None
        elif digest != self._refused:
            now = self._clock()
            if digest != self._seen:
                self._seen, self._settled_at = digest, now + self._settle
            if now < self._settled_at:  # a look that was asked for comes at any moment
                return self._settled_at - now
            self._follow(book, snapshot)
        self._seen = digest
        return self._every

    def _follow(self, book: Book, snapshot: Snapshot) -> None:
        try:
            policy_set = snapshot.policy_set()
        except ConfigError as error:
            self._refused = snapshot.digest
            refused_reloads.add()
            logger.error(
                "%s: the changed policies are refused, the ones before stay in force:\n%s",
                self._source.name,
                error,
                extra={"problems": error.problems},
            )
            return
        self._refused = None
        changed = changes(book.policy_set, policy_set)
        book.replace(policy_set)
        logger.info("%s: the changed policies are in force (%s)", self._source.name, changed)
