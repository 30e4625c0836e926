"""Explains why a function has its policy: each value with its file, line and column.

Knows nothing of how policies are chosen or read: it uses what the policy set has recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from iii_resilience.config.files.convert import unstructure
from iii_resilience.config.files.fields import CODE_ONLY
from iii_resilience.config.files.nodes import Node, shown
from iii_resilience.config.files.validate import Origins
from iii_resilience.config.policy_set import PolicySet

BUILT_IN = "built-in default"


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


_IN_CODE = "set in code"


def explain(policy_set: PolicySet, function_id: str) -> Provenance:
    """The policy for a function, and where each of its values comes from.

    Args:
        policy_set: What the book says.
        function_id: The function.
    """
    origins = policy_set.origins if isinstance(policy_set.origins, Origins) else None
    selected = policy_set.for_function(function_id)
    rule = policy_set.rule_for(function_id)
    said = _IN_CODE if origins is None else BUILT_IN
    if origins is not None and rule is not None:
        place = next(index for index, one in enumerate(policy_set.rules) if one is rule)
        said = origins.rules[place].short
    elif origins is not None and origins.default is not None:
        said = origins.default.short
    return Provenance(
        function_id,
        selected.name,
        None if rule is None else rule.function,
        said,
        selected.idempotent,
        values_of(policy_set, selected.name),
    )


def values_of(policy_set: PolicySet, name: str) -> tuple[Value, ...]:
    """Every value of a policy, and where each comes from.

    Args:
        policy_set: What the book says.
        name: The policy's name.

    Raises:
        ValueError: No policy has that name.
    """
    origins = policy_set.origins if isinstance(policy_set.origins, Origins) else None
    node = None if origins is None else origins.policies.get(name)
    otherwise = _IN_CODE if origins is None else BUILT_IN
    policy = policy_set.policy(name)
    values = list(_values(unstructure(policy), node, "", otherwise))
    for field in CODE_ONLY:
        given = getattr(policy, field)
        if given is not None:
            values.append(Value(field, type(given).__name__, _IN_CODE))
    return tuple(values)


def _values(data: Any, node: Node | None, path: str, otherwise: str) -> Iterator[Value]:
    if not isinstance(data, dict):
        yield Value(path, data, otherwise if node is None else node.mark.short)
        return
    inside = node.value if node is not None and isinstance(node.value, dict) else {}
    for key, value in data.items():
        yield from _values(value, inside.get(key), f"{path}.{key}" if path else key, otherwise)
