"""What telemetry reaches a program: the SDK of OpenTelemetry, with everything kept in memory.

A provider can be set once a process, so the fixture puts a fresh pair of globals in the place of
the API's own, as OpenTelemetry's own tests do, and takes them away again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import attrs
import opentelemetry.metrics._internal as metrics_api
import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once

from iii_resilience.core.guards import concurrency_limit, scopes
from iii_resilience.core.guards.bulkhead import Slots
from iii_resilience.telemetry import meters, spans

SCOPE = "iii_resilience"

_MANY = 1_000  # functions of one budget


def forget() -> None:
    """Let the library look for its providers anew."""
    meters.forget()
    spans.forget()


@attrs.frozen
class Point:
    """One time series of a metric.

    Attributes:
        attributes: Its attributes.
        value: Its value; of a histogram the sum.
        count: Of a histogram the number of measurements, else 1.
        bounds: Of a histogram the buckets' upper bounds, else nothing.
    """

    attributes: dict[str, Any]
    value: float
    count: int
    bounds: tuple[float, ...]


@attrs.frozen
class Metric:
    """One metric with all its time series."""

    name: str
    unit: str
    kind: str
    points: list[Point]

    def total(self, **attributes: str) -> float:
        """The sum over all time series with these attributes (dots written as two underscores)."""
        return sum(p.value for p in self._with(attributes))

    def count(self, **attributes: str) -> int:
        """The number of measurements with these attributes."""
        return sum(p.count for p in self._with(attributes))

    def _with(self, attributes: dict[str, str]) -> list[Point]:
        wanted = {name.replace("__", "."): value for name, value in attributes.items()}
        return [p for p in self.points if wanted.items() <= p.attributes.items()]


@attrs.frozen
class Seen:
    """What was told so far."""

    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader
    tracer: trace.Tracer

    def spans(self, start: str = "") -> list[ReadableSpan]:
        """The library's own spans that have ended, by name."""
        return [
            span
            for span in self.exporter.get_finished_spans()
            if span.instrumentation_scope is not None
            and span.instrumentation_scope.name == SCOPE
            and span.name.startswith(start)
        ]

    def calls(self) -> dict[int, tuple[ReadableSpan, list[ReadableSpan]]]:
        """Each call's span with those of its attempts, in order, by the call's span id."""
        every = self.spans()
        return {
            id_of(call): (
                call,
                sorted(
                    (
                        s
                        for s in every
                        if s.name.startswith("attempt ") and parent_of(s) == id_of(call)
                    ),
                    key=lambda s: attributes(s)["iii.attempt.number"],
                ),
            )
            for call in every
            if call.name.startswith("retry ")
        }

    def metrics(self) -> dict[str, Metric]:
        """The library's own metrics by name."""
        data: Any = self.reader.get_metrics_data()
        found: dict[str, Metric] = {}
        for resource in () if data is None else data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics if scope.scope.name == SCOPE else ():
                    points = [_point(p) for p in metric.data.data_points]
                    kind = type(metric.data).__name__
                    found[metric.name] = Metric(metric.name, metric.unit, kind, points)
        return found


def _point(point: Any) -> Point:
    histogram = hasattr(point, "bucket_counts")
    return Point(
        dict(point.attributes),
        point.sum if histogram else point.value,
        point.count if histogram else 1,
        tuple(point.explicit_bounds) if histogram else (),
    )


def id_of(span: ReadableSpan) -> int:
    """A span's id."""
    context: Any = span.get_span_context()
    found: int = context.span_id
    return found


def parent_of(span: ReadableSpan) -> int | None:
    """The id of its parent, or None."""
    return None if span.parent is None else span.parent.span_id


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """Its attributes."""
    return dict(span.attributes or {})


def is_error(span: ReadableSpan) -> bool:
    """Whether it is marked as failed."""
    return span.status.status_code is trace.StatusCode.ERROR


@pytest.fixture
def clean_globals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The globals of the API as they are at the start of a process."""
    monkeypatch.setattr(metrics_api, "_METER_PROVIDER", None)
    monkeypatch.setattr(metrics_api, "_METER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(
        metrics_api, "_PROXY_METER_PROVIDER", type(metrics_api._PROXY_METER_PROVIDER)()
    )
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    # The limits and bulkheads of other tests are in no gauge, nor budgets of so many functions that
    # none of this test's ids would be shown.
    monkeypatch.setattr(concurrency_limit, "_all", WeakSet())
    others = {
        number: states
        for number, states in scopes._all.items()
        if len(states) < _MANY and not any(isinstance(state, Slots) for state in states.values())
    }
    monkeypatch.setattr(scopes, "_all", WeakValueDictionary(others))
    forget()
    yield
    forget()


def provide() -> Seen:
    """Set the providers, as a program does at its start."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([reader]))
    return Seen(exporter, reader, tracers.get_tracer("the program's own"))


@pytest.fixture
def seen(clean_globals: None) -> Seen:
    """What is told from here on."""
    return provide()
