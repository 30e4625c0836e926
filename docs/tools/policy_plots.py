"""Draw what policies do, from the code: `make pictures`.

    python docs/tools/policy_plots.py [FOLDER]

`backoff.svg`, `budget.svg` and `circuit.svg` show what these parts of a policy do, and
`brownout.svg` what whole policies do to a fleet. A picture holds a digest of what it shows; tests
compare that with the code of the day, so that no picture is older than its code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

import attrs

from iii_resilience import Backoff, Breaker, Budget, PolicyBook
from iii_resilience.cli.simulation import plots
from iii_resilience.cli.simulation.measurement import Row
from iii_resilience.cli.simulation.row_processes import run_rows
from iii_resilience.cli.simulation.row_run import NO_RETRIES, RowSetting, without_retries
from iii_resilience.cli.simulation.scenario_files import load_scenario
from iii_resilience.core.backoff import JITTERS
from iii_resilience.core.guards.breaker import CircuitState, Rejection

FOLDER = Path(__file__).resolve().parents[1] / "pictures"
_DIGEST = re.compile(r"digest ([0-9a-f]+)")

Numbers = dict[str, list[tuple[float, float]]]


def digest(numbers: object) -> str:
    """Of what a picture shows, to six digits."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(inside) for key, inside in value.items()}
        if isinstance(value, (list, tuple)):
            return [rounded(inside) for inside in value]
        return f"{value:.6g}" if isinstance(value, float) else value

    return blake2b(repr(rounded(numbers)).encode(), digest_size=12).hexdigest()


def digest_in(path: Path) -> str | None:
    """What a picture says that it shows, or None."""
    found = _DIGEST.search(path.read_text(encoding="utf-8"))
    return None if found is None else found[1]


# Backoff.

_RETRIES = 8
_LOOKS = {"full": 2, "equal": 3, "decorrelated": 1, "none": 0}
_CLIENTS = 1000
_BIN = 0.02  # seconds


def backoff() -> Numbers:
    """The range of each delay by jitter; and when retries come, of clients that failed at once."""
    ranges: Numbers = {}
    for jitter in JITTERS:
        made, most = Backoff(jitter=jitter), None
        ranges[jitter] = []
        for retry in range(_RETRIES):
            least = made.delay(retry, lambda: 0.0, previous=most)
            most = made.delay(retry, lambda: 1.0, previous=most)
            ranges[jitter].append((least, most))
    for jitter in ("none", "full"):
        made, random = Backoff(jitter=jitter), Random(1)
        bins = [0] * round(1.6 / _BIN)
        for _ in range(_CLIENTS):
            at = 0.0
            for retry in range(3):
                at += made.delay(retry, random.random)
                if at / _BIN < len(bins):
                    bins[int(at / _BIN)] += 1
        ranges[f"arrivals {jitter}"] = [(_BIN * n, count) for n, count in enumerate(bins)]
    return ranges


def draw_backoff(path: Path, numbers: Numbers) -> None:
    """Draw what `backoff` returns."""
    title = "Backoff(base=0.2, factor=2, cap=20): the delays, and what jitter is for"
    with _figure(path, title, numbers, columns=2) as (ranges, arrivals):
        for place, jitter in enumerate(JITTERS):
            look = plots.style(_LOOKS.get(jitter, place))
            for retry, (least, most) in enumerate(numbers[jitter]):
                x = retry + 1 + 0.2 * (place - 1.5)
                label = jitter if retry == 0 else None
                if least == most:
                    ranges.plot([x], [most], "D", color=look["color"], markersize=4, label=label)
                else:
                    ranges.bar(
                        x,
                        most - max(least, 0.02),
                        0.17,
                        bottom=max(least, 0.02),
                        color=look["color"],
                        hatch=("", "//", "..")[place % 3],
                        edgecolor="white",
                        linewidth=0.3,
                        label=label,
                    )
        ranges.set_yscale("log")
        ranges.yaxis.set_major_formatter("{x:g}")
        ranges.set_xlabel("retry")
        ranges.set_ylabel("delay before it, in seconds")
        plots.legend(ranges)
        for place, jitter in ((1, "none"), (2, "full")):
            xs, ys = zip(*numbers[f"arrivals {jitter}"], strict=True)
            arrivals.step(xs, ys, where="post", label=f"jitter {jitter}", **plots.style(place))
        arrivals.set_yscale("log")
        arrivals.yaxis.set_major_formatter("{x:g}")
        arrivals.set_ylim(bottom=0.8)
        arrivals.set_xlabel("seconds after 1000 clients have failed at once")
        arrivals.set_ylabel("retries in 20 ms")
        plots.legend(arrivals)


# Budget.

_RATE = 20  # calls a second
_SECONDS = 60
_RETRIED = 3  # times a call at most
_OUTAGE = (20.0, 35.0)


def budget() -> Numbers:
    """The level of a bucket, and its retries, in an outage and under random failures."""
    found: Numbers = {}
    stories: dict[str, Callable[[float], float]] = {
        "outage": lambda now: 1.0 if _OUTAGE[0] <= now < _OUTAGE[1] else 0.0,
        "20 % random failures": lambda _: 0.2,
    }
    for name, failing in stories.items():
        bucket, random = Budget().bucket_for(), Random(1)
        levels, sent, denied = [], [0] * _SECONDS, [0] * _SECONDS
        for number in range(_RATE * _SECONDS):
            now = number / _RATE
            levels.append((now, bucket.available(now)))
            fails, permits = random.random() < failing(now), 0
            while fails and permits < _RETRIED:
                if not bucket.reserve(now):
                    denied[int(now)] += 1
                    break
                permits += 1
                sent[int(now)] += 1
                fails = random.random() < failing(now)
            if fails:
                bucket.gave_up(now, permits)
            else:
                bucket.succeeded(now, permits)
        found[f"level, {name}"] = levels
        for what, counts in (("sent", sent), ("denied", denied)):
            found[f"{what}, {name}"] = [
                (second + 0.5, count) for second, count in enumerate(counts)
            ]
    return found


def draw_budget(path: Path, numbers: Numbers) -> None:
    """Draw what `budget` returns."""
    title = "Budget(ratio=0.1, burst=10): one process, 20 calls/s, four attempts a call"
    with _figure(path, title, numbers, columns=2) as (levels, retries):
        for place, name in ((2, "outage"), (3, "20 % random failures")):
            xs, ys = zip(*numbers[f"level, {name}"], strict=True)
            levels.plot(xs, ys, label=name, **plots.style(place))
        for place, what in ((2, "sent"), (1, "denied")):
            xs, ys = zip(*numbers[f"{what}, outage"], strict=True)
            retries.plot(xs, ys, label=f"{what} in the outage", **plots.style(place))
        for axes in (levels, retries):
            axes.axvspan(*_OUTAGE, color="#dddddd", linewidth=0, zorder=0)
            axes.set_xlabel("seconds (the outage is shaded)")
            axes.set_xlim(0, _SECONDS)
            plots.legend(axes)
        levels.set_ylabel("permits in the bucket")
        retries.set_ylabel("retries/s")


# Breaker.

_FAILS = (20.0, 55.0)
_WATCHED = 80


def breaker() -> Numbers:
    """What a circuit sends and rejects of 20 calls a second, and the states that it has."""
    changes: Numbers = {state.value: [] for state in CircuitState}
    state_since = 0.0

    def changed(before: CircuitState, _: CircuitState, now: float) -> None:
        nonlocal state_since
        changes[before.value].append((state_since, now))
        state_since = now

    circuit = Breaker(min_calls=20, window=10.0, open=10.0).circuit_for("f", changed)
    sent, rejected = [0] * _WATCHED, [0] * _WATCHED
    for number in range(_RATE * _WATCHED):
        now = number / _RATE
        answer = circuit.admit(now)
        if isinstance(answer, Rejection):
            rejected[int(now)] += 1
            continue
        sent[int(now)] += 1
        if _FAILS[0] <= now < _FAILS[1]:
            circuit.failed(answer, now, 0.01)
        else:
            circuit.succeeded(answer, now, 0.01)
    changes[circuit.state.value].append((state_since, float(_WATCHED)))
    for what, counts in (("sent", sent), ("rejected", rejected)):
        changes[what] = [(second + 0.5, count) for second, count in enumerate(counts)]
    return changes


def draw_breaker(path: Path, numbers: Numbers) -> None:
    """Draw what `breaker` returns."""
    title = "Breaker(failure_rate=0.5, window=10, open=10, probes=3): 20 calls/s"
    with _figure(path, title, numbers, height=2.9) as (axes,):
        for place, what in ((2, "sent"), (1, "rejected")):
            xs, ys = zip(*numbers[what], strict=True)
            axes.step(xs, ys, where="mid", label=what, **plots.style(place))
        axes.axvspan(*_FAILS, color="#dddddd", linewidth=0, zorder=0)
        for state, colour, hatch in (
            ("closed", "#0072B2", ""),
            ("open", "#D55E00", "////"),
            ("half_open", "#000000", ""),
        ):
            for start, end in numbers[state]:
                width = max(end - start, 0.3)
                axes.broken_barh(
                    [(start, width)],
                    (-4, 2),
                    facecolor="white" if hatch else colour,
                    edgecolor=colour,
                    hatch=hatch,
                    linewidth=0.6,
                )
        axes.text(
            1, -6.6, "circuit: closed (filled), open (hatched), half-open (black)", fontsize=8
        )
        axes.set_ylim(-7.5, 23)
        axes.set_yticks([0, 10, 20])
        axes.set_xlim(0, _WATCHED)
        axes.set_xlabel("seconds (every call fails while it is shaded)")
        axes.set_ylabel("calls/s")
        plots.legend(axes)


# A fleet.


def brownout() -> list[Row]:
    """No retries, plain tenacity and the default policy, 40 processes."""
    policy_set = PolicyBook().policy_set
    settings = [
        RowSetting(NO_RETRIES, without_retries(policy_set), "default"),
        RowSetting("plain tenacity, 4 attempts", policy_set, "default", tenacity=True),
        RowSetting("iii-resilience, default policy", policy_set, "default"),
    ]
    return run_rows(settings, load_scenario("brownout"), 1)


def draw_brownout(path: Path, rows: list[Row]) -> None:
    """Draw what `brownout` returns."""
    scenario = load_scenario("brownout")
    title = "40 processes, 120 calls/s; the service falls to a fifth of its speed for 20 s"
    with _figure(path, title, [attrs.asdict(row) for row in rows], columns=2) as (sent, answered):
        plots.over_time(sent, rows, scenario, "attempts")
        plots.over_time(answered, rows, scenario, "answers")
        for axes in (sent, answered):
            axes.set_xlabel("seconds")
        lines, names = sent.get_legend_handles_labels()
        sent.get_figure().legend(lines, names, loc="outside lower center", ncols=3, frameon=False)


def _figure(path: Path, title: str, numbers: object, **more: Any) -> Any:
    return plots.figure(path, title, note=f"digest {digest(numbers)}", **more)


PICTURES: dict[str, tuple[Callable[[], Any], Callable[[Path, Any], None]]] = {
    "backoff.svg": (backoff, draw_backoff),
    "budget.svg": (budget, draw_budget),
    "circuit.svg": (breaker, draw_breaker),
    "brownout.svg": (brownout, draw_brownout),
}

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for name, (of, draw) in PICTURES.items():
        draw(folder / name, of())
        print(f"drew {folder / name}")
