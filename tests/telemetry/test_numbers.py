"""The numbers add up: spans, reports, metrics, records, what the SDK was handed, what was received.

Random calls meet random faults, each function only its own, so that everything that is told of one
can be held against what the engine has in its log.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from support.engine_fixtures import QUICK
from support.telemetry_fixtures import Metric, Seen, attributes
from support.waiting import until

from iii_resilience import Breaker, Enqueue, Reroute, RetryPolicy, report_for, resilient
from iii_resilience.client.resilient import Resilient
from iii_resilience.testing import AnswerError, CutCaller, CutTarget, Delay, Fault, LoopbackEngine

OTHER = "t::other"
TRANSIENT = ["invocation_stopped", "timeout", "channel_send_failed"]
FINAL = ["FORBIDDEN", "invocation_failed", "NO_SUCH_CODE", "payload_too_large"]
CALLS = 25


@attrs.define
class Call:
    """One random call and how it went."""

    function_id: str
    faults: list[Fault]
    options: dict[str, Any]
    action: str | None
    is_async: bool
    error: Exception | None = None
    payload: Any = attrs.field(factory=dict)


def fault(dice: random.Random) -> Fault:
    kind = dice.random()
    if kind < 0.55:
        return AnswerError(dice.choice(TRANSIENT), "m")
    if kind < 0.7:
        return AnswerError(dice.choice(FINAL), "m")
    if kind < 0.8:
        return CutCaller()
    if kind < 0.9:
        return CutTarget()
    return Delay(0.01)


def scenario(dice: random.Random, number: int) -> Call:
    policy: RetryPolicy = QUICK.replace(
        attempts=dice.randint(1, 4),
        fallback=dice.choice([None, None, Reroute(OTHER), Enqueue("q")]),
        breaker=dice.choice([None, None, Breaker(min_calls=2, window=60.0)]),
        retry_unexecuted=dice.random() < 0.3,
    )
    action = dice.choice([None, None, None, None, "void", "enqueue"])
    return Call(
        f"t::f{number}",
        [fault(dice) for _ in range(dice.choice([0, 0, 1, 1, 2, 3, 4]))],
        {
            "policy": policy,
            "idempotent": dice.choice([True, True, True, False]),
            "accept_enqueued": dice.random() < 0.5,
        },
        action,
        dice.random() < 0.5,
        payload=float("nan") if dice.random() < 0.05 else {},
    )


def make(call: Call, caller: Resilient) -> None:
    request: dict[str, Any] = {"function_id": call.function_id, "payload": call.payload}
    if call.action is not None:
        request["action"] = {"type": call.action}
        if call.action == "enqueue":
            request["action"]["queue"] = "q"
    epoch = caller._connection.epoch
    try:
        if call.is_async:
            asyncio.run(caller.trigger_async(request, **call.options))
        else:
            caller.trigger(request, **call.options)
    except Exception as error:
        call.error = error
        return
    if call.action == "void" and call.faults and isinstance(call.faults[0], CutCaller):
        # Nobody waits for a Void: the connection that it costs must not be the next call's.
        end = time.monotonic() + 10
        while caller._connection.epoch == epoch and time.monotonic() < end:
            time.sleep(0.005)


@pytest.fixture
def handed() -> Counter[str]:
    """How often the SDK was handed a call of each function."""
    return Counter()


@pytest.fixture
def counted(connect: Callable[..., Any], handed: Counter[str]) -> Resilient:
    client = connect("caller")
    real = client.trigger_async

    async def trigger_async(request: Any, *args: Any, **more: Any) -> Any:
        handed[request["function_id"]] += 1
        return await real(request, *args, **more)

    client.trigger_async = trigger_async
    return resilient(client, policies=QUICK)


@attrs.frozen
class Told:
    """Everything that was told of the calls, by whoever tells it."""

    spans: dict[str, tuple[ReadableSpan, list[ReadableSpan]]]
    fallbacks: list[dict[str, Any]]
    metrics: dict[str, Metric]
    records: list[Any]
    handed: Counter[str]
    received: Callable[[str], int]

    @classmethod
    def of(
        cls,
        seen: Seen,
        records: list[logging.LogRecord],
        handed: Counter[str],
        engine: LoopbackEngine,
    ) -> Told:
        spans = seen.calls().values()
        return cls(
            {attributes(call)["iii.function.id"]: (call, attempts) for call, attempts in spans},
            [attributes(span) for span in seen.spans("fallback ")],
            seen.metrics(),
            [record for record in records if getattr(record, "iii_reason", None) is not None],
            handed,
            lambda function_id: len(engine.calls(function_id)),
        )

    def requeued(self, function_id: str) -> int:
        """How often a call was handed to a queue, under its own function id."""
        return sum(
            one["iii.fallback.kind"] == "enqueue"
            for one in self.fallbacks
            if one["iii.function.id"] == function_id
        )

    def measured(self, name: str, function_id: str) -> tuple[float, int]:
        """Sum and number of measurements of one function."""
        metric = self.metrics.get(name)
        if metric is None:
            return 0.0, 0
        return metric.total(iii__function__id=function_id), metric.count(
            iii__function__id=function_id
        )


def check(call: Call, told: Told) -> str:
    """Hold what is told of one call against itself; returns what kind of call it was."""
    name = call.function_id
    duration = told.metrics["iii.client.call.duration"]
    assert duration.count(iii__function__id=name) == 1
    if name not in told.spans:
        assert call.error is None
        assert told.handed[name] == told.received(name) == 1
        return "success at once"
    span, attempts = told.spans[name]
    about, tries = attributes(span), [attributes(t) for t in attempts]
    assert [t["iii.attempt.number"] for t in tries] == list(range(1, len(tries) + 1))
    assert about["iii.call.attempts"] == len(tries)
    sent = [t["iii.attempt.sent"] for t in tries]
    left = sum(sent) + told.requeued(name)
    if any(isinstance(one, CutCaller) for one in call.faults):
        # What leaves in the moment in which the connection ends may be lost on its way to the
        # SDK's thread, or in its socket: nobody can tell, so it counts as sent.
        assert told.received(name) <= told.handed[name] <= left
    else:
        assert told.received(name) == told.handed[name] == left
    retries = sum(sent[1:])
    assert told.measured("iii.client.call.retries", name) == (retries, retries > 0)
    assert told.measured("iii.client.call.retry_delay", name)[1] == (retries > 0)
    records = [r for r in told.records if r.iii_function_id == name]
    assert told.measured("iii.retry.decisions", name)[0] == len(records)
    assert about["iii.retry.decision"] == records[-1].iii_reason
    if call.error is None:
        assert about["iii.retry.decision"] in {"retried", "handed_off"}
        assert [p.attributes for p in duration._with({"iii.function.id": name})] == [
            {"iii.function.id": name}
        ]
        return str(about["iii.retry.decision"])
    report = report_for(call.error)
    assert report is not None
    assert about["iii.retry.decision"] == report.reason
    assert len(report.attempts) == len(tries)
    for attempt, span_of, t in zip(report.attempts, attempts, tries, strict=True):
        failure = attempt.failure
        assert t["error.type"] == (failure.code if failure.known else "_OTHER")
        assert t["iii.error.category"] == failure.category
        assert t["iii.error.execution"] == failure.execution
        assert t["iii.attempt.sent"] == attempt.sent
        took = (span_of.end_time - span_of.start_time) / 1e9  # type: ignore[operator]
        assert took == pytest.approx(attempt.duration, abs=1e-5)
    assert duration.count(iii__function__id=name, error__type=about["error.type"]) == 1
    return f"{report.reason} {'sent' if all(sent) else 'unsent'}"


@pytest.mark.parametrize("seed", range(8))
def test_everything_that_is_told_of_call_adds_up(
    seed: int,
    engine: LoopbackEngine,
    target: Any,
    counted: Resilient,
    handed: Counter[str],
    seen: Seen,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="iii_resilience")
    dice = random.Random(seed)
    calls = [scenario(dice, number) for number in range(CALLS)]
    for function_id in [*(call.function_id for call in calls), OTHER]:
        target.register_function(function_id, lambda data: "done")
        engine.wait_registered(function_id)
    engine.define_queue("q")
    for call in calls:
        for place, what in enumerate(call.faults, start=1):
            engine.inject(call.function_id, what, call=place)
        make(call, counted)
    counted.shutdown()  # the last Void has left by then
    # The engine's thread may come to it later; of what was on a cut connection it hears nothing.
    whole = [call for call in calls if not any(isinstance(one, CutCaller) for one in call.faults)]
    names = [OTHER, *(call.function_id for call in whole)]
    until(lambda: all(len(engine.calls(name)) >= handed[name] for name in names))
    told = Told.of(seen, caplog.records, handed, engine)
    kinds = Counter(check(call, told) for call in calls)
    assert len(kinds) >= 4, "a script that shows little"
    assert len(told.fallbacks) == handed[OTHER] + sum(
        told.requeued(call.function_id) for call in calls
    )
    assert told.received(OTHER) == handed[OTHER]
