"""The context that travels with a call between workers: times, attempt, key, and a marker.

A call carries it in ``metadata["iii.resilience"]`` (SDK 0.21.3 and later; older ones drop it). A
queue carries no metadata, so there it is in one reserved field of the payload object. Input is not
trusted: a field of the wrong type counts as absent. Knows nothing of the caller's and the handler's
side, which write and read it.
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from iii_resilience.core.context_scope import ContextScope

METADATA_FIELD = "iii.resilience"
"""The key in a call's metadata, beside whatever the user put there."""
PAYLOAD_FIELD = "_iii_resilience"
"""The reserved field in the payload of a call that was handed to a queue."""

_LONGEST_TEXT = 512  # of a key, id or code that is read; a longer one was not written by us
_MOST_MS = 1 << 53  # what JSON numbers hold exactly everywhere


@attrs.frozen
class CallContext:
    """What one call carries.

    Attributes:
        left: Seconds the caller had left when it sent the call, or None for no deadline.
        deadline_unix: The deadline by the caller's clock, in seconds since 1970, or None.
        attempt: The attempt's number, from 1.
        idempotency_key: The key that stands for the call, the same in all its attempts, or None.
        already_retried: Whether the call was sent after its retries had been given up (it was
            handed to another function or to a queue): to repeat it again would multiply them.
        function_id: In a hand-over only: the function that was called first.
        code: In a hand-over only: the code of the first failure.
        attempt_left: Seconds until the caller gives this attempt up, from when it sent it; None
            where nothing waits for an answer.
        attempt_deadline_unix: The same moment by the caller's clock, in seconds since 1970, or
            None.
    """

    left: float | None = None
    deadline_unix: float | None = None
    attempt: int = 1
    idempotency_key: str | None = attrs.field(default=None, repr=False)
    already_retried: bool = False
    function_id: str | None = None
    code: str | None = None
    attempt_left: float | None = None
    attempt_deadline_unix: float | None = None

    @property
    def sent_unix(self) -> float | None:
        """When the call was sent, by the caller's clock, in seconds since 1970; or None."""
        if self.left is not None and self.deadline_unix is not None:
            return self.deadline_unix - self.left
        if self.attempt_left is not None and self.attempt_deadline_unix is not None:
            return self.attempt_deadline_unix - self.attempt_left
        return None

    def without_times(self) -> CallContext:
        """The same without the caller's times: for work that no caller waits for, in a queue."""
        return attrs.evolve(
            self, left=None, deadline_unix=None, attempt_left=None, attempt_deadline_unix=None
        )

    def to_wire(self) -> dict[str, Any]:
        """As it travels: whole milliseconds, and only what is there."""
        wire = outgoing(
            self.left,
            self.deadline_unix,
            self.attempt,
            self.idempotency_key,
            self.attempt_left,
            self.attempt_deadline_unix,
        )
        if self.already_retried:
            wire["already_retried"] = True
        if self.function_id is not None:
            wire["function_id"] = self.function_id
        if self.code is not None:
            wire["code"] = self.code
        return wire

    @classmethod
    def from_wire(cls, wire: object) -> CallContext | None:
        """What was carried, or None if the value is not a mapping.

        Args:
            wire: What stands in the metadata or payload field; anything at all.
        """
        if not isinstance(wire, Mapping):
            return None
        attempt = wire.get("attempt")
        left, deadline = _milliseconds(wire.get("left_ms")), wire.get("deadline_unix_ms")
        return cls(
            left=left,
            deadline_unix=_milliseconds(deadline),
            attempt=attempt if type(attempt) is int and 1 <= attempt < 1 << 31 else 1,
            idempotency_key=_text(wire.get("idempotency_key")),
            already_retried=wire.get("already_retried") is True,
            function_id=_text(wire.get("function_id")),
            code=_text(wire.get("code")),
            attempt_left=_milliseconds(wire.get("attempt_left_ms")),
            attempt_deadline_unix=_milliseconds(wire.get("attempt_deadline_unix_ms")),
        )


def outgoing(
    left: float | None,
    deadline_unix: float | None,
    attempt: int,
    idempotency_key: str | None,
    attempt_left: float | None = None,
    attempt_deadline_unix: float | None = None,
) -> dict[str, Any]:
    """As an attempt carries it; see `CallContext`."""
    wire: dict[str, Any] = {"attempt": attempt}
    if left is not None:
        wire["left_ms"] = max(0, int(left * 1000))
    if deadline_unix is not None:
        wire["deadline_unix_ms"] = int(deadline_unix * 1000)
    if attempt_left is not None:
        wire["attempt_left_ms"] = int(attempt_left * 1000)
    if attempt_deadline_unix is not None:
        wire["attempt_deadline_unix_ms"] = int(attempt_deadline_unix * 1000)
    if idempotency_key is not None:
        wire["idempotency_key"] = idempotency_key
    return wire


def add_context(fields: dict[str, Any], wire: dict[str, Any]) -> None:
    """Add a call's context to the metadata of a request that is about to be sent.

    Not for the action enqueue: a queue carries no metadata. Metadata of the user's that is not a
    mapping is left alone.

    Args:
        fields: The request as the SDK takes it; it is changed.
        wire: The context.
    """
    metadata = fields.get("metadata")
    if metadata is None:
        fields["metadata"] = {METADATA_FIELD: wire}
    elif isinstance(metadata, dict):
        fields["metadata"] = {**metadata, METADATA_FIELD: wire}


def from_metadata(metadata: object) -> CallContext | None:
    """What a call's metadata carries of ours, or None.

    Args:
        metadata: What the SDK handed to the handler; anything at all.
    """
    if not isinstance(metadata, Mapping):
        return None
    return CallContext.from_wire(metadata.get(METADATA_FIELD))


def take_from_payload(payload: Any) -> tuple[Any, CallContext | None]:
    """The payload without our reserved field, and what stood in it.

    Args:
        payload: What a handler was given; anything at all. It is not changed.

    Returns:
        The payload itself where it has no such field, else a copy without it.
    """
    if not isinstance(payload, dict) or PAYLOAD_FIELD not in payload:
        return payload, None
    rest = dict(payload)
    return rest, CallContext.from_wire(rest.pop(PAYLOAD_FIELD))


@attrs.frozen
class InboundCall:
    """The call that is being handled now.

    Attributes:
        deadline_at: Monotonic time of its deadline in this process, in seconds, or None.
        carried: What it carried.
        function_id: The function it called, or None if the handler's wrapper does not know it.
    """

    deadline_at: float | None = None
    carried: CallContext = attrs.field(factory=CallContext)
    function_id: str | None = None


_inbound: contextvars.ContextVar[InboundCall | None] = contextvars.ContextVar(
    "iii_resilience_inbound", default=None
)


current_inbound: Callable[[], InboundCall | None] = _inbound.get
"""The call that the code running now handles, or None outside of handlers."""


def handling(inbound: InboundCall) -> ContextScope[InboundCall | None]:
    """While a handler runs: its own calls inherit what is left of the caller's time."""
    return ContextScope(_inbound, inbound)


def _milliseconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not (math.isfinite(value) and 0 <= value <= _MOST_MS):
        return None
    return value / 1000


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT else None
