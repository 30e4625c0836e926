"""A PostgreSQL store at the terminal: the doctor looks at it, and `dlq` works on it."""

from __future__ import annotations

import json
import re
from typing import Any

import psycopg
import pytest
from support.engine_fixtures import caller, connect, engine, target
from support.postgres_fixtures import needs_postgres
from typer.testing import CliRunner, Result

from iii_resilience.cli.app import app
from iii_resilience.cli.store_checks import examine_store
from iii_resilience.handling import PermanentError, consumer, idempotent
from iii_resilience.stores import PostgresStore
from iii_resilience.testing import LoopbackEngine

__all__ = ["caller", "connect", "engine", "target"]

pytestmark = needs_postgres


def found(url: str, **options: Any) -> dict[str, tuple[str, str | None, bool]]:
    return {one.subject: (one.told, one.advice, one.bad) for one in examine_store(url, **options)}


def test_doctor_looks_at_store(engine: LoopbackEngine, postgres_url: str) -> None:
    PostgresStore(postgres_url).migrate()
    arguments = ["doctor", "--engine", engine.url, "--store", postgres_url, "--json"]
    result = CliRunner().invoke(app, arguments)
    told = {one["subject"]: one["told"] for one in json.loads(result.stdout)}
    assert told["store"].startswith("PostgreSQL ")
    assert told["schema"] == "iii_resilience has version 2; this library makes 2"
    assert told["privileges"] == "sufficient"
    # The clock is read in the middle of an answer, which takes a while on a busy machine.
    assert re.fullmatch(r"the server's is [0-4]\.\d s (ahead|behind)", told["clock"])
    assert "a lease of 30 s is renewed every 10 s" in told["latency"]


def test_backlog_without_relay_is_trouble(postgres_url: str) -> None:
    store = PostgresStore(postgres_url)
    store.migrate()
    told, advice, bad = found(postgres_url)["backlog"]
    assert told == "0 row(s) in the outbox and 0 retry(s) wait; no relay is active"
    assert (advice, bad) == (None, False)
    with psycopg.connect(postgres_url) as mine:
        store.enqueue(mine, "q", "a::b", {})
    told, advice, bad = found(postgres_url)["backlog"]
    assert told.startswith("1 row(s) in the outbox and 0 retry(s) wait, the oldest for ")
    assert "relay=store" in str(advice)
    assert bad
    lock = store.relay_lock()
    assert lock.active()
    told, advice, bad = found(postgres_url)["backlog"]
    assert told.endswith("a relay is active")
    assert (advice, bad) == (None, False)
    lock.release()
    store.close()


def test_missing_schema_is_no_trouble(postgres_url: str) -> None:
    told, advice, bad = found(postgres_url)["schema"]
    assert "has version 0" in told
    assert advice is not None
    assert not bad


def test_missing_privileges_are_named(postgres_url: str) -> None:
    PostgresStore(postgres_url).migrate()
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("DROP ROLE IF EXISTS looks")
        owner.execute("CREATE ROLE looks LOGIN")
        owner.execute("GRANT USAGE ON SCHEMA iii_resilience TO looks")
        owner.execute("GRANT SELECT ON ALL TABLES IN SCHEMA iii_resilience TO looks")
    findings = found(postgres_url.replace("postgres@", "looks@"))
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("DROP OWNED BY looks")
        owner.execute("DROP ROLE looks")
    told, _, bad = findings["privileges"]
    assert "INSERT on keys" in told
    assert "SELECT" not in told
    assert bad
    told, _, bad = findings["relay"]
    assert told == "this user cannot relay: DELETE on outbox, UPDATE on relay is lacking"
    assert not bad


def test_lease_that_is_too_short_is_said(postgres_url: str) -> None:
    told, advice, bad = found(postgres_url, lease=1e-6)["latency"]
    assert "a lease of 1e-06 s" in told
    assert "Give idempotent() a lease of" in str(advice)
    assert bad


def test_store_that_is_away_is_trouble() -> None:
    told, _, bad = found("postgresql://127.0.0.1:1/postgres")["store"]
    assert "failed: OperationalError" in told
    assert bad


def test_other_stores_are_refused(engine: LoopbackEngine) -> None:
    arguments = ["doctor", "--engine", engine.url, "--store", "redis://127.0.0.1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2


class TestDlq:
    @pytest.fixture
    def parked(
        self, engine: LoopbackEngine, target: Any, caller: Any, postgres_url: str
    ) -> list[int]:
        """One message in the store, whose handler fails once; what it ran."""
        store, ran = PostgresStore(postgres_url), []

        @consumer(parking=store, key="n", function_id="jobs::do", queue="jobs")
        @idempotent(store, key="n", function_id="jobs::do")
        def handler(data: Any) -> str:
            ran.append(data["n"])
            if len(ran) == 1:
                raise PermanentError("declined", code="CARD_DECLINED")
            return "done"

        target.register_function("jobs::do", handler)
        engine.define_queue("jobs", max_retries=1, backoff_ms=1)
        engine.wait_registered("jobs::do")
        caller.trigger(
            {
                "function_id": "jobs::do",
                "payload": {"n": 1},
                "action": {"type": "enqueue", "queue": "jobs"},
            }
        )
        engine.wait_queue_idle("jobs")
        return ran

    def dlq(self, engine: LoopbackEngine, url: str, command: str, *arguments: str) -> Result:
        place = ["--engine", engine.url, "--parking", url]
        return CliRunner().invoke(app, ["dlq", command, "jobs", *place, *arguments])

    def test_message_is_seen_and_redriven(
        self, engine: LoopbackEngine, parked: list[int], postgres_url: str
    ) -> None:
        assert "CARD_DECLINED" in self.dlq(engine, postgres_url, "triage").stdout
        assert "CARD_DECLINED" in self.dlq(engine, postgres_url, "list", "--offline").stdout
        result = self.dlq(engine, postgres_url, "redrive", "--execute")
        assert "1 redriven" in result.stdout
        engine.wait_queue_idle("jobs")
        assert parked == [1, 1]
        assert list(PostgresStore(postgres_url).records()) == []

    def test_missing_schema_is_not_made(self, engine: LoopbackEngine, postgres_url: str) -> None:
        result = self.dlq(engine, postgres_url, "list")
        assert result.exit_code == 2
        assert "has version 0" in result.stderr
