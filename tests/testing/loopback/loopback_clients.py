"""Clients for tests of the engine: raw ones, and workers of the real SDK in other processes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

Message = dict[str, Any]


class Raw:
    """One raw connection; what it says and hears is JSON."""

    def __init__(self, url: str, name: str | None = None, **options: Any) -> None:
        self._open = contextlib.ExitStack()
        self.socket: ClientConnection = self._open.enter_context(
            connect(url, proxy=None, max_size=None, **options)
        )
        self.name = name
        self.welcome: Message = {}
        if name is not None:
            self.welcome = self.hear()
            self.announce(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    @property
    def worker_id(self) -> str:
        return str(self.welcome["worker_id"])

    def say(self, message: Message | str) -> None:
        self.socket.send(message if isinstance(message, str) else json.dumps(message))

    def hear(self, timeout: float = 30.0) -> Message:
        message: Message = json.loads(self.socket.recv(timeout=timeout))
        return message

    def silent(self) -> bool:
        """Whether the engine, having seen all that was said, has sent nothing."""
        assert self.socket.ping().wait(30)
        try:
            self.socket.recv(timeout=0)
        except TimeoutError:
            return True
        return False

    def closed_with(self) -> int | None:
        """Waits for the connection to end; its close code."""
        try:
            while True:
                self.socket.recv(timeout=30)
        except ConnectionClosed:
            return self.socket.close_code

    def announce(self, name: str, **more: Any) -> None:
        self.call(
            "engine::workers::register",
            {"runtime": "python", "name": name, **more},
            action={"type": "void"},
            invocation_id=None,
        )

    def register(self, *function_ids: str, **more: Any) -> None:
        for function_id in function_ids:
            self.say({"type": "registerfunction", "id": function_id, **more})

    def call(self, function_id: str, data: Any = None, **more: Any) -> str:
        """Sends a call; its id."""
        invocation_id = str(uuid.uuid4())
        message = {
            "type": "invokefunction",
            "function_id": function_id,
            "data": {} if data is None else data,
            "invocation_id": invocation_id,
            **more,
        }
        self.say({name: value for name, value in message.items() if value is not None})
        return invocation_id

    def ask(self, function_id: str, data: Any = None, **more: Any) -> Message:
        """Calls and waits for the answer."""
        invocation_id = self.call(function_id, data, **more)
        answer = self.hear()
        assert answer["invocation_id"] == invocation_id, answer
        return answer

    def answer(self, invocation: Message, result: Any = None, **more: Any) -> None:
        self.say(
            {
                "type": "invocationresult",
                "invocation_id": invocation["invocation_id"],
                "function_id": invocation["function_id"],
                "result": result,
                **more,
            }
        )


def error_of(answer: Message) -> tuple[str, str]:
    """Code and message of an answer's error."""
    return answer["error"]["code"], answer["error"]["message"]


WORKER = """
import asyncio, os, sys, time
from iii import InitOptions, register_worker

url, name, *ids = sys.argv[1:]
worker = register_worker(url, InitOptions(worker_name=name, otel={"enabled": False}))

def handler(function_id):
    async def run(data, metadata=None):
        what = data.get("do") if isinstance(data, dict) else None
        if what == "raise":
            raise ValueError(data["say"])
        if what == "sleep":
            await asyncio.sleep(data["seconds"])
        if what == "none":
            return None
        if what == "nan":
            return float("nan")
        if what == "exit":
            os._exit(3)
        return {"by": name, "data": data, "metadata": metadata}
    return run

for function_id in ids:
    worker.register_function(function_id, handler(function_id))
sys.stdin.read()
worker.shutdown()
"""


@contextlib.contextmanager
def worker_process(url: str, name: str, *function_ids: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the real SDK in a process of its own; it ends with the block at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, url, name, *function_ids],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.kill()
        process.stdin.close()
        process.wait()
