"""Policies from YAML files and mappings: load, check, and make a `PolicyBook`.

Knows nothing of calls. Files hold whole milliseconds with a ``_ms`` suffix, as iii's own
configuration does; Python holds seconds. YAML and cattrs are loaded with the first file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iii_resilience.backoff import Backoff
from iii_resilience.book import PolicyBook, Rule
from iii_resilience.codes import Code, read_codes
from iii_resilience.errors import ConfigError
from iii_resilience.guards.breaker import Breaker
from iii_resilience.guards.budget import Budget
from iii_resilience.guards.bulkhead import Bulkhead
from iii_resilience.policy import Enqueue, Reroute, RetryPolicy

if TYPE_CHECKING:
    import cattrs

_TOP = ("version", "policies", "rules", "default", "codes")
_LARGEST_FILE = 1_000_000  # bytes; a book of ten thousand rules is smaller
_DEEPEST = 16  # collections in one another; a policy file has four
_LONGEST_CHAIN = 32  # policies that extend one another
Place = tuple[str | int, ...]
_BEYOND_SAFE_YAML = "aliases and tags are not used in policy files"
_TOO_DEEP = f"is nested too deep (at most {_DEEPEST} levels)"

# What the classes and attrs say of one of their fields, and what files call those.
_OF_FIELD = re.compile(r"(?:[A-Z]\w*\.|')(\w+)'? (must .*)", re.DOTALL)
_IN_FILES = {
    **{
        name: f"{name}_ms"
        for name in (
            "base",
            "cap",
            "throttled_base",
            "window",
            "deadline",
            "attempt_timeout",
            "ready_timeout",
            "open",
            "slow_call",
            "wait",
        )
    },
    "queue": "enqueue",
    "function_id": "reroute",
}


def load_policies(source: str | os.PathLike[str] | Mapping[str, Any]) -> PolicyBook:
    """Load policies from a YAML file, or from a mapping of the same shape.

    Args:
        source: Path of the file, or the mapping.

    Returns:
        The book, for ``resilient(worker, policies=...)`` or `use_policies`.

    Raises:
        ConfigError: The file cannot be read or does not validate. ``problems`` lists everything
            that is wrong, each with its place.
    """
    if isinstance(source, Mapping):
        return _Loader("<mapping>", {}).book(source)
    name = os.fsdecode(source)
    try:
        with Path(name).open("rb") as file:
            text = file.read(_LARGEST_FILE + 1)  # not all of it: a device has no end
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        what = getattr(error, "strerror", None) or error
        raise ConfigError([f"{name}: cannot be read: {what}"]) from None
    if len(text) > _LARGEST_FILE:
        raise ConfigError([f"{name}: is too long (at most {_LARGEST_FILE} bytes)"])
    data, places = _parse(name, text)
    return _Loader(name, places).book(data)


class _Loader:
    """One file on its way to a book; collects problems instead of stopping at the first."""

    def __init__(self, name: str, places: Mapping[Place, tuple[int, int]]) -> None:
        self._name = name
        self._places = places
        self._problems: list[str] = []
        self._converter = _converter()

    def book(self, data: Any) -> PolicyBook:
        """Everything that is in the data, or every problem it has."""
        book = self._read(data)
        if self._problems or book is None:
            raise ConfigError(self._problems)
        return book

    def _read(self, data: Any) -> PolicyBook | None:
        if not isinstance(data, Mapping):
            self._problem((), "must be a mapping with version, policies, rules and default")
            return None
        for key in data:
            if key not in _TOP:
                self._problem((key,), f"is no key of a policy file (allowed: {', '.join(_TOP)})")
        version = data.get("version")
        if type(version) is not int or version != 1:
            self._problem(("version",), "must be 1, the only version there is")
        raw = self._mapping(data, "policies")
        policies = {
            name: policy
            for name in raw
            if (policy := self._policy(name, self._inherit(name, raw))) is not None
        }
        rules = self._rules(data.get("rules"))
        codes = self._codes(data.get("codes"))
        default = data.get("default", "default")
        known = {"default", *raw}
        for index, rule in rules:
            if rule.policy is not None and rule.policy not in known:
                self._no_such_policy(("rules", index, "policy"), rule.policy, known)
        if not isinstance(default, str) or default not in known:
            self._no_such_policy(("default",), default, known)
        if self._problems:
            return None
        return PolicyBook(policies, tuple(rule for _, rule in rules), default, codes=codes)

    def _mapping(self, data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = data.get(key)
        if value is None:
            return {}
        if isinstance(value, Mapping):
            return {name: fields for name, fields in value.items() if self._is_text(key, name)}
        self._problem((key,), "must be a mapping of names to policies")
        return {}

    def _is_text(self, section: str, name: Any) -> bool:
        if not isinstance(name, str):
            self._problem((section,), f"keys must be text, got {name!r}")
        return isinstance(name, str)

    def _inherit(self, name: str, raw: Mapping[str, Any]) -> Any:
        """The fields of a policy together with those it extends."""
        fields, place = raw[name], ("policies", name, "extends")
        if not isinstance(fields, Mapping):
            return fields
        inherited, ancestor = dict(fields), fields
        for _ in range(_LONGEST_CHAIN):
            if "extends" not in ancestor:
                break
            parent = ancestor["extends"]
            if parent == name:
                self._problem(place, "makes the policy extend itself")
                break
            if not isinstance(parent, str) or parent not in raw:
                if ancestor is fields:  # of an ancestor it is said there, once
                    self._no_such_policy(place, parent, set(raw))
                break
            ancestor = raw[parent]
            if not isinstance(ancestor, Mapping):
                break
            inherited = {**ancestor, **inherited}
        else:
            if "extends" in ancestor:
                self._problem(place, f"extends more than {_LONGEST_CHAIN} policies")
        inherited.pop("extends", None)
        return inherited

    def _policy(self, name: str, fields: Any) -> RetryPolicy | None:
        policy: RetryPolicy | None = self._structure(fields, RetryPolicy, ("policies", name))
        return policy

    def _rules(self, raw: Any) -> list[tuple[int, Rule]]:
        if raw is None:
            return []
        if not isinstance(raw, list):
            self._problem(("rules",), "must be a list of {function, policy, idempotent}")
            return []
        rules = []
        for index, fields in enumerate(raw):
            rule = self._structure(fields, Rule, ("rules", index))
            if rule is None:
                continue
            if "*" in rule.function[:-1]:
                self._problem(
                    ("rules", index, "function"),
                    "must be a function id, or a prefix followed by one *",
                )
            rules.append((index, rule))
        return rules

    def _codes(self, raw: Any) -> tuple[Code, ...]:
        if raw is None:
            return ()
        if not isinstance(raw, Mapping):
            self._problem(("codes",), "must be a mapping of codes to their category and remedy")
            return ()
        try:
            return read_codes(raw)
        except ConfigError as error:
            for problem in error.problems:
                where, _, what = problem.partition(": ")
                self._problem(("codes", where.removeprefix("codes.")), what)
            return ()

    def _structure(self, fields: Any, kind: type[Any], place: Place) -> Any:
        import cattrs  # noqa: PLC0415 - not loaded until a file is

        if not isinstance(fields, Mapping):
            self._problem(place, "must be a mapping")
            return None
        if any(not isinstance(key, str) for key in fields):
            self._problem(place, "keys must be text")
            return None
        try:
            return self._converter.structure(fields, kind)
        except (cattrs.BaseValidationError, ValueError, TypeError) as error:
            for line in cattrs.transform_error(error, path="", format_exception=_say):
                what, _, where = line.rpartition(" @ ")
                deeper = [part for part in where.split(".") if part]
                if (said := _OF_FIELD.fullmatch(what)) is not None:
                    deeper.append(said[1])
                    what = said[2]
                self._problem((*place, *(_IN_FILES.get(part, part) for part in deeper)), what)
            return None

    def _no_such_policy(self, place: Place, name: Any, known: set[str]) -> None:
        self._problem(place, f"names no policy: {name!r} (there are: {', '.join(sorted(known))})")

    def _problem(self, place: Place, what: str) -> None:
        path = ".".join(str(part) for part in place) or "the file"
        for length in range(len(place), -1, -1):
            mark = self._places.get(place[:length])
            if mark is not None:
                self._problems.append(f"{self._name}:{mark[0]}:{mark[1]}: {path}: {what}")
                return
        self._problems.append(f"{self._name}: {path}: {what}")


def _parse(name: str, text: bytes) -> tuple[Any, dict[Place, tuple[int, int]]]:
    """Plain data and the line and column of each of its parts, both from 1."""
    import yaml  # noqa: PLC0415 - not loaded until a file is

    reader = _Reader(name)
    try:
        # Aliases could make a small file into an endless tree, and a policy file needs none.
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:  # the time YAML takes grows with the square of the depth
                line, column = _mark(event)
                raise ConfigError([f"{name}:{line}:{column}: {_TOO_DEEP}"])
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
                line, column = _mark(event)
                raise ConfigError([f"{name}:{line}:{column}: {_BEYOND_SAFE_YAML}"])
        node = yaml.compose(text, yaml.SafeLoader)
        data = None if node is None else reader.read(node, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark is not None else name
        what = getattr(error, "problem", None) or "is not YAML"
        raise ConfigError([f"{where}: {what}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{name}: is not UTF-8 text"]) from None
    if reader.problems:
        raise ConfigError(reader.problems)
    return data, reader.places


class _Reader:
    """YAML nodes to plain data; safe types only, and the place of everything is kept."""

    def __init__(self, name: str) -> None:
        import yaml  # noqa: PLC0415 - not loaded until a file is

        self.places: dict[Place, tuple[int, int]] = {}
        self.problems: list[str] = []
        self._name = name
        self._plain = yaml.SafeLoader("")

    def read(self, node: Any, place: Place) -> Any:
        """The data of a node."""
        self.places.setdefault(place, _mark(node))
        if node.id == "mapping":
            return self._mapping(node, place)
        if node.id == "sequence":
            return [self.read(item, (*place, index)) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _scalar(self, node: Any) -> Any:
        try:
            return self._plain.construct_object(node)
        except (ValueError, ArithmeticError):  # 2024-99-99 looks like a date and is none
            line, column = _mark(node)
            what = f"{node.value[:40]!r} is no value: put text in quotes"
            self.problems.append(f"{self._name}:{line}:{column}: {what}")
            return None

    def _mapping(self, node: Any, place: Place) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node) if key_node.id == "scalar" else None
            line, column = _mark(key_node)
            if not isinstance(key, str):
                self.problems.append(f"{self._name}:{line}:{column}: keys must be text")
            elif key in made:
                path = ".".join(map(str, (*place, key)))
                self.problems.append(f"{self._name}:{line}:{column}: {path}: is given twice")
            else:
                self.places[(*place, key)] = (line, column)
                made[key] = self.read(value_node, (*place, key))
        return made


def _mark(node: Any) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _seconds(value: Any, _: Any) -> float | None:
    """Whole milliseconds of a file as seconds."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        # Not a TypeError: for the reader of the file it is one more value out of range.
        raise ValueError(  # noqa: TRY004
            f"must be a whole number of milliseconds, got {value!r}"
        )
    try:
        return value / 1000
    except OverflowError:
        raise ValueError("must be a number that a clock can hold") from None


def _as_is(value: Any, _: Any) -> Any:
    """The classes check their own fields, with better words than a conversion has."""
    return value


def _converter() -> cattrs.Converter:
    from cattrs import Converter  # noqa: PLC0415 - not loaded until a file is
    from cattrs.gen import make_dict_structure_fn, override  # noqa: PLC0415

    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    exact = override(struct_hook=_as_is)
    hidden = override(omit=True)

    def milliseconds(name: str) -> Any:
        return override(rename=f"{name}_ms", struct_hook=_seconds)

    def part(kind: Any, **overrides: Any) -> None:
        structure = make_dict_structure_fn(kind, converter, **overrides)

        def checked(value: Any, as_kind: Any) -> Any:
            if not isinstance(value, Mapping):
                raise ValueError("must be a mapping")  # noqa: TRY004 - as `_seconds`
            return structure(value, as_kind)

        converter.register_structure_hook(kind, checked)

    part(
        Backoff,
        base=milliseconds("base"),
        cap=milliseconds("cap"),
        throttled_base=milliseconds("throttled_base"),
        factor=exact,
        jitter=exact,
    )
    part(
        Budget,
        window=milliseconds("window"),
        ratio=exact,
        min_per_second=exact,
        _windows=hidden,
    )
    part(
        Breaker,
        window=milliseconds("window"),
        open=milliseconds("open"),
        slow_call=milliseconds("slow_call"),
        failure_rate=exact,
        min_calls=exact,
        probes=exact,
        _circuits=hidden,
    )
    part(Bulkhead, limit=exact, queue=exact, wait=milliseconds("wait"), _gates=hidden)
    part(Enqueue, queue=override(rename="enqueue", struct_hook=_as_is))
    part(Reroute, function_id=override(rename="reroute", struct_hook=_as_is), namespace=exact)
    part(Rule, function=exact, policy=exact, idempotent=exact)

    def fallback(value: Any, _: Any) -> Enqueue | Reroute | None:
        if value is None:
            return None
        reroutes = isinstance(value, Mapping) and "reroute" in value
        if reroutes:
            return converter.structure(value, Reroute)
        return converter.structure(value, Enqueue)

    part(
        RetryPolicy,
        attempts=exact,
        deadline=milliseconds("deadline"),
        attempt_timeout=milliseconds("attempt_timeout"),
        ready_timeout=milliseconds("ready_timeout"),
        retry_unexecuted=exact,
        max_stops=exact,
        max_payload_bytes=exact,
        fallback=override(struct_hook=fallback),
        wait=hidden,
        stop=hidden,
    )
    return converter


def _say(error: BaseException, _: type[Any] | None) -> str:
    import cattrs  # noqa: PLC0415 - not loaded until a file is

    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        keys = ", ".join(sorted(map(str, error.extra_fields)))
        return f"has no {keys}"
    if isinstance(error, KeyError):
        return f"needs {error.args[0]}"
    return str(error.args[0] if error.args else error)  # attrs adds what it knows itself
