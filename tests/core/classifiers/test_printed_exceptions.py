"""What is known of an exception by its printed name and words only."""

from __future__ import annotations

import asyncpg
import httpx
import psycopg.errors
import psycopg2.errors
import pytest
import redis.exceptions
import requests
import urllib3.exceptions
from support.short_names import EX, ME, NE, N, P, T, X

from iii_resilience import Category, Execution, classify
from iii_resilience.core.classifiers.database_details import of_state
from iii_resilience.core.classifiers.printed_exceptions import _STATES, from_name


def of_drivers() -> dict[str, str]:
    """The SQLSTATE of each driver's classes that are known by name."""
    found = {}
    for module, field in ((psycopg.errors, "sqlstate"), (asyncpg.exceptions, "sqlstate")):
        for name, kind in vars(module).items():
            state = getattr(kind, field, None)
            if name.removesuffix("Error").removesuffix("Failure").lower() in _STATES and state:
                found[f"{module.__name__}.{name}"] = state
    for state in set(found.values()):
        if (kind := psycopg2.errors.lookup(state)) is not None:
            found[f"psycopg2.errors.{kind.__name__}"] = state
    return found


OF_DRIVERS = of_drivers()


def test_every_state_has_class_of_each_driver() -> None:
    assert len(_STATES) == 18
    for driver in ("psycopg.errors", "psycopg2.errors", "asyncpg.exceptions"):
        states = {state for name, state in OF_DRIVERS.items() if name.startswith(f"{driver}.")}
        assert states >= set(_STATES.values()), driver


@pytest.mark.parametrize("name", OF_DRIVERS)
def test_class_of_driver_says_its_state(name: str) -> None:
    failure = from_name(name, "words")
    assert failure is not None
    assert failure == of_state(OF_DRIVERS[name], failure)
    assert (failure.code, failure.known, failure.message) == (name, True, "words")
    assert failure.remedy.endswith(f"(SQLSTATE {OF_DRIVERS[name]})")


@pytest.mark.parametrize(
    ("name", "words", "category", "execution"),
    [
        ("ConnectionResetError", "[Errno 104] Connection reset by peer", T, ME),
        ("ConnectionRefusedError", "[Errno 111] Connection refused", T, NE),
        ("OSError", "[Errno 113] No route to host", T, NE),
        ("OSError", "[Errno 28] No space left on device", X, ME),
        ("FileNotFoundError", "[Errno 2] No such file or directory: 'x'", N, ME),
        ("TimeoutError", "", T, ME),
        ("sqlalchemy.exc.OperationalError", "(psycopg2.OperationalError) gone", T, ME),
        ("sqlalchemy.exc.DataError", "(psycopg.errors.NotNullViolation) null", P, NE),
        (
            "sqlalchemy.exc.DBAPIError",
            (
                "(sqlalchemy.dialects.postgresql.asyncpg.Error) "
                "<class 'asyncpg.exceptions.SerializationError'>: could not serialize"
            ),
            T,
            NE,
        ),
        ("sqlalchemy.exc.DBAPIError", "(shop.Error) no", X, ME),
        ("sqlalchemy.exc.TimeoutError", "QueuePool limit of size 5", T, NE),
        ("httpx.HTTPStatusError", "Server error '503 Service Unavailable'", T, ME),
        (
            "botocore.exceptions.ClientError",
            "An error occurred (ThrottlingException) when calling the PutItem operation: slower",
            T,
            NE,
        ),
        (
            "botocore.errorfactory.ResourceNotFoundException",
            "An error occurred (ResourceNotFoundException) when calling the GetItem operation: no",
            N,
            ME,
        ),
        (
            "botocore.exceptions.ClientError",
            "An error occurred (OutOfStock) when calling the Order operation: none left",
            X,
            EX,
        ),
    ],
)
def test_printed_words_say_more(
    name: str, words: str, category: Category, execution: Execution
) -> None:
    failure = from_name(name, words)
    assert failure is not None
    assert (failure.category, failure.execution, failure.message) == (category, execution, words)
    assert failure.origin == "library"


@pytest.mark.parametrize(
    "name", ["ValueError", "print", "shop.errors.Busy", "asyncpg.exceptions.X"]
)
def test_other_names_are_unknown(name: str) -> None:
    assert from_name(name, "words") is None


@pytest.mark.parametrize(
    "error",
    [
        httpx.PoolTimeout("words"),
        httpx.ReadTimeout("words"),
        httpx.DecodingError("words"),
        requests.exceptions.ChunkedEncodingError("words"),
        urllib3.exceptions.LocationValueError("words"),
        redis.exceptions.OutOfMemoryError("words"),
        redis.exceptions.AuthenticationError("words"),
        ConnectionRefusedError("words"),
        TimeoutError("words"),
    ],
    ids=repr,
)
def test_printed_class_says_what_raised_one_says(error: Exception) -> None:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else None
    printed = from_name(name or f"{kind.__module__}.{kind.__qualname__}", "words")
    assert printed == classify(error)


@pytest.mark.parametrize(
    ("name", "words", "code"),
    [
        ("requests.exceptions.ConnectTimeout", "words", "requests.ConnectTimeout"),
        ("requests.ConnectTimeout", "words", "requests.ConnectTimeout"),
        ("httpx.HTTPStatusError", "Client error '404 Not Found'", "HTTP 404"),
        ("botocore.errorfactory.NoSuchKey", "words", "botocore.exceptions.ClientError"),
        (
            "botocore.errorfactory.NoSuchKey",
            "An error occurred (NoSuchKey) when calling the GetObject operation: words",
            "botocore.exceptions.ClientError",
        ),
    ],
)
def test_code_is_public_name_or_status(name: str, words: str, code: str) -> None:
    failure = from_name(name, words)
    assert failure is not None
    assert (failure.code, failure.message) == (code, words)


def test_name_without_words_has_empty_message() -> None:
    failure = from_name("TimeoutError")
    assert failure is not None
    assert failure.message == ""


@pytest.mark.parametrize(
    ("name", "words", "category"),
    [
        # A number that only looks like a status, for a class that has none.
        ("httpx.ReadTimeout", "404 Not Found", T),
        ("redis.exceptions.DataError", "503 Service Unavailable", P),
        # A name in brackets, which only SQLAlchemy prints of a driver's exception.
        ("httpx.ReadTimeout", "(psycopg.errors.UniqueViolation) words", T),
        ("ConnectionResetError", "(psycopg.errors.UniqueViolation) words", T),
        # A code of AWS in another library's words.
        (
            "redis.exceptions.DataError",
            "An error occurred (ThrottlingException) when calling x: words",
            P,
        ),
        # No number of the system's.
        ("OSError", "words", X),
        ("OSError", "error [Errno 111] later in the words", X),
    ],
)
def test_words_of_another_library_count_for_nothing(
    name: str, words: str, category: Category
) -> None:
    failure = from_name(name, words)
    assert failure is not None
    assert failure.category is category


def test_exception_of_driver_is_kept_inside() -> None:
    words = "(psycopg.errors.UniqueViolation) duplicate key"
    failure = from_name("sqlalchemy.exc.IntegrityError", words)
    assert failure is not None
    assert (failure.code, failure.message) == ("sqlalchemy.exc.IntegrityError", words)
    inner = from_name("psycopg.errors.UniqueViolation", "duplicate key")
    assert inner is not None
    assert failure.inner == inner
    assert failure == inner.replace(code=failure.code, message=words, inner=inner)


def test_names_inside_names_are_followed_four_times() -> None:
    failure = from_name("sqlalchemy.exc.DBAPIError", "(sqlalchemy.exc.DBAPIError) " * 99)
    depth = 0
    while failure is not None and failure.inner is not None:
        depth, failure = depth + 1, failure.inner
    assert depth == 4
    assert failure is not None
    assert (failure.code, failure.category) == ("sqlalchemy.exc.DBAPIError", X)
