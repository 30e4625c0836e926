"""One question to the engine through a client of the SDK, resilient or plain.

Knows nothing of what is asked. A question is never handed to an SDK that is disconnected: it would
be asked later, when nobody waits for the answer (sdk-matrix, section 0).
"""

from __future__ import annotations

import threading
import time
from typing import Any

from iii_resilience.errors import NotConnectedError

_POLL = 0.02


def ask(
    worker: Any,
    function_id: str,
    payload: Any,
    *,
    timeout: float,
    namespace: str | None = None,
    action: dict[str, Any] | None = None,
) -> Any:
    """Call one of the engine's functions and wait for the answer.

    Args:
        worker: What ``iii.register_worker()`` or `resilient` returned.
        function_id: The function.
        payload: What it is asked.
        timeout: Seconds for the connection and the answer together.
        namespace: Where the function is looked for; None leaves it to the SDK.
        action: What is done instead of calling it (``{"type": "enqueue", …}``), or None.

    Raises:
        NotConnectedError: There was no connection in that time; nothing was sent.
        RuntimeError: This is the SDK's own thread, where the answer would never come.
        Exception: The SDK's own exception.
    """
    if threading.current_thread() is getattr(worker, "_thread", None):
        raise RuntimeError(
            f"{function_id} was asked on the SDK's own thread (an async handler, or a connection "
            "listener), where the answer would never come; nothing was sent. Ask from a thread"
        )
    until = time.monotonic() + timeout
    while worker.get_connection_state() != "connected":
        if time.monotonic() >= until:
            raise NotConnectedError(
                f"no connection to the engine within {timeout:g} s; nothing was sent"
            )
        time.sleep(_POLL)
    left = max(0.0, until - time.monotonic())
    request = {
        "function_id": function_id,
        "payload": payload,
        "timeout_ms": max(1, int(left * 1000)),
    }
    if namespace is not None:
        request["namespace"] = namespace
    if action is not None:
        request["action"] = action
    # SDK 0.26 renames trigger to call.
    call = getattr(worker, "trigger", None) or worker.call
    return call(request)
