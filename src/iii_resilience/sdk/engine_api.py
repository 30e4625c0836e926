"""Requests to the engine's own functions, and how their answers are read.

A request is never sent through an SDK that is disconnected: the SDK would queue it and send it
later (docs/engine-notes.md, 5).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import attrs

from iii_resilience.core.errors import NotConnectedError
from iii_resilience.sdk.client_adapter import POLL, ClientAdapter, SdkClient

FUNCTIONS_INFO = "engine::functions::info"
IDS_AT_ONCE = 32
"""Ids in one question (docs/engine-notes.md, 1)."""

_TIMEOUT_MS = 1000


def call_engine(
    worker: SdkClient,
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
        payload: Its argument.
        timeout: Seconds for the connection and the answer together.
        namespace: Where the function is looked for; None leaves it to the SDK, but for
            ``configuration::*``.
        action: What is done instead of calling it (``{"type": "enqueue", …}``), or None.

    Raises:
        NotConnectedError: There was no connection in that time; nothing was sent.
        RuntimeError: This is the SDK's own thread, where the answer would never come.
        Exception: The SDK's own exception.
    """
    client = ClientAdapter(worker)
    if client.on_loop_thread:
        raise RuntimeError(
            f"{function_id} was called on the SDK's own thread (an async handler, or a connection "
            "listener), where the answer would never come; nothing was sent. Call it from a thread"
        )
    until = time.monotonic() + timeout
    while client.state != "connected":
        if time.monotonic() >= until:
            raise NotConnectedError(
                f"no connection to the engine within {timeout:g} s; nothing was sent"
            )
        time.sleep(POLL)
    left = max(0.0, until - time.monotonic())
    request = {
        "function_id": function_id,
        "payload": payload,
        "timeout_ms": max(1, int(left * 1000)),
    }
    namespace = namespace or client.namespace_of(function_id)
    if namespace is not None:
        request["namespace"] = namespace
    if action is not None:
        request["action"] = action
    return client.call(request)


def _trigger(item: Mapping[str, Any]) -> tuple[str, str]:
    return str(item.get("id")), str(item.get("trigger_type"))


@attrs.frozen
class FunctionStatus:
    """The engine's answer to the question for one function.

    Attributes:
        there: Whether a call would reach it (or be answered FORBIDDEN).
        owner: Name of the worker that owns it, or None where that is not known.
        forbidden: Whether this worker may not call it: the engine does not name the owner.
        triggers: The ids of its active triggers, and their types; None where the engine does not
            say.
    """

    there: bool
    owner: str | None = None
    forbidden: bool = False
    triggers: tuple[tuple[str, str], ...] | None = None

    @classmethod
    def read(cls, item: Mapping[str, Any], namespace: str | None) -> FunctionStatus:
        """One item of the engine's answer.

        Args:
            item: The item.
            namespace: The namespace that was queried, or None for the default one.

        Raises:
            TypeError, AttributeError: The item is not in a form that is known.
        """
        wanted, error = namespace or "default", item.get("error")
        if item.get("namespace", wanted) != wanted or error not in {None, "forbidden"}:
            return cls(there=False)
        # A forbidden function counts as there: the call is sent, the engine answers it.
        owner, triggers = item.get("worker_name"), item.get("registered_triggers")
        return cls(
            there=True,
            owner=owner if isinstance(owner, str) else None,
            forbidden=error is not None,
            triggers=None if triggers is None else tuple(map(_trigger, triggers)),
        )


def functions_info_request(
    function_ids: list[str], namespace: str | None, timeout_ms: int = _TIMEOUT_MS
) -> dict[str, Any]:
    """The question, as the SDK takes it.

    Args:
        function_ids: Up to `IDS_AT_ONCE` ids.
        namespace: The namespace they are looked for in, or None for the default one.
        timeout_ms: How long to wait for the answer, in milliseconds.
    """
    payload: dict[str, Any] = {"function_ids": function_ids}
    if namespace is not None:
        payload["namespace"] = namespace
    return {"function_id": FUNCTIONS_INFO, "payload": payload, "timeout_ms": timeout_ms}


def read_functions_info(answer: Any, namespace: str | None) -> dict[str, FunctionStatus]:
    """The engine's answer, by function id.

    Args:
        answer: What the engine answered.
        namespace: The namespace that was queried, or None for the default one.

    Raises:
        LookupError: The answer is not in a form that is known.
    """
    try:
        found = {}
        for item in answer["functions"]:
            found[item["function_id"]] = FunctionStatus.read(item, namespace)
    except (TypeError, AttributeError, KeyError) as error:
        raise LookupError("the engine answers in a form that is not known") from error
    return found


async def functions_info(
    call: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]],
    function_ids: list[str],
    namespace: str | None,
) -> dict[str, FunctionStatus]:
    """Query the engine for the registered functions. Runs on the SDK's loop.

    Args:
        call: The SDK's own coroutine function for a call.
        function_ids: Up to `IDS_AT_ONCE` ids.
        namespace: The namespace the calls go to, or None for the default one.

    Returns:
        One answer an id.

    Raises:
        LookupError: The answer is not in a form that is known.
        Exception: Whatever the SDK raises.
    """
    answer = await call(functions_info_request(function_ids, namespace))
    return read_functions_info(answer, namespace)
