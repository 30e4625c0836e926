"""Version 0.1.0 as it stood before the package was reorganised, in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from compat.versions import Start, Version, Worker
from support.paths import PACKAGE, ROOT

from iii_resilience.testing import LoopbackEngine

COMMIT = "374c159caba161c4d140b393f646eace6af3f71a"


def has_commit() -> bool:
    found = subprocess.run(
        ["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    return found.returncode == 0


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """0.1.0, installed from this repository's own history."""
    if shutil.which("git") is None:
        pytest.skip("needs git, to take version 0.1.0 out of this repository's history")
    if not has_commit():
        pytest.skip(
            f"version 0.1.0 is not here: commit {COMMIT[:7]} is missing "
            "(a shallow clone, or no clone: git fetch --unshallow)"
        )
    folder = tmp_path_factory.mktemp("old")
    archive, source, home = folder / "old.tar", folder / "source", folder / "venv"
    subprocess.run(
        ["git", "archive", "--output", archive, COMMIT],
        cwd=ROOT,
        check=True,
    )
    with tarfile.open(archive) as file:
        file.extractall(source, filter="data")
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet"]
    pip += ["--disable-pip-version-check", "-c", source / "constraints.txt"]
    subprocess.run([*pip, f"{source}[iii,cli,testing,redis]"], cwd=folder, check=True)
    where = "import iii_resilience, pathlib; print(pathlib.Path(iii_resilience.__file__).parent)"
    package = subprocess.run(
        [python, "-I", "-c", where], capture_output=True, text=True, check=True
    )
    found = Path(package.stdout.strip())
    assert home in found.parents
    assert (found / "operating").is_dir(), "this is not the version before it was reorganised"
    return Version("old", python, found)


@pytest.fixture(scope="session")
def new() -> Version:
    """The version under test."""
    return Version("new", Path(sys.executable), PACKAGE)


@pytest.fixture(params=["old then new", "new then old"])
def pair(request: pytest.FixtureRequest, old: Version, new: Version) -> tuple[Version, Version]:
    """Both versions: who writes or owns, and who comes after."""
    return (old, new) if request.param == "old then new" else (new, old)


@pytest.fixture
def engine() -> Iterator[LoopbackEngine]:
    with LoopbackEngine() as running:
        yield running


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """What the workers' handlers write to."""
    return tmp_path / "log"


@pytest.fixture
def start(engine: LoopbackEngine, log: Path) -> Iterator[Start]:
    """Starts workers; each has ended at the end."""
    started: list[Worker] = []

    def begin(version: Version, role: str, place: str = "-") -> Worker:
        started.append(Worker(version, engine.url, role, place, log))
        return started[-1]

    yield begin
    for worker in started:
        worker.end()


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where both versions keep keys and messages."""
    if request.param == "sqlite":
        return str(tmp_path / "store.db")
    return str(request.getfixturevalue("redis_url"))
