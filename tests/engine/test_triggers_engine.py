"""Two workers with one trigger: what happens to it when one of them goes, and how.

Needs an engine with iii-http (`III_HTTP_URL`, where `III_URL` names a real engine) and iii-cron.
`III_LONG=1` runs each case ten times with the bounds of a machine with nothing else to do.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
from iii import InitOptions, register_worker
from support.real_sdk import InvocationError, needs
from support.waiting import until
from support.warm_process import WarmProcess

from iii_resilience.testing import LoopbackEngine

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400), needs((0, 23), "namespaces")]

PROGRAM = Path(__file__).with_name("trigger_program.py")
LONG = bool(os.environ.get("III_LONG"))
LOOSE = 1 if LONG else 5
AWAY = {"kill": 1.5, "cut": 1.5, "drain": 0.05, "shutdown": 0.05}
PATH = "/triggers-{}"
LONG_DRAINS = 17  # a little more than a minute


@attrs.define
class TriggerWorker:
    """One worker process, and what it is asked."""

    name: str
    process: WarmProcess

    def ask(self, command: str) -> Any:
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def state(self, kind: str = "trigger") -> str:
        return self.states()[kind]

    def states(self) -> dict[str, str]:
        """The state of its function and of its triggers, which are all alike."""
        found = {(kind, state) for kind, state, _ in self.ask("state")}
        states = dict(found)
        assert len(states) == len(found)
        return states

    def go(self, how: str) -> Any:
        """Leave, or lose the connection; of a drain, which worker has taken what over."""
        if how == "kill":
            self.process.kill()
            return self.process.wait()
        return self.ask(how)


class Scene:
    """An engine, and the workers of one function."""

    def __init__(self, url: str, http_url: str) -> None:
        self.url = url
        self.tag = uuid.uuid4().hex[:8]
        self.function_id = f"triggers-{self.tag}::f"
        self._address = urlsplit(http_url)
        self._started: list[WarmProcess] = []
        options = InitOptions(worker_name=f"asking-{self.tag}", otel={"enabled": False})
        self.client = register_worker(url, options)

    def worker(self, name: str, *triggers: dict[str, Any]) -> TriggerWorker:
        full = f"{name}-{self.tag}"
        child = WarmProcess(PROGRAM, self.url, full, self.function_id, json.dumps(triggers))
        self._started.append(child)
        assert json.loads(child.stdout.readline()) == "ready"
        return TriggerWorker(full, child)

    def pair(self, *triggers: dict[str, Any]) -> tuple[TriggerWorker, TriggerWorker]:
        """An owner and a standby that know of each other."""
        owner = self.worker("first", *triggers)
        until(lambda: owner.state("function") == owner.state() == "owner")
        standby = self.worker("second", *triggers)
        until(lambda: standby.state("function") == "standby")
        until(lambda: owner.ask("standbys") == [standby.name])
        return owner, standby

    def route(self) -> dict[str, Any]:
        return {"type": "http", "config": {"api_path": PATH.format(self.tag)}}

    def get(self) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(
            str(self._address.hostname), self._address.port, timeout=60
        )
        try:
            connection.request("GET", PATH.format(self.tag))
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        finally:
            connection.close()

    def answers(self) -> dict[str, str | None]:
        """Which worker answers a request of the route and a call of the function; None for none."""
        status, body = self.get()
        try:
            called = self.call(self.function_id, {})["body"]["worker"]
        except InvocationError:
            called = None
        return {"trigger": body["worker"] if status == 200 else None, "function": called}

    def call(self, function_id: str, payload: Any) -> Any:
        return self.client.trigger(
            {"function_id": function_id, "payload": payload, "timeout_ms": 60_000}
        )

    def end(self) -> None:
        for child in self._started:
            child.kill()
            child.communicate()
        self.client.shutdown()


@pytest.fixture
def scene(loopback: LoopbackEngine | None, engine_url: str) -> Iterator[Scene]:
    http_url = os.environ.get("III_HTTP_URL") if loopback is None else loopback.http_url
    if not http_url:
        pytest.skip("needs an engine with iii-http: III_HTTP_URL")
    made = Scene(engine_url, http_url)
    yield made
    made.end()


@pytest.fixture
def durable(loopback: LoopbackEngine | None, engine_url: str) -> None:
    if loopback is not None:
        pytest.skip("the loopback engine has no topics")
    client = register_worker(engine_url, InitOptions(otel={"enabled": False}))
    try:
        listed = client.trigger({"function_id": "engine::triggers::list", "payload": {}})
    finally:
        client.shutdown()
    if "durable:subscriber" not in {row["id"] for row in listed["triggers"]}:
        pytest.skip("needs topics: iii-queue, or the queue worker")


TIMES = [pytest.param(n, marks=[pytest.mark.long] if n else []) for n in range(10)]


@pytest.mark.parametrize("_time", TIMES)
@pytest.mark.parametrize("how", ["kill", "drain", "shutdown", "cut"])
class TestRoute:
    def test_it_comes_back_when_owner_goes(self, scene: Scene, how: str, _time: int) -> None:  # noqa: PT019 - a parameter
        owner, standby = scene.pair(scene.route())
        until(lambda: scene.get()[0] == 200)
        began, since, wrong, back = time.monotonic(), None, [], False
        said = owner.go(how)
        left = time.monotonic()
        if how == "drain":
            assert said == {scene.function_id: standby.name}
        while time.monotonic() - left < 2.5 or (not back and time.monotonic() - left < 60):
            before = scene.answers()
            asked = [standby, owner] if how == "cut" else [standby]
            states = {worker.name: worker.states() for worker in asked}
            after, now = scene.answers(), time.monotonic()
            back = before["trigger"] is not None is not after["trigger"]
            if not back:
                since = now
            # What one asks and what the other answers may lie on both sides of a change.
            if before == after:
                wrong += [(now - began, after, *lie) for lie in _lies(after, states)]
            time.sleep(0.005)
        away = 0.0 if since is None else since - (began if how in {"kill", "cut"} else left)
        print(f"AWAY {how} owner {max(away, 0.0):.3f}")
        assert away < AWAY[how] * LOOSE
        assert wrong == []
        assert scene.get()[0] == 200

    def test_it_never_stops_when_standby_goes(self, scene: Scene, how: str, _time: int) -> None:  # noqa: PT019 - a parameter
        owner, standby = scene.pair(scene.route())
        until(lambda: scene.get()[0] == 200)
        standby.go(how)
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            answers = scene.answers()
            assert answers == {"trigger": owner.name, "function": owner.name}
            states = {owner.name: owner.states()}
            if how == "cut":
                states[standby.name] = standby.states()
            assert list(_lies(answers, states)) == []
            assert set(states[owner.name].values()) == {"owner"}
            time.sleep(0.01)


def _lies(
    answers: dict[str, str | None], states: dict[str, dict[str, str]]
) -> Iterator[tuple[str, str, str]]:
    """What workers say of their registrations, and a request or a call contradicts."""
    for worker, kinds in states.items():
        for kind, state in kinds.items():
            answered_by = answers[kind]
            if answered_by is None:
                true = state not in {"owner", "standby"}
            else:
                true = state in {"owner" if answered_by == worker else "standby", "unknown"}
            if not true:
                yield worker, kind, state


class TestCron:
    EACH_SECOND = {"type": "cron", "config": {"expression": "* * * * * *"}}  # noqa: RUF012

    def ticks(self, *workers: TriggerWorker) -> Counter[str]:
        return Counter(str(at) for worker in workers for at in worker.ask("events"))

    def test_two_workers_fire_once_a_tick(self, scene: Scene) -> None:
        """Over a minute with drains in the long form."""
        began = time.monotonic()
        owner, standby = scene.pair(self.EACH_SECOND)
        seen: Counter[str] = Counter()
        for number in range(LONG_DRAINS if LONG else 1):
            time.sleep(3.3)
            seen += self.ticks(owner)
            before = owner
            assert before.go("drain") == {scene.function_id: standby.name}
            seen += Counter(str(at) for at in before.ask("events")) - Counter(seen)
            owner = standby
            until(lambda: owner.state("function") == "owner")  # noqa: B023 - run at once
            standby = scene.worker(f"next{number}", self.EACH_SECOND)
            until(lambda: standby.state("function") == "standby")  # noqa: B023 - run at once
            until(lambda: owner.ask("standbys") == [standby.name])  # noqa: B023 - run at once
        time.sleep(2)
        seen += self.ticks(owner, standby)
        print(f"TICKS {len(seen)} TWICE {max(seen.values()) - 1} MISSED {_missed(seen)}")
        assert not LONG or time.monotonic() - began > 60
        assert max(seen.values()) == 1
        assert _missed(seen) <= (0 if LONG else 2)

    def test_at_most_one_tick_is_lost_at_kill(self, scene: Scene) -> None:
        owner, standby = scene.pair(self.EACH_SECOND)
        time.sleep(2.2)
        seen = self.ticks(owner)
        owner.go("kill")
        time.sleep(4.5)
        seen += self.ticks(standby)
        print(f"TICKS at a kill {len(seen)} MISSED {_missed(seen)}")
        assert max(seen.values()) == 1
        assert _missed(seen) <= 1 + (0 if LONG else 2)


def _missed(seen: Counter[str]) -> int:
    """How many whole seconds between the first tick and the last have none."""
    times = sorted(datetime.fromisoformat(at) for at in seen)
    return round((times[-1] - times[0]).total_seconds()) + 1 - len(times)


@pytest.mark.usefixtures("durable")
class TestDurableSubscriber:
    @pytest.mark.parametrize("how", ["drain", "shutdown"])
    @pytest.mark.parametrize("who", ["owner", "standby"])
    def test_no_message_is_lost(self, scene: Scene, who: str, how: str) -> None:
        topic = f"topic-{scene.tag}"
        subscription = {"type": "durable:subscriber", "config": {"topic": topic}}
        owner, standby = scene.pair(subscription)
        goes, stays = (owner, standby) if who == "owner" else (standby, owner)
        count = 100
        for number in range(count):
            scene.call("iii::durable::publish", {"topic": topic, "data": {"number": number}})
            if number == count // 2:
                goes.go(how)
            time.sleep(0.005)

        def arrived() -> set[int]:
            return {*goes.ask("events"), *stays.ask("events")}

        until(lambda: arrived() == set(range(count)), timeout=30)
        twice = len(goes.ask("events")) + len(stays.ask("events")) - count
        print(f"TWICE {who} {how} {twice}")
