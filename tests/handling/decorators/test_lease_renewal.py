"""Leases are renewed together, or beside one another; a thread that cannot start is no promise."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.redis_fixtures import needs_redis

from iii_resilience import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.handling import idempotent
from iii_resilience.handling.decorators.lease_renewal import LeaseRenewer
from iii_resilience.stores import MemoryStore, RedisStore, SqliteStore, State, Store
from iii_resilience.stores.protocol import Renewal, digest

KEEP = 3600.0


class Distant(MemoryStore):
    """A user's own store, on a slow network, without `renew_many`."""

    blocking = True

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def renew(self, slot: str, token: int, *, lease: float, keep: float) -> bool:
        time.sleep(self.seconds)
        return super().renew(slot, token, lease=lease, keep=keep)


class Together(MemoryStore):
    """A store that renews in one round trip."""

    blocking = True

    def __init__(self) -> None:
        super().__init__()
        self.trips: list[int] = []

    def renew(self, slot: str, token: int, *, lease: float, keep: float) -> bool:
        raise AssertionError("one by one")

    def renew_many(self, renewals: Sequence[Renewal]) -> list[bool]:
        self.trips.append(len(renewals))
        return [
            super(Together, self).renew(one.slot, one.token, lease=one.lease, keep=one.keep)
            for one in renewals
        ]


@pytest.fixture(autouse=True)
def _no_renewal_outlives_its_test() -> Iterator[None]:
    """A renewal that is still under way would warn in the next test."""
    yield
    until = time.monotonic() + 30
    while any(thread.name == "iii-resilience renewal" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


def claim(store: Store, slot: str, lease: float = KEEP, nonce: str = "") -> Any:
    return store.claim(
        slot, fingerprint="f", nonce=nonce or digest(time.monotonic_ns()), lease=lease, keep=KEEP
    )


def hold_all(store: Store, keys: int, lease: float, seconds: float) -> list[State]:
    """Hold so many leases for so long; how their keys are claimable at the end."""
    renewer = LeaseRenewer(store)
    slots = [f"k-{n}" for n in range(keys)]
    with ExitStack() as stack:
        for slot in slots:
            token = claim(store, slot, lease).token
            stack.enter_context(renewer.hold(slot, token, lease=lease, keep=KEEP))
        time.sleep(seconds)
        return [claim(store, slot).state for slot in slots]


def test_renewals_do_not_wait_for_one_another() -> None:
    """Twelve handlers, and a renewal that takes a fifth of a lease."""
    assert set(hold_all(Distant(0.4), 12, lease=2.0, seconds=4.0)) == {State.RUNNING}


def test_renewals_are_one_round_trip_where_store_can() -> None:
    store = Together()
    assert set(hold_all(store, 12, lease=1.5, seconds=2.5)) == {State.RUNNING}
    assert max(store.trips) == 12
    assert len(store.trips) <= 8


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=needs_redis)])
def test_many_leases_are_renewed_at_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store: Any
    if kind == "sqlite":
        store = SqliteStore(tmp_path / "store.db")
    else:
        store = RedisStore(request.getfixturevalue("redis_url"))
    tokens = [claim(store, f"k-{n}", lease=0.5).token for n in range(3)]
    store.finish("k-1", tokens[1], "1", keep=KEEP)
    renewals = [Renewal(f"k-{n}", token, KEEP, KEEP) for n, token in enumerate(tokens)]
    assert store.renew_many(renewals) == [True, False, True]
    time.sleep(0.6)
    assert [claim(store, f"k-{n}").state.value for n in range(3)] == ["running", "done", "running"]
    assert store.renew_many([]) == []
    store.close()


def test_lease_that_does_not_fit_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "iii_resilience"):
        hold_all(Distant(0.3), 3, lease=0.6, seconds=1.5)
    found = [r.getMessage() for r in caplog.records if "lease of at least" in r.getMessage()]
    assert len(found) == 1
    assert "a renewal took 0.3" in found[0]


def test_renewal_that_hangs_holds_up_no_other() -> None:
    class Hanging(Distant):
        def renew(self, slot: str, token: int, *, lease: float, keep: float) -> bool:
            if slot == "k-0":
                release.wait(30)
            return super().renew(slot, token, lease=lease, keep=keep)

    release = threading.Event()
    states = hold_all(Hanging(0.0), 5, lease=1.5, seconds=3.5)
    release.set()
    assert states == [State.CLAIMED] + [State.RUNNING] * 4


# Threads that cannot start.


class NoThreads:
    """Lets no thread start as long as it holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str = "") -> None:
        self.refuses = True
        start = threading.Thread.start

        def refused(thread: threading.Thread) -> None:
            if self.refuses and name in thread.name:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refused)


def test_failed_thread_start_is_tried_again_at_next_call(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    ran: list[Any] = []

    @idempotent(store, key="id", function_id="f", lease=0.6, wait=0.0)
    def handler(data: Any) -> str:
        ran.append(data)
        time.sleep(1.2)
        return "done"

    call: Any = handler
    threads = NoThreads(monkeypatch, "leases")
    with caplog.at_level(logging.WARNING, "iii_resilience"):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't start"):
                call({"id": 1})
    assert ran == []
    assert len([r for r in caplog.records if "no thread could be started" in r.getMessage()]) == 1
    threads.refuses = False
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, {"id": 1})
        time.sleep(0.9)  # past the lease that was claimed
        with pytest.raises(Exception, match="still running"):
            call({"id": 1})
        assert first.result(30) == "done"
    assert len(ran) == 1


def test_renewals_go_on_where_their_threads_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    NoThreads(monkeypatch, "renewal")
    assert set(hold_all(Distant(0.01), 3, lease=0.9, seconds=1.5)) == {State.RUNNING}


async def test_message_that_never_ran_has_no_failure_stored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = SqliteStore(tmp_path / "store.db")

    @idempotent(store, key="id", function_id="f")
    async def handler(data: Any) -> str:
        return "done"

    call: Any = handler
    threads = NoThreads(monkeypatch)
    with pytest.raises(RuntimeError) as caught:
        await call({"id": 1})
    assert classify(caught.value).category is Category.TRANSIENT
    threads.refuses = False
    assert await call({"id": 1}) == "done"
