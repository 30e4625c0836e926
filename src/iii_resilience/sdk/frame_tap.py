"""Reads the frames of a client for messages that the SDK does not pass on.

The SDK only logs a rejected registration (before 0.23 not even that). The frames are read and never
changed; if an SDK's internals differ, nothing is read. Knows nothing of what the messages are used
for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from iii_resilience.sdk.client_adapter import ClientAdapter, Receive
from iii_resilience.telemetry import logger

# A cheap look at the text first: nearly all frames are calls and results.
_HEAD = 4096
_OF_INTEREST = ("registrationrejected", "triggerregistrationresult")


def watch(client: ClientAdapter, rejected: Callable[[dict[str, Any]], None]) -> None:
    """Watch what comes in on a client's connection.

    Args:
        client: The client.
        rejected: Is called with the frame of a refused registration, on the SDK's thread.
    """

    def wrap(receive: Receive) -> Receive:
        async def watched(raw: Any) -> Any:
            _look(raw, rejected)
            return await receive(raw)

        return watched

    client.intercept(wrap)


def _look(raw: Any, rejected: Callable[[dict[str, Any]], None]) -> None:
    try:
        head = raw[:_HEAD] if isinstance(raw, str) else bytes(raw[:_HEAD]).decode(errors="replace")
        if not any(kind in head for kind in _OF_INTEREST):
            return
        frame = json.loads(raw)
        if isinstance(frame, dict) and frame.get("type") in _OF_INTEREST:
            rejected(frame)
    except Exception:  # looking must never cost the client a frame
        logger.debug("a frame could not be looked at")
