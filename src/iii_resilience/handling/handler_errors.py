"""Errors that a handler raises on purpose, and whose category reaches the caller.

The SDK sends ``invocation_failed`` with ``str(exception)`` for everything a handler raises
(docs/engine-notes.md, 7). So the ``str()`` of these errors is JSON, which `classify` reads on the
caller's side. Knows nothing of handlers or of wrappers.
"""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar

from iii_resilience.core.codes.lookup import LONGEST_CODE
from iii_resilience.core.codes.model import Category
from iii_resilience.core.system_clock import LONGEST_SECONDS


class HandlerError(Exception):
    """The base of the five; raise one of them.

    Args:
        message: What went wrong, for people. It reaches the caller: no secrets, no payload.
        code: A code of your own (``CARD_DECLINED``), or None. A code that the tables know keeps
            the category it has there.
        retry_after: Seconds the caller should wait before it tries again, or None.

    Raises:
        TypeError: The code is not a text.
        ValueError: The code is empty or too long, or ``retry_after`` is not a time.
    """

    category: ClassVar[Category]

    def __init__(
        self, message: str, *, code: str | None = None, retry_after: float | None = None
    ) -> None:
        kind = type(self).__name__
        if code is not None and not isinstance(code, str):
            raise TypeError(f"{kind}.code must be text or None, got {type(code).__name__}")
        if code is not None and not 0 < len(code) <= LONGEST_CODE:
            raise ValueError(f"{kind}.code must have 1 to {LONGEST_CODE} characters")
        if retry_after is not None and not _is_time(retry_after):
            raise ValueError(
                f"{kind}.retry_after must be a finite number of seconds from 0 on, or None"
            )
        self.message = str(message)
        self.code = code
        self.retry_after = retry_after
        self.already_retried = False
        super().__init__(message)

    def __str__(self) -> str:
        """The JSON that travels."""
        body: dict[str, Any] = {"type": self.category.value}
        if self.code is not None:
            body["code"] = self.code
        body["message"] = self.message
        if self.retry_after is not None:
            body["retry_after_ms"] = round(min(self.retry_after, LONGEST_SECONDS) * 1000)
        if self.already_retried:
            body["already_retried"] = True
        return json.dumps(body)

    def __repr__(self) -> str:
        # Without the message: it may hold what must not be logged.
        return f"{type(self).__name__}(code={self.code!r}, retry_after={self.retry_after!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.message, self.code, self.retry_after), vars(self)


def _is_time(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value >= 0


def _restore(
    kind: type[HandlerError], message: str, code: str | None, retry_after: float | None
) -> HandlerError:
    return kind(message, code=code, retry_after=retry_after)


class TransientError(HandlerError):
    """It may work again in a moment: callers that declared the call idempotent retry it."""

    category = Category.TRANSIENT


class AuthError(HandlerError):
    """The caller may not do this."""

    category = Category.AUTH


class NotFoundError(HandlerError):
    """What the call is about does not exist."""

    category = Category.NOT_FOUND


class PayloadError(HandlerError):
    """What was sent is wrong, and will be wrong again."""

    category = Category.PAYLOAD


class PermanentError(HandlerError):
    """It will not work, however often it is tried."""

    category = Category.PERMANENT
