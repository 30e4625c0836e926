"""Decides whether a call arrives too late to start, and how long it may run.

A deadline by the caller's clock is only as good as that clock, so the offset of each sender's clock
is recorded here. Knows nothing of handlers.
"""

from __future__ import annotations

import threading
from typing import Any

import attrs

from iii_resilience.sdk.propagation import CallContext, InboundCall
from iii_resilience.telemetry import logger

_VISIBLY_OFF = 60.0  # seconds
_SENDERS_MOST = 1000  # remembered; with more of them, all are learned again
# Two messages distinguish a slow clock from a late delivery only if they were sent apart.
_SENT_APART = 0.1


@attrs.define
class _Sender:
    """What one sender's clock was seen to do, in seconds.

    Attributes:
        first_sent: When it said that its first message was sent.
        first_offset: How long ago that was when it arrived, by our clock.
        off: Whether its clock is known to be off.
    """

    first_sent: float
    first_offset: float
    smallest_offset: float
    off: bool = False


@attrs.frozen
class Arrival:
    """What is known of a call when it arrives.

    Attributes:
        inbound: What its handler's own calls inherit.
        start_by: Monotonic time in seconds after which no caller waits for the call; None where
            it carries no times.
        call_by: The same of the whole call, which goes on when this attempt is over.
    """

    inbound: InboundCall
    start_by: float | None = None
    call_by: float | None = None

    def late(self, now: float) -> float | None:
        """Seconds by which a handler would start too late; None while it may start.

        Args:
            now: Monotonic time in seconds.
        """
        if self.start_by is None or now <= self.start_by:
            return None
        return now - self.start_by


class Clocks:
    """The clocks of those who call this worker.

    Args:
        tolerance: How far two clocks may be apart unnoticed, in seconds.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._senders: dict[str, _Sender] = {}
        self._lock = threading.Lock()

    def arrival(
        self, carried: CallContext | None, sender: Any, *, now: float, now_unix: float
    ) -> Arrival:
        """What a call's deadline means here.

        Args:
            carried: What the call carries, or None.
            sender: The id of the worker that sent it, as the engine says it; anything at all.
            now: Monotonic time in seconds.
            now_unix: Seconds since 1970, by this machine's clock.
        """
        if carried is None:
            return Arrival(InboundCall())
        deadline, attempt_deadline = carried.deadline_unix, carried.attempt_deadline_unix
        if (deadline is not None or attempt_deadline is not None) and not self._believes(
            carried, sender, now_unix
        ):
            deadline = attempt_deadline = None
        elapsed = now_unix - self._tolerance
        call = _earlier(carried.left, None if deadline is None else deadline - elapsed)
        attempt = _earlier(
            carried.attempt_left, None if attempt_deadline is None else attempt_deadline - elapsed
        )
        first = _earlier(call, attempt)
        return Arrival(
            # A handler that starts may still call others: at worst it has no time for them left.
            InboundCall(None if call is None else now + max(0.0, call), carried),
            None if first is None else now + first,
            None if call is None else now + call,
        )

    def _believes(self, carried: CallContext, sender: Any, now_unix: float) -> bool:
        """Whether a sender's clock is not visibly off.

        A clock that is ahead shows at once: nothing arrives before it was sent. One that is
        behind looks like a message that was late, until a second one arrives that was sent some
        time after the first and is just as late: what was held up arrives together.
        """
        sent = carried.sent_unix
        if sent is None:
            return True
        offset = now_unix - sent
        if not isinstance(sender, str):
            # Without a sender there is no history: a possible clock error does not fail the call.
            return abs(offset) <= _VISIBLY_OFF
        with self._lock:
            known = self._senders.get(sender)
            if known is None:
                if len(self._senders) >= _SENDERS_MOST:
                    self._senders.clear()
                known = self._senders[sender] = _Sender(sent, offset, offset)
            known.smallest_offset = min(known.smallest_offset, offset)
            apart = sent - known.first_sent
            behind = known.smallest_offset > _VISIBLY_OFF and (
                known.off or (apart >= _SENT_APART and abs(offset - known.first_offset) < apart / 2)
            )
            off = offset < -_VISIBLY_OFF or behind
            warn, known.off = off and not known.off, off
        if warn:
            logger.warning(
                "the clock of worker %s is off by about %.0f s (%s): its callers' deadlines are "
                "taken from the time they had left; set the clocks right",
                sender,
                abs(offset),
                "ahead" if offset < 0 else "behind",
                extra={"sender": sender, "offset": offset},
            )
        return not off


def _earlier(left: float | None, until: float | None) -> float | None:
    """The smaller of two times, in seconds; None where there is neither.

    Within the tolerance it is unknown whose clock is right: the caller's time counts from when it
    says, but not to the last second.
    """
    if left is None or until is None:
        return until if left is None else left
    return min(left, until)
