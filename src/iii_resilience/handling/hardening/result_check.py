"""Checks whether a handler's result can reach its caller, before it is sent.

If the engine's JSON parser drops a result, the caller gets a ``TIMEOUT``; a result that is too
large costs the worker its connection (docs/engine-notes.md, 1 and 2). Knows nothing of handlers.
"""

from __future__ import annotations

from typing import Any

from iii_resilience.core.errors import InvalidPayloadError, PayloadTooLargeError
from iii_resilience.sdk.payload_check import check_payload, size_of
from iii_resilience.sdk.versions import OLD_RECEIVE_LIMIT, Sdk

_ENVELOPE = 512  # what stands around a result in its message, without the function's id
_GROWS_MOST = 6  # of one byte of compact JSON older SDKs make at most so many (`sdk.payload_check`)

_BOUND_IS_ENOUGH = 1 << 19  # below this size the exact one is not needed


def result_limit(message_bytes: int, function_id: str) -> int:
    """How large a result may be, in bytes, so that its message is within a limit.

    Args:
        message_bytes: The limit of the message, in bytes.
        function_id: The function, whose id stands in the message too.
    """
    return max(0, message_bytes - _ENVELOPE - len(function_id.encode(errors="replace")))


def check_result(value: Any, sdk: Sdk, *, limit_bytes: int | None = None) -> int:
    """Check that a result can be sent.

    Args:
        value: The result, as the handler returned it.
        sdk: The worker's SDK, which writes it.
        limit_bytes: How large it may be on the wire, in bytes; None for any size.

    Returns:
        Its size, in bytes; of a small one an upper bound.

    Raises:
        InvalidPayloadError: It is not JSON, or JSON that the engine would drop.
        PayloadTooLargeError: It is larger than the limit.
    """
    try:
        size = check_payload(value, what="the result")
    except InvalidPayloadError as error:
        raise InvalidPayloadError(str(error).removesuffix(". Nothing was sent")) from None
    if not sdk.compact:
        size *= _GROWS_MOST
    if (
        size
        > min(OLD_RECEIVE_LIMIT, OLD_RECEIVE_LIMIT if limit_bytes is None else limit_bytes) // 2
    ):
        size = size_of(value, compact=sdk.compact)
    if limit_bytes is not None and size > limit_bytes:
        raise PayloadTooLargeError(size, limit_bytes)
    return size
