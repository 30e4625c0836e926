"""Numbers from users: what passes, and how the rest is refused."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_resilience.core.validators import (
    Check,
    Choice,
    Flag,
    Part,
    Text,
    checked_names,
    number,
    removed_names,
    seconds,
    spelling,
)


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


TIMES: dict[str, Any] = {"least": 0, "unit": "seconds", "optional": True}


@pytest.mark.parametrize(
    ("bounds", "value", "message"),
    [
        (
            TIMES,
            1e18,
            "f must be a finite number of seconds at least 0 or None (at most 1000000000), got",
        ),
        (TIMES, -1, "f must be a finite number of seconds at least 0 or None, got -1"),
        (TIMES, float("inf"), "f must be a finite number of seconds at least 0 or None, got inf"),
        (TIMES, "soon", "f must be a finite number of seconds at least 0 or None, got 'soon'"),
        (TIMES, True, "f must be a finite number of seconds at least 0 or None, got True"),
        (
            {"above": 0, "most": 5, "unit": "seconds"},
            6,
            "f must be a finite number of seconds above 0 and at most 5, got 6",
        ),
        ({"least": 1, "most": 3, "integer": True}, 4, "f must be a whole number at least 1 and "),
    ],
)
def test_message_names_largest_time_only_if_it_is_exceeded(
    bounds: dict[str, Any], value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        number(**bounds).require("f", value)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(f", got {value!r}")


def test_longest_time_itself_is_allowed() -> None:
    assert number(**TIMES).allows(1e9)
    assert number(**TIMES).beyond(1e9) == ""


def test_files_name_no_value_their_own_way() -> None:
    assert number(optional=True).allowed("null") == "a finite number or null"
    assert Text("a name", optional=True).allowed("null") == "a name or null"


@pytest.mark.parametrize(
    ("kinds", "optional", "value", "message"),
    [
        ((int,), False, "x", "Box.size must be a int, got 'x': write size=Box(1)"),
        ((ValueError, int), False, None, "Box.size must be a ValueError or a int, got None: "),
        ((OSError,), True, 5, "Box.size must be an OSError or None, got 5: "),
        ((OSError,), False, ValueError, "Box.size must be an OSError, got the class ValueError: "),
        ((OSError,), False, "x" * 99, f"Box.size must be an OSError, got '{'x' * 79}: write "),
    ],
)
def test_part_of_other_class_is_shown_with_remedy(
    kinds: tuple[type, ...], optional: bool, value: Any, message: str
) -> None:
    @attrs.frozen
    class Box:
        size: Any = attrs.field(validator=Part(kinds, "Box(1)", optional))

    assert Box(kinds[0]()).size is not None
    with pytest.raises(TypeError, match=r"Box\.size must be") as caught:
        Box(value)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(": write size=Box(1)")


NAMES = ("attempts", "attempt_timeout", "base", "cap", "deadline", "ratio")


@pytest.mark.parametrize(
    ("given", "clause"),
    [
        ("deadline_ms", "; did you mean deadline, in seconds?"),
        ("deadline_seconds", "; did you mean deadline, in seconds?"),
        ("max_retries", "; did you mean attempts?"),
        ("timeout", "; did you mean attempt_timeout?"),
        ("max_delay", "; did you mean cap?"),
        ("atempts", "; did you mean attempts?"),
        ("dead_line_ms", "; did you mean deadline?"),
        ("multiplier", ""),  # its field is none of these
        ("X", ""),
        ("retro_ms", ""),
    ],
)
def test_unknown_name_comes_with_what_was_meant(given: str, clause: str) -> None:
    assert spelling(NAMES, given) == clause


@attrs.frozen
class _Size:
    width: int = attrs.field(default=1, alias="w")
    height: int = 2
    area: int = attrs.field(default=0, init=False)


def _with_names() -> Any:
    @checked_names
    @attrs.frozen
    class Size(_Size):
        REMOVED: ClassVar = {"depth": "a size is flat; leave it out"}

        depth_of: int = 3

    return Size


def test_checked_class_takes_its_own_arguments() -> None:
    size = _with_names()(5, height=6)
    assert (size.width, size.height, size.depth_of, size.area) == (5, 6, 3, 0)
    assert _with_names()(w=5).width == 5


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("hieght", "Size has no field hieght; did you mean height? (it has w, height, depth_of)"),
        ("area", "Size has no field area (it has w, height, depth_of)"),
        ("width", "Size has no field width (it has w, height, depth_of)"),
        ("depth", "Size.depth: a size is flat; leave it out"),
        ("depth_ms", "Size.depth_ms: a size is flat; leave it out"),
    ],
)
def test_checked_class_names_unknown_argument(argument: str, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        _with_names()(**{argument: 1})
    assert str(caught.value) == message


def test_checked_class_keeps_signature_for_help() -> None:
    assert list(inspect.signature(_with_names()).parameters) == ["w", "height", "depth_of"]


def test_class_that_lost_no_argument_has_none_to_name() -> None:
    assert removed_names(_Size) == {}
    assert removed_names(_with_names()) == {"depth": "a size is flat; leave it out"}


@pytest.mark.parametrize(
    ("value", "shown"), [(0.1, "0.1 s"), (30.0, "30 s"), (1e-7, "1e-07 s"), (86400.5, "86400.5 s")]
)
def test_time_is_shown_with_every_digit_that_counts(value: float, shown: str) -> None:
    assert seconds(value) == shown
