"""Starts, kills and restarts the demo's worker processes.

Knows nothing of what they do, nor of who calls them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


class Workers:
    """The worker processes of one run.

    Args:
        url: The engine's address.
        log: The execution log's file.
        home: A directory for what the SDK leaves in the home directory.

    Attributes:
        kills: Unix times of the kills so far.
    """

    def __init__(self, url: str, log: Path, home: str) -> None:
        self._arguments = (url, str(log))
        self._environment = {**os.environ, "HOME": home, "OTEL_ENABLED": "false"}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.kills: list[float] = []

    def start(self, name: str) -> None:
        """Start a worker; it registers some hundred milliseconds later."""
        url, log = self._arguments
        self._running[name] = subprocess.Popen(  # noqa: S603 - our own module, by our own Python
            [sys.executable, "-m", "iii_resilience.cli.demo.worker_process", url, name, log],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment,
        )

    def kill(self, name: str) -> None:
        """Kill a worker (SIGKILL): it has no chance to say goodbye."""
        process = self._running.pop(name)
        self.kills.append(time.time())
        process.kill()
        process.communicate()

    def stop(self) -> None:
        """End all workers, by the end of their standard input."""
        for process in self._running.values():
            if process.stdin is not None:
                process.stdin.close()
        for process in self._running.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()
