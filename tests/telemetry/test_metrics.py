"""The metrics: how many time series there can be, what they cost, and what a budget has left."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.metrics import NoOpMeter, NoOpMeterProvider
from support.observers import ObserverFaults
from support.telemetry_fixtures import Seen, provide

from iii_resilience import (
    Backoff,
    Budget,
    Bulkhead,
    PolicyBook,
    RetryPolicy,
    iii_retry,
    retrying,
    use_policies,
)
from iii_resilience.core.guards.scopes import Scope, everything
from iii_resilience.telemetry import meters
from iii_resilience.telemetry.guard_states import named
from iii_resilience.telemetry.metrics import LIMIT, LIMIT_DEFAULT, Meters

if TYPE_CHECKING:
    from conftest import FakeClock

QUICK = RetryPolicy(backoff=Backoff(base=0, throttled_base=0), budget=None, attempts=3)
DURATION = "iii.client.call.duration"


def functions(seen: Seen) -> dict[str, int]:
    return {p.attributes["iii.function.id"]: p.count for p in seen.metrics()[DURATION].points}


class TestLimit:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
        monkeypatch.setenv(LIMIT, "2")
        meters.forget()

    def test_beyond_it_functions_are_told_as_other(self, seen: Seen) -> None:
        for name in ["a", "b", "c", "d", "a", "c"]:
            meters.succeeded(name, 0.0)
        assert functions(seen) == {"a": 2, "b": 1, "_OTHER": 3}

    def test_it_holds_for_all_metrics_together(self, seen: Seen) -> None:
        meters.succeeded("a", 0.0)
        meters.ended("b", 1.0, {"error.type": "TIMEOUT"}, retries=1)
        meters.registration_changed("c", "function", "owner")
        meters.ended("d", 1.0, {}, retries=1)
        told = {
            point.attributes["iii.function.id"]
            for metric in seen.metrics().values()
            if metric.name != "iii.retry.budget.available"
            for point in metric.points
        }
        assert told == {"a", "b", "_OTHER"}

    def test_many_threads_do_not_exceed_it(self, seen: Seen) -> None:
        def work(number: int) -> None:
            for place in range(50):
                meters.succeeded(f"{number}-{place}", 0.0)

        threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = functions(seen)
        assert len(found) == 3
        assert sum(found.values()) == 400

    def test_memory_does_not_grow_with_functions_beyond_it(self) -> None:
        for number in range(1000):
            meters.succeeded(str(number), 0.0)
        assert len(meters._ids) == len(meters._of_success) == 2


@pytest.mark.parametrize("text", ["many", "-1", "", "1.5"])
def test_limit_that_is_none_is_warned_of_and_is_default(
    text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seen: Seen
) -> None:
    monkeypatch.setenv(LIMIT, text)
    meters.forget()
    meters.succeeded("a", 0.0)
    meters.succeeded("a", 0.0)
    (record,) = [one for one in caplog.records if one.name == "iii_resilience"]
    assert record.getMessage() == (
        f"{LIMIT} must be a whole number of function ids from 0 on, got {text!r}; the limit is 2000"
    )
    assert meters._most == LIMIT_DEFAULT
    assert functions(seen) == {"a": 2}


def test_limit_of_none_tells_no_function(monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    monkeypatch.setenv(LIMIT, "0")
    meters.forget()
    meters.succeeded("a", 0.0)
    assert functions(seen) == {"_OTHER": 1}


class TestBuckets:
    def test_seconds_and_retries_have_their_own(self, seen: Seen) -> None:
        meters.ended("a", 0.2, {}, retries=2, waited=0.1)
        found = seen.metrics()
        assert found["iii.client.call.retries"].points[0].bounds == (1, 2, 3, 4, 5)
        for name in (DURATION, "iii.client.call.retry_delay"):
            bounds = found[name].points[0].bounds
            assert bounds[0] == 0.005
            assert bounds[-1] == 60

    def test_api_without_advice_does_without(
        self, clean_globals: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = []

        class OldMeter(NoOpMeter):
            def create_histogram(self, *args: Any, **advice: Any) -> Any:
                if advice:
                    raise TypeError
                made.append(args[0])
                return super().create_histogram(*args)

        monkeypatch.setattr(metrics, "get_meter", OldMeter)
        meters.succeeded("a", 0.0)
        assert len(made) == 3


class TestWhereNobodyMeasures:
    def test_success_is_one_look(self, clean_globals: None) -> None:
        meters.succeeded("a", 0.0)
        assert meters.probe._real_instrument is None
        meters.succeeded("a", 0.0)
        assert meters._of_success == {}
        assert meters._ids == set()

    def test_provider_that_is_set_later_is_noticed(self, clean_globals: None) -> None:
        meters.succeeded("a", 0.0)
        meters.ended("a", 1.0, {}, retries=1)
        seen = provide()
        meters.succeeded("a", 0.0)
        assert functions(seen) == {"a": 1}

    def test_instruments_without_mark_of_api_are_always_told(self, clean_globals: None) -> None:
        metrics.set_meter_provider(NoOpMeterProvider())
        meters.succeeded("a", 0.0)
        assert meters.probe._real_instrument is not None
        assert "a" in meters._of_success

    def test_broken_provider_costs_metrics_and_no_call(
        self,
        clean_globals: None,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        observer_faults: ObserverFaults,
    ) -> None:
        monkeypatch.setenv("OTEL_PYTHON_METER_PROVIDER", "there_is_none")
        monkeypatch.setenv("OTEL_PYTHON_TRACER_PROVIDER", "there_is_none")
        script = iter([ConnectionError()])

        @iii_retry(idempotent=True, policy=QUICK)
        def function() -> str:
            for error in script:
                raise error
            return "done"

        assert function() == "done"
        ours = [r.getMessage() for r in caplog.records if r.name == "iii_resilience"]
        assert ours[0].startswith("lost a span: StopIteration at ")
        assert ours[1].startswith("lost a measurement: StopIteration at ")
        assert isinstance(trace.get_current_span(), trace.NonRecordingSpan)

    def test_two_threads_make_them_once(self, clean_globals: None) -> None:
        mine = Meters()
        made = [mine._make(), mine._make()]
        assert made[0] is made[1]


class TestBudgets:
    """`iii.retry.budget.available`, read only when metrics are."""

    def budgets(self, seen: Seen) -> dict[tuple[str, str | None], float]:
        return {
            (p.attributes["iii.policy.name"], p.attributes.get("iii.function.id")): p.value
            for p in seen.metrics()["iii.retry.budget.available"].points
        }

    def test_decorators_budget_is_told_by_its_policys_name(self, seen: Seen) -> None:
        policy = QUICK.replace(budget=Budget(ratio=0, burst=5, min_per_second=0), attempts=3)
        use_policies(PolicyBook({"gauged": policy, "default": QUICK}))

        @iii_retry(idempotent=True, policy="gauged")
        def function() -> None:
            raise ConnectionError

        with pytest.raises(ConnectionError):
            function()
        name = f"{function.__module__}.{function.__qualname__}"
        assert self.budgets(seen)["gauged", name] == 3
        for _ in range(2):
            with pytest.raises(ConnectionError):
                function()
        assert self.budgets(seen)["gauged", name] == 0

    def test_emptiest_of_several_under_one_name(self, seen: Seen) -> None:
        for burst in (3, 2, 4):
            budget = Budget(ratio=0, burst=burst)
            for attempt in retrying(idempotent=True, policy=QUICK.replace(budget=budget)):
                with attempt:
                    pass
        meters.succeeded("a", 0.0)
        name = f"{__name__}.TestBudgets.test_emptiest_of_several_under_one_name"
        assert self.budgets(seen)["inline", name] == 2

    def test_shared_bucket_has_no_function(self, seen: Seen) -> None:
        budget = Budget(ratio=0, burst=7)
        named(budget.bucket_for("a::b"), "inline")
        named(budget.bucket_for("a::b"), "scoped")
        named(budget.bucket_for("a::b"), "later")
        budget.bucket_for(None)
        meters.succeeded("a", 0.0)
        found = self.budgets(seen)
        assert found["scoped", "a::b"] == 7
        assert ("inline", None) in found

    def test_emptiest_of_all_namespaces(self, seen: Seen) -> None:
        budget, bulkhead = Budget(ratio=0, burst=7, min_per_second=0), Bulkhead(3)
        scopes: tuple[Scope, ...] = ("a::b", ("blue", "a::b"))
        for scope in scopes:
            named(budget.bucket_for(scope), "scoped")
        inside = [bulkhead.slots_for(scope).acquire() for scope in scopes]
        assert budget.bucket_for(("blue", "a::b")).reserve(0.0)
        meters.succeeded("a", 0.0)
        assert self.budgets(seen)["scoped", "a::b"] == 6
        (in_use,) = [
            point.value
            for point in seen.metrics()["iii.bulkhead.in_use"].points
            if point.attributes["iii.function.id"] == "a::b"
        ]
        assert in_use == len(inside) == 2

    def test_time_since_bucket_is_empty(self, seen: Seen, clock: FakeClock) -> None:
        budget = Budget(burst=1, min_per_second=0)
        bucket = budget.bucket_for("t::empty")
        budget.bucket_for("t::full")
        assert bucket.reserve(clock.now)
        clock.now += 30
        meters.succeeded("a", 0.0)
        empty = {
            p.attributes["iii.function.id"]: p.value
            for p in seen.metrics()["iii.retry.budget.empty"].points
            if "iii.function.id" in p.attributes
        }
        assert empty == {"t::empty": 30.0}

    def test_permits_end_refunded_or_wasted(self, seen: Seen) -> None:
        budget = Budget(ratio=0, burst=5, min_per_second=0)
        policy = QUICK.replace(budget=budget, attempts=3)

        @iii_retry(idempotent=True, policy=policy)
        def function(failures: list[Exception]) -> None:
            if failures:
                raise failures.pop()

        function([ConnectionError()])
        function([ConnectionError(), ConnectionError()])
        with pytest.raises(ConnectionError):
            function([ConnectionError() for _ in range(3)])
        with pytest.raises(ValueError):  # not retryable, after a retry
            function([ValueError(), ConnectionError()])
        with pytest.raises(ConnectionError):  # two permits are left, and both are taken
            function([ConnectionError() for _ in range(3)])
        with pytest.raises(ConnectionError):
            function([ConnectionError()])
        permits = {
            p.attributes["iii.retry.budget.outcome"]: p.value
            for p in seen.metrics()["iii.retry.budget.permits"].points
        }
        assert permits == {"refunded": 3, "wasted": 5}

    def test_other_guards_are_no_budgets(self, seen: Seen) -> None:
        budget = Budget()
        budget.bucket_for("c")
        found = [kept for kept in everything() if kept is budget._states]
        found[0]["d"] = object()  # as a breaker keeps circuits
        meters.succeeded("a", 0.0)
        told = {function_id for _, function_id in self.budgets(seen)}
        assert "c" in told
        assert "d" not in told
        del found[0]["d"]
