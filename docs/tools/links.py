"""Check the links of the built site: `make docs` runs it after Sphinx.

    python docs/tools/links.py docs/_site

Every link and image within the site must lead to a file, and to an id in it. Nothing may be loaded
from another host: the site works without a network. Links to other hosts are counted, not followed.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {
    ("script", "src"),
    ("img", "src"),
    ("link", "href"),
    ("iframe", "src"),
    ("source", "src"),
}
_NOT_LOADED = {"canonical", "next", "prev", "search", "index", "author", "copyright", "alternate"}


class Page(HTMLParser):
    """The ids of a page, and what it links to and loads.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember one element."""
        given = {name: value or "" for name, value in attrs}
        if given.get("id"):
            self.ids.add(given["id"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") in _NOT_LOADED:
            return
        self.loads += [given[name] for kind, name in _LOADED if kind == tag and given.get(name)]


def problems(site: Path) -> tuple[list[str], int]:
    """What is wrong with a site, and how many links leave it."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    found, outside = [], 0
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        found += [f"{where}: loads {url} from another host" for url in page.loads if _leaves(url)]
        for url in [*page.links, *page.loads]:
            if _leaves(url):
                outside += 1
                continue
            parts = urlsplit(url)
            if parts.scheme:  # data:, mailto:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                found.append(f"{where}: {url} leads nowhere")
            elif parts.fragment and unquote(parts.fragment) not in _ids(pages.get(target)):
                found.append(f"{where}: {url} has no such place")
    return found, outside


def _ids(page: Page | None) -> set[str]:
    return set() if page is None else {*page.ids, "top"}


def _leaves(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in {"http", "https"} or bool(parts.netloc)


def main() -> None:
    """Check the site that is named on the command line."""
    site = Path(sys.argv[1])
    found, outside = problems(site)
    pages = len(list(site.rglob("*.html")))
    print(f"{pages} pages, {len(found)} broken links, {outside} links to other hosts")
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
