"""Run the wrapper's tests against several released versions of iii's SDK, one after the other.

Knows nothing of what the tests show: they skip by name, with the reason, what a version cannot do.
Each version has an environment of its own under ``.venv-matrix``, made at its first use and again
whenever what goes into it changes. Usage, with any Python of 3.11 or later::

    python tests/matrix/run.py                      # every version
    python tests/matrix/run.py 0.11.6 0.24.6        # these
    python tests/matrix/run.py 0.22.1 -- -k poison  # with arguments for pytest
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

VERSIONS = ("0.11.6", "0.19.7", "0.20.0", "0.22.1", "0.23.0", "0.24.3", "0.24.6", "0.25.0")
"""Each is the last or the first of its kind: docs/engine-notes.md, 6."""
TESTS = (
    "tests/client",
    "tests/engine/test_calls_engine.py",
    "tests/matrix",
    "tests/telemetry/test_wire.py",
    "tests/sdk/test_connection.py",
    "tests/sdk/test_propagation.py",
    "tests/sdk/test_wait_queue.py",
)
NEEDED = ("freezegun", "hypothesis", "pytest", "pytest-asyncio", "pytest-timeout")

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".venv-matrix"
_NO_TESTS = 5  # pytest's exit status where nothing was collected


def main(arguments: list[str]) -> int:
    """Run the tests against the versions that were asked for.

    Returns:
        The exit status: 0 where every version passed.
    """
    options: list[str] = []
    if "--" in arguments:
        place = arguments.index("--")
        arguments, options = arguments[:place], arguments[place + 1 :]
    unknown = [version for version in arguments if version not in VERSIONS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(VERSIONS)}", file=sys.stderr)
        return 2
    failed = []
    for version in arguments or VERSIONS:
        print(f"\n=== iii-sdk {version}", flush=True)
        began = time.monotonic()
        status = _test(_environment(version), options)
        print(f"=== iii-sdk {version}: {time.monotonic() - began:.0f} s", flush=True)
        if status not in {0, _NO_TESTS}:
            failed.append(version)
    if failed:
        print(f"\nfailed with iii-sdk {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _test(python: Path, options: list[str]) -> int:
    tests = [test for test in TESTS if (ROOT / test).exists()]
    return subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, *options],
        cwd=ROOT,
        env={**os.environ, "OTEL_ENABLED": "false"},
        check=False,
    ).returncode


def _environment(version: str) -> Path:
    """The Python of a version's environment, which is made where it is not there or out of date."""
    home = ENVIRONMENTS / version
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = home / ".made-of"
    made_of = _made_of(version)
    if python.exists() and stamp.exists() and stamp.read_text() == made_of:
        return python
    venv.create(home, clear=True, with_pip=True)
    constraints = home / "constraints.txt"
    constraints.write_text(_constraints())
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet"]
    pip.append("--disable-pip-version-check")
    sdk = f"iii-sdk=={version}"
    subprocess.run(
        [*pip, "-c", constraints, "-e", ".[testing,postgres,redis]", sdk, *NEEDED],
        cwd=ROOT,
        check=True,
    )
    stamp.write_text(made_of)
    return python


def _constraints() -> str:
    """The project's own, but for the SDK and its companion, whose versions belong together."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("iii-")) + "\n"


def _made_of(version: str) -> str:
    text = (ROOT / "pyproject.toml").read_text()
    dependencies = text[: text.find("[project.scripts]")]
    parts = (version, sys.version, dependencies, _constraints(), *NEEDED)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
