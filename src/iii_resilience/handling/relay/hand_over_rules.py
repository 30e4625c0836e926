"""Decides what becomes of a message that could not be enqueued, and which queues wait.

Time and randomness are arguments. Knows nothing of stores and engines.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

import attrs

from iii_resilience.core.backoff import Backoff
from iii_resilience.core.classifiers.text_patterns import NO_PROVIDER, QUEUE_MISSING
from iii_resilience.core.codes.model import Category
from iii_resilience.core.failure import Failure

NO_RECEIPT: Final = "no receipt"
"""The code of an enqueue that was answered without a receipt."""
TRIES_MOST: Final = 20
"""Tries after which a refusal in unknown words is taken for one of the message: about a minute."""
# One enqueue that is refused costs the engine little, and a provider is to be noticed soon.
_PAUSES: Final = Backoff(base=0.25, cap=5.0, jitter="equal")
_PAUSES_OF_ALL: Final = Backoff(base=0.25, cap=2.0, jitter="equal")
# Nothing was sent, or nothing says that this queue is to blame: every queue waits.
_TEXT: Final = 1000  # characters of a message that are looked at
_OF_ALL: Final = frozenset({"NOT_CONNECTED", "CONNECTION_LOST"})


class AfterFailure(StrEnum):
    """What becomes of a message."""

    PARK = "park"
    QUEUE_WAITS = "queue_waits"
    ALL_WAIT = "all_wait"


def after_failure(failure: Failure, tries: int) -> AfterFailure:
    """What becomes of a message that could not be enqueued.

    Args:
        failure: Why not.
        tries: How often it was tried in a row, this time included.
    """
    if failure.code in _OF_ALL or failure.message.startswith(NO_PROVIDER):
        return AfterFailure.ALL_WAIT
    if failure.category is Category.TRANSIENT or QUEUE_MISSING.search(failure.message[:_TEXT]):
        return AfterFailure.QUEUE_WAITS
    refused = failure.category in {Category.PAYLOAD, Category.AUTH}
    if failure.code in {"enqueue_error", NO_RECEIPT} and not refused and tries < TRIES_MOST:
        # The provider's own words, which may be of the message, of the queue, or of the provider.
        return AfterFailure.QUEUE_WAITS
    return AfterFailure.PARK


@attrs.define
class _Pause:
    tries: int = 0
    until: float = 0.0


class QueuePauses:
    """Which queues wait, and until when.

    Args:
        random: Returns a number in [0, 1).
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._pauses: dict[str | None, _Pause] = {}

    def failed(self, queue: str | None) -> int:
        """A hand-over has failed.

        Args:
            queue: The queue, or None for all.

        Returns:
            How often it did in a row.
        """
        pause = self._pauses.setdefault(queue, _Pause())
        pause.tries += 1
        return pause.tries

    def wait(self, queue: str | None, now: float) -> None:
        """A queue waits before the next try.

        Args:
            queue: The queue, or None for all.
            now: Monotonic time in seconds.
        """
        pause = self._pauses.setdefault(queue, _Pause())
        backoff = _PAUSES_OF_ALL if queue is None else _PAUSES
        pause.until = now + backoff.delay(max(0, pause.tries - 1), self._random)

    def worked(self, queue: str | None) -> None:
        """A hand-over has succeeded, or its message is parked: nothing is in the way."""
        self._pauses.pop(queue, None)

    def held(self, now: float) -> frozenset[str]:
        """The queues that wait.

        Args:
            now: Monotonic time in seconds.
        """
        return frozenset(
            queue
            for queue, pause in self._pauses.items()
            if queue is not None and pause.until > now
        )

    def left(self, now: float) -> float:
        """Seconds that all queues wait; 0 where they do not.

        Args:
            now: Monotonic time in seconds.
        """
        pause = self._pauses.get(None)
        return 0.0 if pause is None else max(0.0, pause.until - now)

    def next_end(self, now: float) -> float | None:
        """Seconds until the first of the queues that wait is tried again, or None.

        Args:
            now: Monotonic time in seconds.
        """
        return min((p.until - now for p in self._pauses.values() if p.until > now), default=None)
