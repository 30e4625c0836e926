"""A FastAPI service that places orders through iii.

    python examples/fastapi_service.py --loopback            # an engine and a worker in the process
    III_URL=ws://127.0.0.1:49134 python examples/fastapi_service.py

Needs: pip install 'iii-resilience[iii,testing]' fastapi uvicorn
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from itertools import count
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse
from iii import InitOptions, InvocationError, register_worker

from iii_resilience import (
    Category,
    InvalidPayloadError,
    PayloadTooLargeError,
    classify,
    hint_for,
    load_policies,
    resilient,
)
from iii_resilience.handling import idempotent
from iii_resilience.stores import MemoryStore
from iii_resilience.testing import LoopbackEngine

POLICIES: dict[str, Any] = {
    "version": 1,
    "policies": {"interactive": {"attempts": 3, "deadline_ms": 5000}},
    "rules": [{"function": "orders::*", "policy": "interactive"}],
}


# [lifespan]
@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep one client for the life of the service."""
    options = InitOptions(worker_name="order-service")
    url = os.environ.get("III_URL", "ws://127.0.0.1:49134")
    client = await asyncio.to_thread(register_worker, url, options)  # it blocks
    app.state.orders = resilient(client, policies=load_policies(POLICIES))
    try:
        yield
    finally:
        await app.state.orders.shutdown_async()


app = FastAPI(lifespan=lifespan)
# [end]


# [route]
@app.post("/orders")
async def place(
    request: Request, order: dict[str, Any], idempotency_key: Annotated[str, Header(min_length=1)]
) -> Any:
    """Place an order; the key makes a repetition harmless."""
    return await request.app.state.orders.trigger_async(
        {"function_id": "orders::place", "payload": order},
        idempotent=True,
        idempotency_key=idempotency_key,
    )


# [end]


# [errors]
STATUS = {
    Category.TRANSIENT: 503,
    Category.AUTH: 403,
    Category.NOT_FOUND: 404,
    Category.PAYLOAD: 422,
    Category.PERMANENT: 502,
}


async def failed(_: Request, error: Exception) -> JSONResponse:
    """Turn a failed call into a status; the text of the error stays here."""
    failure, hint = classify(error), hint_for(error)
    headers = {}
    if failure.category is Category.TRANSIENT:
        seconds = hint.seconds if hint is not None and hint.seconds else 1
        headers["Retry-After"] = str(round(seconds) or 1)
    body = {"code": (failure.inner or failure).code}  # the handler's own, if any
    return JSONResponse(body, status_code=STATUS[failure.category], headers=headers)


# What a call through iii raises. Any other exception is a bug of the service: a 500.
for kind in (
    InvocationError,
    ConnectionError,
    TimeoutError,
    InvalidPayloadError,
    PayloadTooLargeError,
):
    app.add_exception_handler(kind, failed)
# [end]


@app.get("/health")
async def health(request: Request) -> JSONResponse:
    """Whether the service can place orders."""
    now = request.app.state.orders.health()
    good = now.connected and now.zombie is None
    return JSONResponse({"connected": now.connected}, status_code=200 if good else 503)


# [worker]
numbers = count(1)


@idempotent(MemoryStore())
def place_order(order: dict[str, Any]) -> dict[str, Any]:
    """Give an order its number; a repetition of its key gets the same one."""
    return {"number": next(numbers), "amount": order["amount"]}


# [end]


def loopback(stack: ExitStack) -> None:
    """Start an engine and a worker in this process."""
    engine = stack.enter_context(LoopbackEngine())
    os.environ["III_URL"] = engine.url
    worker = resilient(register_worker(engine.url, InitOptions(worker_name="order-worker")))
    stack.callback(worker.shutdown)
    worker.register_function("orders::place", place_order)
    engine.wait_registered("orders::place")


def main() -> None:
    """Run the service."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--loopback", action="store_true", help="start an engine and a worker")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    with ExitStack() as stack:
        if given.loopback:
            loopback(stack)
        uvicorn.run(app, host="127.0.0.1", port=given.port)


if __name__ == "__main__":
    main()
