"""What a simulation found, as JSON: times in milliseconds, the same for the same seed.

Knows nothing of terminals.
"""

from __future__ import annotations

from typing import Any

import attrs

from iii_resilience.cli.simulation.measurement import Row
from iii_resilience.cli.simulation.scenario import Scenario


@attrs.frozen
class Report:
    """The rows of a simulation and what follows from them.

    Attributes:
        scenario: What happened.
        seed: Of all random numbers.
        rows: The rows.
        advice: The sentence.
        broken: The limits that the policy breaks.
    """

    scenario: Scenario
    seed: int
    rows: tuple[Row, ...]
    advice: str
    broken: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        scenario, (start, end) = self.scenario, self.scenario.trouble
        return {
            "scenario": scenario.name,
            "seed": self.seed,
            "processes": scenario.calls.processes,
            "calls_per_second": scenario.calls.rate,
            "duration_ms": _ms(scenario.duration),
            "trouble_start_ms": _ms(start),
            "trouble_end_ms": _ms(end),
            "rows": [_row(row) for row in self.rows],
            "advice": self.advice,
            "holds": not self.broken,
            "broken": list(self.broken),
        }


def _row(row: Row) -> dict[str, Any]:
    curves = row.curves
    return {
        "name": row.name,
        "calls": row.calls,
        "load": _part(row.load),
        "in_time_during": _part(row.in_time_during),
        "in_time_after": _part(row.in_time_after),
        "wait_p50_ms": _ms(row.wait_p50),
        "wait_p99_ms": _ms(row.wait_p99),
        "recovery_ms": _ms(row.recovery),
        "given_up": row.given_up,
        "circuit_opened_ms": [_ms(at) for at in row.circuits],
        "queued": row.queued,
        "series_start_ms": _ms(curves.first),
        "series": attrs.asdict(curves.series),
        "delays": [{"delay_ms": _ms(delay), "count": count} for delay, count in curves.delays],
    }


def _part(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
