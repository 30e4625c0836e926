"""Payloads that the engine would drop or change are found before they leave, with their place."""

from __future__ import annotations

import dataclasses
import decimal
import enum
import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from iii_resilience import InvalidPayloadError
from iii_resilience.sdk import payload_check
from iii_resilience.sdk.payload_check import DEEPEST, as_sent, check_payload, flat_size, size_of


def nested(levels: int, inner: Any = 1, *, mapping: bool = False) -> Any:
    value = inner
    for _ in range(levels):
        value = {"a": value} if mapping else [value]
    return value


def circle() -> list[Any]:
    around: list[Any] = [1]
    around.append({"again": around})
    return around


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Model(BaseModel):
    price: Any = 1.0


@dataclasses.dataclass
class Plain:
    price: Any = 1.0


class Broken:
    def model_dump(self, **options: Any) -> Any:
        raise RuntimeError("no")


TOO_DEEP = "{} is nested deeper than 120 levels"


def shortened(step: str) -> str:
    path = "$" + step * DEEPEST
    return f"{path[:179]}…{path[-20:]}"


REFUSED: list[tuple[Any, str]] = [
    (math.nan, "$ is NaN"),
    (["text", 1.5, True, None, {"k": "v"}, math.nan], "$[5] is NaN"),
    ({"items": [1, 2, 3, {"price": math.nan}]}, "$.items[3].price is NaN"),
    ({"a": [math.inf]}, "$.a[0] is Infinity"),
    ((1, (-math.inf,)), "$[1][0] is -Infinity"),
    ({"name": "x\ud800y"}, "$.name holds a lone surrogate"),
    ("\udfff", "$ holds a lone surrogate"),
    ({"k\ud800": 1}, "$[key 0] has a key with a lone surrogate"),
    ({"ok": 1, math.nan: 1}, "$[key 1] has the key NaN"),
    ({"n": 2**64 + 1}, "$.n is an integer outside -2**63 ... 2**64: send it as text"),
    ([-(2**63) - 1], "$[0] is an integer outside -2**63 ... 2**64: send it as text"),
    ([10**5000], "$[0] is an integer outside -2**63 ... 2**64: send it as text"),
    (2**70, "$ is an integer outside -2**63 ... 2**64: send it as text"),
    ({"tags": {"a"}}, "$.tags is of type set, which JSON does not know"),
    ([b"bytes"], "$[0] is of type bytes, which JSON does not know"),
    ({"d": decimal.Decimal(1)}, "$.d is of type Decimal, which JSON does not know"),
    ({"c": Colour.RED}, "$.c is of type Colour, which JSON does not know"),
    ({"m": Model}, "$.m is of type ModelMetaclass, which JSON does not know"),
    ({"m": Plain}, "$.m is of type type, which JSON does not know"),
    ({"b": Broken()}, "$.b is of type Broken, which could not be turned into JSON"),
    ({(1, 2): 3}, "$[key 0] has a key of type tuple, which JSON does not know"),
    ({"m": Model(price=math.nan)}, "$.m.price is NaN"),
    ({"m": Plain(price=[math.nan])}, "$.m.price[0] is NaN"),
    ({"a": circle()}, "$.a[1].again refers back to a collection that it lies in"),
    (
        nested(DEEPEST + 1),
        TOO_DEEP.format(shortened("[0]")),
    ),
    (
        nested(DEEPEST + 1, mapping=True),
        TOO_DEEP.format(shortened(".a")),
    ),
    (
        nested(50_000),
        TOO_DEEP.format(shortened("[0]")),
    ),
]

SENT: list[Any] = [
    None,
    True,
    0,
    -(2**63),
    2**64,
    1.79e308,
    -0.0,
    "",
    "\x00 grüße 😀 \x7f",
    [],
    {},
    (1, 2),
    {1: "a", None: 2, False: 3, 1.5: 4},
    {"id": "12345678901234567890123", "card": "number: 1234567890123456789012"},
    [0.00012345678901234567] * 3,
    {"text": "[" * 500 + '"' + "{" * 500},
    {"text": '\\"' + "[" * 500},
    nested(DEEPEST),
    nested(DEEPEST, "]" * 200),
    nested(DEEPEST, '"\\', mapping=True),
    [{"row": number} for number in range(1000)],
    Model(),
    Plain(),
    {"level": Level.HIGH, "many": [Model(), Plain(price=Model())]},
]


@pytest.mark.parametrize(("payload", "problem"), REFUSED)
def test_lossy_payload_is_rejected_with_place(payload: Any, problem: str) -> None:
    with pytest.raises(InvalidPayloadError) as caught:
        check_payload(payload)
    assert str(caught.value) == f"the payload cannot be sent: {problem}. Nothing was sent"
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("payload", SENT)
def test_what_arrives_as_it_is_passes_with_its_size(payload: Any) -> None:
    assert check_payload(payload) >= size_of(payload)
    if not isinstance(payload, dict):
        assert check_payload(payload) == size_of(payload)


@pytest.mark.parametrize("levels", [DEEPEST - 1, DEEPEST, DEEPEST + 1])
@pytest.mark.parametrize("filling", [1, "]]", '"', "\\", '\\"[', ["x", "]"], {"k": '["'}])
@pytest.mark.parametrize("mapping", [False, True])
def test_brackets_in_strings_do_not_count(levels: int, filling: Any, mapping: bool) -> None:
    payload = nested(levels - isinstance(filling, (list, dict)), filling, mapping=mapping)
    if levels > DEEPEST:
        with pytest.raises(InvalidPayloadError, match="is nested deeper"):
            check_payload(payload)
    else:
        check_payload(payload)


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("price", "$.price"),
        ("a" * 40, "$." + "a" * 40),
        ("a" * 41, "$[key 0]"),
        ("4111 1111 1111 1111", "$[key 0]"),
        ("user@example.org", "$[key 0]"),
        ("", "$[key 0]"),
        (7, "$[key 0]"),
        ("a\n", "$[key 0]"),
    ],
)
def test_only_keys_that_look_like_names_of_fields_are_shown(key: Any, shown: str) -> None:
    with pytest.raises(InvalidPayloadError) as caught:
        check_payload({key: math.nan})
    assert str(caught.value) == f"the payload cannot be sent: {shown} is NaN. Nothing was sent"


def test_no_value_is_in_message() -> None:
    with pytest.raises(InvalidPayloadError) as caught:
        check_payload({"secret": "marker", "n": 2**70, "other": "marker\ud800"})
    assert "marker" not in str(caught.value)
    assert str(2**70) not in str(caught.value)


def test_the_same_collection_twice_is_no_circle() -> None:
    part = {"price": 1}
    check_payload({"first": part, "second": [part, part]})
    with pytest.raises(InvalidPayloadError, match=r"\$\.third is NaN"):
        check_payload({"first": part, "second": [part, part], "third": math.nan})


class Aliased(BaseModel):
    price: float = Field(alias="unitPrice")
    note: str | None = None


class FailsOnce:
    """A model that cannot be written, and a moment later can."""

    def __init__(self) -> None:
        self.tries = 0

    def model_dump(self, **options: Any) -> Any:
        self.tries += 1
        if self.tries == 1:
            raise RuntimeError("not now")
        return {"price": 1}


def test_models_are_sent_by_alias_and_without_none() -> None:
    assert as_sent({"m": Aliased(unitPrice=1.5)}) == '{"m": {"unitPrice": 1.5}}'
    assert check_payload([Aliased(unitPrice=1.5)]) == len('[{"unitPrice":1.5}]')


def test_size_of_what_json_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"^set is not JSON serialisable$"):
        size_of({1})


def test_payload_without_place_of_its_problem_is_refused() -> None:
    with pytest.raises(InvalidPayloadError) as caught:
        check_payload([FailsOnce()])
    expected = "the payload cannot be sent: $ cannot be written as JSON. Nothing was sent"
    assert str(caught.value) == expected


@pytest.mark.parametrize("value", [[math.nan], [2**64 + 1], nested(DEEPEST + 1)])
def test_message_names_what_was_to_be_sent(value: Any) -> None:
    with pytest.raises(InvalidPayloadError, match=r"^the result cannot be sent: \$"):
        check_payload(value, what="the result")


# A small, flat object is not written: six bytes a character and 32 a field bound its size.
FLAT: list[tuple[Any, int | None]] = [
    ({}, 2),
    ({"a": 1}, 40),
    ({"a": None, "bc": True}, 84),
    ({"a": 1.5, "b": "cd"}, 90),
    ({"a": 2**53 - 1, "b": 1 - 2**53}, 78),
    ({str(n): n for n in range(10)}, 382),
    ({chr(97 + n): n for n in range(16)}, 610),
    ({chr(97 + n): n for n in range(17)}, None),
    ({"a": 2**53}, None),
    ({"a": -(2**53)}, None),
    ({"a": math.inf}, None),
    ({"a": -math.inf}, None),
    ({"a": math.nan}, None),
    ({"\xe4": 1}, None),
    ({"a": "\xe4"}, None),
    ({"a": []}, None),
    ({"a": Level.HIGH}, None),
    ({1: "a"}, None),
    ([], None),
    ("a", None),
    (type("Own", (dict,), {})(), None),
]


@pytest.mark.parametrize(("value", "size"), FLAT)
def test_small_flat_object_has_bound_of_its_size(value: Any, size: int | None) -> None:
    assert flat_size(value) == size
    if size is not None:
        assert check_payload(value) == size >= size_of(value)


# What does not look suspicious is never walked through.
SUSPICIOUS: list[tuple[Any, bool]] = [
    (10**18, True),
    ([10**18], True),
    ({"n": 10**18}, True),
    ([1, 10**18], True),
    (10**17, False),
    ({"n": "1" * 19}, False),
    ([0.1234567890123456789], False),
    (nested(DEEPEST), False),
    (nested(DEEPEST + 1), True),
    (nested(DEEPEST + 1, mapping=True), True),
    ([nested(60)] * 3, False),
    (nested(DEEPEST - 1, ["[" * 200, ""]), False),
    (nested(DEEPEST, ["[" * 200, ""]), True),
    (nested(DEEPEST, '"[' * 200), False),
    (nested(DEEPEST + 1, '"[' * 200), True),
    ([["\\"]] * 200, False),
    ([["\\", Model()]] * 200, True),
    ([{"a": ("\\",)}] * 200, False),
]


@pytest.mark.parametrize(("value", "suspicious"), SUSPICIOUS)
def test_only_suspicious_text_is_looked_at_again(value: Any, suspicious: bool) -> None:
    raw = payload_check._compact(value).encode()
    skeleton = raw.translate(payload_check._ALIKE, payload_check._NOT_SKELETON)
    assert payload_check._suspicious(value, raw, skeleton) is suspicious


class Counted:
    """A model that counts how often it is written."""

    def __init__(self) -> None:
        self.written = 0

    def model_dump(self, **options: Any) -> Any:
        self.written += 1
        return {"price": 1}


def test_model_in_large_payload_is_written_once() -> None:
    model = Counted()
    check_payload([model, *(["row"] for _ in range(DEEPEST - 2))])
    assert model.written == 1


@pytest.mark.parametrize(
    ("brackets", "deep"),
    [
        (b"[" * DEEPEST + b"]" * DEEPEST, False),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), True),
        (b'[""]' * 9, False),
        (b'["[[["]', False),
        (b"[][]" * 300, False),
    ],
)
def test_depth_of_brackets(brackets: bytes, deep: bool) -> None:
    assert payload_check._deep_text(brackets) is deep


def test_long_path_is_cut_in_its_middle() -> None:
    path = "".join(chr(97 + n % 26) for n in range(300))
    assert payload_check._shortened(path[:200]) == path[:200]
    assert payload_check._shortened(path[:201]) == f"{path[:179]}…{path[181:201]}"


# An oracle that shares nothing with the code: slow, recursive, plain.


def acceptable(value: Any, depth: int = 0) -> bool:
    if isinstance(value, (list, dict)):
        if depth >= DEEPEST:
            return False
        if isinstance(value, dict):
            return all(
                acceptable(key) and acceptable(part, depth + 1) for key, part in value.items()
            )
        return all(acceptable(part, depth + 1) for part in value)
    if isinstance(value, str):
        return not any(0xD800 <= ord(character) <= 0xDFFF for character in value)
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return -(2**63) <= value <= 2**64
    return isinstance(value, float) and math.isfinite(value)


texts = st.text(st.sampled_from('ab"\\[]{},:0919\ud800\udc00\U0001f600é\n')) | st.text(
    st.characters(codec=None)  # surrogates too
)
numbers = (
    st.integers()
    | st.integers(2**63 - 2, 2**64 + 2)
    | st.integers(-(2**63) - 2, -(2**63) + 2)
    | st.floats()
)
payloads = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=40,
)


flat = st.dictionaries(texts, st.none() | st.booleans() | numbers | texts, max_size=20)


@given(payloads | flat, st.just(0) | st.integers(0, DEEPEST + 2), st.booleans())
@example([2**64 + 1, "1" * 30], 0, False)
@example({"a": "\ud83d\ude00"}, 0, False)
def test_exactly_what_json_and_engine_can_carry_passes(
    payload: Any, levels: int, mapping: bool
) -> None:
    whole = nested(levels, payload, mapping=mapping)
    try:
        size = check_payload(whole)
    except InvalidPayloadError:
        assert not acceptable(whole)
    else:
        assert acceptable(whole)
        compact = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
        assert size_of(whole) == len(compact.encode())
        assert size == size_of(whole) or (isinstance(whole, dict) and size > size_of(whole))
        assert size_of(whole, compact=False) == len(json.dumps(whole))
        assert size_of(whole, compact=False) <= 6 * size_of(whole) + 6
