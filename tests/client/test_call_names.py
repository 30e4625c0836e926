"""Clients that have only ``trigger*``, only ``call*``, or both: everything works with each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.engine_fixtures import QUICK
from support.renamed_clients import NAMES, NEW, OLD, Renamed
from support.waiting import until

from iii_resilience import discover, ensure_queue, policies_from_engine, resilient
from iii_resilience.cli.dead_letter_queue import DeadLetterQueue, RedriveOutcome
from iii_resilience.client.resilient import Resilient
from iii_resilience.testing import LoopbackEngine

Make = Callable[..., Any]
Worker = Callable[..., Resilient]


@pytest.fixture(params=NAMES)
def client(request: pytest.FixtureRequest, connect: Make) -> Make:
    """Makes real SDK clients that have one of the sets of names."""
    return lambda name=None: Renamed(connect(name), request.param)


@pytest.fixture
def worker(client: Make) -> Iterator[Worker]:
    """Makes workers that serve `t::f`, kept registered."""
    made: list[Resilient] = []

    def make(name: str) -> Resilient:
        worker = resilient(client(name), policies=QUICK, keep_registered=True)
        made.append(worker)
        worker.register_function("t::f", lambda data: name)
        return worker

    yield make
    for worker in made:
        worker.shutdown()


def standing(worker: Resilient) -> tuple[str, str | None]:
    (found,) = worker.registrations()
    return found.state.value, found.owner


def test_clients_have_names_they_should(connect: Make) -> None:
    new, old = Renamed(connect(), NEW), Renamed(connect(), OLD)
    assert [hasattr(new, name) for name in ("call", "call_async", "trigger", "trigger_async")] == [
        True,
        True,
        False,
        False,
    ]
    assert hasattr(old, "trigger_async")
    assert not hasattr(old, "call_async")


async def test_calls_go_through(engine: LoopbackEngine, worker: Worker, client: Make) -> None:
    worker("first")
    with resilient(client("caller"), policies=QUICK) as caller:
        request = {"function_id": "t::f", "payload": {}}
        assert caller.trigger(request) == caller.call(request) == "first"
        assert await caller.trigger_async(request) == "first"
        assert await caller.call_async(request) == "first"


def test_keeper_takes_over(engine: LoopbackEngine, worker: Worker) -> None:
    first = worker("first")
    until(lambda: standing(first) == ("owner", "first"))
    second = worker("second")
    until(lambda: standing(second) == ("standby", "first"))
    first.shutdown()
    until(lambda: standing(second) == ("owner", "second"))


def test_standby_takes_over_from_drained_worker(engine: LoopbackEngine, worker: Worker) -> None:
    first = worker("first")
    until(lambda: standing(first) == ("owner", "first"))
    second = worker("second")
    until(lambda: "second" in first._handlers._standby._others)
    assert first.drain(5).handed_over == {"t::f": "second"}
    until(lambda: standing(second) == ("owner", "second"))


def test_registrations_are_looked_up_without_keeper(engine: LoopbackEngine, client: Make) -> None:
    with resilient(client("alone")) as alone:
        alone.register_function("t::f", lambda data: 1)
        engine.wait_registered("t::f")
        assert standing(alone) == ("owner", "alone")
        assert alone.health().silent_for is None


def test_discover_finds_owner(engine: LoopbackEngine, worker: Worker, client: Make) -> None:
    worker("first")
    assert discover(client(), "t::f", timeout=10).owner == "first"
    assert discover(client(), "t::G", timeout=0, near=True).near == ("t::f",)


def test_queue_is_defined(engine: LoopbackEngine, client: Make) -> None:
    assert ensure_queue(client(), "jobs", settle=0)
    assert not ensure_queue(client(), "jobs")


def test_policies_come_from_engine(engine: LoopbackEngine, client: Make) -> None:
    assert "default" in policies_from_engine(client(), "names").policy_set.policies


def test_dead_letters_are_redriven(engine: LoopbackEngine, client: Make) -> None:
    asker = client("asker")
    broken = True

    def handler(data: Any) -> None:
        if broken:
            raise ValueError("broken")

    asker.register_function("jobs::do", handler)
    engine.define_queue("jobs", max_retries=0, backoff_ms=1)
    engine.wait_registered("jobs::do")
    with resilient(client("sender"), policies=QUICK) as sender:
        action = {"type": "enqueue", "queue": "jobs"}
        sender.trigger({"function_id": "jobs::do", "payload": {"n": 1}, "action": action})
    engine.wait_queue_idle("jobs")
    dead = DeadLetterQueue(asker, "jobs", None)
    letters = dead.letters()
    assert len(letters) == 1
    broken = False
    assert [one.fate for one in dead.redrive(letters)] == [RedriveOutcome.DONE]
    engine.wait_queue_idle("jobs")
    assert dead.letters() == []
