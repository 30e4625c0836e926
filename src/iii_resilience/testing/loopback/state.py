"""`state::*`, `stream::get` and `stream::set`, as far as tests need them.

Knows nothing of the triggers that the real engine fires when state changes.
"""

from __future__ import annotations

import copy
from typing import Any, Final

from iii_resilience.testing.loopback.arguments import fields, shown
from iii_resilience.testing.loopback.history import BuiltinError
from iii_resilience.testing.loopback.registry import Builtin, BuiltinRequest

_DOC_URL: Final = "https://iii.dev/docs/workers/iii-state#error-codes"
_OPS: Final = ("set", "merge", "increment", "decrement", "append", "remove")


class StateFunctions:
    """Values by scope and key, kept over restarts of the engine."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], Any] = {}
        self._streams: dict[tuple[str, str, str], Any] = {}

    def builtins(self) -> dict[str, Builtin]:
        """The engine's functions of this kind, by id."""
        return {
            "state::get": self.get,
            "state::set": self.set,
            "state::delete": self.delete,
            "state::list": self.list,
            "state::update": self.update,
            "stream::get": self.get_item,
            "stream::set": self.set_item,
        }

    def get(self, request: BuiltinRequest) -> Any:
        """Input ``{scope, key}``; the value, or None."""
        asked = fields(request, "StateGetInput", scope=str, key=str)
        return self._values.get((asked["scope"], asked["key"]))

    def set(self, request: BuiltinRequest) -> dict[str, Any]:
        """Input ``{scope, key, value}``; ``{old_value, new_value}``."""
        asked = fields(request, "StateSetInput", scope=str, key=str, value=object)
        place = (asked["scope"], asked["key"])
        old, self._values[place] = self._values.get(place), asked["value"]
        return {"old_value": old, "new_value": asked["value"]}

    def delete(self, request: BuiltinRequest) -> Any:
        """Input ``{scope, key}``; the value it had, or None."""
        asked = fields(request, "StateDeleteInput", scope=str, key=str)
        return self._values.pop((asked["scope"], asked["key"]), None)

    def list(self, request: BuiltinRequest) -> Any:
        """Input ``{scope}``; the values of that scope."""
        scope = fields(request, "StateGetGroupInput", scope=str)["scope"]
        return [value for (of, _), value in sorted(self._values.items()) if of == scope]

    def update(self, request: BuiltinRequest) -> dict[str, Any]:
        """Input ``{scope, key, ops}``; ``{old_value, new_value}``, and ``errors`` of operations.

        An operation names a field of the value, not a path into it; ``""`` is the value itself.
        """
        asked = fields(request, "StateUpdateInput", scope=str, key=str, ops=list)
        for op in asked["ops"]:
            problem = _unreadable(op)
            if problem:
                text = f"Failed to deserialize input for {request.function_id}: {problem}"
                raise BuiltinError("deserialization_error", text)
        place = (asked["scope"], asked["key"])
        old = self._values.get(place)
        value, errors = copy.deepcopy(old), []
        for index, op in enumerate(asked["ops"]):
            try:
                value = _applied(value, op)
            except _OpError as error:
                code, message = error.args
                errors.append(
                    {"code": code, "doc_url": _DOC_URL, "message": message, "op_index": index}
                )
        self._values[place] = value
        answer = {"old_value": old, "new_value": value}
        return {**answer, "errors": errors} if errors else answer

    def get_item(self, request: BuiltinRequest) -> Any:
        """Input ``{stream_name, group_id, item_id}``; the item, or None."""
        asked = fields(request, "StreamGetInput", stream_name=str, group_id=str, item_id=str)
        return self._streams.get((asked["stream_name"], asked["group_id"], asked["item_id"]))

    def set_item(self, request: BuiltinRequest) -> dict[str, Any]:
        """Input ``{stream_name, group_id, item_id, data}``; ``{old_value, new_value}``."""
        asked = fields(
            request, "StreamSetInput", stream_name=str, group_id=str, item_id=str, data=object
        )
        place = (asked["stream_name"], asked["group_id"], asked["item_id"])
        old, self._streams[place] = self._streams.get(place), asked["data"]
        return {"old_value": old, "new_value": asked["data"]}


class _OpError(Exception):
    """An operation that cannot be done: its code and its message."""


def _unreadable(op: Any) -> str | None:
    if not isinstance(op, dict):
        return f"invalid type: {shown(op)}, expected internally tagged enum UpdateOp"
    kind = op.get("type")
    if kind not in _OPS:
        names = ", ".join(f"`{name}`" for name in _OPS)
        return f"unknown variant `{kind}`, expected one of {names}"
    if kind in {"increment", "decrement"}:
        if "by" not in op:
            return "missing field `by`"
        if isinstance(op["by"], bool) or not isinstance(op["by"], int):
            return f"invalid type: {shown(op['by'])}, expected i64"
    if kind in {"set", "append", "merge"} and "value" not in op:
        return "missing field `value`"
    if kind != "merge" and not isinstance(op.get("path"), str):
        wrong = "missing field `path`" if "path" not in op else None
        return wrong or f"invalid type: {shown(op['path'])}, expected a string"
    return None


def _applied(value: Any, op: dict[str, Any]) -> Any:
    kind, path = op["type"], op.get("path") or ""
    if kind == "merge":
        return _merged(value, path, op["value"])
    if path == "":
        if kind == "append":
            return _appended(value, op["value"], path)
        if kind in {"increment", "decrement"}:
            return _counted(value, op)
        return op["value"] if kind == "set" else None
    if value is None:
        value = {}
    if not isinstance(value, dict):
        message = f"Cannot {kind} at path '{path}': target is {_kind(value)}, expected object."
        raise _OpError(f"{kind}.target_not_object", message)
    if kind == "set":
        return {**value, path: op["value"]}
    if kind == "remove":
        return {name: field for name, field in value.items() if name != path}
    if kind == "append":
        return {**value, path: _appended(value.get(path), op["value"], path)}
    return {**value, path: _counted(value.get(path, 0), op)}


def _merged(value: Any, path: Any, more: Any) -> Any:
    if not isinstance(more, dict):
        raise _OpError("merge.value.not_an_object", "Merge value must be a JSON object")
    segments = [path] if isinstance(path, str) and path else list(path or ())
    whole = value if isinstance(value, dict) else {}
    target = whole
    for segment in segments:
        if not isinstance(target.get(segment), dict):
            target[segment] = {}
        target = target[segment]
    target.update(more)
    return whole


def _appended(target: Any, more: Any, path: str) -> Any:
    if target is None:
        return more if isinstance(more, str) else [more]
    if isinstance(target, list):
        return [*target, more]
    if not isinstance(target, str):
        message = (
            f"Cannot append at path '{path}': target is {_kind(target)}, expected array, string, "
            "null, or missing field."
        )
        raise _OpError("append.type_mismatch", message)
    if not isinstance(more, str):
        message = f"Expected string append value at path '{path}', got {_kind(more)}."
        raise _OpError("append.type_mismatch", message)
    return target + more


def _counted(value: Any, op: dict[str, Any]) -> Any:
    value = 0 if value is None and not op.get("path") else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        message = f"Expected number at path '{op.get('path') or ''}', got {_kind(value)}."
        raise _OpError(f"{op['type']}.not_number", message)
    return value + (op["by"] if op["type"] == "increment" else -op["by"])


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {bool: "boolean", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "number")
