"""The documents: the files they name exist, and what is generated for them is current."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import document_pictures
import layers_picture
import links
import policy_plots
import pytest
import reference_pages
from support.paths import DOCS, PACKAGE, PAGES, ROOT
from test_layers import MAY_IMPORT

NAMING = [page for page in PAGES if page != ROOT / "CHANGELOG.md"]  # it names what there was
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`((?:[\w.-]+/)+(?:[\w.-]+\.(?:py|json|csv|md|yaml|svg|toml|txt))?)`")
LINKED = re.compile(r"\]\(([^)#:]+)(?:#[\w-]+)?\)")
BASES = (ROOT, PACKAGE, ROOT / "tests", DOCS)


def missing_files(text: str) -> list[str]:
    """The files and folders a text names in backquotes that are nowhere."""
    names = sorted(set(NAMED.findall(text)))
    return [name for name in names if not any((base / name).exists() for base in BASES)]


@pytest.mark.parametrize("page", NAMING, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    if page.name == "engine-notes.md":
        pytest.skip("it cites the engine's sources")
    assert missing_files(page.read_text(encoding="utf-8")) == []


def test_missing_file_is_noticed() -> None:
    assert missing_files("see `core/nowhere.py` and `core/decide.py`") == ["core/nowhere.py"]


@pytest.mark.parametrize("page", NAMING, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = LINKED.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_picture_of_layers_is_current() -> None:
    written = layers_picture.PICTURE.read_text(encoding="utf-8")
    assert written == layers_picture.svg(), "docs/layers.svg is stale: run 'make pictures'"


def test_picture_has_each_arrow_of_table() -> None:
    """A package reaches over the arrows exactly what it may import, directly or not."""
    table = MAY_IMPORT
    drawn: dict[str, set[str]] = {package: set() for package in table}
    for package, other in layers_picture.arrows(table):
        drawn[package].add(other)
    for package in table:
        assert layers_picture.reached(drawn, package) == layers_picture.reached(table, package)


@pytest.mark.parametrize("name", document_pictures.DRAWN)
def test_pictures_are_current(name: str) -> None:
    written = (document_pictures.PICTURES / name).read_text(encoding="utf-8")
    assert written == document_pictures.DRAWN[name](), f"{name} is stale: run 'make pictures'"


def test_each_picture_is_drawn_and_used() -> None:
    there = {path.name for path in document_pictures.PICTURES.glob("*.svg")}
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert there == {*document_pictures.DRAWN, *policy_plots.PICTURES}
    assert {name for name in there if f"pictures/{name}" not in pages} == set()


def test_package_without_box_is_refused() -> None:
    with pytest.raises(ValueError, match="differ in new: give each package one box"):
        layers_picture.svg({**MAY_IMPORT, "new": {"core"}})


def test_reference_pages_are_current() -> None:
    """In a process of its own: what other tests register is not part of the reference."""
    ran = subprocess.run(
        [sys.executable, reference_pages.__file__, "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("module", reference_pages.API)
def test_every_public_name_is_in_api_reference(module: str) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("reference/api-*.md"))
    listed = set(re.findall(r"^\.\. auto\w+:: [\w.]+\.(\w+)$", text, re.MULTILINE))
    assert set(import_module(module).__all__) - {"__version__"} <= listed


def test_each_page_is_on_site() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = {line.strip() for line in index.splitlines()}
    names = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")}
    assert {name for name in names if not name.startswith(("_site", "index"))} <= listed


def test_broken_links_of_site_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        "<a href='b.html#there'></a><a href='b.html#gone'></a><a href='c.html'></a>"
        "<script src='https://cdn.example/x.js'></script><a href='https://iii.dev'></a>"
    )
    (tmp_path / "b.html").write_text("<p id='there'></p>")
    found, outside = links.problems(tmp_path)
    assert sorted(found) == [
        "a.html: b.html#gone has no such place",
        "a.html: c.html leads nowhere",
        "a.html: loads https://cdn.example/x.js from another host",
    ]
    assert outside == 2


def test_list_of_targets_is_that_of_make_help() -> None:
    ran = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    listed = re.findall(r"^```text\n(make demo .*?)^```$", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    assert listed == [ran.stdout], "CONTRIBUTING.md is stale: paste what 'make help' prints"


def test_every_target_is_listed() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (phony,) = re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    assert sorted(targets) == sorted(phony.split())
    assert sorted(re.findall(r"^make (\S+)", CONTRIBUTING, re.MULTILINE)) == sorted(targets)
