"""Chooses the rule for a function: the exact id, else the longest prefix, else the first of equals.

Knows nothing of books or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from iii_resilience.core.validators import Flag, Text


@attrs.frozen
class Pattern(Text):
    """An attrs validator for a function id, or a prefix followed by one ``*``."""

    what: str = "a function id, or a prefix followed by one *"

    def allows(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return super().allows(value) and "*" not in value[:-1]


@attrs.frozen
class Rule:
    """Which policy the calls of a function run under.

    Args:
        function: A function id, or a prefix followed by ``*``.
        policy: Name of a policy in the same book, or None for the book's default.
        idempotent: Whether these calls may be repeated; None leaves it to the code.

    Raises:
        ValueError: A part of the wrong type: ``"no"`` would be true.
    """

    function: str = attrs.field(validator=Pattern())
    policy: str | None = attrs.field(
        default=None, validator=Text("the name of a policy", optional=True)
    )
    idempotent: bool | None = attrs.field(default=None, validator=Flag(optional=True))

    @property
    def prefix(self) -> str | None:
        """What an id begins with where the rule is a pattern; None where it is one id."""
        return self.function[:-1] if self.function.endswith("*") else None

    def matches(self, function_id: str) -> bool:
        """Whether the rule covers a function id."""
        prefix = self.prefix
        return function_id == self.function if prefix is None else function_id.startswith(prefix)


class RuleIndex:
    """Finds the rule for a function; how long that takes does not depend on how many there are.

    Args:
        rules: The rules; of two alike the first one wins.
    """

    __slots__ = ("_exact", "_lengths", "_prefixes")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._exact: dict[str, Rule] = {}
        self._prefixes: dict[str, Rule] = {}
        for rule in rules:
            if rule.prefix is None:
                self._exact.setdefault(rule.function, rule)
            else:
                self._prefixes.setdefault(rule.prefix, rule)
        self._lengths = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)

    def find(self, function_id: str) -> Rule | None:
        """The most specific rule that covers a function id, or None."""
        rule = self._exact.get(function_id)
        if rule is not None:
            return rule
        for length in self._lengths:
            if length <= len(function_id):
                rule = self._prefixes.get(function_id[:length])
                if rule is not None:
                    return rule
        return None
