"""The dashboard's expressions and the alerts' rules, in a real Prometheus.

Needs the server (Debian's package `prometheus`, or its path in `PROMETHEUS`) and the exporter of
OpenTelemetry. `make test-long` runs it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import yaml
from support.paths import DOCS
from support.ports import reserved_port
from support.telemetry_fixtures import Seen
from support.telemetry_run import told
from support.waiting import until

__all__ = ["told"]

SERVER = os.environ.get("PROMETHEUS") or shutil.which("prometheus")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(SERVER is None, reason="there is no prometheus in PATH or PROMETHEUS"),
]


@pytest.fixture
def exposed(told: list[logging.LogRecord], seen: Seen) -> list[str]:
    """The lines of what a run has measured, as Prometheus scrapes them."""
    exporter: Any = pytest.importorskip("opentelemetry.exporter.prometheus")
    client: Any = pytest.importorskip("prometheus_client")
    collector = exporter._CustomCollector(disable_target_info=True)
    collector.add_metrics_data(seen.reader.get_metrics_data())
    registry = client.CollectorRegistry()
    registry.register(collector)
    return str(client.generate_latest(registry).decode()).splitlines(keepends=True)


@pytest.fixture
def api(exposed: list[str], tmp_path: Path) -> Iterator[str]:
    """A Prometheus that scrapes the run, with the alerts; the address of its API."""

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = "".join(exposed).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 - its name

    metrics = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=metrics.serve_forever, daemon=True).start()
    port = reserved_port()
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(DOCS / "alerts.yaml")],
        "scrape_configs": [
            {
                "job_name": "run",
                "static_configs": [{"targets": [f"127.0.0.1:{metrics.server_port}"]}],
            }
        ],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    process = subprocess.Popen(
        [
            str(SERVER),
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}/api/v1"
    try:
        until(lambda: asked(address, "query?query=up") is not None, timeout=60)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)
        metrics.shutdown()
        metrics.server_close()


def asked(address: str, what: str) -> Any:
    """The data of an answer, or None while there is no server."""
    try:
        with urlopen(f"{address}/{what}", timeout=10) as answer:
            read = json.load(answer)
    except OSError:
        return None
    assert read["status"] == "success", read
    return read["data"]


def expressions() -> dict[str, str]:
    """Every expression of the dashboard, with its variables filled in, and of the alerts."""
    panels = json.loads((DOCS / "grafana-dashboard.json").read_text("utf-8"))["panels"]
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels
        for target in panel["targets"]
    }
    for group in yaml.safe_load((DOCS / "alerts.yaml").read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            for side in rule["expr"].split(" > ")[0].split(" unless "):
                found[f"{rule['alert']} {side}"] = side
    return {
        name: expression.replace("$function", ".*").replace("$__rate_interval", "30s")
        for name, expression in found.items()
    }


def test_each_expression_is_answered_with_series(api: str) -> None:
    missing = dict(expressions())
    ends = time.monotonic() + 60  # a rate needs two scrapes
    while missing and time.monotonic() < ends:
        for name, expression in list(missing.items()):
            found = asked(api, f"query?query={quote(expression)}")
            if found["result"]:
                del missing[name]
        time.sleep(1)
    assert missing == {}


def test_alert_fires_when_no_relay_is_active(api: str, exposed: list[str]) -> None:
    groups = yaml.safe_load((DOCS / "alerts.yaml").read_text("utf-8"))["groups"]
    rules = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}

    def found(expression: str) -> list[Any]:
        return list(asked(api, f"query?query={quote(expression)}")["result"])

    until(lambda: found("iii_relay_waiting"), timeout=60)
    assert found(rules["IiiNoRelay"]) == []
    exposed[:] = [line for line in exposed if not line.startswith("iii_relay_")]
    until(lambda: found(rules["IiiNoRelay"]), timeout=60)


def test_each_rule_is_evaluated_without_error(api: str) -> None:
    def rules() -> list[dict[str, Any]]:
        found = asked(api, "rules")
        return [rule for group in found["groups"] for rule in group["rules"]]

    until(lambda: all(rule["health"] == "ok" for rule in rules()), timeout=30)
    assert [rule.get("lastError", "") for rule in rules()] == [""] * len(rules())
