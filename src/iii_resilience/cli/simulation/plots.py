"""Pictures of a simulation as SVG or PNG; needs the extra ``plots``.

A row has the same colour and line wherever it stands, by its role, so that pictures can be
compared. Lines differ in style and weight too, for paper without colours. Knows nothing of how rows
are run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iii_resilience.cli.simulation.measurement import Row
from iii_resilience.cli.simulation.scenario import Scenario

SUFFIXES = (".svg", ".png")

# Colours of Okabe and Ito, which people who see fewer colours can tell apart; by place in the run:
# no retries, without a budget, the policy, and what it is compared with.
_STYLES = (
    {"color": "#555555", "linestyle": (0, (1, 1)), "linewidth": 1.6},
    {"color": "#D55E00", "linestyle": (0, (5, 2)), "linewidth": 1.4},
    {"color": "#0072B2", "linestyle": "-", "linewidth": 2.2},
    {"color": "#009E73", "linestyle": (0, (5, 1, 1, 1)), "linewidth": 1.6},
    {"color": "#CC79A7", "linestyle": (0, (7, 1, 1, 1, 1, 1)), "linewidth": 1.4},
    {"color": "#000000", "linestyle": (0, (2, 3)), "linewidth": 1.2},
)
_SHADE = "#dddddd"
_SHORTEST = 0.001  # seconds of delay at the left edge


def style(place: int) -> dict[str, Any]:
    """How the line of a row is drawn.

    Args:
        place: 0 for no retries, 1 for retries without a budget, 2 for the policy, and then those
            that it is compared with.
    """
    return _STYLES[place] if place < len(_STYLES) else {**_STYLES[-1], "linewidth": 0.8}


def available() -> bool:
    """Whether matplotlib is installed."""
    from importlib.util import find_spec  # noqa: PLC0415 - for this question alone

    return find_spec("matplotlib") is not None


def draw(rows: Sequence[Row], scenario: Scenario, path: Path, title: str) -> None:
    """Draw attempts and answers a second over time, and the delays before retries.

    Args:
        rows: The rows, in their places.
        scenario: What happened.
        path: The file; its suffix is one of `SUFFIXES`.
        title: What stands above.

    Raises:
        OSError: The file cannot be written.
    """
    with figure(path, title, rows=3, height=8.5) as (sent, answered, delays):
        over_time(sent, rows, scenario, "attempts")
        over_time(answered, rows, scenario, "answers")
        answered.set_xlabel("seconds")
        for place, row in enumerate(rows):
            _draw_delays(delays, row, place)
        delays.set_xscale("log")
        delays.xaxis.set_major_formatter("{x:g}")
        delays.set_xlim(left=_SHORTEST)
        delays.set_xlabel("delay before a retry, in seconds")
        delays.set_ylabel("retries after at most\nthis delay, in %")
        delays.set_ylim(0, 103)
        legend(sent)


def over_time(axes: Any, rows: Sequence[Row], scenario: Scenario, series: str) -> None:
    """Draw one series of each row, and shade the trouble.

    Args:
        axes: Where.
        rows: The rows, in their places.
        scenario: What happened.
        series: ``attempts`` or ``answers``.
    """
    for place, row in enumerate(rows):
        curves, counts = row.curves, getattr(row.curves.series, series)
        points = [
            (curves.first + second + 0.5, count)
            for second, count in enumerate(counts)
            if 0 <= curves.first + second + 0.5 < scenario.duration
        ]
        axes.plot(*zip(*points, strict=True), label=row.name, **style(place))
    shade(axes, scenario)
    axes.set_ylabel({"attempts": "attempts/s", "answers": "calls answered/s"}[series])
    axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])  # a line at 0 is to be seen
    axes.set_xlim(0, scenario.duration)


def legend(axes: Any) -> None:
    """The names of the lines, above them."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False)


def _draw_delays(axes: Any, row: Row, place: int) -> None:
    total, seen, xs, ys = sum(count for _, count in row.curves.delays), 0, [], []
    for delay, count in row.curves.delays:
        seen += count
        xs.append(delay)
        ys.append(100 * seen / total)
    if xs:
        axes.step(xs, ys, where="post", label=f"{row.name} ({total} retries)", **style(place))
        axes.legend(loc="upper left", frameon=True)


def shade(axes: Any, scenario: Scenario) -> None:
    """Shade when there is trouble."""
    for incident in scenario.timetable:
        axes.axvspan(incident.start, incident.end, color=_SHADE, linewidth=0, zorder=0)
        middle = (incident.start + incident.end) / 2
        place = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "top"}
        axes.text(middle, 0.98, "trouble", color="#555555", fontsize=8, **place)


@contextmanager
def figure(
    path: Path, title: str, *, rows: int = 1, columns: int = 1, height: float = 3.2, note: str = ""
) -> Iterator[list[Any]]:
    """A figure that is written when the context ends; the same file for the same content.

    Args:
        path: The file.
        title: What stands above.
        rows: Axes above one another.
        columns: Axes beside one another.
        height: Inches.
        note: What the file says of itself, for programs.

    Yields:
        The axes.
    """
    import matplotlib as mpl  # noqa: PLC0415 - an extra
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    settings: dict[Any, Any] = {
        "svg.hashsalt": "iii-resilience",
        "svg.fonttype": "path",
        "font.family": ["DejaVu Sans"],
        "font.size": 9.0,
        "axes.grid": True,
        "grid.color": "#eeeeee",
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(settings)
        made = Figure(figsize=(8.0, height), layout="constrained", facecolor="white")
        FigureCanvasAgg(made)
        axes = made.subplots(rows, columns, squeeze=False)
        made.suptitle(title, fontsize=10.5)
        yield [one for row in axes for one in row]
        about = {"Date": None, "Description": note} if path.suffix == ".svg" else {}
        made.savefig(path, dpi=144, metadata=about)
