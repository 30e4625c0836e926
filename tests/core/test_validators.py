"""Numbers from users: what passes, and how the rest is refused."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_resilience.core.validators import Check, Choice, Flag, Text, number


def _refusal(value: Any, **bounds: Any) -> str | None:
    @attrs.frozen
    class Box:
        size: Any = attrs.field(validator=number(**bounds))

    try:
        Box(value)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        (0, {"least": 0}),
        (0.5, {"least": 0.5, "most": 0.5}),
        (1e-300, {"above": 0}),
        (None, {"optional": True, "least": 3}),
        (3, {"integer": True, "least": 3}),
        (-5, {}),
    ],
)
def test_number_within_its_bounds_passes(value: Any, bounds: dict[str, Any]) -> None:
    assert _refusal(value, **bounds) is None


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (-1, {"least": 0}, "Box.size must be a finite number at least 0, got -1"),
        (0, {"above": 0, "unit": "s"}, "Box.size must be a finite number of s above 0, got 0"),
        (True, {}, "Box.size must be a finite number, got True"),
        ("1", {"optional": True}, "Box.size must be a finite number or None, got '1'"),
        (None, {}, "Box.size must be a finite number, got None"),
        (1.0, {"integer": True}, "Box.size must be a whole number, got 1.0"),
        (9, {"least": 1, "most": 8}, "Box.size must be a finite number at least 1 and at most 8"),
    ],
)
def test_number_out_of_bounds_names_field_and_bounds(
    value: Any, bounds: dict[str, Any], message: str
) -> None:
    refusal = _refusal(value, **bounds)
    assert refusal is not None
    assert refusal.startswith(message)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_what_no_finite_float_holds_is_value_error(value: float) -> None:
    assert _refusal(value) is not None


@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.binary(),
        st.lists(st.none()),
    )
)
def test_whatever_is_given_check_passes_or_raises_value_error(value: Any) -> None:
    refusal = _refusal(value, least=0)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    assert (refusal is None) == (is_number and 0 <= value < float("inf"))


@pytest.mark.parametrize(
    ("check", "good", "bad", "message"),
    [
        (Text("a name"), ["a"], ["", 5, None], "Box.size must be a name, got "),
        (Text("a name", optional=True), ["a", None], [""], "Box.size must be a name or None, got "),
        (Choice(("a", "b")), ["a", "b"], ["c", "", None, ["a"]], "Box.size must be one of a, b, "),
        (Flag(), [True, False], [None, 1, 0, "yes"], "Box.size must be true or false, got "),
        (Flag(optional=True), [True, None], [1], "Box.size must be true or false, got "),
    ],
)
def test_lookalikes_of_texts_and_flags_are_rejected(
    check: Check, good: list[Any], bad: list[Any], message: str
) -> None:
    @attrs.frozen
    class Box:
        size: Any = attrs.field(validator=check)

    for value in good:
        assert check.allows(value)
        assert Box(value).size is value
    for value in bad:
        assert not check.allows(value)
        with pytest.raises(ValueError, match="must be") as caught:
            Box(value)
        assert str(caught.value).startswith(message)
        assert str(caught.value).endswith(f"got {value!r}")
