"""The instruments that count and measure calls and workers: names, units and buckets.

Knows nothing of what is recorded in them.
"""

from __future__ import annotations

from opentelemetry import metrics

# From a local answer of a millisecond to a call that waits out its deadline of a minute.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_RETRIES = (1.0, 2.0, 3.0, 4.0, 5.0)  # gRPC's (A96)


class Instruments:
    """The instruments of one meter."""

    def __init__(self, meter: metrics.Meter) -> None:
        self.duration = _histogram(
            meter,
            "iii.client.call.duration",
            "s",
            "Duration of calls, from their start to their last attempt's end or fallback",
            _SECONDS,
        )
        self.retries = _histogram(
            meter,
            "iii.client.call.retries",
            "{retry}",
            "Retries that were sent for a call; calls without any are not reported",
            _RETRIES,
        )
        self.retry_delay = _histogram(
            meter,
            "iii.client.call.retry_delay",
            "s",
            "Time during a call in which no attempt of it was under way",
            _SECONDS,
        )
        self.decisions = meter.create_counter(
            "iii.retry.decisions", unit="{decision}", description="What was decided about failures"
        )
        self.permits = meter.create_counter(
            "iii.retry.budget.permits",
            unit="{permit}",
            description="Permits of retries that were sent, by the end of their call",
        )
        self.transitions = meter.create_counter(
            "iii.circuit_breaker.transitions",
            unit="{transition}",
            description="Changes of state of circuit breakers",
        )
        self.handler_failures = meter.create_counter(
            "iii.handler.failures", unit="{failure}", description="Calls whose handler failed"
        )
        self.handler_successes = meter.create_counter(
            "iii.handler.successes", unit="{success}", description="Calls whose handler succeeded"
        )
        self.parked = meter.create_counter(
            "iii.messages.parked",
            unit="{message}",
            description="Messages that a consumer has parked",
        )
        self.registrations = meter.create_counter(
            "iii.worker.registration.transitions",
            unit="{transition}",
            description="Changes of how a worker's functions and triggers are registered",
        )


def _histogram(
    meter: metrics.Meter, name: str, unit: str, description: str, bounds: tuple[float, ...]
) -> metrics.Histogram:
    try:
        return meter.create_histogram(
            name, unit, description, explicit_bucket_boundaries_advisory=bounds
        )
    except TypeError:  # an older API gives no advice on buckets
        return meter.create_histogram(name, unit, description)
