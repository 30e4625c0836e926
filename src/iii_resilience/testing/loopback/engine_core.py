"""The engine's core, on its own thread: connections become workers, messages become calls.

Configuration, state and queues register their functions with it. Knows nothing of sockets or
threads (`loopback.engine` has those), nor of what these functions do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

from iii_resilience.testing.faults import FaultPlan
from iii_resilience.testing.loopback.authentication import Authentication
from iii_resilience.testing.loopback.client_connection import ClientConnection
from iii_resilience.testing.loopback.history import BuiltinError
from iii_resilience.testing.loopback.introspection import add_introspection
from iii_resilience.testing.loopback.invocations import InvocationFrames
from iii_resilience.testing.loopback.outbox import Outbox
from iii_resilience.testing.loopback.rbac import DEFAULT_NAMESPACE, Rbac, Session
from iii_resilience.testing.loopback.registration_frames import REGISTRATIONS, RegistrationFrames
from iii_resilience.testing.loopback.registry import Builtin, Function, Registry, Worker
from iii_resilience.testing.loopback.router import Host, Router
from iii_resilience.testing.loopback.triggers import Triggers
from iii_resilience.testing.loopback.wire import Message, UnreadableFrame, decode, recorded


class Engine:
    """A running engine without its sockets; used on one thread only.

    Args:
        host: What it needs of the thread around it.
        rbac: The rules of the second listener.
        keep: How many frames and calls are remembered.
        changed: Is called whenever a worker or a function came or went.
        called: Is called whenever a call came in.
    """

    def __init__(
        self,
        host: Host,
        rbac: Rbac,
        keep: int,
        changed: Callable[[], None],
        called: Callable[[], None],
    ) -> None:
        self.registry = Registry()
        self.faults = FaultPlan()
        self.post = Outbox(keep)
        self.calls = Router(self.registry, self.post, self.faults, host)
        self.triggers = Triggers(self.registry, self.post)
        self.reception = InvocationFrames(self.post, self.calls, called)
        self._registrations = RegistrationFrames(self.registry, self.triggers, self.post, changed)
        self._host = host
        self._changed = changed
        self.authentication = Authentication(rbac, self.calls)
        self._connections: dict[ClientConnection, Worker] = {}
        self._numbers = 0
        add_introspection(self.registry, self.triggers)
        self.add_builtin("engine::workers::register", self._registrations.announce)

    def add_builtin(self, function_id: str, builtin: Builtin, owner: Worker | None = None) -> None:
        """Registers a function that runs inside the engine.

        Args:
            function_id: Its id, in the default namespace.
            builtin: What runs it.
            owner: The worker it belongs to, or None for the engine itself.
        """
        self.registry.add_function(
            Function(function_id, DEFAULT_NAMESPACE, owner=owner, builtin=builtin)
        )

    def join(self, name: str) -> Worker:
        """Connects a worker that lives in the engine itself."""
        worker = self._new_worker()
        worker.name, worker.namespace = name, DEFAULT_NAMESPACE
        self.registry.add_worker(worker)
        self.registry.claim_name(worker, DEFAULT_NAMESPACE, name)
        return worker

    def leave(self, worker: Worker) -> None:
        """A worker is gone, with its functions and calls."""
        self.registry.remove_worker(worker)
        self.triggers.left(worker)
        self.calls.left(worker)
        self._changed()

    def clear(self) -> None:
        """Forgets everything a killed engine forgets, without notifying any connection."""
        self._connections.clear()
        self.authentication.clear()
        self.calls.clear()
        self.registry.clear()
        self.triggers.clear()
        self._changed()

    def worker_of(self, connection: ClientConnection) -> Worker | None:
        """The worker behind a connection."""
        return self._connections.get(connection)

    # What connections call.

    def opened(self, connection: ClientConnection, path: str, headers: dict[str, str]) -> None:
        """A connection is open: a worker's, or the second one an SDK sends telemetry through."""
        parts = urlsplit(path)

        def admit(session: Session | None, early: list[str]) -> None:
            if parts.path != "/otel":
                self._admit(connection, session)
                for text in early:
                    self.received(connection, text)

        refuse = partial(self._refuse, connection)
        self.authentication.check(connection, parts.query, headers, admit, refuse)

    def received(self, connection: ClientConnection, text: str) -> None:
        """A message came in."""
        if self.authentication.keep(connection, text):
            return
        worker = self._connections.get(connection)
        if worker is None:
            return
        try:
            message = decode(text)
        except UnreadableFrame as error:
            self.post.received(worker, recorded(text), str(error))
            return
        self.post.received(worker, message)
        self._handle(worker, message)

    def ended(self, connection: ClientConnection) -> None:
        """A connection is over."""
        self.authentication.forget(connection)
        worker = self._connections.pop(connection, None)
        if worker is not None:
            self.leave(worker)

    # Connections.

    def _new_worker(self, connection: ClientConnection | None = None) -> Worker:
        self._numbers += 1
        return Worker(self._numbers, link=connection)

    def _admit(self, connection: ClientConnection, session: Session | None) -> None:
        worker = self._new_worker(connection)
        worker.session = session
        self._connections[connection] = worker
        self.registry.add_worker(worker)
        self._host.later(
            _grace_seconds(), lambda: self._registrations.settle(worker, DEFAULT_NAMESPACE)
        )
        self.post.send(
            worker,
            {
                "type": "workerregistered",
                "worker_id": worker.worker_id,
                "reattach_token": worker.token,
            },
        )
        self._changed()

    def _refuse(self, connection: ClientConnection, error: BuiltinError) -> None:
        worker = self._new_worker(connection)
        body = {"code": error.code, "message": error.message}
        self.post.send(worker, {"type": "error", "error": body})
        connection.close()

    # Messages.

    def _handle(self, worker: Worker, message: Message) -> None:
        kind: str = message["type"]
        if kind == "invokefunction":
            self.reception.take(worker, message)
        elif kind == "invocationresult":
            self.calls.answered(worker, message)
        elif kind == "ping":
            self.post.send(worker, {"type": "pong"})
        elif kind == "reattach":
            self._registrations.reattach(worker, message)
        elif kind == "triggerregistrationresult":
            self.triggers.acknowledged(worker, message)
        elif kind in REGISTRATIONS:
            self._registrations.take(worker, message)


def _grace_seconds() -> float:
    """How long registrations wait for their worker to name its namespace, in seconds."""
    try:
        return int(os.environ["III_NAMESPACE_GRACE_MS"]) / 1000
    except (KeyError, ValueError):
        return 5.0
