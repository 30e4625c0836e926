"""Verdicts about classes of exceptions: the same answers, looked up."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest

from iii_resilience import Category, ConfigError, Failure, classify, register_exceptions
from iii_resilience.core.classifiers import builtin_exceptions, exceptions
from iii_resilience.core.classifiers.exceptions import from_exception
from iii_resilience.core.classifiers.registered_exceptions import (
    ExceptionRules,
    _Registry,
    transient_exceptions,
    verdicts,
)
from iii_resilience.core.classifiers.text_patterns import LIMIT


@pytest.fixture(autouse=True)
def rules_as_before() -> Iterator[None]:
    code, files = _Registry.code, _Registry.files
    yield
    _Registry.code, _Registry.files = code, files


class OwnError(Exception):
    pass


class DerivedError(ConnectionResetError):
    pass


class SaysError(Exception):
    def __str__(self) -> str:
        return "{" if self.args == ("json",) else "plain"


class DynamicError(Exception):
    def __getattr__(self, name: str) -> Any:
        if name == "code":
            return "FORBIDDEN"
        raise AttributeError(name)


class CodedError(Exception):
    code = "FORBIDDEN"


class SlottedError(Exception):
    __slots__ = ("message",)


class ValidationError(ValueError):
    pass


KINDS = (
    *(ValueError, KeyError, TypeError, RuntimeError, TimeoutError, Exception, LookupError),
    *(ConnectionResetError, ConnectionRefusedError, ConnectionError, OSError, BrokenPipeError),
    *(
        OwnError,
        DerivedError,
        SaysError,
        DynamicError,
        CodedError,
        ValidationError,
        ArithmeticError,
    ),
    *(NotImplementedError, StopIteration, MemoryError, RecursionError, AssertionError),
)
TEXTS = (
    *("x", "", "json", "{", '{"type": "transient", "code": "BUSY", "message": "m"}'),
    *("Connection to ws://127.0.0.1:1 failed", "can't start new thread", "keys must be str, int"),
    *("Object of type X is not JSON serializable", "Out of range float values", "function_id"),
    *("Invocation of 'a::b' timed out after 30s", "invocation timed out", "iii is shutting down"),
    *("Payload 5 bytes exceeds invocation limit 3 bytes", "{'code': 'FORBIDDEN', 'message': 'm'}"),
    *("Cannot call sync SDK methods here", "Circular reference detected", "x" * 9000),
    *("1 validation error for TriggerRequest", "namespace is empty", "dispatch must be one of"),
)


def computed(error: BaseException, rules: ExceptionRules | None = None) -> Failure:
    """What is said of it where nothing is looked up."""
    return from_exception(error, None, 0, rules)


def built(kind: type[Exception], text: str) -> Exception:
    return kind(text)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_looked_up_is_what_would_be_computed(kind: type[Exception]) -> None:
    classify(built(kind, "first"))
    for text in TEXTS:
        assert classify(built(kind, text)) == computed(built(kind, text)), text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_was_seen_first_does_not_matter(kind: type[Exception]) -> None:
    for text in TEXTS:
        _Registry.code = ExceptionRules().joined(_Registry.code)  # nothing is known any longer
        classify(built(kind, text))
        assert classify(built(kind, "x")) == computed(built(kind, "x")), text


@pytest.mark.parametrize(
    "change",
    [
        lambda error: error.__dict__.update(code="FORBIDDEN", message="no"),
        lambda error: error.__dict__.update(message="told"),
        lambda error: error.__dict__.update(function_id="a::b"),
        lambda error: setattr(error, "__cause__", PermissionError("denied")),
        lambda error: setattr(error, "__cause__", CodedError("denied")),
        lambda error: setattr(error, "__context__", CodedError("denied")),
        lambda error: error.__dict__.update(other="told"),
        lambda error: error.add_note("a note"),
    ],
)
@pytest.mark.parametrize("kind", [ValueError, ConnectionResetError, OwnError])
def test_instance_that_says_more_is_read(kind: type[Exception], change: Any) -> None:
    classify(kind("x"))
    error = kind("x")
    change(error)
    assert classify(error) == computed(error)


def test_number_of_an_oserror_is_read_each_time() -> None:
    assert classify(OSError(28, "full")).category is Category.PERMANENT
    assert classify(OSError(110, "late")).category is Category.TRANSIENT
    error = ConnectionResetError("reset")
    error.filename = "a"
    classify(error)
    assert classify(error).message == str(error)


def test_class_that_says_all_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counted(error: BaseException, *more: Any) -> Failure:
        made.append(type(error).__name__)
        return from_exception(error, *more)

    monkeypatch.setattr("iii_resilience.core.classify.from_exception", counted)

    class FreshError(ConnectionError):
        pass

    for number in range(5):
        failure = classify(FreshError(f"number {number}"), function_id=f"t::{number}")
        assert failure.message == f"number {number}"
        assert failure.function_id == f"t::{number}"
    assert made == ["FreshError"]


def test_rule_that_is_registered_counts_at_once() -> None:
    assert classify(OwnError("x")).category is Category.PERMANENT
    register_exceptions({OwnError: "transient"})
    assert classify(OwnError("x")).category is Category.TRANSIENT
    register_exceptions({OwnError: "auth"})
    assert classify(OwnError("x")).category is Category.AUTH


def test_callable_is_asked_each_time() -> None:
    said = iter(["transient", "auth", None])
    register_exceptions({OwnError: lambda _: next(said)})
    assert [str(classify(OwnError("x")).category) for _ in range(3)] == [
        *("transient", "auth", "permanent")
    ]


def test_rules_of_a_decorator_keep_their_own_verdicts() -> None:
    rules = transient_exceptions(OwnError)
    for _ in range(2):
        assert classify(OwnError("x"), rules=rules).category is Category.TRANSIENT
        assert classify(OwnError("x")).category is Category.PERMANENT
    assert verdicts(rules) is not verdicts(None)
    assert verdicts(rules) is verdicts(rules)
    register_exceptions({ValueError: "auth"})
    assert classify(ValueError("x"), rules=rules).category is Category.AUTH


def test_verdict_under_rules_that_have_gone_is_not_kept() -> None:
    codeless = exceptions._codeless

    def registers(*args: Any) -> Failure:
        failure = codeless(*args)
        register_exceptions({OwnError: "transient"})  # as another thread does in that moment
        return failure

    with patch.object(exceptions, "_codeless", registers):
        assert classify(OwnError("x")).category is Category.PERMANENT
    assert classify(OwnError("x")).category is Category.TRANSIENT


def test_refused_rules_change_nothing() -> None:
    known = verdicts(None)
    with pytest.raises(ConfigError):
        register_exceptions({Exception: "transient"})
    assert verdicts(None) is known


def test_no_class_and_no_exception_is_kept_alive() -> None:
    class BriefError(Exception):
        pass

    error = BriefError("x")
    classify(error)
    kind, instance = weakref.ref(BriefError), weakref.ref(error)
    del BriefError, error
    gc.collect()
    assert (kind(), instance()) == (None, None)


def test_words_that_matter_are_those_that_are_read() -> None:
    for _, words, _ in builtin_exceptions._BEFORE:
        assert all(builtin_exceptions.telling(word) for word in words)
    assert builtin_exceptions.telling("x is not JSON serializable")
    assert builtin_exceptions.telling("x" * (LIMIT + 1))
    assert not builtin_exceptions.telling("connection reset by peer")
