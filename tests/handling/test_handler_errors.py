"""Errors that handlers raise on purpose: their category survives the hop."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from iii_resilience import Category, Execution, classify
from iii_resilience.handling import (
    AuthError,
    HandlerError,
    NotFoundError,
    PayloadError,
    PermanentError,
    TransientError,
)

KINDS = {
    TransientError: Category.TRANSIENT,
    AuthError: Category.AUTH,
    NotFoundError: Category.NOT_FOUND,
    PayloadError: Category.PAYLOAD,
    PermanentError: Category.PERMANENT,
}


def over_the_wire(error: HandlerError) -> dict[str, Any]:
    return {"code": "invocation_failed", "message": str(error)}


@pytest.mark.parametrize(("kind", "category"), KINDS.items())
@pytest.mark.parametrize("code", [None, "CARD_DECLINED"])
def test_category_is_the_same_on_both_sides(
    kind: type[HandlerError], category: Category, code: str | None
) -> None:
    error = kind("no way", code=code)
    here, there = classify(error), classify(over_the_wire(error))
    assert here.category is there.category is category
    assert there.code == "invocation_failed"
    assert there.execution is Execution.EXECUTED
    assert there.inner is not None
    assert there.inner.code == (code or "_OTHER")
    assert there.inner.message == "no way"


def test_pushback_and_mark_travel() -> None:
    error = TransientError("busy", code="BUSY", retry_after=0.5)
    error.already_retried = True
    there = classify(over_the_wire(error))
    assert there.retry_after == 0.5
    assert there.already_retried
    assert not classify(over_the_wire(TransientError("busy"))).already_retried


def test_known_code_keeps_category_of_its_table() -> None:
    assert classify(over_the_wire(TransientError("no", code="FORBIDDEN"))).category is Category.AUTH


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"code": 5}, TypeError, "PayloadError.code must be text or None, got int"),
        ({"code": ""}, ValueError, "PayloadError.code must have 1 to "),
        ({"code": "x" * 1000}, ValueError, "PayloadError.code must have 1 to "),
        ({"retry_after": -1}, ValueError, "PayloadError.retry_after must be a finite number"),
        ({"retry_after": float("nan")}, ValueError, "PayloadError.retry_after must be a finite"),
        ({"retry_after": True}, ValueError, "PayloadError.retry_after must be a finite number"),
        ({"retry_after": "1"}, ValueError, "PayloadError.retry_after must be a finite number"),
    ],
)
def test_what_cannot_travel_is_refused_where_it_is_raised(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        PayloadError("x", **arguments)
    assert str(caught.value).startswith(message)


def test_it_survives_pickling_with_everything_it_says() -> None:
    error = TransientError("busy", code="BUSY", retry_after=1.5)
    error.already_retried = True
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert type(again) is TransientError


def test_message_is_not_in_repr() -> None:
    assert "secret" not in repr(PayloadError("secret", code="X"))
