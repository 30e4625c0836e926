"""Test support for users: a loopback engine for the real iii-sdk, and a controllable clock.

pytest imports this package in every project that has the library installed, so heavy modules are
imported only on first use. ``iii`` is never imported; ``websockets`` only when an engine starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iii_resilience.testing.clock import FakeClock as FakeClock
    from iii_resilience.testing.clock import fake_clock as fake_clock
    from iii_resilience.testing.clock import no_sleep as no_sleep
    from iii_resilience.testing.clock import retries_off as retries_off
    from iii_resilience.testing.faults import AnswerError as AnswerError
    from iii_resilience.testing.faults import AnswerResult as AnswerResult
    from iii_resilience.testing.faults import CutCaller as CutCaller
    from iii_resilience.testing.faults import CutTarget as CutTarget
    from iii_resilience.testing.faults import Delay as Delay
    from iii_resilience.testing.faults import Drop as Drop
    from iii_resilience.testing.faults import DropAnswer as DropAnswer
    from iii_resilience.testing.faults import Fault as Fault
    from iii_resilience.testing.faults import RestartEngine as RestartEngine
    from iii_resilience.testing.loopback.engine import LoopbackEngine as LoopbackEngine
    from iii_resilience.testing.loopback.history import Call as Call
    from iii_resilience.testing.loopback.history import Frame as Frame
    from iii_resilience.testing.loopback.rbac import Rbac as Rbac
else:
    from iii_resilience.core.lazy_imports import lazy_exports

    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "clock": "FakeClock fake_clock no_sleep retries_off",
            "faults": (
                "AnswerError AnswerResult CutCaller CutTarget Delay Drop DropAnswer Fault "
                "RestartEngine"
            ),
            "loopback.engine": "LoopbackEngine",
            "loopback.history": "Call Frame",
            "loopback.rbac": "Rbac",
        },
    )
