"""Shuts down one SDK client, once, and ends every wait on it first.

The SDK hangs if it is shut down twice, in sequence or at once (docs/engine-notes.md, 5), and older
versions raise errors from their own shutdown. Knows nothing of policies or handlers.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from iii_resilience.sdk.connection import Connection

_ENDS_WITHIN = 10.0  # the SDK itself waits 5 s for its thread


class Shutdown:
    """How a client is shut down: the first request does it, the others wait until it is done.

    Args:
        connection: The client's connection.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._by: int | None = None  # the thread that shuts it down
        self._over = threading.Event()
        self._lock = threading.Lock()

    def shut_down(self) -> None:
        """Shut the SDK's client down, from any thread but its own.

        Raises:
            Exception: What the SDK raised, but for the end of its connection, which older ones
                raise here. Its thread has ended all the same: the process could not end otherwise.
        """
        if not self._is_first():
            if self._by != threading.get_ident():  # else a signal has come in the middle of it
                self._over.wait(_ENDS_WITHIN)
            return
        try:
            self._connection.close()
        finally:
            self._shut_down()

    async def shut_down_on_loop(self) -> None:
        """As `shut_down`, on the SDK's own thread, which must not block."""
        if self._is_first():
            try:
                self._connection.close()
            finally:
                await self._shut_down_on_loop()

    def _is_first(self) -> bool:
        with self._lock:
            first = self._by is None
            if first:
                self._by = threading.get_ident()
        return first

    def _shut_down(self) -> None:
        connection = self._connection
        try:
            # A client that the user has shut down would hang.
            if not connection.client.loop_ended:
                with suppress(Exception):  # a loop that stands still; the SDK says more about it
                    connection.run(connection.in_flight.cancel_rest).result(1.0)
                connection.client.shutdown()
        except Exception as error:
            connection.client.stop()
            if not _harmless(error):
                raise
        finally:
            connection.in_flight.end()  # calls that it left without an answer end too
            self._over.set()

    async def _shut_down_on_loop(self) -> None:
        connection = self._connection
        try:
            await connection.in_flight.cancel_rest()
            await connection.client.shutdown_async()
        except Exception as error:
            connection.client.stop()
            if not _harmless(error):
                raise
        finally:
            connection.in_flight.end()
            self._over.set()


def _harmless(error: Exception) -> bool:
    """Whether older SDKs stumble like this where nothing is lost any longer.

    Over the end of their connection (websockets' own word for it), or over an answer to a question
    that was given up a moment before (docs/engine-notes.md, 6).
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return "ConnectionClosed" in kinds or isinstance(error, asyncio.InvalidStateError)
