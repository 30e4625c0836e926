"""The source of policy files: paths, the ready-made files, mappings, and a snapshot of them.

Knows nothing of what they mean: `config.files.validate` does.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import attrs

from iii_resilience.config.files.nodes import Mark, Node, Problem, allowed, of_mapping
from iii_resilience.config.files.validate import ValidationResult, examine
from iii_resilience.config.files.yaml_reader import read_yaml
from iii_resilience.config.policy_set import PolicySet
from iii_resilience.core.errors import ConfigError
from iii_resilience.core.observers import logger

BUILT_IN = "builtin:"
MAPPING = "<mapping>"
_LARGEST_FILE = 1_000_000  # bytes; a book of ten thousand rules is smaller

One = str | os.PathLike[str] | Mapping[str, Any]


def ready_made() -> dict[str, Traversable]:
    """The ready-made policy files by name."""
    folder: Traversable = files("iii_resilience") / "policies"
    if not folder.is_dir():
        # Installed for editing: the files are where they are edited.
        folder = Path(__file__).parents[4] / "policies"
    return {
        path.name.removesuffix(".yaml"): path
        for path in sorted(folder.iterdir(), key=lambda path: path.name)
        if path.name.endswith(".yaml")
    }


@attrs.frozen
class Contents:
    """What the files of a book held at one moment (a `reload.Snapshot`).

    Attributes:
        parts: Name of each, and its bytes, what kept it from being read, or the mapping it is.
        also: What counts for the digest beside the files: mappings are what they were.
    """

    parts: tuple[tuple[str, bytes | Problem | Mapping[str, Any]], ...]
    also: bytes = b""

    @property
    def digest(self) -> bytes:
        """Equal for equal content."""
        digest = hashlib.blake2b(self.also, digest_size=16)
        for name, content in self.parts:
            if isinstance(content, Mapping):
                continue
            text = _bytes(str(content)) if isinstance(content, Problem) else content
            digest.update(_bytes(f"{name}\0{len(text)}\0"))
            digest.update(text)
        return digest.digest()

    def validate(self) -> ValidationResult:
        """What is wrong with it, or what it says."""
        nodes, unreadable = list[Node](), list[Problem]()
        for name, content in self.parts:
            if isinstance(content, Problem):
                unreadable.append(content)
                continue
            node, problems = (
                read_yaml(name, content)
                if isinstance(content, bytes)
                else of_mapping(name, content)
            )
            unreadable += problems
            if node is not None:
                nodes.append(node)
        return examine(nodes, unreadable, [name for name, _ in self.parts], self.digest)

    def policy_set(self) -> PolicySet:
        """What it says; warnings are logged.

        Raises:
            ConfigError: It does not validate.
        """
        result = self.validate()
        if result.policy_set is None:
            raise ConfigError([str(problem) for problem in result.problems])
        for warning in result.policy_set.warnings:
            logger.warning("%s", warning)
        return result.policy_set


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was removed: only absolute paths can be read
        return Path()


@attrs.frozen
class Files:
    """The files of a book (a `reload.Source`).

    Attributes:
        parts: Paths, names of ready-made files, and mappings.
        folder: Where relative paths begin: the working folder when they were given. A process
            that changes it later (a daemon) still reads the same files.
    """

    parts: tuple[str | Mapping[str, Any], ...]
    folder: Path = attrs.field(factory=_working_folder)

    @classmethod
    def of(cls, source: One | Iterable[One]) -> Files:
        """The files that a user named.

        Raises:
            ConfigError: The sequence is empty.
            TypeError: A name is neither a string nor a path.
        """
        several: Any = source
        if isinstance(source, (str, bytes, os.PathLike, Mapping)):
            several = [source]
        elif not isinstance(source, Iterable):
            raise _no_source(source)
        parts = tuple(_part(one) for one in several)
        if not parts:
            raise ConfigError(["no policy file was named (a path, or builtin:default)"])
        return cls(parts)

    @property
    def name(self) -> str:
        """The names of all of them."""
        return ", ".join(MAPPING if isinstance(one, Mapping) else _shown(one) for one in self.parts)

    @property
    def can_change(self) -> bool:
        """Whether there is a file among them: a mapping is what it is."""
        return any(isinstance(one, str) for one in self.parts)

    def read(self) -> Contents:
        """What they hold now."""
        return Contents(
            tuple(
                (MAPPING, one)
                if isinstance(one, Mapping)
                else (_shown(one), _content(one, self.folder))
                for one in self.parts
            )
        )


def from_environment(text: str) -> list[str]:
    """The names in an environment variable, separated as in ``PATH``.

    Args:
        text: Its value. The colon of ``builtin:payments`` separates nothing.
    """
    names: list[str] = []
    for part in text.split(os.pathsep):
        if names and names[-1] == BUILT_IN[:-1]:
            names[-1] = f"{BUILT_IN}{part}"
        elif part:
            names.append(part)
    return names


def _part(one: Any) -> str | Mapping[str, Any]:
    if isinstance(one, Mapping):
        return one
    if isinstance(one, (str, bytes, os.PathLike)):
        return os.fsdecode(one)
    raise _no_source(one)


def _shown(path: str) -> str:
    """A path as messages hold it: one that is not UTF-8 could not be written to any log."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _no_source(what: object) -> TypeError:
    return TypeError(f"policies are loaded from a path, several paths, or a mapping, got {what!r}")


def _content(name: str, folder: Path) -> bytes | Problem:
    mark = Mark(_shown(name))
    try:
        path: Traversable
        if name.startswith(BUILT_IN):
            known = ready_made()
            wanted = name.removeprefix(BUILT_IN)
            if wanted not in known:
                what = f"is not a ready-made policy file {allowed(list(known), wanted)}"
                return Problem(mark, "", what)
            path = known[wanted]
        else:
            path = folder / name
            kind = path.stat().st_mode
            if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
                # Opening it would wait for another process, and it can be read only once.
                return Problem(mark, "", "cannot be read: it is a pipe or a socket, not a file")
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE + 1)  # not all of it: a device has no end
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        what = getattr(error, "strerror", None) or _shown(str(error))
        return Problem(mark, "", f"cannot be read: {what}")
    if len(text) > _LARGEST_FILE:
        return Problem(mark, "", f"is too long (at most {_LARGEST_FILE} bytes)")
    return text
