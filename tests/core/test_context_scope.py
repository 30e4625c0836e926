"""A context variable for the time of a block."""

from __future__ import annotations

from contextvars import ContextVar

from iii_resilience.core.context_scope import ContextScope


def test_value_lasts_as_long_as_block() -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)
    with ContextScope(variable, 1):
        assert variable.get() == 1
    assert variable.get() == 0


def test_scope_that_was_never_entered_resets_nothing() -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)
    ContextScope(variable, 1).__exit__(None, None, None)
    assert variable.get() == 0
