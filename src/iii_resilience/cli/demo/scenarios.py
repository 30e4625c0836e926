"""The demo's scenarios: the same orders meet the same faults twice.

Once they go through `resilient(worker)`, once through a plain tenacity decorator around the SDK.
Knows nothing of the command line.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from iii_resilience.cli.demo.callers import (
    HAND_OVER,
    NEEDS,
    NOT_THERE,
    QUEUE,
    Counted,
    DemoError,
    Order,
    OrderCaller,
    check_reachable,
    connect,
    quiet_sdk,
)
from iii_resilience.cli.demo.execution_log import CallReport, ExecutionLog, Ledger, Verdict, judge
from iii_resilience.cli.demo.worker_processes import Workers
from iii_resilience.core.classify import classify
from iii_resilience.core.policy import Enqueued
from iii_resilience.core.report import report_for

_THREADS = 8
_OVERSIZE = 65 * 1024 * 1024  # above the 64 MiB that SDK 0.25 sends (docs/engine-notes.md, 2)


PHASES = ("calm", "killed", "restarted", "hopeless", "slow", "handed_over")


@attrs.frozen
class Result:
    """One of the two runs: what the callers got, what was done, and the verdict."""

    name: str
    reports: list[CallReport]
    ledger: Ledger
    verdict: Verdict
    seconds: float
    left_out: tuple[str, ...] = ()


class DemoRun:
    """One of the two runs: phases of orders, each with its fault.

    Args:
        kind: `WithLibrary` or `WithTenacity`.
        url: Address of the engine.
        engine: The LoopbackEngine, or None for an engine that was already running.
        say: Called with a line of progress.
    """

    def __init__(
        self,
        kind: Callable[[Counted], OrderCaller],
        url: str,
        engine: Any,
        say: Callable[[str], None],
    ) -> None:
        self._kind = kind
        self._url = url
        self._engine = engine
        self._say = say
        self._reports: list[CallReport] = []
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._left_out: list[str] = []

    def run(self, phases: Sequence[str] = PHASES) -> Result:
        """The phases; then the verdict, from the workers' log."""
        began = time.monotonic()
        with ExitStack() as stack:
            home = stack.enter_context(tempfile.TemporaryDirectory(prefix="iii-demo-"))
            self._log = log = ExecutionLog(Path(home) / "executions.db")
            log.prepare()
            self._workers = Workers(self._url, Path(home) / "executions.db", home)
            stack.callback(self._workers.stop)
            self._workers.start("demo-orders")
            self._workers.start("demo-shipping")
            self._client = Counted(connect(self._url, home))
            self._caller = self._kind(self._client)
            stack.callback(self._caller.close)
            self._wait_registered(
                "demo::save", "demo::charge", "demo::ping", "demo::ship", "demo::render"
            )
            for phase in phases:
                getattr(self, f"_{phase}")()
            time.sleep(2.0)  # whatever the SDK still has queued comes out now, or never
            ledger = log.read()
        verdict = judge(ledger, self._reports, self._workers.kills)
        return Result(
            self._caller.name,
            self._reports,
            ledger,
            verdict,
            time.monotonic() - began,
            tuple(self._left_out),
        )

    # The phases.

    def _calm(self) -> None:
        self._say("calm: 48 orders, 12 charges, 6 handlers that crash, a call without payload")
        self._all(
            [
                *self._saves(48, certain=True),
                *self._charges(12, certain=True),
                self._order("empty", "demo::ping", {}, timeout_ms=500, certain=True),
                *(
                    self._order("save", "demo::save", {"declined": True}, expected=False)
                    for _ in range(6)
                ),
            ]
        )

    def _killed(self) -> None:
        self._say("a worker is killed in mid-call and back a second later: 60 orders, 8 charges")

        def fault() -> None:
            time.sleep(0.3)
            self._workers.kill("demo-orders")
            time.sleep(1.0)
            self._workers.start("demo-orders")

        self._all([*self._charges(8, work=0.6), *self._saves(60, work=0.12)], fault)

    def _restarted(self) -> None:
        if self._engine is None:
            self._left_out.append("the engine's restart: only the loopback engine can be restarted")
            return
        self._say("the engine restarts under the calls: 60 orders, 8 charges")

        def fault() -> None:
            time.sleep(0.3)
            self._engine.restart(down_for=2.0)

        # Timeouts shorter than the outage: what the SDK queues meanwhile outlives its callers.
        orders = [
            *self._saves(60, work=0.05, timeout_ms=600),
            *self._charges(8, work=0.05, timeout_ms=600),
        ]
        orders.sort(key=lambda order: order.id[-1])  # charges in between
        self._all(orders, fault)
        self._wait_registered("demo::save", "demo::ship")

    def _hopeless(self) -> None:
        missing = [
            self._order("missing", "demo::missing", {}, expected=False, policy=NOT_THERE)
            for _ in range(6)
        ]
        oversize = [
            self._order("oversize", "demo::save", {"blob": "x" * _OVERSIZE}, expected=False)
            for _ in range(1)
        ]
        if self._engine is None:
            self._say("what no retry can help: 6 missing functions, 1 oversize payload")
            self._left_out.append("FORBIDDEN: it needs an engine with access rules")
            self._all([*missing, *oversize])
            return
        self._say("what no retry can help: 6 forbidden, 6 missing, 1 oversize payload")
        self._engine.forbid("demo::admin")
        forbidden = [self._order("forbidden", "demo::admin", {}, expected=False) for _ in range(6)]
        self._all([*forbidden, *missing, *oversize])

    def _slow(self) -> None:
        self._say("handlers slower than their callers' patience: 8 slow once, 2 always")
        self._all(
            [
                *(
                    self._order(
                        "report", "demo::render", {"slow": 1.0, "slow_runs": 1}, timeout_ms=600
                    )
                    for _ in range(8)
                ),
                *(
                    self._order(
                        "report",
                        "demo::render",
                        {"slow": 1.0, "slow_runs": 99},
                        timeout_ms=300,
                        expected=False,
                    )
                    for _ in range(2)
                ),
            ]
        )

    def _handed_over(self) -> None:
        if not self._queue_is_there():
            self._left_out.append("the hand-over to a queue: this engine has no queue worker")
            return
        self._say("a worker stays away: 12 orders are handed to a queue, and it comes back")
        self._workers.kill("demo-shipping")
        self._all([self._order("ship", "demo::ship", {}, policy=HAND_OVER) for _ in range(12)])
        self._workers.start("demo-shipping")
        self._wait_registered("demo::ship")
        enqueued = [t.order_id for t in self._reports if t.outcome == "enqueued"]
        self._settle(enqueued)

    # How a phase runs.

    def _order(self, kind: str, function_id: str, payload: dict[str, Any], **more: Any) -> Order:
        return Order(f"{kind}-{next(self._numbers):04d}", kind, function_id, payload, **more)

    def _saves(self, count: int, work: float = 0.0, **more: Any) -> list[Order]:
        return [self._order("save", "demo::save", {"work": work}, **more) for _ in range(count)]

    def _charges(self, count: int, work: float = 0.0, **more: Any) -> list[Order]:
        return [
            self._order("charge", "demo::charge", {"work": work}, idempotent=False, **more)
            for _ in range(count)
        ]

    def _all(self, orders: list[Order], fault: Callable[[], None] | None = None) -> None:
        """Make all calls, three quarters from threads and a quarter from coroutines."""
        sync = [order for place, order in enumerate(orders) if place % 4]
        coroutines = orders[::4]
        with ThreadPoolExecutor(_THREADS + 2) as pool:
            others = [pool.submit(asyncio.run, self._make_all(coroutines))]
            if fault is not None:
                others.append(pool.submit(fault))
            for future in [*[pool.submit(self._make, order) for order in sync], *others]:
                future.result()

    def _make(self, order: Order) -> None:
        with self._recorded(order) as answer:
            answer.append(self._caller.call(order))

    async def _make_all(self, orders: list[Order]) -> None:
        at_once = asyncio.Semaphore(_THREADS)

        async def make(order: Order) -> None:
            async with at_once:
                with self._recorded(order) as answer:
                    answer.append(await self._caller.call_async(order))

        await asyncio.gather(*map(make, orders))

    @contextmanager
    def _recorded(self, order: Order) -> Iterator[list[Any]]:
        """Record what the caller gets; no failure leaves here."""
        answer: list[Any] = []
        started = time.time()
        outcome, category, decision = "ok", "", ""
        try:
            yield answer
            if answer and isinstance(answer[0], Enqueued):
                outcome, decision = "enqueued", "handed_off"
                category = answer[0].failure.category.value
        except Exception as error:
            failure = classify(error, function_id=order.function_id)
            report = report_for(error)
            outcome, category = failure.code, failure.category.value
            decision = report.reason.value if report is not None else "gave up"
        made = CallReport(
            order_id=order.id,
            kind=order.kind,
            idempotent=order.idempotent,
            outcome=outcome,
            category=category,
            decision=decision,
            attempts=self._client.attempts("demo::ping" if order.kind == "empty" else order.id),
            started=started,
            ended=time.time(),
            expected=order.expected,
            certain=order.certain,
            most=order.most,
        )
        with self._lock:
            self._reports.append(made)

    # Calls through the plain SDK: the demo's own requests do not count.

    def _wait_registered(self, *function_ids: str) -> None:
        until = time.monotonic() + 20.0
        missing = list(function_ids)
        while missing:
            if time.monotonic() > until:
                raise DemoError(f"the demo's workers did not register {', '.join(missing)} in 20 s")
            try:
                answer = self._client.trigger(
                    {
                        "function_id": "engine::functions::info",
                        "payload": {"function_ids": missing},
                        "timeout_ms": 1000,
                    }
                )
                missing = [item["function_id"] for item in answer["functions"] if "error" in item]
            except Exception as error:
                if getattr(error, "code", None) != "TIMEOUT":
                    raise DemoError(
                        f"the engine does not answer engine::functions::info: {error}"
                    ) from error
            time.sleep(0.05)

    def _queue_is_there(self) -> bool:
        if self._engine is not None:
            self._engine.define_queue(QUEUE, max_retries=3, backoff_ms=200)
            return True
        try:
            self._client.trigger(
                {
                    "function_id": "queue::define",
                    "payload": {"queue": QUEUE, "config": {"max_retries": 3, "backoff_ms": 200}},
                    "timeout_ms": 3000,
                }
            )
        except Exception:
            return False
        return True

    def _settle(self, order_ids: list[str]) -> None:
        """Give the queue time to deliver what it has a receipt for."""
        until = time.monotonic() + 10.0
        while time.monotonic() < until:
            effects = self._log.read().effects
            if all(effects[order_id] for order_id in order_ids):
                return
            time.sleep(0.1)


def run_demo(
    kind: Callable[[Counted], OrderCaller],
    url: str | None,
    say: Callable[[str], None],
    phases: Sequence[str] = PHASES,
) -> Result:
    """One run.

    Args:
        kind: `WithLibrary` or `WithTenacity`.
        url: An engine that is already running, or None to start a LoopbackEngine.
        say: Called with a line of progress for each phase.
        phases: Which of `PHASES` to run.

    Raises:
        DemoError: The demo cannot run.
    """
    if url is not None:
        check_reachable(url)
        with quiet_sdk():
            return DemoRun(kind, url, None, say).run(phases)
    from iii_resilience.testing import LoopbackEngine  # noqa: PLC0415 - needs an extra

    try:
        engine = LoopbackEngine().start()
    except ImportError:
        raise DemoError(NEEDS) from None
    try:
        with quiet_sdk():
            return DemoRun(kind, engine.url, engine, say).run(phases)
    finally:
        engine.stop()
