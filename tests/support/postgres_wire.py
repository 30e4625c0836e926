"""A port that speaks as much of PostgreSQL's protocol as refusing a connection takes."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SSL_REQUEST = 80877103
_GSS_REQUEST = 80877104


@contextmanager
def refusing_postgres(state: str, words: str = "words") -> Iterator[int]:
    """Answers every startup message with an ErrorResponse of a SQLSTATE."""
    listener = socket.create_server(("127.0.0.1", 0))
    fields = b"".join(
        kind + value.encode() + b"\0"
        for kind, value in ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", state), (b"M", words))
    )
    refusal = b"E" + struct.pack("!i", len(fields) + 5) + fields + b"\0"

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    while True:
                        length, code = struct.unpack("!ii", _exactly(connection, 8))
                        _exactly(connection, length - 8)
                        if code not in {_SSL_REQUEST, _GSS_REQUEST}:
                            break
                        connection.sendall(b"N")
                    connection.sendall(refusal)
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = connection.recv(count - len(found))
        if not part:
            raise OSError("the client has gone")
        found += part
    return found
