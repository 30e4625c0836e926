"""A small HTTP/1.1 server on the engine's thread, for the routes that workers register."""

from __future__ import annotations

import asyncio
import http
import socket
from collections.abc import Awaitable, Callable

from iii_resilience.testing.loopback.http_routes import HttpRequest, HttpResponse

_MOST = 64 * 1024 * 1024  # bytes of one body


class HttpServer:
    """Reads requests and writes responses.

    Args:
        answer: Answers a request.
    """

    def __init__(self, answer: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> None:
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def listen(self, bound: socket.socket) -> None:
        """Lets requests in.

        Args:
            bound: The socket to listen on.
        """
        self._server = await asyncio.start_server(self._serve, sock=bound)

    def stop(self) -> None:
        """Ends the listener and every connection, as when the engine is killed."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in tuple(self._serving):
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a connection is served by a task")
        self._serving.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError):
            return  # the client has gone, or does not speak HTTP
        except asyncio.CancelledError:
            return  # the engine stops; asyncio's streams take a cancelled task for an error
        finally:
            self._serving.discard(task)
            writer.transport.abort() if task.cancelling() else writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; returns whether another may follow on this connection."""
        line = await reader.readline()
        if not line:
            return False
        method, target, version = line.decode("latin-1").split()
        headers: dict[str, str] = {}
        while text := (await reader.readline()).decode("latin-1").strip():
            name, _, value = text.partition(":")
            headers[name.strip().lower()] = value.strip()
        body = await _read_body(reader, headers)
        response = await self._answer(HttpRequest(method.upper(), target, headers, body))
        stays = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        writer.write(_head(response, stays=stays))
        if method.upper() != "HEAD" and response.status not in {204, 304}:
            writer.write(response.body)
        await writer.drain()
        return stays


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        length = int(headers.get("content-length", 0))
        if not 0 <= length <= _MOST:
            raise ValueError(f"a body of {length} bytes")
        return await reader.readexactly(length)
    body = bytearray()
    while size := int((await reader.readline()).split(b";")[0], 16):
        if len(body) + size > _MOST:
            raise ValueError("a body that is too large")
        body += await reader.readexactly(size)
        await reader.readline()
    while (await reader.readline()).strip():
        pass
    return bytes(body)


def _head(response: HttpResponse, *, stays: bool) -> bytes:
    try:
        phrase = http.HTTPStatus(response.status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {response.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in response.headers if "\n" not in name + value]
    lines.append(f"content-length: {len(response.body)}")
    if not stays:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
