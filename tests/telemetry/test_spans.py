"""The spans of calls that failed at least once: whose child is whose, when, and what was the end.

Here around a user's own code; `test_wire.py` has the calls through the engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tenacity
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from support.telemetry_fixtures import Seen, attributes, id_of, is_error, parent_of, provide

from iii_resilience import (
    Backoff,
    Breaker,
    CircuitOpenError,
    RetryPolicy,
    __version__,
    iii_retry,
    retrying,
)

QUICK = RetryPolicy(backoff=Backoff(base=0, throttled_base=0), budget=None, attempts=3)
NAME = "test_spans"


class Script:
    """Raises what it is given, one an attempt, and then returns.

    Attributes:
        within: The id of the span that each attempt found itself in; 0 for none.
    """

    def __init__(self, *errors: BaseException | None) -> None:
        self.errors: Iterator[BaseException | None] = iter(errors)
        self.within: list[int] = []

    def __call__(self) -> str:
        self.within.append(trace.get_current_span().get_span_context().span_id)
        error = next(self.errors, None)
        if error is not None:
            raise error
        return "done"


def decorated(script: Script, policy: RetryPolicy) -> str:
    @iii_retry(idempotent=True, policy=policy)
    def function() -> str:
        return script()

    return function()


def decorated_async(script: Script, policy: RetryPolicy) -> str:
    @iii_retry(idempotent=True, policy=policy)
    async def function() -> str:
        await asyncio.sleep(0)
        return script()

    return asyncio.run(function())


def looped(script: Script, policy: RetryPolicy) -> str:
    for attempt in retrying(idempotent=True, policy=policy):
        with attempt:
            return script()
    raise AssertionError


def looped_to_its_end(script: Script, policy: RetryPolicy) -> str:
    result = ""
    for attempt in retrying(idempotent=True, policy=policy):
        with attempt:
            result = script()
    return result


def looped_async(script: Script, policy: RetryPolicy) -> str:
    async def loop() -> str:
        async for attempt in retrying(idempotent=True, policy=policy):
            with attempt:
                await asyncio.sleep(0)
                return script()
        raise AssertionError

    return asyncio.run(loop())


Way = Callable[[Script, RetryPolicy], str]
WAYS = [decorated, decorated_async, looped, looped_to_its_end, looped_async]
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


def ended(way: Way, script: Script, policy: RetryPolicy = QUICK) -> BaseException | None:
    """What a call raises, or None."""
    try:
        assert way(script, policy) == "done"
    except BaseException as error:
        return error
    return None


@every_way
def test_success_has_no_span_and_touches_one_histogram(way: Way, seen: Seen) -> None:
    assert ended(way, Script()) is None
    assert seen.spans() == []
    metrics = seen.metrics()
    metrics.pop("iii.retry.budget.available", None)
    assert list(metrics) == ["iii.client.call.duration"]
    (point,) = metrics["iii.client.call.duration"].points
    assert point.count == 1
    assert list(point.attributes) == ["iii.function.id"]


@every_way
def test_call_with_late_success_has_span_without_error(way: Way, seen: Seen) -> None:
    script = Script(ConnectionError(), TimeoutError())
    before = time.time_ns()
    with seen.tracer.start_as_current_span("around") as around:
        assert ended(way, script) is None
    after = time.time_ns()
    ((call, attempts),) = seen.calls().values()
    outside = around.get_span_context().span_id
    assert parent_of(call) == outside
    assert not is_error(call)
    assert call.status.status_code is StatusCode.UNSET
    about = attributes(call)
    name = about.pop("iii.function.id")
    assert call.name == f"retry {name}"
    assert about == {"iii.call.attempts": 3, "iii.retry.decision": "retried"}
    assert [is_error(span) for span in attempts] == [True, True, False]
    assert {span.name for span in attempts} == {f"attempt {name}"}
    assert {span.kind for span in [call, *attempts]} == {SpanKind.INTERNAL}
    assert [attributes(span) for span in attempts] == [
        {
            "iii.function.id": name,
            "iii.attempt.number": number,
            "iii.attempt.delay": 0.0,
            "iii.attempt.sent": True,
            **(
                {
                    "error.type": error,
                    "iii.error.category": "transient",
                    "iii.error.execution": "maybe_executed",
                }
                if error
                else {}
            ),
        }
        for number, error in [(1, "ConnectionError"), (2, "TimeoutError"), (3, None)]
    ]
    # What the first attempt did hangs under the caller's span: it was done when this one was made.
    assert script.within == [outside, id_of(attempts[1]), id_of(attempts[2])]
    times = [call.start_time]
    for span in attempts:
        times += [span.start_time, span.end_time]
    times += [call.end_time]
    assert times == sorted(t for t in times if t is not None)
    assert before - 1_000_000 <= times[0] <= times[-1] <= after + 1_000_000  # type: ignore[operator]
    assert [span.events for span in [call, *attempts]] == [(), (), (), ()]


@every_way
def test_call_that_is_given_up_has_span_that_failed(way: Way, seen: Seen) -> None:
    errors = [ConnectionError("m"), PermissionError("m")]
    assert ended(way, Script(*errors)) is errors[1]
    ((call, attempts),) = seen.calls().values()
    assert [is_error(span) for span in [call, *attempts]] == [True, True, True]
    assert {span.status.description for span in [call, *attempts]} == {None}
    about = attributes(call)
    assert about["iii.retry.decision"] == "not_retryable"
    assert about["iii.call.attempts"] == 2
    assert about["error.type"] == attributes(attempts[1])["error.type"]


@every_way
def test_delay_is_between_attempts(way: Way, seen: Seen) -> None:
    policy = QUICK.replace(wait=tenacity.wait_fixed(0.05))
    assert ended(way, Script(ConnectionError()), policy) is None
    ((_, (first, second)),) = seen.calls().values()
    assert second.start_time - first.end_time >= 50_000_000  # type: ignore[operator]
    assert attributes(second)["iii.attempt.delay"] == 0.05
    delay = seen.metrics()["iii.client.call.retry_delay"]
    assert delay.count() == 1
    assert 0.05 <= delay.total() < 1


@every_way
def test_nothing_is_left_current_after_call(way: Way, seen: Seen) -> None:
    ended(way, Script(ConnectionError()))
    ended(way, Script(ConnectionError(), ConnectionError(), ConnectionError()))
    ended(way, Script(ConnectionError(), KeyboardInterrupt()))
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert len(seen.calls()) == 3


@every_way
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_passes_through_ends_call_and_its_attempt(
    way: Way, kind: type[BaseException], seen: Seen
) -> None:
    passing = kind()
    assert ended(way, Script(ConnectionError(), passing)) is passing
    ((call, attempts),) = seen.calls().values()
    assert [is_error(span) for span in [call, *attempts]] == [True, True, True]
    assert attributes(call)["error.type"] == kind.__name__
    assert attributes(attempts[1])["error.type"] == kind.__name__
    assert "iii.error.category" not in attributes(attempts[1])
    assert attributes(attempts[1])["iii.attempt.sent"] is True
    duration = seen.metrics()["iii.client.call.duration"]
    assert duration.count() == duration.count(error__type=kind.__name__) == 1


@every_way
def test_what_passes_through_first_attempt_has_no_span(way: Way, seen: Seen) -> None:
    passing = KeyboardInterrupt()
    assert ended(way, Script(passing)) is passing
    assert seen.spans() == []
    duration = seen.metrics()["iii.client.call.duration"]
    assert duration.count() == duration.count(error__type="KeyboardInterrupt") == 1


async def test_cancellation_in_delay_ends_call(seen: Seen) -> None:
    @iii_retry(idempotent=True, policy=QUICK.replace(wait=lambda _: 30.0))
    async def function() -> None:
        raise ConnectionError

    task = asyncio.ensure_future(function())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ((call, attempts),) = seen.calls().values()
    assert attributes(call)["error.type"] == "CancelledError"
    assert len(attempts) == 1
    assert seen.metrics()["iii.client.call.duration"].count(error__type="CancelledError") == 1
    assert "iii.client.call.retries" not in seen.metrics()


async def test_loop_that_is_left_after_failure_has_ended(seen: Seen) -> None:
    for attempt in retrying(idempotent=True, policy=QUICK):
        with attempt:
            raise ConnectionError
        if attempt.number == 2:
            break
    assert trace.get_current_span() is trace.INVALID_SPAN
    async for attempt in retrying(idempotent=True, policy=QUICK):
        with attempt:
            raise ConnectionError
        if attempt.number == 2:
            break
    assert trace.get_current_span() is trace.INVALID_SPAN
    while len(seen.calls()) < 2:  # an abandoned `async for` is ended by the event loop
        await asyncio.sleep(0.001)
    calls = seen.calls()
    assert [
        [attributes(span)["error.type"] for span in attempts] for _, attempts in calls.values()
    ] == [["ConnectionError", "ConnectionError"]] * 2
    assert {attributes(call)["error.type"] for call, _ in calls.values()} == {"GeneratorExit"}


def test_what_a_users_own_wait_raises_ends_call(seen: Seen) -> None:
    def wait(_: Any) -> float:
        raise ValueError

    with pytest.raises(ValueError):
        decorated(Script(ConnectionError()), QUICK.replace(wait=wait))
    ((call, attempts),) = seen.calls().values()
    assert is_error(call)
    assert len(attempts) == 1


def test_try_again_is_told_as_what_caused_it(seen: Seen) -> None:
    @iii_retry(idempotent=True, policy=QUICK.replace(attempts=1))
    def function() -> None:
        raise tenacity.TryAgain from ConnectionError("m")

    with pytest.raises(ConnectionError):
        function()
    ((call, _),) = seen.calls().values()
    assert attributes(call)["error.type"] == "ConnectionError"


def test_unknown_errors_are_told_as_other(seen: Seen) -> None:
    class OddError(Exception):
        pass

    with pytest.raises(OddError):
        decorated(Script(OddError()), QUICK)
    assert {attributes(span)["error.type"] for span in seen.spans()} == {"_OTHER"}
    told = [m for m in seen.metrics().values() if m.name != "iii.retry.budget.available"]
    assert {p.attributes["error.type"] for m in told for p in m.points} == {"_OTHER"}


def test_attempt_that_breaker_refuses_is_not_sent(seen: Seen) -> None:
    breaker = Breaker(min_calls=2, window=60.0)
    policy = QUICK.replace(breaker=breaker)
    script = Script(*(ConnectionError() for _ in range(9)))

    @iii_retry(idempotent=True, policy=policy)
    def function() -> str:
        return script()

    for _ in range(2):
        with pytest.raises((ConnectionError, CircuitOpenError)):
            function()
    sent = [
        attributes(span)["iii.attempt.sent"]
        for _, attempts in seen.calls().values()
        for span in attempts
    ]
    assert sent.count(True) == len(script.within)
    assert False in sent
    assert seen.metrics()["iii.client.call.retries"].total() == len(script.within) - 1


def test_retries_of_nested_calls_hang_under_one_another(seen: Seen) -> None:
    script = Script(ConnectionError(), ConnectionError())

    @iii_retry(idempotent=True, policy=QUICK.replace(attempts=2, budget=None))
    def inner() -> str:
        return script()

    outer_fails = iter([True])

    @iii_retry(idempotent=True, policy=QUICK)
    def outer() -> str:
        if next(outer_fails, False):
            raise TimeoutError
        return inner()

    with pytest.raises(ConnectionError):
        outer()
    calls = seen.calls()
    assert len(calls) == 2
    by_name = {call.name.rpartition(".")[2]: (call, attempts) for call, attempts in calls.values()}
    assert parent_of(by_name["inner"][0]) == id_of(by_name["outer"][1][1])


class TestWithoutSpans:
    """Where nobody records, what surrounds a call stays the current span."""

    FAR = SpanContext(7, 9, is_remote=True, trace_flags=TraceFlags(1))

    @every_way
    def test_no_provider_leaves_callers_span_current(self, way: Way, clean_globals: None) -> None:
        script = Script(ConnectionError(), ConnectionError())
        with trace.use_span(NonRecordingSpan(self.FAR)):
            assert ended(way, script) is None
        assert script.within == [9, 9, 9]
        assert ended(way, Script(ConnectionError())) is None

    def test_provider_that_hands_on_span_around_makes_none(self, clean_globals: None) -> None:
        class HandsOn(trace.Tracer):
            def start_span(self, *_: Any, **__: Any) -> trace.Span:
                return trace.get_current_span()

            start_as_current_span = None  # type: ignore[assignment]

        class Provider(trace.TracerProvider):
            def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
                return HandsOn()

        HandsOn.__abstractmethods__ = frozenset()
        trace.set_tracer_provider(Provider())
        script = Script(ConnectionError(), ConnectionError())
        with trace.use_span(NonRecordingSpan(self.FAR)):
            assert ended(decorated, script) is None
        assert script.within == [9, 9, 9]

    def test_unsampled_call_is_not_recorded_and_says_so(self, clean_globals: None) -> None:
        trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_OFF))
        flags: list[TraceFlags] = []

        @iii_retry(idempotent=True, policy=QUICK)
        def function() -> None:
            flags.append(trace.get_current_span().get_span_context().trace_flags)
            if len(flags) < 2:
                raise ConnectionError

        with trace.use_span(NonRecordingSpan(self.FAR)):
            function()
        assert flags == [1, 0]

    def test_providers_that_are_set_later_are_used_from_then_on(self, clean_globals: None) -> None:
        @iii_retry(idempotent=True, policy=QUICK)
        def function(script: Script) -> str:
            return script()

        function(Script())
        function(Script(ConnectionError()))
        seen = provide()
        function(Script())
        function(Script(ConnectionError()))
        assert len(seen.calls()) == 1
        assert seen.metrics()["iii.client.call.duration"].count() == 2


def test_scope_of_spans_has_version(seen: Seen) -> None:
    @iii_retry(idempotent=True, policy=QUICK)
    def load() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        load()
    scopes = {span.instrumentation_scope for span in seen.spans()}
    assert {scope.version for scope in scopes if scope is not None} == {__version__}
