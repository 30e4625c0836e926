"""What a user says of exception classes: `register_exceptions`, files, and a decorator's argument.

Knows nothing of codes or messages. A class never outranks a ``FORBIDDEN`` or
``function_not_found`` that an exception carries or chains: `exceptions` sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import attrs

from iii_resilience.core.class_cache import ClassCache
from iii_resilience.core.classifiers.builtin_exceptions import text_of
from iii_resilience.core.codes.lookup import LOCAL, LONGEST_CODE, NEVER_RETRIED, find
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.errors import ConfigError, RpcError
from iii_resilience.core.failure import LIBRARY, Failure

Verdict = Category | str | tuple[Category | str, Execution | str] | None
"""What a callable may say of an exception: a category, one with an execution, or nothing."""

_CATEGORIES = {member.value: member for member in Category}
_EXECUTIONS = {member.value: member for member in Execution}
_REMEDIES = {
    Category.TRANSIENT: "repeat the call only if it is idempotent",
    Category.AUTH: "fix the credentials or the rights that the call is made with",
    Category.NOT_FOUND: "check the address or name: what is called does not exist there",
    Category.PAYLOAD: "fix the request: it will be rejected again as it is",
    Category.PERMANENT: "look at the exception: its class is registered as permanent",
}


@attrs.frozen
class ExceptionRule:
    """What is said of one class of exceptions, its subclasses included.

    Args:
        name: The qualified name of the class: ``shop.errors.BusyError``.
        says: A category, or a callable from the exception to a category, to
            ``(category, execution)``, or to None, which leaves it to the next rule.
    """

    name: str
    says: Category | Callable[[Any], Verdict]

    @property
    def data(self) -> str:
        """What a file says in its place.

        Raises:
            ValueError: It is a callable.
        """
        if isinstance(self.says, Category):
            return self.says.value
        raise ValueError(f"exceptions.{self.name}: a callable cannot be written to a file")


class ExceptionRules:
    """Rules by class and by name; a class itself comes before those that it inherits from.

    Args:
        rules: The rules; of two for one class the last one wins.
        classes: The class of each rule, or None where it was given by name; without them all were.

    Attributes:
        verdicts: What they make of classes, beside the process-wide rules.
    """

    __slots__ = ("_by_class", "_by_name", "verdicts")

    def __init__(
        self, rules: Iterable[ExceptionRule] = (), classes: Iterable[type | None] = ()
    ) -> None:
        self._by_name: dict[str, ExceptionRule] = {}
        self._by_class: dict[type, ExceptionRule] = {}
        self.verdicts: Verdicts | None = None
        for rule, kind in zip_longest(rules, classes):
            if kind is None:
                self._by_name[rule.name] = rule
            else:
                self._by_class[kind] = rule

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._by_name or self._by_class)

    def joined(self, other: ExceptionRules) -> ExceptionRules:
        """These rules and others; the others win."""
        return self._made(
            {**self._by_name, **other._by_name}, {**self._by_class, **other._by_class}
        )

    def without(self, rules: Iterable[ExceptionRule]) -> ExceptionRules:
        """These rules without those that are given, where they are still the same."""
        gone = {rule.name: rule for rule in rules}
        left = {name: rule for name, rule in self._by_name.items() if gone.get(name) != rule}
        return self._made(left, self._by_class)

    @classmethod
    def _made(
        cls, by_name: dict[str, ExceptionRule], by_class: dict[type, ExceptionRule]
    ) -> ExceptionRules:
        made = cls()
        made._by_name, made._by_class = by_name, by_class
        return made

    def find(self, error: BaseException) -> tuple[Category, Execution | None] | None:
        """What the rules say of an exception, or None.

        Args:
            error: The exception.
        """
        for rule in self._of(type(error)):
            if (verdict := _verdict(rule, error)) is not None:
                return verdict
        return None

    def reads_instances(self, kind: type) -> bool:
        """Whether a callable may be asked about the exceptions of a class.

        Args:
            kind: The class.
        """
        return any(not isinstance(rule.says, Category) for rule in self._of(kind))

    def _of(self, kind: type) -> Iterator[ExceptionRule]:
        for base in kind.__mro__:
            rule = self._by_class.get(base)
            if rule is None and self._by_name:
                rule = next(
                    (r for n in _names_of(base) if (r := self._by_name.get(n)) is not None), None
                )
            if rule is not None:
                yield rule


def read_exceptions(rows: Mapping[Any, Any]) -> tuple[ExceptionRule, ...]:
    """Check what is said of exception classes, without registering it.

    Args:
        rows: A class, or its qualified name, to a category or a callable (see `ExceptionRule`).

    Raises:
        ConfigError: Something else, or a class whose exceptions go by their code. Lists every
            problem.
    """
    return _read(rows)[0]


def exception_rules(rows: Mapping[Any, Any]) -> ExceptionRules:
    """Rules from a mapping, for `classify` of one decorator.

    Args:
        rows: As for `read_exceptions`.

    Raises:
        ConfigError: As for `read_exceptions`.
    """
    return ExceptionRules(*_read(rows))


def transient_exceptions(kinds: object) -> ExceptionRules:
    """Rules that say of classes that they are transient: ``iii_retry(transient=(BusyError,))``.

    Args:
        kinds: A class, or several.

    Raises:
        TypeError: Something else.
        ConfigError: As for `read_exceptions`.
    """
    several = (kinds,) if isinstance(kinds, type) else kinds
    if isinstance(several, (str, bytes)) or not isinstance(several, Iterable):
        raise TypeError(f"transient takes classes of exceptions, got {type(kinds).__name__}")
    return exception_rules(dict.fromkeys(several, Category.TRANSIENT))


def _read(
    rows: Mapping[Any, Any],
) -> tuple[tuple[ExceptionRule, ...], tuple[type | None, ...]]:
    if not isinstance(rows, Mapping):
        raise ConfigError(
            [f"exceptions: must be a mapping of classes to categories, got {type(rows).__name__}"]
        )
    rules: list[ExceptionRule] = []
    problems: list[str] = []
    for key, value in rows.items():
        name = f"{key.__module__}.{key.__qualname__}" if isinstance(key, type) else str(key)[:256]
        try:
            rules.append(ExceptionRule(name, _says(key, value)))
        except (TypeError, ValueError) as error:
            problems.append(f"exceptions.{name}: {error}")
    if problems:
        raise ConfigError(problems)
    return tuple(rules), tuple(key if isinstance(key, type) else None for key in rows)


def _says(key: object, value: object) -> Category | Callable[[Any], Verdict]:
    says: Any = _CATEGORIES.get(value) if isinstance(value, str) else None
    if says is None:
        if not callable(value) or isinstance(value, type):
            shown = repr(value) if isinstance(value, str) else type(value).__name__
            raise ValueError(
                f"must be one of {', '.join(_CATEGORIES)}, or in code a callable from the "
                f"exception to one of them, got {shown}"
            )
        says = value
    if isinstance(key, str) and find(key) is not None:
        if key in NEVER_RETRIED:
            raise ValueError(f"is refused: nothing makes {key} retryable: {NEVER_RETRIED[key]}")
        raise ValueError("is a code, not a class: what codes mean is said under codes")
    if isinstance(key, type):
        if not issubclass(key, Exception):
            raise TypeError("must be a subclass of Exception")
        if by_code(key):
            raise TypeError("goes by the code it carries: use register_codes")
    elif not (isinstance(key, str) and all(part.isidentifier() for part in key.split("."))):
        raise TypeError("must be a class, or its qualified name (shop.errors.BusyError)")
    if key in {Exception, "Exception", "builtins.Exception"} and says is Category.TRANSIENT:
        raise TypeError(
            "is every exception there is, mistakes in the program included: name the classes "
            "that a repeat can help"
        )
    return says  # type: ignore[no-any-return]


def by_code(kind: type) -> bool:
    """Whether the exceptions of a class go by the code they carry: the SDK's, and this library's.

    Args:
        kind: A class of exceptions.
    """
    code = getattr(kind, "code", None)
    if issubclass(kind, RpcError) or (isinstance(code, str) and code in LOCAL):
        return True
    return any(str(base.__module__).partition(".")[0] == "iii" for base in kind.__mro__)


def _names_of(kind: type) -> tuple[str, ...]:
    from iii_resilience.core.classifiers.library_exceptions import names_of  # noqa: PLC0415

    return names_of(kind)


_logged: set[str] = set()


def _verdict(rule: ExceptionRule, error: BaseException) -> tuple[Category, Execution | None] | None:
    says = rule.says
    if isinstance(says, Category):
        return says, None
    try:
        said = says(error)
        if said is None:
            return None
        category, execution = said if isinstance(said, tuple) else (said, None)
        return _CATEGORIES[category], None if execution is None else _EXECUTIONS[execution]
    except Exception as problem:
        _log_once(rule, problem)
        return None


def _log_once(rule: ExceptionRule, problem: Exception) -> None:
    if rule.name in _logged:
        return
    _logged.add(rule.name)
    from iii_resilience.core.observers import logger  # noqa: PLC0415 - a raising callable is rare

    logger.warning(
        "the callable registered for %s raised %s, or returned no category; its exceptions "
        "count as if it had returned None",
        rule.name,
        type(problem).__name__,
    )


class Verdicts(ClassCache[dict[str, Any]]):
    """The fields of failures by class, as long as the process-wide rules are these.

    Args:
        code: What code has registered.
        files: What files say.
    """

    __slots__ = ("code", "files")

    def __init__(self, code: ExceptionRules, files: ExceptionRules) -> None:
        super().__init__()
        self.code = code
        self.files = files


class _Registry:
    """The process-wide rules: what code has registered, and what files say."""

    code = ExceptionRules()
    files = ExceptionRules()
    verdicts: Verdicts | None = None


def verdicts(rules: ExceptionRules | None) -> Verdicts:
    """The verdicts about classes that hold now.

    What is computed after this call may be kept in its result: should rules be registered
    meanwhile, the result holds no longer.

    Args:
        rules: Those of the decorator; None where there are none.
    """
    holder: type[_Registry] | ExceptionRules = _Registry if rules is None else rules
    known = holder.verdicts
    if known is None or known.code is not _Registry.code or known.files is not _Registry.files:
        known = holder.verdicts = Verdicts(_Registry.code, _Registry.files)
    return known


def by_class_alone(kind: type, rules: ExceptionRules | None) -> bool:
    """Whether neither a callable nor a row of the libraries' table reads a class's instances.

    Args:
        kind: The class.
        rules: Those of the decorator; None where there are none.
    """
    from iii_resilience.core.classifiers.library_exceptions import reads_instances  # noqa: PLC0415

    scopes = (rules, _Registry.code, _Registry.files)
    if any(scope is not None and scope.reads_instances(kind) for scope in scopes):
        return False
    return not reads_instances(kind)


def register_exceptions(
    rows: Mapping[type[Exception] | str, Category | str | Callable[[Any], Verdict]],
) -> None:
    """Say what classes of exceptions mean, for the whole process.

    A class covers its subclasses; the most specific class decides. It comes before what files say
    of it and before the table of known libraries, and after ``iii_retry(transient=...)``. An
    exception with a code that the tables know goes by its code, and nothing makes one retryable
    that carries, or was caused by, ``FORBIDDEN`` or ``function_not_found``.

    Args:
        rows: A class, or its qualified name, to a category (``"transient"``), or to a callable
            from the exception to a category, to ``(category, execution)``, or to None where it
            leaves the exception to others. One that raises is logged once and counts as None.

    Raises:
        ConfigError: A row that is malformed, ``Exception`` as transient, or a class of the SDK's
            or of this library's, which go by their codes. Lists every problem.
    """
    _Registry.code = _Registry.code.joined(exception_rules(rows))


def change_exceptions(before: Iterable[ExceptionRule], after: Iterable[ExceptionRule]) -> None:
    """Replace the rules of a policy file that has changed.

    Args:
        before: What it held.
        after: What it holds now.
    """
    _Registry.files = _Registry.files.without(before).joined(ExceptionRules(after))


def from_registered(
    error: BaseException, rules: ExceptionRules | None, base: Callable[[], Failure | None]
) -> Failure | None:
    """The failure that users' rules make of an exception, or None.

    Args:
        error: The exception.
        rules: Those of the decorator, which come first; None where there are none.
        base: The failure by the table of libraries, whose pushback and details stay.
    """
    for scope in (rules, _Registry.code, _Registry.files):
        if scope and (verdict := scope.find(error)) is not None:
            return _failure(error, *verdict, base())
    return None


def _failure(
    error: BaseException, category: Category, execution: Execution | None, base: Failure | None
) -> Failure | None:
    if base is None:
        base = Failure(
            _names_of(type(error))[0][:LONGEST_CODE],
            category,
            Execution.MAYBE_EXECUTED,
            message=text_of(error),
            system="local",
            origin=LIBRARY,
        )
    pushback = category is Category.TRANSIENT
    return base.replace(
        category=category,
        execution=base.execution if execution is None else execution,
        throttled=base.throttled and pushback,
        retry_after=base.retry_after if pushback else None,
        remedy=_REMEDIES[category],
    )
