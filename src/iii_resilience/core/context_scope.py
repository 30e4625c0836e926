"""A context variable's value for as long as a block runs.

A class, not a ``contextlib.contextmanager``: that one sets the traceback of every exception that
passes through, and an exception may refuse attributes (frozen dataclasses, ``attrs.frozen``).
"""

from __future__ import annotations

import contextvars
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class ContextScope(Generic[T]):
    """Sets a context variable while a block runs. Used once.

    Args:
        variable: The variable.
        value: Its value inside the block.
    """

    __slots__ = ("_token", "_value", "_variable")

    def __init__(self, variable: contextvars.ContextVar[T], value: T) -> None:
        self._variable = variable
        self._value = value
        self._token: contextvars.Token[T] | None = None

    def __enter__(self) -> None:
        self._token = self._variable.set(self._value)

    def __exit__(self, *_: object) -> None:
        # The coroutine of a block that never ended is closed elsewhere: there is nothing to set
        # right then.
        if self._token is not None:
            with suppress(ValueError):
                self._variable.reset(self._token)
