"""Validators for values that come from users: one wording for all classes and files.

Each has readable limits too, from which files and their JSON Schema are derived. Knows nothing of
what the values are for.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import attrs

from iii_resilience.core.system_clock import LONGEST_SECONDS

T = TypeVar("T")

_LONGEST = {"seconds": LONGEST_SECONDS, "milliseconds": LONGEST_SECONDS * 1000}


class Check(ABC):
    """An attrs validator that says what it allows."""

    __slots__ = ()

    def __call__(self, instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        """Refuse a value that is not allowed.

        Raises:
            ValueError: The message names the field, what is allowed, and the value.
        """
        self.require(f"{type(instance).__name__}.{attribute.name}", value)

    def require(self, name: str, value: Any) -> None:
        """Refuse an argument that is not allowed.

        Args:
            name: What the message calls it.
            value: Its value.

        Raises:
            ValueError: The message gives the name, what is allowed, and the value.
        """
        if not self.allows(value):
            raise ValueError(f"{name} must be {self.allowed()}{self.beyond(value)}, got {value!r}")

    @abstractmethod
    def allows(self, value: Any) -> bool:
        """Whether a value is allowed."""

    @abstractmethod
    def allowed(self, none: str = "None") -> str:
        """What is allowed, in words.

        Args:
            none: What no value is called.
        """

    def beyond(self, value: Any) -> str:  # noqa: ARG002 - for checks with a bound of their own
        """The bound that a value exceeds and that `allowed` does not name, in brackets."""
        return ""


@attrs.frozen
class Number(Check):
    """An attrs validator for a finite number within bounds.

    Args:
        least: Smallest value allowed.
        above: The value must be greater than this one.
        most: Largest value allowed; of seconds at most `LONGEST_SECONDS`.
        optional: Whether None is allowed too.
        integer: Whether only whole numbers are allowed.
        unit: What the number counts, for the message (``seconds``).
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    optional: bool = False
    integer: bool = False
    unit: str = ""

    def __attrs_post_init__(self) -> None:
        if self.unit == "seconds" and self.most is None:
            object.__setattr__(self, "most", LONGEST_SECONDS)

    @property
    def _implicit(self) -> bool:
        """Whether the largest value is that of all times, which few messages need to name."""
        return self.most == _LONGEST.get(self.unit)

    def beyond(self, value: Any) -> str:
        """See `Check.beyond`."""
        if not self._implicit or isinstance(value, bool) or not isinstance(value, (int, float)):
            return ""
        if self.most is None or not _finite(value) or value <= self.most:
            return ""
        return f" (at most {self.most:.15g})"

    def allows(self, value: Any) -> bool:
        """Whether a value is a number within the bounds."""
        if value is None:
            return self.optional
        return (
            isinstance(value, int if self.integer else (int, float))
            and not isinstance(value, bool)
            and _finite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
        )

    def allowed(self, none: str = "None") -> str:
        """See `Check.allowed`."""
        bounds = [
            f"{word} {bound:.15g}"
            for word, bound in (
                ("at least", self.least),
                ("above", self.above),
                ("at most", None if self._implicit else self.most),
            )
            if bound is not None
        ]
        return " ".join(
            [
                "a whole number" if self.integer else "a finite number",
                *([f"of {self.unit}"] if self.unit else []),
                *([" and ".join(bounds)] if bounds else []),
                *([f"or {none}"] if self.optional else []),
            ]
        )


@attrs.frozen
class Text(Check):
    """An attrs validator for a text that is not empty.

    Args:
        what: What the text is, for the message (``the name of a queue``).
        optional: Whether None is allowed too.
    """

    what: str
    optional: bool = False

    def allows(self, value: Any) -> bool:
        """Whether a value is a text that is not empty."""
        return self.optional if value is None else isinstance(value, str) and bool(value)

    def allowed(self, none: str = "None") -> str:
        """See `Check.allowed`."""
        return f"{self.what} or {none}" if self.optional else self.what


@attrs.frozen
class Choice(Check):
    """An attrs validator for one of a few texts.

    Args:
        options: The texts.
    """

    options: tuple[str, ...]

    def allows(self, value: Any) -> bool:
        """Whether a value is one of the texts."""
        return isinstance(value, str) and value in self.options

    def allowed(self, none: str = "None") -> str:  # noqa: ARG002 - there is no such option
        """See `Check.allowed`."""
        return f"one of {', '.join(self.options)}"


@attrs.frozen
class Flag(Check):
    """An attrs validator for true and false, and nothing that only counts as one of them.

    Args:
        optional: Whether None is allowed too.
    """

    optional: bool = False

    def allows(self, value: Any) -> bool:
        """Whether a value is true or false."""
        return self.optional if value is None else isinstance(value, bool)

    def allowed(self, none: str = "None") -> str:  # noqa: ARG002 - too clear to be said
        """See `Check.allowed`."""
        return "true or false"


@attrs.frozen
class Part:
    """An attrs validator for a part of a policy that is an object of a class.

    Args:
        kinds: The classes.
        example: How one is written, for the message (``Budget(ratio=0.2)``).
        optional: Whether None is allowed too.
    """

    kinds: tuple[type, ...]
    example: str
    optional: bool = False

    def __call__(self, instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        """Refuse an object of another class.

        Raises:
            TypeError: The message names the field, what is allowed, and the value.
        """
        if isinstance(value, self.kinds) or (value is None and self.optional):
            return
        names = " or ".join(f"{_article(kind.__name__)} {kind.__name__}" for kind in self.kinds)
        shown = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
        raise TypeError(
            f"{type(instance).__name__}.{attribute.name} must be {names}"
            f"{' or None' if self.optional else ''}, got {shown[:_SHOWN]}: "
            f"write {attribute.name}={self.example}"
        )


def _article(name: str) -> str:
    return "an" if name[0] in "AEIOU" else "a"


def spelling(names: Iterable[str], given: str) -> str:
    """What an unknown name was meant to be, as a clause; empty where nothing is near.

    Args:
        names: The names there are.
        given: The name that was given.
    """
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistyped name needs it

    known = set(names)
    bare = given.removesuffix("_ms").removesuffix("_seconds")
    if bare in known and bare != given:
        return f"; did you mean {bare}, in seconds?"
    wanted = _SYNONYMS.get(given)
    near = [wanted] if wanted in known else get_close_matches(given, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def removed_names(kind: type) -> dict[str, str]:
    """The arguments that a class once had, and what to do about each.

    Args:
        kind: An attrs class.
    """
    removed: dict[str, str] = getattr(kind, "REMOVED", {})
    return removed


def checked_names(kind: type[T]) -> type[T]:
    """A class decorator above ``attrs.frozen``: an unknown argument is named, with what was meant.

    Args:
        kind: An attrs class. Its ``REMOVED`` says what to do about arguments that it once had.
    """
    init: Any = vars(kind)["__init__"]
    fields: Iterable[attrs.Attribute[Any]] = attrs.fields(cast("Any", kind))
    names = [field.alias or field.name for field in fields if field.init]
    removed = removed_names(kind)

    @functools.wraps(init)
    def checked(self: T, *args: Any, **kwargs: Any) -> None:
        for given in kwargs:
            if (remedy := removed.get(given.removesuffix("_ms"))) is not None:
                raise TypeError(f"{kind.__name__}.{given}: {remedy}")
            if given not in names:
                raise TypeError(
                    f"{kind.__name__} has no field {given}{spelling(names, given)} "
                    f"(it has {', '.join(names)})"
                )
        init(self, *args, **kwargs)

    setattr(kind, "__init__", checked)  # noqa: B010 - type checkers keep the class's own
    return kind


_SHOWN = 80  # characters of a value in a message
_SYNONYMS = {
    "max_attempts": "attempts",
    "retries": "attempts",
    "max_retries": "attempts",
    "timeout": "attempt_timeout",
    "max_delay": "cap",
    "initial": "base",
    "multiplier": "factor",
    "circuit_breaker": "breaker",
}

number = Number


def seconds(value: float) -> str:
    """A time as messages show it: every digit that counts, and the unit."""
    return f"{value:.15g} s"


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False
