"""`discover`: whether a function is there, without calling it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.engine_fixtures import connect, engine
from support.real_sdk import InvocationError

from iii_resilience import Discovery, NotConnectedError, discover, resilient
from iii_resilience.testing import AnswerError, LoopbackEngine

__all__ = ["connect", "engine"]


def test_it_waits_for_registration_and_never_calls(
    engine: LoopbackEngine, connect: Callable[..., Any]
) -> None:
    asker, owner = resilient(connect()), connect("owner")
    later = threading.Timer(0.3, lambda: owner.register_function("orders::save", lambda d: d))
    later.start()
    found = discover(asker, "orders::save", timeout=10)
    later.join()
    assert found == Discovery("orders::save", there=True, owner="owner")
    assert found
    assert engine.calls("orders::save") == ()


def test_missing_function_is_reported_with_similar_ids(
    engine: LoopbackEngine, connect: Callable[..., Any]
) -> None:
    client = connect()
    client.register_function("orders::Save", lambda d: d)
    engine.wait_registered("orders::Save")
    began = time.monotonic()
    found = discover(client, "orders::save", timeout=0.3, near=True)
    assert time.monotonic() - began >= 0.3
    assert not found
    assert found.near == ("orders::Save",)
    assert discover(client, "orders::save", timeout=0).near == ()


def test_another_namespace_is_another_function(
    engine: LoopbackEngine, connect: Callable[..., Any]
) -> None:
    client = connect()
    client.register_function("orders::save", lambda d: d)
    engine.wait_registered("orders::save")
    assert not discover(client, "orders::save", timeout=0, namespace="elsewhere")
    assert discover(client, "orders::save", timeout=0, namespace="default")


def test_rejected_check_is_error_and_slow_one_is_repeated(
    engine: LoopbackEngine, connect: Callable[..., Any]
) -> None:
    client = connect()
    client.register_function("orders::save", lambda d: d)
    engine.wait_registered("orders::save")
    engine.inject("engine::functions::info", AnswerError("TIMEOUT", "slow"))
    assert discover(client, "orders::save", timeout=10)
    engine.forbid("engine::functions::info")
    with pytest.raises(InvocationError, match="FORBIDDEN"):
        discover(client, "orders::save", timeout=10)


def test_without_connection_nothing_is_known(
    engine: LoopbackEngine, connect: Callable[..., Any]
) -> None:
    client = connect()
    engine.stop_listening()
    assert _disconnected(client)
    with pytest.raises(NotConnectedError):
        discover(client, "orders::save", timeout=0.1)


def _disconnected(client: Any) -> bool:
    until = time.monotonic() + 10
    while client.get_connection_state() == "connected" and time.monotonic() < until:
        time.sleep(0.01)
    return bool(client.get_connection_state() != "connected")
