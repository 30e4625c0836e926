"""docs/telemetry.md says what there is, and the dashboard and alerts ask for nothing else."""

from __future__ import annotations

import json
import logging
import re
from functools import cache
from typing import Any

import attrs
import pytest
import yaml
from support.paths import DOCS
from support.telemetry_fixtures import Seen, attributes
from support.telemetry_run import told

from iii_resilience import Reason
from iii_resilience.telemetry.metrics import LIMIT, LIMIT_DEFAULT

__all__ = ["told"]

PAGE = (DOCS / "telemetry.md").read_text(encoding="utf-8")


@attrs.frozen
class Row:
    """One row of the table."""

    signal: str
    name: str
    unit: str
    always: frozenset[str]
    sometimes: frozenset[str]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@cache
def table() -> dict[str, Row]:
    rows = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or cells[0] not in {"histogram", "counter", "gauge", "span", "record"}:
            continue
        signal, name, unit, always, sometimes = cells
        name = (quoted(name) or [name])[0]
        rows[name] = Row(
            signal, name, unit, frozenset(quoted(always)), frozenset(quoted(sometimes))
        )
    return rows


SIGNALS = {"Histogram": "histogram", "Sum": "counter", "Gauge": "gauge"}


def held(row: Row, each: list[frozenset[str]]) -> None:
    """What is always there is what every one has; the rest is what some have."""
    assert each, f"{row.name} was not told"
    assert frozenset.intersection(*each) == row.always, row.name
    assert frozenset.union(*each) == row.always | row.sometimes, row.name


def test_table_lists_every_metric_span_and_record(
    told: list[logging.LogRecord], seen: Seen
) -> None:
    rows = table()
    metrics = seen.metrics()
    spans: dict[str, list[Any]] = {}
    for span in seen.spans():
        spans.setdefault(span.name.split()[0] + " …", []).append(span)
    kinds = {
        "a decision": "iii_reason",
        "a handler's failure": "iii_exception",
        "calls that a full worker refused": "iii_refused",
        "a circuit": "iii_was",
    }
    assert set(rows) == set(metrics) | set(spans) | set(kinds)
    for name, metric in metrics.items():
        assert SIGNALS[metric.kind] == rows[name].signal
        assert rows[name].unit == f"`{metric.unit}`"
        held(rows[name], [frozenset(p.attributes) for p in metric.points])
    for name, every in spans.items():
        assert {span.kind.name for span in every} == set(quoted(rows[name].unit))
        held(rows[name], [frozenset(attributes(span)) for span in every])
    plain = set(vars(logging.makeLogRecord({}))) | {"message", "taskName"}
    records: dict[str, list[Any]] = {name: [] for name in kinds}
    for record in told:
        fields = frozenset(set(vars(record)) - plain)
        if fields & {"iii_parked", "iii_exception", "iii_waiting"}:
            records["a handler's failure"].append((record, fields))
        elif "iii_refused" in fields:
            records["calls that a full worker refused"].append((record, fields))
        elif "iii_reason" in fields:
            records["a decision"].append((record, fields))
        elif {"iii_was", "iii_state"} <= fields and "iii_kind" not in fields:
            records["a circuit"].append((record, fields))
    for name, each in records.items():
        held(rows[name], [fields for _, fields in each])
        levels = {record.levelname for record, _ in each}
        assert levels == {word for word in quoted(rows[name].unit) if word.isupper()}


def test_reasons_and_codes_are_what_attributes_hold(
    told: list[logging.LogRecord], seen: Seen
) -> None:
    reasons = {
        p.attributes["iii.retry.decision"] for p in seen.metrics()["iii.retry.decisions"].points
    }
    assert reasons <= {reason.value for reason in Reason}
    assert len(reasons) >= 4


def test_limit_is_one_that_is_documented() -> None:
    assert f"Metrics distinguish the first {LIMIT_DEFAULT} ids" in PAGE
    assert f"`{LIMIT}=" in PAGE


# Dashboard and alerts.

SUFFIXES = {"histogram": ["_bucket", "_sum", "_count"], "counter": ["_total"], "gauge": [""]}
UNITS = {"s": "_seconds"}


def in_prometheus(name: str) -> str:
    """A name as Prometheus makes it of one of OpenTelemetry: dots become underscores."""
    return name.replace(".", "_")


@cache
def series() -> dict[str, frozenset[str]]:
    """The labels of every series that there is in Prometheus."""
    found = {}
    for row in table().values():
        unit = UNITS.get(row.unit.strip("`"), "")
        for suffix in SUFFIXES.get(row.signal, []):
            labels = {in_prometheus(label) for label in row.always | row.sometimes}
            if suffix == "_bucket":
                labels.add("le")
            found[in_prometheus(row.name) + unit + suffix] = frozenset(labels)
    return found


def asked(expression: str) -> None:
    """Everything that an expression asks for exists, with the labels it asks by."""
    names = set(re.findall(r"\biii_\w+", expression))
    labels = {label for every in series().values() for label in every}
    assert names & set(series()), expression
    assert names <= set(series()) | labels, names - set(series()) - labels
    for name, selected in re.findall(r"\b(iii_\w+)\{([^}]*)\}", expression):
        wanted = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selected))
        assert wanted <= series()[name], (name, wanted)
    mine = frozenset.union(*(series()[name] for name in names & set(series())))
    for grouped in re.findall(r"\b(?:by|without)\s*\(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= mine, grouped
    assert expression.count("(") == expression.count(")")


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "grafana-dashboard.json").read_text("utf-8"))
    return found


def rules() -> list[dict[str, Any]]:
    text = yaml.safe_load((DOCS / "alerts.yaml").read_text("utf-8"))
    return [rule for group in text["groups"] for rule in group["rules"]]


PANELS = dashboard()["panels"]


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_panel_is_one_and_asks_for_what_there_is(panel: dict[str, Any]) -> None:
    assert panel["type"] in {"timeseries", "stat"}
    assert panel["title"]
    assert panel["description"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    place = panel["gridPos"]
    assert place["w"] > 0
    assert place["h"] > 0
    assert place["x"] + place["w"] <= 24
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        asked(target["expr"])
        labels = {label for every in series().values() for label in every}
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels


def test_no_two_panels_lie_on_one_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_dashboards_variables_are_those_it_uses() -> None:
    whole = dashboard()
    variables = {variable["name"]: variable for variable in whole["templating"]["list"]}
    assert set(variables) == {"datasource", "function"}
    asked(variables["function"]["definition"])
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(whole["panels"])))
    assert used == {"datasource", "function", "__rate_interval"}


def test_every_metric_is_on_dashboard() -> None:
    text = json.dumps(PANELS)
    metrics = [row for row in table().values() if row.signal in SUFFIXES]
    assert [row.name for row in metrics if in_prometheus(row.name) not in text] == []


@pytest.mark.parametrize("rule", rules(), ids=[rule["alert"] for rule in rules()])
def test_alert_asks_for_what_there_is_and_says_what_to_do(rule: dict[str, Any]) -> None:
    asked(rule["expr"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description"}
    labels = {label for every in series().values() for label in every}
    for text in rule["annotations"].values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels


def test_alerts_are_those_that_are_documented() -> None:
    assert [rule["alert"] for rule in rules()] == [
        "IiiRetriesDoNotHelp",
        "IiiCircuitOpen",
        "IiiRetryRatioHigh",
        "IiiDeadLetters",
        "IiiRelayIsLate",
        "IiiNoRelay",
    ]
    assert rules()[2]["expr"].endswith("> 0.1")


def test_what_does_not_exist_is_noticed() -> None:
    for wrong in [
        "iii_no_such_total > 0",
        'iii_handler_failures_total{iii_no_such="a"}',
        "sum by (iii_policy_name) (iii_handler_failures_total)",
        "iii_client_call_duration_count",
    ]:
        with pytest.raises((AssertionError, TypeError, KeyError)):
            asked(wrong)


def test_each_alert_has_runbook() -> None:
    text = (DOCS / "operations" / "runbook.md").read_text(encoding="utf-8")
    sections = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## Iii")]
    assert sections == [rule["alert"] for rule in rules()]
