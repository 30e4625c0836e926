"""What a benchmark found: tables with bounds that are met or missed, and how RESULTS.md gets them.

Knows nothing of how anything was measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import attrs

BEGIN = "<!-- made by `make bench` from here on -->"
END = "<!-- made by `make bench` up to here -->"


@attrs.frozen
class Bound:
    """A figure that has to hold.

    Attributes:
        what: What is compared.
        measured: The figure.
        limit: What it may be at most.
        unit: What it counts; empty for a ratio.
    """

    what: str
    measured: float
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it holds."""
        return self.measured <= self.limit

    def __str__(self) -> str:
        verdict = "met" if self.met else "**missed**"
        unit = f" {self.unit}" if self.unit else ""
        return f"{verdict}: {self.what}: {self.measured:.3g}{unit} (at most {self.limit:g}{unit})"


@attrs.frozen
class Section:
    """One table with what belongs to it.

    Attributes:
        title: What it is about.
        text: What was done, in full sentences.
        columns: The headings; the first one names the rows.
        rows: The cells.
        bounds: What has to hold.
    """

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    bounds: Sequence[Bound] = ()

    def __str__(self) -> str:
        lines = [f"### {self.title}", "", self.text, ""]
        lines.append(f"| {' | '.join(self.columns)} |")
        lines.append(f"| {' | '.join('---' for _ in self.columns)} |")
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        if self.bounds:
            lines += ["", *(f"- {bound}" for bound in self.bounds)]
        return "\n".join(lines)


def figure(value: float) -> str:
    """A figure with three digits that count."""
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"


def write(path: Path, text: str) -> None:
    """Put what was measured between the marks of a file; the rest of it stays.

    Args:
        path: The file.
        text: What was measured.

    Raises:
        ValueError: The file does not have both marks.
    """
    before, _, after = _around(path)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def write_sections(path: Path, sections: Sequence[Section]) -> None:
    """Put some sections in place of those with their titles; new ones after all others.

    Args:
        path: The file, written by `write` before.
        sections: What was measured.

    Raises:
        ValueError: The file does not have both marks.
    """
    head, *parts = re.split(r"^(?=### )", _around(path)[1].strip(), flags=re.MULTILINE)
    kept = {part.partition("\n")[0]: _VERDICT.sub("", part).strip() for part in parts}
    kept |= {f"### {section.title}": str(section) for section in sections}
    text = "\n\n".join(kept.values())
    met, missed = text.count("\n- met: "), text.count("\n- **missed**: ")
    write(path, f"{head.strip()}\n\n{text}\n\n{verdict(met, missed)}")


def verdict(met: int, missed: int) -> str:
    """The last line of what was measured."""
    return f"{met} of {met + missed} bounds are met."


_VERDICT = re.compile(r"^\d+ of \d+ bounds are met\.$", re.MULTILINE)


def _around(path: Path) -> tuple[str, str, str]:
    """What stands before, between and after the marks."""
    before, found, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    between, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"{path.name} has no lines {BEGIN!r} and {END!r}: put them where to write")
    return before, between, after


def write_part(path: Path, name: str, text: str) -> None:
    """Put one part of what was measured between its own marks of a file.

    Args:
        path: The file.
        name: The part.
        text: What was measured.

    Raises:
        ValueError: The file does not have both marks.
    """
    begin, end = f"<!-- {name}, made by `make bench-fleet` -->", f"<!-- end of {name} -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{path.name} has no lines {begin!r} and {end!r}: put them where to write")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
