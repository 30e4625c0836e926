"""Triggers that workers registered, and which worker provides each trigger type.

A trigger of a type without a provider is kept silently until one registers (observed on engine
0.23). Knows nothing of what fires a trigger: `loopback.configuration` looks up its own.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import attrs

from iii_resilience.testing.loopback.arguments import expect, shown
from iii_resilience.testing.loopback.history import ErrorBody
from iii_resilience.testing.loopback.outbox import Outbox
from iii_resilience.testing.loopback.rbac import DEFAULT_NAMESPACE
from iii_resilience.testing.loopback.registry import Registry, Worker
from iii_resilience.testing.loopback.wire import Message

#: Trigger types that the engine provides itself.
CONFIGURATION: Final = "configuration"
_CONFIGURATION_DESCRIPTION: Final = (
    "Configuration trigger \u2014 fires on register/update/delete events"
)


@attrs.frozen(eq=False)
class Trigger:
    """One binding: when something of this type happens, call that function.

    Attributes:
        trigger_id: The id its worker gave it.
        trigger_type: For example ``configuration``.
        function_id: The function to call.
        namespace: Where that function is looked for.
        config: What the provider of the type needs to know.
        metadata: What travels beside the payload when it fires, or None.
        worker: Who registered it.
        active: Whether its type has a provider.
    """

    trigger_id: str
    trigger_type: str
    function_id: str
    namespace: str
    config: Any
    metadata: Any
    worker: Worker
    active: bool


class TriggerProvider(Protocol):
    """What makes the triggers of one type fire, inside the engine."""

    def register(self, trigger: Trigger) -> None:
        """Starts to fire; raises a ValueError in the engine's words where it cannot."""

    def unregister(self, trigger: Trigger) -> None:
        """Fires no longer."""


@attrs.frozen
class TriggerTypeRow:
    """One trigger type, as `engine::triggers::list` names it."""

    trigger_type: str
    description: str
    worker_name: str
    namespace: str = DEFAULT_NAMESPACE


class Triggers:
    """All triggers of a running engine.

    Args:
        registry: Who is connected.
        post: Sends messages.
    """

    def __init__(self, registry: Registry, post: Outbox) -> None:
        self._registry = registry
        self._post = post
        self._triggers: dict[str, Trigger] = {}
        self._providers: dict[str, Worker] = {}
        self._descriptions: dict[str, str] = {}
        self._inside: dict[str, tuple[TriggerTypeRow, TriggerProvider | None]] = {
            CONFIGURATION: (
                TriggerTypeRow(CONFIGURATION, _CONFIGURATION_DESCRIPTION, CONFIGURATION),
                None,
            )
        }

    def provide(self, row: TriggerTypeRow, provider: TriggerProvider) -> None:
        """Adds a trigger type that the engine provides itself."""
        self._inside[row.trigger_type] = row, provider

    def types(self) -> list[TriggerTypeRow]:
        """Every provided type, by its id."""
        rows = [row for row, _ in self._inside.values()]
        rows += [
            TriggerTypeRow(kind, self._descriptions.get(kind, ""), worker.label)
            for kind, worker in self._providers.items()
            if kind not in self._inside
        ]
        return sorted(rows, key=lambda row: row.trigger_type)

    def of_worker(self, worker: Worker) -> list[Trigger]:
        """The active triggers that one worker registered."""
        return [t for t in self._triggers.values() if t.active and t.worker is worker]

    def clear(self) -> None:
        """Forgets all triggers and all providers but the engine's own."""
        for trigger_id in tuple(self._triggers):
            self._end(trigger_id)
        self._providers.clear()

    def of_type(self, trigger_type: str) -> list[Trigger]:
        """The active triggers of one type."""
        return [
            trigger
            for trigger in self._triggers.values()
            if trigger.active and trigger.trigger_type == trigger_type
        ]

    def of_function(self, function_id: str, namespace: str) -> list[dict[str, Any]]:
        """The active triggers of one function, as the engine lists them."""
        return [
            {
                "id": trigger.trigger_id,
                "trigger_type": trigger.trigger_type,
                "config": trigger.config,
            }
            for trigger in self._triggers.values()
            if trigger.active
            and trigger.function_id == function_id
            and trigger.namespace == namespace
        ]

    def register(self, worker: Worker, message: Message, function_id: str) -> None:
        """A worker registers a trigger; only a refusal is answered.

        Args:
            worker: Who registers it.
            message: The frame.
            function_id: The function to call, prefixed where the session says so.
        """
        session, namespace = worker.session, message.get("namespace")
        trigger_type: str = message["trigger_type"]
        for name in ("namespace", "trigger_namespace"):
            value = message.get(name)
            if value is not None and not value.strip():
                text = f"`{name}` is empty: it was named and left blank. Give it a name, or omit it"
                error = ErrorBody("INVALID_NAMESPACE", f"{text} to use `{DEFAULT_NAMESPACE}`.")
                self._refuse(worker, message, function_id, error)
                return
        namespace = namespace or DEFAULT_NAMESPACE
        if session is not None:
            if session.trigger_types is not None and trigger_type not in session.trigger_types:
                return
            if not session.allows(function_id, namespace):
                text = f"function '{function_id}' not allowed in namespace '{namespace}'"
                self._refuse(worker, message, function_id, ErrorBody("FORBIDDEN", text))
                return
        trigger = Trigger(
            trigger_id=message["id"],
            trigger_type=trigger_type,
            function_id=function_id,
            namespace=namespace,
            config=message["config"],
            metadata=message.get("metadata"),
            worker=worker,
            active=trigger_type in self._providers or trigger_type in self._inside,
        )
        try:
            self._start(trigger)
        except ValueError as problem:
            error = ErrorBody("trigger_registration_failed", str(problem))
            self._refuse(worker, message, function_id, error)
            return
        self._triggers[trigger.trigger_id] = trigger
        provider = self._providers.get(trigger_type)
        if provider is not None:
            self._hand_over(provider, trigger)

    def _start(self, trigger: Trigger) -> None:
        inside = self._inside.get(trigger.trigger_type, (None, None))[1]
        if inside is not None:
            inside.register(trigger)
        elif trigger.trigger_type == CONFIGURATION:
            try:
                _check_configuration(trigger.config)
            except ValueError as problem:
                text = f"Failed to parse configuration trigger config: {problem}"
                raise ValueError(text) from None

    def unregister(self, trigger_id: str) -> None:
        """Forgets a trigger and notifies its provider."""
        trigger = self._end(trigger_id)
        provider = None if trigger is None else self._providers.get(trigger.trigger_type)
        if trigger is not None and provider is not None:
            message = {"id": trigger_id, "trigger_type": trigger.trigger_type}
            self._post.send(provider, {"type": "unregistertrigger", **message})

    def add_type(self, worker: Worker, message: Message) -> None:
        """A worker provides a trigger type; what waited for it is handed over."""
        if worker.session is not None and not worker.session.may_register_trigger_types:
            return
        trigger_type: str = message["id"]
        self._providers[trigger_type] = worker
        self._descriptions[trigger_type] = str(message.get("description") or "")
        for trigger in tuple(self._triggers.values()):
            if trigger.trigger_type == trigger_type:
                self._activate(trigger, active=True)
                self._hand_over(worker, trigger)

    def acknowledged(self, worker: Worker, message: Message) -> None:
        """A provider says how a registration went; a refusal is passed on."""
        trigger = self._triggers.get(message["id"])
        if trigger is None or message.get("error") is None:
            return
        if self._providers.get(trigger.trigger_type) is not worker:
            return
        self._activate(trigger, active=False)
        error = message["error"]
        body = ErrorBody(error["code"], error["message"], error.get("stacktrace"))
        original = {"id": trigger.trigger_id, "trigger_type": trigger.trigger_type}
        self._refuse(trigger.worker, original, trigger.function_id, body)

    def left(self, worker: Worker) -> None:
        """A worker has gone: so have its triggers, and the types it provided wait for another."""
        self._providers = {kind: who for kind, who in self._providers.items() if who is not worker}
        for trigger in tuple(self._triggers.values()):
            if trigger.worker is worker:
                self.unregister(trigger.trigger_id)
            elif trigger.trigger_type not in {*self._providers, *self._inside}:
                self._activate(trigger, active=False)

    def _end(self, trigger_id: str) -> Trigger | None:
        trigger = self._triggers.pop(trigger_id, None)
        if trigger is not None:
            inside = self._inside.get(trigger.trigger_type, (None, None))[1]
            if inside is not None:
                inside.unregister(trigger)
        return trigger

    def _activate(self, trigger: Trigger, *, active: bool) -> None:
        self._triggers[trigger.trigger_id] = attrs.evolve(trigger, active=active)

    def _hand_over(self, provider: Worker, trigger: Trigger) -> None:
        message: Message = {
            "type": "registertrigger",
            "id": trigger.trigger_id,
            "trigger_type": trigger.trigger_type,
            "function_id": trigger.function_id,
            "config": trigger.config,
        }
        if trigger.metadata is not None:
            message["metadata"] = trigger.metadata
        if trigger.namespace != DEFAULT_NAMESPACE:
            message["namespace"] = trigger.namespace
        self._post.send(provider, message)

    def _refuse(self, worker: Worker, message: Message, function_id: str, error: ErrorBody) -> None:
        self._post.send(
            worker,
            {
                "type": "triggerregistrationresult",
                "id": message["id"],
                "trigger_type": message["trigger_type"],
                "function_id": function_id,
                "error": error.as_dict(),
            },
        )


def _check_configuration(config: object) -> None:
    if not isinstance(config, dict):
        struct = "struct ConfigurationTriggerConfig"
        raise ValueError(f"invalid type: {shown(config)}, expected {struct}")  # noqa: TRY004
    for name in ("condition_function_id", "configuration_id"):
        if config.get(name) is not None:
            expect(config[name], str)
    types = config.get("event_types")
    if types is not None:
        expect(types, list)
        for item in types:
            expect(item, str)
