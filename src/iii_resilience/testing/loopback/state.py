"""`state::get`, `state::set` and `state::delete`, as far as tests need them.

Knows nothing of the triggers that the real engine fires when state changes.
"""

from __future__ import annotations

from typing import Any

from iii_resilience.testing.loopback.arguments import fields
from iii_resilience.testing.loopback.registry import BuiltinRequest


class StateFunctions:
    """Values by scope and key, kept over restarts of the engine."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], Any] = {}

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
