"""A caller's request, validated before anything is sent, and converted for the SDK.

The SDK sends invalid requests, or fails without naming the field. So what is known to fail is
rejected here. Knows nothing of connections or policies.
"""

from __future__ import annotations

from typing import Any

import attrs

from iii_resilience.core.errors import InvalidPayloadError, PayloadTooLargeError
from iii_resilience.core.system_clock import LONGEST_SECONDS
from iii_resilience.sdk.payload_check import check_payload, flat_size, size_of
from iii_resilience.sdk.propagation import PAYLOAD_FIELD, CallContext, add_context, outgoing
from iii_resilience.sdk.versions import Sdk

_LONGEST_KEY = 512  # what the other side reads (`sdk.propagation`)
# Beside payload and metadata a message has ids, trace headers and an action, of a few hundred
# bytes; where it could matter the message is measured whole.
_FRAME_MOST = 16_384
# Of one byte of compact JSON older SDKs make at most six (`sdk.payload_check`).
_GROWS_MOST = 6
# As `outgoing` takes it: seconds left, deadline, attempt; the attempt's seconds left and deadline.
_LONGEST = (9_999_999.0, 9_999_999_999.0, 99)
_LONGEST_ATTEMPT = (9_999_999.0, 9_999_999_999.0)
_INVOCATION_ID = "00000000-0000-4000-8000-000000000000"  # as long as the one that is made later

# The engine's own functions take what the engine documents, and nothing of ours beside it.
ENGINE_OWN = ("engine::", "configuration::")


@attrs.define
class Request:
    """A checked request.

    Attributes:
        fields: What is handed to the SDK; a copy, the user's own is never changed.
        function_id: The function.
        action: ``enqueue``, ``void``, or None for a call that waits for its result.
        timeout_ms: The timeout in the user's request, or None.
        bytes: Size of the payload as compact JSON, or None where it was not checked.
    """

    fields: dict[str, Any] = attrs.field(repr=False)
    function_id: str
    action: str | None
    timeout_ms: float | None
    bytes: int | None = None


def read(request: Any, sdk: Sdk) -> Request:
    """Read a request and check everything but its payload.

    Args:
        request: A dict or TriggerRequest; it is not changed.
        sdk: What the installed SDK does with it.

    Raises:
        TypeError: The request is neither a mapping nor a TriggerRequest.
        InvalidPayloadError: No function id, an unknown action, a namespace that would be ignored,
            or a negative timeout. Nothing is sent.
    """
    if isinstance(request, dict):
        fields = {**request}
    elif callable(getattr(request, "model_dump", None)):
        fields = request.model_dump()
    else:
        raise TypeError(
            "trigger() takes a dict {'function_id': ..., 'payload': ...} or a TriggerRequest, got "
            f"{type(request).__name__}"
        )
    function_id = fields.get("function_id")
    if not isinstance(function_id, str) or not function_id:
        what = "none" if "function_id" not in fields else _shown(function_id)
        raise InvalidPayloadError(
            "the request needs a function_id, a non-empty string such as 'orders::charge'; it has "
            f"{what}. Nothing was sent"
        )
    if fields.get("payload") is None:
        # The SDK leaves the field out and the engine drops such a frame: a TIMEOUT after the
        # full wait, on every version (docs/engine-notes.md, 1).
        fields["payload"] = {}
    if fields.get("namespace") is not None:
        _check_namespace(fields["namespace"], sdk)
    action, timeout = fields.get("action"), fields.get("timeout_ms")
    return Request(
        fields,
        function_id,
        None if action is None else _action(action),
        None if timeout is None else _timeout_ms(timeout),
    )


def check(request: Request, sdk: Sdk, most: int | None, key: str | None = None) -> Request:
    """Check what the request would send.

    Args:
        request: A request that was read.
        sdk: What the installed SDK does with it.
        most: The policy's own limit for a message, in bytes, or None.
        key: The idempotency key that travels along, or None.

    Raises:
        InvalidPayloadError: The engine would drop or change the payload or the metadata.
        PayloadTooLargeError: The message would exceed the smaller of the two limits.
    """
    fields = request.fields
    limit = sdk.send_limit if most is None else min(most, sdk.send_limit)
    size = flat_size(fields["payload"])
    if size is not None and "metadata" not in fields and _GROWS_MOST * size + _FRAME_MOST <= limit:
        request.bytes = size  # like most: small, and nothing else to look at
        return request
    size = beside = check_payload(fields["payload"])
    metadata = fields.get("metadata")
    if metadata is not None:
        beside += check_payload(metadata, what="the metadata")
    if (beside if sdk.compact else beside * _GROWS_MOST) + _FRAME_MOST > limit:
        whole = size_of(_message(request, sdk, key), compact=sdk.compact)
        if whole > limit:
            raise PayloadTooLargeError(whole, limit)
    request.bytes = size
    return request


def _message(request: Request, sdk: Sdk, key: str | None) -> dict[str, Any]:
    """The message that the SDK makes of a request, at its longest; without trace headers."""
    fields = request.fields
    message: dict[str, Any] = {
        "function_id": request.function_id,
        "data": fields["payload"],
        "type": "invokefunction",
    }
    for name in ("metadata", "namespace"):
        if fields.get(name) is not None:
            message[name] = fields[name]
    own = request.function_id.startswith(ENGINE_OWN)
    if sdk.sends_metadata and request.action != "enqueue" and not own:
        add_context(message, outgoing(*_LONGEST, key, *_LONGEST_ATTEMPT))
    if request.action != "void":
        message["invocation_id"] = _INVOCATION_ID
    if request.action == "void":
        message["action"] = {"type": "void"}
    elif request.action == "enqueue":
        action = fields["action"]
        queue = action["queue"] if isinstance(action, dict) else action.queue
        message["action"] = {"type": "enqueue", "queue": queue}
    return message


def for_queue(payload: Any, carried: CallContext) -> dict[str, Any] | None:
    """A payload with the call's context in its reserved field; None if it cannot hold one.

    Args:
        payload: The payload; only an object can hold a context.
        carried: The context.
    """
    if not isinstance(payload, dict):
        return None
    return {**payload, PAYLOAD_FIELD: carried.to_wire()}


def keyed(request: Request, key: str) -> Request:
    """A request for a queue with its idempotency key in the payload, for there is no metadata.

    Raises:
        InvalidPayloadError: The payload is not an object.
    """
    payload = for_queue(request.fields["payload"], CallContext(idempotency_key=key))
    if payload is None:
        raise InvalidPayloadError(
            "an idempotency_key travels to a queue inside the payload, which must be an object; "
            f"it is of type {type(request.fields['payload']).__name__}. Nothing was sent"
        )
    return attrs.evolve(request, fields={**request.fields, "payload": payload})


def check_key(key: Any) -> None:
    """Check an idempotency key.

    Raises:
        InvalidPayloadError: The key is not a text, empty, or too long. The message hides it.
    """
    if not isinstance(key, str) or not 0 < len(key) <= _LONGEST_KEY:
        what = f"of {len(key)} characters" if isinstance(key, str) else type(key).__name__
        raise InvalidPayloadError(
            f"idempotency_key must be text of 1 to {_LONGEST_KEY} characters, got one {what}. "
            "Nothing was sent"
        )


def _check_namespace(namespace: Any, sdk: Sdk) -> None:
    if not isinstance(namespace, str) or not namespace:
        raise InvalidPayloadError(
            f"the request's namespace must be a non-empty string, got {_shown(namespace)}. "
            "Nothing was sent"
        )
    if not sdk.sends_namespace and namespace != "default":
        raise InvalidPayloadError(
            f"the request names a namespace, which {sdk.name} ignores: the call would run in the "
            "default one. Use iii-sdk 0.23 or later. Nothing was sent"
        )


def _action(action: Any) -> str:
    kind = action.get("type") if isinstance(action, dict) else getattr(action, "type", None)
    if kind == "void":
        return "void"
    if kind == "enqueue":
        queue = action.get("queue") if isinstance(action, dict) else getattr(action, "queue", None)
        if isinstance(queue, str) and queue:
            return "enqueue"
        raise InvalidPayloadError("the action enqueue needs the name of a queue. Nothing was sent")
    raise InvalidPayloadError(
        "the request's action must be TriggerAction.Void(), TriggerAction.Enqueue(queue=...), or "
        f"none, got {type(action).__name__}: the SDK would silently make a synchronous call of "
        "it. Nothing was sent"
    )


def _timeout_ms(value: Any) -> float | None:
    if value == 0:
        return None  # the SDK takes 0 for its default, so it never gets one
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= LONGEST_SECONDS * 1000:
        raise InvalidPayloadError(
            "the request's timeout_ms must be a positive number of milliseconds (at most 1e12), "
            f"got {_shown(value)}. Nothing was sent"
        )
    return float(value)


def _shown(value: Any) -> str:
    """A value in a message: itself where it can hold no secret, else its type."""
    if value is None or isinstance(value, bool | int | float) or value == "":
        return repr(value)
    return f"one of type {type(value).__name__}"
