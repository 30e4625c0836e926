"""The telemetry of one call from its first failure on: spans, metrics and log records.

The caller reports each event in order. A call that succeeds at once never comes here. Knows nothing
of how calls are made.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from opentelemetry.trace import NoOpTracer

from iii_resilience.core import system_clock as clock
from iii_resilience.core.classify import classify
from iii_resilience.core.decide import Decision, Reason
from iii_resilience.core.failure import Failure
from iii_resilience.core.observers import logger
from iii_resilience.core.report import Attempt
from iii_resilience.telemetry import logs, spans
from iii_resilience.telemetry.metrics import labels, meters, passing_type
from iii_resilience.telemetry.spans import Attributes, CurrentTracer


class FailedCall:
    """One call that has failed at least once.

    Args:
        name: The function id, or the decorated function's qualified name.
        started: Monotonic time of the call's start, in seconds.
        whole: Whether the call's end will be reported too. If not, there are neither spans nor
            durations, only decisions.
        call_spans: The call's spans, or None.
        attempts: How many attempts have failed already.
        error: What the last of them raised.
    """

    __slots__ = (
        "_active",
        "_attempts",
        "_ended",
        "_error",
        "_name",
        "_reason",
        "_retries",
        "_sending",
        "_spans",
        "_started",
        "_whole",
    )

    def __init__(
        self,
        name: str,
        started: float,
        *,
        whole: bool = True,
        call_spans: spans.Spans | None = None,
        attempts: int = 0,
        error: BaseException | None = None,
    ) -> None:
        self._name = name
        self._started = started
        self._whole = whole
        self._spans = call_spans
        self._attempts = attempts
        self._retries = 0
        self._active = 0.0  # seconds in which an attempt was under way
        self._sending: float | None = None  # since when one is
        self._error = error
        self._reason: Reason | None = None
        self._ended = False

    # Its attempts.

    def sends(self, started: float, delay: float) -> None:
        """The next attempt leaves this process now; what it does hangs under it.

        Several reports of one attempt count once.

        Args:
            started: Monotonic time of the attempt's start, in seconds.
            delay: Seconds waited before it.
        """
        if self._sending is None:
            self._sending = started
            if self._spans is not None:
                self._spans.start("attempt", started, _begun(self._attempts + 1, delay))
        self.enter()

    def enter(self) -> None:
        """From here on whatever happens hangs under the attempt that is under way."""
        if self._spans is not None:
            self._spans.enter()

    def leave(self) -> None:
        """From here on nothing does."""
        if self._spans is not None:
            self._spans.leave()

    def failed(self, attempt: Attempt, started: float, error: BaseException | None) -> None:
        """An attempt has failed.

        Args:
            attempt: The attempt.
            started: Monotonic time of its start, in seconds.
            error: What it raised. Only its invocation id is recorded.
        """
        self._error = error
        self._counts(attempt.duration, sent=attempt.sent)
        if self._spans is not None:
            if not self._spans.under_way:
                self._spans.start("attempt", started, _begun(attempt.number, attempt.delay))
            more: Attributes = {"iii.attempt.sent": attempt.sent, **_failure(attempt.failure)}
            self._spans.end_attempt(started + attempt.duration, more, failed=True)

    def not_made(self) -> None:
        """The next attempt was not made after all."""
        self._sending = None
        if self._spans is not None:
            self._spans.leave()
            self._spans.drop()

    def decided(self, failure: Failure, decision: Decision) -> None:
        """Something was decided about the attempt that failed last.

        Args:
            failure: Its failure.
            decision: The decision.
        """
        self._reason = decision.reason
        meters.decided(self._name, failure, decision.reason.value)
        logs.decided(
            failure,
            decision,
            attempt=self._attempts,
            name=self._name,
            error=self._error,
            ids=None if self._spans is None else self._spans.last,
        )

    # Its end.

    def permits(self, outcome: str, permits: int) -> None:
        """The permits of the call's retries have been given back, or are lost.

        Args:
            outcome: `iii_resilience.telemetry.metrics.REFUNDED` or ``WASTED``.
            permits: How many.
        """
        meters.permits(self._name, outcome, permits)

    def succeeded(self) -> None:
        """The attempt under way has succeeded, and with it the call."""
        if self._unheard:
            self._ended = True
            return
        now = clock.monotonic()
        self._end_attempt(now, {})
        self._end(now, {}, {})

    def gave_up(self, failure: Failure) -> None:
        """The call was given up.

        Args:
            failure: The failure that its caller sees.
        """
        if self._unheard:
            self._ended = True
            return
        self._end(clock.monotonic(), labels(failure), _failure(failure))

    def passed(self, error: BaseException) -> None:
        """An exception passed through the call that is not a failure of an attempt, and ended it.

        Args:
            error: A cancellation or its like, or what ended a delay.
        """
        now = clock.monotonic()
        kind = _passing(error)
        self._end_attempt(now, kind)
        self._end(now, kind, kind)

    def fallback(self, kind: str, target: str) -> Fallback:
        """While the one call is made that stands in for a further attempt, as a context manager.

        Args:
            kind: ``enqueue`` or ``reroute``.
            target: The queue or the function.
        """
        return Fallback(self, {"iii.fallback.kind": kind, "iii.fallback.target": target})

    def fallback_began(self, now: float, about: Attributes) -> None:
        """The call to a fallback begins.

        Args:
            now: Monotonic time in seconds.
            about: The attributes of its span.
        """
        if self._spans is not None:
            self._spans.start("fallback", now, about)
            self._spans.enter()

    def fallback_ended(self, began: float, error: BaseException | None) -> None:
        """The call to a fallback has ended.

        Args:
            began: Monotonic time of its start, in seconds.
            error: What it raised, or None.
        """
        now = clock.monotonic()
        self._active += now - began
        taken = self._reason is Reason.HANDED_OFF
        passing = error is not None and not isinstance(error, Exception)
        more = {}
        if isinstance(error, Exception):
            more = _failure(classify(error))
        elif error is not None:
            more = _passing(error)
        if self._spans is not None:
            self._spans.leave()
            self._spans.end_attempt(now, more, failed=not taken)
        if taken or passing:
            self._end(now, more, more)

    @property
    def _unheard(self) -> bool:
        """Whether there is no provider: then the end of a call need not be recorded."""
        return self._spans is None and not meters.heard

    def _counts(self, seconds: float, *, sent: bool) -> None:
        self._sending = None
        self._active += seconds
        self._attempts += 1
        self._retries += sent and self._attempts > 1
        self.leave()

    def _end_attempt(self, now: float, failed: Mapping[str, str]) -> None:
        """End the attempt that is under way, if one is, without a failure of its own."""
        if self._sending is None:
            return
        self._counts(now - self._sending, sent=True)
        if self._spans is not None:
            self._spans.end_attempt(now, {"iii.attempt.sent": True, **failed}, failed=bool(failed))

    def _end(self, now: float, failed: Mapping[str, str], more: Mapping[str, Any]) -> None:
        if self._ended or not self._whole:
            return
        self._ended = True
        self.leave()
        seconds = now - self._started
        meters.ended(
            self._name,
            seconds,
            failed,
            retries=self._retries,
            waited=max(0.0, seconds - self._active),
        )
        if self._spans is not None:
            about: dict[str, Any] = {"iii.call.attempts": self._attempts, **more}
            if self._reason is not None:
                about["iii.retry.decision"] = self._reason.value
            self._spans.end(now, about, failed=bool(failed))


class Fallback:
    """While the call to a fallback is under way; see `FailedCall.fallback`.

    A class, not a ``contextlib.contextmanager``, as in `core.context_scope`.

    Args:
        call: The call that was given up.
        about: The attributes of the span.
    """

    __slots__ = ("_about", "_began", "_call")

    def __init__(self, call: FailedCall, about: Attributes) -> None:
        self._call = call
        self._about = about
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = clock.monotonic()
        self._call.fallback_began(self._began, self._about)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._call.fallback_ended(self._began, error)


def begin(name: str, started: float, *, remote: bool, whole: bool = True) -> FailedCall | None:
    """What observes a call that has just failed for the first time.

    Args:
        name: As for `FailedCall`.
        started: As for `FailedCall`.
        remote: Whether attempts go through the engine.
        whole: As for `FailedCall`.

    Returns:
        None if neither spans nor metrics nor log records of retries have anywhere to go.
    """
    tracer = CurrentTracer.tracer
    # The API's stand-in has what it passes on to; without a provider that is nothing. Another
    # tracer, or another API, is called for a span like any other.
    silent = isinstance(getattr(tracer, "_tracer", tracer), NoOpTracer)
    call_spans = spans.begin(name, started, remote=remote) if whole and not silent else None
    if (
        call_spans is None
        and meters.probe._real_instrument is None  # noqa: SLF001 - see `Meters.probe`
        and not (logger.logger.isEnabledFor(logging.INFO) and logs.heard(logging.INFO))
    ):
        return None
    return FailedCall(name, started, whole=whole, call_spans=call_spans)


def refused(name: str, failure: Failure, error: BaseException) -> None:
    """A call was refused before it began: its one attempt was not sent.

    Args:
        name: The function id.
        failure: The failure.
        error: The exception.
    """
    now = clock.monotonic()
    call = FailedCall(name, now, call_spans=spans.begin(name, now, remote=True))
    call.failed(Attempt(1, failure, delay=0.0, duration=0.0, sent=False), now, error)
    call.decided(failure, Decision(Reason.NOT_RETRYABLE))
    call.gave_up(failure)


def _begun(number: int, delay: float) -> dict[str, Any]:
    return {"iii.attempt.number": number, "iii.attempt.delay": delay}


def _failure(failure: Failure) -> dict[str, str]:
    return {**labels(failure), "iii.error.execution": failure.execution.value}


def _passing(error: BaseException) -> dict[str, str]:
    if isinstance(error, Exception):
        return labels(classify(error))
    return {"error.type": passing_type(error)}
