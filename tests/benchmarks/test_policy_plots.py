"""The pictures of the documents show what the code does today."""

from __future__ import annotations

from pathlib import Path

import attrs
import policy_plots as pictures
import pytest

from iii_resilience import Backoff


@pytest.mark.parametrize("name", ["backoff.svg", "budget.svg", "circuit.svg"])
def test_picture_shows_code_of_day(name: str) -> None:
    of, _ = pictures.PICTURES[name]
    stale = f"docs/pictures/{name} is stale: run 'make pictures'"
    assert pictures.digest_in(pictures.FOLDER / name) == pictures.digest(of()), stale


@pytest.mark.long
def test_picture_of_fleet_shows_code_of_day() -> None:
    rows = [attrs.asdict(row) for row in pictures.brownout()]
    assert pictures.digest_in(pictures.FOLDER / "brownout.svg") == pictures.digest(rows)


def test_digest_notices_change_and_no_rounding() -> None:
    numbers = pictures.backoff()
    assert pictures.digest(numbers) == pictures.digest(pictures.backoff())
    least, most = numbers["full"][3]
    numbers["full"][3] = (least, most * (1 + 1e-12))
    assert pictures.digest(numbers) == pictures.digest(pictures.backoff())
    numbers["full"][3] = (least, most * 1.01)
    assert pictures.digest(numbers) != pictures.digest(pictures.backoff())


@pytest.mark.parametrize("name", ["backoff.svg", "budget.svg", "circuit.svg"])
def test_drawing_writes_digest(name: str, tmp_path: Path) -> None:
    of, draw = pictures.PICTURES[name]
    numbers = of()
    draw(tmp_path / name, numbers)
    assert pictures.digest_in(tmp_path / name) == pictures.digest(numbers)


def test_ranges_are_those_of_backoff() -> None:
    numbers = pictures.backoff()
    assert numbers["full"][1] == (0.0, Backoff().ceiling(1))
    assert sum(count for _, count in numbers["arrivals none"]) == 3 * 1000
