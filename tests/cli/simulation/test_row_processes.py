"""Rows in processes of their own: the same results, their progress, and what goes wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
from support.paths import ROOT

from iii_resilience import PolicyBook, load_policies
from iii_resilience.cli.simulation.json_report import Report
from iii_resilience.cli.simulation.measurement import Row
from iii_resilience.cli.simulation.row_processes import RowFailedError, run_rows
from iii_resilience.cli.simulation.row_run import (
    NO_RETRIES,
    UNLIMITED,
    RowSetting,
    run_row,
    without_budget,
    without_retries,
)
from iii_resilience.cli.simulation.scenario import Calls, Incident, Scenario, Service
from iii_resilience.cli.simulation.scenario_files import load_scenario
from iii_resilience.cli.simulation.verdict import Limits

SMALL = Scenario(
    "small",
    8.0,
    Calls(rate=20, processes=2),
    {"orders::save": Service(slots=3)},
    (Incident(2.0, 4.0, error_rate=0.5),),
)


def settings(*names: str) -> list[RowSetting]:
    policy_set = load_policies("builtin:default").policy_set
    return [RowSetting(name, policy_set, "default") for name in names]


def as_json(rows: list[Row]) -> str:
    return json.dumps(Report(SMALL, 1, tuple(rows), "", ()).as_json())


def test_rows_are_those_of_one_process_and_in_order() -> None:
    progress: list[tuple[int, float]] = []
    rows = run_rows(settings("a", "b", "c"), SMALL, 1, lambda *told: progress.append(told))
    assert as_json(rows) == as_json([run_row(each, SMALL, 1) for each in settings("a", "b", "c")])
    for number in range(3):
        parts = [part for row, part in progress if row == number]
        assert parts == sorted(parts)
        assert parts.count(1.0) == 1


def test_failure_of_row_names_it_and_ends_others() -> None:
    broken = attrs.evolve(settings("broken")[0], policy="nothing")
    with pytest.raises(RowFailedError, match=r"'broken' failed: (?s:.*)no policy is named"):
        run_rows([*settings("good"), broken], SMALL, 1, processes=2)


def test_process_that_dies_is_error_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RowFailedError, match="ended without a word"):
        run_rows([attrs.evolve(settings("dies")[0], policy_set=_Dies())], SMALL, 1)  # type: ignore[arg-type]


class _Dies:
    """Ends the process that reads it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (3,)


@pytest.mark.parametrize("size", [0.5, pytest.param(1.0, marks=pytest.mark.long)])
@pytest.mark.parametrize("policy", sorted(path.stem for path in ROOT.glob("policies/*.yaml")))
def test_ready_made_policies_hold_in_brownout(policy: str, size: float) -> None:
    """Those of many processes with 40; background is for few with many calls at once.

    Half the size is half of everything: the calls, the processes, and what serves them.
    """
    brownout = load_scenario("brownout")
    processes = round((2 if policy == "background" else 40) * size)
    calls = attrs.evolve(brownout.calls, processes=processes, rate=brownout.calls.rate * size)
    services = {
        name: attrs.evolve(service, slots=round(service.slots * size))
        for name, service in brownout.services.items()
    }
    happens = attrs.evolve(brownout, calls=calls, services=services)
    policy_set = load_policies(f"builtin:{policy}").policy_set
    row = run_row(RowSetting(policy, policy_set, policy), happens, 1)
    assert Limits(load=1.25, recovery=40.0).broken_by(row) == []


_GOLDEN = """
from iii_resilience.cli.simulation.row_run import RowSetting, run_row
from iii_resilience.cli.simulation.json_report import Report
from iii_resilience.config.load import load_policies
from test_row_processes import SMALL, TROUBLED
import json
for scenario in (SMALL, TROUBLED):
    for name in ("default", "payments"):
        policy_set = load_policies(f"builtin:{name}").policy_set
        rows = (run_row(RowSetting(name, policy_set, name), scenario, 7),)
        print(json.dumps(Report(scenario, 7, rows, "", ()).as_json()))
"""
TROUBLED = Scenario(
    "troubled",
    30.0,
    Calls(rate=40, processes=5),
    {
        "orders::save": Service(slots=6, distribution="exponential", calls="stock::take"),
        "stock::take": Service(slots=6, distribution="lognormal", discipline="sharing"),
    },
    (
        Incident(5.0, 12.0, capacity=0.2),
        Incident(14.0, 15.0, down="worker", service="stock::take"),
        Incident(18.0, 19.0, down="engine"),
        Incident(20.0, 25.0, error_rate=0.5, code="TIMEOUT"),
    ),
)


def golden(python: str, path: str) -> str:
    """What a fresh interpreter finds."""
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "random"}
    command = [python, "-c", _GOLDEN]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_same_seed_gives_the_same_json_twice() -> None:
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT / "tests")])
    first = golden(sys.executable, path)
    assert first == golden(sys.executable, path)
    assert '"given_up": {"' in first


@pytest.mark.long
def test_every_interpreter_present_gives_the_same_json(tmp_path: Path) -> None:
    own = os.pathsep.join([str(Path(__file__).parent), str(ROOT / "tests")])
    expected = golden(sys.executable, own)
    found = others()
    for number, python in enumerate(found):
        environment = tmp_path / str(number)
        subprocess.run([python, "-m", "venv", environment], check=True)
        pip: list[str | Path] = [environment / "bin" / "python", "-m", "pip", "install", "--quiet"]
        constraints: list[str | Path] = ["-c", ROOT / "constraints.txt"]
        subprocess.run([*pip, *constraints, "-e", ROOT, "pytest"], check=True)
        assert golden(str(environment / "bin" / "python"), own) == expected, python
    if not found:
        pytest.skip("no other interpreter from 3.11 on")


def others() -> list[str]:
    """Other interpreters of a supported version, one of each."""
    found = {}
    places = [Path(sys.base_prefix).parent, Path("/usr/local")]
    for minor in range(11, 20):
        candidates = [shutil.which(f"python3.{minor}")]
        candidates += [str(one) for place in places for one in place.glob(f"*/bin/python3.{minor}")]
        for python in filter(None, candidates):
            if minor != sys.version_info.minor and minor not in found:
                ran = subprocess.run(
                    [python, "-c", "import venv"], check=False, capture_output=True
                )
                if ran.returncode == 0:
                    found[minor] = python
    return list(found.values())


@pytest.mark.long
@pytest.mark.timeout(600)
def test_four_rows_of_a_fleet_take_little_time() -> None:
    """Twenty seconds on two free cores are 40 of processor time; five times that is the bound."""
    policy_set = load_policies("builtin:default").policy_set
    rows = [
        RowSetting(NO_RETRIES, without_retries(policy_set), "default"),
        RowSetting(UNLIMITED, without_budget(policy_set), "default"),
        RowSetting("default", policy_set, "default"),
        RowSetting("code", PolicyBook().policy_set, "default"),
    ]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    found = run_rows(rows, load_scenario("brownout"), 1)
    after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    attempts = sum(sum(row.curves.series.attempts) for row in found)
    print(f"four rows: {took:.1f} s, {processor:.1f} s of processor time, {attempts} attempts")
    assert processor < 5 * 40


_PEAK = """
import resource, sys, attrs
from iii_resilience.cli.simulation.row_run import RowSetting, run_row
from iii_resilience.cli.simulation.scenario_files import load_scenario
from iii_resilience.config.load import load_policies
flaky = attrs.evolve(load_scenario("flaky"), duration=float(sys.argv[1]))
flaky = attrs.evolve(flaky, calls=attrs.evolve(flaky.calls, rate=60))
run_row(RowSetting("p", load_policies("builtin:default").policy_set, "default"), flaky, 1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_time() -> None:
    def peak(duration: float) -> int:
        command = [sys.executable, "-c", _PEAK, str(duration)]
        return int(subprocess.run(command, check=True, capture_output=True).stdout)

    short, long = peak(90.0), peak(450.0)
    print(f"peak memory: {short / 1024:.0f} MiB after 90 s, {long / 1024:.0f} MiB after 450 s")
    assert long < 1.15 * short
