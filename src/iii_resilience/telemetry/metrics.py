"""The metrics: what is counted and measured, and under which function ids.

Instruments are made on first use, so a meter provider that is set after the import is still used.
Without a configured provider, a success costs one check of `Meters.probe`. Names, units and
attributes are those of docs/telemetry.md, which a test compares with a run. Knows nothing of spans,
of log records, or of how calls are made.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from opentelemetry import metrics

from iii_resilience.core import system_clock as clock
from iii_resilience.core.event_count import refused_reloads
from iii_resilience.core.failure import Failure
from iii_resilience.core.guards.breaker import CircuitState
from iii_resilience.core.guards.budget import PermitBucket
from iii_resilience.core.observers import IsolatedObserver, logger
from iii_resilience.telemetry import handler_limits
from iii_resilience.telemetry.backlogs import backlogs
from iii_resilience.telemetry.guard_states import buckets, bulkheads
from iii_resilience.telemetry.instruments import Instruments
from iii_resilience.telemetry.parkings import parkings
from iii_resilience.telemetry.spans import SCOPE, scope_version

REFUNDED = "refunded"
"""Permits of retries whose call has succeeded."""
WASTED = "wasted"
"""Permits of retries whose call has failed all the same."""

OTHER = "_OTHER"
"""What stands for every value that would make the number of time series grow without end."""

LIMIT = "III_RESILIENCE_METRICS_FUNCTIONS"
"""The environment variable: how many function ids metrics distinguish."""
LIMIT_DEFAULT = 2000

# What passes through a call without being a failure of it, by name; bounded like the codes.
_PASSING = frozenset({"CancelledError", "KeyboardInterrupt", "SystemExit", "GeneratorExit"})


def error_type(failure: Failure) -> str:
    """``error.type``: the code where a table knows it. Unknown ones are without number."""
    return failure.code if failure.known else OTHER


def passing_type(error: BaseException) -> str:
    """``error.type`` of what is no `Exception`: a cancellation and its like."""
    name = type(error).__name__
    return name if name in _PASSING else OTHER


class _Unmade:
    """Stands for an instrument before there are any: the first use creates them."""

    _real_instrument = True


class _Unmakable:
    """Stands for an instrument that the meter provider cannot make."""

    _real_instrument = None


_isolated = IsolatedObserver("a measurement")


class Meters:
    """The library's metrics, under the global meter provider.

    Attributes:
        probe: Its ``_real_instrument`` is None as long as no meter provider is set. The instruments
            of the API have it while they wait for one; a success may only afford this one look.
    """

    __slots__ = ("_ids", "_lock", "_made", "_most", "_of_success", "_refused_before", "probe")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Make everything anew at the next use: for tests, which set more than one provider."""
        self.probe: Any = _Unmade
        self._made: Instruments | None = None
        self._ids: set[str] = set()
        self._of_success: dict[str, dict[str, Any]] = {}
        self._most = LIMIT_DEFAULT
        self._refused_before = refused_reloads.value
        parkings.forget()

    @property
    def heard(self) -> bool:
        """Whether there is a provider."""
        return self._heard is not None

    # What happens.

    def succeeded(self, name: str, started: float) -> None:
        """A call has succeeded at its first attempt.

        Args:
            name: The function id, or the decorated function's qualified name.
            started: Monotonic time of its start, in seconds.
        """
        if self.probe._real_instrument is None or (made := self._heard) is None:  # noqa: SLF001
            return
        attributes = self._of_success.get(name)
        if attributes is None:
            attributes = self._attributes(name)
            if attributes["iii.function.id"] == name:  # the rest have no end
                self._of_success[name] = attributes
        seconds = clock.monotonic() - started
        with _isolated:
            made.duration.record(seconds, attributes)

    def passed(self, name: str, started: float, error: BaseException) -> None:
        """A call was cancelled, or something like that passed through it, at its first attempt.

        Args:
            name: As for `succeeded`.
            started: As for `succeeded`.
            error: What passed through.
        """
        self.ended(name, clock.monotonic() - started, {"error.type": passing_type(error)})

    def ended(
        self,
        name: str,
        seconds: float,
        failed: Mapping[str, str],
        *,
        retries: int = 0,
        waited: float = 0.0,
    ) -> None:
        """A call has ended.

        Args:
            name: As for `succeeded`.
            seconds: How long it took.
            failed: The attributes of its failure; empty for a success.
            retries: Retries that were sent.
            waited: Seconds in which no attempt was under way.
        """
        if (made := self._heard) is not None:
            attributes = self._attributes(name, failed)
            with _isolated:
                made.duration.record(seconds, attributes)
                if retries:
                    made.retries.record(retries, attributes)
                    made.retry_delay.record(waited, attributes)

    def decided(self, name: str, failure: Failure, reason: str) -> None:
        """A decision was made about a failure.

        Args:
            name: As for `succeeded`.
            failure: The failure.
            reason: The decision's reason.
        """
        if (made := self._heard) is not None:
            more = {**labels(failure), "iii.retry.decision": reason}
            _count(made.decisions, self._attributes(name, more))

    def permits(self, name: str, outcome: str, permits: int) -> None:
        """A call has ended whose retries took permits of its budget.

        Args:
            name: As for `succeeded`.
            outcome: `REFUNDED` or `WASTED`.
            permits: How many.
        """
        if permits and (made := self._heard) is not None:
            more = {"iii.retry.budget.outcome": outcome}
            _count(made.permits, self._attributes(name, more), permits)

    def circuit_changed(self, name: str, state: CircuitState) -> None:
        """A circuit breaker has changed its state.

        Args:
            name: As for `succeeded`.
            state: What it is now.
        """
        if (made := self._heard) is not None:
            more = {"iii.circuit_breaker.state": state.value}
            _count(made.transitions, self._attributes(name, more))

    def handler_failed(self, function_id: str, failure: Failure) -> None:
        """A handler has failed.

        Args:
            function_id: The function it serves.
            failure: The failure, by the cause that says most.
        """
        if (made := self._heard) is not None:
            _count(made.handler_failures, self._attributes(function_id, labels(failure)))

    def handler_succeeded(self, function_id: str) -> None:
        """A handler has succeeded.

        Args:
            function_id: The function it serves.
        """
        if self.probe._real_instrument is None or (made := self._heard) is None:  # noqa: SLF001
            return
        _count(made.handler_successes, self._attributes(function_id))

    def parked(self, function_id: str, failure: Failure) -> None:
        """A message was parked.

        Args:
            function_id: The function it is for.
            failure: Why.
        """
        if (made := self._heard) is not None:
            _count(made.parked, self._attributes(function_id, labels(failure)))

    def registration_changed(self, function_id: str, kind: str, state: str) -> None:
        """A registration has changed its state.

        Args:
            function_id: The function.
            kind: ``function`` or ``trigger``.
            state: How it stands now.
        """
        if (made := self._heard) is not None:
            more = {"iii.registration.kind": kind, "iii.registration.state": state}
            _count(made.registrations, self._attributes(function_id, more))

    # How it is recorded.

    def function_id(self, name: str) -> str:
        """A function id as metrics show it: itself for the first so many, `OTHER` beyond.

        Args:
            name: The function id.
        """
        if name not in self._ids:
            with self._lock:
                if len(self._ids) >= self._most:
                    return OTHER
                self._ids.add(name)
        return name

    def _attributes(self, name: str, more: Mapping[str, str] | None = None) -> dict[str, Any]:
        return {"iii.function.id": self.function_id(name), **(more or {})}

    @property
    def _heard(self) -> Instruments | None:
        """The instruments, if there is a provider."""
        made = self._made or self._make()
        return None if self.probe._real_instrument is None else made  # noqa: SLF001 - see `probe`

    def _make(self) -> Instruments:
        with self._lock:
            if self._made is not None:
                return self._made
            self._most = _limit()
            made = Instruments(metrics.NoOpMeter(SCOPE))
            probe: Any = _Unmakable
            with _isolated:
                meter = metrics.get_meter(SCOPE, scope_version() or "")
                made = Instruments(meter)
                probe = made.duration if hasattr(made.duration, "_real_instrument") else _Unmade
                self._observe(meter)
            self.probe = probe
            self._made = made
            return made

    def _observe(self, meter: metrics.Meter) -> None:
        """Make the instruments that the meter asks for their values."""
        for name, unit, description, observe in (
            (
                "iii.retry.budget.available",
                "{permit}",
                "Retries that the budget would allow now",
                self._available,
            ),
            (
                "iii.retry.budget.empty",
                "s",
                "Time since the budget allowed a retry, where it allows none",
                self._empty,
            ),
            ("iii.bulkhead.in_use", "{call}", "Calls inside a bulkhead now", self._in_use),
            ("iii.bulkhead.waiting", "{call}", "Calls that wait for a place", self._waiting),
            ("iii.dead_letters", "{message}", "Messages that are parked now", self._dead),
            (
                "iii.relay.waiting",
                "{message}",
                "Messages that wait for the relay that is active here",
                self._waiting_for_relay,
            ),
            (
                "iii.relay.oldest",
                "s",
                "Time since the oldest of them could have been handed over",
                self._oldest_of_relay,
            ),
        ):
            meter.create_observable_gauge(
                name, callbacks=[observe], unit=unit, description=description
            )
        for what, description in handler_limits.OF_LIMITS.items():
            found = [partial(self._handlers, what)]
            meter.create_observable_gauge(f"iii.handler.{what}", found, "{call}", description)
        meter.create_observable_counter(
            "iii.policy.reloads.refused",
            callbacks=[self._refused],
            unit="{reload}",
            description="Changed policies that did not validate",
        )

    def _refused(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        refused = refused_reloads.value - self._refused_before
        return [metrics.Observation(refused)] if refused else []

    def _in_use(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        return self._by_function((name, slots.inside) for name, slots in bulkheads())

    def _waiting(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        return self._by_function((name, slots.waiting) for name, slots in bulkheads())

    def _handlers(self, what: str, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        return self._by_function(handler_limits.values(what))

    def _by_function(
        self, found: Iterable[tuple[str | None, int]]
    ) -> Iterable[metrics.Observation]:
        sums: Counter[str | None] = Counter()
        for name, value in found:
            sums[name and self.function_id(name)] += value
        return [
            metrics.Observation(total, {"iii.function.id": name} if name else {})
            for name, total in sums.items()
        ]

    def _dead(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        sums: Counter[tuple[str, str]] = Counter()
        for (name, category), count in parkings.counts(clock.monotonic()).items():
            sums[self.function_id(name), category] += count
        return [
            metrics.Observation(count, {"iii.function.id": name, "iii.error.category": category})
            for (name, category), count in sums.items()
        ]

    def _waiting_for_relay(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        return [
            metrics.Observation(count, {"iii.relay.kind": kind})
            for kind, count in backlogs.waiting().items()
        ]

    def _oldest_of_relay(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        oldest = backlogs.oldest()
        return [] if oldest is None else [metrics.Observation(oldest)]

    def _available(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        return self._of_budgets(PermitBucket.available, min)

    def _empty(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        observed = self._of_budgets(PermitBucket.empty_for, max)
        return [each for each in observed if each.value]

    def _of_budgets(
        self,
        observe: Callable[[PermitBucket, float], float],
        worst: Callable[[float, float], float],
    ) -> Iterable[metrics.Observation]:
        found: dict[tuple[tuple[str, str], ...], float] = {}
        now = clock.monotonic()
        for policy, function_id, bucket in buckets():
            attributes = {"iii.policy.name": policy}
            if function_id is not None:
                attributes["iii.function.id"] = self.function_id(function_id)
            # Of several budgets under one name (clients with books of their own, functions beyond
            # the limit) the emptiest one counts: it is the one to warn of.
            key, value = tuple(attributes.items()), observe(bucket, now)
            found[key] = worst(value, found.get(key, value))
        return [metrics.Observation(value, dict(key)) for key, value in found.items()]


def _count(counter: metrics.Counter, attributes: dict[str, Any], amount: int = 1) -> None:
    with _isolated:
        counter.add(amount, attributes)


def labels(failure: Failure) -> dict[str, str]:
    """The attributes of a failure, on metrics and spans alike."""
    return {"error.type": error_type(failure), "iii.error.category": failure.category.value}


def _limit() -> int:
    text = os.environ.get(LIMIT)
    if text is None:
        return LIMIT_DEFAULT
    try:
        most = int(text)
    except ValueError:
        most = -1
    if most < 0:
        # A call never fails because of its metrics.
        logger.warning(
            "%s must be a whole number of function ids from 0 on, got %r; the limit is %d",
            LIMIT,
            text,
            LIMIT_DEFAULT,
        )
        return LIMIT_DEFAULT
    return most


meters = Meters()
"""The one of this process."""
