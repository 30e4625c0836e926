"""Validates all documents of a book together, and reports every problem at once.

Each document is validated alone first, then all of them together: a value that a later document
replaces must be valid too. Knows nothing of how documents were read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs

from iii_resilience.config.files.convert import FieldError, structure
from iii_resilience.config.files.fields import EXTENDS
from iii_resilience.config.files.merge import LONGEST_CHAIN, chain, extended, overlay
from iii_resilience.config.files.nodes import (
    Mark,
    Node,
    Path,
    Problem,
    allowed,
    dotted,
    in_line,
    shown,
)
from iii_resilience.config.policy_set import PolicySet
from iii_resilience.config.queue_definition import Queue
from iii_resilience.config.rules import Rule
from iii_resilience.core.classifiers.registered_exceptions import ExceptionRule, read_exceptions
from iii_resilience.core.codes.lookup import Code, read_codes
from iii_resilience.core.errors import ConfigError
from iii_resilience.core.policy import Enqueue, RetryPolicy

TOP = ("version", "policies", "rules", "default", "queues", "codes", "exceptions")
DEFAULT = "default"
_ROOT = "the file"


@attrs.frozen
class Origins:
    """The places of the parts of a policy set.

    Attributes:
        policies: Every policy of the files with all it extends, by name.
        rules: The place of each rule, in the order of the set's rules.
        default: Where it is said which policy is the default one, or None.
    """

    policies: dict[str, Node]
    rules: tuple[Mark, ...]
    default: Mark | None


@attrs.frozen
class ValidationResult:
    """What became of the documents.

    Attributes:
        policy_set: What they say together; None where there are problems.
        problems: Everything that is wrong, in the order of the files.
        warnings: What is allowed and seldom meant, in the same order.
    """

    policy_set: PolicySet | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def examine(
    nodes: Sequence[Node],
    unreadable: Iterable[Problem],
    names: Iterable[str],
    digest: bytes,
) -> ValidationResult:
    """Check documents, and put together what they say; later ones win.

    Args:
        nodes: What each readable document says, in their order.
        unreadable: What kept others from being read.
        names: The names of all documents in their order, by which the problems are sorted.
        digest: Of what they were read from, for the policy set.
    """
    found = _Findings()
    policy_set = None
    for problem in unreadable:
        found.problem(problem)
    readable = [node for node in nodes if _is_policy_file(node, found)]
    if readable:
        policy_set = _Examination(readable, found).policy_set(digest)
    problems, warnings = found.sorted({name: number for number, name in enumerate(names)})
    if problems:
        policy_set = None
    elif policy_set is not None:
        policy_set = attrs.evolve(policy_set, warnings=tuple(map(str, warnings)))
    return ValidationResult(policy_set, problems, warnings)


class _Findings:
    """Problems and warnings, each once."""

    def __init__(self) -> None:
        self._problems: dict[tuple[object, ...], Problem] = {}
        self._warnings: dict[tuple[object, ...], Problem] = {}

    def problem(self, problem: Problem) -> None:
        self._problems.setdefault(_identity(problem), problem)

    def warning(self, problem: Problem) -> None:
        self._warnings.setdefault(_identity(problem), problem)

    def sorted(self, files: dict[str, int]) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
        def place(problem: Problem) -> tuple[int, int, int]:
            mark = problem.mark
            return files[mark.file], mark.line or 0, mark.column or 0

        return (
            tuple(sorted(self._problems.values(), key=place)),
            tuple(sorted(self._warnings.values(), key=place)),
        )


def _identity(problem: Problem) -> tuple[object, ...]:
    # Report an inherited problem once. Without line numbers the path distinguishes problems.
    path = None if problem.mark.line is not None else problem.path
    return problem.mark, path, problem.what


def _is_policy_file(node: Node, found: _Findings) -> bool:
    if isinstance(node.value, dict):
        return True
    what = f"must be a mapping with {', '.join(TOP[:-1])} and {TOP[-1]}, got {shown(node.value)}"
    found.problem(Problem(node.mark, _ROOT, what))
    return False


class _Examination:
    """Documents that are mappings, while they become a policy set."""

    def __init__(self, documents: Sequence[Node], found: _Findings) -> None:
        self._documents = documents
        self._found = found
        self._known: dict[str, None] = {DEFAULT: None}
        self._queues: dict[str, Queue] = {}

    def policy_set(self, digest: bytes) -> PolicySet | None:
        for document in self._documents:
            self._top(document)
        written = self._merged("policies", RetryPolicy, without=EXTENDS)
        self._known = dict.fromkeys(sorted({DEFAULT, *written}))
        effective = self._extended(written)
        queues = self._merged("queues", Queue, named=True)
        self._queues = self._made(
            queues, "queues", lambda name, data: structure(data, Queue, name=name)
        )
        policies = self._made(effective, "policies", lambda _, data: structure(data, RetryPolicy))
        rules = self._rules()
        codes = self._codes()
        exceptions = self._exceptions()
        default, default_at = self._default()
        self._warn_of_queues(effective, policies, set(queues))
        try:
            return PolicySet(
                policies,
                [rule for rule, _ in rules],
                default,
                codes,
                self._queues,
                exceptions,
                origins=Origins(effective, tuple(mark for _, mark in rules), default_at),
                digest=digest,
            )
        except ValueError:  # what is missing has been said where it stands
            return None

    def _top(self, document: Node) -> None:
        for key in document.value:
            if key not in TOP:
                what = f"is not a key of a policy file {allowed(TOP, key)}"
                self._problem(document, (key,), what)
        version = document.value.get("version")
        if version is None or type(version.value) is not int or version.value != 1:
            got = "" if version is None else f", got {shown(version.value)}"
            self._problem(document, ("version",), f"must be 1, the only version there is{got}")

    def _sections(self, key: str, kind: type, what: str) -> Iterator[tuple[Node, Node]]:
        """Each document that has a section of the right type, and the section."""
        for document in self._documents:
            section = document.value.get(key)
            if section is None or section.value is None:
                continue
            if isinstance(section.value, kind):
                yield document, section
            else:
                self._problem(document, (key,), f"must be {what}, got {shown(section.value)}")

    # Policies and queues: mappings of names to fields, merged over all documents.

    def _merged(
        self, key: str, kind: type, *, without: str = "", named: bool = False
    ) -> dict[str, Node]:
        merged: dict[str, Node] = {}
        for document, section in self._sections(key, dict, f"a mapping of names to {key}"):
            for name, node in section.value.items():
                data = node.plain()
                if isinstance(data, dict):
                    data.pop(without, None)
                _, faults = structure(data, kind, **({"name": name} if named else {}))
                for fault in faults:
                    if not fault.together:  # what goes together is known when all is merged
                        self._fault(document, (key, name), fault)
                merged[name] = overlay(merged.get(name), node)
        return merged

    def _made(
        self,
        nodes: dict[str, Node],
        key: str,
        make: Callable[[str, Any], tuple[Any, list[FieldError]]],
    ) -> dict[str, Any]:
        made = {}
        for name, node in nodes.items():
            value, faults = make(name, node.plain())
            if value is not None:
                made[name] = value
            for fault in faults:
                if fault.together:
                    path: Path = (key, name, *fault.path)
                    self._found.problem(Problem(node.at(fault.path), dotted(path), fault.what))
        return made

    def _extended(self, written: dict[str, Node]) -> dict[str, Node]:
        """Every policy with what it extends; the built-in default can be extended too."""
        everything = {DEFAULT: Node({}, Mark(_ROOT)), **written}
        effective = {}
        for name, node in written.items():
            names, wrong = chain(name, everything)
            if wrong == "long" or (wrong is not None and names[-1] == name):
                at = node.at((EXTENDS,))
                path = dotted(("policies", name, EXTENDS))
                self._found.problem(Problem(at, path, self._bad_chain(wrong, names, node)))
            if wrong == "circle":
                names.pop()
            effective[name] = extended(names, everything)
        return effective

    def _bad_chain(self, wrong: str | None, names: list[str], node: Node) -> str:
        if wrong == "circle":
            return f"extends itself: {' -> '.join(map(in_line, names))}"
        if wrong == "long":
            return f"extends more than {LONGEST_CHAIN} policies, one after another"
        return self._no_such_policy(node.value[EXTENDS].value)

    # Rules: those of later documents come first; of two alike the first one wins.

    def _rules(self) -> list[tuple[Rule, Mark]]:
        rules: list[tuple[Rule, Mark]] = []
        kind = "a list of {function, policy, idempotent}"
        for document, section in self._sections("rules", list, kind):
            ours: list[tuple[Rule, Mark]] = []
            first: dict[str, Mark] = {}
            for index, node in enumerate(section.value):
                rule, faults = structure(node.plain(), Rule)
                for fault in faults:
                    self._fault(document, ("rules", index), fault)
                policy = node.value.get("policy") if isinstance(node.value, dict) else None
                if policy is not None and self._is_unknown(policy.value):
                    what = self._no_such_policy(policy.value)
                    self._problem(document, ("rules", index, "policy"), what)
                if rule is None:
                    continue
                self._warn_of_rule(document, index, rule, first)
                first.setdefault(rule.function, node.at(("function",)))
                ours.append((rule, node.mark))
            rules = ours + rules
        return rules

    def _warn_of_rule(self, document: Node, index: int, rule: Rule, first: dict[str, Mark]) -> None:
        path: Path = ("rules", index, "function")
        before = first.get(rule.function)
        if before is not None:
            where = "an earlier rule" if before.line is None else f"the rule in line {before.line}"
            self._warning(document, path, f"is never reached: {where} covers {rule.function!r} too")
        if rule.idempotent and rule.function == "*":
            what = (
                "says of every function there is that calling it twice does what calling it once "
                "does (name the functions of which that is true)"
            )
            self._warning(document, ("rules", index, "idempotent"), what)

    # Codes: whole rows, the last one wins.

    def _codes(self) -> tuple[Code, ...]:
        codes: dict[str, Code] = {}
        kind = "a mapping of codes to their category and remedy"
        for document, section in self._sections("codes", dict, kind):
            for code, node in section.value.items():
                data, faults = node.plain(), list[FieldError]()
                try:
                    (codes[code],) = read_codes({code: data})
                except ConfigError as error:
                    (problem,) = error.problems
                    faults = [FieldError((), problem.removeprefix(f"codes.{code}: "))]
                if isinstance(data, dict) and not _is_refused(code):
                    faults = _faults_of_fields(data) or faults
                for fault in faults:
                    self._fault(document, ("codes", code), fault)
        return tuple(codes.values())

    def _exceptions(self) -> tuple[ExceptionRule, ...]:
        rules: dict[str, ExceptionRule] = {}
        kind = "a mapping of qualified class names to categories"
        for document, section in self._sections("exceptions", dict, kind):
            for name, node in section.value.items():
                try:
                    (rules[name],) = read_exceptions({name: node.plain()})
                except ConfigError as error:
                    (problem,) = error.problems
                    what = problem.partition(": ")[2].replace(
                        ", or in code a callable from the exception to one of them", ""
                    )
                    self._problem(document, ("exceptions", name), what)
        return tuple(rules.values())

    def _default(self) -> tuple[str, Mark | None]:
        name, mark = DEFAULT, None
        for document in self._documents:
            node = document.value.get("default")
            if node is None:
                continue
            if isinstance(node.value, str) and node.value in self._known:
                name, mark = node.value, node.mark
            else:
                self._problem(document, ("default",), self._no_such_policy(node.value))
        return name, mark

    def _warn_of_queues(
        self, nodes: dict[str, Node], policies: dict[str, RetryPolicy], queues: set[str]
    ) -> None:
        for name, policy in policies.items():
            fallback = policy.fallback
            if isinstance(fallback, Enqueue) and fallback.queue not in queues:
                path = ("fallback", "enqueue")
                what = (
                    f"names the queue {fallback.queue!r}, which has no entry under queues: nothing "
                    f"defines it {allowed(sorted(queues), fallback.queue, 'there are')}"
                )
                at = nodes[name].at(path)
                self._found.warning(Problem(at, dotted(("policies", name, *path)), what))

    def _is_unknown(self, name: object) -> bool:
        """Whether it is a name, and one that no policy has."""
        return isinstance(name, str) and bool(name) and name not in self._known

    def _no_such_policy(self, name: object) -> str:
        return f"names no policy: {shown(name)} {allowed(list(self._known), name, 'there are')}"

    def _fault(self, document: Node, path: Path, fault: FieldError) -> None:
        self._problem(document, (*path, *fault.path), fault.what)

    def _problem(self, document: Node, path: Path, what: str) -> None:
        self._found.problem(Problem(document.at(path), dotted(path), what))

    def _warning(self, document: Node, path: Path, what: str) -> None:
        self._found.warning(Problem(document.at(path), dotted(path), what))


def _is_refused(code: str) -> bool:
    """Whether a code cannot be redefined, whatever its row says."""
    try:
        read_codes({code: "permanent"})
    except ConfigError:
        return True
    return False


def _faults_of_fields(data: dict[str, Any]) -> list[FieldError]:
    return structure(data, Code, code="code")[1]
