"""The answer to "why does this function have that policy?", value by value.

Knows nothing of how policies are chosen or read: it looks at what an edition has kept of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from iii_resilience.book import Edition
from iii_resilience.config.check import Origins
from iii_resilience.config.convert import unstructure
from iii_resilience.config.fields import CODE_ONLY
from iii_resilience.config.nodes import Node
from iii_resilience.provenance import BUILT_IN, Provenance, Value

_IN_CODE = "set in code"


def explain(edition: Edition, function_id: str) -> Provenance:
    """The policy for a function, and where each of its values comes from.

    Args:
        edition: What the book says.
        function_id: The function.
    """
    origins = edition.origins if isinstance(edition.origins, Origins) else None
    selected = edition.for_function(function_id)
    rule = edition.rule_for(function_id)
    said = _IN_CODE if origins is None else BUILT_IN
    if origins is not None and rule is not None:
        place = next(index for index, one in enumerate(edition.rules) if one is rule)
        said = origins.rules[place].short
    elif origins is not None and origins.default is not None:
        said = origins.default.short
    node = None if origins is None else origins.policies.get(selected.name)
    otherwise = _IN_CODE if origins is None else BUILT_IN
    policy = selected.policy
    values = list(_values(unstructure(policy), node, "", otherwise))
    for name in CODE_ONLY:
        given = getattr(policy, name)
        if given is not None:
            values.append(Value(name, type(given).__name__, _IN_CODE))
    return Provenance(
        function_id,
        selected.name,
        None if rule is None else rule.function,
        said,
        selected.idempotent,
        tuple(values),
    )


def _values(data: Any, node: Node | None, path: str, otherwise: str) -> Iterator[Value]:
    if not isinstance(data, dict):
        yield Value(path, data, otherwise if node is None else node.mark.short)
        return
    inside = node.value if node is not None and isinstance(node.value, dict) else {}
    for key, value in data.items():
        yield from _values(value, inside.get(key), f"{path}.{key}" if path else key, otherwise)
