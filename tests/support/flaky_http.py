"""An HTTP server on 127.0.0.1 that answers each request as a script says."""

from __future__ import annotations

import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.ports import reserved_port

BODY = b"x" * 300_000


class FlakyServer(ThreadingHTTPServer):
    """Answers the requests of each path by its script, one instruction a request, then 200.

    Instructions: a status (``503``), a status with headers (``(503, {"Retry-After": "1"})``),
    ``reset`` (RST), ``close`` (no answer), ``broken`` (a body that breaks off), ``broken-late``
    (after 256 KiB), ``slow`` (no answer before the client gives up), ``garbage`` (no HTTP).
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.script: dict[str, list[Any]] = {}
        self.requests: list[str] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def says(self, path: str, *instructions: Any) -> str:
        """Script the requests of a path; returns its URL."""
        self.script[path] = list(instructions)
        return self.url + path

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: FlakyServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        script = self.server.script.get(self.path)
        self._answer(script.pop(0) if script else 200)

    def do_POST(self) -> None:
        self.do_GET()

    def _answer(self, do: Any) -> None:
        status, headers = do if isinstance(do, tuple) else (do, {})
        if isinstance(status, int):
            body = headers.get("X-Body", "ok").encode()  # what an answer of this status says
            self._send(status, headers, body)
            return
        self.close_connection = True
        if do == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.shutdown(socket.SHUT_RD)
            self.connection.close()
        elif do == "slow":
            self.server.released.wait(30)
        elif do == "garbage":
            self.wfile.write(b"no http at all\r\n\r\n")
        elif do in {"broken", "broken-late"}:
            sent = BODY[: 100 if do == "broken" else 262_144]
            self._send(200, {}, sent, length=len(BODY))
        else:
            assert do == "close", do

    def _send(
        self, status: int, headers: Mapping[str, str], body: bytes, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is theirs
        """Nothing."""


@contextmanager
def flaky_server(port: int = 0) -> Iterator[FlakyServer]:
    """A server of its own, ended with its threads.

    Args:
        port: Where it listens; 0 for any port that is free.
    """
    server = FlakyServer(port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def secure_server(folder: Path) -> Iterator[str]:
    """The URL of a server whose certificate nothing trusts.

    Args:
        folder: Where its key is written.
    """
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subject = ["-subj", "/CN=localhost", "-days", "2", "-nodes"]
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", key, "-out", cert, *subject],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with flaky_server() as secure:
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        yield f"https://127.0.0.1:{secure.server_address[1]}/"


@contextmanager
def full_port() -> Iterator[int]:
    """A port whose backlog is full: the next handshake gets no answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        filling = [socket.socket() for _ in range(8)]
        try:
            for one in filling:
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
            yield port
        finally:
            for one in filling:
                one.close()


@contextmanager
def raw_server(*answers: bytes | None) -> Iterator[int]:
    """A port that answers each connection's first bytes with the next of some bytes, or closes."""
    listener = socket.create_server(("127.0.0.1", 0))
    queue = list(answers)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    connection.recv(65536)
                    answer = queue.pop(0) if queue else None
                    if answer:
                        connection.sendall(answer)
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


def closed_port() -> int:
    """A port where nothing listens."""
    return reserved_port()
