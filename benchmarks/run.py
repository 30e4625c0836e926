"""Everything that is measured side by side, in one run: `make bench` and `make bench-quick`.

    python benchmarks/run.py [--quick] [--write FILE] [NAME ...]

Prints every table with its bounds; with ``--write`` they are put between the marks of the file too.
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


def trigger(effort: Effort) -> Iterator[Section]:
    """`worker.trigger` against the bare SDK: what `bench_trigger` measures and prints."""
    calls = max(50, int(3000 * effort.scale))
    ran = subprocess.run(
        [sys.executable, str(HERE / "bench_trigger.py"), str(calls)],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        print(f"bench_trigger was left out: {ran.stderr.strip().splitlines()[-1:]}")
        return
    for block in ran.stdout.strip().split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        heading, _, *rows = ([c.strip() for c in line[1:-1].split("|")] for line in lines)
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
    ran = subprocess.run(
        [sys.executable, str(HERE / "bench_at_once.py"), str(rounds)],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        print(f"bench_at_once was left out: {ran.stderr.strip().splitlines()[-1:]}")
        return
    heading, _, *rows = (
        [cell.strip() for cell in line[1:-1].split("|")] for line in ran.stdout.splitlines()
    )
    bounds = [Bound(name, float(ratio), 1.05) for name, _, _, ratio, _ in rows]
    text = (
        "Through a LoopbackEngine in a process of its own (with `III_URL` the engine there): so "
        f"many calls are under way all the time, {rounds} rounds of both in turn, the median of "
        "the ratios within a round."
    )
    yield Section("Calls through the engine at once", text, heading, rows, bounds)


PARTS: dict[str, Callable[[Effort], Iterator[Section]]] = {
    "overhead": bench_overhead.sections,
    "breaker": bench_breaker.sections,
    "shapes": bench_shapes.sections,
    "scale": bench_scale.sections,
    "import": bench_import.sections,
    "trigger": trigger,
    "at_once": at_once,
}


def machine() -> str:
    """What it was measured on, and with which versions."""
    versions = ", ".join(f"{name} {version}" for name, version in peers.versions().items())
    left_out = [name for name in (*peers.PEERS, *peers.BREAKERS) if name not in peers.versions()]
    absent = f" Not installed, and left out: {', '.join(left_out)}." if left_out else ""
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.python_implementation()} "
        f"{platform.python_version()}, {time.strftime('%Y-%m-%d')}, a load of "
        f"{os.getloadavg()[0]:.1f} when it began. {versions}.{absent}"
    )


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
    said = [machine()]
    print(said[0], end="\n\n", flush=True)
    found: list[Section] = []
    for name in given.names or PARTS:
        for section in PARTS[name](effort):
            found.append(section)
            said.append(str(section))
            print(section, end="\n\n", flush=True)
    bounds = [bound for section in found for bound in section.bounds]
    missed = sum(not bound.met for bound in bounds)
    said.append(f"{len(bounds) - missed} of {len(bounds)} bounds are met.")
    print(said[-1])
    if given.write is not None:
        table.write(given.write, "\n\n".join(said))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
