"""The built wheel in a fresh environment, on every interpreter of this machine.

`make test-long` runs it. It needs a package index.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.paths import DOCS, ROOT

import iii_resilience

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUICKSTART = BLOCK.findall((DOCS / "start" / "quickstart.md").read_text(encoding="utf-8"))


def interpreters() -> dict[str, str]:
    """The interpreters from 3.11 on, by their version: in PATH, and those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {}
    for minor in range(11, 20):
        name = f"python3.{minor}"
        installed = sorted(pyenv.glob(f"3.{minor}.*/bin/{name}"))
        path = str(installed[-1]) if installed else shutil.which(name)
        if path is not None:
            found[f"3.{minor}"] = path
    return found


FOUND = interpreters() or {"current": sys.executable}


def run(*command: str | Path, **more: str) -> str:
    environment = {"PATH": os.environ["PATH"], "OTEL_ENABLED": "false", **more}
    ran = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.parametrize("version", FOUND)
def test_wheel_works_in_fresh_environment(version: str, wheel: Path, tmp_path: Path) -> None:
    run(FOUND[version], "-m", "venv", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "-q", "-c", constraints, f"{wheel}[iii,cli,testing]")

    command = tmp_path / "env" / "bin" / "iii-resilience"
    assert run(command, "--version").strip() == iii_resilience.__version__
    assert "transient" in run(command, "explain", "TIMEOUT")
    for number, code in enumerate(QUICKSTART):
        program = tmp_path / f"{number}.py"
        program.write_text(code, encoding="utf-8")
        run(python, program)


def test_wheel_holds_package_and_policies_only(wheel: Path) -> None:
    listed = run(sys.executable, "-m", "zipfile", "-l", wheel).splitlines()[1:]
    tops = {line.split("/")[0] for line in listed}
    assert tops == {"iii_resilience", f"iii_resilience-{iii_resilience.__version__}.dist-info"}
    names = [line.split()[0] for line in listed]
    assert "iii_resilience/py.typed" in names
    assert "iii_resilience/policies/payments.yaml" in names


def test_description_has_no_link_that_leads_nowhere(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = f"iii_resilience-{iii_resilience.__version__}.dist-info/METADATA"
        text = archive.read(name).decode()
    assert "# iii-resilience" in text
    assert re.findall(r"\]\((?!https?:)[^)]*\)", text) == []
