"""Writes a book as a policy file, from which `load_policies` makes the same book.

All values are written, defaults too. Knows nothing of where the book's policies came from.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from iii_resilience.config.files.convert import unstructure
from iii_resilience.config.files.fields import CODE_ONLY
from iii_resilience.config.policy_set import Book, PolicySet

if TYPE_CHECKING:
    import yaml

# What no reader of YAML, of whatever version, takes for anything but this text.
_PLAIN = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)\Z)[a-z][a-z0-9_-]*", re.IGNORECASE)


def dump_policies(book: Book) -> str:
    """The YAML text of a policy file that says what a book says now.

    Args:
        book: The book.

    Returns:
        The text; ``load_policies`` makes an equal book from it.

    Raises:
        ValueError: A policy has what no file can hold: an object of tenacity (``wait``, ``stop``),
            a callable for a class of exceptions, or a time that is not a whole number of
            milliseconds.
    """
    import yaml  # noqa: PLC0415 - not loaded until a file is

    class Dumper(yaml.SafeDumper):
        """Quotes every text that could be taken for something else."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
            super().increase_indent(flow, indentless=False)

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = None if _PLAIN.fullmatch(value) else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    data = as_data(book.policy_set)
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def as_data(policy_set: PolicySet) -> dict[str, Any]:
    """The plain data of a policy file for a policy set.

    Args:
        policy_set: The content of a book.

    Raises:
        ValueError: As for `dump_policies`.
    """
    policies = {}
    for name, policy in policy_set.policies.items():
        for field in CODE_ONLY:
            if getattr(policy, field) is not None:
                raise ValueError(
                    f"policies.{name}.{field}: an object of tenacity cannot be written to a file"
                )
        policies[name] = _whole(unstructure(policy), f"policies.{name}")
    data: dict[str, Any] = {"version": 1, "policies": policies}
    if policy_set.rules:
        data["rules"] = [_given(unstructure(rule)) for rule in policy_set.rules]
    data["default"] = policy_set.default
    if policy_set.queues:
        data["queues"] = {
            name: _given(_whole(unstructure(queue), f"queues.{name}"))
            for name, queue in policy_set.queues.items()
        }
    if policy_set.codes:
        data["codes"] = {row.code: _given(unstructure(row)) for row in policy_set.codes}
    if policy_set.exceptions:
        data["exceptions"] = {rule.name: rule.data for rule in policy_set.exceptions}
    return data


def _given(data: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing."""
    return {key: value for key, value in data.items() if value not in {None, ""}}


def _whole(data: dict[str, Any], path: str) -> dict[str, Any]:
    for key, value in data.items():
        if isinstance(value, dict):
            _whole(value, f"{path}.{key}")
        elif key.endswith("_ms") and isinstance(value, float):
            raise ValueError(
                f"{path}.{key}: {value!r} is not a whole number of milliseconds, as files require"
            )
    return data
