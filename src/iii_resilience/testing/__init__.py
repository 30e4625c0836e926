"""What a user's tests need: an engine for the real iii-sdk, without the engine.

Imports nothing heavy until a name is used: pytest loads this package in every project that has
the library installed. Never imports ``iii``; ``websockets`` only when an engine is started.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iii_resilience.testing.clock import FakeClock, fake_clock, no_sleep, retries_off
    from iii_resilience.testing.faults import (
        AnswerError,
        AnswerResult,
        CutCaller,
        CutTarget,
        Delay,
        Drop,
        DropAnswer,
        Fault,
        RestartEngine,
    )
    from iii_resilience.testing.loopback import LoopbackEngine
    from iii_resilience.testing.records import Call, Frame
    from iii_resilience.testing.sessions import Rbac

__all__ = [
    "AnswerError",
    "AnswerResult",
    "Call",
    "CutCaller",
    "CutTarget",
    "Delay",
    "Drop",
    "DropAnswer",
    "FakeClock",
    "Fault",
    "Frame",
    "LoopbackEngine",
    "Rbac",
    "RestartEngine",
    "fake_clock",
    "no_sleep",
    "retries_off",
]

_ROOMS = {
    "Call": "records",
    "FakeClock": "clock",
    "Frame": "records",
    "LoopbackEngine": "loopback",
    "Rbac": "sessions",
    "fake_clock": "clock",
    "no_sleep": "clock",
    "retries_off": "clock",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_ROOMS.get(name, 'faults')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
