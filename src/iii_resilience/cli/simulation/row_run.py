"""Runs one row: the processes that call under one policy, in virtual time, and what came of it.

The processes run the decorator and `client/` as they ship, each with budgets and breakers of its
own; the services are models. Knows nothing of terminals.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from random import Random
from typing import Any
from unittest.mock import patch

import attrs
import tenacity

from iii_resilience import telemetry
from iii_resilience.cli.simulation.measurement import Recorder, Row
from iii_resilience.cli.simulation.scenario import Scenario
from iii_resilience.cli.simulation.service_model import SimulatedError
from iii_resilience.cli.simulation.simulated_engine import (
    CallTrace,
    SimulatedEngine,
    current_trace,
)
from iii_resilience.client.trigger import Caller
from iii_resilience.config.book import PolicyBook
from iii_resilience.config.policy_set import PolicySet
from iii_resilience.core.guards.breaker import CircuitState
from iii_resilience.core.policy import Enqueued, RetryPolicy
from iii_resilience.core.report import report_for
from iii_resilience.retry.decorator import iii_retry
from iii_resilience.sdk.connection import Connection
from iii_resilience.sdk.propagation import InboundCall, from_metadata, handling
from iii_resilience.sdk.versions import sdk_of
from iii_resilience.testing.virtual_time import run_in_virtual_time

_SDK = sdk_of((0, 25, 0))  # whatever is installed, or nothing: a simulation is the same everywhere
_STEP = 1.0  # seconds of virtual time between two reports of the progress

Call = Callable[[], Awaitable[Any]]


@attrs.frozen
class RowSetting:
    """What one row runs.

    Attributes:
        name: What it is called.
        policy_set: The policies of callers and services.
        policy: Name of the policy of the calls; None for the one that the rules choose.
        tenacity: Whether tenacity alone retries, four attempts with random exponential waits.
    """

    name: str
    policy_set: PolicySet
    policy: str | None
    tenacity: bool = False


def run_row(
    setting: RowSetting,
    scenario: Scenario,
    seed: int,
    progress: Callable[[float], object] = lambda _: None,
) -> Row:
    """Run one row.

    Args:
        setting: The row.
        scenario: What happens.
        seed: Of all random numbers. The same seed gives all rows the same calls.
        progress: Is called now and then with the part of the time that has passed.
    """
    with _quiet():
        return run_in_virtual_time(_Run(setting, scenario, seed, progress).run())


@contextmanager
def _quiet() -> Iterator[None]:
    """No log, and random numbers that belong to the call that draws them."""
    logger = logging.getLogger("iii_resilience")
    level = logger.level
    with ExitStack() as stack:
        stack.callback(logger.setLevel, level)
        logger.setLevel(logging.CRITICAL + 1)
        stack.enter_context(patch.object(random, "random", _draw))
        stack.enter_context(patch.object(random, "uniform", _uniform))  # tenacity's
        yield


def _draw() -> float:
    trace = current_trace.get()
    return 0.5 if trace is None else trace.random.random()


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * _draw()


class _Run:
    """One row while it runs."""

    def __init__(
        self,
        setting: RowSetting,
        scenario: Scenario,
        seed: int,
        progress: Callable[[float], object],
    ) -> None:
        self._setting = setting
        self._scenario = scenario
        self._seed = seed
        self._progress = progress
        self._callers: dict[str, Caller] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._nested = 0

    async def run(self) -> Row:
        loop, scenario = asyncio.get_running_loop(), self._scenario
        began, calls = loop.time(), scenario.calls
        recorder = Recorder(
            scenario.duration, scenario.trouble, calls.in_time, lambda: loop.time() - began
        )
        engine = SimulatedEngine(
            scenario,
            self._setting.policy_set.queues,
            self._call_on,
            recorder,
            Random(f"{self._seed}:engine"),
        )
        self._callers = {
            function_id: Caller(Connection(engine.connect(), _SDK), self._book())
            for function_id, service in scenario.services.items()
            if service.calls is not None
        }

        def circuit_changed(_: str, __: CircuitState, after: CircuitState, ___: float) -> None:
            if after is CircuitState.OPEN:
                recorder.circuits.append(recorder.clock())

        with patch.object(telemetry, "circuit_changed", circuit_changed):
            tasks = [
                loop.create_task(self._process(number, engine, recorder))
                for number in range(calls.processes)
            ]
            tasks.append(loop.create_task(engine.follow_timetable()))
            end = scenario.duration + calls.in_time
            while recorder.clock() < end:
                await asyncio.sleep(_STEP)
                self._progress(min(1.0, recorder.clock() / end))
            # What has no answer by now is not in time.
            for task in [*tasks, *self._calls]:
                task.cancel()
            await asyncio.gather(*tasks, *self._calls, return_exceptions=True)
        return recorder.measured(self._setting.name)

    def _book(self) -> PolicyBook:
        """A book of one process: its guards keep states that no other process sees."""
        policy_set = self._setting.policy_set
        return PolicyBook.of(attrs.evolve(policy_set, policies=copy.deepcopy(policy_set.policies)))

    async def _process(self, number: int, engine: SimulatedEngine, recorder: Recorder) -> None:
        """One process: its calls start one after the other, whatever becomes of them."""
        loop, calls = asyncio.get_running_loop(), self._scenario.calls
        call = self._caller(number, engine)
        arrivals = Random(f"{self._seed}:{number}")
        each = calls.processes / calls.rate
        at, count = loop.time(), 0
        if calls.arrivals == "even":
            at += each * (number / calls.processes - 1.0)
        while True:
            at += each * (arrivals.expovariate(1.0) if calls.arrivals == "poisson" else 1.0)
            await asyncio.sleep(at - loop.time())
            if recorder.clock() >= self._scenario.duration:
                return
            count += 1
            trace = CallTrace(Random(f"{self._seed}:{number}:{count}"))
            task = loop.create_task(self._one_call(call, trace, recorder))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def _one_call(self, call: Call, trace: CallTrace, recorder: Recorder) -> None:
        current_trace.set(trace)
        started = recorder.called()
        try:
            answer = await call()
        except Exception as error:
            report = report_for(error)
            recorder.failed(started, "not_retryable" if report is None else report.reason.value)
        except asyncio.CancelledError:
            recorder.failed(started, "unfinished")
            raise
        else:
            if isinstance(answer, Enqueued):
                recorder.failed(started, "handed_off")
            else:
                recorder.answered(started)

    def _caller(self, number: int, engine: SimulatedEngine) -> Call:
        """What makes a call in one process."""
        calls, policy = self._scenario.calls, self._setting.policy
        book = self._book()
        selected = book.for_function(calls.function)
        chosen = selected.policy if policy is None else book.policy_set.policy(policy)
        request: dict[str, Any] = {"function_id": calls.function, "payload": {}}
        if self._setting.tenacity or calls.via == "decorator":
            seconds = chosen.attempt_timeout or calls.timeout

            async def work() -> Any:
                return await _plain_attempt(engine, request, seconds)

            if self._setting.tenacity:
                return _TENACITY.wraps(work)
            work.__qualname__ = f"{calls.function} in process {number}"  # its state is its own
            call: Call = iii_retry(idempotent=calls.idempotent, policy=chosen)(work)
            return call
        if chosen.attempt_timeout is None:
            request["timeout_ms"] = 1000 * calls.timeout
        caller = Caller(Connection(engine.connect(), _SDK), book)
        return partial(
            caller.trigger_async, request, calls.idempotent, policy, None, calls.accept_enqueued
        )

    async def _call_on(self, following: str, request: dict[str, Any]) -> Any:
        """A service calls another function, under its own policy and in its caller's time."""
        function_id = request["function_id"]
        self._nested += 1
        current_trace.set(CallTrace(Random(f"{self._seed}:nested:{self._nested}")))
        settings, calls = self._scenario.services[function_id], self._scenario.calls
        carried = from_metadata(request.get("metadata"))
        left = None if carried is None else carried.left
        now = asyncio.get_running_loop().time()
        inbound = InboundCall(None if left is None else now + left)
        book = self._callers[function_id]
        onward = {"function_id": following, "payload": {}, "timeout_ms": 1000 * calls.timeout}
        with handling(inbound):
            return await book.trigger_async(onward, calls.idempotent, settings.policy, None, False)


_TENACITY = tenacity.AsyncRetrying(
    stop=tenacity.stop_after_attempt(4),
    wait=tenacity.wait_random_exponential(multiplier=0.2, max=20),
    reraise=True,
)
"""As in tenacity's documentation, with the delays of the default policy."""


async def _plain_attempt(engine: SimulatedEngine, request: dict[str, Any], seconds: float) -> Any:
    """What a decorated function does: it calls the service and knows no engine."""
    try:
        return await engine.answered(request, seconds, TimeoutError)
    except SimulatedError as error:
        if error.code == "function_not_found":
            raise ConnectionRefusedError(error.message) from None
        if error.code == "invocation_stopped":
            raise ConnectionResetError(error.message) from None
        raise


NO_RETRIES = "no retries"
UNLIMITED = "4 attempts, no budget"


def without_retries(policy_set: PolicySet) -> PolicySet:
    """The same policies with one attempt each, and nothing that holds calls back."""
    return _each(policy_set, attempts=1, budget=None, breaker=None, bulkhead=None)


def without_budget(policy_set: PolicySet) -> PolicySet:
    """The same timeouts with four attempts, default delays, and nothing that holds them back."""
    return _each(
        policy_set,
        attempts=4,
        backoff=RetryPolicy().backoff,
        budget=None,
        breaker=None,
        bulkhead=None,
    )


def _each(policy_set: PolicySet, **changes: Any) -> PolicySet:
    return attrs.evolve(
        policy_set,
        policies={
            name: policy.replace(**changes, fallback=None, stop=None, wait=None)
            for name, policy in policy_set.policies.items()
        },
    )
