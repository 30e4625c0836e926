"""``iii-resilience dlq``: what is dead or parked is seen, sent again, thrown away."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from support.flaky_http import closed_port
from typer.testing import CliRunner, Result

from iii_resilience import Backoff, Category
from iii_resilience.cli.app import app
from iii_resilience.handling import (
    PayloadError,
    PermanentError,
    TransientError,
    consumer,
    idempotent,
)
from iii_resilience.handling.decorators.parked_message import FailureSummary, ParkedMessage
from iii_resilience.stores import SqliteStore
from iii_resilience.testing import AnswerError, LoopbackEngine

ID = "jobs::do"


class World:
    """An engine with a queue, a consumer that can be told to fail, and the command line."""

    def __init__(self, engine: LoopbackEngine, target: Any, caller: Any, file: Path) -> None:
        self.engine = engine
        self.file = file
        self.caller = caller
        self.store = SqliteStore(file)
        self.broken = True
        self.heard: list[int] = []

        @consumer(parking=self.store, key="n", function_id=ID, queue="jobs")
        @idempotent(self.store, key="n", function_id=ID)
        def handler(data: Any) -> str:
            self.heard.append(data["n"])
            if not self.broken:
                return "done"
            if data["n"] < 10:
                raise TransientError("busy", code="BUSY")
            if data["n"] < 20:
                raise PermanentError("declined", code="CARD_DECLINED")
            raise PayloadError("secret")

        target.register_function(ID, handler)
        target.register_function("jobs::bare", self.fails)
        engine.define_queue("jobs", max_retries=1, backoff_ms=1)
        engine.wait_registered(ID, "jobs::bare")

    @staticmethod
    def fails(data: Any) -> None:
        raise ValueError("secret")

    def enqueue(self, *numbers: int, function_id: str = ID) -> None:
        for n in numbers:
            self.caller.trigger(
                {
                    "function_id": function_id,
                    "payload": {"n": n, "card": "secret"},
                    "action": {"type": "enqueue", "queue": "jobs"},
                }
            )
        self.engine.wait_queue_idle("jobs")

    def dlq(self, command: str, *arguments: str, parking: bool = True, stdin: str = "") -> Result:
        place = ["--parking", str(self.file)] if parking else []
        return CliRunner().invoke(
            app,
            ["dlq", command, "jobs", *arguments, "--engine", self.engine.url, *place],
            input=stdin,
        )

    def listed(self, *arguments: str, parking: bool = True) -> list[dict[str, Any]]:
        result = self.dlq("list", *arguments, "--json", parking=parking)
        assert result.exit_code == 0, result.output
        found: list[dict[str, Any]] = json.loads(result.stdout)
        return found


@pytest.fixture
def world(engine: LoopbackEngine, target: Any, caller: Any, tmp_path: Path) -> World:
    return World(engine, target, caller, tmp_path / "store.db")


def kinds(listed: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted((one["source"], one["category"], one["code"] or "") for one in listed)


def test_dead_letters_and_parked_messages_are_one_view(world: World) -> None:
    world.enqueue(1, 11, 21)
    world.enqueue(31, function_id="jobs::bare")
    assert kinds(world.listed()) == [
        ("parked", "payload", "PayloadError"),
        ("parked", "permanent", "CARD_DECLINED"),
        ("queue", "transient", "BUSY"),
        ("queue", "unknown", ""),
    ]
    assert kinds(world.listed(parking=False)) == [
        ("queue", "unknown", ""),
        ("queue", "unknown", ""),
    ]
    assert kinds(world.listed("--category", "unknown")) == [("queue", "unknown", "")]
    shown = world.dlq("list")
    assert "CARD_DECLINED" in shown.stdout
    assert "4 message(s)" in shown.stdout
    assert "secret" not in shown.output


def test_payload_of_message_is_shown_only_on_request(world: World) -> None:
    world.enqueue(21)
    (one,) = world.listed()
    result = world.dlq("show", one["id"][:12])
    assert "PayloadError" in result.stdout
    assert "secret" not in result.output
    assert "secret" in world.dlq("show", one["id"], "--payload").stdout
    assert world.dlq("show", "nosuch").exit_code == 2


def test_triage_says_that_there_is_nothing(world: World) -> None:
    assert world.dlq("triage", parking=False).stdout.strip() == "nothing is dead or parked"


def test_triage_says_what_to_do(world: World) -> None:
    world.enqueue(1, 2, 11)
    result = world.dlq("triage")
    assert re.search(r"transient +BUSY +jobs::do +2 .* redrive once what failed", result.stdout)
    assert re.search(r"permanent +CARD_DECLINED +jobs::do +1 .* find the cause", result.stdout)
    groups = json.loads(world.dlq("triage", "--json").stdout)
    assert [group["count"] for group in groups] == [2, 1]


def test_redrive_is_dry_unless_it_is_told_otherwise(world: World) -> None:
    world.enqueue(1, 11)
    result = world.dlq("redrive")
    assert "2 of 2 message(s) would be redriven (1 transient, 1 permanent)" in result.stdout
    assert len(world.listed()) == 2


def test_what_is_redriven_runs_again_and_is_gone(world: World) -> None:
    world.enqueue(1, 2, 11, 21)
    world.heard.clear()
    world.broken = False
    result = world.dlq("redrive", "--category", "transient", "--rate", "100/s", "--execute")
    assert "2 redriven, 0 failed, 2 left" in result.stdout, result.output
    world.engine.wait_queue_idle("jobs")
    result = world.dlq("redrive", "--execute")
    assert "2 redriven, 0 failed, 0 left" in result.stdout, result.output
    world.engine.wait_queue_idle("jobs")
    # Those that had failed for good too: their stored failures were forgotten.
    assert sorted(world.heard) == [1, 2, 11, 21]
    assert world.listed() == []
    assert list(world.store.records()) == []


def test_what_fails_again_is_back_with_all_of_its_deliveries(world: World) -> None:
    world.enqueue(1, 11)
    assert world.dlq("redrive", "--execute").exit_code == 0
    world.engine.wait_queue_idle("jobs")
    assert sorted(world.heard) == [1] * 4 + [11] * 2
    found = world.listed()
    assert kinds(found) == [
        ("parked", "permanent", "CARD_DECLINED"),
        ("queue", "transient", "BUSY"),
    ]


def test_parked_message_stays_until_there_is_receipt(world: World) -> None:
    world.enqueue(11)
    world.engine.inject("engine::queue::enqueue", AnswerError("X", "no"), times=None)
    result = world.dlq("redrive", "--execute")
    assert "0 redriven, 1 failed, 1 left" in result.stdout
    assert "1 failed: " in result.stdout
    assert result.exit_code == 1
    assert len(world.listed()) == 1
    world.engine.clear_faults()
    world.broken = False
    assert world.dlq("redrive", "--execute").exit_code == 0
    world.engine.wait_queue_idle("jobs")
    assert world.listed() == []


def test_undefined_queue_is_named_with_its_remedy(
    world: World,
) -> None:
    world.enqueue(11)
    value = world.caller.trigger({"function_id": "configuration::get", "payload": {"id": "queue"}})
    payload = {"id": "queue", "value": {**value["value"], "queue_configs": {}}}
    world.caller.trigger({"function_id": "configuration::set", "payload": payload})
    result = world.dlq("redrive", "--execute")
    assert "0 redriven, 1 failed, 1 left" in result.stdout
    assert "ensure_queue(worker, name)" in result.stdout
    assert len(world.listed()) == 1


def test_redrive_that_fails_keeps_what_was_recorded(world: World) -> None:
    world.enqueue(1)
    world.engine.inject("iii::queue::redrive_message", AnswerError("X", "no"))
    assert world.dlq("redrive", "--execute").exit_code == 1
    assert kinds(world.listed()) == [("queue", "transient", "BUSY")]


def test_rate_holds_messages_apart(world: World) -> None:
    world.enqueue(1, 2, 3)
    world.broken = False
    began = time.monotonic()
    assert world.dlq("redrive", "--rate", "2/s", "--execute").exit_code == 0
    assert time.monotonic() - began >= 1.0
    calls = world.engine.calls("iii::queue::redrive_message")
    # The engine's thread may have come to the first of them late.
    assert calls[2].at - calls[0].at >= 0.3


def test_discarding_asks_first(world: World) -> None:
    world.enqueue(1, 11, 21)
    refused = world.dlq("discard", stdin="n\n")
    assert "Throw 3 of 3 message(s) away, for good" in refused.output
    assert refused.exit_code == 1
    assert len(world.listed()) == 3
    agreed = world.dlq("discard", "--category", "payload", stdin="y\n")
    assert "1 discarded, 0 failed, 2 left" in agreed.stdout
    one = world.listed()[0]
    result = world.dlq("discard", "--id", one["id"][:12], "--yes")
    assert "1 discarded, 0 failed, 1 left" in result.stdout
    assert world.dlq("discard", "--yes").exit_code == 0
    assert world.listed() == []
    assert list(world.store.records()) == []


def test_message_that_somebody_else_took_is_said_to_be_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iii_resilience.cli import dead_letter_queue

    world.enqueue(1)
    original = dead_letter_queue.DeadLetterQueue.letters

    def letters(self: Any) -> Any:
        found = original(self)
        world.caller.trigger(
            {
                "function_id": "iii::queue::discard_message",
                "payload": {"queue": "jobs", "message_id": found[0].id},
            }
        )
        return found

    monkeypatch.setattr(dead_letter_queue.DeadLetterQueue, "letters", letters)
    result = world.dlq("redrive", "--execute")
    assert "0 redriven, 0 failed, 0 left (1 were gone already)" in result.stdout


def test_more_than_page_is_found(world: World) -> None:
    world.enqueue(*range(120), function_id="jobs::bare")
    assert len(world.listed(parking=False)) == 120


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["redrive", "jobs", "--rate", "fast"], "is not a rate: write 10/s"),
        (["redrive", "jobs", "--rate", "0/s"], "is not a rate"),
        (["list", "jobs", "--category", "bad"], "is none of transient, auth"),
        (["list", "jobs", "--parking", "nosuch.db"], "there is no file 'nosuch.db'"),
    ],
)
def test_mistake_is_said_and_nothing_is_done(
    engine: LoopbackEngine, arguments: list[str], complaint: str
) -> None:
    result = CliRunner().invoke(app, ["dlq", *arguments, "--engine", engine.url])
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.split())


def test_engine_that_refuses_is_said_so(engine: LoopbackEngine) -> None:
    engine.forbid("engine::queue::*")
    result = CliRunner().invoke(app, ["dlq", "list", "jobs", "--engine", engine.url])
    assert result.exit_code == 2
    assert "FORBIDDEN" in result.stderr


@pytest.mark.parametrize("url", ["ws://127.0.0.1:{port}", "ws://", "ws://127.0.0.1:x"])
def test_without_engine_it_says_so_at_once(url: str) -> None:
    url = url.format(port=closed_port())
    began = time.monotonic()
    result = CliRunner().invoke(app, ["dlq", "list", "jobs", "--engine", url])
    assert result.exit_code == 2
    assert f"no engine listens at {url}" in result.stderr
    assert time.monotonic() - began < 20


# Parked without a queue's name, and without an engine.


def park(store: SqliteStore, n: int, queue: str | None, function_id: str = "shop::mails") -> None:
    @consumer(parking=store, key="n", function_id=function_id, queue=queue)
    def handler(data: Any) -> None:
        raise PermanentError("secret", code="CARD_DECLINED")

    call: Any = handler
    call({"n": n})


class TestUnknownQueue:
    def test_it_is_listed_as_unknown_under_every_queue(self, world: World) -> None:
        park(world.store, 1, None)
        (one,) = world.listed()
        assert (one["source"], one["queue"]) == ("parked", None)
        assert "queue unknown" in world.dlq("list").stdout
        assert "unknown" in world.dlq("show", one["id"]).stdout

    @pytest.mark.parametrize("command", [("discard", "--yes"), ("redrive", "--execute")])
    def test_it_is_left_alone_unless_it_is_named(
        self, world: World, command: tuple[str, str]
    ) -> None:
        park(world.store, 1, None)
        park(world.store, 2, "other")
        result = world.dlq(*command)
        assert "1 parked message(s) are left alone" in result.stdout
        assert "Give --unknown-queue or --id" in result.stdout
        assert "0 discarded" in result.stdout or "0 redriven" in result.stdout
        assert len(list(world.store.records())) == 2
        assert world.engine.calls("engine::queue::enqueue") == ()

    @pytest.mark.parametrize("how", ["--unknown-queue", "--id"])
    def test_it_is_discarded_where_it_is_named(self, world: World, how: str) -> None:
        park(world.store, 1, None)
        park(world.store, 2, "other")
        (one,) = world.listed()
        named = [how] if how == "--unknown-queue" else [how, one["id"][:12]]
        assert "1 discarded" in world.dlq("discard", "--yes", *named).stdout
        (left,) = world.store.records()
        assert left.note["queue"] == "other"

    def test_it_is_redriven_where_it_is_named(self, world: World) -> None:
        park(world.store, 11, None, function_id=ID)
        world.broken = False
        world.heard.clear()
        assert "1 redriven" in world.dlq("redrive", "--execute", "--unknown-queue").stdout
        world.engine.wait_queue_idle("jobs")
        assert world.heard == [11]
        assert list(world.store.records()) == []


class TestOffline:
    def listed(self, file: Path, *arguments: str, command: str = "list") -> Result:
        return CliRunner().invoke(
            app, ["dlq", command, "jobs", *arguments, "--offline", "--parking", str(file)]
        )

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        store = SqliteStore(tmp_path / "store.db")
        park(store, 1, "jobs")
        park(store, 2, None)
        park(store, 3, "other")
        store.close()
        return tmp_path / "store.db"

    def test_parked_messages_are_read_without_engine(self, file: Path) -> None:
        result = self.listed(file, "--json")
        assert [one["queue"] for one in json.loads(result.stdout)] == ["jobs", None]
        assert "without the queue's own dead letters" in result.stderr
        (one,) = json.loads(self.listed(file, "--json", command="triage").stdout)
        assert one["count"] == 2
        first = json.loads(result.stdout)[0]["id"]
        shown = self.listed(file, first, command="show")
        assert "CARD_DECLINED" in shown.stdout

    def test_nothing_is_written(self, file: Path) -> None:
        before = file.read_bytes()
        file.chmod(0o400)
        assert self.listed(file).exit_code == 0
        assert [one.name for one in file.parent.glob("store.db*")] == ["store.db"]
        assert file.read_bytes() == before

    def test_file_in_use_is_read_with_its_log(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "store.db")
        park(store, 1, "jobs")
        result = self.listed(tmp_path / "store.db", "--json")
        assert len(json.loads(result.stdout)) == 1
        assert "incomplete" not in result.stderr
        store.close()

    def test_copy_without_its_log_is_possibly_incomplete(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "store.db")
        park(store, 1, "jobs")
        store.close()  # into the file itself
        park(store, 2, "jobs")
        copy = tmp_path / "copy.db"
        copy.write_bytes((tmp_path / "store.db").read_bytes())
        result = self.listed(copy, "--json")
        assert len(json.loads(result.stdout)) == 1
        said = " ".join(result.stderr.split())
        assert "possibly incomplete: there is no copy.db-wal beside it" in said
        store.close()

    def test_log_that_cannot_be_read_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = SqliteStore(tmp_path / "store.db")
        park(store, 1, "jobs")
        store.close()
        park(store, 2, "jobs")
        connect = sqlite3.connect

        def read_only(name: Any, **options: Any) -> Any:
            if "mode=ro" in str(name):  # as on a read-only file system
                raise sqlite3.OperationalError("unable to open database file")
            return connect(name, **options)

        monkeypatch.setattr(sqlite3, "connect", read_only)
        result = self.listed(tmp_path / "store.db", "--json")
        assert len(json.loads(result.stdout)) == 1
        assert "store.db-wal cannot be read here" in " ".join(result.stderr.split())
        store.close()

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [(b"rubbish" * 100, "file is not a database"), (b"", "no such table")],
    )
    def test_what_is_no_store_is_said(self, tmp_path: Path, content: bytes, complaint: str) -> None:
        file = tmp_path / "rubbish.db"
        file.write_bytes(content)
        result = self.listed(file)
        assert result.exit_code == 2
        assert complaint in " ".join(result.stderr.split())

    def test_without_file_it_says_so(self) -> None:
        result = CliRunner().invoke(app, ["dlq", "list", "jobs", "--offline"])
        assert result.exit_code == 2
        assert "name it" in result.stderr


def test_triage_of_many_codes_fits_terminal(tmp_path: Path) -> None:
    """Its table ends where nobody reads on; 100 000 messages take 2 s on an idle machine."""
    path = tmp_path / "parked.db"
    SqliteStore(path).delivered("m", keep=60)
    note = ParkedMessage.of(
        {"n": 1},
        FailureSummary("CODE", Category.PERMANENT),
        kept_under="m",
        function_id=ID,
        queue="jobs",
        key=None,
        carried=None,
    ).to_note()
    times = {"first_failed_at": 1.0, "last_failed_at": 1.0, "parked_at": 1.0}
    rows = [
        json.dumps(
            {"deliveries": 1, "revision": 1, "note": {**note, "code": f"C{n % 1000}"}, **times}
        )
        for n in range(10_000)
    ]
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO iii_resilience VALUES ('message', ?, ?, NULL)",
            [(str(n), row) for n, row in enumerate(rows)],
        )
    connection.close()
    arguments = ["dlq", "triage", "jobs", "--offline", "--parking", str(path)]
    began = time.process_time()  # other programs' work does not count
    result = CliRunner().invoke(app, arguments)
    assert time.process_time() - began < 10
    words = result.stdout.splitlines()[-1]
    assert words == "and 800 more groups of 8000 message(s): --json lists them all"
    everything = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert len(everything) == 1000
    assert {group["count"] for group in everything} == {10}


class TestWaiting:
    """Messages that wait to be tried again are seen, and left alone unless they are named."""

    @pytest.fixture
    def waiting(self, world: World) -> str:
        options: Any = {"key": "n", "function_id": ID, "queue": "jobs"}
        later = Backoff(base=900.0, cap=900.0, jitter="none")

        @consumer(parking=world.store, retry_later=later, **options)
        def fails(data: Any) -> Any:
            raise TransientError("busy", code="BUSY")

        found: str = fails({"n": 5})["waiting"]
        return found

    def test_listed_with_their_time(self, world: World, waiting: str) -> None:
        (row,) = json.loads(world.dlq("list", "--json").stdout)
        assert (row["id"], row["source"], row["code"]) == (waiting, "waiting", "BUSY")
        assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ", row["due"])
        shown = world.dlq("list").stdout
        assert row["due"] in re.sub(r"\s+", " ", shown) or "waiting" in shown
        assert "1 message(s) that wait to be tried again; no relay is active" in shown
        assert row["due"] in world.dlq("show", waiting[:12]).stdout
        triaged = world.dlq("triage").stdout
        assert "BUSY" not in triaged
        assert "1 message(s) that wait" in triaged
        lock = world.store.relay_lock()
        assert lock.active()
        assert "a relay is active" in world.dlq("list").stdout
        lock.release()

    def test_left_alone_unless_named(self, world: World, waiting: str) -> None:
        for command, more in (("redrive", "--execute"), ("discard", "--yes")):
            done = world.dlq(command, more).stdout
            assert "1 message(s) that wait to be tried again are left alone" in done
        assert world.store.backlog().retries == 1

    def test_named_one_is_handed_over_now(self, world: World, waiting: str) -> None:
        world.broken = False
        done = world.dlq("redrive", "--id", waiting, "--execute")
        assert "1 redriven, 0 failed" in done.stdout
        world.engine.wait_queue_idle("jobs")
        assert world.heard == [5]
        assert world.store.backlog().retries == 0
        sent = [call.data["_iii_resilience"] for call in world.engine.calls(ID)]
        assert sent[-1] == {"attempt": 2}

    def test_named_one_is_discarded(self, world: World, waiting: str) -> None:
        assert "1 discarded" in world.dlq("discard", "--id", waiting, "--yes").stdout
        assert list(world.store.records()) == []
