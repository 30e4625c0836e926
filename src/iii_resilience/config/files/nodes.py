"""Policy data in which every part has a place in a file; and problems at such places.

Knows nothing of YAML or of what the data means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import attrs

DEEPEST = 16  # collections in one another; a policy file has four
TOO_DEEP = f"is nested too deep (at most {DEEPEST} levels)"
MOST = 200_000  # parts of one document; a book of ten thousand rules has a quarter of that
TOO_MANY = f"has too many parts (at most {MOST})"
Path = tuple[str | int, ...]


@attrs.frozen
class Mark:
    """A place in a file.

    Attributes:
        file: The file's name; ``<mapping>`` for what was no file.
        line: Its line, from 1; None for what has no lines.
        column: Its column, from 1; None for what has no lines.
    """

    file: str
    line: int | None = None
    column: int | None = None

    @property
    def short(self) -> str:
        """File and line."""
        return self.file if self.line is None else f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return self.short if self.column is None else f"{self.short}:{self.column}"


@attrs.frozen(eq=False)
class Node:
    """One part of the data.

    Attributes:
        value: A scalar, a list of nodes, or a mapping from keys to nodes.
        mark: Where it stands; for what stands under a key, the place of the key.
    """

    value: Any
    mark: Mark

    def plain(self) -> Any:
        """The data alone."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def at(self, path: Path) -> Mark:
        """The mark of the part at a path, or of the last one on the way that there is."""
        node = self
        for key in path:
            inside: Any = node.value
            found: Node | None = None
            if isinstance(inside, dict):
                found = inside.get(key)
            elif isinstance(inside, list) and isinstance(key, int):
                found = inside[key]
            if found is None:
                break
            node = found
        return node.mark


@attrs.frozen
class Problem:
    """Something that is wrong, or seldom meant, and its place.

    Attributes:
        mark: File, line and column.
        path: The field, in the file's own words (``policies.payments.attempts``); empty for the
            whole file.
        what: What is wrong, and what is allowed.
    """

    mark: Mark
    path: str
    what: str

    def __str__(self) -> str:
        return (
            f"{self.mark}: {self.path}: {self.what}" if self.path else f"{self.mark}: {self.what}"
        )


def dotted(path: Path) -> str:
    """A path as problems show it."""
    return ".".join(in_line(part) for part in path)


def in_line(part: str | int) -> str:
    """A key or a name as it stands in a line of text, which stays one whatever the name is."""
    return part if isinstance(part, str) and part.isprintable() else repr(part)


def allowed(options: Sequence[str], given: object = None, what: str = "allowed") -> str:
    """The options in brackets, and the one that was probably meant.

    Args:
        options: What could have been given.
        given: What was given; None offers nothing.
        what: What the options are called.
    """
    few = [in_line(option) for option in options[:_MOST_SHOWN]]
    if len(options) > _MOST_SHOWN:
        few.append("…")
    return f"({what}: {', '.join(few)}{meant(options, given)})"


def meant(options: Sequence[str], given: object) -> str:
    """``; did you mean …?``, where one of the options is near to what was given.

    Args:
        options: What could have been given.
        given: What was given.
    """
    if not isinstance(given, str) or len(options) > _MOST_COMPARED:
        return ""
    word = given[:_LONGEST]
    letters = set(word)

    def shared(option: str) -> float:
        return len(letters & set(option)) / len(letters | set(option) | {""})

    near = get_close_matches(word, sorted(options, key=shared, reverse=True)[:_LOOKED_AT], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


_MOST_SHOWN = 30  # options in one message
# Ten thousand wrong names among ten thousand must not take minutes to be answered.
_MOST_COMPARED = 100  # options
_LOOKED_AT = 5  # of them, those that share the most letters
_LONGEST = 60  # characters of a misspelt word: looking for its like takes the square of them


def of_mapping(name: str, data: Any) -> tuple[Node | None, list[Problem]]:
    """Nodes for data that was no file.

    Args:
        name: What to call it.
        data: Mappings, lists and scalars.

    Returns:
        The nodes and no problems; or None, and the problems that kept them from being made.
    """
    mark, problems, parts = Mark(name), list[Problem](), 0

    def made(value: Any, path: Path) -> Node:
        nonlocal parts
        parts += 1
        if len(path) > DEEPEST:
            problems.append(Problem(mark, dotted(path[:DEEPEST]), TOO_DEEP))
            return Node(None, mark)
        if parts > MOST:
            raise _TooManyError
        if isinstance(value, Mapping):
            entries = {}
            for key, inside in value.items():
                if isinstance(key, str):
                    entries[key] = made(inside, (*path, key))
                else:
                    what = f"keys must be text, got {_shown_key(key)}"
                    problems.append(Problem(mark, dotted(path), what))
            return Node(entries, mark)
        if isinstance(value, (list, tuple)):
            return Node([made(one, (*path, n)) for n, one in enumerate(value)], mark)
        return Node(value, mark)

    try:
        node = made(data, ())
    except _TooManyError:
        return None, [Problem(mark, "", TOO_MANY)]
    return (None if problems else node), problems


class _TooManyError(Exception):
    """There is no end to the data."""


def _shown_key(key: object) -> str:
    try:
        return repr(key)[:_LONGEST]
    except Exception:  # an object of the caller's own: what it does is not ours to know
        return type(key).__name__


def shown(value: Any) -> str:
    """A value as the reader of a file would write it, cut where it is long."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_SHOWN = 60  # characters of a value that a message shows
