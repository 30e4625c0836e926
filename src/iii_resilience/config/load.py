"""`load_policies` makes a book from YAML files and mappings.

A file passes through these modules of `config.files`, in this order: `file_source` finds it,
`yaml_reader` parses it, and `validate` reports its problems and makes a `PolicySet` of it, with the
help of `merge` and `convert`. YAML and cattrs are imported with the first file. Knows nothing of
calls.
"""

from __future__ import annotations

from collections.abc import Iterable

from iii_resilience.config.book import PolicyBook
from iii_resilience.config.files.dump import dump_policies
from iii_resilience.config.files.file_source import Files, One, from_environment
from iii_resilience.core.errors import ConfigError

__all__ = ["dump_policies", "load_from_environment", "load_policies"]


def load_policies(source: One | Iterable[One]) -> PolicyBook:
    """Load policies from YAML files, or from a mapping of the same shape.

    Several files make one book: what a later one says of a policy, a queue or a code is laid over
    what the earlier ones say, key by key, and its rules come before theirs.

    Args:
        source: A path; ``builtin:default``, ``builtin:interactive``, ``builtin:background`` or
            ``builtin:payments`` for a ready-made file; a mapping; or several of these.

    Returns:
        The book, for ``resilient(worker, policies=...)`` or `use_policies`. Its ``warnings`` are
        logged too.

    Raises:
        ConfigError: A file cannot be read or does not validate. ``problems`` lists everything that
            is wrong, each as ``file:line:column: field: what is wrong (what is allowed)``.
        TypeError: The source is none of these.
    """
    files = Files.of(source)
    return PolicyBook.of(files.read().policy_set(), files if files.can_change else None)


def load_from_environment(variable: str, text: str) -> PolicyBook:
    """Load the policies that an environment variable names.

    Args:
        variable: Its name, for messages.
        text: Its value: names as for `load_policies`, separated as in ``PATH``.

    Raises:
        ConfigError: As for `load_policies`; each problem begins with the variable.
    """
    try:
        return load_policies(from_environment(text))
    except ConfigError as error:
        raise ConfigError([f"{variable}: {problem}" for problem in error.problems]) from None
