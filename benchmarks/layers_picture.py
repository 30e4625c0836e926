"""Draw the layers as SVG, from the table that tests/test_layers.py enforces: `make pictures`.

    PYTHONPATH=tests python benchmarks/layers_picture.py [FILE]

Each box lists what its package may import. An arrow stands for an import that no other arrow
implies. The output depends on the table alone. A test compares docs/layers.svg with it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from pathlib import Path

from test_layers import MAY_IMPORT

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "layers.svg"

# The column of each box (1 is the centre) and what its package is for.
BOXES = {
    "cli": (1, "commands for operators, and the demo"),
    "": (1, "public names, loaded on first use"),
    "client": (1, "calls through an engine, made safe to retry"),
    "testing": (2, "loopback engine and test clock"),
    "retry": (1, "carries out decisions around a callable"),
    "handling": (0, "handlers, registration, shutdown"),
    "config": (1, "policies from files and the engine"),
    "sdk": (1, "the only code that touches an SDK client"),
    "stores": (0, "idempotency keys, parked messages"),
    "telemetry": (1, "metrics, spans, log records"),
    "core": (1, "codes, classification, decisions, guards"),
}
_WIDTH, _HEIGHT, _ACROSS, _DOWN, _MARGIN = 290, 62, 320, 96, 16
_FILL = 'fill="#eef3fa" stroke="#456"'
_FIT = 6  # names of packages on a line of a box


def reached(table: Mapping[str, set[str]], package: str) -> set[str]:
    """Every package that a package may import, directly or through others."""
    found = set(table[package])
    for other in table[package]:
        found |= reached(table, other)
    return found


def arrows(table: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """The imports that no other import implies, as (package, imported)."""
    for package, others in table.items():
        implied = {far for other in others for far in reached(table, other)}
        yield from ((package, other) for other in sorted(others - implied))


def levels(table: Mapping[str, set[str]]) -> dict[str, int]:
    """The number of layers below each package."""

    @cache
    def level(package: str) -> int:
        return 1 + max((level(other) for other in table[package]), default=-1)

    return {package: level(package) for package in table}


def svg(table: Mapping[str, set[str]] = MAY_IMPORT) -> str:
    """The picture.

    Raises:
        ValueError: A package has no box, or a box no package.
    """
    if set(table) != set(BOXES):
        different = ", ".join(sorted(set(table) ^ set(BOXES)))
        raise ValueError(f"BOXES and MAY_IMPORT differ in {different}: give each package one box")
    level = levels(table)
    top = max(level.values())
    width = 2 * _MARGIN + 2 * _ACROSS + _WIDTH
    height = 2 * _MARGIN + top * _DOWN + _HEIGHT
    corner = {
        package: (_MARGIN + column * _ACROSS, _MARGIN + (top - level[package]) * _DOWN)
        for package, (column, _) in BOXES.items()
    }
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"',
        f' viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        "<title>The layers of iii_resilience: imports point down</title>",
        '<defs><marker id="head" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">',
        '<path d="M0 0 8 4 0 8Z" fill="#555"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for package, other in arrows(table):
        lines.append(
            f'<path d="{_route(corner[package], corner[other], BOXES[package][0])}" fill="none" '
            'stroke="#555" marker-end="url(#head)"/>'
        )
    for package, (_, purpose) in BOXES.items():
        x, y = corner[package]
        name = f"{package}/" if package else "iii_resilience"
        lines += [
            f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" {_FILL}/>',
            f'<text x="{x + 10}" y="{y + 19}" font-size="14" font-weight="bold">{name}</text>',
            f'<text x="{x + 10}" y="{y + 36}">{escape(purpose)}</text>',
            f'<text x="{x + 10}" y="{y + 53}" fill="#456">{_imports(table[package])}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _imports(others: set[str]) -> str:
    if len(others) > _FIT:
        left_out = sorted(other for other in BOXES if other and other not in others)
        return f"imports all but {', '.join(left_out)}"
    return f"imports {', '.join(sorted(others))}" if others else "imports none of the others"


def _route(start: tuple[int, int], end: tuple[int, int], column: int) -> str:
    """From box to box: sideways first when leaving the centre, down first towards it."""
    (x, y), (to_x, to_y) = start, end
    half = _WIDTH // 2
    if x == to_x:
        return f"M{x + half} {y + _HEIGHT}V{to_y}"
    if column == 1:
        return f"M{x if to_x < x else x + _WIDTH} {y + _HEIGHT // 2}H{to_x + half}V{to_y}"
    return f"M{x + half} {y + _HEIGHT}V{to_y + _HEIGHT // 2}H{to_x if x < to_x else to_x + _WIDTH}"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    target.write_text(svg(), encoding="utf-8")
