"""The demo's callers: the same orders, once through the library and once without it.

Knows nothing of faults, nor of what the workers do with the orders.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import attrs
import tenacity

from iii_resilience.client.resilient import resilient
from iii_resilience.core.backoff import Backoff
from iii_resilience.core.policy import Enqueue, RetryPolicy

QUEUE = "demo-shipping"
_TIMEOUT_MS = 1500

POLICY = RetryPolicy(
    attempts=6,
    deadline=40.0,
    backoff=Backoff(base=0.1, cap=2.0, throttled_base=0.5),
    ready_timeout=12.0,  # a worker's start takes a second, and several on a busy machine
)
HAND_OVER = POLICY.replace(fallback=Enqueue(QUEUE), ready_timeout=0.5)
# A function that does not exist costs its first caller the whole wait; the demo need not show it.
NOT_THERE = POLICY.replace(ready_timeout=1.0)


NEEDS = "the demo needs three extras: pip install 'iii-resilience[iii,cli,testing]'"


class DemoError(Exception):
    """The demo cannot run; the message is one clear line."""


@attrs.frozen
class Order:
    """One call of the demo."""

    id: str
    kind: str
    function_id: str
    payload: dict[str, Any]
    idempotent: bool = True
    timeout_ms: int = _TIMEOUT_MS
    policy: RetryPolicy = POLICY
    expected: bool = True
    certain: bool = False

    @property
    def most(self) -> int:
        """How often the SDK may be handed it: the attempts, and the hand-over."""
        return self.policy.attempts + (self.policy.fallback is not None)

    def request(self) -> dict[str, Any]:
        """What the SDK takes."""
        if self.kind == "empty":
            return {"function_id": self.function_id, "timeout_ms": self.timeout_ms}
        return {
            "function_id": self.function_id,
            "payload": {**self.payload, "order": self.id},
            "timeout_ms": self.timeout_ms,
        }


class OrderCaller(Protocol):
    """Makes the call of an order, and returns its result or raises its error."""

    name: str

    def call(self, order: Order) -> Any:
        """From a thread."""

    async def call_async(self, order: Order) -> Any:
        """From a coroutine."""

    def close(self) -> None:
        """Shut the client down."""


class Counted:
    """The SDK's client, noting when it has each order in hand."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._attempts: dict[str, list[list[float]]] = defaultdict(list)

    def trigger(self, request: dict[str, Any]) -> Any:
        """As the SDK's."""
        with self._noting(request):
            return self._client.trigger(request)

    async def trigger_async(self, request: dict[str, Any]) -> Any:
        """As the SDK's."""
        with self._noting(request):
            return await self._client.trigger_async(request)

    def attempts(self, order_id: str) -> tuple[tuple[float, float], ...]:
        """Start and end of each time the SDK was handed an order."""
        return tuple((start, end) for start, end in self._attempts[order_id])

    @contextmanager
    def _noting(self, request: dict[str, Any]) -> Iterator[None]:
        payload = request.get("payload") or {}
        order_id = payload.get("order") or request["function_id"]
        attempt = [time.time(), math.inf]
        self._attempts[order_id].append(attempt)
        try:
            yield
        finally:
            attempt[1] = time.time()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class WithLibrary:
    """Calls through `resilient`."""

    name = "iii-resilience"

    def __init__(self, client: Counted) -> None:
        self._worker = resilient(client)

    def call(self, order: Order) -> Any:
        """From a thread."""
        return self._worker.trigger(order.request(), **self._options(order))

    async def call_async(self, order: Order) -> Any:
        """From a coroutine."""
        return await self._worker.trigger_async(order.request(), **self._options(order))

    def close(self) -> None:
        """Shut the client down."""
        self._worker.shutdown()

    def _options(self, order: Order) -> dict[str, Any]:
        return {
            "idempotent": order.idempotent,
            "policy": order.policy,
            "accept_enqueued": order.policy.fallback is not None,
        }


class WithTenacity:
    """Calls through a plain tenacity decorator around the SDK: what one writes without us."""

    name = "plain tenacity"

    def __init__(self, client: Counted) -> None:
        self._client = client
        decorator = tenacity.retry(
            stop=tenacity.stop_after_attempt(4),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=2.0),
            reraise=True,
        )

        @decorator
        def call(request: dict[str, Any]) -> Any:
            return client.trigger(request)

        @decorator
        async def call_async(request: dict[str, Any]) -> Any:
            return await client.trigger_async(request)

        self._call, self._call_async = call, call_async

    def call(self, order: Order) -> Any:
        """From a thread."""
        return self._call(order.request())

    async def call_async(self, order: Order) -> Any:
        """From a coroutine."""
        return await self._call_async(order.request())

    def close(self) -> None:
        """Shut the client down."""
        self._client.shutdown()


def connect(url: str, home: str) -> Any:
    """The demo's own client of the SDK.

    Raises:
        DemoError: The SDK is not installed.
    """
    try:
        from iii import InitOptions, register_worker  # noqa: PLC0415 - only the demo needs the SDK
        from iii.iii_constants import ReconnectionConfig  # noqa: PLC0415
    except ImportError:
        raise DemoError(NEEDS) from None
    before = os.environ.get("HOME")
    os.environ["HOME"] = home  # the SDK leaves a marker file in the home directory
    try:
        return register_worker(
            url,
            InitOptions(
                worker_name="demo-caller",
                otel={"enabled": False},
                # Back after the workers: what the SDK queued meanwhile finds its functions.
                reconnection_config=ReconnectionConfig(initial_delay_ms=500, max_delay_ms=800),
            ),
        )
    finally:
        if before is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = before


@contextmanager
def quiet_sdk() -> Iterator[None]:
    """While the demo runs: the connection comes and goes on purpose, and the SDK logs all of it."""
    logger = logging.getLogger("iii")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def check_reachable(url: str) -> None:
    """Find out at once whether an engine listens, instead of after the SDK's 30 s.

    Raises:
        DemoError: Nothing usable listens there.
    """
    try:
        from websockets.exceptions import InvalidURI  # noqa: PLC0415 - the testing extra
        from websockets.sync.client import connect as open_socket  # noqa: PLC0415
    except ImportError:
        raise DemoError(NEEDS) from None

    try:
        open_socket(url, open_timeout=3.0, close_timeout=1.0).close()
    except InvalidURI:
        raise DemoError(f"{url} is not a WebSocket address (ws://127.0.0.1:49134)") from None
    except Exception as error:
        raise DemoError(
            f"no engine listens at {url} ({error}). Start one there, or run the demo without "
            "--engine to use its own"
        ) from None
