"""In which state a connection is, and what its history says about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from support.engine_fixtures import connect, engine
from support.waiting import until

from iii_resilience.core.effects import drive
from iii_resilience.sdk.connection import Connection
from iii_resilience.sdk.connection_state import (
    REFUSALS,
    SHORT_LIVED,
    ConnectionHistory,
    ConnectionState,
)
from iii_resilience.sdk.versions import sdk_of
from iii_resilience.testing import LoopbackEngine

__all__ = ["connect", "engine"]

OLD = sdk_of((0, 24, 3))


class Seen:
    """A real client of which some parts look otherwise."""

    def __init__(self, client: Any, **parts: Any) -> None:
        self._real = client
        vars(self).update(parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Closed:
    """A socket that is closed."""

    class state:  # noqa: N801 - stands for an enum member
        name = "CLOSED"


class TestHistory:
    @pytest.fixture
    def history(self) -> ConnectionHistory:
        return ConnectionHistory(connected=False, since=0.0)

    @staticmethod
    def refuse(history: ConnectionHistory, times: int, lasts: float = 0.1) -> float:
        now = history.since
        for _ in range(times):
            history.changed(connected=True, now=now)
            history.changed(connected=False, now=now + lasts)
            now += lasts + 0.1
        return now

    def test_three_short_connections_are_refusal(self, history: ConnectionHistory) -> None:
        now = self.refuse(history, REFUSALS - 1)
        assert not history.refused(now)
        assert history.refused(self.refuse(history, 1))
        assert history.epoch == 2 * REFUSALS

    def test_connection_that_lasts_is_no_refusal(self, history: ConnectionHistory) -> None:
        self.refuse(history, REFUSALS)
        assert not history.refused(self.refuse(history, 1, lasts=SHORT_LIVED))
        assert history.refusals == 0

    def test_answer_ends_refusal(self, history: ConnectionHistory) -> None:
        now = self.refuse(history, REFUSALS)
        history.changed(connected=True, now=now)
        assert history.refused(now)
        history.answered = True
        assert not history.refused(now)
        history.changed(connected=False, now=now + 0.1)
        assert history.refusals == 0

    def test_answer_of_earlier_connection_does_not_count(self, history: ConnectionHistory) -> None:
        now = self.refuse(history, REFUSALS)
        history.answered = True
        history.changed(connected=True, now=now)
        assert history.refused(now)

    def test_refusal_ends_while_connection_lasts(self, history: ConnectionHistory) -> None:
        now = self.refuse(history, REFUSALS)
        history.changed(connected=True, now=now)
        assert history.refused(now + SHORT_LIVED / 2)
        assert not history.refused(now + SHORT_LIVED)


class TestState:
    def test_it_follows_connection(
        self, engine: LoopbackEngine, connect: Callable[..., Any]
    ) -> None:
        client = connect()
        connection = Connection(client)
        until(lambda: connection.state is ConnectionState.CONNECTED)
        engine.stop_listening()
        engine.disconnect()
        until(lambda: connection.state is ConnectionState.DISCONNECTED)
        client.shutdown()
        until(lambda: connection.state is ConnectionState.SHUT_DOWN)

    def test_closed_connection_is_shut_down(self, connect: Callable[..., Any]) -> None:
        connection = Connection(connect())
        connection.close()
        assert connection.state is ConnectionState.SHUT_DOWN

    def test_client_that_gave_up_has_failed(self, connect: Callable[..., Any]) -> None:
        connection = Connection(Seen(connect(), get_connection_state=lambda: "failed"))
        assert connection.state is ConnectionState.FAILED

    @pytest.mark.parametrize(
        ("refusals", "answered", "last"),
        [
            (0, False, ConnectionState.DEAD),
            (1, True, ConnectionState.DEAD),
            (1, False, ConnectionState.REFUSED_ONCE),
        ],
    )
    def test_old_sdk_with_closed_socket_is_stale_then_dead(
        self,
        connect: Callable[..., Any],
        refusals: int,
        answered: bool,
        last: ConnectionState,
    ) -> None:
        client = Seen(connect())
        connection = Connection(client, OLD)
        began = time.monotonic()
        vars(client)["_ws"] = Closed
        assert connection.state is ConnectionState.STALE
        assert not connection.state.hopeless
        until(lambda: not connection.history.connected)
        connection.history.refusals, connection.history.answered = refusals, answered
        assert not drive(connection.wait_connected(60.0)), "it does not wait for what will not come"
        assert SHORT_LIVED <= time.monotonic() - began < 30
        assert connection.state is last
        connection.close()

    def test_newer_sdk_with_closed_socket_is_disconnected(
        self, connect: Callable[..., Any]
    ) -> None:
        connection = Connection(Seen(connect(), _ws=Closed), sdk_of((0, 24, 4)))
        assert connection.state is ConnectionState.DISCONNECTED
