"""The exceptions of this library; each says what was (not) sent and what to do.

Each has a string ``code`` with a row in `codes.local`, so `classify` treats it like any other
error. They stand only for what was not sent: an exception of the SDK or of a user's function is
never replaced by one. Knows nothing of who raises them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ConfigError(ValueError):
    """Policies that cannot be used: a file that does not validate, or a rule that is refused.

    Args:
        problems: Every problem found, each ``place: what is wrong (what is allowed)``.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,), vars(self)


class NotConnectedError(ConnectionError):
    """The engine cannot be reached; nothing was sent, so nothing ran.

    Attributes:
        refused: Whether the engine seems to refuse this worker: it takes its connections and
            closes them at once.
    """

    code = "NOT_CONNECTED"
    refused = False


class ConnectionLostError(ConnectionError):
    """The connection went away under a call in flight: its answer will never come.

    The function may have run, be running, or never have been reached.
    """

    code = "CONNECTION_LOST"


class DeadlinePassedError(TimeoutError):
    """The time that the caller's own caller had left was over before anything was sent."""

    code = "DEADLINE_PASSED"


class PayloadTooLargeError(ValueError):
    """The message would exceed a size limit; nothing was sent.

    Args:
        payload_bytes: Size of the serialised message, in bytes.
        limit_bytes: The limit it exceeds, in bytes.
    """

    code = "payload_too_large"

    def __init__(self, payload_bytes: int, limit_bytes: int) -> None:
        self.payload_bytes = payload_bytes
        self.limit_bytes = limit_bytes
        # The wording is that of the iii error codes page (docs/engine-notes.md, 15).
        super().__init__(
            f"Payload {payload_bytes} bytes exceeds invocation limit {limit_bytes} bytes. "
            "For binary blobs use channels: https://iii.dev/docs/how-to/use-channels"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.payload_bytes, self.limit_bytes), vars(self)


class InvalidPayloadError(ValueError):
    """The payload would be dropped or changed on its way; nothing was sent.

    The message names the place in the payload (``$.items[3].price is NaN``), never a value.
    """

    code = "invalid_payload"


class CircuitOpenError(ConnectionError):
    """The circuit breaker of this function is open; nothing was sent.

    Args:
        message: What is open, and since what.
        retry_after: Seconds until the breaker lets a probe through.
    """

    code = "CIRCUIT_OPEN"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.retry_after), vars(self)


class BulkheadFullError(ConnectionError):
    """Too many calls of this function are running or waiting; nothing was sent."""

    code = "BULKHEAD_FULL"


class RpcError(Exception):
    """An error response of the RPC system (docs/engine-notes.md, 13), raised by `check_rpc`.

    Args:
        code: Machine-readable code: ``error.code``, else the response's label.
        message: Human-readable explanation.
        layer: ``validation``, ``expected`` or ``unexpected``, or None.
        label: The response's label, or None.
        fn_key: The key that was called, or None.
        retry_after: The wait that the server requested, in seconds, or None.
        stack: The server's stack trace, or None.
    """

    def __init__(
        self,
        code: str,
        message: str,
        layer: str | None = None,
        label: str | None = None,
        fn_key: str | None = None,
        retry_after: float | None = None,
        stack: str | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.layer = layer
        self.label = label
        self.fn_key = fn_key
        self.retry_after = retry_after
        self.stack = stack
        super().__init__(f"{code}: {message}")

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.code, self.message, self.layer, self.label, self.fn_key)
        return type(self), (*fields, self.retry_after, self.stack), vars(self)
