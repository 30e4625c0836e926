"""Plays a recorded run of the real engine against another engine and says what differs.

The recorded `to-engine` frames are sent by raw WebSocket clients; what comes back is compared,
connection by connection, in order. Recorded ids (`uuid-7`) stand for whatever id comes in their
place, the same one each time.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from support.paths import DATA
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Event = dict[str, Any]
TRANSCRIPT = DATA / "engine-transcript.jsonl"
# Two clients of the recorded run used the second listener; one of them brought a bad token.
GUARDED: Mapping[str, Mapping[str, str]] = {"limited": {}, "refused": {"x-token": "bad"}}
# Values that depend on the machine.
FREE = {"host", "user-agent", "sec-websocket-key"}


@attrs.frozen
class Scenario:
    name: str
    events: tuple[Event, ...]


def read(path: Path = TRANSCRIPT) -> list[Scenario]:
    names: list[str] = []
    events: list[list[Event]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if "scenario" in event:
            names.append(event["scenario"])
            events.append([])
        else:
            events[-1].append(event)
    return [Scenario(name, tuple(found)) for name, found in zip(names, events, strict=True)]


class Ids:
    """Which real id stands for which recorded one."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}

    def real(self, value: Any) -> Any:
        """A recorded message with real ids in it."""
        if isinstance(value, dict):
            return {name: self.real(part) for name, part in value.items()}
        if isinstance(value, list):
            return [self.real(part) for part in value]
        if isinstance(value, str) and value.startswith("uuid-"):
            return self._real.setdefault(value, str(uuid.uuid4()))
        return value

    def compare(self, expected: Any, actual: Any, where: str = "$") -> list[str]:
        """What differs; an id that is new on both sides is taken over."""
        if isinstance(expected, dict) and isinstance(actual, dict):
            return self._objects(expected, actual, where)
        if isinstance(expected, list) and isinstance(actual, list):
            if len(expected) != len(actual):
                return [f"{where}: {len(expected)} items recorded, {len(actual)} seen"]
            pairs = enumerate(zip(expected, actual, strict=True))
            return [
                text for i, pair in pairs for text in self.compare(*pair, where=f"{where}[{i}]")
            ]
        if isinstance(expected, str) and expected.startswith("uuid-"):
            if expected not in self._real and isinstance(actual, str):
                if actual in self._real.values():
                    return [f"{where}: {expected} is new, {actual} is not"]
                self._real[expected] = str(uuid.UUID(actual))
            expected = self._real.get(expected)
        same = type(expected) is type(actual) and expected == actual
        return [] if same else [f"{where}: recorded {expected!r}, seen {actual!r}"]

    def _objects(self, expected: Event, actual: Event, where: str) -> list[str]:
        found = [f"{where}.{name}: missing" for name in expected.keys() - actual.keys()]
        found += [f"{where}.{name}: not recorded" for name in actual.keys() - expected.keys()]
        for name in expected.keys() & actual.keys():
            if name not in FREE:
                found += self.compare(expected[name], actual[name], f"{where}.{name}")
        return sorted(found)


class Client:
    """One raw connection that keeps what it receives."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: asyncio.Queue[Any] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for text in self.socket:
                self.frames.put_nowait(json.loads(text))
        except ConnectionClosed:
            pass

    async def settle(self) -> None:
        """Returns when everything the engine has sent so far is here."""
        try:
            await (await self.socket.ping())
        except ConnectionClosed:
            await self._reader

    async def end(self) -> None:
        await self.socket.close()
        await self._reader


class Replay:
    """One run.

    Args:
        url: The first listener.
        guarded_url: The second one.
        patience: Seconds to wait for a frame that is expected.
    """

    def __init__(self, url: str, guarded_url: str, patience: float = 5.0) -> None:
        self._url = url
        self._guarded_url = guarded_url
        self._patience = patience
        self._clients: dict[str, Client] = {}
        self._ids = Ids()
        self.played = 0

    async def run(self, scenarios: Sequence[Scenario]) -> dict[str, list[str]]:
        """Plays all scenarios; what differs in each."""
        differences: dict[str, list[str]] = {}
        try:
            for scenario in scenarios:
                found = differences.setdefault(scenario.name, [])
                for number, event in enumerate(scenario.events):
                    found += await self._play(event, scenario.events[number + 1 :])
                    self.played += 1
                found += await self._leftovers()
        finally:
            for client in self._clients.values():
                await client.end()
        return differences

    async def _client(self, conn: str) -> Client:
        client = self._clients.get(conn)
        if client is None:
            url = self._guarded_url if conn in GUARDED else self._url
            socket = await connect(
                url, additional_headers=GUARDED.get(conn), proxy=None, max_size=None
            )
            client = self._clients[conn] = Client(socket)
        return client

    async def _play(self, event: Event, rest: Sequence[Event]) -> list[str]:
        conn, direction, message = event["conn"], event["dir"], event["msg"]
        client = await self._client(conn)
        where = f"{conn} {direction} {message.get('type', '')}"
        try:
            async with asyncio.timeout(self._patience):
                if direction == "to-engine":
                    await client.socket.send(json.dumps(self._ids.real(message)))
                    return []
                if direction == "from-engine":
                    actual = await client.frames.get()
                    return [f"{where} {text}" for text in self._ids.compare(message, actual)]
                if direction == "closed-by-client":
                    # Both sides said goodbye at the same moment: here the engine goes first.
                    if not any(other["dir"] == "closed-by-engine" for other in rest):
                        await client.socket.close(message["code"])
                    return []
                if direction == "closed-by-engine":
                    await client.socket.wait_closed()
                    code = client.socket.close_code
                    return [] if code == message["code"] else [f"{where}: closed with {code}"]
        except TimeoutError:
            return [f"{where}: nothing seen of {message}"]
        return [f"{where}: nobody knows how to play this"]

    async def _leftovers(self) -> list[str]:
        # A frame may make the engine write to another connection: twice round, and all is quiet.
        for _ in range(2):
            for client in self._clients.values():
                await client.settle()
        found: list[str] = []
        for conn, client in self._clients.items():
            while not client.frames.empty():
                found.append(f"{conn} from-engine: not recorded: {client.frames.get_nowait()}")
        return found
