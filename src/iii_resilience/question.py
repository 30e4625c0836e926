"""The question which functions are registered, ``engine::functions::info``, and its answer.

Knows nothing of connections, or of who waits for the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import attrs

QUESTION = "engine::functions::info"
_TIMEOUT_MS = 1000


@attrs.frozen
class Presence:
    """The engine's answer to the question for one function.

    Attributes:
        there: Whether a call would reach it (or be answered FORBIDDEN).
        owner: Name of the worker that owns it, or None.
    """

    there: bool
    owner: str | None = None


def request(function_ids: list[str], namespace: str | None) -> dict[str, Any]:
    """The question, as the SDK takes it.

    Args:
        function_ids: Up to 32 ids.
        namespace: The namespace they are looked for in, or None for the default one.
    """
    payload: dict[str, Any] = {"function_ids": function_ids}
    if namespace is not None:
        payload["namespace"] = namespace
    return {"function_id": QUESTION, "payload": payload, "timeout_ms": _TIMEOUT_MS}


async def ask(
    call: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]],
    function_ids: list[str],
    namespace: str | None,
) -> dict[str, Presence] | None:
    """Ask the engine which functions are registered. Runs on the SDK's loop.

    Args:
        call: The SDK's own ``trigger_async``.
        function_ids: Up to 32 ids.
        namespace: The namespace the calls go to, or None for the default one.

    Returns:
        One answer an id; None where the engine forbids, does not know, or does not answer
        the question within a second.
    """
    try:
        result = await call(request(function_ids, namespace))
        wanted = namespace or "default"
        return {
            item["function_id"]: Presence(
                # A forbidden item counts as there: the call is sent, the engine answers it.
                item.get("error") in {None, "forbidden"}
                and item.get("namespace", wanted) == wanted,
                item.get("worker_name"),
            )
            for item in result["functions"]
        }
    except Exception:
        # Whatever went wrong, the question was not answered, and no call may fail for it.
        return None
