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
        late: Seconds by which its deadline has passed, beyond the tolerance; None while it may be
            started.
    """

    inbound: InboundCall
    late: float | None = None


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
        left, deadline = carried.left, carried.deadline_unix
        if deadline is not None and self._believes(carried, sender, now_unix):
            late = now_unix - deadline - self._tolerance
            if late > 0:
                return Arrival(InboundCall(now, carried), late)
            # Within the tolerance it is unknown whose clock is right: the caller's time counts
            # from when it says, but not to the last second.
            until = deadline - now_unix + self._tolerance
            left = until if left is None else min(left, until)
        return Arrival(InboundCall(None if left is None else now + left, carried))

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
