"""What travels in place of what a handler raised."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import iii
import pytest

from iii_resilience import Backoff, Category, CircuitOpenError, RetryPolicy, classify, iii_retry
from iii_resilience.handling import PermanentError, TransientError
from iii_resilience.handling.hardening.error_encoding import (
    HandlerFailed,
    NotStarted,
    encode_error,
    structured,
)

LONGEST = 100_000


def encoded(error: BaseException, since: float = 0.0) -> Any:
    """The structured error that travels."""
    failed = encode_error(error, since=since)
    assert failed.original is error
    assert failed.says_its_category
    assert failed.__traceback__ is None
    return json.loads(str(failed))


def said(error: BaseException) -> str:
    """The text that travels where it is not structured."""
    failed = encode_error(error, since=0.0)
    assert failed.original is error
    assert not failed.says_its_category
    return str(failed)


def given_up(error: Exception) -> Exception:
    """An exception that was retried until its attempts were used up."""
    policy = RetryPolicy(attempts=2, backoff=Backoff(base=0, throttled_base=0), budget=None)

    @iii_retry(idempotent=True, policy=policy)
    def function() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        function()
    return caught.value


def test_failure_without_exception() -> None:
    failed = HandlerFailed("text")
    assert (str(failed), failed.original, failed.says_its_category) == ("text", None, True)


def test_cancellation() -> None:
    assert encoded(asyncio.CancelledError()) == {
        "type": "transient",
        "code": "HANDLER_CANCELLED",
        "message": "the handler was cancelled before it had a result",
    }


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(3)])
def test_exit(error: BaseException) -> None:
    assert encoded(error) == {
        "type": "permanent",
        "code": "HANDLER_EXITED",
        "message": f"{type(error).__name__}: 3",
    }


def test_thread_that_could_not_start() -> None:
    assert encoded(RuntimeError("can't start new thread")) == {
        "type": "transient",
        "code": "THREAD_UNAVAILABLE",
        "message": "this worker could start no thread for the call",
    }


def test_error_of_five_is_what_it_says() -> None:
    error = TransientError("busy", code="BUSY", retry_after=1.5)
    assert encoded(error) == {
        "type": "transient",
        "code": "BUSY",
        "message": "busy",
        "retry_after_ms": 1500,
    }
    assert encoded(PermanentError("no\udce9" + "x" * LONGEST)) == {
        "type": "permanent",
        "message": "no?" + "x" * (LONGEST - 3),
    }


def test_error_of_five_that_was_retried_is_marked() -> None:
    assert encoded(given_up(TransientError("busy", code="BUSY"))) == {
        "type": "transient",
        "code": "BUSY",
        "message": "busy",
        "already_retried": True,
    }


@pytest.mark.parametrize("text", ["its own words", "[1]", '{"message": 5}'])
def test_subclass_with_words_of_its_own(text: str) -> None:
    class OwnError(TransientError):
        def __str__(self) -> str:
            return text

    if text.startswith("{"):
        assert encoded(OwnError("m")) == {"message": 5}
    else:
        assert said(OwnError("m")) == text


def test_other_exceptions_are_their_text() -> None:
    assert said(ValueError("wrong\udce9")) == "wrong?"
    assert said(ValueError("x" * (LONGEST + 1))) == "x" * LONGEST


def test_exception_that_cannot_say_what_it_is() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    assert said(MuteError()) == "MuteError"


def test_retried_exception_carries_its_mark() -> None:
    body = encoded(given_up(ConnectionError("lost\udce9")))
    assert body == {
        "type": "transient",
        "code": "ConnectionError",
        "message": "lost?",
        "already_retried": True,
    }
    text = f"handler error: {json.dumps(body)}"
    assert classify(iii.InvocationError("invocation_failed", text)).already_retried


def test_retried_exception_without_words_is_its_text() -> None:
    assert encoded(given_up(ConnectionError()))["message"] == ""


def test_retried_error_of_sdk_travels_without_its_code_in_words() -> None:
    body = encoded(given_up(iii.InvocationError("TIMEOUT", "it took too long")))
    assert (body["code"], body["message"]) == ("TIMEOUT", "it took too long")


def test_pushback_travels_in_milliseconds() -> None:
    for seconds, milliseconds in ((0.0015, 2), (2.5, 2500)):
        body = encoded(given_up(CircuitOpenError("open", seconds)))
        assert (body["retry_after_ms"], body["already_retried"]) == (milliseconds, True)


def test_mark_of_earlier_call_does_not_count() -> None:
    error = given_up(ConnectionError("lost"))
    failed = encode_error(error, since=time.monotonic() + 60)
    assert (str(failed), failed.says_its_category) == ("lost", False)


def test_fields_that_are_none_are_left_out() -> None:
    text = structured(Category.AUTH, "C", "m", a=None, b=0)
    assert text == '{"type": "auth", "code": "C", "message": "m", "b": 0}'


def test_handler_that_does_not_start_has_text_and_answer() -> None:
    assert str(NotStarted("words")) == "words"
    assert NotStarted("words").answer is None
    answer = {"error": "words"}
    assert NotStarted("words", answer).answer is answer
