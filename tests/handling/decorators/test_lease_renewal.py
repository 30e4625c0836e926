"""Leases are renewed together, or beside one another; a thread that cannot start is no promise."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.redis_fixtures import needs_redis
from support.waiting import until

from iii_resilience import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.handling import idempotent
from iii_resilience.handling.decorators.lease_renewal import LeaseRenewer
from iii_resilience.stores import MemoryStore, RedisStore, SqliteStore, State, Store
from iii_resilience.stores.protocol import Renewal, digest

KEEP = 3600.0


class Distant(MemoryStore):
    """A user's own store, on a slow network, without `renew_many`.

    Attributes:
        renewed: How often the lease of each slot was renewed.
    """

    blocking = True

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.renewed: Counter[str] = Counter()

    def renew(self, slot: str, token: int, *, lease: float, keep: float) -> bool:
        time.sleep(self.seconds)
        mine = super().renew(slot, token, lease=lease, keep=keep)
        self.renewed[slot] += mine
        return mine


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
    until(lambda: "iii-resilience renewal" not in {thread.name for thread in threading.enumerate()})


def claim(store: Store, slot: str, lease: float = KEEP, nonce: str = "") -> Any:
    return store.claim(
        slot, fingerprint="f", nonce=nonce or digest(time.monotonic_ns()), lease=lease, keep=KEEP
    )


@contextmanager
def held(store: Store, keys: int, lease: float) -> Iterator[list[str]]:
    """So many leases that are held and renewed; the slots."""
    renewer = LeaseRenewer(store)
    slots = [f"k-{n}" for n in range(keys)]
    with ExitStack() as stack:
        for slot in slots:
            token = claim(store, slot, lease).token
            stack.enter_context(renewer.hold(slot, token, lease=lease, keep=KEEP))
        yield slots


def states(store: Store, slots: list[str]) -> list[State]:
    """Whether these can be claimed."""
    return [claim(store, slot).state for slot in slots]


def test_renewals_do_not_wait_for_one_another() -> None:
    """Each of twelve goes on when all of them are under way."""

    class Meeting(Distant):
        meet = threading.Barrier(12, timeout=60)

        def renew(self, slot: str, token: int, *, lease: float, keep: float) -> bool:
            self.meet.wait()
            return super().renew(slot, token, lease=lease, keep=keep)

    store = Meeting()
    with held(store, 12, lease=3.0) as slots:
        until(lambda: min(store.renewed[slot] for slot in slots) >= 1)
        assert set(states(store, slots)) == {State.RUNNING}
        until(lambda: min(store.renewed[slot] for slot in slots) >= 2)
        store.meet.abort()


def test_renewals_are_one_round_trip_where_store_can() -> None:
    store = Together()
    with held(store, 12, lease=3.0) as slots:
        until(lambda: store.trips.count(12) >= 3)
        assert set(states(store, slots)) == {State.RUNNING}
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
    store = Distant(0.3)
    with caplog.at_level(logging.WARNING, "iii_resilience"), held(store, 3, lease=0.6) as slots:
        until(lambda: min(store.renewed[slot] for slot in slots) >= 3)
    found = [r.getMessage() for r in caplog.records if "lease of at least" in r.getMessage()]
    assert len(found) == 1
    took, advised = map(
        float, re.findall(r"a renewal took ([\d.]+) s.* at least ([\d.]+) s", found[0])[0]
    )
    assert took >= 0.3
    assert advised == pytest.approx(6 * took, rel=0.02)


def test_renewals_that_end_together_warn_once(caplog: pytest.LogCaptureFixture) -> None:
    both = threading.Barrier(2, timeout=1.0)

    class Seen(set[str]):
        """Two threads look at it before either adds to it, if they can."""

        def __contains__(self, text: object) -> bool:
            there = super().__contains__(text)
            with suppress(threading.BrokenBarrierError):
                both.wait()
            return there

    renewer = LeaseRenewer(MemoryStore())
    renewer._warned = Seen()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(renewer._warn_once, "a renewal took %s s", 1)
    assert [r.getMessage() for r in caplog.records if "renewal took" in r.getMessage()] == [
        "a renewal took 1 s"
    ]


def test_renewal_that_hangs_holds_up_no_other() -> None:
    class Hanging(Distant):
        def renew(self, slot: str, token: int, *, lease: float, keep: float) -> bool:
            if slot == "k-0":
                release.wait(120)
            return super().renew(slot, token, lease=lease, keep=keep)

    release, store = threading.Event(), Hanging()
    try:
        with held(store, 5, lease=3.0) as slots:
            until(lambda: claim(store, "k-0").state is State.CLAIMED)
            until(lambda: min(store.renewed[slot] for slot in slots[1:]) >= 3)
            assert states(store, slots) == [State.RUNNING] * 5  # the first one's is ours now
    finally:
        release.set()
    assert store.renewed["k-0"] == 0


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
    store = Distant()
    ran: list[Any] = []
    go_on = threading.Event()

    @idempotent(store, key="id", function_id="f", lease=1.5, wait=0.0)
    def handler(data: Any) -> str:
        ran.append(data)
        assert go_on.wait(120)
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
        try:
            until(lambda: store.renewed.total() >= 3)  # past the lease that was claimed
            with pytest.raises(Exception, match="still running"):
                call({"id": 1})
        finally:
            go_on.set()
        assert first.result(30) == "done"
    assert len(ran) == 1


def test_renewals_go_on_where_their_threads_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    NoThreads(monkeypatch, "renewal")
    store = Distant(0.01)
    with held(store, 3, lease=1.5) as slots:
        until(lambda: min(store.renewed[slot] for slot in slots) >= 3)
        assert set(states(store, slots)) == {State.RUNNING}


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
