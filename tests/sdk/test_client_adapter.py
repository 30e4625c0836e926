"""The adapter of a client, where no client of its version is installed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from iii_resilience.sdk.client_adapter import ClientAdapter


def client(namespace: str | None) -> Any:
    return SimpleNamespace(
        get_connection_state=lambda: "connected",
        shutdown=lambda: None,
        trigger_async=lambda request: None,
        _worker_namespace=lambda: namespace,
    )


@pytest.mark.parametrize(
    ("own", "function_id", "named"),
    [
        ("shop", "configuration::get", "default"),
        ("shop", "engine::functions::info", None),
        ("shop", "shop::configuration::get", None),
        ("default", "configuration::get", None),
        (None, "configuration::get", None),
    ],
)
def test_configuration_is_looked_for_in_default_namespace(
    own: str | None, function_id: str, named: str | None
) -> None:
    assert ClientAdapter(client(own)).namespace_of(function_id) == named
