"""What differs between two policy sets, in the words of policy files.

Knows nothing of how they are read or put in force.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from iii_resilience.config.files.fields import KINDS, fields_of
from iii_resilience.config.policy_set import PolicySet

_MOST = 10  # changes that a record names


def changes(before: PolicySet, after: PolicySet) -> str:
    """The differences as one line; "nothing" if there are none.

    Args:
        before: The policy set that was in force.
        after: The policy set that replaces it.

    Returns:
        For example ``policies.payments.attempts: 3 -> 5; queues.slow: added``.
    """
    found = [
        *_in_mapping("policies", before.policies, after.policies),
        *_in_mapping("queues", before.queues, after.queues),
        *_in_mapping("codes", _by_code(before), _by_code(after)),
    ]
    if before.default != after.default:
        found.append(f"default: {before.default} -> {after.default}")
    if before.rules != after.rules:
        found.append(f"rules: {len(before.rules)} -> {len(after.rules)}, or in another order")
    if before.exceptions != after.exceptions:
        found.append("exceptions: changed")
    if len(found) > _MOST:
        found[_MOST:] = [f"and {len(found) - _MOST} more"]
    return "; ".join(found) or "nothing"


def _by_code(policy_set: PolicySet) -> dict[str, Any]:
    return {row.code: row for row in policy_set.codes}


def _in_mapping(where: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys((*before, *after)):
        if name not in after:
            yield f"{where}.{name}: removed"
        elif name not in before:
            yield f"{where}.{name}: added"
        else:
            yield from _in_object(f"{where}.{name}", before[name], after[name])


def _in_object(where: str, before: Any, after: Any) -> Iterator[str]:
    """The differences of two objects that files hold, or of two values."""
    if before == after:
        return
    if type(before) is type(after) and type(before) in KINDS:
        yield from _in_fields(where, type(before), before, after)
    else:
        yield f"{where}: {_shown(before)} -> {_shown(after)}"


def _in_fields(where: str, kind: type, before: Any, after: Any) -> Iterator[str]:
    for name, field in fields_of(kind).items():
        old, new = field.to_file(getattr(before, name)), field.to_file(getattr(after, name))
        yield from _in_object(f"{where}.{field.key}", old, new)


def _shown(value: Any) -> str:
    """A value as a file has it; a part by its name alone."""
    if value is None:
        return "null"
    return type(value).__name__.lower() if attrs.has(type(value)) else str(value)
