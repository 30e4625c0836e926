"""Modules that are loaded when they are first used, and packages that hand out names of such.

Knows nothing of what is loaded. A process pays for what it uses: whoever decorates a plain function
loads neither what serves functions nor asyncio, and an import that is never used costs nothing.

Type checkers and editors see the real names, from imports under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    """A package whose names are loaded when they are first asked for."""

    def __getattr__(self, name: str) -> Any:
        room = self.__dict__["_rooms"].get(name)
        if room is None:
            raise AttributeError(
                f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self
            )
        # Two threads may ask at once: the import system lets one of them load, and both find the
        # same object.
        value = getattr(import_module(f"{self.__name__}.{room}"), name)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # The import system binds every module to its package. Where a function has the name of the
        # module it stands in, the package has promised the function.
        if not (isinstance(value, ModuleType) and name in self.__dict__["_rooms"]):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self.__dict__["_rooms"]})


def lazily(package: str, rooms: Mapping[str, str]) -> None:
    """Let a package hand out names of its modules, each loaded when it is first asked for.

    Args:
        package: The package's ``__name__``; called while it is being imported.
        rooms: Name to the module below the package that it stands in.
    """
    module = sys.modules[package]
    module.__dict__["_rooms"] = dict(rooms)
    module.__class__ = _Package


class _Later:
    """Stands for a module until one of its names is asked for."""

    __slots__ = ("_module", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: ModuleType | None = None

    def __getattr__(self, name: str) -> Any:
        module = self._module
        if module is None:
            module = self._module = import_module(self._name)  # waits for a thread that is at it
        # The module is kept, its names are not: whoever replaces one there is heeded.
        return getattr(module, name)


def later(name: str) -> Any:
    """A module of the standard library, loaded when one of its names is first asked for.

    A name costs some 200 ns more than on the module itself: not for what every call does.

    Args:
        name: The module's name.
    """
    return _Later(name)
