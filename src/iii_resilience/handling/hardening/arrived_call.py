"""One call that has arrived at a worker: what it brought, and until when its caller waits.

Knows nothing of limits, or of how handlers run.
"""

from __future__ import annotations

import time
from typing import Any

import attrs

from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.handling.hardening.deadlines import Arrival, Clocks
from iii_resilience.handling.hardening.error_encoding import NotStarted, structured
from iii_resilience.sdk import propagation
from iii_resilience.telemetry import worker_events

# The engine adds it to payloads that are objects (docs/engine-notes.md, 10).
_SENDER = "_caller_worker_id"


@attrs.frozen
class ArrivedCall:
    """A call that has arrived.

    Attributes:
        function_id: The function.
        payload: What its handler is given.
        arrival: Until when its caller waits.
        since: Monotonic time of its arrival, in seconds.
        attempt: The caller's attempt, from 1.
        queued: Whether a queue delivers it.
    """

    function_id: str
    payload: Any = attrs.field(repr=False)
    arrival: Arrival
    since: float
    attempt: int
    queued: bool

    def check_time(self, now: float | None = None) -> None:
        """Check that the caller still waits.

        Args:
            now: Monotonic time in seconds; None for that of this moment.

        Raises:
            NotStarted: It does not. That is logged and counted.
        """
        now = time.monotonic() if now is None else now
        late, call_by = self.arrival.late(now), self.arrival.call_by
        if late is None:
            return
        whole = call_by is not None and now > call_by
        what = "deadline had passed" if whole else "attempt's time was over"
        text = structured(
            Category.TRANSIENT,
            "DEADLINE_PASSED",
            f"Function {self.function_id} was not started: its caller's {what}",
            function_id=self.function_id,
            late_ms=round(late * 1000),
        )
        body = {"code": "invocation_failed", "message": text}
        failure = classify(body, function_id=self.function_id)
        worker_events.handler_failed(
            self.function_id, failure, None, seconds=0.0, attempt=self.attempt
        )
        raise NotStarted(text)


def read_call(
    function_id: str, data: Any, metadata: Any, clocks: Clocks, *, late_starts: bool
) -> ArrivedCall:
    """Read what the SDK hands to a handler.

    Args:
        function_id: The function.
        data: The payload as it was sent.
        metadata: What travelled beside it.
        clocks: The clocks of this worker's callers.
        late_starts: Whether the handler starts although its attempt's time is over.

    Raises:
        NotStarted: The caller has given up already.
    """
    since = time.monotonic()
    payload, queued = propagation.take_from_payload(data)
    # A queue delivers when it can, whatever the caller had left that handed the call to it.
    carried = queued.without_times() if queued else propagation.from_metadata(metadata)
    attempt = 1
    if carried is not None:
        attempt = carried.attempt
        if late_starts:
            carried = attrs.evolve(carried, attempt_left=None, attempt_deadline_unix=None)
    sender = payload.get(_SENDER) if isinstance(payload, dict) else None
    arrival = clocks.arrival(carried, sender, now=since, now_unix=time.time())
    call = ArrivedCall(function_id, payload, arrival, since, attempt, queued is not None)
    call.check_time(since)
    return call
