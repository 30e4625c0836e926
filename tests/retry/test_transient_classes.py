"""`transient=` of `iii_retry` and `retrying`: classes of exceptions that a repeat can help."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import tenacity

from iii_resilience import (
    Backoff,
    Breaker,
    CircuitOpenError,
    ConfigError,
    Execution,
    Reason,
    RetryPolicy,
    classify,
    iii_retry,
    report_for,
    retrying,
)
from iii_resilience.core.failure import Failure
from iii_resilience.retry.attempt_log import AttemptLog, FailedAttempt

FAST = RetryPolicy(attempts=3, backoff=Backoff(base=0.001, cap=0.001, throttled_base=0.001))
BREAKER = RetryPolicy(attempts=1, breaker=Breaker(min_calls=2, window=60.0, open=30.0))


class BusyError(Exception):
    """A class that no table knows."""


class BusierError(BusyError):
    """One of its subclasses."""


def failing(error: Exception, times: int) -> tuple[list[int], Any]:
    calls: list[int] = []

    def function() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return calls, function


@pytest.mark.parametrize("kinds", [BusyError, (BusyError,), [KeyError, BusyError]])
def test_sync_function_is_repeated(kinds: Any) -> None:
    calls, function = failing(BusierError(), 2)
    assert iii_retry(idempotent=True, policy=FAST, transient=kinds)(function)() == "done"
    assert len(calls) == 3


def test_other_classes_are_not_repeated() -> None:
    calls, function = failing(ValueError(), 2)
    with pytest.raises(ValueError):
        iii_retry(idempotent=True, policy=FAST, transient=BusyError)(function)()
    assert len(calls) == 1


def test_other_decorators_hear_nothing_of_it() -> None:
    iii_retry(idempotent=True, policy=FAST, transient=BusyError)(failing(BusyError(), 0)[1])
    calls, function = failing(BusyError(), 2)
    with pytest.raises(BusyError):
        iii_retry(idempotent=True, policy=FAST)(function)()
    assert len(calls) == 1
    assert not classify(BusyError()).retryable


async def test_async_function_is_repeated() -> None:
    calls, function = failing(BusyError(), 2)

    @iii_retry(idempotent=True, policy=FAST, transient=BusyError)
    async def decorated() -> Any:
        await asyncio.sleep(0)
        return function()

    assert await decorated() == "done"
    assert len(calls) == 3


def test_block_is_repeated() -> None:
    calls, function = failing(BusyError(), 2)
    for attempt in retrying(idempotent=True, policy=FAST, transient=BusyError):
        with attempt:
            function()
    assert len(calls) == 3


async def test_block_in_coroutine_is_repeated() -> None:
    calls, function = failing(BusyError(), 2)
    async for attempt in retrying(idempotent=True, policy=FAST, transient=BusyError):
        with attempt:
            function()
    assert len(calls) == 3


def test_cause_of_try_again_goes_by_the_rules() -> None:
    @iii_retry(idempotent=True, policy=FAST, transient=BusyError)
    def function() -> None:
        raise tenacity.TryAgain from BusyError()

    with pytest.raises(BusyError) as caught:
        function()
    report = report_for(caught.value)
    assert report is not None
    assert report.reason is Reason.EXHAUSTED
    assert report.attempts[0].failure.inner is not None
    assert report.attempts[0].failure.inner.retryable


def test_breaker_counts_it_in_sync_function() -> None:
    calls, function = failing(BusyError(), 9)
    decorated = iii_retry(idempotent=True, policy=BREAKER, transient=BusyError)(function)
    for _ in range(2):
        with pytest.raises(BusyError):
            decorated()
    with pytest.raises(CircuitOpenError):
        decorated()
    assert len(calls) == 2


async def test_breaker_counts_it_in_async_function() -> None:
    calls, function = failing(BusyError(), 9)

    @iii_retry(idempotent=True, policy=BREAKER, transient=BusyError)
    async def decorated() -> Any:
        return function()

    for _ in range(2):
        with pytest.raises(BusyError):
            await decorated()
    with pytest.raises(CircuitOpenError):
        await decorated()
    assert len(calls) == 2


def test_breaker_counts_it_in_block() -> None:
    calls, function = failing(BusyError(), 9)
    policy = BREAKER.replace(breaker=Breaker(min_calls=2, window=60.0, open=30.0))

    def block() -> None:
        for attempt in retrying(idempotent=True, policy=policy, transient=BusyError):
            with attempt:
                function()

    for expected in (BusyError, BusyError, CircuitOpenError):
        with pytest.raises(expected):
            block()
    assert len(calls) == 2


def test_guarded_attempts_that_follow_go_by_the_rules() -> None:
    calls, function = failing(BusyError(), 2)
    policy = FAST.replace(breaker=Breaker(min_calls=9, window=60.0, open=30.0))
    assert iii_retry(idempotent=True, policy=policy, transient=BusyError)(function)() == "done"
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("kinds", "error", "message"),
    [
        (5, TypeError, "transient takes classes of exceptions, got int"),
        ("BusyError", TypeError, "transient takes classes of exceptions, got str"),
        (Exception, ConfigError, "every exception there is"),
        (CircuitOpenError, ConfigError, "goes by the code it carries"),
    ],
)
def test_what_is_no_class_is_refused_when_decorating(
    kinds: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        iii_retry(idempotent=True, transient=kinds)
    with pytest.raises(error, match=message):
        retrying(idempotent=True, transient=kinds)


@pytest.mark.parametrize("error", [ConnectionRefusedError(), BusyError()])
def test_attempt_log_takes_no_proof_from_library(error: Exception) -> None:
    log = AttemptLog(0.0, None)
    failure: Failure = classify(error)
    log.failed.append(FailedAttempt(1, failure, 0.0, 0.1, True, error, None))
    assert log.execution is Execution.MAYBE_EXECUTED


def test_attempt_log_keeps_proof_of_ours() -> None:
    log = AttemptLog(0.0, None)
    error = CircuitOpenError("open", 1.0)
    log.failed.append(FailedAttempt(1, classify(error), 0.0, 0.1, True, error, None))
    assert log.execution is Execution.NOT_EXECUTED


@pytest.mark.parametrize("policy", [RetryPolicy(), "payments"])
def test_policy_in_functions_place_says_how_it_is_given(policy: Any) -> None:
    with pytest.raises(TypeError, match=r"write @iii_retry\(policy=\.\.\.\)"):
        iii_retry(policy)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("atempts", "attempts"), ("max_attempts", "attempts"), ("transients", "transient")],
)
def test_unknown_override_says_what_was_meant(given: str, meant: str) -> None:
    overrides: Any = {given: 1}
    with pytest.raises(TypeError, match=rf"takes no {given}; did you mean {meant}\?"):
        iii_retry(**overrides)
    with pytest.raises(TypeError, match=rf"takes no {given}; did you mean {meant}\?"):
        retrying(**overrides)


def test_idempotent_is_not_repeated_in_its_message() -> None:
    secret: Any = "a key of an order"
    with pytest.raises(TypeError, match="idempotent must be True or False, got str") as caught:
        iii_retry(idempotent=secret)
    assert secret not in str(caught.value)
