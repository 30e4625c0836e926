"""The idempotency key of a message, and the fingerprint of its payload.

Both leave out ``_caller_worker_id``: the engine adds it to payloads, and it changes when a caller
reconnects (docs/engine-notes.md, 10). Knows nothing of stores.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from iii_resilience.handling.handler_errors import PayloadError
from iii_resilience.sdk.propagation import PAYLOAD_FIELD, CallContext
from iii_resilience.stores.protocol import digest

INJECTED = "_caller_worker_id"
KeyOf = str | Callable[[Any], Any] | None
"""A field of the payload, a function of the payload, or None for the key that travelled."""


def bare(payload: Any) -> Any:
    """The payload as its sender knows it: without what was added on its way."""
    if not isinstance(payload, dict):
        return payload
    return {name: part for name, part in payload.items() if name not in {INJECTED, PAYLOAD_FIELD}}


def fingerprint(payload: Any) -> str:
    """The same text for the same payload, in every process."""
    return digest(as_json(bare(payload)))


def as_json(value: Any) -> str:
    """A payload as one text; of what JSON cannot carry (a channel), its type."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_type_of)


def _type_of(value: object) -> dict[str, str]:
    return {"type": f"{type(value).__module__}.{type(value).__qualname__}"}


def check_key(key: object, decorator: str) -> None:
    """Refuse what can be no `KeyOf`.

    Raises:
        TypeError: It is neither a name, nor callable, nor None.
    """
    if not (key is None or callable(key) or (isinstance(key, str) and key)):
        raise TypeError(
            f"{decorator}: key must be the name of a payload field, a function of the payload, or "
            f"None, got {type(key).__name__}"
        )


def key_of(key: KeyOf, payload: Any, carried: CallContext | None) -> str | None:
    """The key of one call.

    Args:
        key: Where it stands.
        payload: The call's payload.
        carried: What travelled with the call.

    Returns:
        The key as text, in which ``1`` and ``"1"`` are two; None where there is none.

    Raises:
        PayloadError: What stands there can be no key.
    """
    if key is None:
        found: Any = None if carried is None else carried.idempotency_key
    elif callable(key):
        try:
            found = key(bare(payload))
        except (LookupError, TypeError, AttributeError):
            found = None  # it looked for what is not there
    else:
        found = bare(payload).get(key) if isinstance(payload, dict) else None
    if found is None or found == "":
        return None
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise PayloadError(
            f"an idempotency key is a text or a whole number, not {type(found).__name__}",
            code="IDEMPOTENCY_KEY_INVALID",
        )
    return json.dumps(found)


def missing(key: KeyOf) -> PayloadError:
    """The error of a call that has no key."""
    where = f"in the field {key!r}" if isinstance(key, str) else "where it is looked for"
    if key is None:
        where = "with the call (worker.trigger(..., idempotency_key=...))"
    return PayloadError(f"there is no idempotency key {where}", code="IDEMPOTENCY_KEY_MISSING")
