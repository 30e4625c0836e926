"""How a worker's relay fares, and what is on the log of it. Knows nothing of how it works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from iii_resilience.telemetry import logger

if TYPE_CHECKING:
    from iii_resilience.stores.relaying import Backlog

COUNT_EVERY: Final = 5.0
"""Seconds between two counts of what waits."""


@attrs.frozen
class RelayStatus:
    """How a worker's relay fares.

    Attributes:
        active: Whether it is the one that hands messages over; else it stands by.
        outbox: Rows of the outbox that wait, as it counted them some seconds ago; None where it
            has not.
        retries: Messages that wait to be tried again, due or not; None as above.
        oldest: Seconds since the oldest of them could have been handed over; None where there is
            none, or as above.
        waits_for: Why it hands nothing over, or not to every queue: a code; None where nothing is
            in the way.
    """

    active: bool = False
    outbox: int | None = None
    retries: int | None = None
    oldest: float | None = None
    waits_for: str | None = None


class RelayReport:
    """What is known of a relay.

    Attributes:
        status: How it fares.
    """

    def __init__(self) -> None:
        self.status = RelayStatus()
        self._waiting: set[str | None] = set()  # the queues that are on the log as waiting
        self._counted_at = float("-inf")

    def active(self) -> None:
        """It is the one that hands messages over."""
        self.status = attrs.evolve(self.status, active=True)

    def stands_by(self) -> None:
        """It hands nothing over: another one may."""
        self.status = RelayStatus(waits_for=self.status.waits_for)
        self._counted_at = float("-inf")

    def to_count(self, now: float) -> bool:
        """Whether what waits is to be counted now.

        Args:
            now: Monotonic time in seconds.
        """
        if now - self._counted_at < COUNT_EVERY:
            return False
        self._counted_at = now
        return True

    def counted(self, backlog: Backlog) -> None:
        """What waits."""
        self.status = attrs.evolve(
            self.status, outbox=backlog.outbox, retries=backlog.retries, oldest=backlog.oldest
        )

    def waits(self, queue: str | None, code: str, why: str) -> None:
        """Nothing can be handed over; it is logged once until it can.

        Args:
            queue: To this queue; None for all.
            code: Why: a code.
            why: Why, in words without payloads and messages.
        """
        self.status = attrs.evolve(self.status, waits_for=code)
        if queue in self._waiting:
            return
        self._waiting.add(queue)
        logger.warning(
            "the relay waits, %s: %s (%s)",
            "for all queues" if queue is None else f"for the queue {queue!r}",
            code,
            why,
            extra={"code": code, "queue": queue},
        )

    def nothing_waits(self) -> None:
        """There is nothing to hand over to any queue."""
        self.goes_on(*self._waiting)

    def goes_on(self, *queues: str | None) -> None:
        """Messages are handed over.

        Args:
            *queues: To these queues; None: nothing holds up all of them.
        """
        for queue in self._waiting.intersection(queues):
            self._waiting.remove(queue)
            logger.info(
                "the relay goes on, %s",
                "with all queues" if queue is None else f"with the queue {queue!r}",
                extra={"queue": queue},
            )
        if not self._waiting and self.status.waits_for is not None:
            self.status = attrs.evolve(self.status, waits_for=None)
