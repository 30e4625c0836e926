"""Reads scenario files, and validates them as policy files are: every problem, with its place.

Knows nothing of event loops.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, Final

from iii_resilience.cli.simulation.scenario import (
    FUNCTION,
    Calls,
    Incident,
    Scenario,
    Service,
    Shedding,
)
from iii_resilience.config.files.convert import structure
from iii_resilience.config.files.file_source import Files
from iii_resilience.config.files.nodes import (
    Mark,
    Node,
    Path,
    Problem,
    allowed,
    dotted,
    meant,
    shown,
)
from iii_resilience.config.files.schema import Schema, definition, reference
from iii_resilience.config.files.yaml_reader import read_yaml
from iii_resilience.core.codes.lookup import ALL
from iii_resilience.core.errors import ConfigError
from iii_resilience.core.system_clock import LONGEST_SECONDS
from iii_resilience.core.validators import Number

KINDS: Final[dict[type, str]] = {
    Calls: "the calls",
    Service: "a service",
    Shedding: "a limit",
    Incident: "an incident",
}
"""The classes that scenario files hold, and what messages call them."""

_TOP = ("version", "duration_ms", "calls", "services", "timetable")
_DURATION = Number(above=0, most=LONGEST_SECONDS * 1000, integer=True, unit="milliseconds")
_ROOT = "the file"


def built_in() -> dict[str, bytes]:
    """The scenarios that come with the library, by name."""
    folder = files("iii_resilience.cli.simulation") / "scenarios"
    return {
        path.name.removesuffix(".yaml"): path.read_bytes()
        for path in sorted(folder.iterdir(), key=lambda path: path.name)
        if path.name.endswith(".yaml")
    }


def load_scenario(name: str, own_codes: Iterable[str] = ()) -> Scenario:
    """Read a scenario.

    Args:
        name: The name of a scenario of the library's, or the path of a file.
        own_codes: Codes of the user's own services, which incidents may fail with too.

    Raises:
        ConfigError: It cannot be read or does not validate. ``problems`` lists everything that is
            wrong, each as ``file:line:column: field: what is wrong (what is allowed)``.
    """
    known = built_in()
    content: bytes | Problem | Mapping[str, Any]
    if name in known:
        content = known[name]
    elif "." not in name and "/" not in name and "\\" not in name:
        what = f"is neither a scenario nor the path of a file {allowed(list(known), name)}"
        content = Problem(Mark(name), "", what)
    else:
        ((_, content),) = Files.of(name).read().parts
    if isinstance(content, Problem):
        raise ConfigError([str(content)])
    node, problems = read_yaml(name, content) if isinstance(content, bytes) else (None, [])
    if node is not None and not problems:
        reading = _Reading(node, own_codes)
        scenario = reading.scenario(name)
        problems = sorted(reading.problems, key=lambda problem: problem.mark.line or 0)
        if scenario is not None and not problems:
            return scenario
    raise ConfigError([str(problem) for problem in problems])


class _Reading:
    """One document while it becomes a scenario."""

    def __init__(self, document: Node, own_codes: Iterable[str]) -> None:
        self.problems: list[Problem] = []
        self._own_codes = own_codes
        self._document = document

    def scenario(self, name: str) -> Scenario | None:
        top = self._document.value
        if not isinstance(top, dict):
            what = f"must be a mapping with {', '.join(_TOP[:-1])} and {_TOP[-1]}, got {shown(top)}"
            self.problems.append(Problem(self._document.mark, _ROOT, what))
            return None
        for key in top:
            if key not in _TOP:
                self._problem((key,), f"is not a key of a scenario file {allowed(_TOP, key)}")
        self._check("version", lambda value: type(value) is int and value == 1, "1")
        self._check("duration_ms", _DURATION.allows, _DURATION.allowed("null"))
        calls = Calls()
        if "calls" in top:
            calls = self._object(top["calls"], Calls, ("calls",)) or calls
        services = self._services()
        timetable = self._timetable()
        services.setdefault(calls.function, Service())
        self._names(calls, services, timetable)
        if self.problems:
            return None
        return Scenario(
            name.rpartition("/")[2].removesuffix(".yaml"),
            top["duration_ms"].value / 1000,
            calls,
            services,
            tuple(sorted(timetable.values(), key=lambda incident: incident.start)),
            self._document.mark.file,
        )

    def _check(self, key: str, allows: Any, what: str) -> None:
        node = self._document.value.get(key)
        if node is None or not allows(node.value):
            got = "" if node is None else f", got {shown(node.value)}"
            self._problem((key,), f"must be {what}{got}")

    def _object(self, node: Node, kind: type, path: Path) -> Any:
        made, faults = structure(node.plain(), kind, kinds=KINDS)
        for fault in faults:
            self._problem((*path, *fault.path), fault.what)
        return made

    def _section(self, key: str, kind: type, what: str) -> Any:
        node = self._document.value.get(key)
        if node is None or node.value is None:
            return kind()
        if not isinstance(node.value, kind):
            self._problem((key,), f"must be {what}, got {shown(node.value)}")
            return kind()
        return node.value

    def _services(self) -> dict[str, Service]:
        section = self._section("services", dict, "a mapping of function ids to services")
        return {
            name: self._object(node, Service, ("services", name)) or Service()
            for name, node in section.items()
        }

    def _timetable(self) -> dict[int, Incident]:
        """The incidents that could be read, by their index in the file."""
        section = self._section("timetable", list, "a list of incidents")
        found = {
            index: self._object(node, Incident, ("timetable", index))
            for index, node in enumerate(section)
        }
        return {index: incident for index, incident in found.items() if incident is not None}

    def _names(
        self, calls: Calls, services: dict[str, Service], timetable: dict[int, Incident]
    ) -> None:
        """Names that no service has, calls that never end, and codes that nothing knows."""
        known = list(services)
        for name, service in services.items():
            if service.calls is not None and service.calls not in services:
                what = f"names no service: {service.calls!r} {allowed(known, service.calls)}"
                self._problem(("services", name, "calls"), what)
        chain, following = [calls.function], services[calls.function].calls
        while following in services:
            if following in chain:
                what = f"calls itself: {' -> '.join([*chain, following])}"
                self._problem(("services", chain[-1], "calls"), what)
                break
            chain.append(following)
            following = services[following].calls
        codes = sorted({row.code for row in ALL}.union(self._own_codes))
        for index, incident in timetable.items():
            if incident.service is not None and incident.service not in services:
                what = f"names no service: {incident.service!r} {allowed(known, incident.service)}"
                self._problem(("timetable", index, "service"), what)
            if incident.code not in codes:
                alike = [code for code in codes if code[:1].lower() == incident.code[:1].lower()]
                what = (
                    f"is not a known code: {incident.code!r} (iii-resilience codes lists them"
                    f"{meant(alike, incident.code)})"
                )
                self._problem(("timetable", index, "code"), what)

    def _problem(self, path: Path, what: str) -> None:
        self.problems.append(Problem(self._document.at(path), dotted(path), what))


def schema() -> Schema:
    """The JSON Schema of scenario files, in draft 7."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "Made from the classes by `make schema`. Do not edit.",
        "title": "iii-resilience scenario file",
        "type": "object",
        "additionalProperties": False,
        "required": ["version", "duration_ms"],
        "properties": {
            "version": {"const": 1, "description": "The version of the format."},
            "duration_ms": {
                "type": "integer",
                "exclusiveMinimum": 0,
                "description": "Milliseconds in which calls start.",
            },
            "calls": reference(Calls),
            "services": {
                "type": ["object", "null"],
                "description": "What answers, by function id. The called function has one with "
                f"defaults where it is not named; it is {FUNCTION} unless calls say otherwise.",
                "additionalProperties": reference(Service),
            },
            "timetable": {
                "type": ["array", "null"],
                "description": "What goes wrong, from when until when.",
                "items": reference(Incident),
            },
        },
        "definitions": {kind.__name__: definition(kind) for kind in KINDS},
    }


def main() -> None:
    """Print the schema."""
    sys.stdout.write(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
