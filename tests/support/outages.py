"""An engine that goes away in the middle of many calls, and what becomes of each of them.

Knows nothing of what is good or bad: the tests judge. The engine and the worker run in processes of
their own; threads and coroutines call through one client, which notes every time the SDK is handed
a call.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from iii import InitOptions, register_worker
from iii.iii_constants import ReconnectionConfig
from support.processes import CLOCK_TOLERANCE, ECHO, Engine, Run, Worker, read_log

from iii_resilience import Backoff, Execution, RetryPolicy, classify, report_for, resilient
from iii_resilience.client.resilient import Resilient


@attrs.frozen
class Setting:
    """How much is called, and for how long the engine is away.

    Attributes:
        from_threads: How many calls are made from eight threads.
        from_tasks: How many calls are made from coroutines.
        away: Seconds for which the engine is down or stalled.
        deadline: Seconds each call may take.
        timeout_ms: Timeout of each attempt.
    """

    from_threads: int = 120
    from_tasks: int = 40
    # Not as long as the timeout: before 0.24.4 the answer that comes as its call times out ends the
    # SDK's reading for good (docs/engine-notes.md, 6).
    away: float = 2.0
    deadline: float = 15.0
    timeout_ms: int = 1500

    def ending(self) -> Setting:
        """For a client that does not come back: there is no use in waiting."""
        return attrs.evolve(self, from_threads=64, deadline=2.0)


@attrs.frozen
class Told:
    """What one caller was told.

    Attributes:
        order: The call.
        code: The code of its exception, or None for a result.
        execution: What its report says of having run, or None where there is none.
        began: When it was made, in Unix time.
        ended: When it ended, in Unix time.
    """

    order: str
    code: str | None
    execution: Execution | None
    began: float
    ended: float


@attrs.frozen
class Result:
    """What became of all calls.

    Attributes:
        told: What each caller was told.
        runs: What the worker did.
        handed: How often the SDK was handed each call.
        back: Whether calls succeed after it all, once the worker is through with what waited.
        hardened: Whether the worker knows how long its callers wait.
    """

    told: list[Told]
    runs: list[Run]
    handed: Counter[str]
    back: bool
    hardened: bool

    @property
    def codes(self) -> Counter[str]:
        """How the calls ended."""
        return Counter(told.code or "ok" for told in self.told)

    @property
    def unreported(self) -> list[Told]:
        """Failures without a report."""
        return [t for t in self.told if t.code is not None and t.execution is None]

    def late(self, deadline: float) -> list[Told]:
        """Calls that ended after their deadline."""
        return [t for t in self.told if t.ended - t.began > deadline]

    @property
    def too_often(self) -> list[str]:
        """Calls that ran more often than they were handed to the SDK."""
        runs = Counter(run.order for run in self.runs)
        return [order for order, times in runs.items() if times > self.handed[order]]

    @property
    def ghosts(self) -> list[str]:
        """Calls that ran although, or after, their caller was told that they had not.

        What the SDK was handed before the connection went may run later: an unwrapped worker does
        not know that nobody waits. Then the caller was told that it may have run. A hardened one
        knows how long its caller waits, and starts nothing after that.
        """
        by_order = {told.order: told for told in self.told}
        ghosts = []
        for run in self.runs:
            told = by_order.get(run.order)
            if told is None:
                continue
            not_run = told.execution is Execution.NOT_EXECUTED
            after = told.code is not None and run.at > told.ended + 0.1
            untold = after and told.execution is not Execution.MAYBE_EXECUTED
            unwaited = self.hardened and after and run.at > told.ended + 3 * CLOCK_TOLERANCE
            if not_run or untold or unwaited:
                ghosts.append(run.order)
        return ghosts


class Counted:
    """The SDK's client, noting what it is handed."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.handed: Counter[str] = Counter()

    async def trigger_async(self, request: dict[str, Any]) -> Any:
        """As the SDK's."""
        order = (request.get("payload") or {}).get("order")
        if order is not None:
            self.handed[order] += 1
        return await self._client.trigger_async(request)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def _down(engine: Engine, away: float) -> None:
    engine.call("stop_listening")
    time.sleep(away)
    engine.call("listen")


def _stalled(engine: Engine, away: float) -> None:
    engine.call("stall")
    time.sleep(away)
    engine.call("resume")


def _closed(code: int | None) -> Callable[[Engine, float], None]:
    def close(engine: Engine, away: float) -> None:
        engine.call("disconnect", None, code)

    return close


OUTAGES: dict[str, Callable[[Engine, float], None]] = {
    "down": _down,
    "reset": _closed(None),
    "closed-1000": _closed(1000),
    "closed-1001": _closed(1001),
    "closed-1011": _closed(1011),
    "stalled": _stalled,
}


def run(
    outage: Callable[[Engine, float], None], setting: Setting, home: Path, *, hardened: bool = False
) -> Result:
    """One outage.

    Args:
        outage: What happens to the engine, once a third of the calls have ended.
        setting: How much is called.
        home: A directory for what the run leaves behind.
        hardened: Whether the worker is to know how long its callers wait.
    """
    log = home / "runs.log"
    with Engine(home) as engine:
        worker = Worker(engine.url, "target", log, home=home, hardened=hardened).register()
        options = InitOptions(
            worker_name="caller",
            otel={"enabled": False},
            reconnection_config=ReconnectionConfig(initial_delay_ms=50, max_delay_ms=200),
        )
        client = Counted(register_worker(engine.url, options))
        policy = RetryPolicy(
            attempts=8,
            deadline=setting.deadline,
            backoff=Backoff(base=0.1, cap=1.0),
            ready_timeout=setting.deadline,
        )
        calling = resilient(client, policies=policy)
        try:
            engine.call("wait_registered", ECHO)
            calls = _Calls(calling, setting)
            third = threading.Thread(target=lambda: calls.third(outage, engine))
            third.start()
            calls.make()
            third.join()
            told = list(calls.told)
            back = calls.back()
            time.sleep(0.5)  # what comes late has come by then
            return Result(told, read_log(log), client.handed, back, hardened)
        finally:
            calling.shutdown()
            worker.end()


class _Calls:
    """The calls, and what was told."""

    def __init__(self, calling: Resilient, setting: Setting) -> None:
        self._calling = calling
        self._setting = setting
        self.told: list[Told] = []
        self._over = threading.Event()

    def third(self, outage: Callable[[Engine, float], None], engine: Engine) -> None:
        """Make the outage when a third of the calls have ended."""
        third = (self._setting.from_threads + self._setting.from_tasks) / 3
        while len(self.told) < third and not self._over.wait(0.005):
            pass
        outage(engine, self._setting.away)

    def make(self) -> None:
        """All calls."""
        numbers = itertools.count()
        most, many = self._setting.from_threads, self._setting.from_tasks

        def in_thread() -> None:
            while (number := next(numbers)) < most:
                self.one(f"thread-{number}")
                time.sleep(0.02)

        async def in_task(number: int) -> None:
            await asyncio.sleep(number * 0.02)
            await self.one_async(f"task-{number}")

        async def all_tasks() -> None:
            await asyncio.gather(*(in_task(number) for number in range(many)))

        threads = [threading.Thread(target=in_thread) for _ in range(8)]
        for thread in threads:
            thread.start()
        asyncio.run(all_tasks())
        for thread in threads:
            thread.join()
        self._over.set()

    def back(self) -> bool:
        """Whether one of the calls that come after all of them succeeds."""
        until, number = time.monotonic() + 4 * self._setting.deadline, 0
        while self.one(f"after-{number}").code is not None:
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
            number += 1
        return True

    def one(self, order: str) -> Told:
        """One call from a thread."""
        began = time.time()
        try:
            result = self._calling.trigger(self._request(order), idempotent=True)
        except Exception as error:
            return self._failed(order, error, began)
        return self._ok(order, result, began)

    async def one_async(self, order: str) -> Told:
        """One call from a coroutine."""
        began = time.time()
        try:
            result = await self._calling.trigger_async(self._request(order), idempotent=True)
        except Exception as error:
            return self._failed(order, error, began)
        return self._ok(order, result, began)

    def _request(self, order: str) -> dict[str, Any]:
        payload = {"order": order, "work": 0.01}
        return {
            "function_id": ECHO,
            "payload": payload,
            "timeout_ms": self._setting.timeout_ms,
        }

    def _ok(self, order: str, result: Any, began: float) -> Told:
        assert result == order, "a call got another one's result"
        return self._note(Told(order, None, None, began, time.time()))

    def _failed(self, order: str, error: Exception, began: float) -> Told:
        report = report_for(error)
        execution = None if report is None else report.execution
        return self._note(Told(order, classify(error).code, execution, began, time.time()))

    def _note(self, told: Told) -> Told:
        self.told.append(told)
        return told
