"""The two versions of the library, and worker processes of either."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

PROGRAM = Path(__file__).with_name("worker_process.py")


@attrs.frozen
class Version:
    """One of the two versions.

    Attributes:
        name: ``old`` or ``new``.
        python: The interpreter that has it.
        package: Where it is installed.
    """

    name: str
    python: Path
    package: Path

    def dlq(self, command: str, *arguments: str) -> str:
        """What ``iii-resilience dlq`` prints."""
        program = self.python.with_name("iii-resilience")
        ran = subprocess.run(
            [program, "dlq", command, "jobs", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


class Worker:
    """A process of `worker_process.py`."""

    def __init__(self, version: Version, url: str, role: str, place: str, log: Path) -> None:
        self.name = version.name
        self.process = subprocess.Popen(
            # Isolated: what this process has on its path is not what the other version has.
            [version.python, "-I", PROGRAM, url, version.name, role, place, str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "III_WORKER_NAME": version.name},
            text=True,
        )
        assert self.read() == str(version.package)

    def ask(self, command: str) -> Any:
        """Give a command, and read the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process has ended"
        return json.loads(line)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        """End it by the end of its standard input."""
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()


Start = Callable[..., Worker]
