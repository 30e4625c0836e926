"""The JSON Schema of policy files, derived from the classes.

Run as a module it prints the schema (``make schema``). Editors and iii's configuration worker
validate files against it. It cannot express what needs the whole book (unknown names, a base above
its cap): `config.files.validate` checks that. Knows nothing of any file.
"""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

from iii_resilience.config.files.convert import unstructure
from iii_resilience.config.files.fields import EXTENDS, KINDS, FileField, fields_of
from iii_resilience.config.queue_definition import Queue
from iii_resilience.config.rules import Pattern, Rule
from iii_resilience.core.codes.lookup import Category, Code
from iii_resilience.core.policy import Enqueue, Reroute, RetryPolicy
from iii_resilience.core.validators import Check, Choice, Flag, Number, Text

Schema = dict[str, Any]

_COMMENT = "Made from the classes by `make schema`. Do not edit."


def schema() -> Schema:
    """The schema, in draft 7, which editors know best."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": _COMMENT,
        "title": "iii-resilience policy file",
        "type": "object",
        "additionalProperties": False,
        "required": ["version"],
        "properties": {
            "version": {"const": 1, "description": "The version of the format."},
            "policies": {
                "type": ["object", "null"],
                "description": "Policies by name.",
                "additionalProperties": reference(RetryPolicy),
            },
            "rules": {
                "type": ["array", "null"],
                "description": "Which policy a function has: the exact id wins, then the longest "
                "prefix, then the first rule.",
                "items": reference(Rule),
            },
            "default": {
                "type": "string",
                "minLength": 1,
                "description": "Name of the policy of functions that no rule covers.",
            },
            "queues": {
                "type": ["object", "null"],
                "description": "The queues that fallbacks name.",
                "additionalProperties": reference(Queue),
            },
            "codes": {
                "type": ["object", "null"],
                "description": "Error codes of your own services: a category, or a whole row.",
                "propertyNames": {"minLength": 1, "maxLength": 128},
                "additionalProperties": {
                    "anyOf": [{"enum": [category.value for category in Category]}, reference(Code)]
                },
            },
            "exceptions": {
                "type": ["object", "null"],
                "description": "What exceptions of your own code mean: the qualified name of a "
                "class, and a category. Subclasses are covered.",
                "propertyNames": {"pattern": r"^[^\W\d]\w*(\.[^\W\d]\w*)*$"},
                "additionalProperties": {"enum": [category.value for category in Category]},
            },
        },
        "definitions": {
            kind.__name__: definition(kind)
            for kind in sorted(KINDS, key=lambda kind: kind.__name__)
        },
    }


def text() -> str:
    """The schema as it stands in ``policies/schema.json``."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def reference(kind: type) -> Schema:
    """A reference to the definition of a class."""
    return {"$ref": f"#/definitions/{kind.__name__}"}


def definition(kind: type) -> Schema:
    """What a file may say of an object of a class.

    Args:
        kind: One of `KINDS`, or of the classes that another kind of file holds.
    """
    defaults = _defaults(kind)
    properties: Schema = {}
    if kind is RetryPolicy:
        properties[EXTENDS] = {
            "type": "string",
            "minLength": 1,
            "description": "Name of the policy whose values hold where this one says nothing.",
        }
    fields = [field for field in fields_of(kind).values() if not field.hidden]
    for field in fields:
        properties[field.key] = _field(field, defaults)
    made: Schema = {
        "type": "object",
        "description": inspect.cleandoc(kind.__doc__ or "").splitlines()[0].replace("`", ""),
        "additionalProperties": False,
        "properties": properties,
    }
    required = [field.key for field in fields if field.required]
    if required and kind not in _PARTIAL:
        made["required"] = required
    return made


# A part may be given in pieces by several policies, the one with the other's rest.
_PARTIAL = {kind for kind in KINDS if kind not in {Rule, Code, Enqueue, Reroute}}


def _field(field: FileField, defaults: dict[str, Any]) -> Schema:
    if field.parts:
        options = [reference(part) for part in field.parts]
        if field.optional:
            options.append({"type": "null"})
        made: Schema = options[0] if len(options) == 1 else {"anyOf": options}
        if "$ref" in made:  # draft 7 ignores what stands beside a reference
            made = {"allOf": [made]}
    else:
        made = _allowed(field.check) if field.check is not None else {}
        if field.optional:
            made["type"] = [made["type"], "null"]
    made["description"] = field.meaning
    if field.key in defaults and not field.parts:
        made["default"] = defaults[field.key]
    return made


def _allowed(check: Check) -> Schema:
    match check:
        case Number():
            bounds = {
                "minimum": check.least,
                "exclusiveMinimum": check.above,
                "maximum": check.most,
            }
            given = {name: _plain(bound) for name, bound in bounds.items() if bound is not None}
            return {"type": "integer" if check.integer else "number", **given}
        case Choice():
            return {"type": "string", "enum": list(check.options)}
        case Flag():
            return {"type": "boolean"}
        case Pattern():
            return {"type": "string", "minLength": 1, "pattern": r"^[^*]*\*?$"}
        case Text():
            return {"type": "string", "minLength": 1}
    raise TypeError(f"a file cannot be checked with {check!r}")


def _plain(bound: float) -> float:
    return int(bound) if bound == int(bound) else bound


def _defaults(kind: type) -> dict[str, Any]:
    """What holds where a file says nothing."""
    needed = [field for field in fields_of(kind).values() if field.required and not field.hidden]
    if kind is Code or needed:
        return {}
    return unstructure(kind("x") if kind is Queue else kind())


def main() -> None:
    """Print the schema."""
    sys.stdout.write(text())


if __name__ == "__main__":
    main()
