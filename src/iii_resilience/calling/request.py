"""What a caller asks for, checked before anything is sent.

Knows nothing of connections or policies. The SDK sends whatever it gets, or fails without saying
where; so what can be known to go wrong is refused here.
"""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class Request:
    """A checked request.

    Attributes:
        fields: What is handed to the SDK; a copy, the user's own is never changed.
        function_id: The function.
        action: ``enqueue``, ``void``, or None for a call that waits for its result.
        timeout_ms: What the user asked for, or None.
    """

    fields: dict[str, Any]
    function_id: str
    action: str | None
    timeout_ms: float | None


def check(request: Any) -> Request:
    """Check what the SDK would not: it sends whatever it gets, or fails without a name for it.

    Raises:
        TypeError: The request is neither a mapping nor a TriggerRequest.
        ValueError: No function id, an unknown action, or a negative timeout. Nothing is sent.
    """
    if isinstance(request, dict):
        fields = dict(request)
    elif callable(getattr(request, "model_dump", None)):
        fields = request.model_dump()
    else:
        raise TypeError(
            "trigger() takes a dict {'function_id': ..., 'payload': ...} or a TriggerRequest, got "
            f"{type(request).__name__}"
        )
    function_id = fields.get("function_id")
    if not isinstance(function_id, str) or not function_id:
        raise ValueError(
            "the request needs a function_id, a non-empty string such as 'orders::charge'; it has "
            + (f"{function_id!r}" if "function_id" in fields else "none")
            + ". Nothing was sent"
        )
    if fields.get("payload") is None:
        # The SDK leaves the field out and the engine drops such a frame: a TIMEOUT after the
        # full wait, on every version (engine-observed, section 1).
        fields["payload"] = {}
    return Request(
        fields, function_id, _action(fields.get("action")), _timeout_ms(fields.get("timeout_ms"))
    )


def _action(action: Any) -> str | None:
    if action is None:
        return None
    kind = action.get("type") if isinstance(action, dict) else getattr(action, "type", None)
    if kind == "void":
        return "void"
    if kind == "enqueue":
        queue = action.get("queue") if isinstance(action, dict) else getattr(action, "queue", None)
        if isinstance(queue, str) and queue:
            return "enqueue"
        raise ValueError("the action enqueue needs the name of a queue. Nothing was sent")
    raise ValueError(
        "the request's action must be TriggerAction.Void(), TriggerAction.Enqueue(queue=...), or "
        f"none, got {type(action).__name__}: the SDK would silently make a synchronous call of "
        "it. Nothing was sent"
    )


def _timeout_ms(value: Any) -> float | None:
    if value is None or value == 0:
        return None  # the SDK takes 0 for its default, so it never gets one
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(
            f"the request's timeout_ms must be a positive number of milliseconds, got {value!r}. "
            "Nothing was sent"
        )
    return float(value)
