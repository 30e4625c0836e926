"""The end of a client, whatever the SDK makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.engine_fixtures import connect, engine

from iii_resilience.sdk.connection import Connection
from iii_resilience.sdk.shutdown import Shutdown

__all__ = ["connect", "engine"]


def test_client_failing_at_shutdown_leaves_no_socket_open(
    connect: Callable[..., Any],
) -> None:
    """Before 0.24.4: over an answer to a question that was given up a moment before."""
    client = connect()
    ending = Shutdown(Connection(client))
    transport, thread = client._ws.transport, client._thread

    def stumble() -> None:
        client._running = False
        raise asyncio.InvalidStateError("invalid state")

    client.shutdown = stumble
    ending.shut_down()
    assert not thread.is_alive()
    assert transport.get_extra_info("socket").fileno() == -1


def test_failure_before_sdk_shutdown_leaves_no_waiter(
    connect: Callable[..., Any],
) -> None:
    client = connect()
    connection = Connection(client)
    ending = Shutdown(connection)

    def fail() -> None:
        raise OSError("of a callback")

    connection.on_change(fail)
    with pytest.raises(OSError, match="of a callback"):
        ending.shut_down()
    assert not client._thread.is_alive()
    ending.shut_down()
