"""Draw boxes, arrows and line plots as SVG text. Knows nothing of what the pictures show."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import attrs

COLOURS = ("#1f5fa8", "#c2571a", "#2c7a3f", "#8a3f8f", "#777777")
_INK, _LINE, _FILL = "#223", "#556", "#eef3fa"

Point = tuple[float, float]


@attrs.frozen
class Box:
    """A box with lines of text; the first line is bold.

    Args:
        x: Left edge in pixels.
        y: Upper edge in pixels.
        text: The lines.
        width: Width in pixels.
        height: Height in pixels.
        fill: Its colour.
    """

    x: float
    y: float
    text: tuple[str, ...]
    width: float = 150
    height: float = 56
    fill: str = _FILL

    def at(self, side: str, along: float = 0.5) -> Point:
        """A point on a side (``left``, ``right``, ``top``, ``bottom``); along is from 0 to 1."""
        across, down = self.x + along * self.width, self.y + along * self.height
        return {
            "left": (self.x, down),
            "right": (self.x + self.width, down),
            "top": (across, self.y),
            "bottom": (across, self.y + self.height),
        }[side]


class Picture:
    """An SVG picture, made line by line.

    Args:
        width: In pixels.
        height: In pixels.
        title: What it shows, for readers who do not see it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._lines = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">'
            ),
            f"<title>{escape(title)}</title>",
            (
                '<defs><marker id="head" refX="8" refY="4" markerWidth="9" markerHeight="8" '
                f'orient="auto"><path d="M0 0 8 4 0 8Z" fill="{_LINE}"/></marker></defs>'
            ),
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
        ]

    def text(
        self, at: Point, words: str, *, anchor: str = "start", size: int = 13, fill: str = _INK
    ) -> None:
        """Write a line."""
        x, y = at
        self._lines.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="{fill}">'
            f"{escape(words)}</text>"
        )

    def box(self, box: Box) -> Box:
        """Draw a box with its text in the middle."""
        self._lines.append(
            f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" '
            f'rx="6" fill="{box.fill}" stroke="{_LINE}"/>'
        )
        first = box.y + box.height / 2 - 8 * (len(box.text) - 1) + 4
        for place, words in enumerate(box.text):
            weight = ' font-weight="bold"' if place == 0 else ""
            self._lines.append(
                f'<text x="{box.x + box.width / 2:g}" y="{first + 16 * place:g}" fill="{_INK}" '
                f'text-anchor="middle"{weight}>{escape(words)}</text>'
            )
        return box

    def arrow(
        self, *points: Point, words: str = "", at: Point | None = None, dashed: bool = False
    ) -> None:
        """Draw a line through points with a head at its end, and words beside it."""
        path = "L".join(f"{x:g} {y:g}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self._lines.append(
            f'<path d="M{path}" fill="none" stroke="{_LINE}"{dashes} marker-end="url(#head)"/>'
        )
        if words:
            (x, y), (to_x, to_y) = points[0], points[1]
            middle = at or ((x + to_x) / 2, (y + to_y) / 2 - 6)
            self.text(middle, words, anchor="start" if at else "middle", size=12)

    def line(self, points: Sequence[Point], colour: str, *, dashed: bool = False) -> None:
        """Draw a line through points."""
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dashes = ' stroke-dasharray="6 4"' if dashed else ""
        self._lines.append(
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
        )

    def bar(self, at: Point, width: float, height: float, colour: str) -> None:
        """Fill a rectangle."""
        self._lines.append(
            f'<rect x="{at[0]:.1f}" y="{at[1]:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'fill="{colour}"/>'
        )

    def svg(self) -> str:
        """The picture."""
        return "\n".join([*self._lines, "</svg>", ""])


class Plot(Picture):
    """A picture with two axes.

    Args:
        title: What it shows.
        across: Label and range of the horizontal axis.
        down: Label and range of the vertical axis.
        ticks: The marks of the horizontal axis, and of the vertical one.
    """

    def __init__(
        self,
        title: str,
        across: tuple[str, float, float],
        down: tuple[str, float, float],
        ticks: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        width, height = 680, 340
        super().__init__(width, height, title)
        self._across, self._down = across, down
        self._frame = (70.0, 40.0, width - 20.0, height - 52.0)
        left, top, right, bottom = self._frame
        self.text((left, 24), title, size=15)
        for value in ticks[1]:
            _, y = self.at(across[1], value)
            self.line([(left, y), (right, y)], "#e2e6ec")
            self.text((left - 8, y + 4), f"{value:g}", anchor="end", size=12)
        for value in ticks[0]:
            x, _ = self.at(value, down[1])
            self.line([(x, bottom), (x, bottom + 5)], _LINE)
            self.text((x, bottom + 19), f"{value:g}", anchor="middle", size=12)
        self.line([(left, top), (left, bottom), (right, bottom)], _LINE)
        self.text(((left + right) / 2, height - 12), across[0], anchor="middle")
        x, y = 18.0, (top + bottom) / 2
        self._lines.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="middle" fill="{_INK}" '
            f'transform="rotate(-90 {x:g} {y:g})">{escape(down[0])}</text>'
        )

    def at(self, value: float, other: float) -> Point:
        """The place of a pair of values."""
        left, top, right, bottom = self._frame
        (_, first, last), (_, low, high) = self._across, self._down
        return (
            left + (value - first) / (last - first) * (right - left),
            bottom - (min(other, high) - low) / (high - low) * (bottom - top),
        )

    def curve(
        self, values: Sequence[Point], colour: str, name: str, place: int, *, dashed: bool = False
    ) -> None:
        """Draw a line and its name in the legend.

        Args:
            values: Pairs of values.
            colour: Its colour.
            name: Its name.
            place: Its row in the legend, from 0.
            dashed: Whether the line is dashed.
        """
        self.line([self.at(*pair) for pair in values], colour, dashed=dashed)
        left, top, _, _ = self._frame
        y = top + 14 + 18 * place
        left += 14
        self.line([(left, y), (left + 26, y)], colour, dashed=dashed)
        self.text((left + 33, y + 4), name, size=12)
