"""Everything that is measured side by side, in one run: `make bench` and `make bench-quick`.

    python benchmarks/run.py [--quick] [--write FILE] [NAME ...]

Prints every table with its bounds; with ``--write`` they are put between the marks of the file too,
those of the parts that are named in place of their older ones.
A bound that is missed does not fail the run: it is said where it stands.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import bench_at_once
import bench_breaker
import bench_import
import bench_overhead
import bench_scale
import bench_shapes
import peers
import table
from measure import FULL, QUICK, Effort
from table import Bound, Section

HERE = Path(__file__).resolve().parent
_TRIGGER_MOST = {"`trigger`, 200 bytes": 1.03, "`trigger_async`, 200 bytes": 1.1}


def _printed(name: str, *arguments: object) -> list[list[list[str]]]:
    """The tables that a benchmark with a process of its own prints; none where it cannot run."""
    ran = subprocess.run(
        [sys.executable, str(HERE / f"{name}.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parent / "tests")},
    )
    if ran.returncode:
        print(f"{name} was left out: {ran.stderr.strip().splitlines()[-1:]}")
        return []
    blocks = (block.splitlines() for block in ran.stdout.strip().split("\n\n"))
    tables = ([line for line in block if line.startswith("|")] for block in blocks)
    cells = ([[c.strip() for c in line[1:-1].split("|")] for line in one] for one in tables)
    return [[heading, *rows] for heading, _, *rows in cells]


def trigger(effort: Effort) -> Iterator[Section]:
    """`worker.trigger` against the bare SDK: what `bench_trigger` measures and prints."""
    calls = max(50, int(3000 * effort.scale))
    for heading, *rows in _printed("bench_trigger", calls):
        payloads = heading[0] == "payload"
        title = "Checking a payload" if payloads else "A call through the engine"
        text = (
            "`check_payload` against one more `json.dumps` of the same payload."
            if payloads
            else f"Through a LoopbackEngine in a process of its own, {calls} calls each, in turn."
        )
        most = {name: 1.3 for name, *_ in rows} if payloads else _TRIGGER_MOST
        ratio = -1 if payloads else -2  # a call's last column counts lost answers
        bounds = [Bound(name, float(cells[ratio]), most[name]) for name, *cells in rows]
        yield Section(title, text, heading, rows, bounds)


def at_once(effort: Effort) -> Iterator[Section]:
    """Many calls at once through both: what `bench_at_once` measures and prints."""
    rounds = bench_at_once.ROUNDS if effort.scale >= 1 else 1
    for heading, *rows in _printed("bench_at_once", rounds):
        bounds = [Bound(name, float(ratio), 1.05) for name, _, _, ratio, _ in rows]
        text = (
            "Through a LoopbackEngine in a process of its own (with `III_URL` the engine there): "
            f"so many calls are under way all the time, {rounds} rounds of both in turn, the "
            "median of the ratios within a round."
        )
        yield Section("Calls through the engine at once", text, heading, rows, bounds)


def stores(effort: Effort) -> Iterator[Section]:
    """Keys on each store beside a transaction without one: what `bench_stores` prints."""
    rounds = max(1, int(40 * effort.scale))
    for heading, *rows in _printed("bench_stores", rounds):
        text = (
            "Operations a second of one thread: a key that is claimed and finished, whose effects "
            "go elsewhere; a call of a handler that writes one row in the store's `transaction`; "
            "and the same row written and committed without a store. An outcome, and a commit, is "
            "on the disk before it is answered (Redis: `appendfsync always`). Servers of their "
            f"own on this machine, over a socket; {rounds} rounds of all in turn, the median of "
            "the ratios within a round."
        )
        yield Section("Keys on each store", text, heading, rows)


PARTS: dict[str, Callable[[Effort], Iterator[Section]]] = {
    "overhead": bench_overhead.sections,
    "breaker": bench_breaker.sections,
    "shapes": bench_shapes.sections,
    "scale": bench_scale.sections,
    "import": bench_import.sections,
    "trigger": trigger,
    "at_once": at_once,
    "stores": stores,
}


def machine() -> str:
    """What it is measured on, and when."""
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.python_implementation()} "
        f"{platform.python_version()}, {time.strftime('%Y-%m-%d')}, a load of "
        f"{os.getloadavg()[0]:.1f} when it began."
    )


def versions() -> str:
    """Which peers are measured."""
    found = ", ".join(f"{name} {version}" for name, version in peers.versions().items())
    left_out = [name for name in (*peers.PEERS, *peers.BREAKERS) if name not in peers.versions()]
    absent = f" Not installed, and left out: {', '.join(left_out)}." if left_out else ""
    return f"{found}.{absent}"


def main(arguments: list[str]) -> int:
    """Measure, print, and write if that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="reduced, in less than a minute")
    parser.add_argument("--write", type=Path, metavar="FILE", help="where the marks are")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in PARTS]
    if unknown:
        parser.error(f"no part is named {', '.join(unknown)} (there are: {', '.join(PARTS)})")
    effort = QUICK if given.quick else FULL
    where = machine()
    said = [f"{where} {versions()}"]
    print(said[0], end="\n\n", flush=True)
    found: list[Section] = []
    for name in given.names or PARTS:
        for section in PARTS[name](effort):
            found.append(section)
            said.append(str(section))
            print(section, end="\n\n", flush=True)
    bounds = [bound for section in found for bound in section.bounds]
    missed = sum(not bound.met for bound in bounds)
    said.append(table.verdict(len(bounds) - missed, missed))
    print(said[-1])
    if given.write is not None and given.names:
        table.write_sections(
            given.write,
            [attrs.evolve(one, text=f"{one.text} Measured by itself: {where}") for one in found],
        )
    elif given.write is not None:
        table.write(given.write, "\n\n".join(said))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
