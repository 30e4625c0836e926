"""Decides who may connect to the second listener: the auth function of its rules is called.

Knows nothing of what a worker may do once it is connected: its `Session` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl

from iii_resilience.testing.loopback.client_connection import ClientConnection
from iii_resilience.testing.loopback.history import BuiltinError, InvocationOutcome
from iii_resilience.testing.loopback.rbac import Rbac, Session, session_from
from iii_resilience.testing.loopback.router import Invocation, Router


class Authentication:
    """The connections under the second listener's rules, and those that wait for an answer.

    Args:
        rbac: The rules.
        calls: Where the auth function is called.
    """

    def __init__(self, rbac: Rbac, calls: Router) -> None:
        self._rbac = rbac
        self._calls = calls
        self._guarded: set[ClientConnection] = set()
        self._early: dict[ClientConnection, list[str]] = {}

    def guard(self, connection: ClientConnection) -> None:
        """Puts a new connection under the rules."""
        self._guarded.add(connection)

    def forget(self, connection: ClientConnection) -> None:
        """A connection is over."""
        self._guarded.discard(connection)
        self._early.pop(connection, None)

    def clear(self) -> None:
        """Forgets all connections."""
        self._guarded.clear()
        self._early.clear()

    def keep(self, connection: ClientConnection, text: str) -> bool:
        """Keeps a message that came before the answer; whether it is too early for it."""
        early = self._early.get(connection)
        if early is not None:
            early.append(text)
        return early is not None

    def check(
        self,
        connection: ClientConnection,
        query: str,
        headers: dict[str, str],
        admit: Callable[[Session | None, list[str]], None],
        refuse: Callable[[BuiltinError], None],
    ) -> None:
        """Calls `admit` with the session and the messages that came early, or `refuse`.

        Args:
            connection: The connection.
            query: The query of its address.
            headers: The headers of its request.
            admit: May be called at once; the session is None without rules.
            refuse: Takes why it may not connect.
        """
        if connection not in self._guarded:
            admit(None, [])
            return
        auth = self._rbac.auth_function_id
        if auth is None:
            admit(Session(self._rbac, may_register_trigger_types=True), [])
            return
        parameters: dict[str, list[str]] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            parameters.setdefault(name, []).append(value)
        data = {"headers": headers, "query_params": parameters, "ip_address": "127.0.0.1"}
        self._early[connection] = []

        def decided(outcome: InvocationOutcome) -> None:
            early = self._early.pop(connection, None)
            if early is None:
                return
            try:
                if outcome.error is not None:
                    raise BuiltinError("AUTH_ERROR", outcome.error.message)
                session = session_from(self._rbac, outcome.result)
            except BuiltinError as error:
                refuse(error)
                return
            admit(session, early)

        self._calls.place(Invocation(auth, data, decided))
