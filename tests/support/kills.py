"""A worker that is killed again and again under continuous calls, and what becomes of the calls.

Knows nothing of what is good or bad: the tests judge, and the benchmark prints. The worker is
killed (SIGKILL) every ``period`` seconds and a new one registers ``down`` seconds later; threads
and coroutines call all the while, one call after the other. The engine runs in a process of its
own.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import attrs
import tenacity
from iii import InitOptions, register_worker
from support.processes import ECHO, Engine, Run, Worker, read_log

from iii_resilience import Enqueue, Enqueued, RetryPolicy, classify, report_for, resilient

QUEUE = "kills"
_LEAST = 2  # kills of a run: on a busy machine it takes longer
_PATIENCE = 60.0  # seconds


@attrs.frozen
class Setting:
    """What is done to the worker, and by how many it is called.

    Attributes:
        seconds: How long the calls go on, at least.
        period: Seconds between kills.
        down: Seconds from a kill to the next worker's registration.
        threads: How many threads call.
        tasks: How many coroutines call.
        pause: Seconds that each of them lets pass between two calls.
        work: Seconds that each call takes in the worker.
        calls: How many calls each of them makes between two kills, at least.
    """

    seconds: float = 30.0
    period: float = 2.0
    down: float = 1.0
    threads: int = 8
    tasks: int = 50
    pause: float = 0.05
    work: float = 0.002
    calls: int = 3


@attrs.frozen
class Told:
    """What one caller was told.

    Attributes:
        order: The call.
        outcome: ``ok``, ``enqueued``, or the code of the exception.
        attempts: How many attempts its report shows; 1 where there is none.
    """

    order: str
    outcome: str
    attempts: int = 1


@attrs.frozen
class Result:
    """What became of all calls.

    Attributes:
        told: What each caller was told.
        runs: What the workers did.
        kills: How many workers were killed.
    """

    told: list[Told]
    runs: list[Run]
    kills: int

    @property
    def failed(self) -> list[Told]:
        """The calls that failed."""
        return [told for told in self.told if told.outcome not in {"ok", "enqueued"}]

    @property
    def share(self) -> float:
        """Which part of the calls failed."""
        return len(self.failed) / len(self.told)

    @property
    def codes(self) -> Counter[str]:
        """How the calls ended."""
        return Counter(told.outcome for told in self.told)

    @property
    def lost(self) -> list[str]:
        """Calls whose caller has, or will have, a result, and that never ran."""
        ran = {run.order for run in self.runs}
        failed = {told.order for told in self.failed}
        return [t.order for t in self.told if t.order not in ran and t.order not in failed]


class Contender(Protocol):
    """A way to make calls."""

    def call(self, request: dict[str, Any]) -> Any:
        """From a thread."""

    async def call_async(self, request: dict[str, Any]) -> Any:
        """From a coroutine."""

    def close(self) -> None:
        """Shut the client down."""


class Ours:
    """Calls through `resilient`.

    Args:
        client: The SDK's client.
        policy: The policy of the calls.
    """

    def __init__(self, client: Any, policy: RetryPolicy) -> None:
        self._worker = resilient(client, policies=policy)
        self._accept = policy.fallback is not None

    def call(self, request: dict[str, Any]) -> Any:
        """From a thread."""
        return self._worker.trigger(request, idempotent=True, accept_enqueued=self._accept)

    async def call_async(self, request: dict[str, Any]) -> Any:
        """From a coroutine."""
        return await self._worker.trigger_async(
            request, idempotent=True, accept_enqueued=self._accept
        )

    def close(self) -> None:
        """Shut the client down."""
        self._worker.shutdown()


class Bare:
    """Calls through the SDK's own client.

    Args:
        client: The SDK's client.
        around: What is put around each call; nothing by default.
    """

    def __init__(self, client: Any, around: Callable[[Any], Any] = lambda call: call) -> None:
        self._client = client

        def call(request: dict[str, Any]) -> Any:
            return client.trigger(request)

        async def call_async(request: dict[str, Any]) -> Any:
            return await client.trigger_async(request)

        self._call: Callable[[Any], Any] = around(call)
        self._call_async: Callable[[Any], Awaitable[Any]] = around(call_async)

    def call(self, request: dict[str, Any]) -> Any:
        """From a thread."""
        return self._call(request)

    async def call_async(self, request: dict[str, Any]) -> Any:
        """From a coroutine."""
        return await self._call_async(request)

    def close(self) -> None:
        """Shut the client down."""
        self._client.shutdown()


def _may_be_repeated(error: BaseException) -> bool:
    return getattr(error, "code", None) not in {"FORBIDDEN", "function_not_found"}


def _tenacity(**options: Any) -> Any:
    return tenacity.retry(
        stop=tenacity.stop_after_attempt(4),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=20.0),
        reraise=True,
        **options,
    )


CONTENDERS: dict[str, Callable[[Any], Contender]] = {
    "bare SDK": Bare,
    "tenacity that never repeats `function_not_found`": lambda client: Bare(
        client, _tenacity(retry=tenacity.retry_if_exception(_may_be_repeated))
    ),
    "tenacity that repeats everything": lambda client: Bare(client, _tenacity()),
    "resilient, registered wait off": lambda client: Ours(client, RetryPolicy(ready_timeout=0.0)),
    "resilient": lambda client: Ours(client, RetryPolicy()),
    "resilient, with a queue to fall back to": lambda client: Ours(
        client, RetryPolicy(fallback=Enqueue(QUEUE))
    ),
}


def run(contender: Callable[[Any], Contender], setting: Setting, home: Path) -> Result:
    """One run of the experiment.

    Args:
        contender: Makes the one that calls of an SDK client.
        setting: What is done, and for how long.
        home: A directory for what the run leaves behind.
    """
    log = home / "runs.log"
    with Engine(home) as engine:
        engine.call("define_queue", QUEUE)
        client: Any = register_worker(
            engine.url, InitOptions(worker_name="caller", otel={"enabled": False})
        )
        calling = contender(client)
        killer = _Killer(engine, log, home, setting)
        try:
            killer.start()
            engine.call("wait_registered", ECHO)
            told = _calls(calling, setting, lambda: killer.kills >= _LEAST)
            killer.stop()
            orders = {t.order for t in told if t.outcome == "enqueued"}
            _settle(log, orders)
            return Result(told, read_log(log), killer.kills)
        finally:
            calling.close()
            killer.stop()
            killer.end()


class _Killer:
    """Kills the worker and starts the next one, on a thread of its own."""

    def __init__(self, engine: Engine, log: Path, home: Path, setting: Setting) -> None:
        self._numbers = itertools.count(1)
        self._new = partial(Worker, engine.url, log=log, home=home)
        self._setting = setting
        self._log = log
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._serving = self._make()
        self._spare = self._make()
        self.kills = 0

    def _make(self) -> Worker:
        return self._new(name=f"target-{next(self._numbers)}")

    def start(self) -> None:
        self._serving.register()
        self._thread.start()

    def _run(self) -> None:
        setting = self._setting
        served = 0  # in all, when the serving worker was registered
        while not self._over.wait(setting.period - setting.down):
            # On a busy machine the period is short: what met the last kill would meet this one.
            if self._served() - served < setting.calls * (setting.threads + setting.tasks):
                continue
            self._serving.kill()
            self.kills += 1
            # A new process takes half a second of a core, as one does that a supervisor starts: it
            # is not the news of the death that has to wait for it.
            self._over.wait(setting.down / 10)
            self._serving, self._spare = self._spare, self._make()
            self._over.wait(setting.down * 9 / 10)
            served = self._served()
            self._serving.register()

    def _served(self) -> int:
        """How many calls have run."""
        return self._log.read_bytes().count(b"\n") if self._log.exists() else 0

    def stop(self) -> None:
        """No more kills; the last worker lives."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def end(self) -> None:
        self._serving.end()
        self._spare.end()


def _calls(calling: Contender, setting: Setting, enough: Callable[[], bool]) -> list[Told]:
    told: list[Told] = []
    until = time.monotonic() + setting.seconds

    def over() -> bool:
        now = time.monotonic()
        return now >= until + _PATIENCE or (now >= until and enough())

    def request(order: str) -> dict[str, Any]:
        payload = {"order": order, "work": setting.work}
        return {"function_id": ECHO, "payload": payload, "timeout_ms": 10_000}

    def in_thread(name: str) -> None:
        for number in itertools.count():
            if over():
                return
            order = f"{name}-{number}"
            try:
                told.append(_told(order, calling.call(request(order))))
            except Exception as error:
                told.append(_failed(order, error))
            time.sleep(setting.pause)

    async def in_task(name: str) -> None:
        for number in itertools.count():
            if over():
                return
            order = f"{name}-{number}"
            try:
                told.append(_told(order, await calling.call_async(request(order))))
            except Exception as error:
                told.append(_failed(order, error))
            await asyncio.sleep(setting.pause)

    async def all_tasks() -> None:
        await asyncio.gather(*(in_task(f"task{n}") for n in range(setting.tasks)))

    threads = [
        threading.Thread(target=in_thread, args=[f"thread{n}"]) for n in range(setting.threads)
    ]
    for thread in threads:
        thread.start()
    asyncio.run(all_tasks())
    for thread in threads:
        thread.join()
    return told


def _told(order: str, result: Any) -> Told:
    if isinstance(result, Enqueued):
        return Told(order, "enqueued")
    assert result == order, "a call got another one's result"
    return Told(order, "ok")


def _failed(order: str, error: Exception) -> Told:
    report = report_for(error)
    return Told(order, classify(error).code, 1 if report is None else len(report.attempts))


def _settle(log: Path, orders: set[str]) -> None:
    """Wait until what was handed to the queue has run."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if orders <= {run.order for run in read_log(log)}:
            return
        time.sleep(0.1)
