"""One queue of the queue worker: its settings, its messages, and their states.

The rules are those of the standalone queue worker on engine 0.23 (docs/engine-notes.md, 9). Knows
nothing of calls, timers or the engine: `loopback.queue_worker` moves messages along.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Literal

import attrs
from attrs.validators import optional

#: What every dead letter gives as its reason, whatever the handler said.
DEAD_LETTER_ERROR: Final = "function call failed"
_U8: Final = 2**8 - 1
_U32: Final = 2**32 - 1
_U64: Final = 2**64 - 1


def _count(high: int) -> Any:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{attribute.name} is a whole number, not {value!r}")
        if not 0 <= value <= high:
            raise ValueError(f"{attribute.name} is from 0 to {high}, not {value}")

    return check


def _flag(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name} is true or false, not {value!r}")


def _kind(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} is a string, not {value!r}")
    if value not in {"standard", "fifo"}:
        raise Refusal(f"{attribute.name} must be either 'standard' or 'fifo'")


def _text_or_none(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} is a string, not {value!r}")
    if not value.strip():
        raise Refusal(f"{attribute.name} must not be empty")


class Refusal(ValueError):  # noqa: N818 - as the worker refuses it
    """A setting that can be read, and that the queue worker refuses, in its own words."""


@attrs.frozen(kw_only=True)
class QueueConfig:
    """The settings of a queue; names and defaults are the queue worker's.

    Attributes:
        max_retries: Deliveries after the first one that failed.
        concurrency: How many messages may be delivered, or wait for their function, at a time.
        timeout_ms: How long one delivery may take, in milliseconds.
        type: ``standard``, or ``fifo``: one at a time within a group.
        message_group_field: The field of the payload that names the group of a fifo queue.
        backoff_ms: The delay before the first retry, in milliseconds; it doubles each time.
        poll_interval_ms: Taken and kept; retries here are on time to the millisecond.
        redeliver_on_engine_restart: Whether deliveries in flight run again after a restart.
        max_priority: Taken and kept; only a queue worker on RabbitMQ heeds it.
        priority_field: Taken and kept, like it.
    """

    max_retries: int = attrs.field(default=3, validator=_count(_U32))
    concurrency: int = attrs.field(default=10, validator=_count(_U32))
    timeout_ms: int = attrs.field(default=1_800_000, validator=_count(_U64))
    type: Literal["standard", "fifo"] = attrs.field(default="standard", validator=_kind)
    message_group_field: str | None = attrs.field(default=None, validator=_text_or_none)
    backoff_ms: int = attrs.field(default=1000, validator=_count(_U64))
    poll_interval_ms: int = attrs.field(default=100, validator=_count(_U64))
    redeliver_on_engine_restart: bool = attrs.field(default=False, validator=_flag)
    max_priority: int | None = attrs.field(default=None, validator=optional(_count(_U8)))
    priority_field: str | None = attrs.field(default=None, validator=_text_or_none)

    def __attrs_post_init__(self) -> None:
        for name in ("concurrency", "timeout_ms", "poll_interval_ms", "max_priority"):
            if getattr(self, name) == 0:
                raise Refusal(f"{name} must be greater than zero")
        if self.type == "fifo" and self.message_group_field is None:
            raise Refusal("with type 'fifo' requires message_group_field")

    @classmethod
    def read(cls, settings: object) -> QueueConfig:
        """Settings from outside.

        Raises:
            TypeError: A value of a wrong type, or no mapping.
            ValueError: An unknown name, or a value that is not allowed; a `Refusal` where the
                queue worker can read it.
        """
        if settings is None:
            return cls()
        if not isinstance(settings, Mapping):
            raise TypeError(f"the settings of a queue are a mapping, not {settings!r}")
        names = [attribute.name for attribute in attrs.fields(cls)]
        for name in settings:
            if name not in names:
                expected = ", ".join(f"`{known}`" for known in names)
                raise ValueError(f"unknown field `{name}`, expected one of {expected}")
        return cls(**settings)

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, without those that are None."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)


class MessageState(Enum):
    """Where a message stands."""

    READY = "ready"
    WAITING = "waiting"  # for its function, with a slot of the queue
    RUNNING = "running"
    BACKOFF = "backoff"


@attrs.define(eq=False)
class QueuedMessage:
    """One message of a queue.

    Attributes:
        receipt: The id that `Enqueue` returned.
        function_id: The function it is for.
        data: The payload.
        namespace: Where the function is looked for.
        traceparent: The enqueuer's trace, or None.
        baggage: The enqueuer's baggage, with the function's id.
        max_retries: What the queue's setting was when it was enqueued; its dead letter says so.
        backoff_ms: The same; this one it is retried by.
        id: What its dead letter is called, each time it becomes one.
        enqueued_at: When, as `time.time()`.
        attempts: Deliveries that have failed.
        standing: Where it stands.
        turn: Changes whenever it moves: what belongs to an earlier turn comes too late.
        due: When its timer is due, as `time.monotonic()`.
    """

    receipt: str
    function_id: str
    data: Any
    namespace: str | None
    traceparent: str | None
    baggage: str | None
    max_retries: int
    backoff_ms: int
    id: str = attrs.field(factory=lambda: str(uuid.uuid4()))
    enqueued_at: float = attrs.field(factory=time.time)
    attempts: int = 0
    standing: MessageState = MessageState.READY
    turn: int = 0
    due: float = 0.0

    def move(self, standing: MessageState, seconds: float = 0.0) -> int:
        """Moves on; returns the new turn. `seconds` is how long until its timer is due."""
        self.standing = standing
        self.turn += 1
        self.due = time.monotonic() + seconds
        return self.turn


@attrs.define(eq=False)
class BrokerQueue:
    """One queue.

    Attributes:
        name: Its name.
        config: Its settings.
        messages: What is in it, oldest first.
        dead: Dead letters by id, oldest first, each with its message.
        defined: Whether it stands in the configuration. One that was taken out delivers nothing
            and takes nothing, and goes on with what it holds when it is defined again.
        delivered: How many deliveries succeeded.
        failed: How many messages became dead letters.
    """

    name: str
    config: QueueConfig
    messages: list[QueuedMessage] = attrs.field(factory=list)
    dead: dict[str, tuple[dict[str, Any], QueuedMessage]] = attrs.field(factory=dict)
    delivered: int = 0
    failed: int = 0
    defined: bool = True

    @property
    def depth(self) -> int:
        """Messages that hold no slot: ready ones and those that wait for a retry."""
        return sum(m.standing in {MessageState.READY, MessageState.BACKOFF} for m in self.messages)

    def next_ready(self) -> QueuedMessage | None:
        """The message whose turn it is, where a slot is free."""
        # A fifo queue retries in place: a message that waits for its retry keeps its slot.
        slots = {MessageState.WAITING, MessageState.RUNNING}
        if self.config.type == "fifo":
            slots.add(MessageState.BACKOFF)
        busy = [message for message in self.messages if message.standing in slots]
        if len(busy) >= self.config.concurrency:
            return None
        taken = {self.group(message) for message in busy} if self.config.type == "fifo" else set()
        for message in self.messages:
            if message.standing is not MessageState.READY:
                continue
            if self.config.type == "standard":
                return message
            group = self.group(message)
            if group is None or group not in taken:
                return message
        return None

    def deliverable(self, message: QueuedMessage) -> bool:
        """Whether a message may be given to its function: not without a group in a fifo queue."""
        return self.config.type == "standard" or self.group(message) is not None

    def group(self, message: QueuedMessage) -> str | None:
        """The group of a message in a fifo queue: a text that is not empty, or a number."""
        field = self.config.message_group_field
        value = message.data.get(field) if isinstance(message.data, dict) else None
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            return None
        return str(value) or None

    def bury(self, message: QueuedMessage) -> None:
        """Makes a message a dead letter."""
        self.messages.remove(message)
        self.failed += 1
        payload = {
            "function_id": message.function_id,
            "data": message.data,
            "message_id": message.receipt,
            "max_retries": message.max_retries,
            "backoff_ms": message.backoff_ms,
            "baggage": message.baggage,
            "priority": None,
            "traceparent": message.traceparent,
        }
        record = {
            "id": message.id,
            "error": DEAD_LETTER_ERROR,
            # The time of enqueueing, not of failing, in milliseconds.
            "failed_at": int(message.enqueued_at * 1000),
            "retries": message.attempts,
            "size_bytes": len(
                json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()
            ),
            "payload": payload,
        }
        self.dead[message.id] = (record, message)

    def revive(self, letter_id: str) -> bool:
        """Puts a dead letter back, its attempts forgotten; whether there was one."""
        found = self.dead.pop(letter_id, None)
        if found is None:
            return False
        _, message = found
        message.attempts = 0
        message.move(MessageState.READY)
        self.messages.append(message)
        return True
