"""The engine's configuration worker: entries with a schema, and triggers on changes.

Values survive a restart of the engine, schemas do not: until their owner registers again, a value
cannot be set (docs/engine-notes.md, 11). Knows nothing of connections.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from iii_resilience.testing.loopback.arguments import fields
from iii_resilience.testing.loopback.history import BuiltinError, InvocationOutcome
from iii_resilience.testing.loopback.registry import Builtin, BuiltinRequest
from iii_resilience.testing.loopback.router import Invocation, Router
from iii_resilience.testing.loopback.triggers import CONFIGURATION, Trigger, Triggers

if TYPE_CHECKING:
    from jsonschema.exceptions import SchemaError, ValidationError

_ID: Final = re.compile(r"[a-z0-9_-]{1,64}")
_VARIABLE: Final = re.compile(r"\$\{([^}:]+)(?::([^}]*))?\}")
_ANYTHING: Final = {"type": "object"}
_LONE: Final = re.compile(r"\s*\$\{[^}]*\}\s*")


@attrs.frozen
class _Entry:
    name: str
    description: str
    schema: Any
    value: Any
    metadata: Any


class Configuration:
    """The entries of one engine.

    Args:
        calls: Makes the calls of triggers.
        triggers: The registered triggers.
    """

    def __init__(self, calls: Router, triggers: Triggers) -> None:
        self._calls = calls
        self._triggers = triggers
        self._entries: dict[str, _Entry] = {}
        self._owners: dict[str, Callable[[Any], None]] = {}

    def provide(self, entry_id: str, name: str, value: Any, changed: Callable[[Any], None]) -> None:
        """Adds or replaces an entry that belongs to a worker inside the engine.

        Args:
            entry_id: Its id.
            name: Its name.
            value: Its value.
            changed: Called with a new value before it is set; may refuse it with a
                BuiltinError.
        """
        self._entries[entry_id] = _Entry(name, f"Settings of {entry_id}", _ANYTHING, value, None)
        self._owners[entry_id] = changed

    def builtins(self) -> dict[str, Builtin]:
        """The engine's functions of this worker, by id."""
        return {
            "configuration::register": self.register,
            "configuration::set": self.set,
            "configuration::get": self.get,
            "configuration::list": self.list,
            "configuration::schema": self.schema,
        }

    def restarted(self) -> None:
        """The engine was restarted."""
        self._entries = {
            entry_id: attrs.evolve(entry, schema=None) for entry_id, entry in self._entries.items()
        }

    def register(self, request: BuiltinRequest) -> dict[str, Any]:
        """Adds an entry, or replaces its schema and, where one is given, its value."""
        asked = fields(
            request,
            "ConfigurationRegisterInput",
            id=str,
            name=str,
            description=str,
            schema=object,
            initial_value_=object,
            metadata_=object,
        )
        entry_id: str = asked["id"]
        _check_id(entry_id)
        old = self._entries.get(entry_id)
        value = asked["initial_value"]
        if value is not None:
            _check(value, asked["schema"])
        elif old is not None:
            value = old.value
        entry = _Entry(
            asked["name"], asked["description"], asked["schema"], value, asked["metadata"]
        )
        self._entries[entry_id] = entry
        if old is None:
            self._tell(entry_id, "configuration:registered", None)
        else:
            self._tell(entry_id, "configuration:updated", old.value)
        return {**_view(entry_id, entry), "value": value}

    def set(self, request: BuiltinRequest) -> dict[str, Any]:
        """Replaces a value."""
        asked = fields(request, "ConfigurationSetInput", id=str, value=object)
        entry_id: str = asked["id"]
        _check_id(entry_id)
        entry = self._entries.get(entry_id)
        if entry is None:
            message = f"configuration '{entry_id}' is not registered; call configuration::register"
            raise BuiltinError("NOT_REGISTERED", f"{message} first")
        if entry.schema is None:
            message = f"configuration '{entry_id}' has no schema available yet; the owning worker"
            raise BuiltinError(
                "SCHEMA_UNAVAILABLE", f"{message} must register before values can be set"
            )
        _check(asked["value"], entry.schema)
        if entry_id in self._owners:
            self._owners[entry_id](asked["value"])
        self._entries[entry_id] = attrs.evolve(entry, value=asked["value"])
        self._tell(entry_id, "configuration:updated", entry.value)
        return {"old_value": entry.value, "new_value": asked["value"]}

    def get(self, request: BuiltinRequest) -> dict[str, Any]:
        """Reads a value, with ``${VARIABLE:default}`` filled in unless ``raw`` is set."""
        asked = fields(request, "ConfigurationGetInput", id=str, raw_=bool)
        entry = self._entry(asked["id"])
        if asked["raw"]:
            return {"id": asked["id"], "value": entry.value}
        value, missing = _expanded(entry.value)
        if missing:
            message = f"configuration '{asked['id']}' references unset environment variable(s)"
            raise BuiltinError("EXPAND_FAILED", f"{message} with no default: {', '.join(missing)}")
        if entry.schema is not None:
            _check(value, entry.schema)
        return {"id": asked["id"], "value": value}

    def list(self, request: BuiltinRequest) -> dict[str, Any]:
        """Every entry without its value, by id."""
        fields(request, "ConfigurationListInput")
        return {
            "configurations": [_view(name, self._entries[name]) for name in sorted(self._entries)]
        }

    def schema(self, request: BuiltinRequest) -> dict[str, Any]:
        """One entry without its value."""
        asked = fields(request, "ConfigurationSchemaInput", id=str)
        return _view(asked["id"], self._entry(asked["id"]))

    def _entry(self, entry_id: str) -> _Entry:
        entry = self._entries.get(entry_id)
        if entry is None:
            raise BuiltinError("NOT_FOUND", f"configuration '{entry_id}' not found")
        return entry

    def _tell(self, entry_id: str, event_type: str, old_value: Any) -> None:
        entry = self._entries[entry_id]
        event = {
            "type": "configuration",
            "event_type": event_type,
            **_view(entry_id, entry),
            "old_value": _expanded(old_value)[0],
            "new_value": _expanded(entry.value)[0],
        }
        for trigger in self._triggers.of_type(CONFIGURATION):
            if _wants(trigger, entry_id, event_type):
                self._fire(trigger, event)

    def _fire(self, trigger: Trigger, event: dict[str, Any]) -> None:
        def call(function_id: str, metadata: Any, reply: Any) -> None:
            self._calls.connect(
                Invocation(
                    function_id, event, reply, namespace=trigger.namespace, metadata=metadata
                )
            )

        def decided(outcome: InvocationOutcome) -> None:
            if outcome.error is None and outcome.result is not False:
                call(trigger.function_id, trigger.metadata, _unheard)

        config = trigger.config if isinstance(trigger.config, dict) else {}
        condition = config.get("condition_function_id")
        if isinstance(condition, str):
            call(condition, None, decided)
        else:
            call(trigger.function_id, trigger.metadata, _unheard)


def _unheard(_: InvocationOutcome) -> None:
    """An event is fire and forget."""


def _wants(trigger: Trigger, entry_id: str, event_type: str) -> bool:
    config = trigger.config if isinstance(trigger.config, dict) else {}
    wanted, types = config.get("configuration_id"), config.get("event_types")
    return wanted in {None, entry_id} and (types is None or event_type in types)


def _view(entry_id: str, entry: _Entry) -> dict[str, Any]:
    view = {
        "id": entry_id,
        "name": entry.name,
        "description": entry.description,
        "schema": entry.schema,
    }
    if entry.metadata is not None:
        view["metadata"] = entry.metadata
    return view


def _check_id(entry_id: str) -> None:
    if not _ID.fullmatch(entry_id):
        message = f"invalid configuration id '{entry_id}': must match [a-z0-9_-]{{1,64}}"
        raise BuiltinError("INVALID_ID", message)


def _check(value: Any, schema: Any) -> None:
    applied, missing = _expanded(value)
    if missing:
        return
    # Only users of configuration entries need these.
    from jsonschema.exceptions import SchemaError as Unusable  # noqa: PLC0415
    from jsonschema.validators import validator_for  # noqa: PLC0415

    try:
        validator_class = validator_for(schema)
        validator_class.check_schema(schema)
        errors = [_worded(error) for error in validator_class(schema).iter_errors(applied)]
    except Unusable as error:
        errors = [f"invalid JSON Schema: {_worded(error)}"]
    except Exception as error:
        # What a schema can be wrong in beyond its own schema, a reference to nowhere for one.
        errors = [f"invalid JSON Schema: {error}"]
    if errors:
        message = f"schema validation failed: {'; '.join(errors)}"
        raise BuiltinError("SCHEMA_INVALID", message)


def _worded(error: SchemaError | ValidationError) -> str:
    """A complaint in the engine's words, which shows values as JSON."""
    instance, rule = _json(error.instance), cast("Any", error.validator_value)
    if error.validator == "type" and isinstance(rule, str):
        return f"{instance} is not of type {_json(rule)}"
    if error.validator == "type":
        return f"{instance} is not of types {', '.join(_json(kind) for kind in rule)}"
    if error.validator == "enum":
        return f"{instance} is not one of {_json(rule)}"
    if error.validator in {"anyOf", "oneOf"}:
        text = f"{instance} is not valid under any of the schemas listed in the"
        return f"{text} '{error.validator}' keyword"
    if error.validator == "required":
        missing = error.message.removesuffix(" is a required property").strip("'")
        return f"{_json(missing)} is a required property"
    return error.message


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _expanded(value: Any) -> tuple[Any, list[str]]:
    missing: list[str] = []

    def leaf(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = os.environ.get(name, default)
        if found is None:
            missing.append(name)
            return match.group()
        return found

    def walk(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: walk(part) for key, part in item.items()}
        if isinstance(item, list):
            return [walk(part) for part in item]
        if not isinstance(item, str) or "${" not in item:
            return item
        text = _VARIABLE.sub(leaf, item)
        return _scalar(text) if _LONE.fullmatch(item) else text

    return walk(value), missing


def _scalar(text: str) -> Any:
    # A lone placeholder takes the type its text has in YAML, as an unquoted value would.
    import yaml  # noqa: PLC0415 - only users of placeholders need it

    if not text.strip() or text.strip() in {"on", "off", "yes", "no"}:
        return text
    try:
        value = yaml.safe_load(text.strip())
    except yaml.YAMLError:
        return text
    return value if value is None or isinstance(value, (bool, int, float, str)) else text
