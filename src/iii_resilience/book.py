"""Which policy a call runs under: named policies, rules by function id, and the default book.

Knows nothing of files: `config` makes books from them, and `reload` follows them. What a book says
is an `Edition`, which never changes; a book turns to another edition in one step, so that whoever
takes the edition once sees policies, rules and default of one and the same file.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from iii_resilience.codes import Code, change_codes, read_codes, register_codes
from iii_resilience.errors import ConfigError
from iii_resilience.policy import RetryPolicy
from iii_resilience.rules import Rule, RuleIndex

if TYPE_CHECKING:  # a book that is made in code and never watched needs none of them
    from iii_resilience.provenance import Provenance
    from iii_resilience.queues import Queue
    from iii_resilience.reload import Source
    from iii_resilience.watch import Watch

__all__ = [
    "ENVIRONMENT",
    "Edition",
    "PolicyBook",
    "Rule",
    "Selected",
    "default_book",
    "use_policies",
]

ENVIRONMENT = "III_RESILIENCE_POLICIES"
"""Environment variable with the policy files of the process, separated as in ``PATH``."""

_REMEMBERED = 16_384  # function ids whose policy is known without looking for their rule

_turning = threading.Lock()


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


def _policies(policies: Mapping[str, RetryPolicy]) -> dict[str, RetryPolicy]:
    return {**policies} if "default" in policies else {**policies, "default": RetryPolicy()}


def _rules(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(rules)


def _queues(queues: Mapping[str, Queue]) -> dict[str, Queue]:
    return dict(queues)


def _nothing_selected() -> dict[str, Selected]:
    return {}


@attrs.frozen
class Edition:
    """What a book says at one moment.

    Args:
        policies: As for `PolicyBook`.
        rules: As for `PolicyBook`.
        default: As for `PolicyBook`.
        codes: As for `PolicyBook`.
        queues: As for `PolicyBook`.
        warnings: What is allowed in its files, and seldom meant.
        origins: Where its values stand (see `config`), or None for what was made in code.
        digest: Of what it was read from (see `reload.Snapshot`), or None.
    """

    policies: dict[str, RetryPolicy] = attrs.field(converter=_policies)
    rules: tuple[Rule, ...] = attrs.field(default=(), converter=_rules)
    default: str = "default"
    codes: tuple[Code, ...] = attrs.field(default=(), converter=read_codes)
    queues: dict[str, Queue] = attrs.field(factory=dict, converter=_queues)
    warnings: tuple[str, ...] = attrs.field(default=(), eq=False)
    origins: object = attrs.field(default=None, eq=False, repr=False)
    digest: bytes | None = attrs.field(default=None, eq=False, repr=False)
    _index: RuleIndex = attrs.field(
        default=attrs.Factory(lambda self: RuleIndex(self.rules), takes_self=True),
        init=False,
        eq=False,
        repr=False,
    )
    _selected: dict[str, Selected] = attrs.field(
        factory=_nothing_selected, init=False, eq=False, repr=False
    )

    def __attrs_post_init__(self) -> None:
        for name in [self.default, *(r.policy for r in self.rules if r.policy is not None)]:
            self.policy(name)
        for name, queue in self.queues.items():
            if queue.name != name:
                raise ValueError(f"the queue under {name!r} is named {queue.name!r}")

    def policy(self, name: str) -> RetryPolicy:
        """See `PolicyBook.policy`."""
        try:
            return self.policies[name]
        except KeyError:
            from difflib import get_close_matches  # noqa: PLC0415 - only who mistypes needs it

            near = get_close_matches(name, self.policies, n=1)
            also = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"no policy is named {name!r}{also} (there are: {', '.join(sorted(self.policies))})"
            ) from None

    def rule_for(self, function_id: str) -> Rule | None:
        """The rule that covers a function, or None."""
        return self._index.find(function_id)

    def for_function(self, function_id: str) -> Selected:
        """See `PolicyBook.for_function`."""
        selected = self._selected.get(function_id)
        if selected is None:
            rule = self._index.find(function_id) or _NO_RULE
            name = rule.policy or self.default
            selected = Selected(name, self.policies[name], rule.idempotent)
            while len(self._selected) >= _REMEMBERED:
                with suppress(KeyError, StopIteration, RuntimeError):  # another thread does it too
                    del self._selected[next(iter(self._selected))]
            self._selected[function_id] = selected
        return selected

    def continues(self, before: Edition, now: float) -> None:
        """Take another edition's place: the guards of policies of the same name go on counting.

        Args:
            before: The edition that was in force.
            now: Monotonic time in seconds.
        """
        for name, policy in self.policies.items():
            old = before.policies.get(name)
            if old is None:
                continue
            if policy == old:
                self.policies[name] = old  # the same in every way: decorators need no new one
                continue
            if policy.budget is not None and old.budget is not None:
                policy.budget.continues(old.budget, now)
            if policy.breaker is not None and old.breaker is not None:
                policy.breaker.continues(old.breaker, now)
            if policy.bulkhead is not None and old.bulkhead is not None:
                policy.bulkhead.continues(old.bulkhead, now)


_NO_RULE = Rule("*")


@attrs.frozen(init=False, eq=False, repr=False)
class PolicyBook:
    """Named policies, and rules that choose one by function id.

    A book never changes under a call: it turns to other policies as a whole, when it is watched or
    reloaded, and calls in flight keep the policy they started with.

    Args:
        policies: Name to policy. ``default`` is added where it is missing.
        rules: The rules; the most specific one wins, then the first.
        default: Name of the policy of functions that no rule covers.
        codes: Rows for codes of the user's own services, as `register_codes` takes them. They are
            known to the whole process once the book is used.
        queues: The queues that fallbacks name, by name.

    Raises:
        ConfigError: A row that is malformed, or redefines a built-in code.
        ValueError: A rule, or ``default``, names a policy that is not in the book.
    """

    _edition: Edition = attrs.field()
    _source: Source | None = attrs.field()

    def __init__(
        self,
        policies: Mapping[str, RetryPolicy] | None = None,
        rules: Iterable[Rule] = (),
        default: str = "default",
        *,
        codes: Mapping[str, object] | Iterable[Code] = (),
        queues: Mapping[str, Queue] | None = None,
    ) -> None:
        edition = Edition(policies or {}, rules, default, codes, queues or {})
        object.__setattr__(self, "_edition", edition)
        object.__setattr__(self, "_source", None)

    @classmethod
    def of(cls, edition: Edition, source: Source | None = None) -> PolicyBook:
        """A book that says what an edition says.

        Args:
            edition: What it says.
            source: Where that comes from, for `reload` and `watch`.
        """
        book = cls.__new__(cls)
        object.__setattr__(book, "_edition", edition)
        object.__setattr__(book, "_source", source)
        return book

    @property
    def edition(self) -> Edition:
        """What the book says now. Take it once where several things of it must fit together."""
        return self._edition

    @property
    def policies(self) -> Mapping[str, RetryPolicy]:
        """Every policy by name."""
        return self._edition.policies

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules; of two alike the first one wins."""
        return self._edition.rules

    @property
    def default(self) -> str:
        """Name of the policy of functions that no rule covers."""
        return self._edition.default

    @property
    def codes(self) -> tuple[Code, ...]:
        """Rows for codes of the user's own services."""
        return self._edition.codes

    @property
    def queues(self) -> Mapping[str, Queue]:
        """The queues that fallbacks name, by name."""
        return self._edition.queues

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed in the book's files and seldom meant, each with its place."""
        return self._edition.warnings

    def policy(self, name: str) -> RetryPolicy:
        """The policy of a name.

        Raises:
            ValueError: No policy has that name; the message lists the nearest ones.
        """
        return self._edition.policy(name)

    def for_function(self, function_id: str) -> Selected:
        """The policy for a function: exact rule, then longest prefix, then order, then default."""
        return self._edition.for_function(function_id)

    def explain(self, function_id: str) -> Provenance:
        """The policy for a function, and the file and line that each of its values comes from.

        Args:
            function_id: The function.
        """
        from iii_resilience.config.explain import explain  # noqa: PLC0415 - what files call things

        return explain(self._edition, function_id)

    def reload(self) -> bool:
        """Read the book's files anew, if they have changed.

        Returns:
            Whether they had.

        Raises:
            ConfigError: They do not validate; the book stays as it is.
            ValueError: The book has no files.
        """
        snapshot = self._needed_source().read()
        if snapshot.digest == self._edition.digest:
            return False
        self.turn_to(snapshot.edition())
        return True

    def watch(self, every: float = 1.0) -> Watch:
        """Follow the book's files from now on, in a daemon thread.

        A file that does not validate is refused with one error record, and the policies before it
        stay in force until it does. Calls in flight keep their policy, budgets how full they are,
        and breakers their state.

        Args:
            every: Seconds between two looks at the files.

        Returns:
            The watch, to be closed; it is a context manager too.

        Raises:
            ValueError: The book has no files, or `every` is no number above 0.
        """
        from iii_resilience.reload import Look  # noqa: PLC0415 - see the module's imports
        from iii_resilience.watch import Watch  # noqa: PLC0415 - ditto

        look = Look(self, self._needed_source(), every)
        return Watch(look, every, "iii-resilience-policies")

    async def watch_async(self, every: float = 1.0) -> None:
        """As `watch`, in a task, until it is cancelled: ``create_task(book.watch_async())``.

        Args:
            every: As for `watch`.

        Raises:
            ValueError: The book has no files, or `every` is no number above 0.
        """
        from iii_resilience.reload import Look  # noqa: PLC0415 - see the module's imports
        from iii_resilience.watch import watch_async  # noqa: PLC0415 - ditto

        await watch_async(Look(self, self._needed_source(), every), every)

    def turn_to(self, edition: Edition) -> None:
        """Say what an edition says from now on; counts and states of the guards go on.

        Args:
            edition: An edition that no other book has.
        """
        with _turning:
            before = self._edition
            edition.continues(before, time.monotonic())
            change_codes(before.codes, edition.codes)
            object.__setattr__(self, "_edition", edition)

    def _needed_source(self) -> Source:
        if self._source is None:
            raise ValueError(
                "this book was made in code, not from files: there is nothing to reload or watch"
            )
        return self._source

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PolicyBook):
            return NotImplemented
        return self._edition == other._edition

    __hash__ = None  # type: ignore[assignment]  # what it says may change

    def __repr__(self) -> str:
        edition = self._edition
        return (
            f"PolicyBook(policies={edition.policies!r}, rules={edition.rules!r}, "
            f"default={edition.default!r})"
        )


class Default:
    """The process-wide book: what decorators and clients without a book of their own use."""

    book: PolicyBook | None = None
    loading = False
    lock = threading.RLock()


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
    try:
        before = default_book()
    except ConfigError:  # of the environment's files, which this book stands in for
        before = PolicyBook()
    register_codes(book.codes)
    Default.book = book
    return before


def default_book() -> PolicyBook:
    """The process-wide default book.

    At its first use it is made from the files in the environment variable
    ``III_RESILIENCE_POLICIES``, where that is set and `use_policies` has not been called.

    Raises:
        ConfigError: The files of the environment variable do not validate.
    """
    book = Default.book
    return book if book is not None else _first_book()


def _first_book() -> PolicyBook:
    with Default.lock:
        if Default.book is not None:
            return Default.book
        files = os.environ.get(ENVIRONMENT, "")
        if not files or Default.loading:  # a log handler that is told of the files retries too
            book = PolicyBook()
        else:
            Default.loading = True
            try:
                from iii_resilience.config import load_from_environment  # noqa: PLC0415 - a file

                book = load_from_environment(ENVIRONMENT, files)
            finally:
                Default.loading = False
            register_codes(book.codes)
        if not Default.loading:
            Default.book = book
        return book


def _forked() -> None:
    """In the child of a fork nobody holds a lock."""
    global _turning  # noqa: PLW0603 - the lock is the module's
    _turning = threading.Lock()
    Default.lock = threading.RLock()
    Default.loading = False


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forked)
