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
_SHADE = "#d9d9d9"


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
    with figure(path, title, rows=3, height=8.0) as (sent, answered, delays):
        for place, row in enumerate(rows):
            curves = row.curves
            seconds = [curves.first + second + 0.5 for second in range(len(curves.series.calls))]
            last = sum(at < scenario.duration for at in seconds)
            first = sum(at < 0 for at in seconds)
            for axes, counts in (
                (sent, curves.series.attempts),
                (answered, curves.series.answers),
            ):
                axes.plot(seconds[first:last], counts[first:last], label=row.name, **style(place))
            _draw_delays(delays, row, place)
        for axes, what in ((sent, "attempts/s"), (answered, "calls answered/s")):
            shade(axes, scenario)
            axes.set_ylabel(what)
            axes.set_ylim(bottom=0)
            axes.set_xlim(0, scenario.duration)
        answered.set_xlabel("seconds")
        delays.set_xscale("log")
        delays.set_xlabel("delay before a retry, in seconds")
        delays.set_ylabel("retries after at most\nthis delay, in %")
        delays.set_ylim(0, 100)
        sent.legend(loc="upper right", frameon=True)


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

    settings = {
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
