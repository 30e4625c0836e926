"""Ports of 127.0.0.1 that nothing else takes between one moment and the next."""

from __future__ import annotations

import atexit
import socket


def reserved_port() -> int:
    """A port that refuses connections until a test's own server listens there.

    A socket stays bound to it, and never listens. So the system gives it to no other program, also
    while the test's server restarts. The server has to set SO_REUSEADDR, as most do.

    Returns:
        The port. It is reserved until this process ends.
    """
    keeper = socket.socket()
    atexit.register(keeper.close)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    port: int = keeper.getsockname()[1]
    return port
