"""What a mutation run found, module by module; fails below the shares that must be killed.

One share is of all mutants, another of those of each module outside of the core: among the
thousands of the core's, a module whose tests see nothing would not show.

Reads what `make mutate` left under ``mutants/``. A mutant that made the tests hang is killed by
their time limit. One that no test runs, or that has not been tried, counts as alive.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from mutmut.stats import status_by_exit_code

LEAST = 90.0
LEAST_OUTSIDE = 90.0
CORE = ("core/", "retry/")
ROOT = Path("mutants/src/iii_resilience")
KILLED = {"killed", "timeout"}


def found(root: Path) -> dict[str, Counter[str]]:
    """How many mutants of each module ended how."""
    modules: dict[str, Counter[str]] = {}
    for file in sorted(root.rglob("*.meta")):
        ends = json.loads(file.read_text())["exit_code_by_key"].values()
        if ends:
            name = str(file.relative_to(root)).removesuffix(".meta")
            modules[name] = Counter(status_by_exit_code[code] for code in ends)
    return modules


def share(ends: Counter[str]) -> float:
    """Killed mutants of all, in per cent."""
    return 100 * sum(ends[end] for end in KILLED) / ends.total()


def too_low(modules: dict[str, Counter[str]]) -> list[str]:
    """What has too many mutants alive, one sentence each."""
    least = {name: LEAST_OUTSIDE for name in modules if not name.startswith(CORE)}
    shares = {name: share(modules[name]) for name in least}
    least["all"], shares["all"] = LEAST, share(sum(modules.values(), Counter()))
    return [
        f"{name}: {shares[name]:.1f} % killed, {least[name]:.0f} % are required"
        for name in least
        if shares[name] < least[name]
    ]


def main() -> int:
    """Print the table; 1 if too many mutants live."""
    modules = found(ROOT)
    everything: Counter[str] = sum(modules.values(), Counter())
    if not everything:
        print("no mutants: run mutmut first")
        return 1
    for name, ends in [*modules.items(), ("all", everything)]:
        counts = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
        print(f"{name:32} {share(ends):6.1f} %  ({counts})")
    problems = too_low(modules)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
