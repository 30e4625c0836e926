"""The tables against the facts of docs/engine-notes.md, 15, row by row; tests/data has them."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter

import pytest
from support.paths import DATA

from iii_resilience.core.codes import compose, engine_codes, local, rpc, sdk_codes, workers
from iii_resilience.core.codes.engine_codes import HTTP_STATUS, http_status
from iii_resilience.core.codes.lookup import ALL, III, LOCAL, RPC, find
from iii_resilience.core.codes.model import Category, Code, Execution

FACTS = list(csv.DictReader((DATA / "code-facts.csv").read_text().splitlines()))
ADVICE = json.loads((DATA / "documented-advice.json").read_text())
ORIGINS = {"engine", "sdk", "handler", "http", "worker", "local"}


def test_every_code_says_what_its_fact_says() -> None:
    for fact in FACTS:
        row = (RPC if fact["group"] == "rpc" else III)[fact["code"]]
        said = {"category": row.category.value, "execution": row.execution.value}
        assert said == {name: fact[name] or said[name] for name in said}, fact["code"]


def test_no_row_goes_without_fact_but_named_ones() -> None:
    known = {fact["code"] for fact in FACTS}
    named = {
        row.code for row in engine_codes.UPDATE_OPS
    }  # the list of facts leaves them out: the source has all
    named |= {"C217"}  # a code of the earlier coder worker
    assert {row.code for row in (*III.values(), *RPC.values())} - known == named - known


@pytest.mark.parametrize(("code", "document", "words"), ADVICE, ids=lambda value: str(value)[:30])
def test_remedy_holds_documented_advice(code: str, document: str, words: list[str]) -> None:
    row = find(code)
    assert row is not None
    remedy = row.remedy.lower()
    for word in words:
        assert word.lower() in remedy, (word, row.remedy)


def test_every_documented_code_has_advice() -> None:
    documented = {
        row.code for row in ALL if row.source.startswith(("iii error", "RPC error codes page"))
    }
    assert documented == {code for code, _, _ in ADVICE}


def test_no_code_is_listed_twice_within_system() -> None:
    for rows in (
        (*engine_codes.ROWS, *sdk_codes.ROWS, *workers.ROWS, *compose.ROWS),
        rpc.ROWS,
        local.ROWS,
    ):
        assert [
            code for code, times in Counter(row.code for row in rows).items() if times > 1
        ] == []


def test_each_row_is_whole() -> None:
    assert [row for row in ALL if not is_whole(row)] == []


def is_whole(row: Code) -> bool:
    return bool(
        row.origin in ORIGINS
        and row.system in {"iii", "rpc", "local"}
        and row.remedy
        and (row.remedy[0].islower() or not row.remedy[0].isalpha())
        and row.meaning
        and row.source
        and not row.remedy.endswith(".")
        and (row.category is Category.TRANSIENT or not row.throttled)
    )


def test_throttled_rows() -> None:
    assert {row.code for row in ALL if row.throttled} == {
        "S003",
        "S400",
        "W120",
        "POOL_TIMEOUT",
        "RATE_LIMITED",
        "rate_limited",
        "CIRCUIT_OPEN",
        "BULKHEAD_FULL",
        "OVERLOADED",
    }
    assert {status for status, row in HTTP_STATUS.items() if row.throttled} == {429, 503}


def test_queue_helps_only_what_is_transient_or_not_there() -> None:
    assert {row.code for row in III.values() if row.queue} == {
        "invocation_stopped",
        "function_not_found",
        "invocation_error",
        "channel_send_failed",
        "timeout",
        "TIMEOUT",
        "http_request_failed",
        "bridge_error",
    }


def test_codes_used_in_several_places_name_each() -> None:
    assert "compose" in III["INVALID_NAMESPACE"].meaning + III["INVALID_NAMESPACE"].remedy
    assert "proxy" in III["FORBIDDEN"].meaning
    assert "proxy" in III["TIMEOUT"].meaning
    for word in ("configuration", "function", "HTTP"):
        assert word in III["NOT_FOUND"].meaning
        assert word in III["NOT_FOUND"].remedy
    assert "pub/sub" in III["topic_not_set"].meaning
    assert "pub/sub" in III["topic_not_set"].remedy
    assert "HTTP-invoked" in III["serialization_error"].meaning
    assert "HTTP-invoked" in III["serialization_error"].remedy
    for word in ("database", "storage"):
        assert word in III["CONFIG_ERROR"].meaning
        assert word in III["CONFIG_ERROR"].remedy
    assert "database" in III["UNSUPPORTED"].meaning
    assert "observe" in III["UNSUPPORTED"].meaning


@pytest.mark.parametrize(
    "setting", ["max_message_size", "otel.in_memory_exporter", "per-invocation timeout"]
)
def test_setting_of_no_release_is_marked_as_older_docs(
    setting: str,
) -> None:
    rows = [row for row in ALL if setting in row.remedy]
    assert rows
    for row in rows:
        assert row.remedy.index("older documentation") < row.remedy.index(setting)


def test_remedies_name_no_function_that_never_existed() -> None:
    text = "\n".join(row.remedy for row in ALL)
    assert "engine::queue::redrive" not in text
    functions = set(re.findall(r"\b[a-z]+(?:::[a-z-]+)+", text))
    assert functions == {
        "engine::functions::list",
        "queue::define",
        "configuration::register",
    }


def test_statuses_by_class() -> None:
    assert http_status(502).category is Category.TRANSIENT
    assert http_status(502).execution is Execution.EXECUTED
    assert http_status(418).category is Category.PERMANENT
    assert http_status(302).category is Category.PERMANENT


def test_case_matters() -> None:
    assert III["timeout"] is not III["TIMEOUT"]
    assert find("Timeout") is None
    assert find("forbidden") is not find("FORBIDDEN")


def test_local_rows_say_local() -> None:
    for row in LOCAL.values():
        assert (row.system, row.origin) == ("local", "local")
