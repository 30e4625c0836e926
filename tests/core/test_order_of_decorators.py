"""What stands around a handler, and what is refused there."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from iii_resilience.core.decorator_order import mark_wrapped, refuse_inside, wrapped_by


def handler(data: Any) -> Any:
    return data


def wrapped(name: str, inside: Any) -> Any:
    @functools.wraps(inside)
    def wrapper(data: Any) -> Any:
        return inside(data)

    mark_wrapped(wrapper, name, inside)
    return wrapper


def test_handler_alone_has_nothing_around_it() -> None:
    assert wrapped_by(handler) == ()


def test_wrappers_are_listed_with_outermost_first() -> None:
    assert wrapped_by(wrapped("outer", wrapped("inner", handler))) == ("outer", "inner")


def test_decorator_of_users_in_between_hides_none() -> None:
    @functools.wraps(wrapped("inner", handler))
    def theirs(data: Any) -> Any:
        return data

    assert wrapped_by(wrapped("outer", theirs)) == ("outer", "inner")


def test_attribute_of_that_name_that_is_not_ours_counts_for_nothing() -> None:
    def theirs(data: Any) -> Any:
        return data

    vars(theirs)["_iii_resilience_wrapped"] = "inner"
    assert wrapped_by(theirs) == ()


def test_wrapper_refuses_another_further_inside_with_right_order() -> None:
    inside = wrapped("middle", wrapped("inner", handler))
    with pytest.raises(TypeError) as caught:
        refuse_inside("outer", inside, inner="it would run twice", absent="never")
    assert str(caught.value) == (
        "@outer outside of @inner: it would run twice. Write\n"
        "@inner(...)\n@outer(...)\ndef handler(data): ..."
    )


def test_wrapper_that_is_given_twice_is_refused() -> None:
    with pytest.raises(TypeError) as caught:
        refuse_inside("outer", wrapped("outer", handler), outer="its key is read once")
    assert str(caught.value) == "@outer decorates a handler once: its key is read once"


@pytest.mark.parametrize("inside", [handler, wrapped("outer", handler), wrapped("a", handler)])
def test_all_other_orders_are_taken(inside: Any) -> None:
    refuse_inside("outer", inside, inner="it would run twice")
