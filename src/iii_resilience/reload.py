"""A book whose source may change: one look at the source, and what becomes of what it finds.

Knows nothing of files or engines: a `Source` reads them. A change is taken only when two looks in a
row have found the same: a file that is being written is not yet what its writer means.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Protocol

from iii_resilience.checks import number
from iii_resilience.errors import ConfigError

if TYPE_CHECKING:
    from iii_resilience.book import Edition, PolicyBook

logger = logging.getLogger("iii_resilience")

_PAUSE = number(above=0, unit="seconds")
_SETTLES_AFTER = 0.1  # seconds between the two looks; a program writes a policy file in less


class Snapshot(Protocol):
    """What a source held at one moment."""

    @property
    def digest(self) -> bytes:
        """Equal for equal content."""
        ...

    def edition(self) -> Edition:
        """What it says.

        Raises:
            ConfigError: It does not validate.
        """
        ...


class Source(Protocol):
    """Where the policies of a book come from."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def read(self) -> Snapshot:
        """What it holds now. What cannot be read is a snapshot too: one that does not validate."""
        ...


class Look:
    """Looks whether the source of a book has changed, and lets the book follow it.

    What does not validate is logged once as an error, and the book stays as it is.

    Args:
        book: The book; when nobody else has it any more, there is nothing left to look at.
        source: Where its policies come from.
        every: Seconds between two looks while nothing changes.

    Raises:
        ValueError: `every` is no number above 0.
    """

    def __init__(self, book: PolicyBook, source: Source, every: float) -> None:
        if not _PAUSE.allows(every):
            raise ValueError(f"every must be {_PAUSE.allowed()}, got {every!r}")
        self._book = weakref.ref(book)
        self._source = source
        self._every = every
        self._settle = min(every, _SETTLES_AFTER)
        self._seen: bytes | None = None
        self._refused: bytes | None = None

    def __call__(self) -> float | None:
        """Look once; the seconds until the next look, or None when there is no book any more."""
        book = self._book()
        if book is None:
            return None
        snapshot = self._source.read()
        digest = snapshot.digest
        if digest == book.edition.digest:
            self._refused = None
        elif digest != self._refused:
            if digest != self._seen:
                self._seen = digest
                return self._settle
            self._follow(book, snapshot)
        self._seen = digest
        return self._every

    def _follow(self, book: PolicyBook, snapshot: Snapshot) -> None:
        try:
            edition = snapshot.edition()
        except ConfigError as error:
            self._refused = snapshot.digest
            logger.error(  # noqa: TRY400 - the file is at fault, no code: a traceback says nothing
                "%s: the changed policies are refused, the ones before stay in force:\n%s",
                self._source.name,
                error,
                extra={"problems": error.problems},
            )
            return
        self._refused = None
        book.turn_to(edition)
        logger.info("%s: the changed policies are in force", self._source.name)
