"""The spans of one call that has failed at least once: one for the call, one per attempt.

On first failure the spans of the past are created with their real times. From the second attempt on
a span is open while the attempt runs, so the spans it causes (the engine's included) are its
children. Messages, arguments and exceptions are never recorded. Knows nothing of metrics or
decisions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextvars import Token

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from iii_resilience.core import system_clock as clock
from iii_resilience.core.observers import IsolatedObserver

SCOPE = "iii_resilience"
"""The instrumentation scope of spans and metrics; also the name of the package."""


def scope_version() -> str | None:
    """The version of the instrumentation scope: the library's own.

    Read from the package, which has been imported by then: no layer imports it.
    """
    return getattr(sys.modules.get(SCOPE), "__version__", None)


Attributes = Mapping[str, str | int | float | bool]
Ids = tuple[str | None, str | None]

_isolated = IsolatedObserver("a span")


class CurrentTracer:
    """The tracer, created at first use: it is needed often, and the API takes its time.

    Attributes:
        tracer: The tracer, or None before its first use.
    """

    tracer: trace.Tracer | None = None

    @classmethod
    def get(cls) -> trace.Tracer:
        """The tracer, created if there is none yet."""
        tracer = cls.tracer
        if tracer is None:
            tracer = trace.NoOpTracer()
            with _isolated:
                tracer = trace.get_tracer(SCOPE, scope_version())
            cls.tracer = tracer
        return tracer


def forget() -> None:
    """Get the tracer anew at the next use: for tests, which set more than one provider."""
    CurrentTracer.tracer = None


def begin(name: str, started: float, *, remote: bool) -> Spans | None:
    """Start the span of a call that has just failed for the first time.

    Args:
        name: The function id, or the decorated function's qualified name.
        started: Monotonic time of the call's start, in seconds.
        remote: Whether attempts go through the engine.

    Returns:
        The call's spans, or None where there is no tracer provider: then the spans around the call
        stay the current ones. None too where the span cannot be made.
    """
    tracer = CurrentTracer.get()
    # One look at both clocks for the whole call: a wall clock that is set meanwhile moves no
    # attempt out of its call.
    offset = time.time_ns() - round(clock.monotonic() * 1e9)
    with _isolated:
        span = tracer.start_span(
            f"retry {name}",
            attributes={"iii.function.id": name},
            start_time=round(started * 1e9) + offset,
        )
        made = span.get_span_context()
        if made.is_valid and made != trace.get_current_span().get_span_context():
            return Spans(name, span, offset, SpanKind.CLIENT if remote else SpanKind.INTERNAL)
    return None


class Spans:
    """The spans of one call; see `begin`.

    Args:
        name: The function id, or the decorated function's qualified name.
        call: The call's span.
        offset: Nanoseconds between monotonic time and the time since 1970.
        kind: The kind of an attempt.

    Attributes:
        last: Trace and span id of the attempt that ended last.
    """

    __slots__ = ("_attempt", "_call", "_kind", "_name", "_offset", "_parent", "_token", "last")

    def __init__(self, name: str, call: Span, offset: int, kind: SpanKind) -> None:
        self._name = name
        self._call = call
        self._offset = offset
        self._kind = kind
        self._parent = trace.set_span_in_context(call)
        self._attempt: Span = trace.INVALID_SPAN
        self._token: Token[context.Context] | None = None
        self.last = ids(call.get_span_context())

    @property
    def under_way(self) -> bool:
        """Whether an attempt has been started and not ended."""
        return self._attempt is not trace.INVALID_SPAN

    def start(self, what: str, started: float, attributes: Attributes) -> None:
        """Start the span of an attempt, or of what is made in its place.

        Args:
            what: ``attempt`` or ``fallback``.
            started: Monotonic time of its start, in seconds.
            attributes: What is known of it at its start.
        """
        with _isolated:
            self._attempt = CurrentTracer.get().start_span(
                f"{what} {self._name}",
                context=self._parent,
                kind=self._kind,
                attributes={"iii.function.id": self._name, **attributes},
                start_time=self._unix(started),
            )

    def enter(self) -> None:
        """From here on whatever happens hangs under what was started."""
        if self.under_way and self._token is None:
            with _isolated:
                self._token = context.attach(trace.set_span_in_context(self._attempt))

    def leave(self) -> None:
        """From here on nothing does."""
        token, self._token = self._token, None
        if token is not None:
            with _isolated:
                context.detach(token)

    def end_attempt(self, ended: float, attributes: Attributes, *, failed: bool) -> None:
        """End the span that was started last.

        Args:
            ended: Monotonic time of its end, in seconds.
            attributes: What is known of it now.
            failed: Whether it failed.
        """
        span, self._attempt = self._attempt, trace.INVALID_SPAN
        with _isolated:
            self.last = ids(span.get_span_context())
        _end(span, self._unix(ended), attributes, failed=failed)

    def drop(self) -> None:
        """Forget what was started and never made: a span that never ends is not recorded."""
        self._attempt = trace.INVALID_SPAN

    def end(self, ended: float, attributes: Attributes, *, failed: bool) -> None:
        """End the call's span.

        Args:
            ended: Monotonic time of the call's end, in seconds.
            attributes: What is known of it now.
            failed: Whether it failed in the end: errors that were retried away do not count.
        """
        _end(self._call, self._unix(ended), attributes, failed=failed)

    def _unix(self, at: float) -> int:
        return round(at * 1e9) + self._offset


def _end(span: Span, at: int, attributes: Attributes, *, failed: bool) -> None:
    with _isolated:
        span.set_attributes(attributes)
        if failed:
            # Without a description: what an error says may hold a payload.
            span.set_status(Status(StatusCode.ERROR))
    with _isolated:  # a span that is not ended stays in its processors
        span.end(at)


def ids(span: trace.SpanContext) -> Ids:
    """Trace and span id as they are written in logs; None where there is no span.

    Args:
        span: The span.
    """
    if not span.is_valid:
        return None, None
    return trace.format_trace_id(span.trace_id), trace.format_span_id(span.span_id)


def current_ids() -> Ids:
    """`ids` of the span that the code running now belongs to."""
    with _isolated:
        return ids(trace.get_current_span().get_span_context())
    return None, None
