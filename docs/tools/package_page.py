"""The project's addresses: its URLs in the metadata, and the README as a package index shows it.

`[tool.iii-resilience.release]` in pyproject.toml holds the addresses. On the page of an index a
relative link leads nowhere. Where an address is set, links and pictures of the README become
absolute; without one a link becomes its text, and a picture is left out.

The build imports this file, so it needs the standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

# Files of the repository outside of docs/ that have a page on the site.
PAGES = {
    "README.md": "index",
    "CONTRIBUTING.md": "project/contributing",
    "SECURITY.md": "project/security",
    "CHANGELOG.md": "project/changelog",
    "benchmarks/RESULTS.md": "project/benchmarks",
}
ENGINE = "https://iii.dev"

_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(r"!\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")
_PICTURE_ALONE = re.compile(rf"^{_PICTURE.pattern}\n\n", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


@dataclass(frozen=True)
class Release:
    """Where the project's files and pages are, as pyproject.toml says.

    Args:
        repository: The address of the repository, or an empty string if it has none.
        documentation: The address of the site that `make docs` builds, or an empty string.
        file: How the forge shows a file of a release: `{repository}`, `{version}` and `{path}`.
        raw: How it serves the file itself, which a picture needs.

    Raises:
        ValueError: If an address is not one of https, or a pattern has an unknown part.
    """

    repository: str = ""
    documentation: str = ""
    file: str = "{repository}/blob/v{version}/{path}"
    raw: str = "{repository}/raw/v{version}/{path}"

    def __post_init__(self) -> None:
        for name in ("repository", "documentation"):
            given = getattr(self, name)
            if given and not re.fullmatch(r"https://[^\s/]+(/\S*)?", given):
                raise ValueError(f"release.{name} is {given!r}: an https:// address, or empty")
            object.__setattr__(self, name, given.rstrip("/"))
        for name in ("file", "raw"):
            try:
                getattr(self, name).format(repository="", version="", path="")
            except (KeyError, IndexError, ValueError):
                raise ValueError(
                    f"release.{name} is {getattr(self, name)!r}: "
                    "its parts may be {repository}, {version} and {path}"
                ) from None

    @classmethod
    def of(cls, project: Mapping[str, Any]) -> Release:
        """Read the addresses from the content of pyproject.toml."""
        given = project["tool"]["iii-resilience"]["release"]
        allowed = [field.name for field in fields(cls)]
        unknown = sorted(set(given) - set(allowed))
        if unknown:
            raise ValueError(f"release has {', '.join(unknown)}: allowed are {', '.join(allowed)}")
        return cls(**given)

    def link(self, path: str, version: str, anchor: str = "") -> str | None:
        """The address of a file of the repository: its page on the site, else the forge's."""
        page = PAGES.get(path)
        if page is None and path.startswith("docs/") and path.endswith(".md"):
            page = path.removeprefix("docs/").removesuffix(".md")
        if self.documentation and page is not None:
            return f"{self.documentation}/{'' if page == 'index' else page + '.html'}{anchor}"
        if self.repository:
            shown = self.file.format(repository=self.repository, version=version, path=path)
            return shown + anchor
        return None

    def picture(self, path: str, version: str) -> str | None:
        """The address of a picture: the forge's, else that of the site, which copies it."""
        if self.repository:
            return self.raw.format(repository=self.repository, version=version, path=path)
        if self.documentation:
            return f"{self.documentation}/_images/{path.rpartition('/')[2]}"
        return None

    def urls(self, version: str) -> dict[str, str]:
        """The project URLs of the metadata: those that are known."""
        known = {
            "Homepage": self.documentation or self.repository,
            "Documentation": self.documentation,
            "Source": self.repository,
            "Changelog": self.link("CHANGELOG.md", version),
            "Issues": self.repository and f"{self.repository}/issues",
            "Engine": ENGINE,
        }
        return {name: url for name, url in known.items() if url}


def packaged(readme: str, release: Release, version: str) -> str:
    """The README for the page of an index; code blocks stay as they are.

    Args:
        readme: The Markdown of README.md.
        release: The project's addresses.
        version: The version that is built: links lead to its files.
    """

    def picture(match: re.Match[str]) -> str:
        url = release.picture(match[2], version)
        return "" if url is None else match[0].replace(f"({match[2]})", f"({url})")

    def link(match: re.Match[str]) -> str:
        url = release.link(match[2], version, match[3] or "")
        return match[1] if url is None else f"[{match[1]}]({url})"

    changes: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
        (_PICTURE_ALONE, picture),
        (_PICTURE, picture),
        (_LINK, link),
    )
    parts = _FENCE.split(readme)
    for number in range(0, len(parts), 2):  # every second part is a code block
        for pattern, change in changes:
            parts[number] = pattern.sub(change, parts[number])
    return "".join(parts)
