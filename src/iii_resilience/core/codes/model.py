"""The model of a code table: five categories, three execution certainties, and one row.

Knows nothing of any particular code, of exceptions, or of what is done about a failure.
"""

from __future__ import annotations

from enum import StrEnum

import attrs


class Category(StrEnum):
    """What kind of thing went wrong; exactly five, and only the first may be retried."""

    TRANSIENT = "transient"
    AUTH = "auth"
    NOT_FOUND = "not-found"
    PAYLOAD = "payload"
    PERMANENT = "permanent"


class Execution(StrEnum):
    """May the called function have run?"""

    NOT_EXECUTED = "not_executed"
    MAYBE_EXECUTED = "maybe_executed"
    EXECUTED = "executed"

    @property
    def certainty(self) -> int:
        """0, 1 or 2: how much speaks for the function having run."""
        return _CERTAINTY[self]


_CERTAINTY = {Execution.NOT_EXECUTED: 0, Execution.MAYBE_EXECUTED: 1, Execution.EXECUTED: 2}


def strongest(first: Execution, second: Execution) -> Execution:
    """The stronger of two: executed > maybe_executed > not_executed."""
    return first if first.certainty >= second.certainty else second


@attrs.frozen
class Code:
    """One row of a table: what is known of one error code in one system.

    Attributes:
        code: The exact, case-sensitive string (``timeout`` and ``TIMEOUT`` are two rows).
        category: One of the five categories.
        execution: What the bare code says about the called function having run.
        origin: The source: ``engine``, ``sdk``, ``handler``, ``http``, ``worker`` or ``local``.
        remedy: What to do about it, in one clause.
        meaning: What happened, in one clause.
        source: Where the row comes from: a document of docs/engine-notes.md, 15, a source file,
            or ``registered``.
        system: ``iii``, ``rpc`` or ``local`` (raised by this library).
        throttled: Whether it says "slow down".
        queue: Whether handing the work to a queue instead makes sense.
    """

    code: str
    category: Category
    execution: Execution
    origin: str
    remedy: str
    meaning: str
    source: str
    system: str = "iii"
    throttled: bool = False
    queue: bool = False
