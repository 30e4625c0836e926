"""Reads YAML into nodes: safe types only, no aliases, no tags, bounded depth, with positions.

Scalars follow YAML 1.2, as in editors that use the JSON Schema: ``yes`` and ``on`` are text,
``010`` is ten, and ``1:30`` is text. Knows nothing of policies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from iii_resilience.config.files.nodes import (
    DEEPEST,
    MOST,
    TOO_DEEP,
    TOO_MANY,
    Mark,
    Node,
    Path,
    Problem,
    dotted,
    shown,
)

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_DIGITS = 100  # of a number; Python's own limit does not bound the time it takes


def read_yaml(name: str, text: bytes) -> tuple[Node | None, list[Problem]]:
    """Read one YAML document.

    Args:
        name: What to call the file.
        text: Its bytes: UTF-8, or UTF-16 with a byte order mark.

    Returns:
        The nodes and no problems; or None, and every problem that was found before there was no
        going on.
    """
    import yaml  # noqa: PLC0415 - not loaded until a file is

    fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _read(name, text, fast)
    except (yaml.YAMLError, UnicodeError):
        # The C parser is 15 times as fast, and words its complaints differently; where there is
        # something to complain of, it is said in the same words on every machine.
        pass
    try:
        return _read(name, text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = Mark(name) if mark is None else Mark(name, mark.line + 1, mark.column + 1)
        return None, [Problem(place, "", error.problem or "is not YAML")]
    except (yaml.YAMLError, UnicodeError) as error:
        why = getattr(error, "reason", None) or "it cannot be decoded"
        return None, [Problem(Mark(name), "", f"is not a text in UTF-8 or UTF-16: {why}")]


def _read(name: str, text: bytes, loader: Any) -> tuple[Node | None, list[Problem]]:
    import yaml  # noqa: PLC0415 - not loaded until a file is

    reader = _Reader(name, yaml.parse(text, loader))
    try:
        node = reader.document()
    except _UnreadableYamlError:
        node = None
    return (None if reader.problems else node), reader.problems


class _UnreadableYamlError(Exception):
    """There is no going on behind this problem."""


class _Reader:
    """Events to nodes."""

    def __init__(self, name: str, events: Iterator[Any]) -> None:
        self.problems: list[Problem] = []
        self._name = name
        self._events = events
        self._parts = 0

    def document(self) -> Node:
        node = Node(None, Mark(self._name))
        documents = 0
        for event in self._events:
            kind = type(event).__name__
            if kind == "DocumentStartEvent":
                documents += 1
                if documents > 1:
                    self._problem(event, (), "a second document begins here: a policy file has one")
                    raise _UnreadableYamlError
            elif kind == "DocumentEndEvent" or kind.startswith("Stream"):
                pass
            else:
                node = self._node(event, (), self._mark(event))
        return node

    def _node(self, event: Any, path: Path, mark: Mark) -> Node:
        kind = type(event).__name__
        if kind == "AliasEvent" or event.tag is not None or event.anchor is not None:
            # Aliases can make a small file an endless tree, tags can make anything.
            self._problem(event, path, "anchors, aliases and tags are not used in policy files")
            raise _UnreadableYamlError
        self._parts += 1
        if self._parts > MOST:
            self._problem(event, (), TOO_MANY)
            raise _UnreadableYamlError
        if kind == "ScalarEvent":
            return Node(self._scalar(event, path), mark)
        if len(path) >= DEEPEST:
            # Not read to its end: the time YAML takes grows with the square of the depth.
            self._problem(event, (), TOO_DEEP)
            raise _UnreadableYamlError
        if kind == "SequenceStartEvent":
            return Node(self._sequence(path), mark)
        return Node(self._mapping(path), mark)

    def _sequence(self, path: Path) -> list[Node]:
        nodes: list[Node] = []
        while not self._ends(event := next(self._events)):
            nodes.append(self._node(event, (*path, len(nodes)), self._mark(event)))
        return nodes

    def _mapping(self, path: Path) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        while not self._ends(event := next(self._events)):
            mark = self._mark(event)
            key = self._node(event, (*path, "?"), mark)
            value = next(self._events)
            if not isinstance(key.value, str):
                self._problem(event, path, f"keys must be text, got {shown(key.value)}")
                self._node(value, (*path, "?"), mark)
                continue
            node = self._node(value, (*path, key.value), mark)
            if key.value in nodes:
                first = nodes[key.value].mark.line
                what = f"is given twice (first in line {first})"
                self._problem(event, (*path, key.value), what)
            else:
                nodes[key.value] = node
        return nodes

    def _scalar(self, event: Any, path: Path) -> Any:
        text: str = event.value
        if not event.implicit[0]:  # quoted, or a block of text
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            if len(text) > _DIGITS:
                what = f"is a number of {len(text)} digits (at most {_DIGITS})"
                self._problem(event, path, what)
                return None
            return int(text, 0 if text[:2] in {"0o", "0x"} else 10)
        if _FLOAT.fullmatch(text):
            return float(text)
        return text

    @staticmethod
    def _ends(event: Any) -> bool:
        return type(event).__name__ in {"SequenceEndEvent", "MappingEndEvent"}

    def _mark(self, event: Any) -> Mark:
        return Mark(self._name, event.start_mark.line + 1, event.start_mark.column + 1)

    def _problem(self, event: Any, path: Path, what: str) -> None:
        path = tuple(part for part in path if part != "?")
        self.problems.append(Problem(self._mark(event), dotted(path), what))
