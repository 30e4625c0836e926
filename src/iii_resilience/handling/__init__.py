"""The handler's door: what runs inside workers."""

from __future__ import annotations

from iii_resilience.handling.errors import (
    AuthError,
    HandlerError,
    NotFoundError,
    PayloadError,
    PermanentError,
    TransientError,
)

__all__ = [
    "AuthError",
    "HandlerError",
    "NotFoundError",
    "PayloadError",
    "PermanentError",
    "TransientError",
]
