"""Kept registrations: who owns what, who takes over, and what it costs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.engine_fixtures import QUICK
from support.telemetry_fixtures import Seen
from support.waiting import until

from iii_resilience import NotConnectedError, resilient
from iii_resilience.client.resilient import Resilient
from iii_resilience.handling import Registration, RegistrationState
from iii_resilience.handling.registration.keeper import keeper
from iii_resilience.testing import AnswerError, AnswerResult, Drop, LoopbackEngine

# Ten times what it takes on a machine with nothing else to do.
SOON = 15.0
INFO = "engine::functions::info"

Worker = Callable[..., Resilient]


@pytest.fixture
def worker(connect: Callable[..., Any]) -> Iterator[Worker]:
    """Makes workers that serve `t::f`, and whatever else is asked for, kept registered."""
    made: list[Resilient] = []

    def make(name: str, *more: str, **options: Any) -> Resilient:
        options = {"keep_registered": True, "policies": QUICK, **options}
        client = resilient(connect(name), **options)
        made.append(client)
        for function_id in ("t::f", *more):
            client.register_function(function_id, lambda data: name)
        return client

    yield make
    for client in made:
        client.shutdown()
    until(lambda: keeper()._thread is None)


def standing(client: Resilient, function_id: str = "t::f") -> tuple[str, str | None]:
    (found,) = [r for r in client.registrations() if r.id == function_id]
    return found.state.value, found.owner


def owner_and_standby(worker: Worker) -> tuple[Resilient, Resilient]:
    """Two workers: whose registration the engine sees first is left to their threads otherwise."""
    first = worker("first")
    until(lambda: standing(first) == ("owner", "first"))
    second = worker("second")
    until(lambda: standing(second) == ("standby", "first"))
    return first, second


def call(client: Any, function_id: str = "t::f") -> Any:
    return client.trigger({"function_id": function_id, "payload": {}, "timeout_ms": 60_000})


class TestStandby:
    def test_second_worker_takes_over_when_first_is_gone(
        self, engine: LoopbackEngine, worker: Worker, target: Any
    ) -> None:
        first = worker("first")
        until(lambda: standing(first) == ("owner", "first"))
        second = worker("second")
        until(lambda: standing(second) == ("standby", "first"))
        assert call(target) == "first"
        first.shutdown()
        until(lambda: standing(second) == ("owner", "second"))
        assert call(target) == "second"
        again = worker("first")
        until(lambda: standing(again) == ("standby", "second"))

    def test_without_keeper_function_is_gone_for_good(
        self, engine: LoopbackEngine, worker: Worker, target: Any
    ) -> None:
        first = worker("first", keep_registered=False)
        engine.wait_registered("t::f")
        second = worker("second", keep_registered=False)
        until(lambda: standing(second) == ("standby", "first"))
        first.shutdown()
        until(lambda: standing(second)[0] == "missing")
        time.sleep(1.5)
        assert not engine.registered("t::f")

    def test_living_owner_keeps_its_function(self, engine: LoopbackEngine, worker: Worker) -> None:
        first = worker("first", keep_registered=False)
        engine.wait_registered("t::f")
        second = worker("second")
        until(lambda: standing(second) == ("standby", "first"))
        until(lambda: second.registrations()[0].code is not None)  # the rejection comes by itself
        (told,) = second.registrations()
        assert (told.code, told.remedy) == ("FUNCTION_NAMESPACE_CONFLICT", None)
        before = len(registrations_of(engine, "second", "t::f"))
        time.sleep(2.5)
        assert len(registrations_of(engine, "second", "t::f")) == before == 1
        assert standing(first) == ("owner", "first")

    def test_owned_functions_stay_and_orphans_are_taken(
        self, engine: LoopbackEngine, worker: Worker, target: Any
    ) -> None:
        target.register_function("t::theirs", lambda data: "target")
        engine.wait_registered("t::theirs")
        mine = worker("mine", "t::theirs")
        until(lambda: standing(mine, "t::theirs") == ("standby", "target"))
        until(lambda: standing(mine) == ("owner", "mine"))

    def test_a_second_registration_of_id_changes_nothing(self, worker: Worker) -> None:
        mine = worker("mine")
        with pytest.raises(ValueError, match="already registered"):
            mine.register_function("t::f", lambda data: 2)
        with pytest.raises(TypeError):
            mine.register_function("t::g", "no handler")
        assert [r.id for r in mine.registrations()] == ["t::f"]
        with pytest.raises(ValueError, match="validation error"):
            mine.register_trigger({"nonsense": 1})
        assert [r.kind for r in mine.registrations()] == ["function"]

    def test_after_shutdown_nothing_is_registered(self, worker: Worker) -> None:
        mine = worker("mine")
        mine.shutdown()
        with pytest.raises(NotConnectedError, match="was shut down"):
            mine.register_function("t::g", lambda data: 1)
        with pytest.raises(NotConnectedError, match="was shut down"):
            mine.register_trigger({"type": "x", "function_id": "t::f", "config": {}})

    def test_two_wrappers_of_one_client_do_not_interfere(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        mine = worker("mine")
        other = resilient(mine._connection.client._client, keep_registered=True)
        other.register_function("t::g", lambda data: 1)
        until(lambda: standing(other, "t::g")[0] == standing(mine)[0] == "owner")
        other._handlers.stop_keeping()

    def test_unregistered_for_good_is_not_registered_again(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        mine = worker("mine")
        reference = mine.register_function("t::g", lambda data: 1)
        assert reference.id == "t::g"
        until(lambda: standing(mine, "t::g")[0] == "owner")
        reference.unregister()
        time.sleep(1.5)
        assert not engine.registered("t::g")
        assert [r.id for r in mine.registrations()] == ["t::f"]
        mine.register_function("t::g", lambda data: 2)
        until(lambda: standing(mine, "t::g")[0] == "owner")

    def test_reference_stays_good_over_registration_made_again(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        first, second = worker("first"), worker("second", keep_registered=True)
        reference = second.register_function("t::g", lambda data: 1)
        until(lambda: standing(second, "t::g")[0] == "owner")
        for entry in second._handlers._served.functions():
            second._handlers._served.again(entry)
        reference.unregister()
        until(lambda: not engine.registered("t::g"))
        assert repr(reference).startswith("resilient(FunctionRef(")
        first.shutdown()

    def test_after_engine_restart_each_function_has_owner(
        self, engine: LoopbackEngine, worker: Worker, target: Any
    ) -> None:
        first, second = owner_and_standby(worker)
        engine.stop_listening()
        until(lambda: standing(first)[0] == "unknown")
        (told,) = first.registrations()
        assert told.code == "NOT_CONNECTED"
        assert told.remedy is not None
        engine.listen()
        until(lambda: {standing(first)[0], standing(second)[0]} == {"owner", "standby"})
        until(lambda: engine.registered("t::f"))

    def test_worker_that_owned_many_functions_is_missed_at_once(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        more = [f"t::f{number}" for number in range(150)]
        first = worker("first", *more)
        engine.wait_registered(*more)
        second = worker("second", *more)
        until(lambda: standing(second, more[-1])[0] == "standby")
        first.shutdown()  # without a word to anybody
        since = time.monotonic()
        until(lambda: all(engine.registered(function_id) for function_id in ("t::f", *more)))
        assert time.monotonic() - since < SOON
        until(lambda: all(r.state is RegistrationState.OWNER for r in second.registrations()))

    def test_what_a_worker_alone_gave_up_is_found_in_its_turn(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        more = [f"t::f{number}" for number in range(70)]
        first = resilient_without_keeper(worker, more)
        engine.wait_registered(*more)
        second = worker("second", *more)
        until(lambda: standing(second, more[5])[0] == "standby")
        first[more[5]].unregister()
        until(lambda: engine.registered(more[5]))
        assert standing(second, more[6])[0] == "standby"


def resilient_without_keeper(worker: Worker, ids: list[str]) -> dict[str, Any]:
    client = worker("first", keep_registered=False)
    return {i: client.register_function(i, lambda data: 1) for i in ids}


def registrations_of(engine: LoopbackEngine, name: str, function_id: str) -> list[Any]:
    return [
        frame
        for frame in engine.frames
        if frame.conn == name
        and frame.message["type"] == "registerfunction"
        and frame.message["id"] == function_id
    ]


class TestTriggers:
    TRIGGER = {  # noqa: RUF012 - a constant
        "type": "configuration",
        "function_id": "t::f",
        "config": {"configuration_id": "c"},
    }

    def of(self, client: Resilient) -> Registration:
        (found,) = [r for r in client.registrations() if r.kind == "trigger"]
        return found

    def test_owner_registers_them_and_standby_at_takeover(
        self, engine: LoopbackEngine, worker: Worker, target: Any
    ) -> None:
        first, second = owner_and_standby(worker)
        first.register_trigger(self.TRIGGER)
        until(lambda: self.of(first).state is RegistrationState.OWNER)
        second.register_trigger(self.TRIGGER)
        until(lambda: self.of(second).state is RegistrationState.STANDBY)
        assert (self.of(second).id, self.of(second).owner) == ("", "first")
        first.shutdown()
        until(lambda: standing(second)[0] == "owner")
        until(lambda: self.of(second).state is RegistrationState.OWNER)
        info = target.trigger(
            {"function_id": "engine::functions::info", "payload": {"function_id": "t::f"}}
        )
        assert [t["id"] for t in info["registered_triggers"]] == [self.of(second).id]

    def test_one_that_is_refused_says_so_with_code_and_remedy(self, worker: Worker) -> None:
        mine = worker("mine")
        mine.register_trigger({**self.TRIGGER, "config": 5})
        until(lambda: self.of(mine).state is RegistrationState.REJECTED)
        told = self.of(mine)
        assert told.code == "trigger_registration_failed"
        assert told.remedy
        assert (told.function_id, told.trigger_type) == ("t::f", "configuration")

    def test_one_that_nobody_provides_is_missing(self, worker: Worker) -> None:
        mine = worker("mine")
        reference = mine.register_trigger({**self.TRIGGER, "type": "nobody", "config": {}})
        until(lambda: self.of(mine).state is RegistrationState.MISSING)
        assert self.of(mine).remedy == "start the worker that provides triggers of this type"
        reference.unregister()
        assert [r.kind for r in mine.registrations()] == ["function"]


class TestEngineThatDoesNotAnswer:
    def test_engine_that_forbids_check_is_warned_of_once(
        self, engine: LoopbackEngine, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine.forbid("engine::functions::info")
        mine = worker("mine")
        until(lambda: engine.calls("engine::functions::info"))
        time.sleep(2.5)
        warnings = [r for r in caplog.records if "not kept registered" in r.getMessage()]
        assert len(warnings) == 1
        assert "FORBIDDEN" in warnings[0].getMessage()
        assert len(engine.calls("engine::functions::info")) == 1
        assert standing(mine)[0] == "unknown"

    def test_one_that_answers_otherwise_too(
        self, engine: LoopbackEngine, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine.inject(
            "engine::functions::info",
            AnswerError("deserialization_error", "missing field `function_id`"),
            times=None,
        )
        worker("mine")
        until(lambda: [r for r in caplog.records if "not kept registered" in r.getMessage()])

    def test_one_that_is_only_slow_is_asked_again(
        self, engine: LoopbackEngine, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine.inject("engine::functions::info", AnswerError("TIMEOUT", "t"), times=2)
        mine = worker("mine")
        until(lambda: standing(mine)[0] == "owner")
        assert not [r for r in caplog.records if "not kept registered" in r.getMessage()]

    def test_ignored_registrations_are_repeated_with_backoff(
        self, engine: LoopbackEngine, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        nobody = {"functions": [{"function_id": "t::f", "error": "not_found"}]}
        engine.inject("engine::functions::info", AnswerResult(nobody), times=None)
        mine = worker("mine")
        until(lambda: [r for r in caplog.records if "several times" in r.getMessage()])
        assert standing(mine)[0] == "missing"
        before = len(registrations_of(engine, "mine", "t::f"))
        time.sleep(2)
        assert len(registrations_of(engine, "mine", "t::f")) <= before + 2


class TestWhatIsSeen:
    def test_each_change_is_logged_and_counted(
        self, engine: LoopbackEngine, worker: Worker, caplog: pytest.LogCaptureFixture, seen: Seen
    ) -> None:
        caplog.set_level(logging.INFO, logger="iii_resilience")
        first = worker("first", keep_registered=False)
        engine.wait_registered("t::f")
        second = worker("second")
        until(lambda: standing(second)[0] == "standby")
        first.shutdown()
        until(lambda: standing(second)[0] == "owner")

        def told() -> list[tuple[Any, Any, Any]]:
            return [
                (r.iii_was, r.iii_state, r.iii_owner)  # type: ignore[attr-defined]
                for r in caplog.records
                if hasattr(r, "iii_was") and r.iii_function_id == "t::f"  # type: ignore[attr-defined]
            ]

        until(lambda: len(told()) >= 3)  # a change is told after it can be seen
        changes = told()
        assert changes == [
            ("unknown", "standby", changes[0][2]),
            ("standby", "missing", None),
            ("missing", "owner", "second"),
        ]
        metric = seen.metrics()["iii.worker.registration.transitions"]
        points = {p.attributes["iii.registration.state"]: p.value for p in metric.points}
        assert points == {"standby": 1, "missing": 1, "owner": 1}

    def test_since_when_it_stands_so_is_told(self, worker: Worker) -> None:
        before = time.time()
        mine = worker("mine")
        until(lambda: standing(mine)[0] == "owner")
        (told,) = mine.registrations()
        assert before <= told.since <= time.time()


def settled(engine: LoopbackEngine) -> int:
    """How many frames have passed when a worker has said what it has to say at its start."""
    count = -1
    while count != (count := len(engine.frames)):
        time.sleep(0.5)
    return count


class TestCost:
    def test_nothing_is_sent_where_nothing_is_kept(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        worker("mine", keep_registered=False)
        engine.wait_registered("t::f")
        before = settled(engine)
        time.sleep(2)
        assert len(engine.frames) == before
        assert keeper()._thread is None

    def test_client_that_serves_nothing_costs_nothing(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        client = resilient(connect("caller"), keep_registered=True)
        before = settled(engine)
        time.sleep(1.5)
        assert len(engine.frames) == before
        client.shutdown()

    def test_about_one_question_a_second_however_many_functions(
        self, engine: LoopbackEngine, worker: Worker
    ) -> None:
        mine = worker("mine", *(f"t::f{number}" for number in range(300)))
        until(lambda: standing(mine, "t::f299")[0] == "owner")
        # Right after its registration each function is looked at, as fast as the engine answers.
        until(lambda: not mine._handlers._kept.rounds.has_urgent)
        before = len(engine.calls(INFO))
        engine.wait_calls(INFO, before + 5, timeout=60)
        asked = engine.calls(INFO)[before : before + 5]
        assert asked[4].at - asked[0].at > 1.6  # one, or two, may still belong to those
        assert max(len(question.data["function_ids"]) for question in asked) <= 32

    def test_one_thread_for_all_clients_that_ends_with_last(self, worker: Worker) -> None:
        first, second = owner_and_standby(worker)

        def threads() -> list[threading.Thread]:
            return [t for t in threading.enumerate() if t.name == "iii-resilience keeper"]

        assert len(threads()) == 1
        assert threads()[0].daemon
        first.shutdown()
        until(lambda: standing(second)[0] == "owner")
        second.shutdown()
        until(lambda: not threads())


class TestNoAnswer:
    """Whatever the reason is, a keeper that keeps nothing registered says so in the log, once."""

    @staticmethod
    def told(caplog: pytest.LogCaptureFixture) -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        return [text for text in messages if text.startswith("functions are not kept registered")]

    @pytest.mark.parametrize("code", ["something_new", "invalid_request"])
    def test_error_that_may_pass_is_logged_and_asked_again(
        self, engine: LoopbackEngine, worker: Worker, caplog: pytest.LogCaptureFixture, code: str
    ) -> None:
        engine.inject(INFO, AnswerError(code, "no"), times=None)
        with caplog.at_level(logging.WARNING, "iii_resilience"):
            mine = worker("mine")
            until(lambda: len(engine.calls(INFO)) >= 3)
        (text,) = self.told(caplog)
        assert f"({code}); the check is repeated" in text
        assert standing(mine)[0] == "unknown"
        engine.clear_faults(INFO)
        until(lambda: standing(mine) == ("owner", "mine"))

    def test_silence_is_logged(
        self,
        engine: LoopbackEngine,
        worker: Worker,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("iii_resilience.handling.registration.keeper._SILENT_AFTER", 0.5)
        engine.inject(INFO, Drop(), times=None)
        with caplog.at_level(logging.WARNING, "iii_resilience"):
            worker("mine")
            until(lambda: len(engine.calls(INFO)) >= 3)
        (text,) = self.told(caplog)
        assert "(TIMEOUT)" in text

    def test_client_that_cannot_be_called_is_logged(
        self, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As a client was that has other names for a call than those the keeper used."""

        async def fails(request: Any) -> Any:
            raise AttributeError("trigger_async")

        with caplog.at_level(logging.WARNING, "iii_resilience"):
            mine = worker("mine")
            until(lambda: standing(mine) == ("owner", "mine"))
            mine._connection.client.call_async = fails
            until(lambda: self.told(caplog))
        assert "(AttributeError)" in self.told(caplog)[0]
