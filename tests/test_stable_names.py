"""Names that others rely on, each written out here: whoever changes one breaks them.

What travels between workers and what stores keep is read by other versions of this library;
metrics, spans, log fields, policy files, environment variables and `--json` output are read by
dashboards, configurations and scripts. They keep their names whatever is renamed inside. The names
of `iii_resilience` itself are in test_public_api.py, the wording of each code in tests/core/codes;
tests/compat shows two versions side by side.
"""

from __future__ import annotations

import ast
import inspect
import json
import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest
import redis
import typer
from support.engine_fixtures import QUICK, caller, connect, engine, target
from support.paths import PACKAGE
from support.postgres_fixtures import needs_postgres
from support.redis_fixtures import needs_redis
from support.telemetry_fixtures import Seen, attributes, clean_globals, seen
from support.telemetry_run import told
from support.waiting import until
from typer.testing import CliRunner

from iii_resilience import (
    Category,
    Enqueue,
    Execution,
    Reason,
    classify,
    config,
    handling,
    load_policies,
    policies_from_engine,
    resilient,
    stores,
    testing,
)
from iii_resilience.cli.app import app
from iii_resilience.client.resilient import Resilient
from iii_resilience.config.files.schema import schema
from iii_resilience.handling import (
    AuthError,
    HandlerError,
    NotFoundError,
    PayloadError,
    PermanentError,
    RegistrationState,
    TransientError,
    consumer,
    idempotent,
)
from iii_resilience.sdk.propagation import CallContext, from_metadata, take_from_payload
from iii_resilience.stores import (
    Claim,
    PostgresStore,
    Record,
    RedisStore,
    SqliteStore,
    State,
    Store,
)
from iii_resilience.testing import AnswerError, LoopbackEngine

__all__ = ["caller", "clean_globals", "connect", "engine", "seen", "target", "told"]


def paths(value: Any, start: str = "") -> set[str]:
    """Every key of a JSON value, with those above it; `[]` stands for the items of a list."""
    found: set[str] = set()
    if isinstance(value, dict):
        for key, part in value.items():
            found |= {f"{start}{key}", *paths(part, f"{start}{key}.")}
    elif isinstance(value, list):
        for part in value:
            found |= paths(part, f"{start}[].")
    return found


CONTEXT = CallContext(
    1.5,
    2000.0,
    2,
    "k",
    already_retried=True,
    function_id="a::b",
    code="TIMEOUT",
    attempt_left=0.5,
    attempt_deadline_unix=1999.0,
)
ON_THE_WIRE = {
    "left_ms": 1500,
    "deadline_unix_ms": 2_000_000,
    "attempt": 2,
    "idempotency_key": "k",
    "already_retried": True,
    "function_id": "a::b",
    "code": "TIMEOUT",
    "attempt_left_ms": 500,
}


class TestCallContext:
    """What travels with a call."""

    def test_fields_written(self) -> None:
        assert CONTEXT.to_wire() == ON_THE_WIRE

    def test_attempt_deadline_is_written_without_deadline(self) -> None:
        context = attrs.evolve(CONTEXT, left=None, deadline_unix=None)
        wire = context.to_wire()
        assert (wire["attempt_left_ms"], wire["attempt_deadline_unix_ms"]) == (500, 1_999_000)
        assert from_metadata({"iii.resilience": wire}) == context

    def test_fields_read(self) -> None:
        assert from_metadata({"iii.resilience": ON_THE_WIRE}) == CONTEXT
        payload = {"n": 1, "_iii_resilience": ON_THE_WIRE}
        assert take_from_payload(payload) == ({"n": 1}, CONTEXT)

    def test_field_in_metadata(
        self, engine: LoopbackEngine, target: Any, caller: Resilient
    ) -> None:
        target.register_function("t::f", lambda data: data)
        engine.wait_registered("t::f")
        caller.trigger({"function_id": "t::f", "payload": {}}, idempotency_key="k")
        (call,) = engine.calls("t::f")
        assert set(call.metadata) == {"iii.resilience"}
        assert set(call.metadata["iii.resilience"]) == {
            "attempt_left_ms",
            "deadline_unix_ms",
            "idempotency_key",
            "left_ms",
        }

    def test_field_in_payload(self, engine: LoopbackEngine, target: Any, caller: Resilient) -> None:
        target.register_function("t::f", lambda data: data)
        engine.define_queue("jobs")
        engine.wait_registered("t::f")
        engine.inject("t::f", AnswerError("invocation_stopped", "Invocation stopped"))
        caller.trigger(
            {"function_id": "t::f", "payload": {"n": 1}},
            policy=QUICK.replace(attempts=1, fallback=Enqueue("jobs")),
            idempotent=True,
            idempotency_key="k",
            accept_enqueued=True,
        )
        engine.wait_queue_idle("jobs")
        payload = engine.calls("t::f")[-1].data
        assert set(payload) - {"_caller_worker_id"} == {"n", "_iii_resilience"}
        assert set(payload["_iii_resilience"]) == {
            "already_retried",
            "attempt",
            "code",
            "function_id",
            "idempotency_key",
        }


class TestHandlerErrors:
    """What a handler's error travels as: the text of an exception, which is JSON."""

    @pytest.mark.parametrize(
        ("kind", "category"),
        [
            (TransientError, "transient"),
            (AuthError, "auth"),
            (NotFoundError, "not-found"),
            (PayloadError, "payload"),
            (PermanentError, "permanent"),
        ],
    )
    def test_fields(self, kind: type[HandlerError], category: str) -> None:
        error = kind("why", code="MINE", retry_after=1.5)
        error.already_retried = True
        assert json.loads(str(error)) == {
            "type": category,
            "code": "MINE",
            "message": "why",
            "retry_after_ms": 1500,
            "already_retried": True,
        }
        failure = classify({"code": "invocation_failed", "message": str(error)})
        assert (failure.category.value, failure.already_retried) == (category, True)


class TestKeepers:
    """What workers of any version say to each other when one leaves."""

    def test_ids_and_messages(self, engine: LoopbackEngine, connect: Callable[..., Any]) -> None:
        with ExitStack() as stack:
            first, second = (
                resilient(connect(name), keep_registered=True) for name in ("first", "second")
            )
            stack.callback(first.shutdown)
            stack.callback(second.shutdown)
            first.register_function("t::f", lambda data: "first")
            engine.wait_registered("t::f", "iii-resilience::keeper::first")
            second.register_function("t::f", lambda data: "second")
            until(lambda: self.answers(engine, "first"))
            assert first.drain(5).handed_over == {"t::f": "second"}
        assert self.heard(engine, "first") == [{"worker": "second", "standby": ["t::f"]}]
        assert self.heard(engine, "second") == [{"take_over": ["t::f"]}]
        assert self.answers(engine, "second") == [{"took_over": ["t::f"]}]

    @staticmethod
    def heard(engine: LoopbackEngine, worker: str) -> list[dict[str, Any]]:
        """What was said to a worker's keeper, without what the engine adds."""
        return [
            {name: part for name, part in call.data.items() if name != "_caller_worker_id"}
            for call in engine.calls(f"iii-resilience::keeper::{worker}")
        ]

    @staticmethod
    def answers(engine: LoopbackEngine, worker: str) -> list[Any]:
        """What a worker's keeper has answered."""
        return [
            frame.message["result"]
            for frame in engine.frames
            if frame.conn == worker
            and frame.direction == "to-engine"
            and frame.message.get("type") == "invocationresult"
            and frame.message.get("function_id") == f"iii-resilience::keeper::{worker}"
        ]


# What stores keep. Row ids and fingerprints are digests of names: another digest is another name.

DONE = "ca73a728e24d3e18434014d8e69a0a7c41753e95a66288e8ca1153f6075baa28"
FAILED = "cd70d39715036bb19e020c3329cd7b4d039daa1076c1b2350b8fbc31658dc1e0"
PARKED = "7f8d4cfb26526ef19725fccfb25603b5c4f3eb931e3e56956c8d8dfa39e5e5d2"
FINGERPRINT = "e03a96fe0f4782158cc79dcc1bb28e4d05a51dd749973a239c231652a45cefb8"
DECLINED = {"type": "permanent", "code": "CARD_DECLINED", "message": "declined"}
KEY_FIELDS = {"state", "fingerprint", "nonce", "token", "until", "outcome"}
MESSAGE_FIELDS = {
    "deliveries",
    "first_failed_at",
    "last_failed_at",
    "note",
    "parked_at",
    "revision",
}
OUTBOX_FIELDS = {"id", "queue", "function_id", "data", "key", "enqueued_at"}
NOTE_FIELDS = {
    "carried",
    "category",
    "code",
    "fingerprint",
    "function_id",
    "key",
    "message",
    "payload",
    "queue",
    "remedy",
    "span_id",
    "trace_id",
    "whole",
}


def fill(store: Store) -> None:
    """Keys that have run, have failed, and run; messages that are parked, and wait."""

    @idempotent(store, key="n", function_id="a::b")
    def runs(data: Any) -> str:
        if data["n"] == 2:
            raise PermanentError("declined", code="CARD_DECLINED")
        return "done"

    @consumer(parking=store, key="n", function_id="a::c", queue="jobs")
    def parks(data: Any) -> None:
        raise PermanentError("declined", code="CARD_DECLINED")

    runs({"n": 1})
    with suppress(PermanentError):
        runs({"n": 2})
    assert parks({"n": 3}) == {"parked": PARKED}
    store.claim("slot", fingerprint="f", nonce="n", lease=60.0, keep=60.0)
    postpones: Any = store
    (parked,) = store.records()
    postpones.postpone("waits", parked.note, seconds=60.0)


class TestSqlite:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Iterator[sqlite3.Connection]:
        store = SqliteStore(tmp_path / "store.db")
        fill(store)
        store.close()
        with closing(sqlite3.connect(tmp_path / "store.db")) as connection:
            yield connection

    def test_table_and_columns(self, file: sqlite3.Connection) -> None:
        made = file.execute("SELECT type, name FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        assert made == [
            ("table", "iii_resilience"),
            ("index", "iii_resilience_keep_until"),
            ("index", "iii_resilience_due_at"),
            ("table", "iii_resilience_outbox"),
            ("table", "sqlite_sequence"),
        ]
        columns = file.execute("SELECT name, type, pk FROM pragma_table_info('iii_resilience')")
        assert columns.fetchall() == [
            ("kind", "TEXT", 1),
            ("id", "TEXT", 2),
            ("body", "TEXT", 0),
            ("keep_until", "REAL", 0),
        ]
        columns = file.execute("SELECT name FROM pragma_table_info('iii_resilience_outbox')")
        assert {name for (name,) in columns} == OUTBOX_FIELDS

    def test_rows(self, file: sqlite3.Connection) -> None:
        rows = file.execute("SELECT kind, id, body FROM iii_resilience").fetchall()
        found = {(kind, row_id): json.loads(body) for kind, row_id, body in rows}
        assert {of: set(body) for of, body in found.items()} == {
            ("key", DONE): KEY_FIELDS,
            ("key", FAILED): KEY_FIELDS,
            ("key", "slot"): KEY_FIELDS,
            ("message", PARKED): MESSAGE_FIELDS,
            ("message", "waits"): {*MESSAGE_FIELDS, "due_at"},
        }
        assert set(found["message", PARKED]["note"]) == NOTE_FIELDS
        assert found["key", DONE]["fingerprint"] == FINGERPRINT
        states = {row_id: body["state"] for (kind, row_id), body in found.items() if kind == "key"}
        assert states == {DONE: "done", FAILED: "failed", "slot": "running"}
        assert found["key", DONE]["outcome"] == '"done"'
        assert json.loads(found["key", FAILED]["outcome"]) == DECLINED


class TestRedis:
    @pytest.fixture
    def server(self, redis_url: str) -> Iterator[Any]:
        store = RedisStore(redis_url)
        fill(store)
        store.close()
        client: Any = redis.Redis.from_url(redis_url, decode_responses=True)
        yield client
        client.close()

    @needs_redis
    def test_keys_and_fields(self, server: Any) -> None:
        found = {key: server.type(key) for key in server.keys("*")}
        # What the answers of requests are kept under, for a minute; no other version reads it.
        requests = {
            key for key in found if re.fullmatch(r"iii-resilience:request:[0-9a-f]{32}", key)
        }
        assert {found.pop(key) for key in requests} == {"string"}
        assert found == {
            f"iii-resilience:key:{DONE}": "hash",
            f"iii-resilience:key:{FAILED}": "hash",
            "iii-resilience:key:slot": "hash",
            f"iii-resilience:message:{PARKED}": "hash",
            "iii-resilience:message:waits": "hash",
            "iii-resilience:messages": "zset",
            "iii-resilience:waiting": "zset",
        }
        assert {key: set(server.hkeys(key)) for key, of in found.items() if of == "hash"} == {
            f"iii-resilience:key:{DONE}": KEY_FIELDS,
            f"iii-resilience:key:{FAILED}": KEY_FIELDS,
            "iii-resilience:key:slot": KEY_FIELDS - {"outcome"},
            f"iii-resilience:message:{PARKED}": MESSAGE_FIELDS,
            "iii-resilience:message:waits": MESSAGE_FIELDS - {"parked_at", "deliveries"}
            | {"due_at"},
        }
        assert server.zrange("iii-resilience:messages", 0, -1) == [PARKED, "waits"]
        assert server.zrange("iii-resilience:waiting", 0, -1) == ["waits"]

    @needs_redis
    def test_values(self, server: Any) -> None:
        done, failed, running = (
            server.hgetall(f"iii-resilience:key:{of}") for of in (DONE, FAILED, "slot")
        )
        assert [row["state"] for row in (done, failed, running)] == ["done", "failed", "running"]
        assert (done["fingerprint"], done["outcome"]) == (FINGERPRINT, '"done"')
        assert json.loads(failed["outcome"]) == DECLINED
        message = server.hgetall(f"iii-resilience:message:{PARKED}")
        assert set(json.loads(message["note"])) == NOTE_FIELDS


class TestPostgres:
    @pytest.fixture
    def tables(self, postgres_url: str) -> Iterator[Any]:
        store = PostgresStore(postgres_url)
        fill(store)
        store.close()
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            yield connection

    @needs_postgres
    def test_tables_and_columns(self, tables: Any) -> None:
        query = (
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = 'iii_resilience'"
        )
        found: dict[str, set[str]] = {}
        for table, column in tables.execute(query):
            found.setdefault(table, set()).add(column)
        assert found == {
            "version": {"version", "oldest"},
            "keys": KEY_FIELDS - {"until"}
            | {"slot", "lease_until", "keep_until", "lock", "waited"},
            "messages": MESSAGE_FIELDS | {"id", "keep_until", "due_at", "handing"},
            "outbox": OUTBOX_FIELDS,
            "relay": {"idle"},
        }

    @needs_postgres
    def test_values(self, tables: Any) -> None:
        query = "SELECT slot, state, fingerprint, outcome FROM iii_resilience.keys"
        rows = {slot: row for slot, *row in tables.execute(query)}
        assert {slot: row[0] for slot, row in rows.items()} == {
            DONE: "done",
            FAILED: "failed",
            "slot": "running",
        }
        assert rows[DONE][1:] == [FINGERPRINT, '"done"']
        assert json.loads(rows[FAILED][2]) == DECLINED
        parked = "SELECT id, note FROM iii_resilience.messages WHERE parked_at IS NOT NULL"
        ((message, note),) = tables.execute(parked)
        assert message == PARKED
        assert set(json.loads(note)) == NOTE_FIELDS


# What is told: OpenTelemetry, and the log.

CALL = {"iii.function.id", "error.type", "iii.error.category"}
METRICS = {
    "iii.client.call.duration": ("Histogram", "s", CALL),
    "iii.client.call.retries": ("Histogram", "{retry}", CALL),
    "iii.client.call.retry_delay": ("Histogram", "s", CALL),
    "iii.retry.decisions": ("Sum", "{decision}", {*CALL, "iii.retry.decision"}),
    "iii.circuit_breaker.transitions": (
        "Sum",
        "{transition}",
        {"iii.function.id", "iii.circuit_breaker.state"},
    ),
    "iii.retry.budget.available": ("Gauge", "{permit}", {"iii.policy.name", "iii.function.id"}),
    "iii.retry.budget.empty": ("Gauge", "s", {"iii.policy.name", "iii.function.id"}),
    "iii.retry.budget.permits": (
        "Sum",
        "{permit}",
        {"iii.function.id", "iii.retry.budget.outcome"},
    ),
    "iii.handler.failures": ("Sum", "{failure}", CALL),
    "iii.handler.successes": ("Sum", "{success}", {"iii.function.id"}),
    "iii.messages.parked": ("Sum", "{message}", CALL),
    "iii.dead_letters": ("Gauge", "{message}", {"iii.function.id", "iii.error.category"}),
    "iii.relay.waiting": ("Gauge", "{message}", {"iii.relay.kind"}),
    "iii.relay.oldest": ("Gauge", "s", set()),
    "iii.bulkhead.in_use": ("Gauge", "{call}", {"iii.function.id"}),
    "iii.bulkhead.waiting": ("Gauge", "{call}", {"iii.function.id"}),
    "iii.handler.limit": ("Gauge", "{call}", {"iii.function.id"}),
    "iii.handler.running": ("Gauge", "{call}", {"iii.function.id"}),
    "iii.handler.waiting": ("Gauge", "{call}", {"iii.function.id"}),
    "iii.policy.reloads.refused": ("Sum", "{reload}", set()),
    "iii.worker.registration.transitions": (
        "Sum",
        "{transition}",
        {"iii.function.id", "iii.registration.kind", "iii.registration.state"},
    ),
}
SPANS = {
    "retry": {*CALL, "iii.call.attempts", "iii.error.execution", "iii.retry.decision"},
    "attempt": {
        *CALL,
        "iii.attempt.delay",
        "iii.attempt.number",
        "iii.attempt.sent",
        "iii.error.execution",
    },
    "fallback": {*CALL, "iii.error.execution", "iii.fallback.kind", "iii.fallback.target"},
}
# Up to 0.1.0 without `iii_`: a program that stamps a `trace_id` on its records lost these.
FAILURE = {
    "iii_function_id",
    "iii_code",
    "iii_category",
    "iii_reason",
    "iii_attempt",
    "iii_delay",
    "iii_invocation_id",
    "iii_trace_id",
    "iii_span_id",
}
RECORDS = [
    FAILURE,
    {*FAILURE, "iii_duration", "iii_exception"},
    {*FAILURE, "iii_parked"},
    {*FAILURE, "iii_waiting"},
    {*FAILURE, "iii_refused"},
    {"iii_function_id", "iii_state", "iii_was"},
    {"iii_function_id", "iii_kind", "iii_state", "iii_was", "iii_owner", "iii_code"},
]


class TestTelemetry:
    def test_metrics(self, told: list[logging.LogRecord], seen: Seen) -> None:
        found = {
            name: (one.kind, one.unit, {key for point in one.points for key in point.attributes})
            for name, one in seen.metrics().items()
        }
        assert found == METRICS

    def test_spans(self, told: list[logging.LogRecord], seen: Seen) -> None:
        found: dict[str, set[str]] = {}
        for span in seen.spans():
            what, _, name = span.name.partition(" ")
            assert name == attributes(span)["iii.function.id"]
            found.setdefault(what, set()).update(attributes(span))
        assert found == SPANS

    def test_records(self, told: list[logging.LogRecord], seen: Seen) -> None:
        plain = {*vars(logging.makeLogRecord({})), "message", "taskName"}
        # A closed store of an earlier test may still be there to be counted.
        records = [record for record in told if record.module != "parkings"]
        found = {frozenset(set(vars(record)) - plain) for record in records}
        assert found == {frozenset(fields) for fields in RECORDS}

    def test_fields_of_all_records(self) -> None:
        """Those that the run does not make, too, as the source has them: without the prefix."""
        found = {
            key.value
            for tree in sources().values()
            for node in ast.walk(tree)
            if isinstance(node, ast.keyword)
            and node.arg == "extra"
            and isinstance(node.value, ast.Dict)
            for key in node.value.keys
            if isinstance(key, ast.Constant)
        }
        assert found == {
            "code",
            "delay",
            "duration",
            "exception",
            "function_id",
            "function_ids",
            "hook",
            "kind",
            "observer",
            "offset",
            "owner",
            "parked",
            "payload_bytes",
            "problems",
            "queue",
            "refused",
            "sender",
            "state",
            "waiting",
            "was",
        }


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Category, {"transient", "auth", "not-found", "payload", "permanent"}),
        (Execution, {"not_executed", "maybe_executed", "executed"}),
        (State, {"claimed", "running", "done", "failed", "other"}),
        (RegistrationState, {"owner", "standby", "missing", "rejected", "unknown"}),
        (
            Reason,
            {
                "retried",
                "exhausted",
                "deadline",
                "budget_exhausted",
                "not_retryable",
                "not_idempotent",
                "already_retried",
                "circuit_open",
                "bulkhead_full",
                "pushback",
                "stopped",
                "not_ready",
                "handed_off",
            },
        ),
    ],
)
def test_values(kind: type[StrEnum], values: set[str]) -> None:
    assert {one.value for one in kind} == values


# The environment.


def sources() -> dict[str, ast.Module]:
    """Every module of the package, by its full name."""
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for path in PACKAGE.rglob("*.py")
    }


def variables(tree: ast.Module) -> Iterator[ast.expr]:
    """What a module looks up in the environment, and what its commands take from there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "envvar":
            yield node.value
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
            yield node.slice
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if "environ." in called or called.endswith("getenv"):
                yield node.args[0]


def test_environment_variables() -> None:
    found = set()
    for module, tree in sources().items():
        for name in variables(tree):
            if isinstance(name, ast.Constant):
                found.add(name.value)
            else:
                loaded = vars(import_module(module))
                found.add(loaded.get(ast.unparse(name), f"any, by {module}"))
    assert found == {
        "HOME",
        "III_NAMESPACE",
        "III_NAMESPACE_GRACE_MS",
        "III_RESILIENCE_METRICS_FUNCTIONS",
        "III_RESILIENCE_POLICIES",
        "III_TOKEN",
        "III_URL",
        "III_WORKER_NAME",
        # `${NAME}` in a configuration, as the engine has it.
        "any, by iii_resilience.testing.loopback.configuration",
    }


# Policy files.


class TestPolicyFiles:
    def test_keys(self) -> None:
        made = schema()
        assert set(made["properties"]) == {
            "version",
            "policies",
            "rules",
            "default",
            "queues",
            "codes",
            "exceptions",
        }
        found = {name: set(of["properties"]) for name, of in made["definitions"].items()}
        assert found == {
            "Backoff": {"base_ms", "factor", "cap_ms", "throttled_base_ms", "jitter"},
            "Breaker": {
                "failure_rate",
                "window_ms",
                "min_calls",
                "open_ms",
                "probes",
                "slow_call_ms",
            },
            "Budget": {"ratio", "burst", "min_per_second"},
            "Bulkhead": {"limit", "queue", "wait_ms"},
            "Code": {
                "category",
                "execution",
                "origin",
                "remedy",
                "meaning",
                "source",
                "system",
                "throttled",
                "queue",
            },
            "Enqueue": {"enqueue"},
            "Queue": {
                "max_retries",
                "concurrency",
                "timeout_ms",
                "backoff_ms",
                "poll_interval_ms",
                "type",
                "message_group_field",
                "redeliver_on_engine_restart",
            },
            "Reroute": {"reroute", "namespace"},
            "RetryPolicy": {
                "extends",
                "attempts",
                "backoff",
                "deadline_ms",
                "attempt_timeout_ms",
                "budget",
                "breaker",
                "bulkhead",
                "fallback",
                "retry_unexecuted",
                "ready_timeout_ms",
                "max_stops",
                "max_payload_bytes",
            },
            "Rule": {"function", "policy", "idempotent"},
        }

    def test_values(self) -> None:
        def choices(node: Any) -> Iterator[frozenset[str]]:
            if isinstance(node, dict):
                if "enum" in node:
                    yield frozenset(node["enum"])
                node = list(node.values())
            for part in node if isinstance(node, list) else ():
                yield from choices(part)

        assert set(choices(schema())) == {
            frozenset({"transient", "auth", "not-found", "payload", "permanent"}),
            frozenset({"not_executed", "maybe_executed", "executed"}),
            frozenset({"full", "equal", "decorrelated", "none"}),
            frozenset({"standard", "fifo"}),
        }

    def test_ready_made_files(self) -> None:
        for name in ("default", "interactive", "background", "payments"):
            assert load_policies(f"builtin:{name}").warnings == ()

    def test_entry_of_engine(self) -> None:
        assert inspect.signature(policies_from_engine).parameters["entry"].default == (
            "iii-resilience"
        )


# `--json`.

FAILURE_KEYS = {
    "already_retried",
    "category",
    "code",
    "execution",
    "function_id",
    "inner",
    "known",
    "layer",
    "limit_bytes",
    "message",
    "origin",
    "payload_bytes",
    "remedy",
    "retry_after",
    "stacktrace",
    "system",
    "throttled",
}
PROBLEM_KEYS = {"column", "file", "line", "message", "path"}


def below(start: str, keys: set[str]) -> set[str]:
    return {start, *(f"{start}.{key}" for key in keys)}


class TestJson:
    @staticmethod
    def keys(*arguments: str) -> set[str]:
        return paths(json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout))

    def test_explain(self) -> None:
        inner = json.dumps({"code": "TIMEOUT", "message": "late"})
        error = json.dumps({"code": "invocation_failed", "message": inner})
        assert self.keys("explain", error) == {
            *below("failure", FAILURE_KEYS),
            *below("failure.inner", FAILURE_KEYS),
            "nearest",
            "outlooks",
            "outlooks.[].action",
            "outlooks.[].attempts",
            *below("outlooks.[].decision", {"delay", "reason"}),
            "outlooks.[].idempotent",
            "outlooks.[].most",
            "why",
        }

    def test_codes(self) -> None:
        assert self.keys("codes") == {
            "[].category",
            "[].code",
            "[].execution",
            "[].meaning",
            "[].origin",
            "[].queue",
            "[].remedy",
            "[].source",
            "[].system",
            "[].throttled",
        }

    def test_doctor(self, engine: LoopbackEngine) -> None:
        found = self.keys("doctor", "--engine", engine.url)
        assert found == {"[].advice", "[].bad", "[].subject", "[].told"}

    def test_check(self, tmp_path: Path) -> None:
        broken, odd = tmp_path / "broken.yaml", tmp_path / "odd.yaml"
        broken.write_text("polices: {}\n", encoding="utf-8")
        rule = "{function: 'a::*', policy: a}"
        odd.write_text(
            f"version: 1\npolicies: {{a: {{attempts: 2}}}}\nrules: [{rule}, {rule}]\n", "utf-8"
        )
        problems = {f"problems.[].{key}" for key in PROBLEM_KEYS}
        warnings = {f"warnings.[].{key}" for key in PROBLEM_KEYS}
        assert self.keys("check", str(broken)) == {"valid", "problems", "warnings", *problems}
        assert self.keys("check", str(odd)) == {"valid", "problems", "warnings", *warnings}

    def test_show(self) -> None:
        assert self.keys("show", "a::b") == {
            "attempts",
            "attempts.[].attempt",
            "attempts.[].delay_least_ms",
            "attempts.[].delay_most_ms",
            "attempts.[].delay_most_throttled_ms",
            "attempts_most",
            "delays_most_ms",
            "delays_most_throttled_ms",
            "ends_within_ms",
            "function_id",
            "idempotent",
            "policy",
            "rule",
            "rule_origin",
            "values",
            "values.[].origin",
            "values.[].path",
            "values.[].value",
            "warnings",
        }

    def test_simulate(self, tmp_path: Path) -> None:
        scenario = tmp_path / "s.yaml"
        scenario.write_text(
            "version: 1\nduration_ms: 3000\ncalls: {rate: 20, processes: 2}\n"
            "timetable: [{start_ms: 0, end_ms: 2000, error_rate: 0.5}]\n",
            "utf-8",
        )
        found = self.keys("simulate", "--scenario", str(scenario))
        by_reason = "rows.[].given_up."
        assert {key for key in found if not key.startswith(by_reason)} == {
            *("advice", "broken", "calls_per_second", "duration_ms", "holds", "processes", "rows"),
            *("scenario", "seed", "trouble_end_ms", "trouble_start_ms"),
            *below(
                "rows.[]",
                {
                    *("calls", "circuit_opened_ms", "delays", "given_up", "in_time_after"),
                    *("in_time_during", "load", "name", "queued", "recovery_ms", "series"),
                    *("series_start_ms", "wait_p50_ms", "wait_p99_ms"),
                },
            )
            - {"rows.[]"},
            "rows.[].delays.[].count",
            "rows.[].delays.[].delay_ms",
            *(f"rows.[].series.{name}" for name in ("answers", "attempts", "calls", "in_time")),
        }

    def test_dlq(self, engine: LoopbackEngine, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "store.db")
        fill(store)
        store.close()
        engine.define_queue("jobs")
        where = ("--engine", engine.url, "--parking", str(tmp_path / "store.db"))
        assert self.keys("dlq", "list", "jobs", *where) == {
            "[].category",
            "[].code",
            "[].deliveries",
            "[].due",
            "[].function_id",
            "[].id",
            "[].queue",
            "[].since",
            "[].source",
        }
        assert self.keys("dlq", "triage", "jobs", *where) == {
            "[].advice",
            "[].category",
            "[].code",
            "[].count",
            "[].function_id",
            "[].oldest",
        }

    def test_commands_with_it(self) -> None:
        """Each of them is above."""
        found = {
            (group, name)
            for group in ("", "dlq")
            for name, command in commands(group).items()
            if any("--json" in option.opts for option in command.params)
        }
        assert found == {
            ("", "check"),
            ("", "codes"),
            ("", "doctor"),
            ("", "explain"),
            ("", "show"),
            ("", "simulate"),
            ("dlq", "list"),
            ("dlq", "triage"),
        }


def commands(group: str) -> dict[str, Any]:
    root: Any = typer.main.get_command(app)
    found: dict[str, Any] = (root.commands[group] if group else root).commands
    return found


# What programs import, and what stores of their own must have.


def test_methods_of_store_protocol() -> None:
    found = {
        name: [*inspect.signature(getattr(Store, name)).parameters][1:]
        for name in dir(Store)
        if not name.startswith("_")
    }
    assert found == {
        "begin": ["slot", "token"],
        "claim": ["slot", "fingerprint", "nonce", "lease", "keep"],
        "close": [],
        "delivered": ["message", "keep"],
        "finish": ["slot", "token", "outcome", "failed", "keep"],
        "forget_failure": ["slot"],
        "note": ["message", "note", "parked", "keep"],
        "prepare": ["message", "revision"],
        "records": [],
        "release": ["slot", "token"],
        "remove": ["message", "revision"],
        "renew": ["slot", "token", "lease", "keep"],
        "settle": ["message"],
    }
    assert set(inspect.get_annotations(Store)) == {"blocking", "transactions"}


def test_fields_that_stores_answer_with() -> None:
    assert names(Claim) == {"state", "token", "left", "outcome"}
    assert names(Record) == {"id", *MESSAGE_FIELDS, "due_at"}
    transaction = inspect.get_annotations(Store.begin, eval_str=True)["return"]
    assert {name for name in dir(transaction) if not name.startswith("_")} == {
        "commit",
        "handle",
        "rollback",
    }
    assert set(inspect.get_annotations(transaction)) == {"exclusive"}


def names(kind: Any) -> set[str]:
    return {field.name for field in attrs.fields(kind)}


PUBLIC = {
    handling: {
        "AuthError",
        "Drained",
        "HandlerError",
        "Health",
        "InFlight",
        "LimitUse",
        "NotFoundError",
        "PayloadError",
        "PermanentError",
        "Registration",
        "RegistrationState",
        "RelayStatus",
        "TransientError",
        "consumer",
        "idempotent",
        "reports_errors",
    },
    stores: {
        "Claim",
        "MemoryStore",
        "Record",
        "PostgresStore",
        "RedisStore",
        "SqliteStore",
        "State",
        "Store",
        "StoreRefusedError",
        "StoreUnavailableError",
        "TransactionEndedError",
    },
    testing: {
        "AnswerError",
        "AnswerResult",
        "Call",
        "CutCaller",
        "CutTarget",
        "Delay",
        "Drop",
        "DropAnswer",
        "FakeClock",
        "Fault",
        "Frame",
        "LoopbackEngine",
        "Rbac",
        "RestartEngine",
        "fake_clock",
        "no_sleep",
        "retries_off",
    },
}


@pytest.mark.parametrize("package", PUBLIC, ids=lambda package: package.__name__)
def test_public_names(package: Any) -> None:
    assert set(package.__all__) == PUBLIC[package]
    assert all(hasattr(package, name) for name in PUBLIC[package])


def test_one_public_name_of_config() -> None:
    assert "dump_policies" in vars(config)["__all__"]
    assert callable(config.dump_policies)
