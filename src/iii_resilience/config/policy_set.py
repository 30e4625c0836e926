"""The immutable content of a policy book: policies, rules, codes and queues.

Books are read from a `Source`, which returns a `Snapshot`. Knows nothing of files or readers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from iii_resilience.config.rules import Rule, RuleIndex
from iii_resilience.core.classifiers.registered_exceptions import ExceptionRule, read_exceptions
from iii_resilience.core.codes.lookup import Code, read_codes
from iii_resilience.core.policy import GUARDS, RetryPolicy

if TYPE_CHECKING:  # a book that is made in code and never watched needs none of them
    from iii_resilience.config.queue_definition import Queue


_REMEMBERED = 16_384  # function ids whose policy is known without looking for their rule


@attrs.frozen
class SelectedPolicy:
    """The policy chosen for a function.

    Attributes:
        name: The policy's name.
        policy: The policy.
        idempotent: What the matching rule says, or None.
    """

    name: str
    policy: RetryPolicy
    idempotent: bool | None = None


def _policies(policies: Mapping[str, RetryPolicy]) -> dict[str, RetryPolicy]:
    return {**policies} if "default" in policies else {**policies, "default": RetryPolicy()}


def _rules(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(rules)


def _queues(queues: Mapping[str, Queue]) -> dict[str, Queue]:
    return dict(queues)


def _exceptions(
    exceptions: Mapping[Any, object] | Iterable[ExceptionRule],
) -> tuple[ExceptionRule, ...]:
    return read_exceptions(exceptions) if isinstance(exceptions, Mapping) else tuple(exceptions)


def _nothing_selected() -> dict[str, SelectedPolicy]:
    return {}


@attrs.frozen
class PolicySet:
    """What a book says at one moment.

    Args:
        policies: As for `PolicyBook`.
        rules: As for `PolicyBook`.
        default: As for `PolicyBook`.
        codes: As for `PolicyBook`.
        queues: As for `PolicyBook`.
        exceptions: As for `PolicyBook`.
        warnings: What is allowed in its files, and seldom meant.
        origins: Where its values stand (see `config.files`), or None for what was made in code.
        digest: Of what it was read from (see `Snapshot`), or None.
    """

    policies: dict[str, RetryPolicy] = attrs.field(converter=_policies)
    rules: tuple[Rule, ...] = attrs.field(default=(), converter=_rules)
    default: str = "default"
    codes: tuple[Code, ...] = attrs.field(default=(), converter=read_codes)
    queues: dict[str, Queue] = attrs.field(factory=dict, converter=_queues)
    exceptions: tuple[ExceptionRule, ...] = attrs.field(default=(), converter=_exceptions)
    warnings: tuple[str, ...] = attrs.field(default=(), eq=False)
    origins: object = attrs.field(default=None, eq=False, repr=False)
    digest: bytes | None = attrs.field(default=None, eq=False, repr=False)
    _index: RuleIndex = attrs.field(
        default=attrs.Factory(lambda self: RuleIndex(self.rules), takes_self=True),
        init=False,
        eq=False,
        repr=False,
    )
    _selected: dict[str, SelectedPolicy] = attrs.field(
        factory=_nothing_selected, init=False, eq=False, repr=False
    )

    def __attrs_post_init__(self) -> None:
        for name in [self.default, *(r.policy for r in self.rules if r.policy is not None)]:
            self.policy(name)
        for name, queue in self.queues.items():
            if queue.name != name:
                raise ValueError(f"the queue under {name!r} is named {queue.name!r}")

    def policy(self, name: str) -> RetryPolicy:
        """The policy of a name.

        Raises:
            ValueError: No policy has that name; the message lists the nearest ones.
        """
        try:
            return self.policies[name]
        except KeyError:
            from difflib import get_close_matches  # noqa: PLC0415 - only a mistyped name needs it

            near = get_close_matches(name, self.policies, n=1)
            also = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"no policy is named {name!r}{also} (there are: {', '.join(sorted(self.policies))})"
            ) from None

    def rule_for(self, function_id: str) -> Rule | None:
        """The rule that covers a function, or None."""
        return self._index.find(function_id)

    def for_function(self, function_id: str) -> SelectedPolicy:
        """See `PolicyBook.for_function`."""
        selected = self._selected.get(function_id)
        if selected is None:
            rule = self._index.find(function_id) or _NO_RULE
            name = rule.policy or self.default
            selected = SelectedPolicy(name, self.policies[name], rule.idempotent)
            while len(self._selected) >= _REMEMBERED:
                with suppress(KeyError, StopIteration, RuntimeError):  # another thread does it too
                    del self._selected[next(iter(self._selected))]
            self._selected[function_id] = selected
        return selected

    def continues(self, before: PolicySet, now: float) -> None:
        """Replace another set: the guards of policies of the same name keep their states.

        Args:
            before: The policy set that was in force.
            now: Monotonic time in seconds.
        """
        for name, policy in self.policies.items():
            old = before.policies.get(name)
            if old is None:
                continue
            if policy == old:
                self.policies[name] = old  # the same in every way: decorators need no new one
                continue
            for kind in GUARDS:
                guard, guard_before = getattr(policy, kind), getattr(old, kind)
                if guard is not None and guard_before is not None:
                    guard.continues(guard_before, now)


_NO_RULE = Rule("*")


class Snapshot(Protocol):
    """What a source held at one moment."""

    @property
    def digest(self) -> bytes:
        """Equal for equal content."""
        ...

    def policy_set(self) -> PolicySet:
        """What it says.

        Raises:
            ConfigError: It does not validate.
        """
        ...


class Source(Protocol):
    """Where the policies of a book come from."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def read(self) -> Snapshot:
        """What it holds now. What cannot be read is a snapshot too: one that does not validate."""
        ...


class Book(Protocol):
    """What follows a source: a `PolicyBook`, seen from below."""

    @property
    def policy_set(self) -> PolicySet:
        """The book's present content."""
        ...

    def replace(self, policy_set: PolicySet) -> None:
        """Replace the book's content."""
