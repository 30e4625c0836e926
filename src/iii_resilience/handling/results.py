"""Whether a handler's result would reach its caller.

Knows nothing of handlers. A result that the engine's JSON parser drops is a ``TIMEOUT`` for the
caller, and one that is too large costs the worker its connection (engine-observed, sections 1
and 2): both are found here, before anything is sent.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, is_dataclass
from typing import Any

from iii_resilience.errors import InvalidPayloadError, PayloadTooLargeError

_MIB = 1 << 20
_ENVELOPE = 512  # what stands around a result in its message, without the function's id
_DEEPEST = 120  # the engine drops what is nested deeper than 126 (engine-observed, section 1)

_NOT_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[^\[\]{}"]+')

OLD_RECEIVE_LIMIT = _MIB
"""Callers on SDK 0.24.4 and older lose their connection to a larger result, in bytes."""


def send_limit(sdk: tuple[int, ...]) -> int:
    """The largest message a worker on this SDK can send, in bytes (engine-observed, section 2).

    Args:
        sdk: The version of the worker's SDK.
    """
    return (64 if sdk >= (0, 25) else 16) * _MIB


def result_limit(message_bytes: int, function_id: str) -> int:
    """How large a result may be, in bytes, so that its message is within a limit.

    Args:
        message_bytes: The limit of the message, in bytes.
        function_id: The function, whose id stands in the message too.
    """
    return max(0, message_bytes - _ENVELOPE - len(function_id.encode(errors="replace")))


def check_result(value: Any, *, limit_bytes: int | None = None, what: str = "result") -> int:
    """Check that a result can be sent.

    Args:
        value: The result, as the handler returned it.
        limit_bytes: How large it may be as JSON in UTF-8, in bytes; None for any size.
        what: What it is called in messages.

    Returns:
        Its size, in bytes.

    Raises:
        InvalidPayloadError: It is no JSON, or JSON that the engine would drop.
        PayloadTooLargeError: It is larger than the limit.
    """
    try:
        text = json.dumps(
            value,
            allow_nan=False,
            ensure_ascii=False,
            separators=(",", ":"),
            default=_as_the_sdk,
        )
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidPayloadError(f"the {what} holds a lone surrogate") from None
    except RecursionError:
        raise InvalidPayloadError(f"the {what} is nested too deeply") from None
    except TypeError as error:
        raise InvalidPayloadError(f"the {what} is no JSON: {_kinds(error)}") from None
    except ValueError as error:
        circular = "ircular" in str(error)
        why = "it contains itself" if circular else "it holds NaN or an infinity"
        raise InvalidPayloadError(f"the {what} is no JSON: {why}") from None
    if _too_deep(text):
        raise InvalidPayloadError(f"the {what} is nested deeper than {_DEEPEST} levels")
    if limit_bytes is not None and size > limit_bytes:
        raise PayloadTooLargeError(size, limit_bytes)
    return size


def _as_the_sdk(value: Any) -> Any:
    """What pydantic makes of a value in the SDK's message: its models and dataclasses."""
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump(by_alias=True)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _kinds(error: TypeError) -> str:
    # Python's and ours name types only; another's words may hold values.
    text = str(error)
    return text if text.endswith(" is not JSON") or text.startswith("keys must be") else "TypeError"


def _too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= _DEEPEST:
        return False
    brackets = _NOT_BRACKETS.sub("", text)
    for _ in range(_DEEPEST):  # each round takes the innermost level away
        brackets = brackets.replace("[]", "").replace("{}", "")
        if not brackets:
            return False
    return True
