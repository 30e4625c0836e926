"""Real SDK clients that have only some of the names under which an SDK calls a function.

Up to 0.25 they are ``trigger`` and ``trigger_async``; 0.26 has ``call`` and ``call_async``.
"""

from __future__ import annotations

from typing import Any

OLD, NEW, BOTH = "trigger*", "call*", "trigger* and call*"
NAMES = (OLD, NEW, BOTH)


class _Hidden:
    """A name that the client's class has and the client does not."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, client: object, owner: type) -> Any:
        raise AttributeError(self._name)


def renamed(client: Any, names: str) -> Any:
    """Give a client these names alone; everything else of it stays as it is.

    Args:
        client: What ``iii.register_worker()`` returned.
        names: One of `NAMES`.
    """
    real = type(client)
    assert not hasattr(real, "call"), "this SDK has the new names itself: hide those as well"
    if names != OLD:
        kept = {"call": real.trigger, "call_async": real.trigger_async}
        gone = {} if names == BOTH else {"trigger": _Hidden(), "trigger_async": _Hidden()}
        client.__class__ = type("Renamed", (real,), {**kept, **gone})
    return client
