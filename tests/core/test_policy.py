"""The policy as data: its defaults, what it refuses, and its changed copies."""

from __future__ import annotations

import copy
import math
import pickle
import re
import sys
from typing import Any

import attrs
import pytest
import tenacity

from iii_resilience import (
    Attempt,
    Backoff,
    Breaker,
    Budget,
    Bulkhead,
    Category,
    Decision,
    Enqueue,
    Enqueued,
    Execution,
    Failure,
    Hint,
    PolicyBook,
    Reason,
    RetryPolicy,
    RetryReport,
)
from iii_resilience.config.policy_set import SelectedPolicy
from iii_resilience.config.rules import Rule
from iii_resilience.core.decide import CallSoFar
from iii_resilience.core.policy import FIELDS, TRIGGER_FIELDS, with_first_guards


def test_defaults_are_documented_ones() -> None:
    assert attrs.asdict(RetryPolicy(), recurse=False) == {
        "attempts": 4,
        "backoff": Backoff(base=0.2, factor=2, cap=20.0, throttled_base=None, jitter="full"),
        "deadline": 60.0,
        "breaker": None,
        "bulkhead": None,
        "attempt_timeout": None,
        "budget": Budget(ratio=0.1, burst=10, min_per_second=0.005),
        "wait": None,
        "stop": None,
        "fallback": None,
        "max_payload_bytes": None,
        "retry_unexecuted": False,
        "ready_timeout": 5.0,
        "max_stops": 3,
    }


def test_fields_of_worker_trigger_are_fields_of_policy() -> None:
    assert TRIGGER_FIELDS < FIELDS


def test_replace_is_attrs_evolve_with_better_error() -> None:
    policy = RetryPolicy(deadline=None, budget=None)
    assert policy.replace(attempts=5) == attrs.evolve(policy, attempts=5)
    assert policy.replace(attempts=5) == RetryPolicy(deadline=None, budget=None, attempts=5)
    assert policy.attempts == 4
    with pytest.raises(TypeError) as caught:
        policy.replace(atempts=5, x=1)
    fields = ", ".join(sorted(field.name for field in attrs.fields(RetryPolicy)))
    assert str(caught.value) == (
        f"RetryPolicy has no field atempts, x; did you mean attempts? (it has {fields})"
    )
    with pytest.raises(ValueError, match=r"RetryPolicy\.attempts must be a whole number"):
        policy.replace(attempts=0)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"attempts": 0}, ValueError, "RetryPolicy.attempts must be a whole number at least 1"),
        ({"attempts": 2.0}, ValueError, "RetryPolicy.attempts must be a whole number at least 1"),
        ({"attempts": True}, ValueError, "RetryPolicy.attempts must be a whole number at least 1"),
        ({"attempts": 10**400}, ValueError, "RetryPolicy.attempts must be a whole number"),
        ({"deadline": 0}, ValueError, "RetryPolicy.deadline must be a finite number of seconds"),
        ({"deadline": float("inf")}, ValueError, "RetryPolicy.deadline must be a finite number"),
        ({"attempt_timeout": -1}, ValueError, "RetryPolicy.attempt_timeout must be a finite"),
        ({"attempt_timeout": 61}, ValueError, r"attempt_timeout \(61 s\) must not be above"),
        ({"ready_timeout": -1}, ValueError, "RetryPolicy.ready_timeout must be a finite number"),
        ({"ready_timeout": None}, ValueError, "RetryPolicy.ready_timeout must be a finite number"),
        ({"max_stops": 0}, ValueError, "RetryPolicy.max_stops must be a whole number at least 1"),
        ({"wait": 3}, TypeError, r"RetryPolicy.wait must be a tenacity wait_\* object, got 3"),
        ({"stop": "x"}, TypeError, r"RetryPolicy.stop must be a tenacity stop_\* object"),
        ({"backoff": 3}, TypeError, "backoff"),
        ({"backoff": None}, TypeError, "backoff"),
        ({"budget": 0.2}, TypeError, "budget"),
        ({"fallback": "queue"}, TypeError, "fallback"),
        ({"retry_unexecuted": 1}, TypeError, "retry_unexecuted"),
    ],
)
def test_policy_that_makes_no_sense_is_refused(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        RetryPolicy(**fields)


def test_attempt_may_take_whole_call_but_no_more() -> None:
    assert RetryPolicy(deadline=2.0, attempt_timeout=2.0).attempt_timeout == 2.0
    with pytest.raises(ValueError) as caught:
        RetryPolicy(deadline=2.0, attempt_timeout=2.5)
    assert str(caught.value) == (
        "RetryPolicy.attempt_timeout (2.5 s) must not be above RetryPolicy.deadline (2 s): one "
        "attempt would outlast the call"
    )


def test_equal_guards_of_one_function_keep_one_state() -> None:
    first = RetryPolicy(breaker=Breaker(min_calls=17), bulkhead=Bulkhead(17))
    assert with_first_guards(first, "a") is first
    again = with_first_guards(first.replace(breaker=Breaker(min_calls=17), attempts=2), "a")
    assert again.breaker is first.breaker
    assert (again.bulkhead, again.attempts) == (first.bulkhead, 2)


def test_guard_of_another_function_number_or_file_keeps_its_own() -> None:
    first = with_first_guards(RetryPolicy(breaker=Breaker(min_calls=17)), "a")
    for function, breaker, kinds in (
        ("b", Breaker(min_calls=17), ("budget", "breaker", "bulkhead")),
        ("a", Breaker(min_calls=18), ("budget", "breaker", "bulkhead")),
        ("a", Breaker(min_calls=17), ("budget", "bulkhead")),  # the book has its breaker
    ):
        policy = first.replace(breaker=breaker)
        assert with_first_guards(policy, function, kinds).breaker is breaker


@pytest.mark.parametrize("queue", ["", 5, None])
def test_fallback_names_queue(queue: Any) -> None:
    with pytest.raises(ValueError, match=r"Enqueue\.queue must be the name of a queue"):
        Enqueue(queue)


def test_no_deadline_leaves_attempt_timeout_free() -> None:
    assert RetryPolicy(deadline=None, attempt_timeout=1e6).attempt_timeout == 1e6


@pytest.mark.parametrize(
    "kind",
    [
        Attempt,
        Backoff,
        Budget,
        CallSoFar,
        Decision,
        Enqueue,
        Enqueued,
        Failure,
        Hint,
        PolicyBook,
        RetryPolicy,
        RetryReport,
        Rule,
        SelectedPolicy,
    ],
)
def test_data_classes_are_attrs_classes_and_frozen(kind: type[Any]) -> None:
    assert attrs.has(kind)
    made = object.__new__(kind)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(made, attrs.fields(kind)[0].name, None)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_policy_in_use_can_be_copied_and_pickled(again: Any) -> None:
    policy = RetryPolicy(attempts=7)
    assert policy.budget is not None
    policy.budget.bucket_for().reserve(1.0)
    assert again(policy) == policy


def test_failures_reports_and_hints_survive_pickling() -> None:
    failure = Failure("TIMEOUT", Category.TRANSIENT, Execution.MAYBE_EXECUTED, message="m")
    attempt = Attempt(1, failure, 0.0, 0.1)
    report = RetryReport((attempt,), Reason.EXHAUSTED, Execution.MAYBE_EXECUTED, 0.2)
    hint = Hint("enqueue", Reason.EXHAUSTED, "r")
    assert pickle.loads(pickle.dumps((report, hint))) == (report, hint)
    assert failure.replace(code="x").code == "x"


def test_failures_repr_shows_neither_message_nor_stack_trace() -> None:
    failure = Failure(
        "TIMEOUT",
        Category.TRANSIENT,
        Execution.MAYBE_EXECUTED,
        message="MARKER",
        stacktrace="MARKER",
    )
    assert failure.message == failure.stacktrace == "MARKER"
    assert "MARKER" not in repr(failure)


def test_wait_class_is_rejected_where_given() -> None:
    with pytest.raises(TypeError, match="must be a tenacity wait_"):
        RetryPolicy(wait=tenacity.wait_none)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"budget": 0.2}, "budget must be a Budget or None, got 0.2: write budget=Budget("),
        ({"breaker": 5}, "breaker must be a Breaker or None, got 5: write breaker=Breaker("),
        ({"bulkhead": 5}, "bulkhead must be a Bulkhead or None, got 5: write bulkhead=Bulkhead("),
        ({"fallback": "q"}, "fallback must be an Enqueue or a Reroute or None, got 'q'"),
        ({"backoff": 1}, "backoff must be a Backoff, got 1: write backoff=Backoff("),
        ({"backoff": Backoff}, "backoff must be a Backoff, got the class Backoff"),
        ({"retry_unexecuted": 1}, "retry_unexecuted must be a bool, got 1: write"),
        ({"attemps": 3}, "RetryPolicy has no field attemps; did you mean attempts?"),
        ({"max_attempts": 3}, "no field max_attempts; did you mean attempts?"),
        ({"deadline_ms": 3}, "no field deadline_ms; did you mean deadline, in seconds?"),
        ({"nonsense": 3}, "RetryPolicy has no field nonsense (it has attempts, backoff,"),
    ],
)
def test_wrong_parts_and_names_say_what_is_meant(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=re.escape(words)):
        RetryPolicy(**fields)


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (Budget, {"ration": 0.1}, "Budget has no field ration; did you mean ratio?"),
        (
            Budget,
            {"window_ms": 1},
            "Budget.window_ms: a budget has no window since 0.2",
        ),
        (
            Breaker,
            {"failure_rat": 1},
            "Breaker has no field failure_rat; did you mean failure_rate?",
        ),
        (Breaker, {"open_ms": 1}, "Breaker has no field open_ms; did you mean open, in seconds?"),
        (Bulkhead, {"limits": 1}, "Bulkhead has no field limits; did you mean limit?"),
        (Bulkhead, {"_states": 1}, "Bulkhead has no field _states (it has limit, queue, wait)"),
    ],
)
def test_wrong_names_of_guards_say_what_is_meant(
    kind: Any, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(words)):
        kind(**fields)


@pytest.mark.parametrize("make", [Backoff, Budget, Breaker, Bulkhead, RetryPolicy])
def test_positional_and_missing_arguments_stay_pythons(make: Any) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        make(*range(30))


@pytest.mark.parametrize("field", ["deadline", "attempt_timeout", "ready_timeout"])
@pytest.mark.parametrize("value", [1.1e9, 1e306, sys.float_info.max, math.inf])
def test_times_without_end_are_refused_where_they_are_given(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"RetryPolicy\.{field} must be a finite number"):
        RetryPolicy(**{field: value})
