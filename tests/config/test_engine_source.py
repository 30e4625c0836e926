"""Policies from the engine's configuration worker: read, followed, and done without."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from iii import InvocationError
from support.engine_fixtures import connect, engine
from support.waiting import until

import iii_resilience
from iii_resilience import (
    ConfigError,
    ConnectionLostError,
    PolicyBook,
    RetryPolicy,
    load_policies,
    policies_from_engine,
    resilient,
)
from iii_resilience.config import engine_source
from iii_resilience.testing import LoopbackEngine

__all__ = ["connect", "engine"]

FILE = {"version": 1, "policies": {"default": {"attempts": 2}}}
ENTRY = "iii-resilience"


def value(attempts: int, **more: Any) -> dict[str, Any]:
    return {"version": 1, "policies": {"default": {"attempts": attempts}}, **more}


def warned(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    records = [each for each in caplog.records if each.name == "iii_resilience"]
    return [each.getMessage() for each in records if each.levelno == level]


class Operator:
    """Changes entries as operators do."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def call(self, what: str, **payload: Any) -> Any:
        return self._client.trigger({"function_id": f"configuration::{what}", "payload": payload})

    def set(self, new: Any) -> Any:
        return self.call("set", id=ENTRY, value=new)

    def get(self) -> Any:
        return self.call("get", id=ENTRY)["value"]


@pytest.fixture
def operator(connect: Callable[..., Any]) -> Operator:
    return Operator(connect("operator"))


@pytest.fixture
def worker(connect: Callable[..., Any]) -> Iterator[Any]:
    worker = resilient(connect("worker"), policies=RetryPolicy())
    yield worker
    worker.shutdown()


def attempts(book: PolicyBook) -> int:
    return book.for_function("f").policy.attempts


def test_entry_that_is_not_there_is_made_from_files(
    worker: Any, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    book = policies_from_engine(worker, ENTRY, files=FILE)
    assert attempts(book) == 2
    assert load_policies(operator.get()) == book == load_policies(FILE)
    assert operator.call("schema", id=ENTRY)["schema"]["title"] == "iii-resilience policy file"
    assert book.explain("f")["attempts"].origin == "configuration iii-resilience"
    assert not warned(caplog)


def test_entry_that_is_there_counts_and_is_not_written_over(
    worker: Any, operator: Operator
) -> None:
    schema = {"type": "object"}
    operator.call(
        "register", id=ENTRY, name="n", description="d", schema=schema, initial_value=value(7)
    )
    assert attempts(policies_from_engine(worker, ENTRY, files=FILE)) == 7
    assert operator.get() == value(7)
    with pytest.raises(InvocationError, match="SCHEMA_INVALID"):
        operator.set(value(0))


def test_changes_are_followed_without_waiting_for_poll(worker: Any, operator: Operator) -> None:
    book = policies_from_engine(worker, ENTRY, files=FILE, every=3600)
    for count in (5, 9):
        operator.set(value(count))
        until(lambda: attempts(book) == count)  # noqa: B023 - looked at before the next round


def test_changes_without_event_are_found_by_poll(
    connect: Callable[..., Any], operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect("worker")
    monkeypatch.delattr(type(client), "register_trigger")  # as from SDK 0.26 on
    book = policies_from_engine(client, ENTRY, files=FILE, every=0.05)
    operator.set(value(5))
    until(lambda: attempts(book) == 5)


def test_bare_client_will_do_and_can_be_wrapped_with_book(
    connect: Callable[..., Any], operator: Operator
) -> None:
    target = connect("target")
    calls: list[Any] = []

    def fails(data: Any) -> None:
        calls.append(data)
        raise RuntimeError("ECONNRESET")

    target.register_function("orders::fails", fails)
    client = connect("worker")
    book = policies_from_engine(client, ENTRY, files=FILE)
    with resilient(client, policies=book) as worker:
        assert worker.trigger({"function_id": "configuration::get", "payload": {"id": ENTRY}})
        operator.set(value(3, rules=[{"function": "orders::*", "idempotent": True}]))
        until(lambda: attempts(book) == 3)
        assert book.for_function("orders::fails").idempotent


def test_value_beyond_schema_is_one_record_and_keeps_policies(
    worker: Any, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    book = policies_from_engine(worker, ENTRY, files=FILE, every=0.05)
    operator.set(value(5, default="nothing"))
    until(lambda: warned(caplog, logging.ERROR))
    time.sleep(0.3)
    (message,) = warned(caplog, logging.ERROR)
    assert message.startswith("configuration iii-resilience: the changed policies are refused")
    assert "configuration iii-resilience: default: names no policy: 'nothing'" in message
    assert attempts(book) == 2
    operator.set(value(5))
    until(lambda: attempts(book) == 5)


def test_entry_wrong_from_start_is_one_record_and_files_count(
    worker: Any, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    operator.call(
        "register",
        id=ENTRY,
        name="n",
        description="d",
        schema={"type": "object"},
        initial_value=value(5, default="nothing"),
    )
    book = policies_from_engine(worker, ENTRY, files=FILE, every=0.05)
    assert attempts(book) == 2
    until(lambda: warned(caplog, logging.ERROR))
    time.sleep(0.3)
    assert len(warned(caplog, logging.ERROR)) == 1
    operator.set(value(6))
    until(lambda: attempts(book) == 6)


@pytest.mark.parametrize("source", [FILE, "builtin:default", None])
def test_unreachable_entry_is_one_warning_and_files_count(
    source: Any, worker: Any, engine: LoopbackEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.forbid("configuration::*")
    book = policies_from_engine(worker, ENTRY, files=source, every=0.02)
    time.sleep(0.3)
    assert attempts(book) == (2 if source is FILE else 4)
    (message,) = warned(caplog)
    assert message.startswith("configuration iii-resilience cannot be read from the engine (FORB")
    assert not warned(caplog, logging.ERROR)


def test_environment_names_files_where_nothing_else_does(
    worker: Any, engine: LoopbackEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("version: 1\npolicies: {default: {attempts: 8}}\n", encoding="utf-8")
    monkeypatch.setenv("III_RESILIENCE_POLICIES", str(path))
    engine.forbid("configuration::*")
    assert attempts(policies_from_engine(worker)) == 8


def test_late_engine_is_followed_once_it_is_there(
    connect: Callable[..., Any],
    engine: LoopbackEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("iii_resilience.config.engine_source._CONNECTS_WITHIN", 0.1)
    client = connect("worker")
    engine.wait_workers("worker")
    engine.stop_listening()
    until(lambda: client.get_connection_state() != "connected")
    book = policies_from_engine(client, ENTRY, files=FILE, every=3600)
    assert attempts(book) == 2
    assert len(warned(caplog)) == 1
    engine.listen()
    engine.wait_workers("worker")
    Operator(connect("operator")).call("list")
    until(lambda: book.explain("f")["attempts"].origin.startswith("configuration"))


def test_after_restart_of_engine_schema_is_registered_again(
    worker: Any, engine: LoopbackEngine, operator: Operator
) -> None:
    book = policies_from_engine(worker, ENTRY, files=FILE, every=3600)
    operator.set(value(5))
    until(lambda: attempts(book) == 5)
    engine.restart()
    engine.wait_workers("worker", "operator")

    def can_be_set() -> bool:
        try:
            operator.set(value(6))
        except InvocationError as error:
            assert error.code == "SCHEMA_UNAVAILABLE"  # noqa: PT017 - until it is there again
            return False
        return True

    until(can_be_set)
    until(lambda: attempts(book) == 6)


def test_invalid_files_are_an_error_where_needed(worker: Any, operator: Operator) -> None:
    with pytest.raises(ConfigError, match="default: names no policy"):
        policies_from_engine(worker, ENTRY, files={"version": 1, "default": "x"})
    with pytest.raises(InvocationError, match="NOT_FOUND"):
        operator.get()


def test_it_ends_with_worker_and_says_nothing(
    connect: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_source, "_CONNECTS_WITHIN", 0.5)

    others = set(threading.enumerate())  # those of other tests end when they end

    def following() -> list[str]:
        names = [thread.name for thread in set(threading.enumerate()) - others]
        return [name for name in names if name == "iii-resilience-engine-policies"]

    with resilient(connect("worker"), policies=RetryPolicy()) as worker:
        book = policies_from_engine(worker, ENTRY, files=FILE, every=3600)
        until(lambda: len(following()) == 1)
    until(lambda: not following())
    assert attempts(book) == 2
    client = connect("other")
    book = policies_from_engine(client, ENTRY, files=FILE, every=0.05)
    client.shutdown()
    until(lambda: not following())
    assert not warned(caplog)


def test_look_that_loses_its_connection_is_silent(
    worker: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks again once the connection is back. Before SDK 0.24 a shutdown begins like this."""
    book = policies_from_engine(worker, ENTRY, files=FILE, every=0.02)
    ask, looks = engine_source._EngineEntry._ask, 0

    def lose_first(entry: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ConnectionLostError("the connection was lost")
        return ask(entry)

    monkeypatch.setattr(engine_source._EngineEntry, "_ask", lose_first)
    until(lambda: looks > 3)
    assert not warned(caplog)
    assert attempts(book) == 2


@pytest.mark.parametrize("entry", ["", "Payments", "a b", "x" * 65])
def test_id_that_engine_would_refuse_is_refused_here(worker: Any, entry: str) -> None:
    with pytest.raises(ValueError, match="an entry's id has 1 to 64 lower-case letters"):
        policies_from_engine(worker, entry)


def test_what_is_no_client_is_refused() -> None:
    with pytest.raises(TypeError, match="register_worker"):
        policies_from_engine(object())


def test_on_sdks_thread_it_fails_and_does_not_deadlock(
    connect: Callable[..., Any],
) -> None:
    client = connect("worker")
    told: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        try:
            policies_from_engine(client)
        except RuntimeError as error:
            told.append(error)
        done.set()

    client._loop.call_soon_threadsafe(ask)
    assert done.wait(10)
    assert "on the SDK's own thread" in str(told[0])


def test_it_is_found_where_users_look_and_loaded_only_then() -> None:
    assert iii_resilience.policies_from_engine is policies_from_engine
    code = (
        "import sys, iii_resilience as r\n"
        "assert 'iii_resilience.config.engine_source' not in sys.modules\n"
        "r.policies_from_engine\n"
        "assert 'iii_resilience.config.engine_source' in sys.modules\n"
        "assert 'yaml' not in sys.modules and 'cattrs' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'policies_from_nowhere'"):
        iii_resilience.policies_from_nowhere  # type: ignore[attr-defined]  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_client_of_another_namespace_reads_entry_too(
    engine: LoopbackEngine, operator: Operator
) -> None:
    from iii import InitOptions, register_worker

    client = register_worker(
        engine.url, InitOptions(worker_name="shop", namespace="shop", otel={"enabled": False})
    )
    try:
        book = policies_from_engine(client, ENTRY, files=FILE)
        assert attempts(book) == 2
        assert operator.get()["policies"]["default"]["attempts"] == 2
        (asked, *_) = engine.calls("configuration::get")
        assert asked.namespace == "default"
    finally:
        client.shutdown()
