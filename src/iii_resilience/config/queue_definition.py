"""The definition of a queue: an entry under ``queues`` in a policy file, as data.

All times are seconds. The fields are those of ``queue::define`` (docs/engine-notes.md, 9). Knows
nothing of engines.
"""

from __future__ import annotations

from typing import Any

import attrs

from iii_resilience.core.validators import Choice, Flag, Text, number

TYPES = ("standard", "fifo")
_U32 = 2**32 - 1
_LEAST = 0.001  # the wire has whole milliseconds, of which the queue worker takes no 0


@attrs.frozen
class _Name(Text):
    """A name as the queue worker keeps it: trimmed, it might be another queue's."""

    def allows(self, value: Any) -> bool:
        return super().allows(value) and value == value.strip()


@attrs.frozen
class Queue:
    """The definition of one queue.

    The defaults are the queue worker's own, but for two: a message that was being handled when the
    engine died is stuck, and holds a place, until `timeout` is over (half an hour there, five
    minutes here), unless `redeliver_on_engine_restart` is set (docs/engine-notes.md, 9).

    Args:
        name: The queue's name.
        max_retries: Deliveries after the first one; then the message is a dead letter.
        concurrency: Messages handled at once. One for a function that is missing holds a place too.
        timeout: Seconds a handler may take before the message is delivered again beside it.
        backoff: Seconds before the first retry; doubled for each one after it, without a cap.
        poll_interval: Seconds between two looks at what is due, which a delay may take longer.
        type: ``standard`` (unordered) or ``fifo`` (in order within a group).
        message_group_field: Field of the payload that names a message's group; for ``fifo`` only.
        redeliver_on_engine_restart: Whether a message in flight is delivered again when the engine
            has restarted.

    Raises:
        ValueError: A value out of range, ``fifo`` without a group field, or the other way round.
    """

    name: str = attrs.field(validator=_Name("the name of a queue, without blanks around it"))
    max_retries: int = attrs.field(default=3, validator=number(least=0, most=_U32, integer=True))
    concurrency: int = attrs.field(default=10, validator=number(least=1, most=_U32, integer=True))
    timeout: float = attrs.field(default=300.0, validator=number(least=_LEAST, unit="seconds"))
    backoff: float = attrs.field(default=1.0, validator=number(least=0, unit="seconds"))
    poll_interval: float = attrs.field(default=0.1, validator=number(least=_LEAST, unit="seconds"))
    type: str = attrs.field(default="standard", validator=Choice(TYPES))
    message_group_field: str | None = attrs.field(
        default=None, validator=Text("the name of a field", optional=True)
    )
    redeliver_on_engine_restart: bool = attrs.field(default=True, validator=Flag())

    def __attrs_post_init__(self) -> None:
        if (self.type == "fifo") != (self.message_group_field is not None):
            raise ValueError(
                "Queue.message_group_field must be given for a queue of type fifo, whose messages "
                "without a group are never delivered, and for no other"
            )

    def to_wire(self) -> dict[str, Any]:
        """As ``queue::define`` takes it: whole milliseconds, and no field that is None."""
        wire: dict[str, Any] = {
            "max_retries": self.max_retries,
            "concurrency": self.concurrency,
            "timeout_ms": round(self.timeout * 1000),
            "type": self.type,
            "backoff_ms": round(self.backoff * 1000),
            "poll_interval_ms": round(self.poll_interval * 1000),
            "redeliver_on_engine_restart": self.redeliver_on_engine_restart,
        }
        if self.message_group_field is not None:
            wire["message_group_field"] = self.message_group_field
        return wire
