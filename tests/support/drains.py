"""A signal that drains, in a process that goes on afterwards."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from support.waiting import until


@contextmanager
def handled_by(number: int, handler: Callable[[], object]) -> Iterator[None]:
    """A signal has a handler of the program's own, and afterwards the one it had before.

    Until draining is over the signal is sent again and again: what had no handler then would end
    the process of the tests.

    Args:
        number: The signal.
        handler: What the program does.
    """
    before = signal.signal(number, lambda *_: handler())
    try:
        yield
    finally:
        until(lambda: "iii-resilience drain" not in {t.name for t in threading.enumerate()})
        signal.signal(number, before)
        signal.set_wakeup_fd(-1)
