"""`engine::functions::*`, `engine::workers::*`, `engine::triggers::list`, and channels' names.

They read the registry. Knows nothing of calls or connections.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from iii_resilience.testing.loopback.arguments import fields, shown, strings
from iii_resilience.testing.loopback.history import BuiltinError
from iii_resilience.testing.loopback.http_routes import channel
from iii_resilience.testing.loopback.rbac import DEFAULT_NAMESPACE
from iii_resilience.testing.loopback.registry import BuiltinRequest, Function, Registry
from iii_resilience.testing.loopback.triggers import Triggers

#: How many ids one request may contain (observed on engine 0.23).
MAX_IDS: Final = 32


def add_introspection(registry: Registry, triggers: Triggers) -> None:
    """Registers the functions that list what is registered."""
    answers = _Introspection(registry, triggers)
    for function_id, builtin in (
        ("engine::functions::info", answers.info),
        ("engine::functions::list", answers.functions),
        ("engine::workers::list", answers.workers),
        ("engine::workers::info", answers.worker),
        ("engine::triggers::list", answers.trigger_types),
        ("engine::channels::create", answers.channel),
    ):
        registry.add_function(Function(function_id, DEFAULT_NAMESPACE, builtin=builtin))


class _Introspection:
    def __init__(self, registry: Registry, triggers: Triggers) -> None:
        self._registry = registry
        self._triggers = triggers

    def info(self, request: BuiltinRequest) -> dict[str, Any]:
        asked = fields(
            request, "FunctionInfoInput", function_id_=str, function_ids_=list, namespace_=str
        )
        one, several = asked["function_id"], asked["function_ids"]
        if one is not None and several is not None:
            message = "pass either `function_id` or `function_ids`, not both"
            raise BuiltinError("INVALID_ARGUMENTS", message)
        if one is not None:
            return self._one(request, one, asked["namespace"])
        if several is None:
            message = "missing field `function_id` (or `function_ids` for a batch)"
            raise BuiltinError("INVALID_ARGUMENTS", message)
        ids = list(dict.fromkeys(strings(request, several)))
        if not ids:
            message = "`function_ids` must be a non-empty array of function ids"
            raise BuiltinError("INVALID_ARGUMENTS", message)
        if len(ids) > MAX_IDS:
            raise BuiltinError("INVALID_ARGUMENTS", f"too many function_ids (max {MAX_IDS})")
        return {"functions": [self._item(request, i, asked["namespace"]) for i in ids]}

    def functions(self, request: BuiltinRequest) -> dict[str, Any]:
        asked = fields(
            request,
            "FunctionsListInput",
            search_=str,
            prefix_=str,
            worker_=str,
            workers_=list,
            include_internal_=bool,
        )
        owners = {
            *strings(request, asked["workers"]),
            *([asked["worker"]] if asked["worker"] else ()),
        }
        search = (asked["search"] or "").lower()
        listed = [
            function
            for function in self._registry.functions()
            if (asked["include_internal"] or not _internal(function))
            and function.function_id.startswith(asked["prefix"] or "")
            and (not owners or function.worker_name in owners)
            and (search in function.function_id.lower() or search in _described(function))
            and self._visible(request, function)
        ]
        listed.sort(key=lambda function: (_rank(function, search), function.function_id))
        return {"functions": [_summary(function) for function in listed]}

    def workers(self, request: BuiltinRequest) -> dict[str, Any]:
        asked = fields(request, "WorkersListInput", search_=str, runtime_=str, status_=str)
        search = (asked["search"] or "").lower()
        return {
            "workers": [
                {
                    "id": worker.worker_id,
                    "name": worker.name,
                    "namespace": worker.namespace,
                    "status": "connected",
                    "function_count": len(worker.functions),
                    "active_invocations": len(worker.invocations),
                }
                for worker in sorted(self._registry.workers(), key=lambda worker: worker.label)
                if worker.name is not None and search in worker.name.lower()
            ]
        }

    def worker(self, request: BuiltinRequest) -> dict[str, Any]:
        name = fields(request, "WorkerInfoInput", name=str)["name"]
        found = [worker for worker in self._registry.workers() if worker.name == name]
        if not found:
            raise BuiltinError("NOT_FOUND", f"Worker '{name}' is not connected.")
        (worker, *_) = found
        triggers = self._triggers.of_worker(worker)
        return {
            "worker": {
                "id": worker.worker_id,
                "name": worker.name,
                "namespace": worker.namespace,
                "status": "connected",
                "function_count": len(worker.functions),
                "active_invocations": len(worker.invocations),
                "internal": worker.link is None,
            },
            "functions": [
                _summary(function)
                for function in self._registry.functions()
                if function.owner is worker
            ],
            "registered_triggers": [
                {
                    "id": trigger.trigger_id,
                    "trigger_type": trigger.trigger_type,
                    "function_id": trigger.function_id,
                    "config": trigger.config,
                }
                for trigger in triggers
            ],
            "trigger_types": [
                row.trigger_type
                for row in self._triggers.types()
                if row.worker_name == worker.label
            ],
        }

    def trigger_types(self, request: BuiltinRequest) -> dict[str, Any]:
        asked = fields(request, "TriggersListInput", search_=str, include_internal_=bool)
        search = (asked["search"] or "").lower()
        return {
            "triggers": [
                {
                    "id": row.trigger_type,
                    "description": row.description,
                    "namespace": row.namespace,
                    "worker_name": row.worker_name,
                }
                for row in self._triggers.types()
                if search in row.trigger_type.lower() or search in row.description.lower()
            ]
        }

    def channel(self, request: BuiltinRequest) -> dict[str, Any]:
        size = (request.data or {}).get("buffer_size") if isinstance(request.data, dict) else None
        if size is not None and (isinstance(size, bool) or not isinstance(size, int)):
            text = f"invalid type: {shown(size)}, expected usize"
            problem = f"Failed to deserialize input for {request.function_id}: {text}"
            raise BuiltinError("deserialization_error", problem)
        channel_id, key = str(uuid.uuid4()), str(uuid.uuid4())
        return {
            "reader": channel(channel_id, "read", key),
            "writer": channel(channel_id, "write", key),
        }

    def _one(
        self, request: BuiltinRequest, function_id: str, namespace: str | None
    ) -> dict[str, Any]:
        function = self._find(function_id, namespace)
        if function is None:
            spaces = self._registry.namespaces_of(function_id)
            message = f"Function '{function_id}' is not registered."
            if spaces:
                message = (
                    f"Function '{function_id}' is ambiguous: it is registered in namespace(s): "
                    f"{', '.join(spaces)}. Pass `namespace` to select one."
                )
            raise BuiltinError("NOT_FOUND", message)
        if not self._visible(request, function):
            message = f"Function '{function_id}' is not visible to this session."
            raise BuiltinError("FORBIDDEN", message)
        return self._detail(function)

    def _item(
        self, request: BuiltinRequest, function_id: str, namespace: str | None
    ) -> dict[str, Any]:
        function = self._find(function_id, namespace)
        if function is None:
            return {"function_id": function_id, "error": "not_found"}
        if not self._visible(request, function):
            return {"function_id": function_id, "error": "forbidden"}
        return self._detail(function)

    def _find(self, function_id: str, namespace: str | None) -> Function | None:
        if namespace is not None:
            return self._registry.function(function_id, namespace)
        spaces = self._registry.namespaces_of(function_id)
        if DEFAULT_NAMESPACE in spaces:
            return self._registry.function(function_id, DEFAULT_NAMESPACE)
        return self._registry.function(function_id, spaces[0]) if len(spaces) == 1 else None

    def _visible(self, request: BuiltinRequest, function: Function) -> bool:
        session = request.caller.session if request.caller is not None else None
        return session is None or session.allows(function.function_id, function.namespace)

    def _detail(self, function: Function) -> dict[str, Any]:
        detail = _summary(function)
        for name, value in (
            ("request_schema", function.request_format),
            ("response_schema", function.response_format),
        ):
            if value is not None:
                detail[name] = value
        triggers = self._triggers.of_function(function.function_id, function.namespace)
        return {**detail, "registered_triggers": triggers}


def _summary(function: Function) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "function_id": function.function_id,
        "namespace": function.namespace,
        "worker_name": function.worker_name,
    }
    if function.description is not None:
        summary["description"] = function.description
    if function.metadata is not None:
        summary["metadata"] = function.metadata
    return summary


def _rank(function: Function, search: str) -> int:
    """How well an id matches what is searched for (engine 0.23); all the same without one."""
    function_id = function.function_id.lower()
    if function_id.startswith(search) or search in function_id.split("::"):
        return 0
    return 1 if search in function_id else 2


def _described(function: Function) -> str:
    return (function.description or "").lower()


def _internal(function: Function) -> bool:
    engine = function.function_id.startswith("engine::")
    tagged = isinstance(function.metadata, dict) and function.metadata.get("internal") is True
    return tagged or (engine and not function.function_id.startswith("engine::queue::"))
