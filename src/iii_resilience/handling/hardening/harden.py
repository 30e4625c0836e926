"""Hardens a handler: the caller always gets an answer, and the worker survives.

The SDK sends no answer if the handler raises `SystemExit` (before 0.25 the worker's loop dies of
it), is cancelled, or returns what cannot be sent (docs/engine-notes.md, 1 and 2). Knows nothing of
how functions are kept registered.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import attrs

from iii_resilience.core.callables import is_coroutine_function
from iii_resilience.core.classify import classify
from iii_resilience.core.decorator_order import wrapped_by
from iii_resilience.core.errors import InvalidPayloadError, PayloadTooLargeError
from iii_resilience.core.guards.concurrency_limit import ConcurrencyLimit, Limit
from iii_resilience.core.validators import number
from iii_resilience.handling.decorators.wrapper import is_wrapped, starts_late
from iii_resilience.handling.handler_errors import PayloadError
from iii_resilience.handling.hardening.arrived_call import ArrivedCall, read_call
from iii_resilience.handling.hardening.capacity import (
    SAME_AS_WORKER,
    Admitted,
    Capacity,
    LimitUse,
)
from iii_resilience.handling.hardening.deadlines import Clocks
from iii_resilience.handling.hardening.error_encoding import NotStarted, encode_error
from iii_resilience.handling.hardening.result_check import (
    check_result,
    result_limit,
)
from iii_resilience.handling.hardening.running_handlers import Running
from iii_resilience.sdk import propagation
from iii_resilience.sdk.versions import OLD_RECEIVE_LIMIT, installed
from iii_resilience.telemetry import logger, worker_events

Handler = Callable[..., Any]

# A handler's task that is cancelled from outside may still send its answer, but not for ever.
_ANSWER_WITHIN = 1.0


@attrs.frozen
class Hardening:
    """How handlers are hardened.

    Attributes:
        max_result_bytes: How large a result may be, with the message around it, in bytes; None
            for what the SDK can send.
        clock_tolerance: How far the caller's clock may be apart from ours, in seconds.
        send_stack_traces: Whether a failed handler's stack trace leaves the process.
        limit: How many handlers may run at once, or None for any number.
    """

    max_result_bytes: int | None = attrs.field(
        default=None, validator=number(least=1, optional=True, integer=True, unit="bytes")
    )
    clock_tolerance: float = attrs.field(default=1.0, validator=number(least=0, unit="seconds"))
    send_stack_traces: bool = attrs.field(
        default=False, validator=attrs.validators.instance_of(bool)
    )
    limit: Limit | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.instance_of(Limit)),
    )


class Hardener:
    """Hardens the handlers of one worker.

    Args:
        how: How.
        running: Where the calls under way are counted.
    """

    def __init__(self, how: Hardening, running: Running) -> None:
        self._how = how
        self._running = running
        self._clocks = Clocks(how.clock_tolerance)
        self._capacity = Capacity(how.limit)
        self._sdk = sdk = installed()
        limit = how.max_result_bytes
        self._limit = sdk.send_limit if limit is None else min(sdk.send_limit, limit)
        self._warns_of_size = limit is None

    def harden(
        self, function_id: str, handler: Handler, limit: Limit | None = SAME_AS_WORKER
    ) -> Handler:
        """A handler that the SDK can be given in place of a user's.

        It is asynchronous whatever the user's is, so that it sees a cancellation from outside
        too; a plain handler still runs on a thread of its own. What the SDK reads off a handler's
        signature (the formats of request and response) it reads off this one alike.

        Args:
            function_id: The function it serves.
            handler: The user's handler, plain or asynchronous.
            limit: The function's own limit, None for none, or `SAME_AS_WORKER`.
        """
        call = _with_metadata(handler)
        is_async = is_coroutine_function(handler)
        limited = self._capacity.limit_of(function_id, limit)
        late_starts = starts_late(handler)
        consumes = "consumer" in wrapped_by(handler)

        # Only wrappers around the handler get the id: a function it calls itself serves none.
        serves = function_id if is_wrapped(handler) else None

        def run(arrived: ArrivedCall, metadata: Any) -> Any:
            arrived.check_time()  # a process that was stopped goes on here
            return self._checked(function_id, call(arrived.payload, metadata))

        async def hardened(data: Any, metadata: Any = None) -> Any:
            arrived = read_call(function_id, data, metadata, self._clocks, late_starts=late_starts)
            ticket = self._begin(function_id, waiting=limited is not None)
            admitted: Admitted | None = None
            try:
                if limited is not None:
                    patient = consumes or arrived.queued
                    admitted = await self._admit(limited, arrived, ticket, patient=patient)
                inbound = arrived.arrival.inbound
                with propagation.handling(attrs.evolve(inbound, function_id=serves)):
                    if is_async:
                        with nullcontext() if admitted is None else admitted:
                            result = await call(arrived.payload, metadata)
                        self._checked(function_id, result)
                    else:
                        result = await _on_own_thread(
                            function_id,
                            partial(run, arrived, metadata),
                            self._thread_part(ticket, admitted),
                        )
            except GeneratorExit:  # the loop ended under the handler: no answer can be sent
                raise
            except NotStarted as refused:
                if refused.answer is not None:
                    return refused.answer
                raise
            except BaseException as error:
                since = arrived.since if admitted is None else admitted.started
                shown = self._failed(function_id, error, since, arrived.attempt)
            else:
                worker_events.handler_returned(function_id, result)
                return result
            raise shown

        return _disguised(hardened, handler)

    def limits(self) -> tuple[LimitUse, ...]:
        """How much of each limit is in use."""
        return self._capacity.in_use()

    def log_rest(self) -> None:
        """Log what was refused and is on no record yet: the worker ends."""
        self._capacity.log_rest()

    async def _admit(
        self, limit: ConcurrencyLimit, arrived: ArrivedCall, ticket: int, *, patient: bool
    ) -> Admitted:
        """Wait until the handler may run.

        Raises:
            NotStarted: The worker is full, or the caller has given up meanwhile.
        """
        start_by = arrived.arrival.start_by
        left = None if start_by is None else max(0.0, start_by - time.monotonic())
        permit = await limit.admit(left, patient=patient)
        if permit is None:
            arrived.check_time()
            text, answer = self._capacity.refuse(
                arrived.function_id, limit, arrived.payload, arrived.attempt
            )
            raise NotStarted(text, answer)
        admitted = Admitted(limit, permit, time.monotonic())
        try:
            arrived.check_time()
        except NotStarted:
            admitted.finished(failed=True)
            raise
        self._running.started(ticket)
        return admitted

    def _begin(self, function_id: str, *, waiting: bool) -> int:
        """Count a call until the SDK's task has ended: by then its answer has been sent."""
        ticket = self._running.begin(function_id, waiting=waiting)
        task = asyncio.current_task()
        if task is None:  # no loop of asyncio's own
            self._running.end(ticket)
        else:
            task.add_done_callback(lambda _: self._running.end(ticket))
        return ticket

    def _thread_part(
        self, ticket: int, admitted: Admitted | None
    ) -> Callable[[BaseException | None], None]:
        """Count the thread of a handler, which may outlive its answer; what ends it."""
        self._running.add_part(ticket)

        def over(error: BaseException | None) -> None:
            self._running.end(ticket)
            if admitted is not None:
                admitted.finished(failed=error is not None)

        return over

    def _checked(self, function_id: str, result: Any) -> Any:
        try:
            size = check_result(
                result, self._sdk, limit_bytes=result_limit(self._limit, function_id)
            )
        except (InvalidPayloadError, PayloadTooLargeError) as error:
            raise PayloadError(_words(error), code=error.code) from None
        if self._warns_of_size and size > result_limit(OLD_RECEIVE_LIMIT, function_id):
            self._warns_of_size = False
            logger.warning(
                "%s: a result of %d bytes ends the connection of a caller on SDK 0.24.4 or older; "
                "while you have any, pass max_result_bytes=%d to resilient()",
                function_id,
                size,
                OLD_RECEIVE_LIMIT,
                extra={"function_id": function_id, "payload_bytes": size},
            )
        return result

    def _failed(
        self, function_id: str, error: BaseException, since: float, attempt: int
    ) -> BaseException:
        """Log and count what a handler raised; what is to be raised in its place."""
        if isinstance(error, asyncio.CancelledError):
            _let_the_cancellation_go_on()
        failed = encode_error(error, since=since)
        if not worker_events.told(error, since=since):
            worker_events.handler_failed(
                function_id,
                classify({"code": "invocation_failed", "message": str(failed)})
                if failed.says_its_category
                else classify(error),
                error,
                seconds=time.monotonic() - since,
                attempt=attempt,
            )
        if self._how.send_stack_traces:
            if isinstance(error, Exception) and str(failed) == str(error):
                return error
            failed.__cause__ = error
        return failed


def _words(error: Exception) -> str:
    large = isinstance(error, PayloadTooLargeError)
    return f"the result is too large: {error}" if large else str(error)


async def _on_own_thread(
    name: str, work: Callable[[], Any], over: Callable[[BaseException | None], None]
) -> Any:
    """Run a plain handler as the SDK does: on a daemon thread, in a copy of this context.

    Args:
        name: What the thread is called after.
        work: The handler's call.
        over: Is called with what it raised, or None, when it has ended: whether or not its
            caller still waits.

    Raises:
        BaseException: Whatever the handler raised.
    """
    loop = asyncio.get_running_loop()
    # The outcome is always a result: a future refuses to be given a StopIteration.
    done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def run() -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            value = context.run(work)
        except BaseException as raised:  # it is the waiting coroutine's
            error = raised
        over(error)
        with suppress(RuntimeError):  # the loop has ended: no coroutine waits
            loop.call_soon_threadsafe(_settle, done, (value, error))

    try:
        threading.Thread(target=run, name=f"iii-resilience {name}", daemon=True).start()
    except BaseException as failed:
        over(failed)
        raise
    value, error = await done
    if error is not None:
        raise error
    return value


def _settle(done: asyncio.Future[Any], outcome: Any) -> None:
    if not done.done():
        done.set_result(outcome)


def _let_the_cancellation_go_on() -> None:
    """Where the handler's own task is cancelled from outside, its answer must not take long.

    The task ends as soon as the SDK has sent the answer; if that takes too long, it is cancelled
    once more.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        task.get_loop().call_later(_ANSWER_WITHIN, task.cancel)


def _with_metadata(handler: Handler) -> Callable[[Any, Any], Any]:
    """The handler as it is called: with metadata, if it takes any."""
    takes = _takes_metadata(handler)

    def call(data: Any, metadata: Any) -> Any:
        if takes == "positional":
            return handler(data, metadata)
        return handler(data, metadata=metadata) if takes == "keyword" else handler(data)

    return call


def _takes_metadata(handler: Handler) -> str:
    """How the SDK (0.21.3 and later) would pass metadata: ``positional``, ``keyword`` or not.

    Only a parameter that is named so is given any.
    """
    parameters = _parameters(handler)
    names = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    if any(p.name == "metadata" and p.kind is p.KEYWORD_ONLY for p in parameters):
        return "keyword"
    return "positional" if names[1:2] == ["metadata"] else ""


def _parameters(handler: Handler) -> list[inspect.Parameter]:
    try:
        return [
            parameter
            for parameter in inspect.signature(handler).parameters.values()
            if parameter.kind
            not in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
        ]
    except (TypeError, ValueError):  # some callables of C have none
        return []


def _disguised(hardened: Handler, handler: Handler) -> Handler:
    """Lets the SDK read the handler's name and type hints off the wrapper."""
    first = next((p.name for p in _parameters(handler) if p.name != "metadata"), "data")
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        with suppress(AttributeError):
            setattr(hardened, name, getattr(handler, name))
    hardened.__annotations__ = dict(getattr(handler, "__annotations__", {}))
    hardened.__wrapped__ = handler  # type: ignore[attr-defined]  # where hints find their globals
    hardened.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(first, kind), inspect.Parameter("metadata", kind, default=None)]
    )
    return hardened
