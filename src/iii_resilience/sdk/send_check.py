"""One more look at a call in the moment of its sending, and how it ends that it is not sent.

Knows nothing of connections, or of how calls are sent.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

from iii_resilience.core.errors import NotConnectedError
from iii_resilience.core.failure import Failure

_UNSENT = "the connection was lost before the call; nothing was sent"


class SendCheck(Protocol):
    """What a call knows better than its connection; its methods run on the SDK's loop only."""

    classified: list[Failure]
    """Holds the call's failure by the time its error is raised, where the SDK raised it."""

    @abstractmethod
    def may_send(self) -> bool:
        """Whether it may be sent now."""

    @abstractmethod
    def classify(self, error: Exception) -> Failure:
        """What the SDK has raised; the caller gets it a moment later."""


class SendRefused(Exception):  # noqa: N818 - control flow between a call and its send check, no error
    """Raised for a call that was not sent, because something has changed since it was let go."""


def unsent(send_check: SendCheck | None) -> SendRefused | NotConnectedError:
    """The error for a call that may no longer be sent. Calls with a send check are retried."""
    return NotConnectedError(_UNSENT) if send_check is None else SendRefused()
