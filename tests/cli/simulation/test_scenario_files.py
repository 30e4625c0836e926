"""Scenario files: what they say, and that every problem has its place and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from support.paths import ROOT

from iii_resilience.cli.simulation import scenario_files
from iii_resilience.cli.simulation.scenario import Calls, Incident, Scenario, Service, Shedding
from iii_resilience.cli.simulation.scenario_files import built_in, load_scenario
from iii_resilience.core.errors import ConfigError

FULL = """\
version: 1
duration_ms: 60000
calls:
  function: a::one
  rate: 50
  processes: 4
  arrivals: even
  timeout_ms: 500
  in_time_ms: 2000
  via: decorator
  idempotent: false
  accept_enqueued: true
services:
  a::one: {slots: 2, service_time_ms: 20, distribution: lognormal, queue: 9, calls: b::two}
  b::two: {discipline: sharing, skip_abandoned: true, limit: {concurrency: 3, wait_ms: 50}}
timetable:
  - {start_ms: 9000, end_ms: 10000, service: b::two, down: worker}
  - {start_ms: 5000, end_ms: 8000, capacity: 0.5, error_rate: 0.1, code: TIMEOUT}
"""


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "s.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_scenario(written(tmp_path, text))
    return [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


def test_everything_a_file_can_say(tmp_path: Path) -> None:
    name = written(tmp_path, FULL)
    assert load_scenario(name) == Scenario(
        "s",
        60.0,
        Calls("a::one", 50, 4, "even", 0.5, 2.0, "decorator", False, True),
        {
            "a::one": Service(2, 0.02, "lognormal", queue=9, calls="b::two"),
            "b::two": Service(discipline="sharing", skip_abandoned=True, limit=Shedding(3, 0.05)),
        },
        (
            Incident(5.0, 8.0, capacity=0.5, error_rate=0.1, code="TIMEOUT"),
            Incident(9.0, 10.0, service="b::two", down="worker"),
        ),
        name,
    )
    assert load_scenario(name).trouble == (5.0, 10.0)


def test_called_function_has_a_service_without_saying_so(tmp_path: Path) -> None:
    found = load_scenario(written(tmp_path, "version: 1\nduration_ms: 1000\n"))
    assert found.services == {found.calls.function: Service()}
    assert found.trouble == (0.0, 1.0)


def test_every_problem_is_found_with_its_place(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """\
version: 2
duration_ms: -4
call: 3
calls: {rate: 0, procesess: 4, function: a}
services:
  b: {slots: many, calls: c, limit: {concurrency: 0}}
  c: {calls: bb}
timetable:
  - {start_ms: 3, end_ms: 2}
  - {start_ms: 3, end_ms: 9, down: worke}
""",
    )
    assert found == [
        "s.yaml:1:1: version: must be 1, got 2",
        "s.yaml:2:1: duration_ms: must be a whole number of milliseconds above 0, got -4",
        (
            "s.yaml:3:1: call: is no key of a scenario file (allowed: version, duration_ms, calls, "
            "services, timetable; did you mean 'calls'?)"
        ),
        "s.yaml:4:9: calls.rate: must be a finite number above 0 and at most 10000, got 0",
        (
            "s.yaml:4:18: calls.procesess: is no key of the calls (allowed: function, rate, "
            "processes, arrivals, timeout_ms, in_time_ms, via, idempotent, accept_enqueued; did "
            "you mean 'processes'?)"
        ),
        "s.yaml:6:7: services.b.slots: must be a whole number at least 1, got 'many'",
        "s.yaml:6:38: services.b.limit.concurrency: must be a whole number at least 1, got 0",
        (
            "s.yaml:7:7: services.c.calls: names no service: 'bb' (allowed: b, c, orders::save; "
            "did you mean 'b'?)"
        ),
        "s.yaml:9:19: timetable.0.end_ms: is 2 ms and must be above start_ms (3 ms)",
        (
            "s.yaml:10:30: timetable.1.down: must be one of nothing, worker, engine, got 'worke'; "
            "did you mean 'worker'?"
        ),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[]",
            "s.yaml:1:1: the file: must be a mapping with version, duration_ms, calls, services",
        ),
        ("version: 1\nduration_ms: 5\ncalls: 3\n", "s.yaml:3:1: calls: must be a mapping, got 3"),
        (
            "version: 1\nduration_ms: 5\ntimetable: {}\n",
            "s.yaml:3:1: timetable: must be a list of incidents, got a mapping",
        ),
        ("version: 1\nduration_ms: 5\nservices: [\n", "s.yaml:4:1: "),
        (
            "version: 1\nduration_ms: 5\ntimetable: [{start_ms: 0, end_ms: 1, code: TIMOUT}]\n",
            (
                "s.yaml:3:38: timetable.0.code: is no code that is known: 'TIMOUT' (iii-resilience "
                "codes lists them; did you mean 'TIMEOUT'?)"
            ),
        ),
        (
            "version: 1\nduration_ms: 5\ntimetable: [{start_ms: 0, end_ms: 1, service: x}]\n",
            "s.yaml:3:38: timetable.0.service: names no service: 'x' (allowed: orders::save)",
        ),
        (
            "version: 1\nduration_ms: 5\nservices: {orders::save: {calls: orders::save}}\n",
            "s.yaml:3:27: services.orders::save.calls: calls itself: orders::save -> orders::save",
        ),
    ],
)
def test_one_problem(tmp_path: Path, text: str, says: str) -> None:
    (found,) = problems(tmp_path, text)
    assert found.startswith(says)


def test_names_that_no_scenario_has(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'brownout'\?"):
        load_scenario("brownot")
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read: No such file"):
        load_scenario(str(tmp_path / "nothing.yaml"))


def test_codes_of_own_services_may_be_raised(tmp_path: Path) -> None:
    name = written(
        tmp_path,
        "version: 1\nduration_ms: 5\n"
        "timetable: [{start_ms: 0, end_ms: 1, error_rate: 1, code: OUT_OF_STOCK}]\n",
    )
    assert load_scenario(name, ["OUT_OF_STOCK"]).timetable[0].code == "OUT_OF_STOCK"
    with pytest.raises(ConfigError, match="is no code that is known"):
        load_scenario(name)


@pytest.mark.parametrize("name", built_in())
def test_built_in_scenarios_are_read_and_fit_the_schema(name: str) -> None:
    assert load_scenario(name).name == name
    jsonschema.validate(yaml.safe_load(built_in()[name]), scenario_files.schema())


def test_schema_file_is_what_the_classes_say() -> None:
    folder = ROOT / "src" / "iii_resilience" / "cli" / "simulation" / "scenarios"
    text = (folder / "schema.json").read_text(encoding="utf-8")
    assert json.loads(text) == scenario_files.schema()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"duration_ms": 0},
        {"calls": {"rate": 0}},
        {"calls": {"via": "carrier pigeon"}},
        {"services": {"a": {"slot": 1}}},
        {"timetable": [{"start_ms": 1}]},
    ],
)
def test_schema_refuses_what_the_reader_refuses(tmp_path: Path, change: dict[str, Any]) -> None:
    data = {"version": 1, "duration_ms": 1000, **change}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, scenario_files.schema())
    assert problems(tmp_path, yaml.safe_dump(data))


def test_function_that_is_called_can_be_another(tmp_path: Path) -> None:
    found = load_scenario(written(tmp_path, FULL)).calling("c::three")
    assert found.calls.function == "c::three"
    assert list(found.services) == ["c::three", "b::two"]
