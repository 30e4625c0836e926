"""Many processes and one store: no key runs twice within its lease, whatever happens to it."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
from support.postgres_fixtures import PostgresServer, needs_postgres
from support.redis_fixtures import RedisServer, needs_redis
from support.waiting import until
from support.warm_process import WarmProcess

CONTENDER = Path(__file__).with_name("contender.py")


@attrs.frozen
class Size:
    """How many processes, and how many operations each of them."""

    processes: int
    keys: int


SHORT = Size(processes=3, keys=100)
LONG = Size(processes=8, keys=1000)


@attrs.define
class Contest:
    """The processes that were started, and what they wrote.

    Before their last keys they wait for a file: else they are through, on a slow machine, before
    their server was away.
    """

    folder: Path
    size: Size
    running: list[WarmProcess] = attrs.field(factory=list)

    def start(self, kind: str, address: str) -> None:
        for number in range(self.size.processes):
            log = self.folder / f"{number}.jsonl"
            arguments = [kind, address, str(log), str(number), str(self.size.keys), str(self.gate)]
            self.running.append(WarmProcess(CONTENDER, *arguments))

    @property
    def gate(self) -> Path:
        """The file that lets them come to their end."""
        return self.folder / "go-on"

    def events(self) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for log in sorted(self.folder.glob("*.jsonl"))
            for line in log.read_text(encoding="utf-8").splitlines()
            if line.endswith("}")
        ]

    def wait_for(self, share: float) -> None:
        """Waits until so much of the work is done."""
        until(lambda: self.done() >= share * self.all(), timeout=100)

    def done(self) -> int:
        return sum(event["event"] in {"began", "refused"} for event in self.events())

    def all(self) -> int:
        return self.size.processes * self.size.keys

    def wait_until_away(self) -> None:
        """Waits until one of them has found its server away, once more than before."""
        before = self.away()
        until(lambda: self.away() > before)

    def away(self) -> int:
        return sum(event["event"] == "away" for event in self.events())

    def finish(self) -> None:
        self.gate.touch()
        for process in self.running:
            assert process.wait(100) == 0

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.communicate()


@pytest.fixture(params=[SHORT, pytest.param(LONG, marks=pytest.mark.long)], ids=["short", "long"])
def contest(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    folder = tmp_path / "logs"
    folder.mkdir()
    made = Contest(folder, request.param)
    yield made
    made.end()


def check(events: list[dict[str, Any]]) -> None:
    """No key ran while somebody else had it, and every answer was the right one."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    ended: dict[tuple[str, int], dict[str, Any]] = {}
    told: dict[tuple[str, int], dict[str, Any]] = {}
    for event in events:
        if event["event"] == "began":
            runs[event["key"]].append(event)
        elif event["event"] == "ended":
            ended[event["key"], event["token"]] = event
        elif event["event"] == "told":
            told[event["key"], event["token"]] = event
    for key, of_key in runs.items():
        of_key.sort(key=lambda run: int(run["token"]))
        for run, following in pairwise(of_key):
            end = ended.get((key, run["token"]))
            free = run["asked"] + run["lease"] - 0.005 if end is None else end["at"]
            assert following["at"] >= free, (run, following)
            assert end is None or end["how"] == "released", "a key that is done runs no more"
    done = {
        event["key"]: json.dumps(run["nonce"])
        for (key, token), event in ended.items()
        if event["how"] == "done" and told[key, token]["mine"]
        for run in runs[key]
        if run["token"] == token
    }
    for event in events:
        if event["event"] == "refused" and event["state"] == "done":
            assert event["outcome"] == done[event["key"]]
    assert all(one["mine"] for one in told.values() if one["how"] == "done")


@pytest.mark.timeout(300)
def test_processes_on_one_file(contest: Contest, tmp_path: Path) -> None:
    contest.start("sqlite", str(tmp_path / "new" / "store.db"))
    contest.finish()
    events = contest.events()
    check(events)
    assert contest.done() == contest.all()
    assert contest.away() == 0


@needs_redis
@pytest.mark.timeout(300)
def test_processes_on_one_redis_that_goes_away_in_between(
    contest: Contest, redis_server: RedisServer
) -> None:
    contest.start("redis", redis_server.url)
    for share in (0.2, 0.5):
        contest.wait_for(share)
        redis_server.stop()
        contest.wait_until_away()
        redis_server.start()
    contest.finish()
    events = contest.events()
    check(events)
    assert contest.done() == contest.all()


@needs_postgres
@pytest.mark.timeout(300)
def test_processes_on_one_postgres_that_restarts_in_between(
    contest: Contest, postgres_server: PostgresServer
) -> None:
    contest.start("postgres", postgres_server.url)
    for share in (0.2, 0.5):
        contest.wait_for(share)
        postgres_server.stop()
        contest.wait_until_away()
        postgres_server.restart()
    contest.finish()
    events = contest.events()
    check(events)
    assert contest.done() == contest.all()
