"""One raw WebSocket connection to an engine, to see whether it accepts a worker.

Not through the SDK, which reconnects for ever and never reports why an engine refused it. Needs
``websockets``, which every iii-sdk installs. Knows nothing of what the result is used for.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from types import TracebackType
from typing import Any, Self

from iii_resilience.sdk.engine_api import (
    FUNCTIONS_INFO,
    FunctionStatus,
    functions_info_request,
    read_functions_info,
)

_ACCESS = frozenset({401, 403})


class Unreachable(Exception):  # noqa: N818 - it is a finding, not an error
    """Nothing answers at the address, or not as an engine does."""


class NoListener(Unreachable):
    """Something answers at the address, but it is not a listener for workers."""


class Frozen(Unreachable):
    """Something takes connections at the address, and answers nothing on them."""


class Refused(Exception):  # noqa: N818 - ditto
    """The engine does not let this worker in."""


class Unanswered(Exception):  # noqa: N818 - ditto
    """The engine has answered a question with an error, or not at all.

    Args:
        code: The error's code; ``TIMEOUT`` where there was no answer.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


def connect_to(url: str, timeout: float) -> socket.socket:
    """A TCP connection to an engine's address.

    Args:
        url: The address, ``ws://host:port``.
        timeout: How long to wait for it, in seconds.

    Raises:
        Unreachable: Nothing listens there, or this is not such an address. Its text repeats no
            part of the address.
    """
    from websockets.exceptions import InvalidURI  # noqa: PLC0415 - an extra
    from websockets.uri import parse_uri  # noqa: PLC0415 - ditto

    try:
        address = parse_uri(url)
        return socket.create_connection((address.host, address.port), timeout)
    except (InvalidURI, ValueError):  # the second for a port that is not a number
        raise Unreachable("this is not the address of an engine (ws://host:port)") from None
    except TimeoutError:
        raise Unreachable(f"no connection within {timeout:g} s") from None
    except OSError as error:
        raise Unreachable(error.strerror or type(error).__name__) from None


class EngineProbe:
    """A connection for a few requests; use it in a ``with`` statement.

    Args:
        url: The engine's address.
        timeout: How long to wait for each answer, in seconds.

    Raises:
        Unreachable: Nothing answers.
        Refused: The engine closed the connection.
    """

    def __init__(self, url: str, timeout: float) -> None:
        from websockets.exceptions import (  # noqa: PLC0415 - an extra
            InvalidHandshake,
            InvalidStatus,
        )
        from websockets.sync.client import connect  # noqa: PLC0415 - ditto

        token = os.environ.get("III_TOKEN")  # as SDK 0.24.6 and later do
        headers = {"Authorization": f"Bearer {token}"} if token else None
        self._timeout = timeout
        # First alone: a process that is stopped has its connections taken by the system.
        opened = connect_to(url, timeout)
        try:
            self._socket = connect(
                url,
                sock=opened,
                additional_headers=headers,
                open_timeout=timeout,
                close_timeout=1,
                proxy=None,
            )
        except TimeoutError:
            raise Frozen(f"no answer within {timeout:g} s") from None
        except InvalidStatus as error:
            status = error.response.status_code
            if status in _ACCESS:
                raise Refused(f"HTTP {status}") from None
            raise NoListener(f"HTTP {status} instead of a WebSocket") from None
        except InvalidHandshake as error:
            raise NoListener(f"no WebSocket ({type(error).__name__})") from None
        except OSError as error:
            raise Unreachable(error.strerror or type(error).__name__) from None
        try:
            self._greet()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def functions_info(
        self, function_ids: list[str], namespace: str | None
    ) -> dict[str, FunctionStatus]:
        """The owners of the functions.

        Args:
            function_ids: The ids.
            namespace: Where they are looked for; None for the engine's default.

        Raises:
            Unanswered: The engine does not answer the question.
        """
        request = functions_info_request(function_ids, namespace)
        answer = self._call(FUNCTIONS_INFO, request["payload"])
        try:
            return read_functions_info(answer, namespace)
        except LookupError:
            raise Unanswered("invalid_response") from None

    def _greet(self) -> None:
        """A refusal comes as the first message, and the connection ends with it."""
        message = self._hear(time.monotonic() + self._timeout)
        if message is None:
            return  # engines that say nothing let one in all the same
        error = message.get("error")
        if isinstance(error, dict):
            raise Refused(str(error.get("code")))
        self._say(
            {
                "type": "invokefunction",
                "function_id": "engine::workers::register",
                "data": {"runtime": "python", "name": f"iii-resilience-doctor-{os.getpid()}"},
                "action": {"type": "void"},
            }
        )

    def _call(self, function_id: str, data: Any) -> Any:
        invocation_id = str(uuid.uuid4())
        self._say(
            {
                "type": "invokefunction",
                "function_id": function_id,
                "data": data,
                "invocation_id": invocation_id,
            }
        )
        until = time.monotonic() + self._timeout
        while (message := self._hear(until)) is not None:
            if message.get("type") == "registrationrejected":
                raise Refused(str(message.get("code")))
            if message.get("invocation_id") != invocation_id:
                continue
            error = message.get("error")
            if error:
                raise Unanswered(str(error.get("code") if isinstance(error, dict) else error))
            return message.get("result")
        raise Unanswered("TIMEOUT")

    def _say(self, message: dict[str, Any]) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415 - an extra

        try:
            self._socket.send(json.dumps(message))
        except ConnectionClosed:
            raise Refused("connection closed") from None

    def _hear(self, until: float) -> dict[str, Any] | None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415 - an extra

        try:
            message = json.loads(self._socket.recv(timeout=max(0.0, until - time.monotonic())))
        except TimeoutError:
            return None
        except ConnectionClosed:
            raise Refused("connection closed") from None
        except ValueError:
            raise Unreachable("what answers there is no engine") from None
        return message if isinstance(message, dict) else {}
