"""The part of a traceback that is the user's: the library's own frames above it say nothing.

Knows nothing of calls or attempts.
"""

from __future__ import annotations

from types import TracebackType

from iii_resilience.core import effects

_RETRIES = f"{__package__}."
_EFFECTS = effects.__name__


def user_traceback(error: BaseException) -> TracebackType | None:
    """The traceback from the user's first frame on, without the library's above it."""
    traceback = error.__traceback__
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__")
        if module != _EFFECTS and not str(module).startswith(_RETRIES):
            break
        traceback = traceback.tb_next
    return traceback
