"""Every code block of the documents runs, and fits on a screen."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from iii import InitOptions, InvocationError, register_worker
from support.engine_fixtures import sdk_times_out_first
from support.paths import PAGES, ROOT

from iii_resilience import load_policies, resilient
from iii_resilience.cli.simulation.scenario_files import load_scenario
from iii_resilience.testing import AnswerError, Drop, LoopbackEngine

__all__ = ["sdk_times_out_first"]

SCREEN = 35  # lines
PRINTS = re.compile(
    r"^```python\n([^`]*?)^```\n\n(?:It prints:\n\n```text|```console\n\$ python \S+)\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    """(page and line, code) of every block of a language."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if match[1] == language:
                line = text.count("\n", 0, match.start()) + 1
                found.append((f"{page.name}:{line}", match[2]))
    return found


PYTHON = blocks("python")
YAML = [block for block in blocks("yaml") if "duration_ms:" not in block[1]]
SCENARIOS = [block for block in blocks("yaml") if "duration_ms:" in block[1]]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackEngine]:
    """An engine where the README expects one, with the functions it calls."""
    with LoopbackEngine() as running:
        monkeypatch.setenv("III_URL", running.url)
        monkeypatch.setenv("OTEL_ENABLED", "false")
        monkeypatch.chdir(tmp_path)
        ((_, policies),) = [block for block in YAML if block[0].startswith("README.md")]
        (tmp_path / "policies.yaml").write_text(policies, encoding="utf-8")
        worker = register_worker(running.url, InitOptions(worker_name="readme-target"))
        for function_id in ("rates::load", "orders::save", "orders::charge"):
            worker.register_function(function_id, lambda data: data)
        running.wait_registered("rates::load", "orders::save", "orders::charge")
        running.define_queue("orders-retry")
        yield running
        worker.shutdown()


def run(code: str, name: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, name, "exec"), namespace)
    return namespace


@pytest.mark.parametrize(("place", "code"), PYTHON, ids=[place for place, _ in PYTHON])
def test_block_runs_unchanged(
    engine: LoopbackEngine,
    tmp_path: Path,
    place: str,
    code: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    page = place.partition(":")[0]
    own = [text for block, text in YAML if block.startswith(f"{page}:")]
    if own:  # the first policy file of the page
        (tmp_path / "policies.yaml").write_text(own[0], encoding="utf-8")
    if "DATABASE_URL" in code:
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("postgres_url"))
    run(code, place)
    # Two clients with the default name of one process: the example may pass, or not, by chance.
    assert [text for text in caplog.messages if text.startswith("Worker registration")] == []


PRINTED = [match for page in PAGES for match in PRINTS.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("code", "output"), PRINTED, ids=[output for _, output in PRINTED])
def test_block_prints_what_page_says(
    engine: LoopbackEngine, code: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(code, "block")
    assert re.sub(r"\d\.\d\d s", "0.00 s", capsys.readouterr().out) == output


@pytest.mark.parametrize(("place", "text"), YAML, ids=[place for place, _ in YAML])
def test_policy_file_has_no_warnings(tmp_path: Path, place: str, text: str) -> None:
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    assert load_policies(tmp_path / "p.yaml").warnings == (), place


@pytest.mark.parametrize(("place", "text"), SCENARIOS, ids=[place for place, _ in SCENARIOS])
def test_scenario_can_be_simulated(tmp_path: Path, place: str, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    assert load_scenario(str(tmp_path / "s.yaml")).duration > 0, place


def test_there_are_blocks_to_run() -> None:
    assert len(PYTHON) >= 8
    assert len(PRINTED) >= 4
    assert len(YAML) >= 2
    assert SCENARIOS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_block_fits_on_screen(page: Path) -> None:
    lines = [match[2].count("\n") for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    assert [count for count in lines if count > SCREEN] == []


def test_first_readme_block_needs_no_engine(tmp_path: Path) -> None:
    readme = [code for place, code in PYTHON if place.startswith("README.md")]
    program = tmp_path / "first.py"
    program.write_text(readme[0], encoding="utf-8")
    without = "import sys; sys.modules['iii'] = None; import runpy; runpy.run_path(sys.argv[1])"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", without, program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


class TestErrorHandling:
    """The three examples of iii's error handling guide do what the originals do."""

    @pytest.fixture
    def iii(self, engine: LoopbackEngine) -> Iterator[Any]:
        worker = resilient(register_worker(engine.url, InitOptions(worker_name="readme-caller")))
        yield worker
        worker.shutdown()

    @staticmethod
    def example(number: int) -> Any:
        code = [code for _, code in PYTHON if "def charge(iii, payload)" in code][number]
        return run(code, "example")["charge"]

    @staticmethod
    def slow(engine: LoopbackEngine) -> None:
        engine.inject("orders::charge", AnswerError("TIMEOUT", "invocation timed out after 1ms"))

    def test_python(self, engine: LoopbackEngine, iii: Any) -> None:
        charge = self.example(0)
        assert charge(iii, {"n": 1})["n"] == 1
        self.slow(engine)
        with pytest.raises(RuntimeError, match=r"^orders::charge timed out$"):
            charge(iii, {})
        engine.inject("orders::charge", AnswerError("invocation_failed", "boom"))
        with pytest.raises(RuntimeError, match=r"^invocation_failed: boom$"):
            charge(iii, {})
        engine.forbid("orders::charge")
        with pytest.raises(RuntimeError, match=r"^Policy denied orders::charge$"):
            charge(iii, {})

    def test_node(self, engine: LoopbackEngine, iii: Any) -> None:
        charge = self.example(1)
        assert charge(iii, {"n": 1})["n"] == 1
        self.slow(engine)
        with pytest.raises(InvocationError, match="TIMEOUT"):
            charge(iii, {})
        engine.forbid("orders::charge")
        with pytest.raises(RuntimeError, match=r"^Policy denied orders::charge$"):
            charge(iii, {})

    def test_rust(self, engine: LoopbackEngine, iii: Any) -> None:
        charge = self.example(2)
        assert charge(iii, {"n": 1})[0] == "ok"
        self.slow(engine)
        assert charge(iii, {}) == ("error", "orders::charge timed out")
        engine.inject("orders::charge", AnswerError("invocation_failed", "boom"))
        assert charge(iii, {}) == ("error", "invocation_failed: boom")
        engine.forbid("orders::charge")
        kind, message = charge(iii, {})
        assert kind == "error"
        assert message.startswith("policy denied: function 'orders::charge' not allowed")

    @pytest.mark.usefixtures("sdk_times_out_first")
    def test_auth_failure_becomes_permission_error(self, engine: LoopbackEngine, iii: Any) -> None:
        (code,) = [code for _, code in PYTHON if "def permission_errors" in code]
        permission_errors = run(code, "recipe")["permission_errors"]
        engine.forbid("orders::charge")
        with (
            pytest.raises(PermissionError, match="orders::charge") as caught,
            permission_errors("orders::charge"),
        ):
            iii.trigger({"function_id": "orders::charge"})
        assert isinstance(caught.value.__cause__, InvocationError)
        engine.inject("rates::load", Drop())
        with pytest.raises(InvocationError, match="TIMEOUT"), permission_errors("rates::load"):
            iii.trigger({"function_id": "rates::load", "timeout_ms": 50})


def test_readme_and_extra_name_the_same_sdk() -> None:
    (least,) = re.findall(r"iii SDK from ([\d.]+) on", (ROOT / "README.md").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["optional-dependencies"]["iii"] == [f"iii-sdk>={least}"]


def test_ci_names_pythons_that_package_does() -> None:
    """The oldest one is that of `make test`; the others are run where they are."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    versions = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    assert project["requires-python"] == f">={versions[0]}"
    run = (ROOT / ".ci" / "run").read_text("utf-8")
    assert f"for version in {' '.join(versions[1:])}; do" in run
