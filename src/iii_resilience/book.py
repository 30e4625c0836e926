"""Which policy a call runs under: named policies, rules by function id, and the default book.

Knows nothing of files: `config` makes books from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import attrs

from iii_resilience.codes import Code, read_codes, register_codes
from iii_resilience.policy import RetryPolicy


def _text(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None and attribute.default is None:
        return
    if not isinstance(value, str) or not value:
        where = f"{type(instance).__name__}.{attribute.name}"
        raise ValueError(f"{where} must be a name, got {value!r}")


def _flag(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not (value is None or isinstance(value, bool)):
        where = f"{type(instance).__name__}.{attribute.name}"
        raise ValueError(f"{where} must be true or false, got {value!r}")


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

    function: str = attrs.field(validator=_text)
    policy: str | None = attrs.field(default=None, validator=_text)
    idempotent: bool | None = attrs.field(default=None, validator=_flag)

    def matches(self, function_id: str) -> bool:
        """Whether the rule covers a function id."""
        if self.function.endswith("*"):
            return function_id.startswith(self.function[:-1])
        return function_id == self.function

    @property
    def precision(self) -> tuple[bool, int]:
        """Exact ids before patterns, longer prefixes before shorter ones."""
        exact = not self.function.endswith("*")
        return exact, len(self.function)


@attrs.frozen
class Selected:
    """The policy chosen for a function.

    Attributes:
        name: The policy's name.
        policy: The policy.
        idempotent: What the matching rule says, or None.
    """

    name: str
    policy: RetryPolicy
    idempotent: bool | None = None


@attrs.frozen
class PolicyBook:
    """Named policies, and rules that choose one by function id.

    Args:
        policies: Name to policy. ``default`` is added where it is missing.
        rules: The rules; the most specific one wins, then the first.
        default: Name of the policy of functions that no rule covers.
        codes: Rows for codes of the user's own services, as `register_codes` takes them. They are
            known to the whole process once the book is used.

    Raises:
        ConfigError: A row that is malformed, or redefines a built-in code.
        ValueError: A rule, or ``default``, names a policy that is not in the book.
    """

    policies: Mapping[str, RetryPolicy] = attrs.field(factory=dict)
    rules: Sequence[Rule] = ()
    default: str = "default"
    codes: tuple[Code, ...] = attrs.field(default=(), converter=read_codes, kw_only=True)
    _ranked: tuple[Rule, ...] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        policies = dict(self.policies)
        policies.setdefault("default", RetryPolicy())
        object.__setattr__(self, "policies", policies)
        for name in [self.default, *(r.policy for r in self.rules if r.policy is not None)]:
            self._known(name)
        # sorted() is stable: of two rules with the same precision the first one stays first.
        ranked = sorted(self.rules, key=lambda rule: rule.precision, reverse=True)
        object.__setattr__(self, "_ranked", tuple(ranked))

    def policy(self, name: str) -> RetryPolicy:
        """The policy of a name.

        Raises:
            ValueError: No policy has that name; the message lists the nearest ones.
        """
        return self._known(name)

    def for_function(self, function_id: str) -> Selected:
        """The policy for a function: exact rule, then longest prefix, then order, then default."""
        for rule in self._ranked:
            if rule.matches(function_id):
                name = rule.policy or self.default
                return Selected(name, self.policies[name], rule.idempotent)
        return Selected(self.default, self.policies[self.default])

    def _known(self, name: str) -> RetryPolicy:
        try:
            return self.policies[name]
        except KeyError:
            near = get_close_matches(name, self.policies, n=1)
            also = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"no policy is named {name!r}{also} (there are: {', '.join(sorted(self.policies))})"
            ) from None


class _Default:
    """The process-wide book: what decorators and clients without a book of their own use."""

    book = PolicyBook()


def use_policies(book: PolicyBook) -> PolicyBook:
    """Make a book the process-wide default one.

    Calls in flight keep the policy they started with.

    Args:
        book: What `load_policies` returned, or a book made in code.

    Returns:
        The book it replaces.
    """
    if not isinstance(book, PolicyBook):
        raise TypeError(f"use_policies takes a PolicyBook, got {book!r}")
    register_codes(book.codes)
    before, _Default.book = _Default.book, book
    return before


def default_book() -> PolicyBook:
    """The process-wide default book."""
    return _Default.book
