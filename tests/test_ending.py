"""The end of a client, whatever the SDK makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from engine_fixtures import connect, engine

from iii_resilience.ending import Ending
from iii_resilience.link import Link

__all__ = ["connect", "engine"]


def test_a_client_that_stumbles_at_its_end_leaves_no_socket_open(
    connect: Callable[..., Any],
) -> None:
    """Before 0.24.4: over an answer to a question that was given up a moment before."""
    client = connect()
    ending = Ending(Link(client))
    transport, thread = client._ws.transport, client._thread

    def stumble() -> None:
        client._running = False
        raise asyncio.InvalidStateError("invalid state")

    client.shutdown = stumble
    ending.shut_down()
    assert not thread.is_alive()
    assert transport.get_extra_info("socket").fileno() == -1
