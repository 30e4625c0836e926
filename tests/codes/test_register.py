"""Rows for codes of a user's own services."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from iii_resilience import codes
from iii_resilience.classify import classify
from iii_resilience.codes import Category, Code, Execution, find, register_codes, user_codes
from iii_resilience.errors import ConfigError


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    before = dict(codes._user)
    yield
    codes._user.clear()
    codes._user.update(before)


def row(code: str = "CARD_DECLINED", category: Category = Category.PERMANENT) -> Code:
    return Code(code, category, Execution.EXECUTED, "handler", "use another card", "no", "ours")


def test_rows() -> None:
    register_codes([row(), row("LEDGER_BUSY", Category.TRANSIENT)])
    assert find("CARD_DECLINED") == row()
    assert classify("LEDGER_BUSY").category is Category.TRANSIENT
    assert classify("LEDGER_BUSY").known
    assert [one.code for one in user_codes()] == ["CARD_DECLINED", "LEDGER_BUSY"]


def test_a_mapping_of_rows_categories_or_fields() -> None:
    register_codes(
        {
            "CARD_DECLINED": row(),
            "LEDGER_BUSY": "transient",
            "QUOTA": {"category": "transient", "throttled": True, "execution": "not_executed"},
            "GONE": Category.NOT_FOUND,
        }
    )
    assert find("LEDGER_BUSY") == Code(
        "LEDGER_BUSY",
        Category.TRANSIENT,
        Execution.MAYBE_EXECUTED,
        "handler",
        "",
        "",
        "registered",
    )
    quota = classify({"code": "QUOTA", "message": "slow down"})
    assert quota.throttled
    assert quota.execution is Execution.NOT_EXECUTED
    assert classify("GONE").category is Category.NOT_FOUND


def test_a_registered_code_counts_inside_a_message_and_in_an_rpc_response() -> None:
    register_codes({"LEDGER_BUSY": "transient", "INSUFFICIENT_STOCK": "payload"})
    failure = classify({"code": "invocation_failed", "message": "LEDGER_BUSY: later"})
    assert failure.category is Category.TRANSIENT
    assert failure.execution is Execution.EXECUTED
    response = {"status": "error", "label": "INSUFFICIENT_STOCK", "error": None}
    assert classify(response).category is Category.PAYLOAD
    assert classify(response).system == "rpc"


@pytest.mark.parametrize("code", ["FORBIDDEN", "function_not_found"])
def test_what_is_never_retried_cannot_be_redefined(code: str) -> None:
    with pytest.raises(ConfigError, match="never retried"):
        register_codes({code: "transient"})


@pytest.mark.parametrize("code", ["TIMEOUT", "RATE_LIMITED", "NOT_CONNECTED", "S102"])
def test_built_in_rows_cannot_be_shadowed(code: str) -> None:
    with pytest.raises(ConfigError, match="built-in"):
        register_codes([row(code)])


@pytest.mark.parametrize(
    "rows",
    [
        {"A": "sometimes"},
        {"A": {"throttled": True}},
        {"A": {"category": "transient", "colour": "red"}},
        {"A": {"category": "transient", "throttled": "yes"}},
        {"A": {"category": "transient", "remedy": 5}},
        {"A": {"category": "transient", "execution": "maybe"}},
        {"": "transient"},
        {5: "transient"},
        {"A" * 129: "transient"},
        {"A": row("B")},
        {"A": None},
    ],
)
def test_malformed_rows_are_refused(rows: Any) -> None:
    with pytest.raises(ConfigError):
        register_codes(rows)


def test_all_or_nothing_and_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        register_codes({"GOOD": "transient", "FORBIDDEN": "transient", "TIMEOUT": "payload"})
    assert len(caught.value.problems) == 2
    assert find("GOOD") is None


def test_registering_again_replaces() -> None:
    register_codes({"LEDGER_BUSY": "transient"})
    register_codes({"LEDGER_BUSY": "payload"})
    assert classify("LEDGER_BUSY").category is Category.PAYLOAD
