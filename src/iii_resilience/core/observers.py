"""Keeps the faults of observers away from what they observe; the logger that does.

Log handlers, filters and record factories, span processors and meters are code of the program, and
may raise. A call must end as it would without them. What they raise is reported once for each
place, and goes no further. Knows nothing of what is observed.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any

_REPORTED_MOST = 100
_reported: set[tuple[str, str]] = set()


def where(error: BaseException) -> str:
    """An exception for a log: its type and where it was raised, never its message.

    Args:
        error: The exception.
    """
    name, last = type(error).__name__, error.__traceback__
    if last is None:
        return name
    while last.tb_next is not None:
        last = last.tb_next
    from pathlib import PurePath  # noqa: PLC0415 - an observer that raises is rare

    code = last.tb_frame.f_code
    return f"{name} at {PurePath(code.co_filename).name}:{last.tb_lineno} in {code.co_name}"


class IsolatedObserver:
    """A context manager around code that calls observers: an exception ends there.

    It holds no state: any number of threads may be inside. A class, not a
    ``contextlib.contextmanager``, which cannot pass on exceptions that refuse attributes.

    Args:
        signal: What an exception costs, for the report (``a span``).
    """

    __slots__ = ("_signal",)

    def __init__(self, signal: str) -> None:
        self._signal = signal

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, Exception):
            return False
        with suppress(Exception):  # such as a RecursionError, deep in the program
            self._report(error)
        return True

    def _report(self, error: Exception) -> None:
        report = self._signal, where(error)
        if report in _reported or len(_reported) >= _REPORTED_MOST:
            return
        _reported.add(report)
        if self is not _records:
            logger.warning("lost %s: %s; calls are not affected, and this is said once", *report)
        elif logging.raiseExceptions and sys.stderr is not None:
            # As `logging` itself does where a handler fails: there is no log to write it to.
            sys.stderr.write("iii_resilience lost {}: {}\n".format(*report))


class IsolatedLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that never raises, and whose fields collide with no other.

    The names in ``extra`` get the prefix ``iii_``: programs stamp fields such as ``trace_id`` or
    ``code`` on all records, and `logging` refuses a second one of that name.
    """

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """As `logging.Logger.log`; each of the other methods ends here."""
        with _records:
            if not self.logger.isEnabledFor(level):
                return
            extra = kwargs.get("extra")
            if extra is not None:
                kwargs["extra"] = {f"iii_{name}": value for name, value in extra.items()}
            # The frame of this method is not the one that a record should name.
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            self.logger.log(level, msg, *args, **kwargs)


_records = IsolatedObserver("a log record")
logger = IsolatedLogger(logging.getLogger("iii_resilience"))
