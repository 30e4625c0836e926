"""HTTP routes and cron triggers of the loopback engine, with the real SDK."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.engine_fixtures import connect, engine, target
from support.waiting import until

from iii_resilience.testing import LoopbackEngine
from iii_resilience.testing.loopback.cron import Schedule

__all__ = ["connect", "engine", "target"]


def ask(
    engine: LoopbackEngine, method: str, path: str, body: Any = None
) -> tuple[int, dict[str, str], Any]:
    address = urlsplit(engine.http_url)
    client = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    try:
        headers = {} if body is None else {"content-type": "application/json"}
        client.request(method, path, None if body is None else json.dumps(body), headers)
        response = client.getresponse()
        text = response.read()
        return response.status, dict(response.getheaders()), json.loads(text) if text else None
    finally:
        client.close()


def route(client: Any, function_id: str, path: str, **config: Any) -> Any:
    trigger = {"type": "http", "function_id": function_id, "config": {"api_path": path, **config}}
    return client.register_trigger(trigger)


class TestRoutes:
    def test_handler_gets_request_and_gives_response(
        self, engine: LoopbackEngine, target: Any
    ) -> None:
        seen: list[Any] = []

        def handle(data: Any) -> Any:
            seen.append(data)
            return {"status_code": 201, "body": {"ok": True}, "headers": {"X-A": "b"}}

        target.register_function("t::f", handle)
        route(target, "t::f", "/orders/:id", http_method="POST")
        until(lambda: ask(engine, "POST", "/orders/1")[0] == 201)
        status, headers, body = ask(engine, "POST", "/orders/7?a=1&b=", {"x": 1})
        assert (status, headers["x-a"], body) == (201, "b", {"ok": True})
        data = seen[-1]
        assert data["path_params"] == {"id": "7"}
        assert data["query_params"] == {"a": "1", "b": ""}
        assert (data["method"], data["path"], data["body"]) == ("POST", "/orders/:id", {"x": 1})

    def test_last_registration_takes_route_with_it(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        """As on engine 0.23: the older trigger is still listed, and answers nothing."""
        first, second = connect("first"), connect("second")
        first.register_function("t::f", lambda data: {"body": 1})
        engine.wait_registered("t::f")
        route(first, "t::f", "/f")
        until(lambda: ask(engine, "GET", "/f")[0] == 200)
        later = route(second, "t::f", "/f")

        def listed() -> int:
            request = {"function_id": "engine::functions::info", "payload": {"function_id": "t::f"}}
            return len(first.trigger(request)["registered_triggers"])

        until(lambda: listed() == 2)
        later.unregister()
        until(lambda: ask(engine, "GET", "/f")[0] == 404)
        assert listed() == 1

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("GET", "/nowhere", 404), ("DELETE", "/f", 405), ("HEAD", "/f", 404), ("GET", "/f/", 404)],
    )
    def test_what_has_no_route_is_refused(
        self, engine: LoopbackEngine, target: Any, method: str, path: str, status: int
    ) -> None:
        target.register_function("t::f", lambda data: {"body": 1})
        route(target, "t::f", "/f")
        until(lambda: ask(engine, "GET", "/f")[0] == 200)
        assert ask(engine, method, path)[0] == status

    def test_error_of_handler_is_500_with_its_code(
        self, engine: LoopbackEngine, target: Any
    ) -> None:
        def fails(data: Any) -> None:
            raise ValueError("boom")

        target.register_function("t::f", fails)
        route(target, "t::f", "/f")
        until(lambda: ask(engine, "GET", "/f")[0] == 500)
        error = ask(engine, "GET", "/f")[2]["error"]
        assert (error["code"], error["message"]) == ("invocation_failed", "boom")

    def test_restart_keeps_port_and_forgets_routes(
        self, engine: LoopbackEngine, target: Any
    ) -> None:
        target.register_function("t::f", lambda data: {"body": 1})
        route(target, "t::f", "/f")
        until(lambda: ask(engine, "GET", "/f")[0] == 200)
        url = engine.http_url
        engine.restart()
        assert engine.http_url == url
        until(lambda: ask(engine, "GET", "/f")[0] == 200)  # the SDK registers it again

    def test_chunked_body_is_read(self, engine: LoopbackEngine, target: Any) -> None:
        target.register_function("t::f", lambda data: {"body": data["body"]})
        route(target, "t::f", "/f", http_method="POST")
        until(lambda: ask(engine, "POST", "/f")[0] == 200)
        address = urlsplit(engine.http_url)
        client = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
        chunks = iter([b'{"a":', b"1}"])
        client.request("POST", "/f", chunks, {"content-type": "application/json"})
        assert json.loads(client.getresponse().read()) == {"a": 1}
        client.close()


class TestCron:
    def test_it_fires_each_second_until_it_is_given_up(
        self, engine: LoopbackEngine, target: Any
    ) -> None:
        seen: list[Any] = []

        def handle(data: Any) -> None:
            seen.append(data)

        def gaps() -> set[float]:
            times = [datetime.fromisoformat(data["scheduled_time"]) for data in [*seen]]
            assert all(at.microsecond == 0 for at in times)
            return {(later - at).total_seconds() for at, later in pairwise(times)}

        target.register_function("t::tick", handle)
        trigger = {
            "type": "cron",
            "function_id": "t::tick",
            "config": {"expression": "* * * * * *"},
        }
        reference = target.register_trigger(trigger)
        until(lambda: 1 in gaps())  # a busy machine may miss a second
        reference.unregister()
        assert seen[0]["trigger"] == "cron"

    @pytest.mark.parametrize(
        ("expression", "after", "expected"),
        [
            ("* * * * * *", "2026-01-01T00:00:00.5", "2026-01-01T00:00:01"),
            ("0 0 * * * *", "2026-01-01T23:59:59", "2026-01-02T00:00:00"),
            ("*/20 * * * * *", "2026-01-01T00:00:20", "2026-01-01T00:00:40"),
            ("0 30 9 * * Mon-Fri", "2026-01-02T10:00:00", "2026-01-05T09:30:00"),
            ("0 0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
            ("0 0 0 1 jan,Jul * 2027", "2026-01-01T00:00:00", "2027-01-01T00:00:00"),
            ("@daily", "2026-01-01T00:00:00", "2026-01-02T00:00:00"),
            ("0 0 0 * * 1", "2026-01-01T00:00:00", "2026-01-04T00:00:00"),  # a Sunday
        ],
    )
    def test_next_time(self, expression: str, after: str, expected: str) -> None:
        at = Schedule.parse(expression).after(datetime.fromisoformat(after).replace(tzinfo=UTC))
        assert at == datetime.fromisoformat(expected).replace(tzinfo=UTC)

    def test_schedule_that_is_over_has_no_next_time(self) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        assert Schedule.parse("0 0 0 1 1 * 2020").after(now) is None

    @pytest.mark.parametrize(
        "expression", ["nonsense", "* * * * *", "60 * * * * *", "0 0 0 0 * *", "*/0 * * * * *"]
    )
    def test_what_cannot_be_read_is_refused(self, expression: str) -> None:
        with pytest.raises(ValueError, match=r"field|does not support"):
            Schedule.parse(expression)
