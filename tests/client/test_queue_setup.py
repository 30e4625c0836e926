"""`ensure_queue`: defines what is missing, and never touches what is there."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from support.engine_fixtures import connect, engine
from support.real_sdk import InvocationError, needs

from iii_resilience import NotConnectedError, Queue, ensure_queue, resilient
from iii_resilience.testing import AnswerError, LoopbackEngine

__all__ = ["connect", "engine"]


class Interrupted:
    """A client before whose calls of a function something else happens.

    Args:
        client: The real client.
        function_id: The function.
        events: What happens before its first, second, … call; the last one before all that follow.
    """

    def __init__(self, client: Any, function_id: str, *events: Callable[[], object]) -> None:
        self._client = client
        self._function_id = function_id
        self._events = list(events)

    def trigger(self, request: dict[str, Any]) -> Any:
        if request["function_id"] == self._function_id:
            event = self._events.pop(0) if len(self._events) > 1 else self._events[0]
            event()
        return self._client.trigger(request)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def nothing() -> None:
    """No event."""


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the library has logged."""
    return [record.getMessage() for record in caplog.records if record.name == "iii_resilience"]


def definition(engine: LoopbackEngine, client: Any, name: str) -> dict[str, Any]:
    entry = client.trigger({"function_id": "configuration::get", "payload": {"id": "queue"}})
    found: dict[str, Any] = entry["value"]["queue_configs"][name]
    return found


@pytest.mark.parametrize("wrap", [resilient, lambda client: client], ids=["resilient", "plain"])
def test_missing_queue_is_defined_with_finite_timeout(
    engine: LoopbackEngine, connect: Callable[..., Any], wrap: Callable[[Any], Any]
) -> None:
    client = connect()
    worker = wrap(client)
    assert ensure_queue(worker, "jobs", max_retries=5, settle=0)
    defined = definition(engine, client, "jobs")
    assert defined["timeout_ms"] == 300_000
    assert defined["redeliver_on_engine_restart"] is True
    assert defined["max_retries"] == 5
    assert not ensure_queue(worker, "jobs", max_retries=5)


def test_existing_queue_is_left_alone_without_redelivery(
    engine: LoopbackEngine, connect: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    client = connect()
    heard: list[Any] = []
    go_on = threading.Event()

    def handler(data: Any) -> None:
        heard.append(data)
        go_on.wait(10)

    client.register_function("jobs::do", handler)
    engine.wait_registered("jobs::do")
    engine.define_queue("jobs", max_retries=1)
    request = {"function_id": "jobs::do", "payload": {"n": 1}}
    client.trigger({**request, "action": {"type": "enqueue", "queue": "jobs"}})
    with caplog.at_level(logging.WARNING, "iii_resilience"):
        assert not ensure_queue(client, Queue("jobs", max_retries=9))
    go_on.set()
    engine.wait_queue_idle("jobs")
    assert len(heard) == 1
    assert definition(engine, client, "jobs")["max_retries"] == 1
    (warning,) = warnings(caplog)
    assert warning == (
        "queue 'jobs' is defined already, with another max_retries, "
        "redeliver_on_engine_restart, timeout_ms; it stays as it is"
    )


def test_without_queue_worker_engines_own_error_comes_through(
    connect: Callable[..., Any],
) -> None:
    with LoopbackEngine(queue_worker=False) as bare:
        from iii import InitOptions, register_worker

        client = register_worker(bare.url, InitOptions(otel={"enabled": False}))
        try:
            with pytest.raises(InvocationError) as caught:
                ensure_queue(client, "jobs")
            assert caught.value.code == "function_not_found"
            bare.stop_listening()
            until = time.monotonic() + 10
            while client.get_connection_state() == "connected" and time.monotonic() < until:
                time.sleep(0.01)
            with pytest.raises(
                NotConnectedError, match=r"no connection to the engine within 0\.2 s"
            ):
                ensure_queue(client, "jobs", answer_within=0.2)
        finally:
            client.shutdown()


async def test_on_sdks_own_thread_it_refuses_instead_of_hanging(
    engine: LoopbackEngine, connect: Callable[..., Any]
) -> None:
    client = connect()
    seen: list[str] = []

    async def handler(data: Any) -> None:
        try:
            ensure_queue(client, "jobs")
        except RuntimeError as error:
            seen.append(str(error))

    client.register_function("jobs::do", handler)
    engine.wait_registered("jobs::do")
    connect("caller").trigger({"function_id": "jobs::do", "payload": {}})
    assert seen
    assert "SDK's own thread" in seen[0]


def test_settings_travel_in_milliseconds() -> None:
    queue = Queue(
        "jobs",
        max_retries=0,
        concurrency=1,
        timeout=1.5,
        backoff=0.25,
        type="fifo",
        message_group_field="order",
        poll_interval=0.05,
        redeliver_on_engine_restart=False,
    )
    assert queue.to_wire() == {
        "max_retries": 0,
        "concurrency": 1,
        "timeout_ms": 1500,
        "type": "fifo",
        "message_group_field": "order",
        "backoff_ms": 250,
        "poll_interval_ms": 50,
        "redeliver_on_engine_restart": False,
    }


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"max_retries": -1}, ValueError),
        ({"max_retries": 1.5}, ValueError),
        ({"max_retries": True}, ValueError),
        ({"concurrency": 0}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("inf")}, ValueError),
        ({"backoff": -1}, ValueError),
        ({"type": "lifo"}, ValueError),
        ({"type": "fifo"}, ValueError),
        ({"message_group_field": ""}, ValueError),
        ({"redeliver_on_engine_restart": 1}, ValueError),
        ({"retries": 1}, TypeError),
    ],
)
def test_bad_settings_are_refused_before_anything_is_asked(
    settings: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        ensure_queue(object(), "jobs", **settings)


def test_name_and_one_way_of_giving_settings_are_needed() -> None:
    with pytest.raises(TypeError, match="a queue's name"):
        ensure_queue(object(), "")
    with pytest.raises(TypeError, match="either a Queue or its name and fields"):
        ensure_queue(object(), Queue("jobs"), max_retries=1)


@pytest.mark.parametrize("name", [" jobs", "jobs\n", " "])
def test_name_that_queue_worker_would_trim_is_refused(name: str) -> None:
    # Trimmed, it may be the name of another queue, which would be defined again.
    with pytest.raises(ValueError, match=r"Queue\.name"):
        Queue(name)
    with pytest.raises(ValueError, match=r"Queue\.name"):
        ensure_queue(object(), name)


@pytest.mark.parametrize("field", ["timeout", "poll_interval"])
def test_time_that_is_less_than_millisecond_is_refused(field: str) -> None:
    # The wire has whole milliseconds, and the queue worker refuses 0.
    with pytest.raises(ValueError, match=rf"Queue\.{field}"):
        Queue("jobs", **dict[str, Any]({field: 0.0004}))
    assert Queue("jobs", **dict[str, Any]({field: 0.001})).to_wire()[f"{field}_ms"] == 1


def test_queue_is_found_under_another_config_entry(
    engine: LoopbackEngine, connect: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    # The supervisor names the queue worker's entry (III_CONFIG_NAME): "queue" is not there then.
    client = connect()
    engine.define_queue("jobs", max_retries=1)
    gone = AnswerError("NOT_FOUND", "configuration 'queue' not found")
    engine.inject("configuration::get", gone, times=None)
    with caplog.at_level(logging.WARNING, "iii_resilience"):
        assert not ensure_queue(client, "jobs", max_retries=9)
    (warning,) = warnings(caplog)
    assert "queue 'jobs' is defined already, how cannot be seen" in warning
    assert ensure_queue(client, "others", settle=0)
    engine.clear_faults()
    assert definition(engine, client, "jobs")["max_retries"] == 1


@pytest.mark.parametrize(
    "message",
    [
        "queue configuration is still being applied; retry queue::define",
        "queue configuration changed while defining 'jobs'; retry queue::define",
    ],
)
def test_busy_queue_worker_is_called_again(
    engine: LoopbackEngine, connect: Callable[..., Any], message: str
) -> None:
    client = connect()
    busy = AnswerError("invocation_failed", f"handler error: {message}")
    engine.inject("queue::define", busy, times=2)
    assert ensure_queue(client, "jobs", settle=0)
    assert len(engine.calls("queue::define")) == 3
    engine.inject("queue::define", busy, times=None)
    with pytest.raises(InvocationError, match="retry queue::define"):
        ensure_queue(client, "others", answer_within=1.5)


def test_whoever_was_faster_meanwhile_is_not_defined_over(
    engine: LoopbackEngine, connect: Callable[..., Any]
) -> None:
    client = connect()
    busy = AnswerError(
        "invocation_failed",
        "handler error: queue configuration changed while defining 'jobs'; retry queue::define",
    )
    engine.inject("queue::define", busy)
    faster = partial(engine.define_queue, "jobs", max_retries=1)
    worker = Interrupted(client, "configuration::get", nothing, faster, nothing)
    assert not ensure_queue(worker, "jobs", max_retries=9)
    assert definition(engine, client, "jobs")["max_retries"] == 1


def take_out(client: Any, name: str) -> None:
    """What an engine does that is just reading its configuration's files."""
    value = client.trigger({"function_id": "configuration::get", "payload": {"id": "queue"}})
    queues = {**value["value"]["queue_configs"]}
    queues.pop(name, None)
    payload = {"id": "queue", "value": {**value["value"], "queue_configs": queues}}
    client.trigger({"function_id": "configuration::set", "payload": payload})


def test_definition_that_is_taken_back_is_made_again(
    engine: LoopbackEngine, connect: Callable[..., Any]
) -> None:
    client = connect()
    taken_out = partial(take_out, connect(), "jobs")
    worker = Interrupted(client, "configuration::get", nothing, taken_out, nothing)
    assert ensure_queue(worker, "jobs", max_retries=7, settle=0.3)
    assert definition(engine, client, "jobs")["max_retries"] == 7
    assert len(engine.calls("queue::define")) == 2


def test_one_that_comes_back_by_itself_is_not_made_again(
    engine: LoopbackEngine, connect: Callable[..., Any]
) -> None:
    away = partial(take_out, connect(), "jobs")
    back = partial(engine.define_queue, "jobs", max_retries=1)
    worker = Interrupted(connect(), "configuration::get", nothing, away, nothing, back, nothing)
    assert ensure_queue(worker, "jobs", max_retries=7, settle=0.4)
    assert len(engine.calls("queue::define")) == 1


def test_one_that_never_lasts_is_error_that_says_so(
    engine: LoopbackEngine, connect: Callable[..., Any]
) -> None:
    taken_out = partial(take_out, connect(), "jobs")
    worker = Interrupted(connect(), "configuration::get", taken_out)
    with pytest.raises(RuntimeError, match="something else keeps changing the configuration"):
        ensure_queue(worker, "jobs", settle=0.1, answer_within=1.5)


def test_new_definition_is_polled_longer_than_reload_takes(
    connect: Callable[..., Any],
) -> None:
    client = connect()
    began = time.monotonic()
    assert ensure_queue(client, "jobs")
    assert time.monotonic() - began >= 0.75
    began = time.monotonic()
    assert not ensure_queue(client, "jobs", settle=20.0)
    assert time.monotonic() - began < 10.0, "what is there already is not waited for"


def test_one_of_two_concurrent_definitions_defines_it(
    engine: LoopbackEngine, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from iii_resilience.client import queue_setup

    monkeypatch.setattr(queue_setup, "_defined", lambda *_: None)  # both have looked already
    client = connect()
    found = [ensure_queue(client, "jobs", settle=0) for _ in range(2)]
    assert found == [True, False]


def test_definition_rejected_otherwise_is_not_repeated(
    engine: LoopbackEngine, connect: Callable[..., Any]
) -> None:
    client = connect()
    engine.inject("queue::define", AnswerError("invocation_failed", "handler error: no"))
    with pytest.raises(InvocationError, match="no"):
        ensure_queue(client, "jobs")
    assert len(engine.calls("queue::define")) == 1


@needs((0, 23), "sends no namespace")
def test_queue_worker_of_default_namespace_is_used(
    engine: LoopbackEngine,
) -> None:
    from iii import InitOptions, register_worker

    client = register_worker(
        engine.url, InitOptions(worker_name="shop", namespace="shop", otel={"enabled": False})
    )
    try:
        assert ensure_queue(client, "jobs", settle=0)
        assert not ensure_queue(client, "jobs")
    finally:
        client.shutdown()
