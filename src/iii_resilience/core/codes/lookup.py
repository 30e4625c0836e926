"""Finds the row of an error code: one table per system, one row per code.

A row of a user's own service comes after the built-in ones and never changes them. Knows nothing of
exceptions or messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import chain
from typing import Any

import attrs

from iii_resilience.core.codes import compose, engine_codes, local, rpc, sdk_codes, workers
from iii_resilience.core.codes.model import Category, Code, Execution
from iii_resilience.core.errors import ConfigError

__all__ = [
    "ALL",
    "III",
    "LOCAL",
    "LONGEST_CODE",
    "NEVER_RETRIED",
    "RPC",
    "Category",
    "Code",
    "Execution",
    "change_codes",
    "find",
    "find_user",
    "read_codes",
    "register_codes",
    "user_codes",
]

LONGEST_CODE = 128
"""Characters a code may have; the known codes have less than half, longer ones are ignored."""


def _table(*parts: Iterable[Code]) -> dict[str, Code]:
    return {row.code: row for row in chain(*parts)}


# Engine first, then the SDK, then the workers: the order in which a code is looked up. No code
# stands in two of them.
III = _table(engine_codes.ROWS, sdk_codes.ROWS, workers.ROWS, compose.ROWS)
RPC = _table(rpc.ROWS)
LOCAL = _table(local.ROWS)
ALL = (*III.values(), *RPC.values(), *LOCAL.values())

NEVER_RETRIED = {
    "FORBIDDEN": "a denial stays a denial until auth or policy change, so it is never retried",
    "function_not_found": "calling the same id again finds nothing, so it is never retried",
}
"""The codes that nothing makes retryable, and why."""

_user: dict[str, Code] = {}


def find(code: str) -> Code | None:
    """The row of a code that came without a system: iii's, the RPC system's, ours, a user's.

    Args:
        code: The exact, case-sensitive string.

    Returns:
        The first row that knows it, or None.
    """
    return III.get(code) or RPC.get(code) or LOCAL.get(code) or _user.get(code)


def find_user(code: str) -> Code | None:
    """The row a user registered for a code, or None.

    Args:
        code: The exact, case-sensitive string.
    """
    return _user.get(code)


def user_codes() -> tuple[Code, ...]:
    """The rows registered by the user, in the order of their registration."""
    return tuple(_user.values())


def register_codes(rows: Mapping[str, object] | Iterable[Code]) -> None:
    """Add rows for codes of your own services, for the whole process.

    A code registered again replaces the earlier row. Either all rows are added or none.

    Args:
        rows: Rows, or a mapping from a code to its row, its category (``"transient"``), or the
            fields of its row (``{"category": "transient", "throttled": True, "remedy": …}``).

    Raises:
        ConfigError: For ``FORBIDDEN`` and ``function_not_found``, which nothing redefines, for
            any other built-in code, and for a row that is malformed. Lists every problem.
    """
    _user.update({row.code: row for row in read_codes(rows)})


def change_codes(before: Iterable[Code], after: Iterable[Code]) -> None:
    """Replace the rows of a policy file that has changed.

    Args:
        before: What it held. A row that other code has registered since then stays.
        after: What it holds now.
    """
    rows = {row.code: row for row in after}
    for row in before:
        if row.code not in rows and _user.get(row.code) == row:
            _user.pop(row.code, None)
    _user.update(rows)


def read_codes(rows: Mapping[str, object] | Iterable[Code]) -> tuple[Code, ...]:
    """Check rows for a user's own codes without adding them.

    Args:
        rows: As for `register_codes`.

    Raises:
        ConfigError: As for `register_codes`.
    """
    items = rows.items() if isinstance(rows, Mapping) else [(row.code, row) for row in rows]
    problems: list[str] = []
    accepted: dict[str, Code] = {}
    for code, value in items:
        try:
            row = _row(code, value)
        except (TypeError, ValueError) as error:
            problems.append(f"codes.{code}: {error}")
        else:
            accepted[row.code] = row
    if problems:
        raise ConfigError(problems)
    return tuple(accepted.values())


def _row(code: object, value: object) -> Code:
    if not isinstance(code, str) or not code:
        raise TypeError("a code is a non-empty string")
    if len(code) > LONGEST_CODE:
        raise ValueError(f"a code has at most {LONGEST_CODE} characters")
    if code in NEVER_RETRIED:
        raise ValueError(f"cannot be redefined: {NEVER_RETRIED[code]}")
    if code in III or code in RPC or code in LOCAL:
        raise ValueError("is a built-in code and cannot be redefined")
    if isinstance(value, Code):
        if value.code != code:
            raise ValueError(f"the row is that of another code, {value.code!r}")
        return value
    return _from_fields(code, value if isinstance(value, Mapping) else {"category": value})


def _from_fields(code: str, fields: Mapping[Any, Any]) -> Code:
    kinds = {field.name: _KINDS.get(field.name, str) for field in attrs.fields(Code)}
    del kinds["code"]
    row: dict[str, Any] = dict.fromkeys(("remedy", "meaning"), "")
    row.update(execution=Execution.MAYBE_EXECUTED, origin="handler", source="registered")
    for name, value in fields.items():
        if name not in kinds:
            raise ValueError(f"unknown field {name!r} (allowed: {', '.join(sorted(kinds))})")
        row[name] = _value(name, kinds[name], value)
    if "category" not in row:
        raise ValueError("category is missing")
    return Code(code, **row)


_KINDS: dict[str, type] = {
    "category": Category,
    "execution": Execution,
    "throttled": bool,
    "queue": bool,
}


def _value(name: str, kind: type, value: object) -> object:
    if issubclass(kind, StrEnum):
        allowed = {member.value: member for member in kind}
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"{name} {value!r} is none of {', '.join(allowed)}")
        return allowed[value]
    if not isinstance(value, kind):
        raise TypeError(f"{name} is a {kind.__name__}, not {value!r}")
    return value
