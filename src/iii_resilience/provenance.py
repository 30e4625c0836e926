"""Where each value of a policy comes from: file, line and column, or the built-in default.

Knows nothing of how that was found out.
"""

from __future__ import annotations

from typing import Any

import attrs

BUILT_IN = "built-in default"


@attrs.frozen
class Mark:
    """A place in a file.

    Attributes:
        file: The file's name; ``<mapping>`` for what was no file.
        line: Its line, from 1; None for what has no lines.
        column: Its column, from 1; None for what has no lines.
    """

    file: str
    line: int | None = None
    column: int | None = None

    @property
    def short(self) -> str:
        """File and line."""
        return self.file if self.line is None else f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return self.short if self.column is None else f"{self.short}:{self.column}"


@attrs.frozen
class Value:
    """One value that is in force for a function, and where it comes from.

    Attributes:
        path: What files call it (``backoff.base_ms``).
        value: The value in the units of files.
        origin: ``policies.yaml:4``, ``built-in default``, or ``set in code``.
    """

    path: str
    value: Any
    origin: str


@attrs.frozen
class Provenance:
    """The policy that is in force for a function, value by value.

    Attributes:
        function_id: The function.
        policy: Name of its policy.
        rule: The pattern or id of the rule that covers it, or None.
        rule_origin: Where the rule stands, or where it is said which policy is the default one.
        idempotent: What the rule says of repeating its calls, or None.
        values: Every value of the policy.
    """

    function_id: str
    policy: str
    rule: str | None
    rule_origin: str
    idempotent: bool | None
    values: tuple[Value, ...]

    def __getitem__(self, path: str) -> Value:
        """The value of a path; KeyError where there is none."""
        for value in self.values:
            if value.path == path:
                return value
        raise KeyError(path)

    def __str__(self) -> str:
        by = "no rule covers it" if self.rule is None else f"rule {self.rule!r}"
        lines = [f"{self.function_id}: policy {self.policy} ({by}: {self.rule_origin})"]
        if self.idempotent is not None:
            lines.append(f"  idempotent: {str(self.idempotent).lower()} ({self.rule_origin})")
        lines += [f"  {one.path}: {shown(one.value)} ({one.origin})" for one in self.values]
        return "\n".join(lines)


def shown(value: Any) -> str:
    """A value as the reader of a file would write it, cut where it is long."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_SHOWN = 60  # characters of a value that a message shows
