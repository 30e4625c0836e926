"""The failure of one attempt: that of its error, or of what a user's code asks for.

Knows nothing of calls or decisions.
"""

from __future__ import annotations

import tenacity

from iii_resilience.core.classifiers.registered_exceptions import ExceptionRules
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.failure import Failure


def attempt_failure(
    error: Exception, function_id: str | None, rules: ExceptionRules | None
) -> Failure:
    """The failure of an attempt that raised this error.

    ``tenacity.TryAgain`` is the user's own request for a retry: transient, whatever its cause is.

    Args:
        error: The error.
        function_id: The engine function that was called, or None in a decorator.
        rules: What the decorator or loop says of exception classes; None where it says nothing.
    """
    if not isinstance(error, tenacity.TryAgain):
        return classify(error, function_id=function_id, rules=rules)
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
