"""What the import costs: in processes of their own, in turn with what the library stands on.

Every process finds all modules compiled, the library's too, whatever PYTHONDONTWRITEBYTECODE says.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from measure import FULL, Effort
from table import Bound, Section

STANDS_ON = "import tenacity, attrs, opentelemetry.metrics, opentelemetry.trace"
BARE_IMPORT = "import iii_resilience"
THE_DECORATOR = "from iii_resilience import iii_retry"
STATEMENTS = (
    STANDS_ON,
    BARE_IMPORT,
    THE_DECORATOR,
    f"{THE_DECORATOR}; iii_retry(print)",
    "from iii_resilience import classify",
    "import asyncio",
    "from iii_resilience import resilient",
    "from iii import register_worker",
    "import stamina",
    "import redress",
    "import google.api_core.retry",
    "import nopanic",
)


def sections(effort: Effort) -> Iterator[Section]:
    """The table."""
    with tempfile.TemporaryDirectory() as compiled:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "OTEL_ENABLED": "false"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        wanted = STATEMENTS if effort.scale >= 1 else STATEMENTS[:4]
        statements = [one for one in wanted if _seconds(one, environment) is not None]
        rounds = max(3, effort.rounds // 4)
        taken: dict[str, list[float]] = {one: [] for one in statements}
        for turn in range(rounds):
            first = turn % len(statements)
            for one in statements[first:] + statements[:first]:
                taken[one].append(_seconds(one, environment) or 0.0)
    yield _section(taken)


def _section(taken: dict[str, list[float]]) -> Section:
    base = taken[STANDS_ON]
    ratios = {
        one: statistics.median(mine / other for mine, other in zip(times, base, strict=True))
        for one, times in taken.items()
    }
    rows = [
        [f"`{one}`", f"{statistics.median(times) * 1e3:.0f}", f"{ratios[one]:.2f}"]
        for one, times in taken.items()
    ]
    text = (
        "Each in a process of its own, processor time, medians. `import iii_resilience` loads a "
        "table of names, and each name what it needs when it is first asked for. `iii_retry` loads "
        "what a decorated function stands on when it decorates the first one; asyncio is loaded "
        "with the first coroutine function."
    )
    bounds = [
        Bound("the import, to what the library stands on", ratios[BARE_IMPORT], 1.3),
        Bound("the decorator's, to what the library stands on", ratios[THE_DECORATOR], 1.3),
    ]
    return Section("Import", text, ["", "ms", "to the first"], rows, bounds)


def _seconds(statement: str, environment: dict[str, str]) -> float | None:
    code = f"import time; at = time.process_time(); {statement}; print(time.process_time() - at)"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    return float(ran.stdout) if ran.returncode == 0 else None


if __name__ == "__main__":
    for section in sections(FULL):
        print(section, end="\n\n")
