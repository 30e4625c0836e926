"""Handles registrations by workers: functions, triggers, and the workers themselves.

A registration waits until its worker has named its namespace, or until the grace period is over
(observed on engine 0.23). Knows nothing of connections or calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from iii_resilience.testing.loopback.history import BuiltinError
from iii_resilience.testing.loopback.outbox import Outbox
from iii_resilience.testing.loopback.rbac import DEFAULT_NAMESPACE
from iii_resilience.testing.loopback.registry import BuiltinRequest, Function, Registry, Worker
from iii_resilience.testing.loopback.triggers import Triggers
from iii_resilience.testing.loopback.wire import Message, normal_uuid

_NAME_LENGTH: Final = 500
#: The messages that register something, or take it back.
REGISTRATIONS: Final = frozenset(
    {
        "registerfunction",
        "unregisterfunction",
        "registertrigger",
        "unregistertrigger",
        "registertriggertype",
        "registerservice",
    }
)
_NO_STRUCT: Final = "Failed to deserialize input for engine::workers::register: {}"


class RegistrationFrames:
    """Takes registrations in.

    Args:
        registry: Who owns what.
        triggers: The registered triggers.
        post: Sends refusals; nothing else is answered.
        changed: Is called whenever something was registered or taken back.
    """

    def __init__(
        self, registry: Registry, triggers: Triggers, post: Outbox, changed: Callable[[], None]
    ) -> None:
        self._registry = registry
        self._triggers = triggers
        self._post = post
        self._changed = changed

    def take(self, worker: Worker, message: Message) -> None:
        """A worker registers something, or takes it back."""
        if worker.namespace is None:
            worker.held.append(message)
        else:
            self._register(worker, message)

    def _register(self, worker: Worker, message: Message) -> None:
        kind: str = message["type"]
        if kind == "registerfunction":
            self._register_function(worker, message)
        elif kind == "unregisterfunction":
            self._registry.remove_function(worker, _prefixed(worker, message["id"]))
        elif kind == "registertrigger":
            self._triggers.register(worker, message, _prefixed(worker, message["function_id"]))
        elif kind == "unregistertrigger":
            self._triggers.unregister(message["id"])
        elif kind == "registertriggertype":
            self._triggers.add_type(worker, message)
        self._changed()

    def _register_function(self, worker: Worker, message: Message) -> None:
        if worker.session is not None and not worker.session.may_register_functions:
            return
        if message.get("invocation") is not None:
            # HTTP-invoked functions need a worker that this engine does not have; the real one
            # without it registers nothing either.
            return
        namespace = worker.namespace or DEFAULT_NAMESPACE
        function = Function(
            function_id=_prefixed(worker, message["id"]),
            namespace=namespace,
            owner=worker,
            description=message.get("description"),
            request_format=message.get("request_format"),
            response_format=message.get("response_format"),
            metadata=message.get("metadata"),
        )
        reserved = function.function_id.startswith("engine::") and namespace != DEFAULT_NAMESPACE
        holder = None if reserved else self._registry.add_function(function)
        if reserved or holder is not None:
            self._post.send(
                worker,
                {
                    "type": "registrationrejected",
                    "code": "FUNCTION_NAMESPACE_CONFLICT",
                    "namespace": namespace,
                    "function_id": function.function_id,
                    "owner_worker_id": "" if holder is None else holder.worker_id,
                },
            )

    def settle(self, worker: Worker, namespace: str) -> None:
        """Fixes a worker's namespace, once and for all, and takes in what has waited for it."""
        if worker.gone or worker.namespace is not None:
            return
        worker.namespace = namespace
        held, worker.held = worker.held, []
        for message in held:
            self._register(worker, message)
        self._changed()

    def announce(self, request: BuiltinRequest) -> dict[str, bool]:
        """`engine::workers::register`: a worker says its name and namespace."""
        worker, data = request.caller, request.data
        if worker is None or not isinstance(data, dict):
            raise BuiltinError("deserialization_error", _NO_STRUCT.format("invalid type"))
        name, declared = data.get("name"), data.get("namespace")
        for value in (name, declared):
            if value is not None and not isinstance(value, str):
                raise BuiltinError("deserialization_error", _NO_STRUCT.format("invalid type"))
        if declared is not None and not declared.strip():
            message = (
                f"namespace is empty: worker '{name or '<unnamed>'}' declared \"{declared}\". Give "
                "it a name, or omit the field to register in 'default'."
            )
            raise BuiltinError("INVALID_NAMESPACE", message)
        namespace = worker.namespace or declared or DEFAULT_NAMESPACE
        shown = "".join(char for char in name or "" if char.isprintable())[:_NAME_LENGTH].strip()
        if shown:
            holder = self._registry.claim_name(worker, namespace, shown)
            if holder is not None:
                self._reject(worker, namespace, shown, holder)
                return {"success": False}
            worker.name = shown
        self.settle(worker, namespace)
        self._changed()
        return {"success": True}

    def _reject(self, worker: Worker, namespace: str, name: str, holder: Worker) -> None:
        self._post.send(
            worker,
            {
                "type": "registrationrejected",
                "code": "WORKER_NAMESPACE_CONFLICT",
                "namespace": namespace,
                "worker_name": name,
                "owner_worker_id": holder.worker_id,
            },
        )
        # What it registered is never looked at, and the engine waits for it to close.
        worker.held.clear()
        if worker.link is not None:
            worker.link.close(linger=True)

    def reattach(self, worker: Worker, message: Message) -> None:
        """A worker proves to be one that was connected before: the older connection ends."""
        previous_id = normal_uuid(message["previous_worker_id"])
        previous = None if previous_id is None else self._registry.worker(previous_id)
        if previous is None or previous is worker or previous.link is None:
            return
        if message.get("reattach_token") != previous.token:
            return
        previous.link.close()


def _prefixed(worker: Worker, function_id: str) -> str:
    prefix = worker.session.prefix if worker.session is not None else None
    return function_id if prefix is None else f"{prefix}::{function_id}"
