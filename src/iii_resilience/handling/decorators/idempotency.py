"""`@idempotent`: runs a handler once per key; later calls with the key get the recorded result.

The guarantee depends on the handler's effects. Effects in the store's own transaction happen
exactly once. Others happen at least once, and again if the worker dies, or loses its store, between
the effect and its record. Knows nothing of how keys are stored, nor of queues.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import attrs

from iii_resilience.core.callables import is_coroutine_function
from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.core.decorator_order import refuse_inside
from iii_resilience.core.effects import Blocking, CallHandler, Sleep, Steps
from iii_resilience.core.errors import InvalidPayloadError
from iii_resilience.core.validators import number
from iii_resilience.handling.decorators.error_reporting import reported_as, restored
from iii_resilience.handling.decorators.idempotency_key import (
    KeyOf,
    check_key,
    fingerprint,
    key_of,
    missing,
)
from iii_resilience.handling.decorators.key_pauses import KeyPauses
from iii_resilience.handling.decorators.lease_renewal import LeaseRenewer
from iii_resilience.handling.decorators.store_errors import (
    CONFLICT,
    as_handler_error,
    code_of,
    of_the_store,
)
from iii_resilience.handling.decorators.wrapper import (
    IncomingCall,
    not_bare,
    takes,
    wrap,
)
from iii_resilience.handling.handler_errors import (
    PayloadError,
    TransientError,
)
from iii_resilience.sdk import propagation
from iii_resilience.sdk.payload_check import as_sent, check_payload
from iii_resilience.stores.protocol import (
    Claim,
    State,
    Store,
    StoreRefusedError,
    StoreUnavailableError,
    Transaction,
    digest,
)
from iii_resilience.telemetry import logger

R = TypeVar("R")

_TRANSACTION = "transaction"
_DAY = 86_400.0
_RECORD_WITHIN = 2.0  # seconds a store may be away when a handler has just ended
_RECORD_AGAIN = 0.1
_RERUN_WITHIN = 0.05  # seconds, at most, before a handler runs again after a conflict
_NOT_FREED = "a failed call's key is not free before its lease is over: %s"


@not_bare("@idempotent(store, key='order_id')")
def idempotent(
    store: Store,
    *,
    key: KeyOf = None,
    ttl: float = _DAY,
    lease: float = 30.0,
    wait: float = 10.0,
    rerun: bool = False,
    function_id: str | None = None,
    late_starts: bool = False,
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Decorate a handler so that a key runs once.

    A repeat gets the stored result as the caller of a first call receives it (of a pydantic model
    or a dataclass the dict), or the stored failure where it failed for good. A repeat
    that comes while the first still runs waits for it. A handler that fails with something
    transient frees its key. A worker that dies frees it when its lease is over.

    A handler that has a parameter named ``transaction`` is given the store's: an open SQLite
    connection, a Redis pipeline, or a psycopg connection (a coroutine gets an async one). What it
    writes there is committed together with the key, or not at all; it must not commit itself.

    Args:
        store: Where keys are kept: `MemoryStore`, `SqliteStore`, `RedisStore`, `PostgresStore`.
        key: The payload's field, a function of the payload, or None for the key that travelled
            with the call. Each function has keys of its own.
        ttl: Seconds a result is kept.
        lease: Seconds after which a key is free again when its worker is gone. It is renewed
            while the handler runs, so it may be shorter than that takes.
        wait: Seconds a repeat waits for the one that runs, within the caller's deadline.
        rerun: Whether a handler runs again, within its caller's deadline or else ``wait``, where
            another transaction at the same time was in the way of its own (a deadlock, a
            serialization failure). Its effects elsewhere then happen once more.
        function_id: The function it serves, which scopes its keys. None leaves it to the
            registration through ``resilient(worker)``; a function that is not itself a handler
            needs a name of its own here.
        late_starts: Whether the handler starts although its caller has given this attempt up:
            the result is kept for the next one. Without it such an attempt is not started. It is
            never started when the whole call's time is over.

    Raises:
        TypeError: No store, no key, a ``transaction`` from a store that has none, or a handler that
            `consumer` or `idempotent` decorates already.
        ValueError: A time is not a positive number of seconds.

    What its callers see beside the handler's own errors:
        PayloadError: ``IDEMPOTENCY_KEY_MISSING``, ``IDEMPOTENCY_KEY_INVALID``, or
            ``IDEMPOTENCY_KEY_REUSED``: the key came with another payload before.
        TransientError: ``IDEMPOTENCY_KEY_RUNNING``: it still runs; ``STORE_UNAVAILABLE``;
            ``IDEMPOTENCY_LEASE_LOST``: the handler outlived its lease, and its result is void;
            ``TRANSACTION_ROLLED_BACK``: the database ended the transaction, and the handler went
            on; ``TRANSACTION_CONFLICT``: another transaction was in the way.
        PermanentError: ``TRANSACTION_ENDED_BY_HANDLER``; ``STORE_REFUSED``: the store refuses the
            operation, and will again.
    """
    check_key(key, "idempotent")
    for needed in ("claim", "finish", "begin"):
        if not callable(getattr(store, needed, None)):
            raise TypeError(f"idempotent: the store must be one, got {type(store).__name__}")
    if not isinstance(late_starts, bool):
        raise TypeError(f"idempotent: late_starts must be True or False, got {late_starts!r}")
    guard = _Guard(store, key, _Times(ttl=ttl, lease=lease, wait=wait), rerun=rerun)

    # Not the handler's own type: what is given to it is not all that its callers give.
    def decorate(handler: Callable[..., R]) -> Callable[..., R]:
        refuse_inside(
            "idempotent",
            handler,
            consumer="that a message is parked would be stored as its result, and a redriven "
            "message would never run",
            idempotent="two of them would wait for each other's key",
        )
        if not takes(handler, _TRANSACTION):
            return wrap(
                handler,
                guard.steps,
                name="idempotent",
                function_id=function_id,
                late_starts=late_starts,
            )
        if not store.transactions:
            raise TypeError(f"idempotent: a {type(store).__name__} has no transaction to give")
        return wrap(
            handler,
            partial(guard.steps_in_transaction, awaits=is_coroutine_function(handler)),
            name="idempotent",
            function_id=function_id,
            hidden=_TRANSACTION,
            late_starts=late_starts,
        )

    return decorate


@attrs.frozen(kw_only=True)
class _Times:
    ttl: float = attrs.field(validator=number(above=0, unit="seconds"))
    lease: float = attrs.field(validator=number(above=0, unit="seconds"))
    wait: float = attrs.field(validator=number(least=0, unit="seconds"))


@attrs.frozen
class _OwnedKey:
    """A key that this call has claimed."""

    slot: str
    token: int


class _Guard:
    """The steps around one handler's calls."""

    def __init__(self, store: Store, key: KeyOf, times: _Times, *, rerun: bool) -> None:
        self._store = store
        self._key = key
        self._times = times
        self._rerun = rerun
        self._renewer = LeaseRenewer(store)

    def steps(self, call: IncomingCall) -> Steps:
        """The handler's effects go elsewhere."""
        claim, slot = yield from self._claim(call)
        if claim.state is not State.CLAIMED:
            return _stored(claim)
        return (yield from self._run(_OwnedKey(slot, claim.token), None))

    def steps_in_transaction(self, call: IncomingCall, *, awaits: bool) -> Steps:
        """The handler's effects go into the store's transaction.

        Args:
            call: The call.
            awaits: Whether the handler is a coroutine, and gets what it can await.
        """
        claim, slot = yield from self._claim(call)
        if claim.state is not State.CLAIMED:
            return _stored(claim)
        mine = _OwnedKey(slot, claim.token)
        try:
            with as_handler_error("nothing was run"):
                begin = self._ask(
                    lambda: self._store.begin(slot, claim.token), lambda begun: begun.rollback()
                )
                transaction = yield begin
        except GeneratorExit:
            raise
        except BaseException as error:
            yield from self._failed(mine, error)
            raise
        return (yield from self._run(mine, transaction, awaits=awaits))

    # Before.

    def _claim(self, call: IncomingCall) -> Steps:
        """Claim the call's key, or wait for its holder."""
        function = call.known_function()
        key = key_of(self._key, call.payload, call.carried)
        if key is None:
            raise missing(self._key)
        slot, payload = digest(function, key), fingerprint(call.payload)
        until = time.monotonic() + self._times.wait
        inbound = propagation.current_inbound()
        if inbound is not None and inbound.deadline_at is not None:
            until = min(until, inbound.deadline_at)
        pauses = KeyPauses(self._store, slot)
        try:
            while True:
                claim = yield from self._claim_once(slot, payload)
                if claim.state is State.OTHER:
                    raise PayloadError(
                        "this idempotency key came with another payload before; a new payload "
                        "needs a new key",
                        code="IDEMPOTENCY_KEY_REUSED",
                    )
                if claim.state is not State.RUNNING:
                    return claim, slot
                left = until - time.monotonic()
                if left <= 0:
                    raise TransientError(
                        "the same call is still running", code="IDEMPOTENCY_KEY_RUNNING"
                    )
                yield pauses.next(left)
        finally:
            pauses.end()

    def _claim_once(self, slot: str, payload: str) -> Steps:
        times, nonce = self._times, uuid.uuid4().hex

        def claim() -> Claim:
            return self._store.claim(
                slot, fingerprint=payload, nonce=nonce, lease=times.lease, keep=times.ttl
            )

        def undo(claim: Claim) -> None:
            if claim.state is not State.CLAIMED:
                return
            try:
                self._store.release(slot, claim.token)
            except (StoreUnavailableError, StoreRefusedError) as away:
                logger.warning(_NOT_FREED, away)

        with as_handler_error("nothing was run"):
            return (yield self._ask(claim, undo))

    # While, and after.

    def _run(
        self, mine: _OwnedKey, transaction: Transaction | None, *, awaits: bool = False
    ) -> Steps:
        exclusive = transaction is not None and transaction.exclusive
        times = self._times
        renewed = self._renewer.hold(mine.slot, mine.token, lease=times.lease, keep=times.ttl)
        try:
            with nullcontext() if exclusive else renewed:
                result, recorded = yield from self._run_once(mine, transaction, awaits=awaits)
        except GeneratorExit:
            raise
        except BaseException as raised:
            error = of_the_store(transaction, raised)
            if transaction is not None:
                yield self._ask(transaction.rollback, cleanup=True)
            yield from self._failed(mine, error)
            if error is not raised:
                raise error from raised
            raise
        if not recorded:
            raise TransientError(
                "the handler outlived its lease, and another worker runs the call by now",
                code="IDEMPOTENCY_LEASE_LOST",
            )
        return result

    def _run_once(self, mine: _OwnedKey, transaction: Transaction | None, *, awaits: bool) -> Steps:
        """The handler and its record: once, or until no other transaction is in their way."""
        until = time.monotonic() + self._times.wait
        inbound = propagation.current_inbound()
        if inbound is not None and inbound.deadline_at is not None:
            until = inbound.deadline_at
        while True:
            extra = {} if transaction is None else {_TRANSACTION: _handle(transaction, awaits)}
            try:
                result = yield CallHandler(extra)
                recorded = yield from self._record(mine, transaction, _as_outcome(result))
            except Exception as error:
                again: Any = getattr(transaction, "restart", None)
                if not self._rerun or again is None or time.monotonic() >= until:
                    raise
                if code_of(of_the_store(transaction, error)) != CONFLICT:
                    raise
                with as_handler_error("nothing of the call is written"):
                    yield self._ask(again)
                yield Sleep(random.uniform(0.0, _RERUN_WITHIN))
            else:
                return result, recorded

    def _record(self, mine: _OwnedKey, transaction: Transaction | None, outcome: str) -> Steps:
        """Store the outcome; a store that is away for a moment is asked again."""
        keep = self._times.ttl

        def record() -> bool:
            if transaction is not None:
                return transaction.commit(outcome, keep=keep)
            return self._store.finish(mine.slot, mine.token, outcome, keep=keep)

        until = time.monotonic() + _RECORD_WITHIN
        if transaction is not None and transaction.exclusive:
            until = 0.0
        with as_handler_error("its outcome is not stored"):
            while True:
                try:
                    return (yield self._ask(record))
                except StoreUnavailableError:
                    if time.monotonic() >= until:
                        raise
                yield Sleep(_RECORD_AGAIN)

    def _failed(self, mine: _OwnedKey, error: BaseException) -> Steps:
        """Free the key, or store the failure; where the store is away, the lease frees it."""
        store, keep = self._store, self._times.ttl

        def free() -> bool:
            return store.release(mine.slot, mine.token)

        def keep_failure() -> bool:
            return store.finish(mine.slot, mine.token, text, failed=True, keep=keep)

        lasting = (
            isinstance(error, Exception) and classify(error).category is not Category.TRANSIENT
        )
        text = ""
        if lasting and isinstance(error, Exception):
            text = str(reported_as(error, since=time.monotonic()))
        try:
            yield self._ask(keep_failure if lasting else free, cleanup=True)
        except (StoreUnavailableError, StoreRefusedError) as away:
            logger.warning(_NOT_FREED, away)

    def _ask(
        self,
        work: Callable[[], Any],
        undo: Callable[[Any], object] | None = None,
        *,
        cleanup: bool = False,
    ) -> Blocking:
        return Blocking(work, undo, blocking=self._store.blocking, cleanup=cleanup)


def _stored(claim: Claim) -> Any:
    outcome = claim.outcome or "null"
    if claim.state is State.FAILED:
        raise restored(outcome)
    return json.loads(outcome)


def _as_outcome(result: Any) -> str:
    """The result as the SDK would send it, which is what a repeat is answered with.

    Raises:
        PayloadError: It cannot be sent. Its effects are there, so it must not run again.
    """
    try:
        check_payload(result, what="the result")
        return as_sent(result)
    except (InvalidPayloadError, TypeError, ValueError, RecursionError) as error:
        why = str(error).removesuffix(". Nothing was sent")
        raise PayloadError(
            f"the handler returned a {type(result).__name__} that JSON cannot carry: {why}",
            code="invalid_payload",
        ) from None


def _handle(transaction: Transaction, awaits: bool) -> Any:
    """What the handler writes with: for a coroutine what it can await, where there is such."""
    found: Any = getattr(transaction, "async_handle", None) if awaits else None
    return transaction.handle if found is None else found
