"""What a printed exception says: the name of its class, and the words behind it.

For texts that people paste; what is raised goes by its class. Knows nothing of how a text is found.
"""

from __future__ import annotations

import builtins
import re

from iii_resilience.core.classifiers import library_details as details
from iii_resilience.core.classifiers.database_details import of_state
from iii_resilience.core.classifiers.library_exceptions import ExceptionRow, from_library, row_of
from iii_resilience.core.failure import LIBRARY, Failure

_READ = 512  # characters of the words that are looked at
_DEPTH = 4  # names inside names

# As httpx ("Server error '503 …"), requests ("503 Server Error"), urllib ("HTTP Error 503:") and
# aiohttp ("503, message=") word it.
_STATUS = re.compile(r"(?:^|error '|HTTP Error )([1-5]\d\d)(?= |:|, message=)")
# botocore's `ClientError.MSG_TEMPLATE`; boto3 makes a subclass for each code of a service.
_AWS_CODE = re.compile(r"An error occurred \(([\w.-]{1,128})\) when calling ")
_AWS_CLASSES = "botocore.errorfactory."
_ERRNO = re.compile(r"\[Errno (\d{1,4})\]")
# "(psycopg.errors.UniqueViolation) words", and asyncpg's "(...Error) <class 'asyncpg...'>: words".
_INNER = re.compile(r"\((?:sqlalchemy\.[\w.]+\) <class ')?([A-Za-z_][\w.]{0,255})(?:\)|'>)")
_DRIVERS = ("psycopg.errors", "psycopg2.errors", "asyncpg.exceptions")
_STATES = {
    "serialization": "40001",
    "deadlockdetected": "40P01",
    "locknotavailable": "55P03",
    "adminshutdown": "57P01",
    "crashshutdown": "57P02",
    "cannotconnectnow": "57P03",
    "querycanceled": "57014",
    "toomanyconnections": "53300",
    "diskfull": "53100",
    "readonlysqltransaction": "25006",
    "uniqueviolation": "23505",
    "foreignkeyviolation": "23503",
    "notnullviolation": "23502",
    "checkviolation": "23514",
    "undefinedtable": "42P01",
    "insufficientprivilege": "42501",
    "invalidpassword": "28P01",
    "invalidcatalogname": "3D000",
}
"""SQLSTATEs by what PostgreSQL's drivers make of their names (its appendix A)."""


def from_name(name: str, message: str = "", depth: int = 0) -> Failure | None:
    """The failure of a class that is known by its printed name only, as in a traceback.

    Args:
        name: The qualified name, public or not.
        message: What was printed behind it: a status in it counts, a number of `OSError`, the code
            of an AWS service, and the driver's exception that SQLAlchemy names.
        depth: How many names this one stands inside.
    """
    if name.startswith("sqlalchemy.exc.") and depth < _DEPTH:
        inner = _INNER.match(message)
        cause = (
            None if inner is None else from_name(inner[1], message[inner.end() + 1 :], depth + 1)
        )
        if cause is not None:
            return cause.replace(code=name, message=message, inner=cause)
    row = row_of("botocore.exceptions.ClientError" if name.startswith(_AWS_CLASSES) else name)
    if row is not None:
        failure = _of(row, row.name, message)
        if row.detail is details.aws and (found := _AWS_CODE.match(message)) is not None:
            return details.of_aws_code(found[1], failure) or failure
        found = _STATUS.search(message[:_READ]) if row.detail is details.status else None
        if found is not None:
            return details.of_status(int(found[1]), None, failure)
        return _os_error(name, message) or failure
    module, _, last = name.rpartition(".")
    state = _STATES.get(last.removesuffix("Error").removesuffix("Failure").lower())
    base = row_of("asyncpg.PostgresError")  # all drivers' say the same but for the state
    if module in _DRIVERS and state is not None and base is not None:
        return of_state(state, _of(base, name, message))
    return _os_error(name, message)


def _of(row: ExceptionRow, code: str, message: str) -> Failure:
    return Failure(
        code,
        row.category,
        row.execution,
        throttled=row.throttled,
        message=message,
        remedy=row.remedy,
        system="local",
        origin=LIBRARY,
    )


def _os_error(name: str, message: str) -> Failure | None:
    """A built-in class as Python makes it of a number, which `OSError` prints."""
    kind = getattr(builtins, name, None)
    if not isinstance(kind, type) or not issubclass(kind, OSError):
        return None
    number = _ERRNO.match(message)
    error = kind(message) if number is None else kind(int(number[1]), message)
    failure = from_library(error)
    return None if failure is None else failure.replace(message=message)
