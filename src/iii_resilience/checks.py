"""Checks of numbers that come from users: one wording for every class and file.

Knows nothing of what the numbers are for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def number(
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    optional: bool = False,
    integer: bool = False,
    unit: str = "",
) -> Validator:
    """An attrs validator for a finite number within bounds.

    Args:
        least: Smallest value allowed.
        above: The value must be greater than this one.
        most: Largest value allowed.
        optional: Whether None is allowed too.
        integer: Whether only whole numbers are allowed.
        unit: What the number counts, for the message (``seconds``).
    """

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and optional:
            return
        kinds = int if integer else (int, float)
        fine = (
            isinstance(value, kinds)
            and not isinstance(value, bool)
            and _finite(value)
            and (least is None or value >= least)
            and (above is None or value > above)
            and (most is None or value <= most)
        )
        if not fine:
            bounds = [
                f"{word} {bound:g}"
                for word, bound in (("at least", least), ("above", above), ("at most", most))
                if bound is not None
            ]
            allowed = " ".join(
                [
                    "a whole number" if integer else "a finite number",
                    *([f"of {unit}"] if unit else []),
                    *([" and ".join(bounds)] if bounds else []),
                    *(["or None"] if optional else []),
                ]
            )
            where = f"{type(instance).__name__}.{attribute.name}"
            raise ValueError(f"{where} must be {allowed}, got {value!r}")

    return check


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False
