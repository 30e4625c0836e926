"""`Failure`: one classified error, which the other packages use instead of exceptions.

Knows nothing of how an error is classified, nor of what is done about it.
"""

from __future__ import annotations

from typing import Any

import attrs

from iii_resilience.core.codes.model import Category, Execution

LIBRARY = "library"
"""The origin of what an exception class says of a call inside the function's own code."""


@attrs.frozen(slots=False)  # a dict makes a frozen class of this width twice as fast to build
class Failure:
    """One classified error.

    Attributes:
        code: The error code, exactly as it was sent (``_OTHER`` where there was none).
        category: One of the five categories; only ``transient`` may ever be retried.
        execution: Whether the *called* function may have run.
        throttled: Whether the other side requested slower calls.
        retry_after: The wait that the other side requested, in seconds, or None.
        message: The remote message. Not in the repr: it may hold payloads.
        function_id: The function that was called, or None where it is not known.
        known: Whether a table has a row for the code.
        remedy: What to do about it, in one clause.
        system: ``iii``, ``rpc`` or ``local`` (raised by this library, nothing sent).
        origin: The source: ``engine``, ``sdk``, ``handler``, ``http``, ``worker``, ``local``;
            ``library`` for an exception of a known library, or of a registered class, which
            speaks of a call inside the function's own code. Its code is the qualified name of the
            class, or ``HTTP 503``.
        layer: The RPC system's ``validation`` / ``expected`` / ``unexpected``, else None.
        stacktrace: The remote stack trace, or None. Not in the repr.
        inner: The cause found inside the message or the exception, or None.
        already_retried: Whether the other side says that it has retried this failure itself.
        payload_bytes: Size of the message that exceeded a limit, in bytes, or None.
        limit_bytes: The limit it exceeded, in bytes, or None.
    """

    code: str
    category: Category
    execution: Execution
    throttled: bool = False
    retry_after: float | None = None
    message: str = attrs.field(default="", repr=False)
    function_id: str | None = None
    known: bool = True
    remedy: str = ""
    system: str = "iii"
    origin: str = "engine"
    layer: str | None = None
    stacktrace: str | None = attrs.field(default=None, repr=False)
    inner: Failure | None = None
    already_retried: bool = False
    payload_bytes: int | None = None
    limit_bytes: int | None = None

    def replace(self, **changes: Any) -> Failure:
        """A changed copy."""
        return attrs.evolve(self, **changes)

    @property
    def retryable(self) -> bool:
        """Whether a retry can help at all (it also needs an idempotent call)."""
        return self.category is Category.TRANSIENT

    @property
    def proves_unexecuted(self) -> bool:
        """Whether it proves that the called function did not run.

        A library's exception proves nothing of the kind, whatever its ``execution``: that is of
        the call that the library made, from inside the function.
        """
        if self.execution is not Execution.NOT_EXECUTED:
            return False
        cause: Failure | None = self
        while cause is not None:
            if cause.origin == LIBRARY:
                return False
            cause = cause.inner
        return True
