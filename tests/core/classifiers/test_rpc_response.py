"""Responses of the RPC system, as recorded (docs/engine-notes.md, 13)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.paths import DATA

from iii_resilience.core.classifiers.rpc_response import check_rpc, is_response
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.lookup import Category, Execution
from iii_resilience.core.errors import RpcError

ENVELOPES: list[dict[str, Any]] = json.loads((DATA / "rpc-envelopes.json").read_text())
FAILED = [envelope for envelope in ENVELOPES if envelope["status"] == "error"]
SAID = {
    "INVALID_FN_KEY": ("payload", "not_executed", True),
    "FN_NOT_FOUND": ("not-found", "not_executed", True),
    "WRONG_ARG_COUNT": ("payload", "not_executed", True),
    "INVOKE_TIMEOUT": ("transient", "maybe_executed", True),
    "RESULT_NOT_SERIALIZABLE": ("permanent", "executed", True),
    "UNEXPECTED_ERROR": ("permanent", "maybe_executed", True),
    "INSUFFICIENT_STOCK": ("permanent", "maybe_executed", False),
    "RATE_LIMITED": ("transient", "not_executed", True),
    "UNAUTHENTICATED": ("auth", "not_executed", True),
}


def test_eleven_were_recorded() -> None:
    assert len(ENVELOPES) == 11
    assert {envelope["label"] for envelope in FAILED} == set(SAID)


@pytest.mark.parametrize("envelope", FAILED, ids=lambda envelope: envelope["label"])
@pytest.mark.parametrize("form", ["response", "detail", "exception"])
def test_recorded_failure(envelope: dict[str, Any], form: str) -> None:
    if form == "response":
        failure = classify(envelope)
    elif form == "detail":
        failure = classify(envelope["error"])
    else:
        with pytest.raises(RpcError) as caught:
            check_rpc(envelope)
        failure = classify(caught.value)
    category, execution, known = SAID[envelope["label"]]
    assert failure.code == envelope["label"]
    assert (failure.category, failure.execution, failure.known) == (category, execution, known)
    assert failure.system == "rpc"
    assert failure.layer == envelope["error"]["layer"]
    assert failure.stacktrace == envelope["error"]["stack"]
    assert failure.message == envelope["error"]["message"]
    assert failure.throttled is (failure.code == "RATE_LIMITED")
    assert failure.retry_after == (4.998 if failure.code == "RATE_LIMITED" else None)
    if form != "detail":
        assert failure.function_id == envelope["fnKey"]


@pytest.mark.parametrize("envelope", [e for e in ENVELOPES if e["status"] == "ok"])
def test_result(envelope: dict[str, Any]) -> None:
    assert check_rpc(envelope) == {"id": 1}


def test_ok_passes_whatever_else_it_holds() -> None:
    assert check_rpc({"status": "ok"}) is None
    assert check_rpc({"status": "ok", "result": 5, "error": {"code": "X"}, "label": "X"}) == 5


@pytest.mark.parametrize("response", [None, "ok", 5, [], {}, {"result": 1}, {"label": "X"}])
def test_no_response(response: object) -> None:
    with pytest.raises(ValueError, match=r"^an RPC response ") as caught:
        check_rpc(response)
    kind = "a mapping, not " + type(response).__name__
    what = "has a status" if isinstance(response, dict) else f"is {kind}"
    assert str(caught.value) == f"an RPC response {what}"


def test_exception_holds_everything() -> None:
    rate_limited = next(e for e in FAILED if e["label"] == "RATE_LIMITED")
    with pytest.raises(RpcError) as caught:
        check_rpc(rate_limited)
    error = caught.value
    assert (error.code, error.message) == ("RATE_LIMITED", "retry after 4998ms")
    assert (error.layer, error.label) == ("validation", "RATE_LIMITED")
    assert (error.fn_key, error.retry_after, error.stack) == ("Orders.get", 4.998, None)


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ({"status": "error", "label": "RATE_LIMITED", "error": None}, "RATE_LIMITED"),
        ({"status": "error", "label": "RATE_LIMITED"}, "RATE_LIMITED"),
        ({"status": "error", "label": "A", "error": {"code": "B"}}, "B"),
        ({"status": "error", "label": "A", "error": {"code": 5}}, "A"),
        ({"status": "error", "label": 5, "error": "text"}, "_OTHER"),
        ({"status": "failed", "label": "A"}, "A"),
    ],
)
def test_code_is_errors_else_label(response: dict[str, Any], code: str) -> None:
    with pytest.raises(RpcError) as caught:
        check_rpc(response)
    assert caught.value.code == code
    assert classify(response).code == code


@pytest.mark.parametrize(
    "body",
    [
        {"status": "error", "label": "A"},
        {"status": "error", "error": {"code": "A"}},
        *({"layer": layer, "code": "A"} for layer in ("validation", "expected", "unexpected")),
    ],
    ids=str,
)
def test_response_has_status_and_label_or_error(body: dict[str, Any]) -> None:
    assert is_response(body)
    failure = classify(body)
    assert (failure.code, failure.system) == ("A", "rpc")


@pytest.mark.parametrize(
    "body",
    [
        {"status": "error", "code": "A"},
        {"label": "A", "code": "A"},
        {"error": {"message": "x"}, "code": "A"},
        {"status": 500, "error": {"message": "x"}, "code": "A"},
        {"layer": "network", "code": "A"},
        {"layer": ["validation"], "code": "A"},
        {},
    ],
    ids=str,
)
def test_other_mapping_is_no_response(body: dict[str, Any]) -> None:
    assert not is_response(body)
    assert classify(body).system == "iii"


def test_nearest_keys() -> None:
    envelope = next(e for e in FAILED if e["label"] == "FN_NOT_FOUND")
    failure = classify(envelope | {"fnKey": "Orders.gett"})
    assert "nearest: Orders.get" in failure.remedy
    assert failure.remedy.count("Orders.") <= 3
    assert "nearest" not in classify(envelope["error"]).remedy
    assert "nearest: Orders.get" in classify(envelope["error"], function_id="Orders.got").remedy


def test_nearest_keys_hold_nothing_but_keys() -> None:
    body = {
        "status": "error",
        "fnKey": "A.b",
        "label": "FN_NOT_FOUND",
        "error": {"code": "FN_NOT_FOUND", "message": "Available: A.c, token=secret value, A.d"},
    }
    assert "secret" not in classify(body).remedy


@pytest.mark.parametrize(
    ("called", "available", "nearest"),
    [
        ("a.save", "a.saved, a.save2, a.saves, b.save, x.y", ["a.saves", "a.saved", "a.save2"]),
        ("orders.get", "items.set, x.y", ["items.set"]),  # half of its characters are enough
        ("orders.get", "x.y", []),
        ("orders.get", "", []),
        ("a.b", "a.c; see Available: a.bb", []),  # the list begins at the first of the two
    ],
)
def test_three_nearest_keys_are_offered(called: str, available: str, nearest: list[str]) -> None:
    body = {
        "status": "error",
        "fnKey": called,
        "label": "FN_NOT_FOUND",
        "error": {"code": "FN_NOT_FOUND", "message": f"No such function. Available: {available}"},
    }
    remedy = classify(body).remedy.partition("; nearest: ")[2]
    assert remedy == ", ".join(nearest)


@pytest.mark.parametrize("layer", ["validation", "expected", "unexpected", None, "other"])
def test_layer_decides_nothing_but_advice(layer: str | None) -> None:
    response = {"status": "error", "label": "NEW", "error": {"code": "NEW", "layer": layer}}
    failure = classify(response)
    assert (failure.category, failure.execution) == (
        Category.PERMANENT,
        Execution.MAYBE_EXECUTED,
    )
    assert failure.remedy


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("retry after 4998ms", 4.998),
        ("please retry after 0ms", 0.0),
        ("retry after 12.5 ms", 0.0125),
        ("retry after -5ms", None),
        ("retry after soon", None),
        ("", None),
    ],
)
def test_pushback(words: str, seconds: float | None) -> None:
    body = {"status": "error", "label": "RATE_LIMITED", "error": {"message": words}}
    assert classify(body).retry_after == seconds


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (3, 3.0),
        (0.5, 0.5),
        (True, None),
        (-1, None),
        (float("inf"), None),
        (10**400, 1e9),
        ("3", None),
    ],
)
def test_pushback_counts_only_as_number_of_seconds(given: object, kept: float | None) -> None:
    error = RpcError("RATE_LIMITED", "slow down", retry_after=given)  # type: ignore[arg-type]
    assert classify(error).retry_after == kept
