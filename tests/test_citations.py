"""Citations: comments, texts and docs cite only what a clone of the repository has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTES = "docs/engine-notes.md"
PLACES = ("src", "tests", "benchmarks", "docs", "policies", "README.md", "CHANGELOG.md", "Makefile")
KINDS = {".py", ".md", ".json", ".jsonl", ".csv", ".yaml", ".yml", ".toml", ".txt", ""}

# Documents outside the repository, in the ways in which they were cited.
OUTSIDE = re.compile(
    r"engine-observed|queue-observed|iii-errors|sdk[- ]matrix|\bshared/"
    r"|\bpeers(\.md)?, section|\bseed 0|\b(the|a|of|all|these|five|documented) seeds?\b"
    r"|\bseeds?' |\bseed's\b|\bseed-|# Seed\b",
    re.IGNORECASE,
)
ALLOWED = ("hypothesis-seed",)  # names of options
CITED = re.compile(re.escape(NOTES) + r",\s+(\d+(?:(?:,| and| to)\s+\d+)*)")


def texts() -> Iterator[tuple[str, str]]:
    """The files with their content, comment marks and line breaks made one space."""
    for place in PLACES:
        top = ROOT / place
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and path.suffix in KINDS and path != Path(__file__).resolve():
                text = path.read_text(encoding="utf-8")
                yield str(path.relative_to(ROOT)), re.sub(r"\n\s*(# )?", " ", text)


TEXTS = dict(texts())
SECTIONS = set(
    re.findall(r"^## (\d+)\. ", (ROOT / NOTES).read_text(encoding="utf-8"), re.MULTILINE)
)


def cited_outside(text: str) -> list[str]:
    """The places of a text, with the words around each."""
    for allowed in ALLOWED:
        text = text.replace(allowed, "")
    return [text[max(0, hit.start() - 40) : hit.end() + 40] for hit in OUTSIDE.finditer(text)]


def test_no_document_outside_is_cited() -> None:
    found = {name: cited_outside(text) for name, text in TEXTS.items()}
    assert {name: places for name, places in found.items() if places} == {}


def test_every_cited_section_exists() -> None:
    cited = [
        (name, number)
        for name, text in TEXTS.items()
        for hit in CITED.finditer(text)
        for number in re.findall(r"\d+", hit[1])
    ]
    assert len(cited) > 50  # else the pattern has stopped to fit
    assert [(name, number) for name, number in cited if number not in SECTIONS] == []


def test_sections_are_numbered_in_order() -> None:
    headings = re.findall(r"^## (.*)", (ROOT / NOTES).read_text(encoding="utf-8"), re.MULTILINE)
    assert [heading.split(".")[0] for heading in headings] == [
        str(number) for number in range(1, len(headings) + 1)
    ]
