"""Classifies responses of the RPC system (docs/engine-notes.md, 13).

`check_rpc` turns a response into its result or an exception; the failure of an error response is
that of its code's row. The layer never decides: recorded INVOKE_TIMEOUT and RESULT_NOT_SERIALIZABLE
responses have the layer ``validation``, and their handlers ran. Knows nothing of iii.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from iii_resilience.core.classifiers.message_cause import from_row, unknown_failure
from iii_resilience.core.classifiers.refinements import refine
from iii_resilience.core.classifiers.text_patterns import LIMIT, duration, retry_after_words
from iii_resilience.core.codes.lookup import RPC, find_user
from iii_resilience.core.codes.rpc import LAYER_REMEDIES
from iii_resilience.core.errors import RpcError
from iii_resilience.core.failure import Failure

_KEY = re.compile(r"[\w.$:-]{1,128}")
_KEYS = 200  # keys of a registry that are compared
_NEAREST = 3  # keys that are offered


def check_rpc(response: object) -> object:
    """The result of an RPC response, or its error.

    Args:
        response: The response, as parsed from JSON.

    Returns:
        ``result``, where ``status`` is ``ok``.

    Raises:
        RpcError: Where ``status`` is anything else.
        ValueError: If the response is not a mapping or has no ``status``.
    """
    if not isinstance(response, Mapping):
        raise ValueError(f"an RPC response is a mapping, not {type(response).__name__}")  # noqa: TRY004 - documented
    if "status" not in response:
        raise ValueError("an RPC response has a status")
    if response["status"] == "ok":
        return response.get("result")
    raise _error(response)


def is_response(body: Mapping[str, object]) -> bool:
    """Whether a mapping is a response of the RPC system, or the error of one.

    Args:
        body: The mapping.
    """
    if isinstance(body.get("status"), str) and ("label" in body or "error" in body):
        return True
    layer = body.get("layer")
    return isinstance(layer, str) and layer in LAYER_REMEDIES


def from_response(body: Mapping[str, object], function_id: str | None) -> Failure:
    """The failure of an error response, or of its ``error``.

    Args:
        body: What `is_response` is true of.
        function_id: The key that was called; where it is None, the response's ``fnKey``.
    """
    return from_error(_error(body if "status" in body else {"error": body}), function_id)


def from_error(error: RpcError, function_id: str | None) -> Failure:
    """The failure of an error that `check_rpc` raised.

    Args:
        error: The exception.
        function_id: The key that was called; where it is None, the exception's own.
    """
    code, message = _string(error.code) or "_OTHER", _string(error.message) or ""
    layer = _string(error.layer)
    key = function_id or _string(error.fn_key)
    row = RPC.get(code) or find_user(code)
    if row is None:
        failure = unknown_failure(code, message, system="rpc")
        failure = failure.replace(remedy=LAYER_REMEDIES.get(layer or "", failure.remedy))
    else:
        failure = refine(from_row(row, message)).replace(system="rpc")
    remedy = failure.remedy
    if code == "FN_NOT_FOUND" and (nearest := _nearest(message, key)):
        remedy = f"{remedy}; nearest: {', '.join(nearest)}"
    pushback = duration(error.retry_after)
    return failure.replace(
        function_id=key,
        layer=layer,
        stacktrace=_string(error.stack),
        remedy=remedy,
        retry_after=failure.retry_after if pushback is None else pushback,
    )


def _error(response: Mapping[str, object]) -> RpcError:
    detail = response.get("error")
    detail = detail if isinstance(detail, Mapping) else {}
    label = _string(response.get("label"))
    code = _string(detail.get("code")) or label or "_OTHER"
    message = _string(detail.get("message")) or ""
    row = RPC.get(code)
    return RpcError(
        code,
        message,
        layer=_string(detail.get("layer")),
        label=label,
        fn_key=_string(response.get("fnKey")),
        retry_after=retry_after_words(message) if row is not None and row.throttled else None,
        stack=_string(detail.get("stack")),
    )


def _string(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _nearest(message: str, key: str | None) -> list[str]:
    """The keys of "Available: …" that are most like the one that was called."""
    _, found, available = message[:LIMIT].partition("Available: ")
    if not found or not key:
        return []
    from difflib import get_close_matches  # noqa: PLC0415 - only for this one code

    keys = [name for name in available.split(", ")[:_KEYS] if _KEY.fullmatch(name)]
    return get_close_matches(key[:128], keys, n=_NEAREST, cutoff=0.4)
