"""Loads modules and public names on first use.

A program that decorates plain functions imports neither the worker's side nor asyncio. Knows
nothing of what is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def lazy_exports(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Export names from a package, each loaded on first use (PEP 562).

    Type checkers do not run this: the package imports the same names under ``TYPE_CHECKING``.

    Args:
        package: The package's ``__name__``.
        modules: Module below the package, to the names it defines, separated by blanks.

    Returns:
        The package's ``__getattr__``, ``__dir__`` and ``__all__``.
    """
    module_of = {name: module for module, names in modules.items() for name in names.split()}

    def load(name: str) -> Any:
        module = module_of.get(name)
        if module is None:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package]
            )
        # If two threads load at once, the import system makes one wait: both get the same object.
        value = getattr(import_module(f"{package}.{module}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return load, listed, sorted(module_of)


class _Later:
    """Stands for a module until one of its names is used."""

    __slots__ = ("_module", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: ModuleType | None = None

    def __getattr__(self, name: str) -> Any:
        module = self._module
        if module is None:
            module = self._module = import_module(self._name)  # waits for a thread that is at it
        # The module is cached, its names are not: a replaced name takes effect.
        return getattr(module, name)


def lazy_module(name: str) -> Any:
    """A module that not every program needs, loaded when one of its names is first used.

    A name costs some 200 ns more than on the module itself: not for what every call does.

    Args:
        name: The module's name.
    """
    return _Later(name)
