"""One call's story, told step by step: what becomes of it in spans and metrics, and what does not.

`test_spans.py` and `test_wire.py` show the same where whole calls are made.
"""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from opentelemetry import trace
from support.telemetry_fixtures import Seen, attributes, id_of, is_error, parent_of

from iii_resilience import Attempt, Category, Decision, Execution, Failure, Reason, RetryPolicy
from iii_resilience.core.guards.breaker import CircuitState
from iii_resilience.retry.retried_call import RetriedCall
from iii_resilience.retry.retry_context import RetryContext, StopRetrying
from iii_resilience.telemetry import FailedCall, circuit_changed, meters, refused
from iii_resilience.telemetry.call_events import begin

FAILURE = Failure("TIMEOUT", Category.TRANSIENT, Execution.MAYBE_EXECUTED)


def failed(number: int = 1, *, sent: bool = True) -> Attempt:
    return Attempt(number, FAILURE, delay=0.0, duration=0.001, sent=sent)


def begun(name: str = "t::f", *, whole: bool = True) -> FailedCall:
    started = time.monotonic() - 0.01
    call = begin(name, started, remote=True, whole=whole)
    assert call is not None
    call.failed(failed(), started, None)
    call.decided(FAILURE, Decision(Reason.RETRIED, 0.0))
    return call


def current() -> int:
    return trace.get_current_span().get_span_context().span_id


def test_attempt_sent_again_after_it_was_held_is_one(seen: Seen) -> None:
    call = begun()
    call.sends(time.monotonic(), 0.0)
    within = current()
    call.sends(time.monotonic(), 0.0)
    assert current() == within != 0
    call.succeeded()
    assert current() == 0
    ((_, attempts),) = seen.calls().values()
    assert [id_of(span) for span in attempts][1:] == [within]
    assert seen.metrics()["iii.client.call.retries"].total() == 1


def test_attempt_that_is_not_made_after_all_is_not_told(seen: Seen) -> None:
    call = begun()
    call.sends(time.monotonic(), 0.0)
    call.not_made()
    assert current() == 0
    call.decided(FAILURE, Decision(Reason.NOT_READY))
    call.gave_up(FAILURE)
    ((told, attempts),) = seen.calls().values()
    assert len(attempts) == attributes(told)["iii.call.attempts"] == 1
    assert "iii.client.call.retries" not in seen.metrics()


def test_attempt_given_up_before_start_has_no_span(seen: Seen) -> None:
    context = RetryContext(policy=RetryPolicy(budget=None), name="t::f")
    run = RetriedCall(context, time.monotonic(), idempotent=True)
    run.attempt_failed(ConnectionError(), None)
    assert run.decided(None).retry
    run.attempt_started(sent=True)
    assert current() != 0
    run.attempt_failed(StopRetrying(Reason.NOT_READY), None)
    assert current() == 0
    assert run.decided(None).reason is Reason.NOT_READY
    run.finish()
    ((told, attempts),) = seen.calls().values()
    assert len(attempts) == 1
    assert attributes(told)["iii.retry.decision"] == "not_ready"


def test_call_can_be_left_and_entered_during_attempt(seen: Seen) -> None:
    call = begun()
    call.enter()  # nothing is under way
    assert current() == 0
    call.sends(time.monotonic(), 0.0)
    within = current()
    call.leave()
    assert current() == 0
    call.enter()
    assert current() == within
    call.passed(KeyboardInterrupt())
    assert current() == 0


def test_it_ends_once(seen: Seen) -> None:
    call = begun()
    call.gave_up(FAILURE)
    call.passed(KeyboardInterrupt())
    call.succeeded()
    assert len(seen.calls()) == 1
    assert seen.metrics()["iii.client.call.duration"].count() == 1


def test_call_whose_end_may_not_be_told_has_decisions_only(seen: Seen) -> None:
    call = begun(whole=False)
    call.sends(time.monotonic(), 0.0)
    call.not_made()
    call.gave_up(FAILURE)
    assert seen.spans() == []
    names = set(seen.metrics()) - {"iii.retry.budget.available"}
    assert names == {"iii.retry.decisions"}


@pytest.mark.parametrize("spans", [True, False])
def test_fallback_that_takes_call_over_ends_it_well(spans: bool, seen: Seen) -> None:
    call = begun()
    if not spans:
        call._spans = None
    with call.fallback("reroute", "t::g"):
        within = current()
        call.decided(FAILURE, Decision(Reason.HANDED_OFF))
    assert current() == 0
    assert seen.metrics()["iii.client.call.duration"].count(iii__function__id="t::f") == 1
    if spans:
        ((told, _),) = seen.calls().values()
        (fallback,) = seen.spans("fallback ")
        assert id_of(fallback) == within
        assert parent_of(fallback) == id_of(told)
        assert not is_error(told)
        assert not is_error(fallback)


@pytest.mark.parametrize(
    ("error", "kind", "ends"),
    [
        (ConnectionError(), "ConnectionError", False),
        (KeyboardInterrupt(), "KeyboardInterrupt", True),
        (None, None, False),  # nobody took it over
    ],
)
def test_fallback_that_does_not_leaves_end_to_whoever_knows(
    error: BaseException | None, kind: str | None, ends: bool, seen: Seen
) -> None:
    call = begun()
    with suppress(ConnectionError, KeyboardInterrupt), call.fallback("enqueue", "q"):
        if error is not None:
            raise error
    assert len(seen.calls()) == ends
    call.gave_up(FAILURE)
    ((told, _),) = seen.calls().values()
    (fallback,) = seen.spans("fallback ")
    assert is_error(fallback)
    assert attributes(fallback).get("error.type") == kind
    assert attributes(told)["error.type"] == ("KeyboardInterrupt" if ends else "TIMEOUT")


def test_time_of_attempts_and_fallback_is_no_delay(seen: Seen) -> None:
    call = begun()
    call.sends(time.monotonic(), 0.0)
    time.sleep(0.03)
    call.failed(Attempt(2, FAILURE, 0.0, 0.03), time.monotonic() - 0.03, None)
    with call.fallback("enqueue", "q"):
        time.sleep(0.03)
    call.gave_up(FAILURE)
    found = seen.metrics()
    waited = found["iii.client.call.retry_delay"].total()
    assert 0 < waited < found["iii.client.call.duration"].total() - 0.06


def test_rejected_call_is_one_attempt_that_was_not_sent(seen: Seen) -> None:
    refused("t::f", FAILURE, ValueError())
    ((told, (attempt,)),) = seen.calls().values()
    assert attributes(attempt)["iii.attempt.sent"] is False
    assert attributes(told)["iii.retry.decision"] == "not_retryable"


def test_circuits_are_told(seen: Seen) -> None:
    circuit_changed("t::f", CircuitState.CLOSED, CircuitState.OPEN, 0.0)
    circuit_changed("t::f", CircuitState.OPEN, CircuitState.HALF_OPEN, 0.0)
    transitions = seen.metrics()["iii.circuit_breaker.transitions"]
    assert {p.attributes["iii.circuit_breaker.state"]: p.value for p in transitions.points} == {
        "open": 1,
        "half_open": 1,
    }


@pytest.mark.usefixtures("clean_globals")
def test_without_providers_all_of_it_does_nothing() -> None:
    call = begun()
    call.sends(time.monotonic(), 0.0)
    call.failed(failed(2), time.monotonic(), None)
    with call.fallback("reroute", "t::g"):
        assert current() == 0
    call.gave_up(FAILURE)
    meters.handler_failed("t::f", FAILURE)
    meters.registration_changed("t::f", "function", "owner")
    circuit_changed("t::f", CircuitState.CLOSED, CircuitState.OPEN, 0.0)
    assert meters._ids == set()


def test_handlers_failure_is_counted(seen: Seen) -> None:
    meters.handler_failed("t::f", FAILURE)
    (point,) = seen.metrics()["iii.handler.failures"].points
    assert point.attributes == {
        "iii.function.id": "t::f",
        "error.type": "TIMEOUT",
        "iii.error.category": "transient",
    }
