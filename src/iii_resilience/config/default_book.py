"""The process-wide default book, and the environment variable that names its files.

Knows nothing of how a book is made or read.
"""

from __future__ import annotations

import os
import threading

from iii_resilience.config.book import PolicyBook
from iii_resilience.core.errors import ConfigError

ENVIRONMENT = "III_RESILIENCE_POLICIES"
"""Environment variable with the policy files of the process, separated as in ``PATH``."""


class Default:
    """The process-wide book: what decorators and clients without a book of their own use."""

    book: PolicyBook | None = None
    loading = False
    lock = threading.RLock()


def use_policies(book: PolicyBook) -> PolicyBook:
    """Make a book the process-wide default one.

    Calls in flight keep the policy they started with.

    Args:
        book: What `load_policies` returned, or a book made in code.

    Returns:
        The book it replaces.
    """
    if not isinstance(book, PolicyBook):
        raise TypeError(f"use_policies takes a PolicyBook, got {book!r}")
    try:
        before = default_book()
    except ConfigError:  # of the environment's files, which this book stands in for
        before = PolicyBook()
    book.register()
    Default.book = book
    return before


def default_book() -> PolicyBook:
    """The process-wide default book.

    At its first use it is made from the files in the environment variable
    ``III_RESILIENCE_POLICIES``, where that is set and `use_policies` has not been called.

    Raises:
        ConfigError: The files of the environment variable do not validate.
    """
    book = Default.book
    return book if book is not None else _first_book()


def _first_book() -> PolicyBook:
    with Default.lock:
        if Default.book is not None:
            return Default.book
        files = os.environ.get(ENVIRONMENT, "")
        if not files or Default.loading:  # a log handler that reports the files may retry too
            book = PolicyBook()
        else:
            Default.loading = True
            try:
                from iii_resilience.config.load import load_from_environment  # noqa: PLC0415 - a file

                book = load_from_environment(ENVIRONMENT, files)
            finally:
                Default.loading = False
            book.register()
        if not Default.loading:
            Default.book = book
        return book


def _forked() -> None:
    """Replace the lock in the child of a fork: its holder does not exist there."""
    Default.lock = threading.RLock()
    Default.loading = False


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forked)
