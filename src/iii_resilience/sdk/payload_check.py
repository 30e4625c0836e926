"""Rejects payloads that the engine would drop or change, before they are sent.

The engine silently drops a frame with NaN, a lone surrogate or deep nesting, which is a ``TIMEOUT``
for the caller. It rounds integers that need more than 64 bits (docs/engine-notes.md, 1). Knows
nothing of connections, policies, or senders.

A payload is encoded once, as the SDK will do it. Only if the text looks suspicious is the payload
itself traversed to find the path.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from iii_resilience.core.errors import InvalidPayloadError

DEEPEST = 120
"""Collections in one another that are sent; the engine drops what is nested deeper than 126
levels (docs/engine-notes.md, 1), and the frame around a payload and the SDK's own models take
some of them."""
SMALLEST_INTEGER = -(1 << 63)
LARGEST_INTEGER = 1 << 64
"""Integers beyond these two arrive as floats (docs/engine-notes.md, 1)."""

_LONGEST_PATH = 200
_SHOWN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}\Z")

# The text's skeleton: brackets, quotes, separators, and digits made alike; the rest is deleted.
_ALIKE = bytes(0x30 if chr(c).isdigit() else c for c in range(128)) + bytes(range(128, 256))
_NOT_SKELETON = bytes(c for c in range(256) if c not in b'"[]{},:.0123456789')
_NOT_BRACKETS = b",:.0"
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_STRING = re.compile(rb'"[^"]*"')
_MANY_DIGITS = b"0" * 19  # what 2**63 has
_LONG_INTEGER = re.compile(rb"[\[:,]0{19}")
_FLAT = (str, int, float, type(None))
# Of a small, flat object: how many fields, what JSON makes of one ASCII character at most, and of
# a number with the punctuation around it.
_FLAT_MOST = 16
_ESCAPED_MOST = 6
_NUMBER_MOST = 32
_SMALL = 1 << 53
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _default(value: Any) -> Any:
    """What the SDK's own models make of values that JSON does not know."""
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump(by_alias=True, exclude_none=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} is not JSON serialisable")


# The SDK writes compact UTF-8 from 0.25 on, and what json.dumps() writes by default before
# (`_wire_json.py` there): the sizes differ, and limits count the bytes of that text. Circles are
# found by the walk, which says where; the encoder need not look for them in every payload.
_compact: Callable[[Any], str] = json.JSONEncoder(
    ensure_ascii=False,
    allow_nan=False,
    check_circular=False,
    separators=(",", ":"),
    default=_default,
).encode
_plain: Callable[[Any], str] = json.JSONEncoder(allow_nan=False, default=_default).encode


def check_payload(value: Any, *, what: str = "the payload") -> int:
    """Check that a value arrives as it is.

    Args:
        value: What is to be sent; it is not changed.
        what: What the value is, for messages.

    Returns:
        Its size as compact JSON, in bytes of UTF-8; of a small and flat one, an upper bound.

    Raises:
        InvalidPayloadError: A value that JSON does not know, NaN or an infinity, a lone
            surrogate, an integer outside -2**63 … 2**64, nesting deeper than `DEEPEST`. The
            message names the place and no value.
    """
    most = flat_size(value)
    if most is not None:
        return most
    try:
        raw = _compact(value).encode()
    except Exception:  # a model of the user's may raise anything
        raise _invalid(_first_problem(value) or "$ cannot be written as JSON", what) from None
    skeleton = raw.translate(_ALIKE, _NOT_SKELETON)
    if _MANY_DIGITS in skeleton or len(skeleton) > DEEPEST:  # else there is nothing to look at
        problem = _first_problem(value) if _suspicious(value, raw, skeleton) else None
        if problem is not None:
            raise _invalid(problem, what)
    return len(raw)


def flat_size(value: Any) -> int | None:  # noqa: C901 - one look a value, without calls
    """An upper bound of the size of a small, flat object that is fine; None for any other value.

    Most payloads are such objects, and looking at each value is cheaper than writing them all.
    """
    if value.__class__ is not dict or len(value) > _FLAT_MOST:
        return None
    size = 2
    for key, item in value.items():
        kind = item.__class__
        if key.__class__ is not str or not key.isascii():
            return None
        if kind is str:
            if not item.isascii():
                return None
            size += _ESCAPED_MOST * len(item)
        elif kind is int:
            if not -_SMALL < item < _SMALL:
                return None
        elif kind is float:
            if not -math.inf < item < math.inf:
                return None
        elif not (kind is bool or item is None):
            return None
        size += _ESCAPED_MOST * len(key) + _NUMBER_MOST
    return size


def size_of(value: Any, *, compact: bool = True) -> int:
    """Size of a value on the wire, in bytes; of one that has passed `check_payload`.

    Args:
        value: The value.
        compact: Whether it is written as SDK 0.25 writes it; else as older ones do, who make up
            to six bytes of one.
    """
    return len((_compact if compact else _plain)(value).encode())


def as_sent(value: Any) -> str:
    """A value as JSON text, with models and dataclasses as the SDK sends them.

    Args:
        value: One that has passed `check_payload`.
    """
    return _plain(value)


def _invalid(problem: str, what: str) -> InvalidPayloadError:
    return InvalidPayloadError(f"{what} cannot be sent: {problem}. Nothing was sent")


def _suspicious(value: Any, raw: bytes, skeleton: bytes) -> bool:
    """Whether the text may stand for something that the engine would drop or change."""
    if _MANY_DIGITS in skeleton and (isinstance(value, int) or _LONG_INTEGER.search(skeleton)):
        return True
    brackets = skeleton.translate(_ONE_KIND, _NOT_BRACKETS)
    if brackets.count(b"[") <= DEEPEST:
        return False
    if b"\\" in raw:  # the skeleton does not show where a string ends
        return _deep(value)
    return _deep_text(brackets)


def _deep_text(brackets: bytes) -> bool:
    """Whether collections are nested deeper than `DEEPEST`, by brackets and quotes alone."""
    brackets = brackets.replace(b'""', b"")
    if b'"' in brackets:  # some strings hold brackets
        brackets = _STRING.sub(b"", brackets)
    for _ in range(DEEPEST):  # each round takes the innermost collections away
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _deep(value: Any) -> bool:
    """Whether collections are nested deeper than `DEEPEST`, level by level."""
    level = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                parts: Iterable[Any] = item.values()
            elif isinstance(item, list | tuple):
                parts = item
            else:
                return True  # a model of the user's: the walk opens it
            inner.extend([part for part in parts if not isinstance(part, _FLAT)])
        if not inner:
            return False
        level = inner
    return True


# The walk: only where the text looks suspicious, or could not be written.


def _first_problem(value: Any) -> str | None:
    """The first value that cannot be sent, as ``$.items[3].price is NaN``; or None."""
    todo: list[Iterator[tuple[str, Any]]] = [iter([("$", value)])]
    above: list[int] = []  # the collections that the one looked at lies in
    while todo:
        for path, item in todo[-1]:
            if (problem := _problem(item)) is not None:
                return f"{_shortened(path)} {problem}"
            parts = _parts(path, item)
            if parts is None:
                continue
            if id(item) in above:
                return f"{_shortened(path)} refers back to a collection that it lies in"
            if len(above) >= DEEPEST:
                return f"{_shortened(path)} is nested deeper than {DEEPEST} levels"
            above.append(id(item))
            todo.append(parts)
            break
        else:
            todo.pop()
            if above:
                above.pop()
    return None


def _shortened(path: str) -> str:
    return path if len(path) <= _LONGEST_PATH else f"{path[: _LONGEST_PATH - 21]}…{path[-20:]}"


def _problem(item: Any) -> str | None:
    if isinstance(item, _BadKey):
        return item.problem
    if isinstance(item, str):
        return "holds a lone surrogate" if _LONE_SURROGATE.search(item) else None
    if item is None or isinstance(item, bool | list | tuple | dict):
        return None
    if isinstance(item, int):
        if SMALLEST_INTEGER <= item <= LARGEST_INTEGER:
            return None
        return "is an integer outside -2**63 ... 2**64: send it as text"
    if isinstance(item, float):
        return None if math.isfinite(item) else f"is {_name(item)}"
    try:
        _default(item)
    except TypeError:
        return f"is of type {type(item).__name__}, which JSON does not know"
    except Exception:
        return f"is of type {type(item).__name__}, which could not be turned into JSON"
    return None


def _name(number: float) -> str:
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def _parts(path: str, item: Any) -> Iterator[tuple[str, Any]] | None:
    if isinstance(item, dict):
        return _members(path, item)
    if isinstance(item, list | tuple):
        return ((f"{path}[{index}]", part) for index, part in enumerate(item))
    if item is None or isinstance(item, str | int | float):
        return None
    return iter([(path, _default(item))])


def _members(path: str, item: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for place, (key, value) in enumerate(item.items()):
        # A key may be as private as a value: only what looks like a field's name is shown.
        shown = isinstance(key, str) and _SHOWN_KEY.match(key) is not None
        where = f"{path}.{key}" if shown else f"{path}[key {place}]"
        if not (key is None or isinstance(key, str | int | float)):
            yield (
                where,
                _BadKey(f"has a key of type {type(key).__name__}, which JSON does not know"),
            )
        elif isinstance(key, float) and not math.isfinite(key):
            yield where, _BadKey(f"has the key {_name(key)}")
        elif isinstance(key, str) and _LONE_SURROGATE.search(key):
            yield where, _BadKey("has a key with a lone surrogate")
        yield where, value


@attrs.frozen
class _BadKey:
    """Stands for a key that cannot be sent, so that its place is named."""

    problem: str
