"""Metrics of a worker: successes, parked messages, dead letters, refused reloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.telemetry_fixtures import Seen

from iii_resilience import Bulkhead, ConfigError, RetryPolicy, iii_retry, load_policies
from iii_resilience.handling import PermanentError, consumer, idempotent, reports_errors
from iii_resilience.stores import MemoryStore, StoreUnavailableError
from iii_resilience.telemetry.parkings import Parkings, parkings


def test_parked_message_is_no_success(seen: Seen) -> None:
    store = MemoryStore()

    @reports_errors
    @consumer(parking=store, key="n", function_id="w::f")
    @idempotent(store, key="n")
    def handler(data: Any) -> str:
        if data["n"] > 2:
            raise PermanentError("no", code="CARD_DECLINED")
        return "done"

    call: Any = handler
    for n in (1, 2, 3):
        call({"n": n})
    metrics = seen.metrics()
    assert metrics["iii.handler.successes"].total() == 2
    assert metrics["iii.handler.failures"].total(iii__function__id="w::f") == 1
    (parked,) = metrics["iii.messages.parked"].points
    assert parked.value == 1
    assert parked.attributes["iii.error.category"] == "permanent"
    dead = metrics["iii.dead_letters"]
    assert dead.total(iii__function__id="w::f", iii__error__category="permanent") == 1


def test_dead_letters_are_counted_seldom_and_end_at_zero() -> None:
    class Counting(MemoryStore):
        reads = 0

        def records(self) -> Any:
            self.reads += 1
            if self.reads == 2:
                raise StoreUnavailableError("away")
            return super().records()

    store, found = Counting(), Parkings()
    found.add(store)
    note = {"function_id": "f", "category": "permanent"}
    store.note("m", note, parked=True, keep=60)
    store.note("counted", note, parked=False, keep=60)
    assert found.counts(0.0) == {("f", "permanent"): 1}
    store.settle("m")
    assert found.counts(59.0) == {("f", "permanent"): 1}
    assert store.reads == 1
    assert found.counts(61.0) == {("f", "permanent"): 1}, "it was away"
    assert dict(found.counts(200.0)) == {("f", "permanent"): 0}


def test_store_that_nothing_uses_is_not_read() -> None:
    found = Parkings()
    found.add(MemoryStore())
    found.add(5)
    assert found.counts(0.0) == {}
    assert parkings is not found


@pytest.mark.parametrize("how", ["reload", "watch"])
def test_refused_reloads_are_counted(seen: Seen, tmp_path: Path, how: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("version: 1\npolicies: {default: {attempts: 2}}\n", "utf-8")
    book = load_policies(path)

    def refused() -> float:
        metric = seen.metrics().get("iii.policy.reloads.refused")
        return 0 if metric is None else metric.total()

    @iii_retry(idempotent=True)
    def makes_the_instruments() -> None: ...

    makes_the_instruments()
    before = refused()
    path.write_text("version: 1\npolicies: {default: {attempts: 0}}\n", "utf-8")
    if how == "reload":
        with pytest.raises(ConfigError):
            book.reload()
    else:
        from support.waiting import until

        with book.watch(every=0.02):
            until(lambda: refused() > before)
    assert refused() == before + 1


def test_bulkhead_shows_who_is_inside(seen: Seen) -> None:
    bulkhead = Bulkhead(limit=2)
    inside: list[float] = []

    @iii_retry(idempotent=True, policy=RetryPolicy(bulkhead=bulkhead))
    def occupies() -> None:
        name = next(
            p.attributes["iii.function.id"]
            for p in seen.metrics()["iii.bulkhead.in_use"].points
            if "occupies" in p.attributes["iii.function.id"]
        )
        inside.append(seen.metrics()["iii.bulkhead.in_use"].total(iii__function__id=name))

    @iii_retry(idempotent=True)
    def makes_the_instruments() -> None: ...

    makes_the_instruments()
    occupies()
    assert inside == [1]
