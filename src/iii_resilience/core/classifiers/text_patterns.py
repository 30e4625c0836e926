"""Patterns of the texts and fields in which the parts of iii report errors.

Finds codes, sizes, statuses and delays. Only the first `LIMIT` characters of a text are read, so
the time is bounded, whatever a remote side sends. Knows nothing of what the values mean.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

from iii_resilience.core.system_clock import LONGEST_SECONDS

LIMIT = 8192
"""Characters of a message that are looked at."""


_HTTP = re.compile(r"HTTP ([1-5]\d\d)(?=\s|$)")
# The producer-side guard of the iii error codes page (docs/engine-notes.md, 15) and the
# wording of SDK 0.24.5 and later.
_GUARD = re.compile(
    r"Payload (\d{1,19}) bytes exceeds invocation limit (\d{1,19}) bytes"
    r"|Serialized JSON envelope is (\d{1,19}) bytes; limit is (\d{1,19}) bytes"
)
_RETRY_AFTER_MS = re.compile(r"\bretry after (\d{1,64}(?:\.\d{1,6})?) ?ms\b")
# ≤ 0.11.2: str() of the error's dict is the message (docs/engine-notes.md, 6).
_LITERAL = r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LEGACY_DICT = re.compile(rf"\{{'code': {_LITERAL}(?:, 'message': {_LITERAL})?", re.DOTALL)

_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_RUST_DEBUG = re.compile(rf"ErrorBody \{{ code: {_QUOTED}, message: {_QUOTED}", re.DOTALL)
_RUST_ESCAPE = re.compile(r"\\(?:u\{([0-9a-fA-F]{1,6})\}|(.))", re.DOTALL)

# Words of the standalone queue worker for what the built-in one gives codes
# (docs/engine-notes.md, 7); exact, but for the queue's name.
QUEUE_WORDS = {
    "Topic is not set": "topic_not_set",
    "Queue name is required": "queue_not_set",
    "queue is required": "queue_not_set",
    "Message ID is required": "message_id_not_set",
    "topic is required": "topic_required",
}
NO_PROVIDER = "No queue provider is installed"
QUEUE_MISSING = re.compile(
    r"queue '.{0,256}?' is not defined; call queue::define before enqueueing$"
    r"|Queue '.{0,256}?' not found$"
)
FIFO_FIELD = re.compile(r"FIFO queue '.{0,256}?' requires field '.{0,256}?' in data\b")


def http_status_in(message: str) -> int | None:
    """The status in "HTTP 503 Service Unavailable", as the engine words it, or None.

    Args:
        message: The message of ``http_error``.
    """
    found = _HTTP.match(message[:16])
    return int(found[1]) if found is not None else None


def guard_sizes(text: str) -> tuple[int, int] | None:
    """Both sizes in the wording of a guard against payloads that are too large.

    Args:
        text: A message.

    Returns:
        Size and limit in bytes, or None.
    """
    text = text[:LIMIT]
    found = _GUARD.search(text) if " bytes" in text else None
    return (int(found[1] or found[3]), int(found[2] or found[4])) if found is not None else None


def sizes(body: Mapping[str, object]) -> tuple[int, int] | None:
    """The two sizes of a payload that is too large, as the SDKs name them.

    Args:
        body: An error as a mapping: Python's ``payload_bytes``/``limit_bytes``, Node's
            ``payloadBytes``/``limitBytes`` or Rust's ``actual``/``limit``.

    Returns:
        Both in bytes, or None unless both are there as non-negative integers.
    """
    for names in (
        ("payload_bytes", "limit_bytes"),
        ("payloadBytes", "limitBytes"),
        ("actual", "limit"),
    ):
        first, second = body.get(names[0]), body.get(names[1])
        if _is_size(first) and _is_size(second):
            return int(str(first)), int(str(second))
    return None


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def duration(value: Any) -> float | None:
    """A number of seconds that can be waited; None unless it is finite and not negative."""
    return _cut(value, LONGEST_SECONDS)


def _cut(value: Any, longest: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        return None
    return float(min(value, longest))


def retry_after_ms(value: Any) -> float | None:
    """A pushback in milliseconds as seconds.

    Args:
        value: What stands in ``retry_after_ms``.

    Returns:
        Seconds, or None unless the value is a finite, non-negative number.
    """
    found = _cut(value, LONGEST_SECONDS * 1000)
    return None if found is None else found / 1000


def retry_after_words(message: str) -> float | None:
    """The pushback in "retry after 4998ms", in seconds, or None.

    Args:
        message: A message of the RPC system's RATE_LIMITED.
    """
    found = _RETRY_AFTER_MS.search(message[:LIMIT])
    return min(float(found[1]) / 1000, LONGEST_SECONDS) if found else None


def legacy(text: str) -> tuple[str, str] | None:
    """Code and message in ``str(error_dict)``, as SDK ≤ 0.11.2 words every error.

    Args:
        text: ``{'code': 'FORBIDDEN', 'message': 'no way'}``, possibly cut off.

    Returns:
        Both, or None if the text does not match.
    """
    found = _LEGACY_DICT.match(text[:LIMIT])
    if found is None:
        return None
    try:
        return ast.literal_eval(found[1]), ast.literal_eval(found[2] or "''")
    except (ValueError, SyntaxError):
        return None


def rust_debug(text: str) -> tuple[str, str] | None:
    """Code and message in the Rust debug text of an error body, as a topic's dead letters hold it.

    Args:
        text: ``ErrorBody { code: "…", message: "…", stacktrace: … }``, possibly cut off
            (docs/engine-notes.md, 9).

    Returns:
        Both, or None if the text does not match.
    """
    found = _RUST_DEBUG.match(text[:LIMIT])
    return (_unescaped(found[1]), _unescaped(found[2])) if found is not None else None


def _unescaped(text: str) -> str:
    return _RUST_ESCAPE.sub(_character, text)


def _character(escape: re.Match[str]) -> str:
    if escape[1]:
        number = int(escape[1], 16)
        return chr(number) if number <= 0x10FFFF else "\ufffd"  # noqa: PLR2004 - last code point
    return {"n": "\n", "r": "\r", "t": "\t", "0": "\0"}.get(escape[2], escape[2])
