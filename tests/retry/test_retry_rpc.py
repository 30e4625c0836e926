"""Responses of the RPC system under the decorator: `check_rpc` raises what `@iii_retry` knows."""

from __future__ import annotations

import time
from typing import Any

import pytest

from iii_resilience import RpcError, check_rpc, hint_for, iii_retry

OK = {"status": "ok", "result": {"id": 1}, "label": "OK", "error": None}


def error(code: str, message: str) -> dict[str, Any]:
    return {
        "status": "error",
        "fnKey": "Orders.gte",
        "label": code,
        "error": {"code": code, "message": message, "layer": "validation", "stack": None},
    }


class Client:
    """Answers with one response after the other, and remembers when."""

    def __init__(self, *responses: dict[str, Any]) -> None:
        self._responses = list(responses)
        self.called_at: list[float] = []

    @iii_retry(idempotent=True)
    def call(self) -> Any:
        self.called_at.append(time.monotonic())
        return check_rpc(self._responses.pop(0))


def test_rate_limited_call_is_repeated_no_sooner_than_asked() -> None:
    client = Client(error("RATE_LIMITED", "retry after 300ms"), OK)
    assert client.call() == {"id": 1}
    first, second = client.called_at
    assert second - first >= 0.3


def test_missing_key_is_not_retried_and_hint_names_nearest() -> None:
    message = "Not found. Available: Orders.get, Orders.fail, Ghost.m"
    client = Client(error("FN_NOT_FOUND", message), OK)
    with pytest.raises(RpcError) as caught:
        client.call()
    assert len(client.called_at) == 1
    hint = hint_for(caught.value)
    assert hint is not None
    assert hint.action == "discover"
    assert "Orders.get" in hint.remedy


def test_unauthenticated_call_is_not_repeated() -> None:
    client = Client(error("UNAUTHENTICATED", "no"), OK)
    with pytest.raises(RpcError) as caught:
        client.call()
    assert len(client.called_at) == 1
    hint = hint_for(caught.value)
    assert hint is not None
    assert hint.action == "fix-access"
