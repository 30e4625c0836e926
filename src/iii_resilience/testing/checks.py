"""Checks the arguments of a test's commands, with a message that says what is allowed.

Knows nothing of what the arguments are for.
"""

from __future__ import annotations


def whole(name: str, value: object, low: int, high: int | None = None) -> None:
    """Refuses anything but a whole number in a range.

    Raises:
        TypeError: Not a whole number.
        ValueError: Outside the range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number, not {value!r}")
    if value < low or (high is not None and value > high):
        span = f"from {low} on" if high is None else f"{low} ... {high}"
        raise ValueError(f"{name} is {span}, not {value}")


def seconds(name: str, value: object) -> None:
    """Refuses anything but a number of seconds from 0 on.

    Raises:
        TypeError: Not a number.
        ValueError: Negative, infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a number of seconds, not {value!r}")
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} is a number of seconds from 0 on, not {value!r}")


def text(name: str, value: object) -> None:
    """Refuses anything but a string that is not empty.

    Raises:
        TypeError: Not a string.
        ValueError: Empty.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} is a string, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} is empty")
