"""Logs why an observer does nothing (SDK 0.25): its state is otherwise seen only by who asks.

`observe` itself passes through. Knows nothing of who observes what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iii_resilience.core.classify import classify
from iii_resilience.telemetry import logger

_UNSUPPORTED = "UNSUPPORTED"


class ObserverLog:
    """The observers of one client."""

    def __init__(self) -> None:
        self._unsupported = False

    def reported(self, observe: Callable[..., Any]) -> Callable[..., Any]:
        """The SDK's ``observe``, with a log record for each observer that is rejected.

        An engine without observers is logged once, not once an observer.

        Args:
            observe: The client's own method.
        """

        def logged(*args: Any, **options: Any) -> Any:
            handle = observe(*args, **options)
            listen = getattr(handle, "on_state_change", None)
            if callable(listen):
                shown: list[object] = []

                def changed(state: object, reason: object) -> None:
                    if state == "error" and reason not in shown:
                        shown[:] = [reason]
                        self._rejected(handle, reason)

                listen(changed)
                changed(handle.state, handle.reason)  # it may have been faster
            return handle

        return logged

    def _rejected(self, handle: Any, reason: Any) -> None:
        failure = classify(reason if isinstance(reason, dict) else "OBSERVE_FAILED")
        if failure.code == _UNSUPPORTED:
            if self._unsupported:
                return
            self._unsupported = True
        logger.warning(
            "the observer %s is rejected: %s (%s); %s",
            handle.id,
            failure.code,
            failure.category.value,
            failure.remedy,
            extra={"code": failure.code, "observer": handle.id},
        )
