"""Rows for codes of a user's own services."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from iii_resilience.core.classify import classify
from iii_resilience.core.codes import lookup
from iii_resilience.core.codes.lookup import (
    Category,
    Code,
    Execution,
    change_codes,
    find,
    register_codes,
    user_codes,
)
from iii_resilience.core.errors import ConfigError


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    before = dict(lookup._user)
    yield
    lookup._user.clear()
    lookup._user.update(before)


def row(code: str = "CARD_DECLINED", category: Category = Category.PERMANENT) -> Code:
    return Code(code, category, Execution.EXECUTED, "handler", "use another card", "no", "ours")


def test_rows() -> None:
    register_codes([row(), row("LEDGER_BUSY", Category.TRANSIENT)])
    assert find("CARD_DECLINED") == row()
    assert classify("LEDGER_BUSY").category is Category.TRANSIENT
    assert classify("LEDGER_BUSY").known
    assert [one.code for one in user_codes()] == ["CARD_DECLINED", "LEDGER_BUSY"]


def test_mapping_of_rows_categories_or_fields() -> None:
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


def test_registered_code_counts_in_messages_and_rpc() -> None:
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


FIELDS = "category, execution, meaning, origin, queue, remedy, source, system, throttled"


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            {"A": "sometimes"},
            (
                "codes.A: category 'sometimes' is none of "
                "transient, auth, not-found, payload, permanent"
            ),
        ),
        ({"A": None}, "codes.A: category None is none of "),
        ({"A": {"throttled": True}}, "codes.A: category is missing"),
        (
            {"A": {"category": "transient", "colour": "red"}},
            f"codes.A: unknown field 'colour' (allowed: {FIELDS})",
        ),
        (
            {"A": {"category": "transient", "code": "B"}},
            f"codes.A: unknown field 'code' (allowed: {FIELDS})",
        ),
        (
            {"A": {"category": "transient", "throttled": "yes"}},
            "codes.A: throttled is a bool, not 'yes'",
        ),
        ({"A": {"category": "transient", "queue": 1}}, "codes.A: queue is a bool, not 1"),
        ({"A": {"category": "transient", "remedy": 5}}, "codes.A: remedy is a str, not 5"),
        (
            {"A": {"category": "transient", "execution": "maybe"}},
            "codes.A: execution 'maybe' is none of not_executed, maybe_executed, executed",
        ),
        ({"": "transient"}, "codes.: a code is a non-empty string"),
        ({5: "transient"}, "codes.5: a code is a non-empty string"),
        ({"A" * 129: "transient"}, f"codes.{'A' * 129}: a code has at most 128 characters"),
        ({"A": row("B")}, "codes.A: the row is that of another code, 'B'"),
        ({"TIMEOUT": "auth"}, "codes.TIMEOUT: is a built-in code and cannot be redefined"),
        (
            {"FN_NOT_FOUND": "auth"},
            "codes.FN_NOT_FOUND: is a built-in code and cannot be redefined",
        ),
        (
            {"CIRCUIT_OPEN": "auth"},
            "codes.CIRCUIT_OPEN: is a built-in code and cannot be redefined",
        ),
        (
            {"FORBIDDEN": "transient"},
            (
                "codes.FORBIDDEN: cannot be redefined: a denial stays a denial until auth or "
                "policy change, so it is never retried"
            ),
        ),
        (
            {"function_not_found": "transient"},
            (
                "codes.function_not_found: cannot be redefined: calling the same id again finds "
                "nothing, so it is never retried"
            ),
        ),
    ],
)
def test_malformed_rows_are_rejected_with_place_and_choices(rows: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        register_codes(rows)
    (only,) = caught.value.problems
    assert only == problem if problem[-1] != " " else only.startswith(problem)
    assert user_codes() == ()


def test_code_may_have_as_many_characters_as_code_has() -> None:
    register_codes({"A" * 128: "transient"})
    assert find("A" * 128) is not None


def test_every_field_of_row_may_be_given() -> None:
    fields = {
        "category": "auth",
        "execution": "executed",
        "origin": "worker",
        "remedy": "do this",
        "meaning": "that happened",
        "source": "ours",
        "system": "rpc",
        "throttled": True,
        "queue": True,
    }
    register_codes({"A": fields})
    assert find("A") == Code(
        "A",
        Category.AUTH,
        Execution.EXECUTED,
        "worker",
        "do this",
        "that happened",
        "ours",
        "rpc",
        throttled=True,
        queue=True,
    )


def test_all_or_nothing_and_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        register_codes({"GOOD": "transient", "FORBIDDEN": "transient", "TIMEOUT": "payload"})
    assert len(caught.value.problems) == 2
    assert find("GOOD") is None


def test_registering_again_replaces() -> None:
    register_codes({"LEDGER_BUSY": "transient"})
    register_codes({"LEDGER_BUSY": "payload"})
    assert classify("LEDGER_BUSY").category is Category.PAYLOAD


def test_rows_of_changed_file_replace_those_it_had() -> None:
    register_codes([row("GONE"), row("KEPT"), row("TAKEN")])
    register_codes([row("TAKEN", Category.TRANSIENT)])  # somebody else, in code
    change_codes(
        [row("GONE"), row("KEPT"), row("TAKEN"), row("NEVER_THERE")],
        [row("KEPT", Category.AUTH), row("NEW")],
    )
    assert find("GONE") is None
    assert find("KEPT") == row("KEPT", Category.AUTH)
    assert find("NEW") == row("NEW")
    assert find("TAKEN") == row("TAKEN", Category.TRANSIENT), "its row is not the file's any longer"
