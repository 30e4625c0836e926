"""The failure of an attempt whose own code asks for a retry, by ``tenacity.TryAgain``.

Knows nothing of calls or decisions.
"""

from __future__ import annotations

import tenacity

from iii_resilience.core.classifiers.registered_exceptions import ExceptionRules
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.failure import Failure


def of_try_again(
    error: tenacity.TryAgain, function_id: str | None, rules: ExceptionRules | None
) -> Failure:
    """A transient failure, whatever the cause is.

    Args:
        error: The request.
        function_id: The engine function that was called, or None in a decorator.
        rules: What the decorator or loop says of exception classes; None where it says nothing.
    """
    cause, inner = error.__cause__ or error.__context__, None
    if cause is not None:
        inner = classify(cause, function_id=function_id, rules=rules)
    return Failure(
        code="TryAgain",
        category=Category.TRANSIENT,
        execution=inner.execution if inner is not None else Execution.MAYBE_EXECUTED,
        throttled=inner is not None and inner.throttled,
        retry_after=inner.retry_after if inner is not None else None,
        remedy=inner.remedy if inner is not None else "the function requested a retry",
        system="local",
        origin="local",
        inner=inner,
    )
