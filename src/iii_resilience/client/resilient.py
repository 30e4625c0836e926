"""`resilient(worker)`: the wrapper that replaces the SDK's client in a user's program.

It joins the caller's and the worker's side, and passes everything else through to the SDK
unchanged. Knows nothing of how calls are made safe.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Self

from iii_resilience.client.trigger import Caller
from iii_resilience.config.book import PolicyBook
from iii_resilience.core.guards.concurrency_limit import Limit
from iii_resilience.core.policy import RetryPolicy
from iii_resilience.handling.hardening.capacity import SAME_AS_WORKER
from iii_resilience.handling.hardening.harden import Hardening
from iii_resilience.handling.health import Health
from iii_resilience.handling.registration.drain import Drained
from iii_resilience.handling.registration.drain_signal import drain_at
from iii_resilience.handling.registration.entries import Registration
from iii_resilience.handling.worker import Handlers
from iii_resilience.sdk.client_adapter import SdkClient
from iii_resilience.sdk.connection import Connection
from iii_resilience.sdk.event_loops import in_thread
from iii_resilience.sdk.observer_log import ObserverLog
from iii_resilience.sdk.shutdown import Shutdown

if TYPE_CHECKING:
    from iii_resilience.handling.relay.hand_over import RelayableStore


def resilient(
    worker: SdkClient,
    *,
    policies: PolicyBook | RetryPolicy | None = None,
    keep_registered: bool = False,
    max_result_bytes: int | None = None,
    clock_tolerance: float = 1.0,
    send_stack_traces: bool = False,
    limit: Limit | None = None,
    relay: RelayableStore | None = None,
) -> Resilient:
    """Make an SDK client's calls safe to retry, and the functions it serves safe to call.

    Args:
        worker: What ``iii.register_worker()`` returned.
        policies: A `PolicyBook` (from `load_policies`), one `RetryPolicy` for every function, or
            None for the process-wide default book.
        keep_registered: Whether functions that this worker serves are registered again when they
            have lost their owner: two workers with the same functions are then active and standby.
            It costs one small request a second.
        max_result_bytes: How large the message with a handler's result may be, in bytes of JSON;
            None for what the SDK can send. Set it to ``1 << 20`` while callers on SDK 0.24.4 or
            older exist: a larger one ends their connection.
        clock_tolerance: A handler is not started when its caller's deadline, or the time of the
            caller's attempt, has passed by more than this, in seconds.
        send_stack_traces: Whether the stack trace of a failed handler is sent to its caller, as
            the bare SDK does; without it the trace stays in this worker's log.
        limit: How many handlers this worker runs at once, or None for any number. All its
            functions share it, but those that are registered with a limit of their own.
        relay: A store whose outbox, and whose retries that wait, this worker hands to their queues
            while no other relay does; or None.

    Returns:
        An object to use in place of the client; what it does not change it passes through.

    Raises:
        TypeError: The worker is not a client of the SDK, or an argument is of a wrong type.
        ValueError: A limit or tolerance is out of range.
    """
    if isinstance(worker, Resilient):
        raise TypeError("this worker is already resilient: wrap the SDK's client once")
    if isinstance(policies, RetryPolicy):
        policies = PolicyBook({"default": policies})
    elif not (policies is None or isinstance(policies, PolicyBook)):
        raise TypeError(f"policies must be a PolicyBook or a RetryPolicy, got {policies!r}")
    if policies is not None:
        policies.register()
    how = Hardening(max_result_bytes, clock_tolerance, send_stack_traces, limit)
    if not isinstance(keep_registered, bool):
        raise TypeError(f"keep_registered must be True or False, got {keep_registered!r}")
    if not (relay is None or callable(getattr(relay, "relay_lock", None))):
        raise TypeError(
            "relay must be a store with messages to hand over (PostgresStore, SqliteStore, "
            f"RedisStore, MemoryStore), got {type(relay).__name__}"
        )
    return Resilient(worker, policies, how, keep_registered=keep_registered, relay=relay)


_PARTS = frozenset({"_connection", "_ending", "_caller", "_handlers", "_observers"})


class Resilient:
    """An SDK client whose calls wait, retry and give up as their policies say.

    Made by `resilient`; as a context manager it is shut down at the end. Any attribute that is not
    listed here is the SDK client's own.
    """

    def __init__(
        self,
        worker: SdkClient,
        policies: PolicyBook | None,
        how: Hardening,
        *,
        keep_registered: bool = False,
        relay: RelayableStore | None = None,
    ) -> None:
        self._connection = Connection(worker)
        self._ending = Shutdown(self._connection)
        self._observers = ObserverLog()
        self._caller = Caller(self._connection, policies)
        self._handlers = Handlers(
            self._connection, how, keep_registered=keep_registered, relay=relay
        )

    def trigger(
        self,
        request: Any,
        *,
        idempotent: bool | None = None,
        policy: str | RetryPolicy | None = None,
        idempotency_key: str | None = None,
        accept_enqueued: bool = False,
    ) -> Any:
        """Call a function through the engine.

        Args:
            request: A dict or TriggerRequest, as the SDK takes it; it is not changed.
            idempotent: Whether calling twice does what calling once does; None leaves it to the
                rule that covers the function, and without one the call is never repeated.
            policy: A policy for this call, or the name of one in the book; None for the one that
                the book's rules choose.
            idempotency_key: Stands for this call in all its attempts, and where it is handed
                over: `idempotent` handlers run it once. It alone does not make a call idempotent.
            accept_enqueued: Whether an `Enqueued` receipt may be returned in place of the result,
                where the policy has the fallback `Enqueue`.

        Returns:
            The function's result; the receipt for an ``Enqueue`` action; None for ``Void``; or an
            `Enqueued`.

        Raises:
            NotConnectedError: No connection within the policy's ``ready_timeout``; nothing was
                sent.
            ConnectionLostError: The connection went away under the call.
            InvalidPayloadError: The request cannot be sent as it is; nothing was sent.
            PayloadTooLargeError: The message would be too large; nothing was sent.
            Exception: The SDK's own exception of the last attempt, with its `report_for` and
                `hint_for`.
        """
        return self._caller.trigger(request, idempotent, policy, idempotency_key, accept_enqueued)

    async def trigger_async(
        self,
        request: Any,
        *,
        idempotent: bool | None = None,
        policy: str | RetryPolicy | None = None,
        idempotency_key: str | None = None,
        accept_enqueued: bool = False,
    ) -> Any:
        """As `trigger`, for coroutines on any event loop."""
        return await self._caller.trigger_async(
            request, idempotent, policy, idempotency_key, accept_enqueued
        )

    # The SDK renames them in 0.26.
    call = trigger
    call_async = trigger_async

    def register_function(
        self,
        function_id: str,
        handler_or_invocation: Any,
        *,
        limit: Limit | None = SAME_AS_WORKER,
        **options: Any,
    ) -> Any:
        """Serve a function, as the SDK's ``register_function`` does, with a hardened handler.

        Whatever the handler does, its caller gets an answer: `SystemExit`, `KeyboardInterrupt`
        and cancellations become errors of the call, a result that cannot be sent becomes a
        payload error, and a call whose caller has given up is not started. The handler's own
        calls through `resilient` inherit what is left of its caller's time.

        Args:
            function_id: The function's id.
            handler_or_invocation: The handler, plain or asynchronous, or the SDK's description
                of an HTTP-invoked function, which is passed on as it is.
            limit: How many handlers of this function run at once: a limit of its own, in place of
                that of the worker; None for any number. Without it the worker's applies.
            **options: What else this SDK takes (``description``, ``metadata``, ``request_format``,
                ``response_format``; ``observe`` and ``local_dispatch`` from 0.25 on).

        Returns:
            A reference with the function's ``id`` and ``unregister()``.

        Raises:
            TypeError: The limit is no `Limit`, or the function's handler runs elsewhere; and what
                the SDK raises.
        """
        return self._handlers.register_function(function_id, handler_or_invocation, limit, options)

    def register_trigger(self, trigger: Any) -> Any:
        """Bind a trigger to a function, as the SDK's ``register_trigger`` does.

        Args:
            trigger: A dict or the SDK's ``RegisterTriggerInput``.

        Returns:
            A reference with ``unregister()``. Where functions are kept registered, the trigger is
            registered again with its function.
        """
        return self._handlers.register_trigger(trigger)

    def registrations(self) -> tuple[Registration, ...]:
        """How each function and trigger that was registered through this object stands.

        With ``keep_registered`` it is what the keeper last saw, about a second ago at most.
        Without it the engine is queried now (not on the SDK's own thread, which must not block).
        """
        return self._handlers.registrations()

    def health(self, *, zombie_after: float = 10.0) -> Health:
        """How this worker fares.

        Args:
            zombie_after: How long the engine may leave a question unanswered, in seconds, before
                the connection is believed to be dead.
        """
        return self._handlers.health(zombie_after)

    def drain(self, timeout: float = 30.0) -> Drained:
        """Graceful shutdown: hand functions over, let running handlers end, shut down.

        The functions are unregistered, and a hot standby (``keep_registered`` on both workers)
        takes them over within milliseconds. Calls that are on their way here are still
        answered.

        Args:
            timeout: How long to wait for running handlers, in seconds.

        Returns:
            Who took over, and which handlers were still running.

        Raises:
            RuntimeError: Called on the SDK's own thread: use `drain_async`.
        """
        return self._handlers.drain(timeout, self.shutdown)

    async def drain_async(self, timeout: float = 30.0) -> Drained:  # noqa: ASYNC109 - as `drain`
        """As `drain`, from a coroutine on any event loop."""
        drained: list[Drained] = []
        await in_thread(lambda: drained.append(self.drain(timeout)))
        return drained[0]

    def drain_at_sigterm(self, timeout: float = 30.0) -> None:
        """From now on a SIGTERM drains this worker, and then ends the process with code 0.

        A handler that the program had set for SIGTERM is called afterwards instead.

        Args:
            timeout: As for `drain`; less than what the supervisor waits before it kills.

        Raises:
            ValueError: Called outside the main thread, where Python sets no signal handlers.
        """
        drain_at(signal.SIGTERM, lambda: self.drain(timeout))

    def shutdown(self) -> None:
        """End every wait with `NotConnectedError`, then shut the SDK's client down, once.

        Called again, or by two threads at once, it returns when the client has been shut down.

        Raises:
            RuntimeError: On the SDK's own thread, where it would wait for itself.
        """
        if self._connection.client.on_loop_thread:
            raise RuntimeError(
                "shutdown() was called on the SDK's own thread (an async handler, or a connection "
                "listener), where it would wait for itself. Use 'await worker.shutdown_async()'"
            )
        self._handlers.leave()
        self._ending.shut_down()

    async def shutdown_async(self) -> None:
        """As `shutdown`, from a coroutine on any event loop."""
        if self._connection.client.on_loop_thread:
            await in_thread(self._handlers.leave)
            await self._ending.shut_down_on_loop()
        else:
            await in_thread(self.shutdown)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown_async()

    def __getattr__(self, name: str) -> Any:
        if name in _PARTS:  # copying looks for them before they are made
            raise AttributeError(name)
        attribute = self._connection.client.attribute(name)
        return self._observers.reported(attribute) if name == "observe" else attribute

    def __repr__(self) -> str:
        return f"resilient({self._connection.client!r})"
