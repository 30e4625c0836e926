"""The trigger type `http`: which function answers a method and path, and with what.

One entry for a method and path, as on engine 0.23: each registration overwrites it, and it is
removed with the trigger that was registered last, although an older one still stands.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import attrs

from iii_resilience.testing.loopback.history import InvocationOutcome
from iii_resilience.testing.loopback.router import Invocation, Router
from iii_resilience.testing.loopback.triggers import Trigger

_TIMEOUT: Final = 30.0  # the default of the engine's iii-http, in seconds
_METHODS: Final = frozenset({"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"})


@attrs.frozen
class HttpRequest:
    """What came in.

    Attributes:
        method: In capital letters.
        target: Path and query.
        headers: By name, in small letters.
        body: The bytes of it.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@attrs.frozen
class HttpResponse:
    """What goes out.

    Attributes:
        status: The status code.
        body: The bytes of it.
        headers: Name and value of each.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class HttpRoutes:
    """The route table of one engine; used on its thread only.

    Args:
        calls: Makes the calls.
    """

    def __init__(self, calls: Router) -> None:
        self._calls = calls
        self._routes: dict[tuple[str, str], Trigger] = {}

    def register(self, trigger: Trigger) -> None:
        """Adds a route, or takes it from the trigger that had it.

        Raises:
            ValueError: In the engine's words.
        """
        key, path = _key(trigger), _path(trigger)
        if path is None:
            raise ValueError("api_path is required for http triggers")
        for other, present in self._routes.items():
            if other != key and other[0] == key[0] and _shape(other[1]) == _shape(key[1]):
                raise ValueError(
                    f"Route '{key[0]} {path}' conflicts with already-registered route "
                    f"'{key[0]} {_path(present)}': routes with identical structure but different "
                    "path-parameter names are not supported"
                )
        self._routes[key] = trigger

    def unregister(self, trigger: Trigger) -> None:
        """Removes a route, unless a later registration has taken it."""
        present = self._routes.get(_key(trigger))
        if present is not None and present.trigger_id == trigger.trigger_id:
            del self._routes[_key(trigger)]

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Answers a request, as iii-http does."""
        try:
            return await asyncio.wait_for(self._answer(request), _TIMEOUT)
        except TimeoutError:
            return HttpResponse(504)

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        actual = urlsplit(request.target)
        segments = actual.path.split("/")
        on_path = {
            method: trigger
            for (method, path), trigger in self._routes.items()
            if method in _METHODS and _matches(path, segments)
        }
        if not on_path:
            return _error(404, "NOT_FOUND", "Not Found")
        trigger = on_path.get(request.method)
        if trigger is None:
            if request.method == "HEAD" and "GET" in on_path:
                return _error(404, "NOT_FOUND", "Not Found")
            return HttpResponse(405, headers=(("allow", _allowed(on_path)),))
        path = _path(trigger) or ""
        pairs = zip(_split(path), [s for s in segments if s], strict=True)
        data = {
            "query_params": dict(parse_qsl(actual.query, keep_blank_values=True)),
            "path_params": {name[1:]: value for name, value in pairs if name.startswith(":")},
            "headers": request.headers,
            "path": path,
            "method": request.method,
            "body": _body(request),
            "trigger": {"type": "http", "path": path, "method": request.method},
        }
        return await self._before(trigger, data) or await self._run(trigger, data)

    async def _before(self, trigger: Trigger, data: dict[str, Any]) -> HttpResponse | None:
        condition = trigger.config.get("condition_function_id")
        if isinstance(condition, str):
            outcome = await self._call(trigger, condition, data)
            if outcome.error is not None:
                return _failed(outcome)
            if outcome.result is False:
                skipped = {"code": "CONDITION_NOT_MET", "message": "Request condition not met"}
                return _json(422, {"error": skipped, "skipped": True})
        asked = {name: data[name] for name in ("path_params", "query_params", "headers", "method")}
        for middleware in trigger.config.get("middleware_function_ids") or ():
            message = {"phase": "preHandler", "request": asked, "context": {}}
            outcome = await self._call(trigger, middleware, message)
            if outcome.error is not None:
                return _failed(outcome)
            result = outcome.result if isinstance(outcome.result, dict) else {}
            if result.get("action") == "respond":
                response = result.get("response") or {}
                return _json(response.get("status_code", 200), response.get("body"))
        return None

    async def _run(self, trigger: Trigger, data: dict[str, Any]) -> HttpResponse:
        channels = {
            "request_body": channel(str(uuid.uuid4()), "read"),
            "response": channel(str(uuid.uuid4()), "write"),
        }
        outcome = await self._call(
            trigger, trigger.function_id, {**data, **channels}, trigger.metadata
        )
        if outcome.error is not None:
            return _failed(outcome)
        if outcome.result is None:
            # The engine waits for the response channel, which stays empty.
            await asyncio.sleep(_TIMEOUT)
        return _from_result(outcome.result)

    async def _call(
        self, trigger: Trigger, function_id: str, data: Any, metadata: Any = None
    ) -> InvocationOutcome:
        answered: asyncio.Future[InvocationOutcome] = asyncio.get_running_loop().create_future()

        def reply(outcome: InvocationOutcome) -> None:
            if not answered.done():
                answered.set_result(outcome)

        self._calls.place(
            Invocation(function_id, data, reply, namespace=trigger.namespace, metadata=metadata)
        )
        return await answered


def channel(channel_id: str, direction: str, access_key: str | None = None) -> dict[str, str]:
    """One end of a channel, as the engine names it; the loopback engine carries nothing in it."""
    key = access_key or str(uuid.uuid4())
    return {"channel_id": channel_id, "access_key": key, "direction": direction}


def _path(trigger: Trigger) -> str | None:
    path = trigger.config.get("api_path") if isinstance(trigger.config, dict) else None
    return path if isinstance(path, str) else None


def _key(trigger: Trigger) -> tuple[str, str]:
    method = trigger.config.get("http_method") if isinstance(trigger.config, dict) else None
    path = (_path(trigger) or "").lstrip("/")
    return (method if isinstance(method, str) else "GET").upper(), f"/{path}"


def _split(path: str) -> list[str]:
    return [segment for segment in path.split("/") if segment]


def _shape(path: str) -> list[str]:
    return [":" if segment.startswith(":") else segment for segment in path.split("/")]


def _matches(path: str, segments: list[str]) -> bool:
    wanted = path.split("/")
    return len(wanted) == len(segments) and all(
        have != "" if want.startswith(":") else want == have
        for want, have in zip(wanted, segments, strict=True)
    )


def _allowed(methods: dict[str, Trigger]) -> str:
    return ",".join("GET,HEAD" if method == "GET" else method for method in sorted(methods))


def _body(request: HttpRequest) -> Any:
    if "application/json" not in request.headers.get("content-type", ""):
        return None
    try:
        return json.loads(request.body)
    except ValueError:
        return None


def _json(status: int, body: Any) -> HttpResponse:
    text = json.dumps(body, separators=(",", ":")).encode()
    return HttpResponse(status, text, (("content-type", "application/json"),))


def _error(status: int, code: str, message: str, **more: str) -> HttpResponse:
    return _json(status, {"error": {"code": code, **more, "message": message}})


def _failed(outcome: InvocationOutcome) -> HttpResponse:
    if outcome.error is None:
        raise AssertionError(outcome)
    error_id = f"{time.time_ns() & 0xFFFFFFFFFFFF:x}"
    return _error(500, outcome.error.code, outcome.error.message, error_id=error_id)


def _from_result(result: Any) -> HttpResponse:
    response = result if isinstance(result, dict) else {}
    status = response.get("status_code")
    if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 999:  # noqa: PLR2004 - what HTTP has
        status = 200
    headers = _headers(response.get("headers"))
    kind = next((value for name, value in headers if name == "content-type"), None)
    body = response.get("body", {})
    if kind is not None and (isinstance(body, str) or body is None):
        return HttpResponse(status, (body or "").encode(), tuple(headers))
    made = _json(status, body)
    return attrs.evolve(made, headers=(*headers, *(made.headers if kind is None else ())))


def _headers(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [(name.lower(), text) for name, text in value.items() if isinstance(text, str)]
    lines = [line.partition(":") for line in value or () if isinstance(line, str) and ":" in line]
    return [(name.strip().lower(), text.strip()) for name, _, text in lines if name.strip()]
