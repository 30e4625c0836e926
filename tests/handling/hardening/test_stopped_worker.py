"""A worker that stands still under load: what its callers gave up meanwhile is not started."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from iii import InitOptions, register_worker
from support.processes import CLOCK_TOLERANCE, ECHO, PLAIN, Engine, Worker, read_log
from support.waiting import until

from iii_resilience import RetryPolicy, resilient
from iii_resilience.client.resilient import Resilient
from iii_resilience.sdk.versions import installed

STOPPED_FOR = [3.0, pytest.param(10.0, marks=pytest.mark.long)]  # seconds
# The call goes on long after the worker does: only its attempt is over.
POLICY = RetryPolicy(attempts=1, deadline=60.0, attempt_timeout=0.5, budget=None)
# Between the last look at the clock before a handler starts, and what it notes itself; a call that
# the stopped worker was sent at first is later than that.
NOTED_LATE = 1.0
CALLERS = 8


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path) as made:
        yield made


@pytest.fixture
def client(engine: Engine) -> Iterator[Resilient]:
    options = InitOptions(worker_name="caller", otel={"enabled": False})
    made = resilient(register_worker(engine.url, options), policies=POLICY)
    yield made
    made.shutdown()


@pytest.mark.parametrize("seconds", STOPPED_FOR)
@pytest.mark.skipif(installed().version < (0, 21, 3), reason="SDK before 0.21.3 has no metadata")
def test_no_handler_starts_for_caller_that_has_given_up(
    engine: Engine, client: Resilient, tmp_path: Path, seconds: float
) -> None:
    log = tmp_path / "log"
    worker = Worker(engine.url, "w", log, home=tmp_path, hardened=True).register()
    ended: dict[str, tuple[float, str]] = {}
    over = threading.Event()
    # A worker that is stopped between that look and the handler's first line starts it late. So all
    # callers pause while it is stopped.
    paused = [threading.Barrier(CALLERS + 1, timeout=60) for _ in range(2)]
    pause = threading.Event()

    def call(number: int) -> None:
        function_id = (ECHO, PLAIN)[number % 2]
        waits = list(paused)
        for count in range(10_000):
            if over.is_set():
                return
            if pause.is_set() and waits:
                waits.pop(0).wait()
                waits.pop(0).wait()
            order, how = f"{number}-{count}", "ok"
            request = {"function_id": function_id, "payload": {"order": order, "work": 0.01}}
            try:
                client.trigger(request)
            except Exception as error:
                how = str(getattr(error, "code", error))
            ended[order] = (time.time(), how)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    try:
        until(lambda: _answers(client))
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        pause.set()
        paused[0].wait()
        worker.stop()
        paused[1].wait()
        time.sleep(seconds)
        worker.go_on()
        back = time.time()
        until(lambda: sum(at > back and how == "ok" for at, how in list(ended.values())) > 50)
    finally:
        worker.go_on()
        over.set()
        for barrier in paused:
            barrier.abort()
        for thread in threads:
            thread.join(20)
        worker.end()
    gave_up = {order: at for order, (at, how) in ended.items() if how == "TIMEOUT"}
    assert len(gave_up) >= CALLERS, "callers gave up while the worker stood still"
    late = [
        (run.order, run.at - gave_up[run.order])
        for run in read_log(log)
        if run.order in gave_up and run.at > gave_up[run.order] + CLOCK_TOLERANCE + NOTED_LATE
    ]
    assert late == []


def _answers(client: Resilient) -> bool:
    request: dict[str, Any] = {"function_id": ECHO, "payload": {"order": "first"}}
    return bool(client.trigger(request) == "first")
