"""Converts the plain data of a file to objects of the classes, and back.

cattrs does the work, by the table in `config.files.fields`. An error names the path inside the
object. Knows nothing of files and lines, or of several files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import attrs

from iii_resilience.config.files.fields import (
    CODE_ONLY,
    KINDS,
    FileField,
    fields_of,
    in_words_of_files,
    keys_of,
)
from iii_resilience.config.files.nodes import Path, allowed, meant, shown
from iii_resilience.core.codes.lookup import NEVER_RETRIED
from iii_resilience.core.policy import Enqueue, Reroute, RetryPolicy
from iii_resilience.core.validators import Choice, removed_names

if TYPE_CHECKING:
    import cattrs


@attrs.frozen
class FieldError:
    """Something wrong inside one object.

    Attributes:
        path: Where, in the words of files.
        what: What is wrong, and what is allowed.
        together: Whether the fields are fine one by one, and one is missing or they do not go
            together. Another file, or the policy that is extended, may make up for it.
    """

    path: Path
    what: str
    together: bool = False


class WrongError(ValueError):
    """A value that is not allowed where it stands."""


def structure(
    data: Any, kind: type, *, kinds: Mapping[type, str] = KINDS, **keys: str
) -> tuple[Any, list[FieldError]]:
    """Make an object of a class from what a file says.

    Args:
        data: Plain data.
        kind: One of `kinds`.
        kinds: The classes that this kind of file holds, and what messages call them.
        **keys: What the file says in the key above: the name of a queue.

    Returns:
        The object and no faults; or None and every fault.
    """
    import cattrs  # noqa: PLC0415 - not loaded until a file is

    if not isinstance(data, Mapping):
        return None, [FieldError((), f"must be a mapping, got {shown(data)}")]
    faults = [
        FieldError((key,), _no_key(kind, key, data[key], kinds)) for key in keys if key in data
    ]
    made: Any
    try:
        made = _converter(tuple(kinds)).structure({**data, **keys}, kind)
    except cattrs.ClassValidationError as error:
        return None, [*faults, *_faults(error, kind, data, (), kinds)]
    return (None, faults) if faults else (made, faults)


def unstructure(value: Any) -> dict[str, Any]:
    """What a file would say to have an object made that is equal to this one.

    Args:
        value: An object of one of `fields.KINDS`.
    """
    data: dict[str, Any] = _converter(tuple(KINDS)).unstructure(value)
    return data


_FALLBACKS = [keys_of(Enqueue)[0], keys_of(Reroute)[0]]


def _faults(
    error: Any, kind: type, data: Mapping[str, Any], path: Path, kinds: Mapping[type, str]
) -> Iterator[FieldError]:
    import cattrs  # noqa: PLC0415 - not loaded until a file is

    ofs, others = error.group_exceptions()
    for inner, note in ofs:
        field = fields_of(kind)[note.name]
        if isinstance(inner, cattrs.ClassValidationError):
            yield from _faults(inner, inner.cl, data[field.key], (*path, field.key), kinds)
        elif isinstance(inner, KeyError):
            if field.required:
                what = f"needs {' or '.join(_needed(kind, field))}"
                yield FieldError(path, what, together=True)
        else:
            yield FieldError((*path, field.key), str(inner))
    for inner in others:
        if isinstance(inner, cattrs.ForbiddenExtraKeysError):
            for key in sorted(inner.extra_fields, key=str):
                yield FieldError((*path, key), _no_key(kind, key, data[key], kinds))
        else:
            about, said = in_words_of_files(kind, str(inner))
            yield FieldError(path if about is None else (*path, about), said, together=True)


def _needed(kind: type, field: FileField) -> list[str]:
    return _FALLBACKS if kind in {Enqueue, Reroute} else [field.key]


def _no_key(kind: type, key: str, value: Any, kinds: Mapping[type, str]) -> str:
    keys = keys_of(kind)
    never = next((code for code in NEVER_RETRIED if code in _texts(key, value)), None)
    if never is not None:
        what = f"is refused: nothing makes {never} retryable: {NEVER_RETRIED[never]}"
    elif (remedy := removed_names(kind).get(str(key).removesuffix("_ms"))) is not None:
        return f"is refused: {remedy}"
    elif kind is RetryPolicy and key in CODE_ONLY:
        what = "takes an object of tenacity and can only be set in code"
    elif kind in {Enqueue, Reroute}:
        if key in _FALLBACKS:
            return f"cannot be given too: a call goes either way ({' or '.join(_FALLBACKS)})"
        keys = _FALLBACKS if kind is Enqueue else keys
        what = "is not a key of a fallback"
    else:
        what = f"is not a key of {kinds[kind]}"
    return f"{what} {allowed(keys, key)}"


def _texts(*values: Any) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _texts(*value, *value.values())
        elif isinstance(value, (list, tuple)):
            yield from _texts(*value)


@cache
def _converter(kinds: tuple[type, ...]) -> cattrs.Converter:
    from cattrs import Converter  # noqa: PLC0415 - not loaded until a file is
    from cattrs.gen import (  # noqa: PLC0415
        make_dict_structure_fn,
        make_dict_unstructure_fn,
        override,
    )

    converter = Converter(forbid_extra_keys=True, detailed_validation=True)

    for kind in kinds:
        fields = fields_of(kind)
        reading: dict[str, Any] = {}
        writing: dict[str, Any] = {}
        for attribute in attrs.fields(kind):
            field = fields.get(attribute.name)
            reading[attribute.name] = writing[attribute.name] = override(omit=True)
            if field is not None:
                reading[field.name] = override(
                    rename=field.key, struct_hook=_reader(converter, field)
                )
                if not field.hidden:
                    writing[field.name] = override(
                        rename=field.key, unstruct_hook=_writer(converter, field)
                    )
        converter.register_structure_hook(kind, make_dict_structure_fn(kind, converter, **reading))
        converter.register_unstructure_hook(
            kind, make_dict_unstructure_fn(kind, converter, **writing)
        )
    return converter


def _reader(converter: cattrs.Converter, field: FileField) -> Callable[[Any, Any], Any]:
    def read(value: Any, _: Any) -> Any:
        if value is None and field.optional:
            return None
        if field.parts:
            if not isinstance(value, Mapping):
                also = " or null" if field.optional else ""
                raise WrongError(f"must be a mapping{also}, got {shown(value)}")
            return converter.structure(value, _part(field.parts, value))
        if field.check is not None and not field.check.allows(value):
            options = field.check.options if isinstance(field.check, Choice) else ()
            raise WrongError(
                f"must be {field.check.allowed('null')}{field.check.beyond(value)}, "
                f"got {shown(value)}{meant(options, value)}"
            )
        return field.to_python(value)

    return read


def _writer(converter: cattrs.Converter, field: FileField) -> Callable[[Any], Any]:
    return converter.unstructure if field.parts else field.to_file


def _part(parts: tuple[type, ...], value: Mapping[str, Any]) -> type:
    """The class that a mapping stands for: the one whose first key it has."""
    return next((kind for kind in parts if keys_of(kind)[0] in value), parts[0])
