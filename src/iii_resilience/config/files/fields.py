"""The fields of policy files: what they are called, and which values they allow.

Derived from the classes and their validators; reading, writing and the JSON Schema all use this
table. Files hold whole milliseconds with the suffix ``_ms``, as iii's own configuration does;
Python holds seconds. Knows nothing of reading files.
"""

from __future__ import annotations

import inspect
import re
import typing
from enum import StrEnum
from fractions import Fraction
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final

import attrs

from iii_resilience.config.queue_definition import Queue
from iii_resilience.config.rules import Rule
from iii_resilience.core.backoff import Backoff
from iii_resilience.core.codes.lookup import Code
from iii_resilience.core.guards.breaker import Breaker
from iii_resilience.core.guards.budget import Budget
from iii_resilience.core.guards.bulkhead import Bulkhead
from iii_resilience.core.policy import Enqueue, Reroute, RetryPolicy
from iii_resilience.core.validators import Check, Choice, Flag, Number, Text

KINDS: Final[dict[type, str]] = {
    RetryPolicy: "a policy",
    Backoff: "a backoff",
    Budget: "a budget",
    Breaker: "a breaker",
    Bulkhead: "a bulkhead",
    Enqueue: "a fallback",
    Reroute: "a fallback",
    Rule: "a rule",
    Queue: "a queue",
    Code: "a code",
}
"""The classes that files hold, and what messages call them."""

EXTENDS = "extends"

# Objects of tenacity, which only code can make.
CODE_ONLY: Final = ("wait", "stop")

_KEYS: Final = {(Queue, "name"), (Code, "code")}
_CALLED: Final = {(Enqueue, "queue"): "enqueue", (Reroute, "function_id"): "reroute"}
_SECONDS = "seconds"


@attrs.frozen
class FileField:
    """One field of a class, as it stands in files.

    Attributes:
        key: What files call it.
        name: What the class calls it.
        check: What a file may say there, in the units of files; None for a part.
        parts: The classes that its mapping may stand for; empty if it is not a mapping.
        optional: Whether ``null`` is allowed.
        required: Whether a file must say it.
        hidden: Whether a file says it elsewhere: in the key above the mapping.
        milliseconds: Whether the class holds seconds.
        meaning: What it means, in the words of its class.
    """

    key: str
    name: str
    check: Check | None
    parts: tuple[type, ...]
    optional: bool
    required: bool
    hidden: bool
    milliseconds: bool
    meaning: str

    def to_python(self, value: Any) -> Any:
        """A value of a file that is allowed, as the class holds it.

        Raises:
            ValueError: It is a number beyond what a float holds.
        """
        if not self.milliseconds or value is None:
            return value
        try:
            return value / 1000
        except OverflowError:
            raise ValueError("must be a number that a clock can hold") from None

    def to_file(self, value: Any) -> Any:
        """A value of the class, as files hold it; a part of a millisecond stays one."""
        if isinstance(value, StrEnum):
            return value.value
        if not self.milliseconds or value is None:
            return value
        whole = round(Fraction(value) * 1000)
        return whole if whole / 1000 == value else value * 1000


@cache
def fields_of(kind: type) -> dict[str, FileField]:
    """The fields of a class by what the class calls them.

    Args:
        kind: One of `KINDS`, or of the classes that another kind of file holds.
    """
    hints = typing.get_type_hints(kind)
    meanings = _meanings(kind)
    found = {}
    for attribute in attrs.fields(kind):
        name = attribute.name
        if not attribute.init or (kind is RetryPolicy and name in CODE_ONLY):
            continue
        options = _options(hints[name])
        check = _check(attribute.validator, options)
        milliseconds = isinstance(check, Number) and check.unit == _SECONDS
        meaning = re.sub(r"\bNone\b", "null", meanings.get(name, ""))  # none under -OO
        if milliseconds:
            check = _in_milliseconds(typing.cast("Number", check))
            meaning = re.sub(r"\b([Ss])econds\b", r"milli\1econds", meaning)
            meaning = re.sub(r"\bmilliSeconds\b", "Milliseconds", meaning)
        found[name] = FileField(
            key=_CALLED.get((kind, name), f"{name}_ms" if milliseconds else name),
            name=name,
            check=check,
            parts=tuple(option for option in options if attrs.has(option)),
            optional=NoneType in options,
            required=name == "category" if kind is Code else attribute.default is attrs.NOTHING,
            hidden=(kind, name) in _KEYS,
            milliseconds=milliseconds,
            meaning=meaning,
        )
    return found


def keys_of(kind: type) -> list[str]:
    """What files may say of an object of a class, in its order."""
    keys = [field.key for field in fields_of(kind).values() if not field.hidden]
    return [EXTENDS, *keys] if kind is RetryPolicy else keys


def in_words_of_files(kind: type, message: str) -> tuple[str | None, str]:
    """What a class says of its fields together, as the reader of a file would say it.

    Args:
        kind: The class.
        message: What it says (``Backoff.base (30 s) must not be above Backoff.cap (20 s)``).

    Returns:
        The key that it is about, or None; and the message.
    """
    first: list[str] = []

    def key(match: re.Match[str]) -> str:
        field = fields_of(kind).get(match[1])
        first.append(match[1] if field is None else field.key)
        return first[-1]

    said = re.sub(rf"\b{kind.__name__}\.(\w+)", key, message)
    said = re.sub(r"\((\S+) s\)", lambda match: f"({float(match[1]) * 1000:.15g} ms)", said)
    # The key stands before the message already.
    said = re.sub(r"^\w+ \(([^)]+)\) must", r"is \1 and must", said)
    said = re.sub(r"^\w+ must", "must", said)
    return (first[0] if first else None), said


def _options(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows."""
    if isinstance(hint, UnionType) or typing.get_origin(hint) is typing.Union:
        return typing.get_args(hint)
    return (hint,)


def _check(validator: Any, options: tuple[Any, ...]) -> Check | None:
    if isinstance(validator, Check):
        return validator
    for option in options:
        if option is bool:
            return Flag(optional=NoneType in options)
        if isinstance(option, type) and issubclass(option, StrEnum):
            return Choice(tuple(member.value for member in option))
        if option is str:
            return Text("a text", optional=NoneType in options)
    return None


def _in_milliseconds(check: Number) -> Number:
    def scaled(bound: float | None) -> float | None:
        return None if bound is None else bound * 1000

    return Number(
        scaled(check.least),
        scaled(check.above),
        scaled(check.most),
        check.optional,
        integer=True,
        unit="milliseconds",
    )


_ENTRY = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


def _meanings(kind: type) -> dict[str, str]:
    """What a class's Google docstring says of its fields, by name."""
    text = inspect.cleandoc(kind.__doc__ or "")
    return {
        name: " ".join(words.split()).replace("``", "").replace("`", "")
        for name, words in _ENTRY.findall(text)
    }
