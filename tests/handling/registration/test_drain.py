"""Leaving: who takes over, what still runs, and how a process ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.engine_fixtures import QUICK
from support.patience import LEAVING, PATIENCE
from support.waiting import until

from iii_resilience import resilient
from iii_resilience.client.resilient import Resilient
from iii_resilience.handling.registration.keeper import keeper
from iii_resilience.testing import LoopbackEngine

Worker = Callable[..., Resilient]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in LEAVING:
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def worker(connect: Callable[..., Any]) -> Iterator[Worker]:
    made: list[Resilient] = []

    def make(name: str, *more: str, **options: Any) -> Resilient:
        client = resilient(connect(name), **{"keep_registered": True, **options})
        made.append(client)
        for function_id in ("t::f", *more):
            client.register_function(function_id, lambda data: name)
        return client

    yield make
    for client in made:
        client.shutdown()
    until(lambda: keeper()._thread is None)


def states(client: Resilient) -> set[str]:
    return {r.state.value for r in client.registrations()}


def call(client: Any, function_id: str = "t::f") -> Any:
    return client.trigger({"function_id": function_id, "payload": {}, "timeout_ms": 60_000})


def knows(owner: Resilient, standby: str) -> bool:
    return standby in owner._handlers._standby._others


class TestHandOver:
    def test_standby_takes_over_at_once(
        self, engine: LoopbackEngine, worker: Worker, target: Any
    ) -> None:
        first = worker("first")
        until(lambda: states(first) == {"owner"})
        second = worker("second")
        until(lambda: knows(first, "second"))
        before = len(engine.frames)
        drained = first.drain(PATIENCE)
        assert drained.handed_over == {"t::f": "second"}
        assert drained.unfinished == ()
        assert call(target) == "second"
        sent = [
            (f.conn, f.message["type"], f.message.get("result"))
            for f in engine.frames[before:]
            if f.direction == "to-engine"
        ]
        # It registers before it answers that it has taken over: not with its next poll.
        gone = sent.index(("first", "unregisterfunction", None))
        back = sent.index(("second", "registerfunction", None))
        told = sent.index(("second", "invocationresult", {"took_over": ["t::f"]}))
        assert gone < back < told
        assert first.get_connection_state() == "disconnected"
        until(lambda: states(second) == {"owner"})

    def test_so_it_is_with_a_hundred_functions(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        more = [f"t::f{number}" for number in range(100)]
        first = worker("first", *more)
        engine.wait_registered(*more)
        second = worker("second", *more)
        until(lambda: states(second) == {"standby"})
        until(lambda: len(first._handlers._standby._others.get("second", [[]])[0]) == 101)
        drained = first.drain(PATIENCE)
        assert set(drained.handed_over) == {"t::f", *more}
        assert all(engine.registered(function_id) for function_id in more)

    def test_one_that_has_gone_is_passed_over(self, worker: Worker) -> None:
        first = worker("first")
        until(lambda: states(first) == {"owner"})
        second = worker("second")
        until(lambda: knows(first, "second"))
        third = worker("third")
        until(lambda: knows(first, "third"))
        third.shutdown()
        assert first.drain(PATIENCE).handed_over == {"t::f": "second"}
        second.shutdown()

    def test_without_standby_it_just_leaves(self, engine: LoopbackEngine, worker: Worker) -> None:
        only = worker("only")
        engine.wait_registered("t::f")
        assert only.drain(5).handed_over == {}
        assert not engine.registered("t::f")

    def test_what_is_drained_is_not_registered_again(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        only = worker("only")
        until(lambda: states(only) == {"owner"})
        only.drain(5)
        time.sleep(1.5)
        assert not engine.registered("t::f")
        assert only.drain(5).seconds == 0.0  # once is enough
        assert only.registrations() == ()


class TestRunningHandlers:
    def test_they_end_and_are_answered_first(
        self, engine: LoopbackEngine, worker: Worker, target: Any
    ) -> None:
        started = threading.Event()

        def slow(data: Any) -> str:
            started.set()
            time.sleep(0.5)
            return "done"

        mine = worker("mine")
        mine.register_function("t::slow", slow)
        engine.wait_registered("t::slow")
        answers: list[Any] = []
        caller = threading.Thread(target=lambda: answers.append(call(target, "t::slow")))
        caller.start()
        assert started.wait(PATIENCE)
        assert mine.drain(PATIENCE).unfinished == ()
        caller.join(PATIENCE)
        assert answers == ["done"]

    @pytest.mark.parametrize("coroutine", [False, True])
    def test_those_that_do_not_are_reported_by_function_id(
        self, engine: LoopbackEngine, worker: Worker, target: Any, coroutine: bool
    ) -> None:
        started, end = threading.Event(), threading.Event()

        def plain(data: Any) -> None:
            started.set()
            end.wait(120)

        async def asynchronous(data: Any) -> None:
            started.set()
            await asyncio.sleep(120)

        mine = worker("mine")
        mine.register_function("t::stuck", asynchronous if coroutine else plain)
        engine.wait_registered("t::stuck")
        target.trigger({"function_id": "t::stuck", "payload": {}, "action": {"type": "void"}})
        assert started.wait(PATIENCE)
        drained = mine.drain(0.3)
        end.set()
        assert drained.unfinished == ("t::stuck",)

    def test_calls_in_flight_are_answered_after_release(
        self, engine: LoopbackEngine, worker: Worker, target: Any
    ) -> None:
        """Fifty callers, one hand-over: nobody hears that the function is not there."""
        first = worker("first")
        until(lambda: states(first) == {"owner"})
        worker("second")
        until(lambda: knows(first, "second"))
        answers: list[Any] = []
        stop = threading.Event()

        def calling() -> None:
            while not stop.is_set():
                try:
                    answers.append(call(target))
                except Exception as error:
                    answers.append(error)

        callers = [threading.Thread(target=calling) for _ in range(8)]
        for caller in callers:
            caller.start()
        until(lambda: len(answers) > 50)
        first.drain(PATIENCE)
        more = answers.count("second") + 50
        until(lambda: answers.count("second") > more)
        stop.set()
        for caller in callers:
            caller.join(PATIENCE)
        failed = [answer for answer in answers if isinstance(answer, Exception)]
        # The engine refuses what comes in the milliseconds between two owners; nothing else fails.
        assert {str(error).partition(":")[0] for error in failed} <= {"function_not_found"}
        assert all("not found in namespace" in str(error) for error in failed)


class TestWhereItIsCalled:
    async def test_from_coroutine(self, worker: Worker) -> None:
        mine = worker("mine")
        drained = await mine.drain_async(5)
        assert drained.unfinished == ()

    def test_on_sdk_thread_it_is_refused_and_coroutine_works(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        mine = worker("mine")
        engine.wait_registered("t::f")

        async def there() -> str:
            with pytest.raises(RuntimeError, match="drain_async"):
                mine.drain(1)
            return "refused"

        done = asyncio.run_coroutine_threadsafe(there(), mine._loop)
        assert done.result(PATIENCE) == "refused"

    def test_after_shutdown_there_is_nothing_left_to_drain(self, worker: Worker) -> None:
        mine = worker("mine")
        mine.shutdown()
        assert mine.drain(5).seconds == 0.0


class TestFork:
    def test_forked_child_has_keeper_of_its_own(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        mine = worker("mine")
        until(lambda: states(mine) == {"owner"})
        program = """
            import os, sys, time
            from iii import InitOptions, register_worker
            from iii_resilience import resilient
            from iii_resilience.handling.registration.keeper import keeper

            def connect(name):
                options = InitOptions(worker_name=name, otel={"enabled": False})
                return resilient(register_worker(sys.argv[1], options), keep_registered=True)

            def wait(true):
                end = time.monotonic() + 20
                while not true():
                    assert time.monotonic() < end
                    time.sleep(0.01)

            parent = connect("parent")
            parent.register_function("t::parent", lambda data: 1)
            wait(lambda: parent.registrations()[0].state == "owner")
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    assert keeper()._thread is None
                    for use in (parent.registrations, parent.health, parent.drain):
                        try:
                            use()
                        except RuntimeError as error:
                            assert "belongs to the parent process" in str(error)
                        else:
                            raise AssertionError(use)
                    child = connect("child")
                    child.register_function("t::f", lambda data: 2)
                    wait(lambda: child.registrations()[0].state == "standby")
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
            wait(lambda: parent.registrations()[0].state == "owner")
            parent.shutdown()
            print("fine")
        """
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program), engine.url],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert ran.stdout == "fine\n", ran.stderr


class TestHealth:
    def test_it_tells_how_worker_fares(
        self, engine: LoopbackEngine, worker: Worker, target: Any
    ) -> None:
        before = time.time()
        started, end = threading.Event(), threading.Event()

        def slow(data: Any) -> None:
            started.set()
            end.wait(120)

        mine = worker("mine")
        mine.register_function("t::slow", slow)
        until(lambda: states(mine) == {"owner"})
        for function_id in ("t::slow", "t::slow"):
            target.trigger({"function_id": function_id, "payload": {}, "action": {"type": "void"}})
        assert started.wait(PATIENCE)
        until(lambda: mine.health().in_flight == 2)
        health = mine.health()
        assert health.connected
        assert health.connected_since is not None
        assert before <= health.connected_since <= time.time()
        assert {r.id for r in health.registrations} == {"t::f", "t::slow"}
        assert health.oldest is not None
        assert health.oldest.function_id == "t::slow"
        assert health.oldest.seconds > 0
        assert health.zombie is None
        end.set()
        until(lambda: mine.health().in_flight == 0)
        assert mine.health().oldest is None

    @pytest.mark.parametrize("kept", [True, False])
    def test_engine_that_answers_nothing_is_suspected(
        self, engine: LoopbackEngine, worker: Worker, kept: bool
    ) -> None:
        mine = worker("mine", keep_registered=kept)
        until(lambda: states(mine) == {"owner"})
        engine.stall("mine")
        until(lambda: (mine.health(zombie_after=1.0).zombie or "").startswith("the engine has not"))
        engine.resume()
        until(lambda: mine.health(zombie_after=1.0).zombie is None)

    def test_worker_that_serves_nothing_has_health_too(self, connect: Callable[..., Any]) -> None:
        client = resilient(connect("caller"), policies=QUICK)
        assert client.health().connected
        assert client.health().silent_for is None
        client.shutdown()
        health = client.health()
        assert not health.connected
        assert health.connected_since is None

    def test_worker_that_ended_knows_nothing_of_owners(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        mine = worker("mine")
        until(lambda: states(mine) == {"owner"})
        mine.shutdown()
        assert states(mine) == {"unknown"}
        (told,) = mine.registrations()
        assert (told.owner, told.code) == (None, "NOT_CONNECTED")

    def test_engine_that_is_gone_shows(self, engine: LoopbackEngine, worker: Worker) -> None:
        mine = worker("mine", keep_registered=False)
        engine.stop_listening()
        until(lambda: not mine.health().connected)
        assert states(mine) == {"unknown"}
        assert mine.health().zombie is None
        engine.listen()
        until(lambda: mine.health().connected)
        until(lambda: states(mine) == {"owner"})
