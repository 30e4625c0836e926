"""The engine's JSON: which frames it accepts, which it drops, and what it changes.

The engine parses frames strictly into typed messages. It logs and drops what it cannot parse, and
the caller times out (docs/engine-notes.md, 1). Takes text and returns a checked message. Knows
nothing of connections or of what a message means.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

Message = dict[str, Any]

#: Levels of arrays and objects in a whole frame; deeper frames are dropped. The frame itself is
#: one of them, so a payload may have 126 (observed on engine 0.23).
MAX_DEPTH: Final = 127
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1
# Numbers Python and the engine read differently: beyond 64 bits, beyond a float, or minus zero.
# It looks where a number may begin, and reads each once: most of a frame's time would go here.
_UNUSUAL_NUMBER: Final = re.compile(r"[\[:,\s]-?+[\d.]++(?:(?<=\d{19})|[eE]\+?\d{3}|(?<=-0))")
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class UnreadableFrame(ValueError):  # noqa: N818 - it is a verdict about a frame, and never escapes
    """The engine would log this frame and drop it; the message says why."""


def _reject_constant(name: str) -> float:
    raise UnreadableFrame(f"{name} is not JSON")


def _to_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise UnreadableFrame("number out of range")
    return value


def _to_int(text: str) -> int | float:
    # The engine keeps 64 bits: what does not fit becomes a float, silently; so does minus zero.
    value = int(text) if len(text) < 400 else None  # noqa: PLR2004 - no float has 400 digits
    if value is not None and _INT_MIN <= value <= _INT_MAX and text != "-0":
        return value
    return _to_float(text)


_USUAL: Final = json.JSONDecoder(parse_constant=_reject_constant)
_CAREFUL: Final = json.JSONDecoder(
    parse_constant=_reject_constant, parse_int=_to_int, parse_float=_to_float
)
_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False,
    allow_nan=False,
    check_circular=False,  # a message was decoded from a text, or is made here
    separators=(",", ":"),
    sort_keys=True,
)


def encode(message: Mapping[str, Any]) -> str:
    """The text of a message as the engine writes it: compact, keys of objects sorted."""
    return _ENCODER.encode(message)


def decode(text: str) -> Message:
    """Reads one frame.

    Args:
        text: The frame's text.

    Returns:
        The message, with its optional fields as sent.

    Raises:
        UnreadableFrame: The engine would drop this frame.
    """
    try:
        decoder = _CAREFUL if _UNUSUAL_NUMBER.search(text) else _USUAL
        message: object = decoder.decode(text)
    except UnreadableFrame:
        raise
    except (ValueError, RecursionError) as error:
        raise UnreadableFrame(f"json decode error: {error}") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(message) > MAX_DEPTH:
        raise UnreadableFrame("recursion limit exceeded")
    if _SURROGATE.search(text):
        try:
            encode({"": message}).encode()
        except UnicodeEncodeError:
            raise UnreadableFrame("lone surrogate in a string") from None
    if not isinstance(message, dict):
        raise UnreadableFrame("a frame is an object")
    return _checked(message)


def recorded(text: str) -> object:
    """What can be shown of a dropped frame: the value if Python can read it, else its text."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value


def _depth(value: object) -> int:
    deepest = 0
    stack: list[tuple[object, int]] = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, dict):
            children: list[object] = list(item.values())
        elif isinstance(item, list):
            children = item
        else:
            continue
        deepest = max(deepest, depth)
        if deepest > MAX_DEPTH:
            break
        stack.extend((child, depth + 1) for child in children)
    return deepest


def normal_uuid(value: object) -> str | None:
    """The engine's spelling of a UUID, or None if it is none."""
    if not isinstance(value, str):
        return None
    if _UUID.fullmatch(value):
        return value
    try:
        return str(uuid.UUID(value))
    except ValueError:
        return None


def _string(value: object) -> bool:
    return isinstance(value, str)


def _optional_string(value: object) -> bool:
    return value is None or isinstance(value, str)


def _optional_object(value: object) -> bool:
    return value is None or isinstance(value, dict)


def _uuid(value: object) -> bool:
    return normal_uuid(value) is not None


def _optional_uuid(value: object) -> bool:
    return value is None or normal_uuid(value) is not None


def _action(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict):
        return False
    kind = value.get("type")
    return kind == "void" or (kind == "enqueue" and isinstance(value.get("queue"), str))


def _error(value: object) -> bool:
    return value is None or (
        isinstance(value, dict)
        and isinstance(value.get("code"), str)
        and isinstance(value.get("message"), str)
        and _optional_string(value.get("stacktrace"))
    )


_Check = Callable[[object], bool]

_ANY: Final[_Check] = lambda _: True  # noqa: E731 - a table reads best with short names
# Fields that must be there, then fields that may be absent; anything else is ignored.
_FIELDS: Final[dict[str, tuple[dict[str, _Check], dict[str, _Check]]]] = {
    "invokefunction": (
        {"function_id": _string, "data": _ANY},
        {
            "invocation_id": _optional_uuid,
            "action": _action,
            "namespace": _optional_string,
            "traceparent": _optional_string,
            "baggage": _optional_string,
        },
    ),
    "invocationresult": (
        {"invocation_id": _uuid, "function_id": _string},
        {"error": _error, "traceparent": _optional_string, "baggage": _optional_string},
    ),
    "registerfunction": (
        {"id": _string},
        {"description": _optional_string, "invocation": _optional_object},
    ),
    "unregisterfunction": ({"id": _string}, {}),
    "registertrigger": (
        {"id": _string, "trigger_type": _string, "function_id": _string, "config": _ANY},
        {"namespace": _optional_string, "trigger_namespace": _optional_string},
    ),
    "unregistertrigger": ({"id": _string}, {"trigger_type": _optional_string}),
    "registertriggertype": (
        {"id": _string, "description": _string},
        {"namespace": _optional_string},
    ),
    "triggerregistrationresult": (
        {"id": _string, "trigger_type": _string, "function_id": _string},
        {"error": _error},
    ),
    "registerservice": (
        {"id": _string},
        {"description": _optional_string, "parent_service_id": _optional_string},
    ),
    "reattach": ({"previous_worker_id": _string}, {"reattach_token": _optional_string}),
    "workerregistered": ({"worker_id": _string}, {}),
    "registrationrejected": (
        {"code": _string, "namespace": _string, "owner_worker_id": _string},
        {},
    ),
    "ping": ({}, {}),
    "pong": ({}, {}),
}


def _checked(message: Message) -> Message:
    kind = message.get("type")
    fields = _FIELDS.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise UnreadableFrame(f"unknown message type {kind!r}")
    required, optional = fields
    for name, check in required.items():
        if name not in message:
            raise UnreadableFrame(f"missing field `{name}`")
        if not check(message[name]):
            raise UnreadableFrame(f"invalid value in `{name}`")
    for name, check in optional.items():
        if name in message and not check(message[name]):
            raise UnreadableFrame(f"invalid value in `{name}`")
    if message.get("invocation_id") is not None:
        message["invocation_id"] = normal_uuid(message["invocation_id"])
    return message
