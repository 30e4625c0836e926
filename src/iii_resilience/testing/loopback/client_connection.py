"""One WebSocket connection of the engine: handshake, frames, a bounded outbox, and its close.

It passes texts to its owner and sends the texts it gets. Built on websockets' I/O-free protocol, so
a connection can be stalled, reset or cut at any point. Knows nothing of workers, functions or what
a frame means.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections import deque
from typing import Final, Protocol, cast
from urllib.parse import urlsplit

from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

#: What the engine's channel to a connection holds; a fuller one blocks (observed on engine 0.23).
OUTBOX_SIZE: Final = 64
#: A message above the first, or a single frame above the second, cuts the connection, without a
#: close frame: the sender sees code 1006 (observed on engine 0.23).
MAX_MESSAGE_BYTES: Final = 64 * 2**20
MAX_FRAME_BYTES: Final = 16 * 2**20
_TELEMETRY: Final = (b"OTLP", b"MTRC", b"LOGS")
_RESET: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class Owner(Protocol):
    """What a connection reports to; called on the engine's thread only."""

    def opened(self, connection: ClientConnection, path: str, headers: dict[str, str]) -> None:
        """The handshake is done."""

    def received(self, connection: ClientConnection, text: str) -> None:
        """A message came in."""

    def ended(self, connection: ClientConnection) -> None:
        """The connection is over; called once for every one that was opened."""

    def lost(self, connection: ClientConnection) -> None:
        """Its TCP connection is gone too; nothing will be heard of it again."""

    def broken(self, error: Exception) -> None:
        """Handling a message failed: a bug, of which the owner must make a noise."""


class ClientConnection(asyncio.Protocol):
    """One connection, from its handshake to its end.

    Args:
        owner: Gets the events of the connection.
        stalled: Whether it begins stalled.
    """

    def __init__(self, owner: Owner, *, stalled: bool = False) -> None:
        self._owner = owner
        self._ws = ServerProtocol(max_size=(MAX_MESSAGE_BYTES, MAX_FRAME_BYTES))
        self._transport: asyncio.Transport | None = None
        self._stalled = stalled
        self._backlog: list[bytes] = []
        self._parts: list[bytes] = []
        self._binary = False
        self._outbox: deque[tuple[str, str | None]] = deque()
        self._writable = True
        self._opened = False
        self._ended = False
        self._lost = False

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts on a fresh TCP connection."""
        self._transport = cast("asyncio.Transport", transport)
        if self._ended:  # while it was being accepted
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Takes bytes in; a stalled connection keeps them for later."""
        if self._stalled:
            self._backlog.append(data)
        else:
            self._feed(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The TCP connection is gone."""
        self._lost = True
        # A stalled engine would find the end of the stream only behind what it has yet to read.
        if not self._stalled:
            self._end()
            self._owner.lost(self)

    def pause_writing(self) -> None:
        """The peer does not read: what is sent from now on waits in the outbox."""
        self._writable = False

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._writable = True
        self._drain()

    # What the owner calls.

    @property
    def stalled(self) -> bool:
        """Whether nothing is read or written for now."""
        return self._stalled

    def send(self, text: str, ticket: str | None = None) -> None:
        """Sends a message, or keeps it until it can be sent; after the end: nothing.

        Args:
            text: The message.
            ticket: A name under which `unaccepted` reports it.
        """
        if self._ended:
            return
        self._outbox.append((text, ticket))
        self._drain()

    def unaccepted(self) -> frozenset[str]:
        """Tickets of messages that are not yet in the outbox, which is full."""
        late = list(self._outbox)[OUTBOX_SIZE:]
        return frozenset(ticket for _, ticket in late if ticket is not None)

    def stall(self) -> None:
        """Takes bytes in and does nothing, until `resume`."""
        self._stalled = True

    def resume(self) -> None:
        """Goes on where `stall` stopped."""
        if not self._stalled:
            return
        self._stalled = False
        backlog, self._backlog = self._backlog, []
        for data in backlog:
            self._feed(data)
        self._drain()
        if self._lost:
            self._end()
            self._owner.lost(self)

    def reset(self) -> None:
        """Ends the connection at once; the peer sees a TCP reset."""
        if self._transport is not None:
            raw = self._transport.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.abort()

    def abort(self) -> None:
        """Ends the connection at once, without a close frame."""
        self._stalled = False
        self._backlog.clear()
        if self._transport is not None:
            self._transport.abort()
        self._end()

    def close(self, code: int | None = None, *, linger: bool = False) -> None:
        """Says goodbye with a close frame.

        Args:
            code: The close code; None sends a close frame without one.
            linger: Whether the connection lives on until the peer has answered.
        """
        if self._ended:
            return
        self._drain()
        if self._ws.state is State.OPEN:
            self._ws.send_close(code) if code is None else self._ws.send_close(code, "")
            self._flush()
        if not linger:
            self._end()

    # How it works.

    def _feed(self, data: bytes) -> None:
        if self._lost and not self._opened:
            return
        try:
            self._ws.receive_data(data)
            for event in self._ws.events_received():
                if isinstance(event, Request):
                    self._shake(event)
                elif isinstance(event, Frame):
                    self._take(event)
        except UnicodeDecodeError:
            self.abort()
            return
        except Exception as error:
            self._owner.broken(error)
            self.abort()
            return
        if self._opened and self._ws.parser_exc is not None and self._ws.close_rcvd is None:
            # Too large, or no WebSocket: the engine cuts such a connection without a word.
            self.abort()
            return
        self._flush()

    def _shake(self, request: Request) -> None:
        response = self._ws.accept(request)
        path = urlsplit(request.path).path
        if response.status_code == 101 and path not in {"/", "/otel"}:  # noqa: PLR2004
            response = self._ws.reject(404, "Not Found\n")
        self._ws.send_response(response)
        if isinstance(self._ws.handshake_exc, InvalidHandshake) or self._ws.state is not State.OPEN:
            return
        self._flush()
        self._opened = True
        headers = {name.lower(): value for name, value in request.headers.raw_items()}
        self._owner.opened(self, request.path, headers)

    def _take(self, frame: Frame) -> None:
        if self._ended:
            return
        if frame.opcode is Opcode.CLOSE:
            self._flush()
            self._end()
        elif frame.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
            if frame.opcode is not Opcode.CONT:
                self._binary = frame.opcode is Opcode.BINARY
            self._parts.append(bytes(frame.data))
            if frame.fin:
                message, self._parts = b"".join(self._parts), []
                self._message(message)

    def _message(self, message: bytes) -> None:
        if self._binary:
            if message[:4] in _TELEMETRY:
                return
            text = message.decode(errors="replace")
        else:
            text = message.decode()
        if text.strip():
            self._owner.received(self, text)

    def _drain(self) -> None:
        while self._outbox and self._writable and not self._stalled and not self._ended:
            text, _ = self._outbox.popleft()
            if self._ws.state is State.OPEN:
                self._ws.send_text(text.encode())
                self._flush()

    def _flush(self) -> None:
        transport = self._transport
        if transport is None:
            return
        for data in self._ws.data_to_send():
            if transport.is_closing():
                return
            if data:
                transport.write(data)
            else:
                transport.close()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._opened:
            self._owner.ended(self)
