"""Curves of a simulation as characters, for a terminal without pictures.

Knows nothing of terminals.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from iii_resilience.cli.simulation.measurement import Row
from iii_resilience.cli.simulation.scenario import Scenario

_BARS = " ▁▂▃▄▅▆▇█"


def chart(rows: Sequence[Row], scenario: Scenario, width: int = 100) -> list[str]:
    """Lines of attempts and answers a second over time, one for each row.

    Args:
        rows: The rows.
        scenario: What happened.
        width: Characters of a line.
    """
    names = max(len(row.name) for row in rows)
    columns = max(10, width - names - 10)
    lines = []
    for series in ("attempts", "answers"):
        curves = [_columns(getattr(row.curves.series, series), columns) for row in rows]
        top = max((value for curve in curves for value in curve), default=0.0)
        lines.append(f"{series}/s, full height {top:.0f}/s")
        for row, curve in zip(rows, curves, strict=True):
            lines.append(f"{row.name:>{names}} {''.join(_bar(value, top) for value in curve)}")
    first = rows[0].curves.first
    seconds = len(rows[0].curves.series.calls)
    edges = [first + place * seconds / columns for place in range(columns + 1)]
    marks = [
        "x" if any(one.start < right and left < one.end for one in scenario.timetable) else "-"
        for left, right in pairwise(edges)
    ]
    lines.append(f"{'trouble':>{names}} {''.join(marks)}")
    left, right = f"{max(0.0, first):.0f} s", f"{first + seconds:.0f} s"
    lines.append(f"{'':>{names}} {left}{right:>{columns - len(left)}}")
    return lines


def _columns(counts: Sequence[int], columns: int) -> list[float]:
    """The mean of the seconds that each column stands for."""
    found = []
    for place in range(columns):
        first = place * len(counts) // columns
        last = max(first + 1, (place + 1) * len(counts) // columns)
        found.append(sum(counts[first:last]) / (last - first))
    return found


def _bar(value: float, top: float) -> str:
    if value <= 0 or top <= 0:
        return _BARS[0]
    return _BARS[max(1, min(8, round(8 * value / top)))]
