"""Processes of tests that start at once: forks of one that has imported what they need.

Half a second of processor time goes into importing the SDK, and the tests start a hundred workers.
Each is a process of its own all the same, with its own id, and is really killed. What a test shows
of the start or the end of an interpreter needs a `subprocess.Popen`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

_PRELOADED = [
    "iii",
    "iii_resilience.client.resilient",
    "iii_resilience.handling",
    "iii_resilience.handling.decorators.idempotency",
    "iii_resilience.handling.decorators.queue_consumer",
    "iii_resilience.handling.registration.keeper",
    "iii_resilience.stores.sqlite",
    "psycopg",
    "sqlite3",
    "support.warm_process",
]
_context = multiprocessing.get_context("forkserver")


class WarmProcess:
    """As `subprocess.Popen` of a Python program, with pipes of text as standard input and output.

    Args:
        program: The file that is run.
        arguments: What it finds in `sys.argv`.
        env: What its environment has beside that of the test.
    """

    def __init__(
        self, program: Path | str, *arguments: str, env: Mapping[str, str] | None = None
    ) -> None:
        _context.set_forkserver_preload(_PRELOADED)
        its_input, self._input = _context.Pipe(duplex=False)
        self._output, its_output = _context.Pipe(duplex=False)
        environment = {**os.environ, **(env or {})}
        self._process = _context.Process(
            target=_run,
            args=(str(program), arguments, environment, its_input, its_output),
            daemon=True,
        )
        self._process.start()
        its_input.close()
        its_output.close()

    @cached_property
    def stdin(self) -> IO[str]:
        """Where its standard input comes from."""
        return _opened(self._input, "w")

    @cached_property
    def stdout(self) -> IO[str]:
        """Where its standard output goes."""
        return _opened(self._output, "r")

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended; `TimeoutExpired` after so many seconds."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Close its input, wait for its end, and read the rest of its output: less than 64 KiB."""
        with suppress(BrokenPipeError):  # of what was written and never read
            self.stdin.close()
        self.wait(timeout)
        said = "" if self.stdout.closed else self.stdout.read()
        self.stdout.close()
        return said, None


def _opened(connection: Connection, mode: str) -> IO[str]:
    descriptor = os.dup(connection.fileno())
    connection.close()
    return open(descriptor, mode, encoding="utf-8")  # noqa: PTH123 - a descriptor


def _run(
    program: str,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    its_input: Connection,
    its_output: Connection,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(its_input.fileno(), 0)
    os.dup2(its_output.fileno(), 1)
    sys.stdin, sys.stdout = _opened(its_input, "r"), _opened(its_output, "w")
    sys.argv = [program, *arguments]
    sys.path.insert(0, str(Path(program).parent))
    runpy.run_path(program, run_name="__main__")
