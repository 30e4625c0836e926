"""What a mutation run found, module by module; fails below the share that must be killed.

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


def main() -> int:
    """Print the table; 1 if too many mutants live."""
    modules = found(ROOT)
    everything: Counter[str] = sum(modules.values(), Counter())
    if not everything:
        print("no mutants: run mutmut first")
        return 1
    for name, ends in [*modules.items(), ("all", everything)]:
        told = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
        print(f"{name:32} {share(ends):6.1f} %  ({told})")
    return 0 if share(everything) >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
