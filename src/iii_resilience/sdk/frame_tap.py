"""What the engine tells a client and the SDK keeps to itself.

The SDK logs a refused registration (before 0.23 not even that) and tells nobody, so the client's
frames are looked at on their way in. Nothing is changed, and where this SDK's inside looks
different nothing is seen. Knows nothing of what is made of it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from iii_resilience.telemetry import logger

# A cheap look at the text first: nearly all frames are calls and results.
_HEAD = 4096
_OF_INTEREST = ("registrationrejected", "triggerregistrationresult")


def watch(client: Any, rejected: Callable[[dict[str, Any]], None]) -> None:
    """Watch what comes in on a client's connection.

    Args:
        client: The SDK's client.
        rejected: Is called with the frame of a refused registration, on the SDK's thread.
    """
    handle: Callable[[Any], Awaitable[Any]] | None = getattr(client, "_handle_message", None)
    if handle is None:
        return

    async def watched(raw: Any) -> Any:
        _look(raw, rejected)
        return await handle(raw)

    with suppress(AttributeError):
        client._handle_message = watched  # noqa: SLF001 - there is no public way to see it


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
