"""A context manager that raises some errors as others.

A class, not a ``contextlib.contextmanager``, as in `core.context_scope`.
"""

from __future__ import annotations

from collections.abc import Callable


class ErrorTranslation:
    """Raises an exception of its block as another one. Holds no state.

    Args:
        translate: Raises what an exception means here; it returns for one that passes as it is.
    """

    __slots__ = ("_translate",)

    def __init__(self, translate: Callable[[Exception], None]) -> None:
        self._translate = translate

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception):
            self._translate(error)
