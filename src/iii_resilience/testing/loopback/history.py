"""The history of an engine: its frames, its calls, and how each call ended.

Records stay valid after the engine has stopped. Knows nothing of connections or routing.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs


@attrs.frozen
class Frame:
    """One frame on the wire.

    Attributes:
        conn: The worker's name, or ``connection-N`` where it never said one.
        direction: ``to-engine`` or ``from-engine``.
        message: The frame, read from JSON; its text where it cannot be read.
        at: When it passed, as `time.time()`.
        dropped: Why the engine dropped the frame, or None: a dropped call is never answered.
    """

    conn: str
    direction: Literal["to-engine", "from-engine"]
    message: Any
    at: float
    dropped: str | None = None


@attrs.frozen
class Call:
    """One ``invokefunction`` frame that the engine received.

    Attributes:
        function_id: The function that was called.
        at: When the frame came in, as `time.time()`.
        caller: The caller's worker name, or ``connection-N`` where it never said one.
        invocation_id: The call's id, or None (a `Void` call has none).
        action: ``call``, ``void`` or ``enqueue``.
        queue: The queue of an enqueue, else None.
        metadata: What travelled beside the payload, or None.
        data: The payload.
        namespace: The requested namespace, or None.
    """

    function_id: str
    at: float
    caller: str
    invocation_id: str | None
    action: Literal["call", "void", "enqueue"]
    queue: str | None
    metadata: Any
    data: Any
    namespace: str | None = None


@attrs.frozen
class ErrorBody:
    """An error as it stands in a frame.

    Attributes:
        code: The exact code, for example ``function_not_found``.
        message: The explanation.
        stacktrace: The handler's stack trace, or None.
    """

    code: str
    message: str
    stacktrace: str | None = None

    def as_dict(self) -> dict[str, str]:
        """The error's fields, without a stack trace that is None."""
        body = {"code": self.code, "message": self.message}
        if self.stacktrace is not None:
            body["stacktrace"] = self.stacktrace
        return body

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@attrs.frozen
class InvocationOutcome:
    """How a call ended: with a result (None included) or with an error.

    Attributes:
        result: The result; None where there is an error, or where the handler returned None.
        error: The error, or None.
    """

    result: Any = None
    error: ErrorBody | None = None


def failed(code: str, message: str, stacktrace: str | None = None) -> InvocationOutcome:
    """An outcome with an error."""
    return InvocationOutcome(error=ErrorBody(code, message, stacktrace))


class BuiltinError(Exception):
    """Raised by a function of the engine itself: becomes the error of that call.

    Args:
        code: The exact code, for example ``NOT_FOUND``.
        message: The explanation.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")

    def __reduce__(self) -> tuple[type[BuiltinError], tuple[str, str]]:
        return type(self), (self.code, self.message)
