"""Access rules: what an RBAC listener allows, and what its auth function has granted.

The order of the rules is the engine's: denials, grants of the session, the engine's own
infrastructure, exposed functions, denial (docs/engine-notes.md, 12). Knows nothing of connections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from iii_resilience.testing.loopback.history import BuiltinError

DEFAULT_NAMESPACE: Final = "default"
_INFRASTRUCTURE: Final = frozenset(
    {
        "engine::channels::create",
        "engine::workers::register",
        "engine::log::info",
        "engine::log::warn",
        "engine::log::error",
        "engine::log::debug",
        "engine::log::trace",
        "engine::baggage::get",
        "engine::baggage::set",
        "engine::baggage::get_all",
    }
)


def matches(pattern: str, function_id: str) -> bool:
    """Whether a pattern covers an id; ``*`` stands for any characters, none included."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == function_id
    if not function_id.startswith(first):
        return False
    *middle, last = rest
    at = len(first)
    for part in middle:
        found = function_id.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return function_id.endswith(last) and len(function_id) - len(last) >= at


def _patterns(value: Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(pattern, str) for pattern in value):
        raise TypeError(f"expose is a sequence of patterns such as 'public::*', not {value!r}")
    return tuple(value)


@attrs.frozen
class Rbac:
    """The rules of a second listener (`LoopbackEngine.rbac_url`).

    Attributes:
        auth_function_id: The function that is called for each new connection, or None: then
            every connection is let in.
        expose: Patterns of the function ids that every session may call.
    """

    auth_function_id: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.instance_of(str))
    )
    expose: tuple[str, ...] = attrs.field(default=(), converter=_patterns)


@attrs.frozen
class Session:
    """What one connection of the second listener may do, as its auth function said.

    Attributes:
        rbac: The listener's rules.
        namespaces: Granted patterns by namespace; also the namespaces it may register in.
        allowed: Ids granted in the default namespace.
        forbidden: Ids denied everywhere.
        trigger_types: The trigger types it may use; None is all.
        may_register_functions: Whether it may register functions.
        may_register_trigger_types: Whether it may register trigger types.
        prefix: What is put before the ids it registers, or None.
    """

    rbac: Rbac
    namespaces: Mapping[str, tuple[str, ...]] = {}
    allowed: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    trigger_types: tuple[str, ...] | None = None
    may_register_functions: bool = True
    may_register_trigger_types: bool = False
    prefix: str | None = None

    def allows(self, function_id: str, namespace: str) -> bool:
        """Whether this session may call a function in a namespace."""
        if function_id in self.forbidden:
            return False
        if any(matches(grant, function_id) for grant in self.namespaces.get(namespace, ())):
            return True
        if namespace == DEFAULT_NAMESPACE and function_id in self.allowed:
            return True
        if function_id in _INFRASTRUCTURE:
            return True
        return namespace == DEFAULT_NAMESPACE and any(
            matches(pattern, function_id) for pattern in self.rbac.expose
        )

    def refusal(self, function_id: str) -> str:
        """The wording of a FORBIDDEN for a function that this session may not call."""
        return forbidden_message(function_id, denied=function_id in self.forbidden)


def forbidden_message(function_id: str, *, denied: bool) -> str:
    """The engine's wording of FORBIDDEN: denied by a rule, or merely not exposed."""
    cure = "remove from rbac.forbidden_functions" if denied else "add to rbac.expose_functions"
    return f"function '{function_id}' not allowed ({cure})"


def _strings(answer: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = answer.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BuiltinError(
            "AUTH_ERROR", f"invalid type in `{name}`, expected a sequence of strings"
        )
    return tuple(value)


def _flag(answer: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = answer.get(name, default)
    if not isinstance(value, bool):
        raise BuiltinError("AUTH_ERROR", f"invalid type in `{name}`, expected a boolean")
    return value


def session_from(rbac: Rbac, answer: object) -> Session:
    """The session that an auth function's answer grants.

    Args:
        rbac: The listener's rules.
        answer: What the auth function returned.

    Raises:
        BuiltinError: AUTH_ERROR; nothing, or nothing usable, was returned.
    """
    if answer is None:
        raise BuiltinError("AUTH_ERROR", "auth function returned no result")
    if not isinstance(answer, dict):
        raise BuiltinError("AUTH_ERROR", "invalid type, expected struct AuthResult")
    scoped = answer.get("namespaces", {})
    if not isinstance(scoped, dict):
        raise BuiltinError("AUTH_ERROR", "invalid type in `namespaces`, expected a map")
    prefix = answer.get("function_registration_prefix")
    if prefix is not None and not isinstance(prefix, str):
        raise BuiltinError("AUTH_ERROR", "invalid type in `function_registration_prefix`")
    types = answer.get("allowed_trigger_types")
    return Session(
        rbac=rbac,
        namespaces={name: _strings(scoped, name) for name in scoped},
        allowed=_strings(answer, "allowed_functions"),
        forbidden=_strings(answer, "forbidden_functions"),
        trigger_types=None if types is None else _strings(answer, "allowed_trigger_types"),
        may_register_functions=_flag(answer, "allow_function_registration", default=True),
        may_register_trigger_types=_flag(answer, "allow_trigger_type_registration", default=False),
        prefix=prefix,
    )
