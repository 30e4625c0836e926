"""Merges layers of policies: later files over earlier ones, policies over those they extend.

Mappings are merged key by key, so a layer holds only its changes; everything else is replaced. Each
part of the result keeps its place in a file. Knows nothing of what a policy may hold.
"""

from __future__ import annotations

from collections.abc import Mapping

from iii_resilience.config.files.fields import EXTENDS
from iii_resilience.config.files.nodes import Node

LONGEST_CHAIN = 32  # policies that extend one another

# Its keys exclude one another: half of one fallback and half of another is neither.
_WHOLE = ("fallback",)


def overlay(below: Node | None, above: Node) -> Node:
    """One node over another.

    Args:
        below: What holds where the other one says nothing; None for nothing.
        above: What is said.
    """
    if below is None or not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return above
    merged = dict(below.value)
    for key, node in above.value.items():
        merged[key] = node if key in _WHOLE else overlay(merged.get(key), node)
    return Node(merged, above.mark)


def chain(name: str, policies: Mapping[str, Node]) -> tuple[list[str], str | None]:
    """The policies that a policy extends, itself first.

    Args:
        name: Its name.
        policies: Every policy by name.

    Returns:
        Their names, as far as they exist; and why it goes no further, where something is wrong:
        ``missing``, ``circle`` or ``long``.
    """
    names = [name]
    while True:
        fields = policies[names[-1]].value
        parent = fields.get(EXTENDS) if isinstance(fields, dict) else None
        if parent is None:
            return names, None
        if not isinstance(parent.value, str) or parent.value not in policies:
            return names, "missing"
        if parent.value in names:
            return [*names, parent.value], "circle"
        if len(names) > LONGEST_CHAIN:
            return names, "long"
        names.append(parent.value)


def extended(names: list[str], policies: Mapping[str, Node]) -> Node:
    """A policy together with everything it extends.

    Args:
        names: What `chain` returned.
        policies: Every policy by name.
    """
    merged: Node | None = None
    for name in reversed(names):
        node = policies[name]
        if isinstance(node.value, dict):
            fields = {key: value for key, value in node.value.items() if key != EXTENDS}
            node = Node(fields, node.mark)
        merged = overlay(merged, node)
    return merged if merged is not None else policies[names[0]]
