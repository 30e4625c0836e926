"""What is advised instead of a retry: every category with every reason, row by row."""

from __future__ import annotations

from typing import Any

import pytest
from support.paths import DOCS

from iii_resilience import Category, Execution, Failure, Reason, classify
from iii_resilience.core.errors import NotConnectedError
from iii_resilience.core.hints import ACTIONS, consuming, hint

TRANSIENT = Category.TRANSIENT
GIVEN_UP = [reason for reason in Reason if reason is not Reason.RETRIED]

# What a transient failure without pushback is answered with.
OF_TRANSIENT = {
    Reason.EXHAUSTED: "enqueue",
    Reason.DEADLINE: "enqueue",
    Reason.BUDGET_EXHAUSTED: "enqueue",
    Reason.NOT_RETRYABLE: "enqueue",
    Reason.NOT_IDEMPOTENT: "enqueue",
    Reason.ALREADY_RETRIED: "enqueue",
    Reason.CIRCUIT_OPEN: "wait",
    Reason.BULKHEAD_FULL: "wait",
    Reason.PUSHBACK: "wait",
    Reason.STOPPED: "dead-letter",
    Reason.NOT_READY: "enqueue",
    Reason.HANDED_OFF: "enqueue",
}
OF_CATEGORY = {
    Category.AUTH: "fix-access",
    Category.NOT_FOUND: "discover",
    Category.PAYLOAD: "fix-payload",
    Category.PERMANENT: "investigate",
}


def failure(code: str = "TIMEOUT", category: Category = TRANSIENT, **more: Any) -> Failure:
    made = Failure(code, category, Execution.MAYBE_EXECUTED, remedy="look here")
    return made.replace(**more)


def test_table_has_row_for_every_reason_to_give_up() -> None:
    assert set(OF_TRANSIENT) == set(GIVEN_UP)
    assert {*OF_TRANSIENT.values(), *OF_CATEGORY.values()} == set(ACTIONS)


@pytest.mark.parametrize("reason", GIVEN_UP)
def test_transient_failure_is_answered_by_its_reason(reason: Reason) -> None:
    assert hint(failure(), reason).action == OF_TRANSIENT[reason]


@pytest.mark.parametrize("reason", GIVEN_UP)
@pytest.mark.parametrize("category", OF_CATEGORY)
def test_any_other_failure_is_answered_by_its_category(category: Category, reason: Reason) -> None:
    expected = "dead-letter" if reason is Reason.STOPPED else OF_CATEGORY[category]
    assert hint(failure(category=category), reason).action == expected
    slow = failure(category=category, throttled=True, retry_after=3.0)
    assert hint(slow, reason).action == expected
    assert hint(slow, reason).seconds is None


@pytest.mark.parametrize("reason", GIVEN_UP)
@pytest.mark.parametrize("more", [{"throttled": True}, {"retry_after": 0.5}])
def test_whoever_is_asked_to_slow_down_waits(reason: Reason, more: dict[str, Any]) -> None:
    found = hint(failure(**more), reason, queue="q")
    if reason is Reason.STOPPED:
        assert found.action == "dead-letter"
        return
    assert found.action == "wait"
    assert found.seconds == more.get("retry_after", 1.0)
    assert found.queue is None


@pytest.mark.parametrize(
    ("code", "exhausted"),
    [("channel_send_failed", "wait"), ("invocation_error", "investigate")],
)
@pytest.mark.parametrize("reason", [Reason.EXHAUSTED, Reason.DEADLINE])
def test_two_codes_differ_once_attempts_are_used_up(
    code: str, exhausted: str, reason: Reason
) -> None:
    expected = exhausted if reason is Reason.EXHAUSTED else "enqueue"
    assert hint(failure(code), reason).action == expected


def test_queue_stands_only_in_advice_to_enqueue() -> None:
    assert hint(failure(), Reason.EXHAUSTED, queue="orders").queue == "orders"
    assert hint(failure(), Reason.STOPPED, queue="orders").queue is None
    auth = failure("FORBIDDEN", Category.AUTH)
    assert hint(auth, Reason.NOT_RETRYABLE, queue="orders").queue is None


def test_remedy_is_that_of_codes_table_and_never_message() -> None:
    found = hint(failure(message="MARKER"), Reason.DEADLINE)
    assert found.remedy == "look here"
    assert found.reason is Reason.DEADLINE
    assert "MARKER" not in repr(found)


def documented() -> dict[str, list[str]]:
    """The rows of the table in docs/hints.md: reason -> one action a column."""
    page = (DOCS / "hints.md").read_text(encoding="utf-8")
    rows = {}
    for line in page.splitlines():
        cells = [cell.strip().removesuffix(" ¹") for cell in line.strip("|").split("|")]
        if len(cells) == 9 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = cells[2:]
    return rows


@pytest.mark.parametrize("reason", GIVEN_UP)
def test_table_in_documentation_is_what_is_advised(reason: Reason) -> None:
    asked = [
        failure(),
        failure(throttled=True),
        *(failure(category=category) for category in OF_CATEGORY),
    ]
    advised = [hint(one, reason).action for one in asked]
    with consuming():
        advised.append(hint(failure(category=Category.PERMANENT), reason).action)
    assert advised == documented()[reason.value]


def test_documented_table_has_no_row_too_many() -> None:
    assert set(documented()) == {reason.value for reason in GIVEN_UP}


def test_in_consumer_only_permanent_hint_differs() -> None:
    for category in (TRANSIENT, *OF_CATEGORY):
        outside = hint(failure(category=category), Reason.EXHAUSTED).action
        with consuming():
            inside = hint(failure(category=category), Reason.EXHAUSTED).action
        assert inside == ("dead-letter" if category is Category.PERMANENT else outside)
    assert hint(failure(category=Category.PERMANENT), Reason.EXHAUSTED).action == "investigate"


def test_advice_to_wait_always_names_seconds() -> None:
    assert hint(failure(retry_after=0.0), Reason.PUSHBACK).seconds == 0.0
    assert hint(failure("channel_send_failed"), Reason.EXHAUSTED).seconds == 1.0
    assert hint(failure(), Reason.EXHAUSTED).seconds is None


@pytest.mark.parametrize(
    "message",
    [
        (
            "invocation_failed: handler error: queue 'q' is not defined; "
            "call queue::define before enqueueing"
        ),
        "Queue 'q' not found",
    ],
)
def test_missing_queue_gets_call_that_defines_it(message: str) -> None:
    missing = classify({"code": "enqueue_error", "message": message})
    assert missing.execution is Execution.NOT_EXECUTED
    assert "ensure_queue(worker, name)" in hint(missing, Reason.NOT_RETRYABLE).remedy


def test_worker_that_engine_refuses_fixes_its_access() -> None:
    error = NotConnectedError("refused")
    error.refused = True
    assert hint(classify(error), Reason.EXHAUSTED).action == "fix-access"


ELSEWHERE = (
    "Function a::b not found in namespace blue. It is registered in namespace(s): green, red"
)


@pytest.mark.parametrize(
    ("message", "clause"),
    [
        (ELSEWHERE, "; it is registered in namespace(s): green, red"),
        (f"{ELSEWHERE}.", "; it is registered in namespace(s): green, red"),
        (f"{'x' * 9000} {ELSEWHERE}", "; it is registered in namespace(s): green, red"),
        ("Function a::b not found in namespace blue", ""),
        (f"{ELSEWHERE}; token=secret", ""),  # it holds more than identifiers
        ("", ""),
    ],
)
def test_missing_function_is_looked_for_where_it_is(message: str, clause: str) -> None:
    missing = failure("function_not_found", Category.NOT_FOUND, message=message)
    assert hint(missing, Reason.NOT_RETRYABLE).remedy == f"look here{clause}"
    outer = failure("OUTER", Category.NOT_FOUND, message="words", inner=missing)
    assert hint(outer, Reason.NOT_RETRYABLE).remedy == f"look here{clause}"


@pytest.mark.parametrize(
    ("code", "category"),
    [
        ("OTHER", Category.NOT_FOUND),  # another code's words prove nothing
        ("function_not_found", Category.AUTH),  # advice to discover alone has the clause
        ("function_not_found", TRANSIENT),
    ],
)
def test_namespaces_are_named_in_advice_to_discover_only(code: str, category: Category) -> None:
    found = hint(failure(code, category, message=ELSEWHERE), Reason.NOT_IDEMPOTENT)
    assert found.remedy == "look here"


def test_consumer_of_record_outweighs_that_of_moment() -> None:
    permanent = failure(category=Category.PERMANENT)
    with consuming():
        assert hint(permanent, Reason.EXHAUSTED, consumer=False).action == "investigate"
    assert hint(permanent, Reason.EXHAUSTED, consumer=True).action == "dead-letter"


@pytest.mark.parametrize("category", [Category.AUTH, Category.PERMANENT, None])
def test_access_is_at_fault_only_if_connection_was_refused_for_it(
    category: Category | None,
) -> None:
    inner = None if category is None else failure("INNER", category)
    expected = "fix-access" if category is Category.AUTH else "enqueue"
    assert hint(failure("NOT_CONNECTED", inner=inner), Reason.EXHAUSTED).action == expected
    assert hint(failure("TIMEOUT", inner=inner), Reason.EXHAUSTED).action == "enqueue"
