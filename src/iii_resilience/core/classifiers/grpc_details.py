"""What a gRPC exception says beyond its class: its status, and the pushback in its metadata.

Statuses are those of gRPC's doc/statuscodes.md; pushback is that of gRFC A6 and of
google.rpc.RetryInfo, which is read without a protobuf library. Knows nothing of other libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iii_resilience.core.classifiers.builtin_exceptions import attribute
from iii_resilience.core.classifiers.library_details import of_category
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.codes.shorthand import ME, NE, A, N, P, T, X
from iii_resilience.core.failure import Failure
from iii_resilience.core.system_clock import LONGEST_SECONDS

_DETAILS_BYTES = 65_536  # of grpc-status-details-bin; servers limit all metadata to less

_GRPC: dict[str, tuple[Category, Execution, bool]] = {
    "UNAVAILABLE": (T, ME, False),
    "RESOURCE_EXHAUSTED": (T, ME, True),
    "ABORTED": (T, ME, False),
    "DEADLINE_EXCEEDED": (T, ME, False),
    "INTERNAL": (T, ME, False),
    "UNAUTHENTICATED": (A, ME, False),
    "PERMISSION_DENIED": (A, ME, False),
    "NOT_FOUND": (N, ME, False),
    "INVALID_ARGUMENT": (P, ME, False),
    "OUT_OF_RANGE": (P, ME, False),
    "UNIMPLEMENTED": (X, NE, False),
}


def grpc_status(error: BaseException, failure: Failure) -> Failure | None:
    """The status of a gRPC call, and the pushback in its trailing metadata."""
    name = attribute(_called(error, "code"), "name")
    if not isinstance(name, str):
        return None
    category, execution, throttled = _GRPC.get(name, (X, ME, False))
    changed = of_category(failure, category, execution, throttled=throttled)
    changed = changed.replace(remedy=f"{changed.remedy} ({name[:32]})")
    return _grpc_pushback(_metadata(error), changed)


def _called(error: BaseException, name: str) -> object:
    method = attribute(error, name)
    try:
        return method() if callable(method) else None
    except Exception:
        return None


def _metadata(error: BaseException) -> dict[str, object]:
    pairs: Any = _called(error, "trailing_metadata")
    try:
        return dict(pairs or ())
    except Exception:
        return {}


def _grpc_pushback(metadata: Mapping[str, object], failure: Failure) -> Failure:
    pushback = metadata.get("grpc-retry-pushback-ms")
    if isinstance(pushback, str):
        try:
            wait = int(pushback[:20])
        except ValueError:
            wait = -1
        if wait < 0:  # the server asks not to be called again (gRFC A6)
            return failure.replace(category=X) if failure.category is T else failure
        return failure.replace(retry_after=min(wait / 1000, LONGEST_SECONDS))
    details = metadata.get("grpc-status-details-bin")
    if isinstance(details, bytes) and len(details) <= _DETAILS_BYTES:
        return failure.replace(retry_after=_retry_info(details))
    return failure


def _retry_info(status_details: bytes) -> float | None:
    """The delay in a google.rpc.RetryInfo among the details of a google.rpc.Status."""
    try:
        for detail in _fields(status_details).get(3, ()):
            parts = _fields(detail)
            if bytes(parts[1][0]).endswith(b"/google.rpc.RetryInfo"):
                delay = _fields(_fields(parts[2][0])[1][0])
                seconds = float(delay.get(1, (0,))[0]) + float(delay.get(2, (0,))[0]) / 1e9
                return min(seconds, LONGEST_SECONDS)
    except (IndexError, KeyError, TypeError, ValueError):
        pass
    return None


def _fields(message: Any) -> dict[int, list[Any]]:
    """The fields of a protobuf message: numbers and byte strings by field number."""
    found: dict[int, list[Any]] = {}
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        value: Any
        if key & 7 == 0:
            value, place = _varint(message, place)
        elif key & 7 == 2:  # noqa: PLR2004 - the wire type of a length-delimited field
            length, place = _varint(message, place)
            value, place = message[place : place + length], place + length
        else:
            raise ValueError(f"wire type {key & 7} stands in none of these messages")
        found.setdefault(key >> 3, []).append(value)
    return found


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follow
            return value, place
    raise ValueError("a varint has at most ten bytes")
