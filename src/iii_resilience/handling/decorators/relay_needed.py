"""Warns of messages that wait in a store which no relay looks at: nothing would send them again.

Knows nothing of how a relay works.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import suppress
from typing import Any, Final

from iii_resilience.core.observers import where
from iii_resilience.telemetry import logger

_MARK: Final = "_iii_resilience_relayed_by"  # functools.wraps hands it on to decorators outside
_GRACE: Final = 5.0  # seconds in which the process of a relay may start, too
_looked_at: weakref.WeakSet[Any] = weakref.WeakSet()


def needs_relay(handler: object, store: object) -> None:
    """Mark a handler whose messages wait in a store."""
    setattr(handler, _MARK, store)


def store_to_relay(handler: object) -> Any:
    """The store in which a handler's messages wait, or None."""
    return getattr(handler, _MARK, None)


def relayed_here(store: object) -> None:
    """A relay of this process works on a store."""
    with suppress(TypeError):
        _looked_at.add(store)


def expect_relay(store: Any, function_id: str) -> None:
    """Warn, a moment later and once a store, if no relay is active on it in any process.

    Args:
        store: The store.
        function_id: The function whose messages wait there.
    """
    try:
        if store in _looked_at:
            return
        _looked_at.add(store)
    except TypeError:  # one that has no hash or takes no weak reference
        return
    looks = threading.Timer(_GRACE, _look, [weakref.ref(store), function_id])
    looks.daemon = True
    looks.name = "iii-resilience relay check"
    with suppress(RuntimeError):  # no thread can be started; `dlq` and the metrics show it, too
        looks.start()


def _look(of: weakref.ref[Any], function_id: str) -> None:
    store = of()
    try:
        if store is None or store.relayed():
            return
    except Exception as error:  # a store that is away is no reason to end a thread with
        logger.debug("whether a relay is active is not known: %s", where(error))
        return
    logger.warning(
        "%s: messages wait in %r for their retry, and no relay is active on it: nothing sends "
        "them again. Give one of its workers the relay: resilient(worker, relay=store)",
        function_id,
        store,
        extra={"function_id": function_id},
    )
