"""Real SDK clients that show only some of the names under which an SDK calls a function.

Up to 0.25 they are ``trigger`` and ``trigger_async``; 0.26 has ``call`` and ``call_async``.
"""

from __future__ import annotations

from typing import Any

OLD, NEW, BOTH = "trigger*", "call*", "trigger* and call*"
NAMES = (OLD, NEW, BOTH)

_REAL = {"call": "trigger", "call_async": "trigger_async"}
_SHOWN = {OLD: {*_REAL.values()}, NEW: {*_REAL}, BOTH: {*_REAL, *_REAL.values()}}


class Renamed:
    """A client with these names alone; everything else is the real one's.

    Args:
        client: What ``iii.register_worker()`` returned.
        names: One of `NAMES`.
    """

    def __init__(self, client: Any, names: str) -> None:
        vars(self).update(real=client, shown=_SHOWN[names])

    def __getattr__(self, name: str) -> Any:
        if name in _SHOWN[BOTH]:
            if name not in self.shown:
                raise AttributeError(name)
            # Under the new name where the SDK itself has it, else under the old one.
            return getattr(self.real, name, None) or getattr(self.real, _REAL.get(name, name))
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)
