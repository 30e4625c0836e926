"""Causes inside messages: the structured form of our own handlers, depth, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from iii_resilience.core.classifiers.text_patterns import LIMIT
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.lookup import Category, Execution
from iii_resilience.core.failure import Failure


def failed(body: object, prefix: str = "") -> Failure:
    text = body if isinstance(body, str) else json.dumps(body)
    return classify({"code": "invocation_failed", "message": prefix + text})


@pytest.mark.parametrize("category", list(Category))
@pytest.mark.parametrize("prefix", ["", "handler error: ", "invocation_failed: handler error: "])
def test_our_own_form(category: Category, prefix: str) -> None:
    failure = failed(
        {
            "type": category.value,
            "code": "LEDGER",
            "message": "m",
            "retryable": True,
            "retry_after_ms": 1500,
            "already_retried": True,
        },
        prefix,
    )
    assert failure.category is category
    assert failure.execution is Execution.EXECUTED
    assert failure.retry_after == 1.5
    assert failure.already_retried
    deepest = failure
    while deepest.inner is not None:
        deepest = deepest.inner
    assert (deepest.code, deepest.known, deepest.already_retried) == ("LEDGER", False, True)


@pytest.mark.parametrize("code", ["FORBIDDEN", "function_not_found", "payload_too_large"])
def test_known_code_decides_whatever_type_and_retryable_say(code: str) -> None:
    failure = failed({"type": "transient", "code": code, "retryable": True, "message": "m"})
    assert failure.category is not Category.TRANSIENT


@pytest.mark.parametrize(
    "kind", ["Transient", "TRANSIENT", "validation", "", None, 5, ["transient"]]
)
def test_only_five_words_are_categories(kind: object) -> None:
    failure = failed({"type": kind, "code": "LEDGER", "retryable": True})
    assert failure.category is Category.PERMANENT


def test_type_without_code() -> None:
    failure = failed({"type": "transient", "message": "m"})
    assert failure.category is Category.TRANSIENT
    assert failure.inner is not None
    assert failure.inner.code == "_OTHER"


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        (1500, 1.5),
        (0, 0.0),
        (0.5, 0.0005),
        (-1, None),
        (True, None),
        ("1500", None),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, 1e9),
    ],
)
def test_delays_are_finite_and_not_negative(delay: object, seconds: float | None) -> None:
    failure = failed({"type": "transient", "code": "LEDGER", "retry_after_ms": delay})
    assert failure.retry_after == seconds


@pytest.mark.parametrize("mark", ["true", 1, None, "yes"])
def test_mark_is_true_or_not_there(mark: object) -> None:
    assert not failed({"type": "transient", "code": "L", "already_retried": mark}).already_retried


def test_sandbox_run_had_earlier_steps() -> None:
    failure = failed(
        {
            "type": "transient",
            "code": "S102",
            "message": "during sandbox::run step `create` (sandbox_id=x): m",
            "retryable": True,
            "fix": {"context": {}, "inner_code": "S102"},
        },
        "handler error: ",
    )
    assert failure.inner is not None
    assert failure.inner.execution is Execution.EXECUTED
    assert failure.execution is Execution.EXECUTED


def test_causes_inside_causes_end() -> None:
    text = "boom"
    for _ in range(50):
        text = f"invocation_failed: {text}"
    depth = 0
    failure: Failure | None = failed(text)
    while failure is not None:
        failure, depth = failure.inner, depth + 1
    assert depth <= 6


def test_json_longer_than_limit_is_not_looked_into() -> None:
    body = {"code": "TIMEOUT", "message": "x" * LIMIT}
    assert failed(body).category is Category.PERMANENT
    assert (
        failed({"code": "TIMEOUT", "message": "x" * (LIMIT - 100)}).category is Category.TRANSIENT
    )


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1000,
        '{"a":' * 1000,
        '{"code":' * 1000,
        "{",
        "{}",
        "[]",
        '{"code":5}',
        '{"code":""}',
        '{"code":null,"type":null}',
        "{'code': ",
        "{'code': 'a\\",
        "remote error (",
        "remote error ()",
        "remote error (A B): x",
        ": x",
        "CODE_NOBODY_KNOWS: x",
        "timeout",
        "TIMEOUT",
        "TIMEOUT x",
        "not TIMEOUT: x",
        "handler error: ",
        "handler error: handler error: ",
        "HTTP 503",
        "1" * 5000,
        '{"code":' + "1" * 5000 + "}",
        "\ud800",
    ],
)
def test_what_is_no_cause(text: str) -> None:
    failure = failed(text)
    assert failure.category is Category.PERMANENT
    assert failure.execution is Execution.EXECUTED
    assert failure.inner is None


@pytest.mark.parametrize("code", ["TIMEOUT", "FORBIDDEN", "timeout", "NOT_FOUND", "S001"])
def test_other_codes_are_not_looked_into(code: str) -> None:
    bare = classify({"code": code, "message": "x"})
    told = classify({"code": code, "message": '{"type":"transient","code":"S102"}'})
    assert told.category is bare.category
    assert told.inner is None


def test_channel_that_handler_could_not_resolve_did_run() -> None:
    message = "1 validation error for StreamChannelRef\ndirection"
    before: dict[str, Any] = {"code": "invocation_failed", "message": message}
    before["stacktrace"] = "File iii.py, in _handle_invoke_in_context … in _resolve_channels"
    assert classify(before).execution is Execution.NOT_EXECUTED
    inside = before | {"stacktrace": "in _invoke_with_otel_context … in _resolve_channels"}
    assert classify(inside).execution is Execution.EXECUTED
    elsewhere = before | {"stacktrace": "in my_handler"}
    assert classify(elsewhere).execution is Execution.EXECUTED


def test_messages_never_reach_remedy() -> None:
    for message in (
        "secret",
        '{"type":"transient","code":"L","message":"secret"}',
        "TIMEOUT: secret",
    ):
        assert "secret" not in repr(failed(message))


@pytest.mark.parametrize(
    ("body", "execution"),
    [
        ({"code": "DEADLINE_PASSED", "function_id": "t::called"}, Execution.NOT_EXECUTED),
        # Another function was not started: the called one ran, and called it.
        ({"code": "DEADLINE_PASSED", "function_id": "t::other"}, Execution.EXECUTED),
        ({"code": "DEADLINE_PASSED"}, Execution.EXECUTED),
        ({"code": "OVERLOADED", "function_id": "t::called"}, Execution.NOT_EXECUTED),
        ({"code": "OVERLOADED", "function_id": "t::other"}, Execution.EXECUTED),
        ({"code": "OTHER", "note": "DEADLINE_PASSED", "function_id": "t::called"}, None),
        ('{"DEADLINE_PASSED" is no JSON', None),
    ],
)
def test_only_rejection_of_target_proves_not_executed(
    body: dict[str, Any] | str, execution: Execution | None
) -> None:
    message = body if isinstance(body, str) else json.dumps({"type": "transient", **body})
    error = {"code": "invocation_failed", "message": message}
    assert classify(error, function_id="t::called").execution is (execution or Execution.EXECUTED)
    assert classify(error).execution is Execution.EXECUTED, "nobody said what was called"
