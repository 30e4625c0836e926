"""Processes for tests: an engine of its own, and workers that are really killed.

Knows nothing of what a test shows with them. Each process ends when its standard input does, so
that none outlives its test. What the workers did stands in a file that they append to, so that one
that is killed takes nothing with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs

if TYPE_CHECKING:
    from support.warm_process import WarmProcess

ECHO = "proof::echo"
"""An asynchronous function of every worker here: it writes down that it runs, and works for the
seconds that its payload names, or at the worker alone whose name stands beside them."""
CLOCK_TOLERANCE = 0.1
"""Of hardened workers, in seconds: here all processes read one clock."""
AT_RANDOM = '{"type": "transient", "message": "at random"}'
"""How a call of `ECHO` that does not work fails, with the probability that its payload names."""
PLAIN = "proof::plain"
"""The same, not asynchronous: it runs on a thread of the worker's."""


class Process:
    """A process of this file's; it ends with its standard input.

    Args:
        python: The interpreter, which has the SDK that the process is to use.
        home: What it takes for the home directory.
        role: What it does, and with what.
    """

    def __init__(self, role: list[str], *, home: Path, python: str = sys.executable) -> None:
        env = {"HOME": str(home), "OTEL_ENABLED": "false"}
        self._process: WarmProcess | subprocess.Popen[str]
        if python == sys.executable:
            from support.warm_process import WarmProcess  # not there for a process of this file

            self._process = WarmProcess(__file__, *role, env=env)
            return
        self._process = subprocess.Popen(
            [python, __file__, *role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **env},
            text=True,
        )

    def write(self, line: str) -> None:
        """Say something to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def read(self) -> str:
        """Hear something of it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process has ended"
        return line.strip()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once (SIGKILL), if it has not ended."""
        self._process.kill()
        self._process.communicate()

    def end(self) -> None:
        """End it by the end of its standard input."""
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()


class Engine:
    """A LoopbackEngine in a process of its own; every public method of it can be called.

    Args:
        home: What the process takes for the home directory.
    """

    def __init__(self, home: Path) -> None:
        self._process = Process(["engine"], home=home)
        self.url: str = json.loads(self._process.read())

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the engine."""
        self._process.write(json.dumps([method, *arguments]))
        answer = json.loads(self._process.read())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.end()


class Worker:
    """A worker process; it has loaded everything when it is made, and registers when it is told.

    Args:
        url: The engine's address.
        name: The worker's name.
        log: Where it writes down what it does.
        home: What the process takes for the home directory.
        python: The interpreter, which has the SDK that the worker uses.
        prefix: What stands before the ``::`` of its functions' ids.
        hardened: Whether its functions are registered through `resilient`.
    """

    def __init__(
        self,
        url: str,
        name: str,
        log: Path,
        *,
        home: Path,
        python: str = sys.executable,
        prefix: str = "proof",
        hardened: bool = False,
    ) -> None:
        role = ["worker", url, name, str(log), prefix, "hardened" if hardened else "bare"]
        self._process = Process(role, home=home, python=python)

    def register(self) -> Self:
        """Connect and register the functions; returns when the SDK has been told to."""
        assert self._process.read() == "loaded"
        self._process.write("register")
        assert self._process.read() == "registered"
        return self

    def kill(self) -> None:
        """End it at once: it has no chance to say goodbye."""
        self._process.kill()

    def stop(self) -> None:
        """Let it stand still (SIGSTOP), until `go_on`."""
        self._process.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on (SIGCONT)."""
        self._process.signal(signal.SIGCONT)

    def end(self) -> None:
        """Let it go."""
        self._process.end()


@attrs.frozen
class Run:
    """One execution.

    Attributes:
        order: What was called for.
        at: When it started, in Unix time.
        worker: The worker's name.
    """

    order: str
    at: float
    worker: str


def read_log(log: Path) -> list[Run]:
    """What the workers did so far."""
    if not log.exists():
        return []
    lines = (line.split("\t") for line in log.read_text().splitlines())
    return [Run(order, float(at), worker) for order, at, worker in lines]


def failures(share: float) -> Iterator[bool]:
    """Which attempts fail: at random, but in each 1 / `share` in a row just one.

    Independent draws would now and then fail so many of 50 that no bound of a test holds.
    """
    while True:
        block = [True] + [False] * (round(1 / share) - 1)
        random.shuffle(block)
        yield from block


# In the processes.


def _engine() -> None:
    from iii_resilience import testing

    with testing.LoopbackEngine(keep=1) as engine:
        print(json.dumps(engine.url), flush=True)
        for line in sys.stdin:
            method, *arguments = json.loads(line)
            if method == "inject":  # function id, the fault's class, and its arguments
                arguments[1:] = [getattr(testing, arguments[1])(**arguments[2])]
            try:
                answer = {"result": getattr(engine, method)(*arguments)}
            except Exception as error:
                answer = {"error": repr(error)}
            print(json.dumps(answer), flush=True)


def _worker(url: str, name: str, path: str, prefix: str, how: str) -> None:
    from iii import InitOptions, register_worker
    from iii.iii_constants import ReconnectionConfig

    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(data: Any) -> None:
        os.write(log, f"{data.get('order', '?')}\t{time.time()!r}\t{name}\n".encode())

    fails: dict[float, Iterator[bool]] = {}  # by share

    async def echo(data: Any) -> Any:
        work = data.get("work", 0.0) if data.get("at", name) == name else 0.0
        share = data.get("failing", 0.0)
        if share and not work and next(fails.setdefault(share, failures(share))):
            raise RuntimeError(AT_RANDOM)
        note(data)
        await asyncio.sleep(work)
        return data.get("order")

    def plain(data: Any) -> Any:
        note(data)
        time.sleep(data.get("work", 0.0))
        return data.get("order")

    print("loaded", flush=True)
    if not sys.stdin.readline():
        return
    # Back after its callers: what the SDK queued meanwhile would find it there.
    reconnection = ReconnectionConfig(initial_delay_ms=50, max_delay_ms=100)
    options = InitOptions(
        worker_name=name, otel={"enabled": False}, reconnection_config=reconnection
    )
    client: Any = register_worker(url, options)
    if how == "hardened":
        from iii_resilience import resilient

        client = resilient(client, clock_tolerance=CLOCK_TOLERANCE)
    client.register_function(f"{prefix}::echo", echo)
    client.register_function(f"{prefix}::plain", plain)
    print("registered", flush=True)
    sys.stdin.read()
    client.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "engine":
        _engine()
    else:
        _worker(*sys.argv[2:])
