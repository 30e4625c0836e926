"""What an exception of a database driver says beyond its class: a SQLSTATE, or the server's words.

States are the standard's classes, and those of PostgreSQL's appendix A. Knows nothing of other
libraries.
"""

from __future__ import annotations

import re

from iii_resilience.core.classifiers.builtin_exceptions import attribute, text_of
from iii_resilience.core.classifiers.library_details import TEXT, of_category
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.codes.shorthand import ME, NE, A, N, P, T, X
from iii_resilience.core.failure import Failure

_UP = "check that the database is up and can be reached"

_STATES: dict[str, tuple[Category, Execution, bool]] = {
    "08001": (T, NE, False),
    "08004": (T, NE, False),
    "08": (T, ME, False),
    "40003": (T, ME, False),
    "40001": (T, NE, False),  # rolled back: nothing of it is left
    "40P01": (T, NE, False),
    "55P03": (T, NE, False),
    "57P01": (T, ME, False),
    "57P02": (T, ME, False),
    "57P03": (T, NE, False),
    "57P05": (T, NE, False),
    "53300": (T, NE, True),
    "53100": (X, ME, False),
    "53": (T, ME, True),
    "25006": (T, NE, False),  # a standby: the primary has moved
    "28": (A, NE, False),
    "42501": (A, NE, False),
    "3D": (N, NE, False),
    "42P01": (N, NE, False),
    "22": (P, NE, False),
    "23": (P, NE, False),
    "42": (X, NE, False),
}


def sqlstate(error: BaseException, failure: Failure) -> Failure | None:
    """An error of a database by its SQLSTATE, or its class where it has none."""
    state = _state(error)
    return failure if state is None else of_state(state, failure)


def of_state(state: str, failure: Failure) -> Failure:
    """The failure that a SQLSTATE says.

    Args:
        state: Five characters.
        failure: The failure of the exception's row.
    """
    category, execution, throttled = _STATES.get(state) or _STATES.get(state[:2]) or (X, ME, False)
    changed = of_category(failure, category, execution, throttled=throttled)
    return changed.replace(remedy=f"{changed.remedy} (SQLSTATE {state[:5]})")


def _state(error: BaseException) -> str | None:
    for name in ("sqlstate", "pgcode"):  # the second is psycopg2's
        if isinstance(state := attribute(error, name), str):
            return state
    return None


# What the server said, by its own words in English.
_REFUSALS: tuple[tuple[re.Pattern[str], tuple[Category, Execution, bool]], ...] = (
    (
        re.compile(
            "authentication failed|no password supplied|no pg_hba.conf entry"
            "|role .{0,64} does not exist|permission denied for database"
        ),
        _STATES["28"],
    ),
    (re.compile("database .{0,64} does not exist"), _STATES["3D"]),
    (
        re.compile("too many (?:clients|connections)|connection slots are reserved"),
        _STATES["53300"],
    ),
)


# How psycopg begins what it says of connecting, and how psycopg2 does.
_CONNECTING = (
    *("connection failed", "connection is bad", "connection timeout", "failed to resolve"),
    *("connection to server", "could not translate host name"),
)


def postgres(error: BaseException, failure: Failure) -> Failure | None:
    """As `sqlstate`; psycopg's and psycopg2's errors of connecting have none, only words."""
    if _state(error) is not None:
        return sqlstate(error, failure)
    text = text_of(error)[:TEXT]
    if not text.startswith(_CONNECTING):
        return failure
    for words, (category, execution, throttled) in _REFUSALS:
        if words.search(text):
            return of_category(failure, category, execution, throttled=throttled)
    return failure.replace(execution=NE, remedy=_UP)


def closed(error: BaseException, failure: Failure) -> Failure:
    """A connection that was lost before: asyncpg and psycopg2 say so as they say wrong usage."""
    text = text_of(error)[:TEXT]
    lost = "connection is closed" in text or "connection already closed" in text
    return of_category(failure, T, NE) if lost else failure


def psycopg2_pool(error: BaseException, failure: Failure) -> Failure:
    """A pool that has no connection left: psycopg2 has one class for that and for wrong usage."""
    exhausted = "connection pool exhausted" in text_of(error)[:TEXT]
    return of_category(failure, T, NE, throttled=True) if exhausted else failure


def sqlite(error: BaseException, failure: Failure) -> Failure | None:
    """A database file that another connection holds (SQLITE_BUSY, SQLITE_LOCKED)."""
    code = attribute(error, "sqlite_errorcode")
    if isinstance(code, int) and code & 0xFF in {5, 6}:
        return of_category(failure, T, NE)
    return None


def invalidated(error: BaseException, failure: Failure) -> Failure:
    """A connection that SQLAlchemy has found dead under a statement."""
    found = attribute(error, "connection_invalidated") is True
    return of_category(failure, T, ME) if found and failure.category is not T else failure
