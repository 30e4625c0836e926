"""A run in which everything happens that metrics, spans and log records tell of."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from support.engine_fixtures import QUICK
from support.telemetry_fixtures import Seen
from support.waiting import until

from iii_resilience import (
    Backoff,
    Breaker,
    Budget,
    Bulkhead,
    ConfigError,
    Enqueue,
    InvalidPayloadError,
    Limit,
    Reroute,
    iii_retry,
    load_policies,
    resilient,
)
from iii_resilience.client.resilient import Resilient
from iii_resilience.handling import TransientError, consumer
from iii_resilience.stores import MemoryStore
from iii_resilience.testing import AnswerError, LoopbackEngine

STOPPED = AnswerError("invocation_stopped", "Invocation stopped")


@pytest.fixture
def told(
    seen: Seen,
    engine: LoopbackEngine,
    target: Any,
    connect: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[list[logging.LogRecord]]:
    """A run in which everything happens that is told of; its records."""
    caplog.set_level(logging.DEBUG, logger="iii_resilience")
    parking = MemoryStore()
    limit = Limit(concurrency=100)
    worker = resilient(target, keep_registered=True, limit=limit)
    relay = resilient(connect("relay"), relay=parking)
    caller = resilient(connect("caller"), policies=QUICK)
    later = Backoff(base=900.0, cap=900.0)

    @consumer(parking=parking, key="n", queue="q", function_id="t::waits", retry_later=later)
    def waits(data: Any) -> None:
        raise TransientError("busy")

    @consumer(parking=parking, function_id="t::parks")
    def parks(data: Any) -> None:
        raise ValueError

    def fails(data: Any) -> None:
        raise ValueError

    async def fill(data: Any) -> None:
        while len(engine.calls("t::full")) < 3:  # until the other one was refused, and is back
            await asyncio.sleep(0.01)

    worker.register_function("t::fails", fails)
    worker.register_function("t::parks", parks)
    worker.register_function("t::waits", waits)
    worker.register_function("t::f", lambda data: "done")
    worker.register_function("t::full", fill, limit=Limit(concurrency=1, wait=0.0))
    worker.register_function("t::other", lambda data: "done")
    engine.wait_registered("t::fails", "t::parks", "t::waits", "t::f", "t::full", "t::other")
    bulkhead = Bulkhead(limit=2)  # seen as long as it is used
    everything(caller, engine, bulkhead)
    refused_reload()
    # The keeper polls about once a second, and a relay counts every five seconds.
    late = {"iii.worker.registration.transitions", "iii.relay.waiting"}
    until(lambda: late <= seen.metrics().keys(), timeout=60)
    caller.shutdown()
    worker.shutdown()
    yield [r for r in caplog.records if r.name == "iii_resilience"]
    relay.shutdown()
    del bulkhead, parking


def pause() -> None:
    time.sleep(0.02)


def refused_reload() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "p.yaml"
        path.write_text("version: 1\npolicies: {default: {attempts: 2}}\n", "utf-8")
        book = load_policies(path)
        path.write_text("version: 1\npolicies: {default: {attempts: 0}}\n", "utf-8")
        with pytest.raises(ConfigError):
            book.reload()


def everything(caller: Resilient, engine: LoopbackEngine, bulkhead: Bulkhead) -> None:
    def call(function_id: str, payload: Any = None, **options: Any) -> None:
        with suppress(Exception):
            request = {"function_id": function_id, "payload": payload or {}}
            caller.trigger(request, idempotent=True, **options)

    call("t::f")  # a success at once
    engine.inject("t::f", STOPPED)
    call("t::f")  # one after a retry
    engine.inject("t::f", STOPPED, times=2)
    call("t::f", policy=QUICK.replace(attempts=2))  # one that is given up
    call("t::f", policy=QUICK.replace(bulkhead=bulkhead))
    call("t::fails")
    call("t::parks")
    call("t::waits", {"n": 1})
    with ThreadPoolExecutor() as pool:  # one of them is refused, and retried
        list(pool.map(call, ["t::full", "t::full"]))
    with pytest.raises(InvalidPayloadError):
        caller.trigger({"function_id": "t::f", "payload": float("nan")})
    for fallback, fails in [(Reroute("t::other"), 0), (Reroute("t::other"), 1), (Enqueue("q"), 0)]:
        engine.inject("t::f", STOPPED)
        if fails:
            engine.inject("t::other", AnswerError("FORBIDDEN", "no"))
        policy = QUICK.replace(attempts=1, fallback=fallback)
        call("t::f", policy=policy, accept_enqueued=True)
    breaker = Breaker(min_calls=1, open=0.05, probes=1)
    engine.inject("t::f", STOPPED)
    for _ in range(2):
        call("t::f", policy=QUICK.replace(attempts=1, breaker=breaker, deadline=None))
        pause()
        pause()
        pause()

    failures = iter([ConnectionError(), KeyboardInterrupt()])

    @iii_retry(idempotent=True, policy=QUICK.replace(budget=Budget()))
    def decorated() -> None:
        raise next(failures)

    with pytest.raises(KeyboardInterrupt):
        decorated()

    def exhausted() -> None:
        raise ConnectionError

    of_function, shared = (Budget(ratio=0, burst=1, min_per_second=0) for _ in range(2))
    EMPTIED.extend([of_function, shared])
    for decorate in (
        iii_retry(idempotent=True, policy=QUICK.replace(budget=of_function)),
        iii_retry(idempotent=True, policy=QUICK, budget=shared),
    ):
        with pytest.raises(ConnectionError):
            decorate(exhausted)()

    @iii_retry(idempotent=True, policy=QUICK, wait=_raise)
    def undecided() -> None:
        raise ConnectionError

    with pytest.raises(ZeroDivisionError):
        undecided()


EMPTIED: list[Budget] = []
"""Budgets that are empty when the metrics are read."""


def _raise(_: Any) -> float:
    raise ZeroDivisionError
