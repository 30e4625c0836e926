"""Triggers belong to the owner of their function: takeover, loss, retries and warnings."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.real_sdk import needs
from support.waiting import until

from iii_resilience import resilient
from iii_resilience.client.resilient import Resilient
from iii_resilience.handling import Registration
from iii_resilience.handling.registration.keeper import keeper
from iii_resilience.handling.registration.trigger_types import DEFAULT, RULES, rule_of
from iii_resilience.testing import LoopbackEngine

pytestmark = needs((0, 23), "namespaces")

ROUTE = {"type": "http", "function_id": "t::f", "config": {"api_path": "/f"}}
Worker = Callable[..., Resilient]


@pytest.fixture
def worker(connect: Callable[..., Any]) -> Iterator[Worker]:
    made: list[Resilient] = []

    def make(name: str, *, keep_registered: bool = True) -> Resilient:
        client = resilient(connect(name), keep_registered=keep_registered)
        made.append(client)
        client.register_function("t::f", lambda data: {"body": name})
        # Which of two workers owns a function is decided by the one that connects first.
        until(lambda: client.registrations()[0].state.value in {"owner", "standby", "unknown"})
        if keep_registered and name != "mine":
            until(lambda: client.registrations()[0].state.value != "unknown")
        return client

    yield make
    for client in made:
        client.shutdown()
    until(lambda: keeper()._thread is None)


def trigger_of(client: Resilient) -> Registration:
    (found,) = [r for r in client.registrations() if r.kind == "trigger"]
    return found


def get(engine: LoopbackEngine) -> int:
    try:
        with urllib.request.urlopen(f"{engine.http_url}/f", timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def state(client: Resilient) -> str:
    return trigger_of(client).state.value


def frames(engine: LoopbackEngine, name: str, kind: str) -> list[dict[str, Any]]:
    return [f.message for f in engine.frames if f.conn == name and f.message["type"] == kind]


class TestOwner:
    def test_standby_registers_none_of_its_triggers(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        first, second = worker("first"), worker("second")
        first.register_trigger(ROUTE)
        until(lambda: state(first) == "owner")
        second.register_trigger(ROUTE)
        until(lambda: state(second) == "standby")
        assert frames(engine, "second", "registertrigger") == []
        second.drain(5)
        assert get(engine) == 200

    def test_standby_that_leaves_registers_none(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        """The keeper's thread may have had something to do for it just then."""
        first, second = worker("first"), worker("second")
        for client in (first, second):
            client.register_trigger(ROUTE)
        until(lambda: (state(first), state(second)) == ("owner", "standby"))
        handlers = second._handlers
        handlers.stop_keeping()
        function = handlers._served.function("t::f")
        assert function is not None
        handlers._served.give_up(function)
        handlers._kept.look_again(time.monotonic())
        handlers._kept.register_again(function)
        handlers._served.adopt("t::f", time.monotonic())
        assert [trigger.made for trigger in handlers._served.triggers()] == [False]

    def test_schedule_is_given_up_with_its_function_and_no_sooner(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        """What falls between is lost: functions are handed over 32 at a time."""
        mine = worker("mine")
        ids = [f"t::f{number}" for number in range(40)]
        for function_id in ids:
            mine.register_function(function_id, lambda data: data)
        engine.wait_registered(*ids)
        cron = {"type": "cron", "config": {"expression": "0 0 0 1 1 *"}}
        mine.register_trigger({**cron, "function_id": ids[-1]})
        until(lambda: state(mine) == "owner")
        mine.drain(5)
        kinds = ("unregisterfunction", "unregistertrigger")
        order = [
            f.message["type"]
            for f in engine.frames
            if f.conn == "mine" and f.message["type"] in kinds
        ]
        assert order.index("unregistertrigger") >= 32

    def test_lost_route_is_registered_again(self, engine: LoopbackEngine, worker: Worker) -> None:
        """A bare worker takes the route and leaves."""
        mine = worker("mine")
        mine.register_trigger(ROUTE)
        until(lambda: state(mine) == "owner")
        foreign = worker("foreign", keep_registered=False)
        foreign.register_trigger(ROUTE)

        def both_are_seen() -> bool:
            state(mine)
            return bool(mine._handlers._served.function("t::f").others)  # type: ignore[union-attr]

        until(both_are_seen)
        foreign.shutdown()
        until(lambda: get(engine) == 404 or state(mine) == "missing")
        until(lambda: get(engine) == 200)
        until(lambda: state(mine) == "owner")

    def test_trigger_of_remote_function_is_registered_at_once(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        mine = worker("mine")
        mine.register_trigger({**ROUTE, "function_id": "t::elsewhere"})
        until(lambda: bool(frames(engine, "mine", "registertrigger")))

    def test_engine_that_hides_owners_gets_every_trigger(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        engine.forbid("engine::functions::info")
        worker("mine").register_trigger(ROUTE)
        until(lambda: get(engine) == 200)

    def test_unregistered_for_good_it_does_not_come_back(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        mine = worker("mine")
        reference = mine.register_trigger(ROUTE)
        until(lambda: get(engine) == 200)
        reference.unregister()
        until(lambda: get(engine) == 404)
        mine._handlers._served.tend(1e9)
        assert [r.kind for r in mine.registrations()] == ["function"]

    def test_after_reconnection_it_is_registered_once(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        mine = worker("mine")
        mine.register_trigger(ROUTE)
        until(lambda: state(mine) == "owner")
        engine.restart(down_for=0.1)
        until(lambda: state(mine) == "owner" and get(engine) == 200)
        made = len(frames(engine, "mine", "registertrigger"))
        given_up = len(frames(engine, "mine", "unregistertrigger"))
        assert (made, given_up) == (2, 0)


class TestRetries:
    @needs((0, 25), "the warning")
    def test_one_that_raises_is_tried_until_it_stands(
        self, engine: LoopbackEngine, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = worker("first"), worker("second")
        for client in (first, second):
            client.register_trigger(ROUTE)
        until(lambda: state(second) == "standby")
        fails = iter([RuntimeError("no")] * 2)

        adapter = second._connection.client
        real = adapter.register_trigger

        def flaky(trigger: Any) -> Any:
            for error in fails:
                raise error
            return real(trigger)

        monkeypatch.setattr(adapter, "register_trigger", flaky)
        first.shutdown()
        until(lambda: trigger_of(second).remedy is not None and state(second) == "missing")
        until(lambda: "RuntimeError" in str(trigger_of(second).remedy) or get(engine) == 200)
        until(lambda: get(engine) == 200)
        until(lambda: state(second) == "owner")

    def test_refused_one_is_tried_again_and_stays_rejected(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        mine = worker("mine")
        mine.register_trigger({**ROUTE, "config": {}})
        until(lambda: state(mine) == "rejected")
        until(lambda: len(frames(engine, "mine", "registertrigger")) >= 2)
        until(lambda: state(mine) == "rejected")


@needs((0, 25), "no warning")
class TestDeprecationWarning:
    def test_it_points_at_line_of_user(self, worker: Worker) -> None:
        mine = worker("mine")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            mine.register_trigger(ROUTE)
        (warning,) = [w for w in caught if w.category is DeprecationWarning]
        assert warning.filename == __file__

    def test_as_error_it_is_raised_to_user_alone(self, engine: LoopbackEngine) -> None:
        """At a takeover the keeper's thread registers the trigger all the same."""
        program = textwrap.dedent(
            """
            import sys, time, warnings
            from iii import InitOptions, register_worker
            from iii_resilience import resilient
            warnings.simplefilter("error", DeprecationWarning)  # not for what is imported
            client = register_worker(
                sys.argv[1], InitOptions(worker_name="child", otel={"enabled": False})
            )
            worker = resilient(client, keep_registered=True)
            worker.register_function("t::f", lambda data: {"body": 1})
            route = {"type": "http", "function_id": "t::f", "config": {"api_path": "/f"}}
            try:
                worker.register_trigger(route)
            except DeprecationWarning:
                print("raised", flush=True)
            worker._handlers._served.add_trigger(route)  # as a filter for __main__ alone lets it
            sys.stdin.read()
            """
        )
        child = subprocess.Popen(
            [sys.executable, "-c", program, engine.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "raised\n"
            until(lambda: get(engine) == 200)
        finally:
            child.kill()
            child.communicate()


class TestRules:
    def test_each_row_says_why_and_where_it_was_observed(self) -> None:
        names = [rule.trigger_type for rule in RULES]
        assert len(names) == len(set(names))
        assert all(rule.why and rule.observed_on for rule in RULES)

    def test_type_without_row_belongs_to_owner(self) -> None:
        assert rule_of("a-user-made-it") is DEFAULT
        assert not DEFAULT.every_worker
        assert rule_of("durable:subscriber").every_worker
