"""An asyncio event loop in virtual time: its clock moves where a loop would wait, and at once.

Timers fire in their order, and the code between them takes no time. The library's clock and
``time.monotonic``, ``time.time`` and ``time.time_ns`` follow the loop's clock for the whole process
while it runs. Nothing waits for threads or sockets: what runs in the loop is all there is. Knows
nothing of engines.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar
from unittest.mock import patch

import attrs

from iii_resilience.core import system_clock
from iii_resilience.testing.clock import Replacement

T = TypeVar("T")

_EPOCH = 1_700_000_000.0
"""Unix time in seconds at the monotonic time 0: the same in every run, as all else."""


@attrs.define
class VirtualClock:
    """A clock that moves when the event loop has nothing else to do.

    Attributes:
        now: Monotonic time in seconds.
    """

    now: float = 1000.0

    def monotonic(self) -> float:
        """Monotonic time in seconds."""
        return self.now

    def time(self) -> float:
        """Unix time in seconds."""
        return _EPOCH + self.now

    def time_ns(self) -> int:
        """Unix time in nanoseconds."""
        return int(self.time() * 1e9)

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Args:
            seconds: How much; not negative.
        """
        # A sum may be rounded down: a timer must not fire before its time.
        self.now = math.nextafter(self.now + seconds, math.inf)

    def installed(self) -> Replacement[None]:
        """The library and the module ``time`` go by this clock while the context lasts.

        A sleep that blocks the thread lets time pass, and runs nothing else meanwhile.
        """
        replaced = [
            (system_clock, "monotonic"),
            (time, "monotonic"),
            (time, "time"),
            (time, "time_ns"),
        ]
        patches = [patch.object(place, name, getattr(self, name)) for place, name in replaced]
        patches += [patch.object(place, "sleep", self.advance) for place in (system_clock, time)]
        return Replacement(None, *patches)


class VirtualSelector(selectors.BaseSelector):
    """A selector that advances the clock by its timeout, where no file is ready."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See `selectors.BaseSelector`."""
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """See `selectors.BaseSelector`."""
        return self._real.unregister(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """The files that are ready now; else time passes.

        Args:
            timeout: Seconds that a loop would wait, None for without end.

        Raises:
            RuntimeError: Nothing is scheduled, so the loop would wait for ever.
        """
        if timeout is not None and timeout <= 0:
            return []  # the loop has something to do; files are looked at where it would wait
        ready = self._real.select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError(
                "nothing is scheduled in virtual time: a coroutine waits for a thread, a socket or "
                "an event that no timer brings. Run what it waits for in the same loop"
            )
        self._clock.advance(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """See `selectors.BaseSelector`."""
        return self._real.get_map()

    def close(self) -> None:
        """See `selectors.BaseSelector`."""
        self._real.close()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is a `VirtualClock`'s.

    Args:
        clock: The clock.
    """

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(VirtualSelector(clock))
        self._virtual = clock

    def time(self) -> float:
        """Monotonic time in seconds."""
        return self._virtual.now


def run_in_virtual_time(main: Coroutine[Any, Any, T], clock: VirtualClock | None = None) -> T:
    """Run a coroutine as `asyncio.run` does, without ever waiting.

    Args:
        main: The coroutine.
        clock: Its clock; None for a new one.

    Returns:
        What the coroutine returns.

    Raises:
        RuntimeError: A coroutine waits for something outside the loop.
    """
    virtual = VirtualClock() if clock is None else clock
    with (
        virtual.installed(),
        asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(virtual)) as runner,
    ):
        return runner.run(main)
