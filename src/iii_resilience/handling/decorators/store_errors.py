"""What the errors of a store are to the callers of a handler.

Knows nothing of which operation failed, nor of how stores work.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from iii_resilience.core.error_translation import ErrorTranslation
from iii_resilience.handling.handler_errors import HandlerError, PermanentError, TransientError
from iii_resilience.stores.protocol import (
    StoreRefusedError,
    StoreUnavailableError,
    Transaction,
    TransactionEndedError,
)
from iii_resilience.telemetry import logger

CONFLICT: Final = "TRANSACTION_CONFLICT"


def code_of(error: BaseException) -> str | None:
    """The code of a handler error, or None."""
    return error.code if isinstance(error, HandlerError) else None


def of_the_store(transaction: Transaction | None, raised: BaseException) -> BaseException:
    """What a handler raised; where that is the store's own error, what it says of the store."""
    meaning_of: Any = getattr(transaction, "meaning_of", None)
    if meaning_of is None or not isinstance(raised, Exception):
        return raised
    meaning: Exception | None = meaning_of(raised)
    try:
        with as_handler_error("nothing of the call is written"):
            if meaning is not None:
                raise meaning
    except HandlerError as error:
        return error
    return raised


def as_handler_error(what: str) -> ErrorTranslation:
    """Raise a store's errors as those of handlers.

    Args:
        what: What that means, in a few words.

    Raises:
        TransientError: The store is away, or the database ended the transaction.
        PermanentError: The store refuses, or the handler ended the transaction.
    """
    return ErrorTranslation(partial(_translate, what))


def _translate(what: str, error: Exception) -> None:
    if isinstance(error, StoreUnavailableError):
        logger.warning("%s: %s", error, what)
        raise TransientError(
            f"the store of idempotency keys is away; {what}", code="STORE_UNAVAILABLE"
        ) from None
    if isinstance(error, StoreRefusedError):
        logger.error("%s: %s", error, what)
        raise PermanentError(
            f"the store of idempotency keys refuses this call; {what}", code="STORE_REFUSED"
        ) from None
    if isinstance(error, TransactionEndedError):
        if error.by_handler:
            raise PermanentError(str(error), code="TRANSACTION_ENDED_BY_HANDLER") from None
        code = CONFLICT if error.conflict else "TRANSACTION_ROLLED_BACK"
        raise TransientError(str(error), code=code) from None
