"""Reads the input of the engine's own functions, and rejects it with the engine's messages.

Knows nothing of what a function does with its input.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from iii_resilience.core.error_translation import ErrorTranslation
from iii_resilience.testing.loopback.history import BuiltinError
from iii_resilience.testing.loopback.registry import BuiltinRequest

_EXPECTED: Final[dict[type, str]] = {str: "a string", bool: "a boolean", list: "a sequence"}


def fields(request: BuiltinRequest, struct: str, /, **wanted: type) -> dict[str, Any]:
    """The payload of a call, if it has the fields that are wanted.

    Args:
        request: The call.
        struct: What the engine calls the input.
        wanted: The type of each field, in the engine's order; `object` takes anything. A field
            that may be absent is named with a trailing underscore.

    Returns:
        The fields, without the underscores; None for what is absent.

    Raises:
        BuiltinError: deserialization_error.
    """
    with _deserializing(request):
        return _read(request.data, struct, wanted)


def strings(request: BuiltinRequest, values: list[Any] | None) -> list[str]:
    """A list of strings from the payload of a call; None is an empty one.

    Raises:
        BuiltinError: deserialization_error.
    """
    with _deserializing(request):
        for value in values or ():
            expect(value, str)
    return list(values or ())


def _deserializing(request: BuiltinRequest) -> ErrorTranslation:
    return ErrorTranslation(partial(_translate, request))


def _translate(request: BuiltinRequest, error: Exception) -> None:
    if isinstance(error, ValueError):
        text = f"Failed to deserialize input for {request.function_id}: {error}"
        raise BuiltinError("deserialization_error", text) from None


def expect(value: object, kind: type) -> None:
    """Refuses a value of another type.

    Raises:
        ValueError: In the engine's words.
    """
    if not isinstance(value, kind):
        raise ValueError(f"invalid type: {shown(value)}, expected {_EXPECTED[kind]}")  # noqa: TRY004


def shown(value: object) -> str:
    """A value as the engine's JSON parser names it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{value}`"
    if isinstance(value, str):
        return f'string "{value}"'
    return "sequence" if isinstance(value, list) else "map"


def _read(data: object, struct: str, wanted: dict[str, type]) -> dict[str, Any]:
    kinds = {name.removesuffix("_"): (kind, name.endswith("_")) for name, kind in wanted.items()}
    given: dict[str, Any]
    if isinstance(data, list):
        # The engine takes an array for the fields in their order.
        given = dict(zip(kinds, data, strict=False))
    elif isinstance(data, dict):
        given = data
    else:
        raise ValueError(f"invalid type: {shown(data)}, expected struct {struct}")  # noqa: TRY004
    # It reads an object's fields by name, so that the first wrong one is the first by name.
    for name in sorted(given.keys() & kinds.keys()) if given is data else given:
        kind, optional = kinds[name]
        if kind is not object and not (optional and given[name] is None):
            expect(given[name], kind)
    for name, (_, optional) in kinds.items():
        if name not in given and not optional:
            if given is data:
                raise ValueError(f"missing field `{name}`")
            length = f"invalid length {len(given)}, expected struct {struct}"
            raise ValueError(f"{length} with {len(kinds)} elements")
    return {name: given.get(name) for name in kinds}
