"""The engine's sockets: listens, accepts, stalls, cuts, and keeps its ports over restarts.

Knows nothing of the frames on a connection: those go to the engine.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator

from iii_resilience.testing.loopback.client_connection import ClientConnection
from iii_resilience.testing.loopback.engine_core import Engine
from iii_resilience.testing.loopback.http_server import HttpServer
from iii_resilience.testing.loopback.loop_thread import LoopThread

HOST = "127.0.0.1"


class Port:
    """One port on 127.0.0.1 that stays reserved while it is closed.

    Args:
        number: The port, or 0 for a free one.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._reservation: socket.socket | None = None

    def reserve(self) -> None:
        """Takes the port.

        Raises:
            OSError: The port is taken.
        """
        if self._reservation is None:
            self._reservation = _bound(self.number)
            self.number = self._reservation.getsockname()[1]
            if sys.platform != "linux":
                # Elsewhere a second socket cannot be bound beside this one: the port is free to
                # be taken by other programs while it is closed.
                self._reservation.close()

    def release(self) -> None:
        """Gives the port back."""
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None

    def open(self) -> socket.socket:
        """A socket to listen on."""
        return _bound(self.number)


def _bound(port: int) -> socket.socket:
    # With the protocol named, asyncio sends at once what it writes (TCP_NODELAY). Without, the
    # second of two answers waits until the client acknowledges the first, which takes 40 ms.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, port))
    except OSError:
        bound.close()
        raise
    return bound


class Listener:
    """The listeners and connections of one engine; used on its thread only.

    Args:
        engine: Gets the connections' events.
        thread: Where it runs.
        port: Where all clients may connect.
        guarded: The port of the second listener, or None.
        went_down: Is called when the engine has forgotten everything.
        came_up: Is called when it listens again.
        http: The server of the routes, and its port.
    """

    def __init__(
        self,
        engine: Engine,
        thread: LoopThread,
        port: Port,
        guarded: Port | None,
        went_down: Callable[[], None],
        came_up: Callable[[], None],
        http: tuple[HttpServer, Port],
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._port = port
        self._guarded = guarded
        self._went_down = went_down
        self._came_up = came_up
        self._http, self._http_port = http
        self._servers: list[asyncio.Server] = []
        self._connections: set[ClientConnection] = set()
        self._opening = False
        self._stalled = False

    async def listen(self) -> None:
        """Lets connections in; does nothing where it already does.

        Raises:
            OSError: A port is taken.
        """
        while self._opening:  # noqa: ASYNC110 - it takes one iteration of the event loop
            await asyncio.sleep(0)
        if self._servers:
            return
        self._opening = True
        try:
            loop = asyncio.get_running_loop()
            servers = [await loop.create_server(self._accept, sock=self._port.open())]
            if self._guarded is not None:
                bound = self._guarded.open()
                servers.append(await loop.create_server(self._accept_guarded, sock=bound))
            await self._http.listen(self._http_port.open())
        finally:
            self._opening = False
        self._servers = servers
        self._came_up()

    def stop_listening(self) -> None:
        """Ends every connection and accepts no other, as when the engine is killed."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._http.stop()
        self._went_down()
        for connection in tuple(self._connections):
            connection.abort()

    def restart(self, down_for: float) -> None:
        """Goes down now and comes up after a delay, in seconds."""
        self.stop_listening()
        self._thread.spawn(self._come_back(down_for))

    def disconnect(self, worker_name: str | None, code: int | None) -> None:
        """Ends connections: with a TCP reset, or with a close frame."""
        for connection in self._chosen(worker_name):
            connection.reset() if code is None else connection.close(code)

    def stall(self, worker_name: str | None) -> None:
        """Stops reading and writing."""
        self._stalled = self._stalled or worker_name is None
        for connection in self._chosen(worker_name):
            connection.stall()

    def resume(self) -> None:
        """Reads and writes again."""
        self._stalled = False
        for connection in tuple(self._connections):
            connection.resume()

    # What connections call.

    def opened(self, connection: ClientConnection, path: str, headers: dict[str, str]) -> None:
        """A handshake is done."""
        self._engine.opened(connection, path, headers)

    def received(self, connection: ClientConnection, text: str) -> None:
        """A message came in."""
        self._engine.received(connection, text)

    def ended(self, connection: ClientConnection) -> None:
        """A connection is over."""
        self._engine.ended(connection)

    def lost(self, connection: ClientConnection) -> None:
        """A TCP connection is gone."""
        self._connections.discard(connection)

    def broken(self, error: Exception) -> None:
        """Handling a message failed, which is a bug of ours."""
        self._thread.report(error)

    async def _come_back(self, down_for: float) -> None:
        await asyncio.sleep(down_for)
        await self.listen()

    def _accept(self) -> ClientConnection:
        connection = ClientConnection(self, stalled=self._stalled)
        self._connections.add(connection)
        return connection

    def _accept_guarded(self) -> ClientConnection:
        connection = self._accept()
        self._engine.authentication.guard(connection)
        return connection

    def _chosen(self, worker_name: str | None) -> Iterator[ClientConnection]:
        for connection in tuple(self._connections):
            worker = self._engine.worker_of(connection)
            if worker_name is None or (worker is not None and worker.name == worker_name):
                yield connection
