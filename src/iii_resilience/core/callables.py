"""Finds out what kind of function is behind a callable: partials, objects, mocks and marks.

Knows nothing of what is done with it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any


def function_behind(target: Any) -> Any:
    """The function that a call of something runs in the end.

    Args:
        target: A function, a method, a ``functools.partial``, or an object with ``__call__``.
    """
    while isinstance(target, functools.partial):
        target = target.func
    if inspect.isroutine(target):
        return target
    call = getattr(target, "__call__", target)  # noqa: B004 - the function behind the object
    return call if inspect.isroutine(call) else target


def is_coroutine_function(target: Any) -> bool:
    """Whether calling something gives a coroutine.

    Beside ``async def``: partials of such functions, objects with an asynchronous ``__call__``,
    `unittest.mock.AsyncMock`, and what is marked with `inspect.markcoroutinefunction` (3.12) or, as
    before it, with asyncio's own mark (by asgiref and Cython).

    Args:
        target: As for `function_behind`.
    """
    while isinstance(target, functools.partial):
        target = target.func
    function = function_behind(target)
    return (
        inspect.iscoroutinefunction(target)
        or inspect.iscoroutinefunction(function)
        or _has_mark(target)
        or _has_mark(function)
    )


def qualified_name(target: Any) -> str:
    """Module and name of a function, or of the class of another callable.

    Args:
        target: As for `function_behind`.
    """
    module = getattr(target, "__module__", None) or type(target).__module__
    name = getattr(target, "__qualname__", None) or type(target).__qualname__
    return f"{module}.{name}"


def _has_mark(target: Any) -> bool:
    # `asyncio.iscoroutinefunction` is deprecated from 3.14 on; without asyncio there is no mark.
    mark = getattr(sys.modules.get("asyncio.coroutines"), "_is_coroutine", None)
    return mark is not None and getattr(target, "_is_coroutine", None) is mark
