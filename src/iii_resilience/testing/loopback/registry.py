"""The registry: workers, their names, and the functions they own.

One live worker owns a name in a namespace, and one owns a function id; when the owner leaves, its
functions are gone (docs/engine-notes.md, 3). Knows nothing of calls or frames.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import attrs

from iii_resilience.testing.loopback.rbac import Session
from iii_resilience.testing.loopback.wire import Message


class ClientLink(Protocol):
    """What a worker is reached through."""

    def send(self, text: str, ticket: str | None = None) -> None:
        """Sends a message."""

    def unaccepted(self) -> frozenset[str]:
        """Tickets of messages that were sent while the channel was full."""
        ...

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""

    def close(self, code: int | None = None, *, linger: bool = False) -> None:
        """Ends the connection with a close frame."""


def _new_id() -> str:
    return str(uuid.uuid4())


@attrs.define(eq=False)
class Worker:
    """One connection's worker, or one that lives in the engine itself (without a connection).

    Attributes:
        number: Counts connections, to name those that never say a name.
        link: Its connection, or None.
        session: What it may do, or None: everything.
        worker_id: The id the engine gives it.
        token: The secret with which a later connection can prove to be the same worker.
        name: The name it registered under, or None.
        namespace: Where its registrations go, or None while that is not known.
        held: Registrations that wait for the namespace.
        functions: The ids it owns, in order of registration.
        invocations: The ids of calls it has made or is handling, in order.
        gone: Whether its connection has ended.
    """

    number: int
    link: ClientLink | None = None
    session: Session | None = None
    worker_id: str = attrs.field(factory=_new_id)
    token: str = attrs.field(factory=_new_id)
    name: str | None = None
    namespace: str | None = None
    held: list[Message] = attrs.field(factory=list)
    functions: dict[str, None] = attrs.field(factory=dict)
    invocations: dict[str, None] = attrs.field(factory=dict)
    gone: bool = False

    @property
    def label(self) -> str:
        """What it is called in records."""
        return self.name or f"connection-{self.number}"


@attrs.frozen
class BuiltinRequest:
    """A call of one of the engine's own functions.

    Attributes:
        function_id: The function.
        data: The payload.
        caller: Who calls, or None for the engine itself.
    """

    function_id: str
    data: Any
    caller: Worker | None = None


Builtin = Callable[[BuiltinRequest], Any]


@attrs.frozen(eq=False)
class Function:
    """One registered function.

    Attributes:
        function_id: Its id.
        namespace: Its namespace.
        owner: The worker that owns it, or None for one of the engine's own.
        builtin: What runs it inside the engine, or None: its owner does.
        description: What it does, or None.
        request_format: The schema of its input, or None.
        response_format: The schema of its result, or None.
        metadata: What was registered beside it, or None.
    """

    function_id: str
    namespace: str
    owner: Worker | None = None
    builtin: Builtin | None = None
    description: str | None = None
    request_format: Any = None
    response_format: Any = None
    metadata: Any = None

    @property
    def worker_name(self) -> str:
        """The name of its owner; for an engine function the first part of its id."""
        if self.owner is not None and self.owner.name is not None:
            return self.owner.name
        return self.function_id.split("::")[0]


class Registry:
    """Workers and functions of a running engine."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._names: dict[tuple[str, str], Worker] = {}
        self._functions: dict[tuple[str, str], Function] = {}

    def clear(self) -> list[Worker]:
        """Forgets everything but the engine's own functions; returns the workers it had."""
        workers = list(self._workers.values())
        self._workers.clear()
        self._names.clear()
        builtins = {key: fn for key, fn in self._functions.items() if fn.owner is None}
        self._functions = builtins
        for worker in workers:
            worker.gone = True
        return workers

    def workers(self) -> Iterator[Worker]:
        """The connected workers, in order of arrival."""
        return iter(tuple(self._workers.values()))

    def worker(self, worker_id: str) -> Worker | None:
        """The connected worker with this id."""
        return self._workers.get(worker_id)

    def add_worker(self, worker: Worker) -> None:
        """A worker has connected."""
        self._workers[worker.worker_id] = worker

    def remove_worker(self, worker: Worker) -> None:
        """A worker has left; its name and its functions go with it."""
        worker.gone = True
        self._workers.pop(worker.worker_id, None)
        namespace = worker.namespace or ""
        for function_id in worker.functions:
            self._forget((namespace, function_id), worker)
        worker.functions.clear()
        key = (namespace, worker.name or "")
        if self._names.get(key) is worker:
            del self._names[key]

    def claim_name(self, worker: Worker, namespace: str, name: str) -> Worker | None:
        """Gives a worker its name; returns the other holder, if there is one."""
        holder = self._names.get((namespace, name))
        # A worker that renamed itself keeps its older name until it leaves.
        if holder is not None and holder is not worker and not holder.gone:
            return holder
        self._names[namespace, name] = worker
        return None

    def add_function(self, function: Function) -> Worker | None:
        """Registers a function; returns the other owner, if there is one."""
        key = (function.namespace, function.function_id)
        present = self._functions.get(key)
        owner = function.owner
        if owner is not None and present is not None and present.owner not in {None, owner}:
            return present.owner
        self._functions[key] = function
        if owner is not None:
            owner.functions[function.function_id] = None
        return None

    def remove_function(self, worker: Worker, function_id: str) -> None:
        """A worker gives a function up; another worker's function stays."""
        worker.functions.pop(function_id, None)
        self._forget((worker.namespace or "", function_id), worker)

    def function(self, function_id: str, namespace: str) -> Function | None:
        """The function with this id in this namespace."""
        return self._functions.get((namespace, function_id))

    def functions(self) -> Iterator[Function]:
        """All functions, in order of registration."""
        return iter(tuple(self._functions.values()))

    def namespaces_of(self, function_id: str) -> list[str]:
        """The namespaces in which a function with this id is registered, sorted."""
        return sorted(space for space, known in self._functions if known == function_id)

    def _forget(self, key: tuple[str, str], worker: Worker) -> None:
        function = self._functions.get(key)
        if function is not None and function.owner is worker:
            del self._functions[key]
