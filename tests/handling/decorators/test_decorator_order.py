"""Decorators whose order matters are refused in the wrong one, and the message shows the right."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from iii_resilience import iii_retry
from iii_resilience.handling import PermanentError, consumer, idempotent, reports_errors
from iii_resilience.stores import MemoryStore

Decorator = Callable[[Any], Any]


def parks() -> Decorator:
    return consumer(parking=MemoryStore(), key="id", function_id="f")


def once() -> Decorator:
    return idempotent(MemoryStore(), key="id", function_id="f")


def retries() -> Decorator:
    return iii_retry(idempotent=True, attempts=2)


def handler(data: Any) -> str:
    return "done"


def between(decorated: Any) -> Any:
    """A decorator of the user's own."""

    @functools.wraps(decorated)
    def wrapper(data: Any) -> Any:
        return decorated(data)

    return wrapper


@pytest.mark.parametrize(
    ("outer", "inner", "right"),
    [
        (once, parks, "@consumer(...)\n@idempotent(...)\ndef handler"),
        (once, once, "once"),
        (parks, parks, "once"),
        (retries, parks, "@consumer(...)\n@iii_retry(...)\ndef handler"),
    ],
)
def test_wrong_order_is_refused_when_decorating(
    outer: Callable[[], Decorator], inner: Callable[[], Decorator], right: str
) -> None:
    for decorated in (inner()(handler), between(inner()(handler))):
        with pytest.raises(TypeError) as caught:
            outer()(decorated)
        assert right in str(caught.value)


async def asynchronous(data: Any) -> str:
    return "done"


def test_wrong_order_is_refused_for_coroutines_and_methods() -> None:
    with pytest.raises(TypeError, match="@consumer"):
        once()(parks()(asynchronous))

    class Orders:
        @parks()
        def save(self, data: Any) -> None: ...

    with pytest.raises(TypeError, match="@consumer"):
        once()(Orders.save)


@pytest.mark.parametrize(
    "order",
    [
        (parks, once),
        (parks, retries),
        (parks, once, retries),
        (once, retries),
        (retries, once),
        (parks, lambda: reports_errors),
        (lambda: reports_errors, parks),
        (lambda: reports_errors, parks, once, lambda: reports_errors),
        (once, lambda: reports_errors),
        (lambda: reports_errors, lambda: reports_errors),
    ],
)
def test_any_other_order_works(order: tuple[Callable[[], Decorator], ...]) -> None:
    decorated: Any = handler
    for one in reversed(order):
        decorated = one()(decorated)
    assert decorated({"id": 1}) == decorated({"id": 1}) == "done"


@pytest.mark.parametrize(
    "order", [(parks, lambda: reports_errors), (lambda: reports_errors, parks)]
)
def test_failure_is_parked_wherever_errors_are_reported(
    order: tuple[Callable[[], Decorator], ...],
) -> None:
    def fails(data: Any) -> None:
        raise PermanentError("no", code="CARD_DECLINED")

    decorated: Any = fails
    for one in reversed(order):
        decorated = one()(decorated)
    assert "parked" in decorated({"id": 1})


def test_helper_with_its_own_key_may_be_called_inside() -> None:
    helper = idempotent(MemoryStore(), key="id", function_id="helper")(handler)

    @idempotent(MemoryStore(), key="id", function_id="f")
    def calls(data: Any) -> Any:
        return helper(data)

    outside: Any = calls
    assert outside({"id": 1}) == "done"
