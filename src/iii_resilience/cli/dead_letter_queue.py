"""Lists, redrives and discards the dead letters and parked messages of a queue.

Takes a client of the SDK and yields the result for each message. The function ids and shapes are
those of the queue workers (docs/engine-notes.md, 9). Knows nothing of terminals.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any

import attrs

from iii_resilience.cli.dead_letter import DeadLetter, Recordings, from_dead_letter, from_stored
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.handling.decorators.parked_message import ParkedMessage
from iii_resilience.sdk.client_adapter import SdkClient
from iii_resilience.sdk.engine_api import call_engine
from iii_resilience.stores.protocol import Store, StoreUnavailableError
from iii_resilience.stores.relaying import Backlog

_PAGE = 50  # the queue worker's own default
_ANSWER_WITHIN = 10.0
_MONTH = 30 * 86_400.0  # what a consumer keeps its records, by default


class RedriveOutcome(StrEnum):
    """What became of one message."""

    DONE = "done"
    FAILED = "failed"
    GONE = "gone"


@attrs.frozen
class RedriveResult:
    """What became of one message.

    Attributes:
        letter: The message.
        fate: ``done``; ``failed``: it is where it was; ``gone``: another process was faster.
        why: For ``failed``: why, in a few words.
    """

    letter: DeadLetter
    fate: RedriveOutcome
    why: str = ""


class DeadLetterQueue:
    """What is dead or parked of one queue.

    Args:
        client: A client of the SDK; None to read the store alone.
        queue: The queue, or topic.
        parking: Where consumers park its messages, or None. To read, `records` is enough.
    """

    def __init__(self, client: SdkClient | None, queue: str, parking: Any) -> None:
        self._client = client
        self._queue = queue
        self._parking: Store | None = parking

    def letters(self) -> list[DeadLetter]:
        """All of them, oldest first; also messages that wait to be tried again (`waits`).

        Of the store those of this queue, and those whose queue is unknown (`queue_unknown`): their
        consumers do not name one, so they may be another queue's.

        Raises:
            StoreUnavailableError: The store cannot be read.
            Exception: The engine's refusal, as the SDK raises it.
        """
        recorded = Recordings(self._recorded())
        found = [from_dead_letter(record, recorded) for record in self._records()]
        found += [
            from_stored(message)
            for message in recorded.messages
            if message.queue in {self._queue, None}
            and not (message.parked_at is None and message.due_at is None)
        ]
        return sorted(found, key=lambda letter: (letter.since or 0.0, letter.id))

    def redrive(
        self, letters: Iterable[DeadLetter], *, pause: float = 0.0
    ) -> Iterator[RedriveResult]:
        """Send messages again, one after the other.

        A parked message is enqueued and removed only with the receipt; it may be delivered twice
        where this process ends in between, but it is not lost. A failure that `idempotent` has
        stored under its key, in the same store, is forgotten first: it would be the answer again.

        Args:
            letters: What to send.
            pause: Seconds between two of them.
        """
        yield from self._each(letters, pause, self._redrive_stored, self._redrive_dead)

    def discard(self, letters: Iterable[DeadLetter]) -> Iterator[RedriveResult]:
        """Throw messages away, for good.

        Args:
            letters: What to throw away.
        """
        yield from self._each(letters, 0.0, self._discard_parked, self._discard_dead)

    def backlog(self) -> str | None:
        """What waits in the store for a relay, of all queues, in one sentence.

        None where nothing does, or the store is only read.
        """
        store: Any = self._parking
        if not callable(getattr(store, "backlog", None)):
            return None
        found: Backlog = store.backlog()
        if not (found.outbox or found.retries):
            return None
        relay = "a relay is active"
        if not store.relayed():
            relay = "no relay is active: resilient(worker, relay=store)"
        return (
            f"in the store, of all queues: {found.outbox} row(s) in the outbox, {found.retries} "
            f"message(s) that wait to be tried again; {relay}"
        )

    # One of them.

    def _each(
        self, letters: Iterable[DeadLetter], pause: float, parked: Any, dead: Any
    ) -> Iterator[RedriveResult]:
        due = time.monotonic()
        for letter in letters:
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + pause, time.monotonic())
            try:
                done = (parked if letter.stored else dead)(letter)
            except StoreUnavailableError:
                yield RedriveResult(letter, RedriveOutcome.FAILED, "the store is away")
            except _Refused as refused:
                yield RedriveResult(letter, RedriveOutcome.FAILED, str(refused))
            except Exception as error:
                # An enqueue that failed may have been stored all the same: the message stays.
                failure = classify(error)
                remedy = failure.code == "enqueue_error" and failure.remedy
                why = f"{failure.code}: {remedy}" if remedy else failure.code
                yield RedriveResult(letter, RedriveOutcome.FAILED, why)
            else:
                yield RedriveResult(letter, RedriveOutcome.DONE if done else RedriveOutcome.GONE)

    def _redrive_stored(self, letter: DeadLetter) -> bool:
        store, message = self._kept(letter)
        if letter.waits:
            return self._hand_over(message)
        if not message.whole:
            raise _Refused("its payload holds a channel, which cannot be sent again")
        revision = store.prepare(message.id, message.revision)
        if revision is None:
            return False
        if message.slot is not None:
            store.forget_failure(message.slot)
        self._enqueue(message, message.data())
        store.remove(message.id, revision)
        return True

    def _hand_over(self, message: ParkedMessage) -> bool:
        """What the relay would do when the message is due, now."""
        store: Any = self._parking
        revision = store.take(message.id, message.revision)
        if revision is None:
            return False
        self._enqueue(message, message.data_of_attempt(message.deliveries + 1))
        store.sent(message.id, revision, keep=_MONTH)
        return True

    def _enqueue(self, message: ParkedMessage, data: Any) -> None:
        action = {"type": "enqueue", "queue": self._queue}
        receipt = call_engine(
            self._client, message.function_id, data, timeout=_ANSWER_WITHIN, action=action
        )
        if not (isinstance(receipt, dict) and receipt.get("messageReceiptId")):
            raise _Refused("there was no receipt for it")

    def _redrive_dead(self, letter: DeadLetter) -> bool:
        message, store = letter.recorded, self._parking
        if message is None or store is None or message.parked_at is not None:
            return self._tell("redrive_message", letter)
        if message.slot is not None:
            store.forget_failure(message.slot)
        # Its deliveries are counted anew, here as in the queue.
        store.remove(message.id, message.revision)
        redriven = False
        try:
            redriven = self._tell("redrive_message", letter)
        finally:
            if not redriven:
                store.note(message.id, message.to_note(), parked=False, keep=_MONTH)
        return redriven

    def _discard_parked(self, letter: DeadLetter) -> bool:
        store, message = self._kept(letter)
        return store.remove(message.id, message.revision)

    def _discard_dead(self, letter: DeadLetter) -> bool:
        gone = self._tell("discard_message", letter)
        message = letter.recorded
        if gone and message is not None and message.parked_at is None and self._parking is not None:
            self._parking.remove(message.id, message.revision)
        return gone

    def _kept(self, letter: DeadLetter) -> tuple[Store, ParkedMessage]:
        if self._parking is None or letter.recorded is None:
            raise _Refused("it is in no store")
        return self._parking, letter.recorded

    def _tell(self, what: str, letter: DeadLetter) -> bool:
        payload = {"queue": self._queue, "message_id": letter.id}
        answer = call_engine(self._client, f"iii::queue::{what}", payload, timeout=_ANSWER_WITHIN)
        # Of what is not there, the answer is 0 and no error; discarding says "redriven" too.
        return isinstance(answer, dict) and answer.get("redriven") == 1

    # Where they are.

    def _records(self) -> Iterator[dict[str, Any]]:
        offset = 0
        while self._client is not None:
            payload = {"topic": self._queue, "offset": offset, "limit": _PAGE}
            answer = call_engine(
                self._client, "engine::queue::dlq_messages", payload, timeout=_ANSWER_WITHIN
            )
            page = answer if isinstance(answer, list) else []
            yield from (record for record in page if isinstance(record, dict))
            if len(page) < _PAGE:
                return
            offset += len(page)

    def _recorded(self) -> Iterator[ParkedMessage]:
        for record in self._parking.records() if self._parking is not None else ():
            message = ParkedMessage.from_record(record)
            if message is not None:
                yield message


class _Refused(Exception):  # noqa: N818 - why one message stays where it is
    pass


@attrs.frozen
class Group:
    """Messages that failed alike.

    Attributes:
        category: Their category; None for unknown.
        code: Their code; None for unknown.
        function_id: The function they are for, or None.
        count: How many they are.
        oldest: The oldest one's time, in seconds since 1970, or None.
        advice: What to do about them.
    """

    category: Category | None
    code: str | None
    function_id: str | None
    count: int
    oldest: float | None
    advice: str


_ADVICE = {
    Category.TRANSIENT: "redrive once what failed is up again",
    Category.PAYLOAD: "fix what sends it; send it anew, then discard",
    Category.AUTH: "fix the access, then redrive",
    Category.NOT_FOUND: "make what is missing available, then redrive",
    Category.PERMANENT: "find the cause; then redrive or discard",
    None: "unknown: @consumer(parking=...) would have recorded why",
}


def triage(letters: Iterable[DeadLetter]) -> list[Group]:
    """Group messages by how they failed: the categories in order, unknown last; most first."""
    order: list[Category | None] = [*Category, None]
    counts: Counter[tuple[Any, ...]] = Counter()
    oldest: dict[tuple[Any, ...], float] = {}
    for one in letters:
        kind = (one.category, one.code, one.function_id)
        counts[kind] += 1
        if one.since is not None:
            oldest[kind] = min(one.since, oldest.get(kind, one.since))
    groups = [
        Group(
            category,
            code,
            function_id,
            count,
            oldest.get((category, code, function_id)),
            _ADVICE[category],
        )
        for (category, code, function_id), count in counts.items()
    ]
    return sorted(groups, key=lambda group: (order.index(group.category), -group.count))
