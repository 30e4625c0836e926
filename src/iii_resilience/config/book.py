"""The policy of a call: named policies, rules by function id, and the book that holds them.

A book's content is an immutable `PolicySet`, and a reload replaces it in one step. So a reader that
takes the set once sees policies, rules and default of the same file. Knows nothing of files:
`config.load` makes books from them, and `config.watch` follows them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from iii_resilience.config.policy_set import PolicySet, SelectedPolicy
from iii_resilience.config.rules import Rule
from iii_resilience.core.classifiers.registered_exceptions import (
    ExceptionRule,
    change_exceptions,
)
from iii_resilience.core.codes.lookup import Code, change_codes, register_codes
from iii_resilience.core.errors import ConfigError
from iii_resilience.core.event_count import refused_reloads
from iii_resilience.core.policy import RetryPolicy

if TYPE_CHECKING:  # a book that is made in code and never watched needs none of them
    from iii_resilience.config.explain import Provenance
    from iii_resilience.config.policy_set import Source
    from iii_resilience.config.queue_definition import Queue
    from iii_resilience.config.watch import Watch


_turning = threading.Lock()


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
        exceptions: What classes of exceptions mean, by qualified name or class, as
            `register_exceptions` takes them. They are known to the whole process once the book is
            used, after what `register_exceptions` says.

    Raises:
        ConfigError: A row that is malformed, or redefines a built-in code.
        ValueError: A rule, or ``default``, names a policy that is not in the book.
    """

    policy_set: PolicySet = attrs.field()
    """The book's content now. Read it once where several things of it must fit together."""
    _source: Source | None = attrs.field()

    def __init__(
        self,
        policies: Mapping[str, RetryPolicy] | None = None,
        rules: Iterable[Rule] = (),
        default: str = "default",
        *,
        codes: Mapping[str, object] | Iterable[Code] = (),
        queues: Mapping[str, Queue] | None = None,
        exceptions: Mapping[Any, object] | Iterable[ExceptionRule] = (),
    ) -> None:
        policy_set = PolicySet(policies or {}, rules, default, codes, queues or {}, exceptions)
        object.__setattr__(self, "policy_set", policy_set)
        object.__setattr__(self, "_source", None)

    @classmethod
    def of(cls, policy_set: PolicySet, source: Source | None = None) -> PolicyBook:
        """A book with a policy set as its content.

        Args:
            policy_set: Its content.
            source: Where that comes from, for `reload` and `watch`.
        """
        book = cls.__new__(cls)
        object.__setattr__(book, "policy_set", policy_set)
        object.__setattr__(book, "_source", source)
        return book

    def register(self) -> None:
        """Make the book's codes and exception classes known to the whole process."""
        register_codes(self.policy_set.codes)
        change_exceptions((), self.policy_set.exceptions)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed in the book's files and seldom meant, each with its place."""
        return self.policy_set.warnings

    def for_function(self, function_id: str) -> SelectedPolicy:
        """The policy for a function: exact rule, then longest prefix, then order, then default."""
        return self.policy_set.for_function(function_id)

    def explain(self, function_id: str) -> Provenance:
        """The policy for a function, and the file and line that each of its values comes from.

        Args:
            function_id: The function.
        """
        from iii_resilience.config.explain import explain  # noqa: PLC0415 - what files call things

        return explain(self.policy_set, function_id)

    def reload(self) -> bool:
        """Read the book's files anew, if they have changed.

        Returns:
            Whether they had.

        Raises:
            ConfigError: They do not validate; the book stays as it is.
            ValueError: The book has no files.
        """
        snapshot = self._needed_source().read()
        if snapshot.digest == self.policy_set.digest:
            return False
        try:
            policy_set = snapshot.policy_set()
        except ConfigError:
            refused_reloads.add()
            raise
        self.replace(policy_set)
        return True

    def watch(self, every: float = 1.0) -> Watch:
        """Follow the book's files from now on, in a daemon thread.

        A file that does not validate is refused with one error record, and the policies before it
        stay in force until it does. Calls in flight keep their policy, budgets their
        permits, bulkheads the calls in them; open circuits stay open, and closed ones count anew.

        Args:
            every: Seconds between two looks at the files.

        Returns:
            The watch, to be closed; it is a context manager too.

        Raises:
            ValueError: The book has no files, or `every` is not a number above 0.
        """
        from iii_resilience.config.watch import SourceCheck, Watch  # noqa: PLC0415 - see the imports

        look = SourceCheck(self, self._needed_source(), every)
        return Watch(look, every, "iii-resilience-policies")

    async def watch_async(self, every: float = 1.0) -> None:
        """As `watch`, in a task, until it is cancelled: ``create_task(book.watch_async())``.

        Args:
            every: As for `watch`.

        Raises:
            ValueError: The book has no files, or `every` is not a number above 0.
        """
        from iii_resilience.config.watch import SourceCheck, watch_async  # noqa: PLC0415 - as above

        await watch_async(SourceCheck(self, self._needed_source(), every), every)

    def replace(self, policy_set: PolicySet) -> None:
        """Replace the content; the guards keep their states, as `watch` says.

        Args:
            policy_set: A policy set that no other book has.
        """
        with _turning:
            before = self.policy_set
            policy_set.continues(before, time.monotonic())
            change_codes(before.codes, policy_set.codes)
            change_exceptions(before.exceptions, policy_set.exceptions)
            object.__setattr__(self, "policy_set", policy_set)

    def _needed_source(self) -> Source:
        if self._source is None:
            raise ValueError(
                "this book was made in code, not from files: there is nothing to reload or watch"
            )
        return self._source

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PolicyBook):
            return NotImplemented
        return self.policy_set == other.policy_set

    __hash__ = None  # type: ignore[assignment]  # what it says may change

    def __repr__(self) -> str:
        policy_set = self.policy_set
        return (
            f"PolicyBook(policies={policy_set.policies!r}, rules={policy_set.rules!r}, "
            f"default={policy_set.default!r})"
        )


def _new_lock_after_fork() -> None:
    """Replace the lock in the child of a fork: its holder does not exist there."""
    global _turning  # noqa: PLW0603 - the lock is the module's
    _turning = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_new_lock_after_fork)
