"""Requests to the engine's own functions, and how their answers are read.

A request is never sent through an SDK that is disconnected: the SDK would queue it and send it
later (docs/engine-notes.md, 5).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import attrs

from iii_resilience.core.errors import NotConnectedError

_POLL = 0.02


def call_engine(
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


FUNCTIONS_INFO = "engine::functions::info"
_TIMEOUT_MS = 1000


@attrs.frozen
class FunctionStatus:
    """The engine's answer to the question for one function.

    Attributes:
        there: Whether a call would reach it (or be answered FORBIDDEN).
        owner: Name of the worker that owns it, or None.
    """

    there: bool
    owner: str | None = None


def functions_info_request(function_ids: list[str], namespace: str | None) -> dict[str, Any]:
    """The question, as the SDK takes it.

    Args:
        function_ids: Up to 32 ids.
        namespace: The namespace they are looked for in, or None for the default one.
    """
    payload: dict[str, Any] = {"function_ids": function_ids}
    if namespace is not None:
        payload["namespace"] = namespace
    return {"function_id": FUNCTIONS_INFO, "payload": payload, "timeout_ms": _TIMEOUT_MS}


async def functions_info(
    call: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]],
    function_ids: list[str],
    namespace: str | None,
) -> dict[str, FunctionStatus] | None:
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
        result = await call(functions_info_request(function_ids, namespace))
        wanted = namespace or "default"
        found = {}
        for item in result["functions"]:
            # A forbidden item counts as there: the call is sent, the engine answers it.
            there = item.get("error") in {None, "forbidden"}
            here = item.get("namespace", wanted) == wanted
            found[item["function_id"]] = FunctionStatus(there and here, item.get("worker_name"))
    except Exception:
        # Whatever went wrong, the question was not answered, and no call may fail for it.
        return None
    return found
