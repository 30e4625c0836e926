"""Whatever is thrown at it: `classify` never raises, never takes long, never allows too much."""

from __future__ import annotations

import json
import timeit
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from iii_resilience.core.classify import classify
from iii_resilience.core.codes.lookup import ALL, III, Category, Code, Execution, find
from iii_resilience.core.failure import Failure

SETTINGS = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

texts = st.text(st.characters(exclude_categories=()), max_size=200)  # lone surrogates too
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=50)
keys = texts | st.sampled_from(
    ["code", "message", "stacktrace", "status", "label", "error", "layer", "type", "retry_after_ms"]
)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=20,
)
codes = st.sampled_from([row.code for row in ALL]) | texts


class RaisingError(Exception):
    """Everything that is asked of it raises."""

    @property
    def code(self) -> str:
        raise RuntimeError("no code")

    @property
    def message(self) -> str:
        raise RuntimeError("no message")

    @property
    def function_id(self) -> str:
        raise RuntimeError("no id")

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Vicious(dict[str, object]):
    """A mapping that raises when it is read."""

    def get(self, key: object, default: object = None) -> object:
        raise RuntimeError("no")


class PlainError(Exception):
    """An exception with whatever attributes it is given."""

    def __init__(self, text: object, **attributes: object) -> None:
        super().__init__(text)
        self.__dict__.update(attributes)


def is_sound(failure: Failure) -> bool:
    repr(failure)
    kinds: list[tuple[object, type]] = [
        (failure, Failure),
        (failure.code, str),
        (failure.category, Category),
        (failure.execution, Execution),
        (failure.message, str),
    ]
    return (
        all(isinstance(value, kind) for value, kind in kinds)
        and len(failure.code) <= 128
        and (failure.retry_after is None or failure.retry_after >= 0)
        and (failure.known or failure.execution is not Execution.NOT_EXECUTED)
    )


@SETTINGS
@given(junk)
@example({"code": "TIMEOUT", "message": 5})
@example({"status": "error", "error": {"code": []}})
def test_junk(error: Any) -> None:
    assert is_sound(classify(error))


@SETTINGS
@given(codes, junk, junk, junk, texts | st.none())
def test_bodies(code: str, message: Any, stacktrace: Any, more: Any, called: str | None) -> None:
    body = {"code": code, "message": message, "stacktrace": stacktrace, "error": more}
    assert is_sound(classify(body, function_id=called))
    response = {"status": "error", "label": code, "error": body, "fnKey": more}
    failure = classify(response, function_id=called)
    assert is_sound(failure)
    assert failure.known or failure.category is Category.PERMANENT


@SETTINGS
@given(junk, codes | junk, junk, junk)
def test_exceptions(text: Any, code: Any, message: Any, function_id: Any) -> None:
    for error in (
        PlainError(text),
        PlainError(text, code=code),
        PlainError(text, code=code, message=message, function_id=function_id, stacktrace=message),
        ConnectionResetError(text),
        TimeoutError(text),
        Exception(text),
        KeyError(text),
        OSError(text, text),
    ):
        assert is_sound(classify(error))


@pytest.mark.parametrize("base", [Exception, ValueError, ConnectionError, TimeoutError, KeyError])
def test_exceptions_that_raise(base: type[Exception]) -> None:
    error = type("Raises", (RaisingError, base), {})("x")
    failure = classify(error)
    assert is_sound(failure)
    assert failure.code.rpartition(".")[2] == "Raises"


def test_mappings_that_raise_or_hold_themselves() -> None:
    assert classify(Vicious()).category is Category.PERMANENT
    cyclic: dict[str, object] = {}
    cyclic["error"] = cyclic
    assert is_sound(classify(cyclic))
    response: dict[str, object] = {"status": "error"}
    response["error"] = response
    assert is_sound(classify(response))


def test_codes_that_lie_about_being_strings() -> None:
    class Odd(str):
        __slots__ = ()

        def __hash__(self) -> int:
            raise RuntimeError("no hash")

    assert is_sound(classify(PlainError("x", code=Odd("TIMEOUT"))))
    assert is_sound(classify({"code": Odd("TIMEOUT")}))


@pytest.mark.parametrize(
    ("part", "times"),
    [("[", 1000), ('{"a":', 1000), ("x", 100_000), ("{", 100_000), ("::", 50_000)],
)
def test_deep_json_and_long_texts(part: str, times: int) -> None:
    message = part * times
    for code in III:
        body = {"code": code, "message": message}
        assert is_sound(classify(body, function_id="a::b")), code


def inner_form(message: str) -> bool:
    """Whether a text has one of the forms that carry a cause."""
    text = message.strip()
    return bool(
        text.startswith(("{", "handler error", "remote error (", "HTTP "))
        or find(text.partition(": ")[0]) is not None
        or find(text) is not None
    )


words = st.lists(
    st.sampled_from(
        [
            "retry",
            "transient",
            ":",
            "503",
            "HTTP",
            "TIMEOUT",
            "timeout",
            "FORBIDDEN",
            "a::b",
            "f",
            "not",
            "found",
            "function",
            "'a::b'",
            "(Connect",
            "connection",
            "please",
            "later",
            "S102",
            '{"code":',
            '"TIMEOUT"}',
            "remote",
            "error",
            "is",
            "connected",
        ]
    ),
    max_size=12,
).map(" ".join)


@SETTINGS
@given(st.sampled_from(ALL), texts | words, texts | st.none())
def test_arbitrary_text_allows_nothing(row: Code, message: str, called: str | None) -> None:
    if inner_form(message):
        return
    failure = classify({"code": row.code, "message": message}, function_id=called)
    if row.category is not Category.TRANSIENT:
        assert failure.category is not Category.TRANSIENT
    if row.execution is not Execution.NOT_EXECUTED and row.system != "local":
        assert failure.execution is not Execution.NOT_EXECUTED


never = st.sampled_from(["FORBIDDEN", "function_not_found"])


@SETTINGS
@given(never, texts, junk, st.sampled_from(["", "handler error: ", "invocation_failed: "]))
def test_what_is_never_retried(code: str, message: str, more: Any, prefix: str) -> None:
    body = {"type": "transient", "code": code, "message": message, "retryable": True, "x": more}
    assert classify(body).category is not Category.TRANSIENT
    assert (
        classify(PlainError(message, code=code, message=message)).category is not Category.TRANSIENT
    )
    try:
        text = prefix + json.dumps(body, default=str)
    except (TypeError, ValueError):
        return
    for carrier in ("invocation_failed", "bridge_error"):
        failure = classify({"code": carrier, "message": text})
        if failure.inner is not None:
            assert failure.category is not Category.TRANSIENT


FORMS = (
    "x",
    "::a ",
    "Function ",
    "{",
    "(",
    "Payload 1 bytes ",
    "'a' ",
    "retry after ",
    "a: ",
    "\\",
)


@pytest.mark.bare
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "code",
    ["invocation_failed", "function_not_found", "http_request_failed", "enqueue_error", "NO_SUCH"],
)
def test_long_message_costs_no_more_than_short_one(code: str, form: str) -> None:
    short, long = (
        {"code": code, "message": (form * (n // len(form) + 1))[:n]} for n in (10_000, 10_000_000)
    )

    def best(body: Mapping[str, object]) -> float:
        call = partial(classify, body, function_id="a::b")
        return min(timeit.repeat(call, number=5, repeat=9))

    # A thousand times the length; whoever reads all of it needs hundreds of times as long.
    assert best(long) <= 20 * best(short) + 1e-3


@pytest.mark.bare
@pytest.mark.parametrize("kind", [Exception, KeyError, ValueError, ConnectionError, TimeoutError])
def test_long_exception_costs_no_more_than_short_one(kind: type[Exception]) -> None:
    short, long = kind("x" * 10_000), kind("x" * 10_000_000)

    def best(error: Exception) -> float:
        return min(timeit.repeat(partial(classify, error), number=5, repeat=9))

    assert best(long) <= 20 * best(short) + 1e-3


def test_long_string_is_no_code() -> None:
    failure = classify("x" * 10_000_000)
    assert len(failure.code) == 128
    assert not failure.known
